import assert from 'node:assert/strict';
import {
  chmodSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { test } from 'node:test';
import { StateError } from '../base/errors.ts';
import { hostSkeleton, hostSkeletonVersion } from './host-skeleton.ts';
import { type TreeEntry, writeTree } from './tree-entries.ts';

type Node = string | { readonly text: string; readonly mode: number } | { readonly to: string };

const MERGED: Readonly<Record<string, Node>> = {
  'usr/bin/bash': '#!',
  bin: { to: 'usr/bin' },
  sbin: { to: 'usr/sbin' },
  lib: { to: '/usr/lib' },
  lib64: { to: 'usr/lib64' },
};

function withHost(nodes: Readonly<Record<string, Node>>, body: (root: string) => void): void {
  const root = mkdtempSync(join(tmpdir(), 'vserver-host-'));
  try {
    for (const [path, node] of Object.entries(nodes)) write(root, path, node);
    body(root);
  } finally {
    rmSync(root, { recursive: true });
  }
}

function write(root: string, path: string, node: Node): void {
  const full = join(root, path);
  mkdirSync(dirname(full), { recursive: true });
  if (typeof node === 'object' && 'to' in node) {
    symlinkSync(node.to, full);
    return;
  }
  writeFileSync(full, typeof node === 'string' ? node : node.text);
  chmodSync(full, typeof node === 'string' ? 0o644 : node.mode);
}

function byPath(entries: readonly TreeEntry[]): ReadonlyMap<string, TreeEntry> {
  const map = new Map(entries.map((entry) => [entry.path, entry]));
  assert.equal(map.size, entries.length, 'each path once');
  return map;
}

test('takes from the host only what its list names and everybody may read', () => {
  const secret = { text: 'SECRET', mode: 0o640 };
  const nodes: Readonly<Record<string, Node>> = {
    ...MERGED,
    'etc/ld.so.cache': 'cache',
    'etc/ld.so.conf.d/x.conf': '/usr/lib/x',
    'etc/ld.so.conf.d/y.conf': secret,
    'etc/ld.so.conf.d/z.conf.bak': 'SECRET',
    'etc/services': { to: 'secret' },
    'etc/secret': secret,
    'etc/protocols': secret,
    'etc/shadow': secret,
    'etc/passwd': 'alice:x:1000:1000:SECRET:/home/alice:/bin/sh',
    'etc/hostname': 'SECRET',
    'etc/resolv.conf': 'nameserver SECRET',
    'etc/ssl/openssl.cnf': 'conf',
    'etc/ssl/private/key.pem': secret,
    'etc/ssl/certs/ca-certificates.crt': 'roots',
    'etc/ssl/certs/own.pem': 'SECRET',
    'etc/ssl/certs/A.pem': { to: '/usr/share/ca-certificates/A.crt' },
    'etc/ssl/certs/0123abcd.0': { to: 'A.pem' },
    'etc/ssl/certs/evil.pem': { to: '../private/key.pem' },
    'etc/ssl/certs/bad.pem': { to: '/usr/../root/key.pem' },
    'etc/ssh/ssh_host_key': 'SECRET',
    'etc/alternatives/awk': { to: '/usr/bin/mawk' },
    'etc/alternatives/mine': { to: '/root/SECRET' },
    'etc/alternatives/ls.1.gz': { to: '/usr/share/man/man1/ls.1.gz' },
    'etc/alternatives/file': 'SECRET',
    'etc/java-17-openjdk/security/java.security': 'java',
    'etc/java-17-openjdk/management/jmxremote.password': 'SECRET',
    'root/SECRET': secret,
    'etc/localtime': { to: '/usr/share/zoneinfo/Europe/Vienna' },
  };
  withHost(nodes, (root) => {
    chmodSync(join(root, 'etc/ssl/private'), 0o700);
    const tree = byPath(hostSkeleton(root));
    for (const entry of tree.values()) assert.doesNotMatch(JSON.stringify(entry), /SECRET/);
    const links = [...tree.values()].filter((entry) => entry.kind === 'link').map((entry) => entry.path);
    const alike = links.filter((path) => /alternatives|certs/.test(path)).sort();
    assert.deepEqual(alike, ['etc/alternatives/awk', 'etc/ssl/certs/0123abcd.0', 'etc/ssl/certs/A.pem']);
    for (const path of [
      'etc/ld.so.cache',
      'etc/ld.so.conf.d/x.conf',
      'etc/ssl/certs/ca-certificates.crt',
      'etc/java-17-openjdk/security/java.security',
    ]) {
      assert.equal(tree.get(path)?.kind, 'file', path);
    }
    assert.deepEqual(tree.get('lib'), { kind: 'link', path: 'lib', target: 'usr/lib' });
    assert.equal(tree.has('lib32'), false);
    assert.deepEqual(tree.get('etc/localtime'), {
      kind: 'link',
      path: 'etc/localtime',
      target: '/usr/share/zoneinfo/Europe/Vienna',
    });
  });
});

test('a directory that not everybody may enter hides what it holds', () => {
  withHost({ ...MERGED, 'etc/ssl/openssl.cnf': 'conf', 'etc/services': 'x' }, (root) => {
    assert.ok(byPath(hostSkeleton(root)).has('etc/ssl/openssl.cnf'));
    chmodSync(join(root, 'etc/ssl'), 0o750);
    assert.equal(byPath(hostSkeleton(root)).has('etc/ssl/openssl.cnf'), false);
  });
});

test('too big a file is left out', () => {
  withHost({ ...MERGED, 'etc/services': 'x'.repeat(1024 * 1024 + 1), 'etc/rpc': 'x' }, (root) => {
    const tree = byPath(hostSkeleton(root));
    assert.deepEqual([tree.has('etc/services'), tree.has('etc/rpc')], [false, true]);
  });
});

test('is written with exact modes', () => {
  withHost({ ...MERGED, 'etc/services': 'x' }, (root) => {
    const out = join(root, 'out');
    mkdirSync(out);
    writeTree(out, hostSkeleton(root));
    const modes = ['tmp', 'var/tmp', 'root', 'etc', 'etc/shadow', 'etc/passwd', 'etc/machine-id'].map(
      (path) => (lstatSync(join(out, path)).mode & 0o7777).toString(8),
    );
    assert.deepEqual(modes, ['1777', '1777', '700', '755', '640', '644', '444']);
    assert.match(readFileSync(join(out, 'etc/shadow'), 'utf8'), /^(?:[\w-]+:\*:[^\n]*\n)+$/);
    assert.match(readFileSync(join(out, 'etc/passwd'), 'utf8'), /^root:x:0:0:root:\/root:\/bin\/bash\n/);
  });
});

test('says which link of the root is missing', () => {
  for (const broken of ['bin', 'lib64'] as const) {
    const { [broken]: _gone, ...rest } = MERGED;
    withHost({ ...rest, [`${broken}/x`]: 'a directory of its own', 'etc/services': 'x' }, (root) => {
      assert.throws(
        () => hostSkeleton(root),
        (error) =>
          error instanceof StateError &&
          error.code === 'host-not-merged' &&
          error.message.includes(`"/${broken}"`),
      );
    });
  }
});

test('the version changes with what is copied, and with nothing else', () => {
  withHost(
    { ...MERGED, 'etc/ld.so.cache': 'a', 'etc/alternatives/awk': { to: '/usr/bin/mawk' }, 'etc/passwd': 'x' },
    (root) => {
      const first = hostSkeletonVersion(root);
      writeFileSync(join(root, 'etc/passwd'), 'more');
      writeFileSync(join(root, 'etc/.pwd.lock'), '');
      assert.equal(hostSkeletonVersion(root), first);
      writeFileSync(join(root, 'etc/ld.so.cache'), 'ab');
      const second = hostSkeletonVersion(root);
      assert.notEqual(second, first);
      symlinkSync('/usr/bin/vim', join(root, 'etc/alternatives/vi'));
      assert.notEqual(hostSkeletonVersion(root), second);
      writeFileSync(join(root, 'etc/services'), 'new');
      chmodSync(join(root, 'etc/services'), 0o600);
      assert.notEqual(hostSkeletonVersion(root), second);
    },
  );
});
