import assert from 'node:assert/strict';
import { test } from 'node:test';
import { UserError } from '../base/errors.ts';
import type { BuildSource } from '../guest/builds.ts';
import { type BuildMethod, parseMethodWords } from './build-options.ts';
import { configValuesOf, createOptionsOf } from './config-values.ts';
import { parseCommandLine } from './parse.ts';

function sourceOf(method: BuildMethod, words: string, ownInit = false): BuildSource {
  return parseMethodWords(method, words === '' ? [] : words.split(' '), '/cwd', ownInit).source;
}

test('the words of each method', () => {
  assert.deepEqual(sourceOf('skeleton', ''), { kind: 'template', name: 'skeleton' });
  assert.deepEqual(sourceOf('template', '-t a.tar'), { kind: 'template', name: 'tarball:/cwd/a.tar' });
  assert.deepEqual(sourceOf('template', '/a.tar -d x -t b.tar'), {
    kind: 'archives',
    paths: ['/cwd/b.tar', '/a.tar'],
  });
  assert.deepEqual(sourceOf('clone', '-s web'), { kind: 'clone', name: 'web' });
  assert.deepEqual(sourceOf('directory', '../tree'), { kind: 'directory', path: '/tree' });
  assert.deepEqual(sourceOf('rsync', '-s me@host:/tree -o -z'), {
    kind: 'rsync',
    source: 'me@host:/tree',
    options: ['-z'],
  });
  assert.deepEqual(sourceOf('rsync', 'tree'), { kind: 'rsync', source: '/cwd/tree', options: [] });
});

test('an image has its transport, or is guessed by how it is written', () => {
  const reference = (text: string): unknown => Reflect.get(sourceOf('oci', text), 'reference');
  assert.equal(reference('nginx:1.27'), 'docker://nginx:1.27');
  assert.equal(reference('docker://host:5000/a/b:c'), 'docker://host:5000/a/b:c');
  assert.equal(reference('./layout:tag'), 'oci:/cwd/layout:tag');
  assert.equal(reference('/layout'), 'oci:/layout');
  assert.equal(reference('docker-archive:a.tar'), 'docker-archive:/cwd/a.tar');
  assert.equal(reference('oci-archive:/a.tar:tag'), 'oci-archive:/a.tar:tag');
  const source = sourceOf('oci', 'x --platform linux/arm/v7 --tls-verify=false');
  assert.deepEqual(source, {
    kind: 'oci',
    reference: 'docker://x',
    platform: { os: 'linux', architecture: 'arm', variant: 'v7' },
    tlsVerify: false,
  });
});

test('Debian has an init if the guest is to have one of its own', () => {
  const include = (words: string, ownInit: boolean): unknown =>
    Reflect.get(sourceOf('debootstrap', words, ownInit), 'include');
  assert.deepEqual(include('-d bookworm', false), []);
  assert.deepEqual(include('-d bookworm --include a,b --include dbus', true), [
    'systemd-sysv',
    'dbus',
    'a',
    'b',
  ]);
  assert.deepEqual(sourceOf('mmdebstrap', 'trixie -m http://m/d --variant apt --components main,contrib'), {
    kind: 'debian',
    suite: 'trixie',
    mirror: 'http://m/d',
    variant: 'apt',
    include: [],
    components: ['main', 'contrib'],
    keyring: '/usr/share/keyrings/debian-archive-keyring.gpg',
  });
});

test('wrong words are refused', () => {
  const wrong: readonly (readonly [BuildMethod, string])[] = [
    ['skeleton', 'x'],
    ['template', ''],
    ['template', '-x y'],
    ['directory', 'a b'],
    ['clone', ''],
    ['oci', ''],
    ['oci', 'a b'],
    ['oci', 'a --platform linux'],
    ['debootstrap', ''],
    ['debootstrap', '-d -evil'],
    ['debootstrap', '-d ../x'],
    ['debootstrap', '-d bookworm --include -o'],
    ['debootstrap', '-d bookworm --include ?essential'],
    ['debootstrap', '-d bookworm -m file:/x'],
    ['debootstrap', '-d bookworm --variant huge'],
  ];
  for (const [method, words] of wrong)
    assert.throws(
      () => sourceOf(method, words),
      (error) => error instanceof UserError && error.code === 'usage',
      `${method} ${words}`,
    );
});

test("Linux-VServer's options stand behind ours", () => {
  const parsed = parseCommandLine(
    'web build -m skeleton --context 42 --hostname h --netdev lo --interface a=eth1:10.0.0.5/255.255.255.0 --interface nodev:10.0.0.6 --initstyle plain --flags virt_mem,lock'.split(
      ' ',
    ),
  );
  assert.ok(parsed.verb === 'build');
  const { xid, hostname, network, init } = configValuesOf(createOptionsOf(parsed.options), [], {}, '/');
  assert.deepEqual(
    { xid, hostname, network, init },
    {
      xid: 42,
      hostname: 'h',
      network: { addresses: ['10.0.0.5/24', '10.0.0.6/32'], interface: 'lo' },
      init: 'own',
    },
  );
});

test('a wall clock of its own is refused with the reason', () => {
  assert.throws(
    () => parseCommandLine('web build -m skeleton --flags virt_mem,virt_time'.split(' ')),
    /"virt_time": found no kernel that gives a guest a wall clock of its own/,
  );
});
