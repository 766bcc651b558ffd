/** Trust domains for real: what guests of two have in common, and what would lead from one to the other. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { type Instance, withInstance } from '../lib/instance.ts';
import { unmet } from '../lib/requires.ts';

const NEEDS = ['root', 'cgroup2', 'overlay', 'userns', 'busybox'] as const;

interface StoreView {
  readonly trustDomains: readonly {
    readonly trustDomain: string;
    readonly objects: number;
    readonly faults: readonly unknown[];
    readonly deletedImages: readonly string[];
  }[];
}

function storeOf(v: Instance, domain: string): string {
  return join(v.root, 'lib/store', domain);
}

/** Paths of a store's objects, by their size. */
function objects(v: Instance, domain: string): ReadonlyMap<number, string> {
  const directory = join(storeOf(v, domain), 'layer/obj');
  const paths = readdirSync(directory, { recursive: true, encoding: 'utf8' }).map((name) =>
    join(directory, name),
  );
  return new Map(paths.filter((path) => statSync(path).isFile()).map((path) => [statSync(path).size, path]));
}

/** Which files on disk a store consists of. */
function inodes(v: Instance, domain: string): readonly string[] {
  const directory = storeOf(v, domain);
  return readdirSync(directory, { recursive: true, encoding: 'utf8' }).map((name) => {
    const { dev, ino, nlink } = statSync(join(directory, name));
    assert.ok(statSync(join(directory, name)).isDirectory() || nlink === 1, name);
    return `${dev}:${ino}`;
  });
}

async function create(v: Instance, name: string, domain: string | undefined): Promise<void> {
  const options = domain === undefined ? [] : ['--trust-domain', domain];
  await v.ok(['create', name, '--template', 'busybox', ...options, '--', 'sleep', '1000']);
}

async function refused(v: Instance, args: readonly string[], expected: RegExp, exit = 2): Promise<void> {
  const { code, stderr } = await v.run(args);
  assert.deepEqual([code, expected.exec(stderr) && 'said'], [exit, 'said'], stderr);
}

async function view(v: Instance, ...args: readonly string[]): Promise<StoreView['trustDomains']> {
  return (JSON.parse(await v.ok(['store', ...args, '--json'])) as StoreView).trustDomains;
}

function cachedBytes(path: string): number {
  return Number(spawnSync('fincore', ['-n', '-b', '-o', 'RES', path], { encoding: 'utf8' }).stdout);
}

function dropCache(path: string): void {
  assert.equal(spawnSync('dd', [`if=${path}`, 'iflag=nocache', 'count=0', 'status=none']).status, 0);
}

describe('trust domains', { skip: unmet(...NEEDS) }, () => {
  test('have no file in common, on disk or in memory; guests of one have one', async () => {
    await withInstance(async (v) => {
      for (const [name, domain] of [
        ['a1', 'tenant-a'],
        ['a2', 'tenant-a'],
        ['b', 'tenant-b'],
        ['c', undefined],
      ] as const) {
        await create(v, name, domain);
        await v.ok(['start', name]);
        // Not the same size in any two files: that is how they are found.
        await v.ok([
          'exec',
          name,
          'sh',
          '-c',
          'head -c 1234567 /bin/busybox > /srv/same; cp /srv/same /root/',
        ]);
        await v.ok(['stop', '-t', '0', name]);
        await v.ok(['unify', name]);
      }
      const all = ['default', 'tenant-a', 'tenant-b'];
      assert.deepEqual(readdirSync(join(v.root, 'lib/store')).sort(), all);
      const files = all.flatMap((domain) => inodes(v, domain));
      assert.equal(new Set(files).size, files.length);
      const [inDefault = '', inA = '', inB = ''] = all.map(
        (domain) => objects(v, domain).get(1_234_567) ?? '',
      );
      for (const path of [inDefault, inA, inB]) assert.ok(existsSync(path));
      for (const name of ['a1', 'a2', 'b', 'c']) await v.ok(['start', name]);
      for (const path of [inDefault, inA, inB]) {
        dropCache(path);
        assert.equal(cachedBytes(path), 0);
      }
      // Both guests of the domain read pages of the same inode, and nobody else does.
      for (const name of ['a1', 'a2']) {
        dropCache(inA);
        await v.ok(['exec', name, 'cat', '/srv/same']);
        assert.ok(cachedBytes(inA) >= 1_234_567, name);
        assert.deepEqual([cachedBytes(inDefault), cachedBytes(inB)], [0, 0]);
      }
      const usages = JSON.parse(await v.ok(['du', '--json'])) as { name: string; aloneBytes: number }[];
      assert.deepEqual(
        usages.map(({ name, aloneBytes }) => [name, aloneBytes > 1_000_000]),
        [
          ['a1', false],
          ['a2', false],
          ['b', true],
          ['c', true],
        ],
      );
    });
  });

  test('no copy of a guest leads to another domain, and no configuration', async () => {
    await withInstance(async (v) => {
      await create(v, 'a', 'tenant-a');
      const fixed = /found its files in "tenant-a"; need vserver export/;
      await refused(v, ['clone', 'a', 'x', 'trustDomain=tenant-b'], fixed);
      await refused(v, ['build', 'x', '-m', 'clone', '--trust-domain', 'tenant-b', '--', 'a'], fixed);
      await refused(v, ['set', 'a', 'trustDomain=tenant-b'], fixed);
      await refused(v, ['set', 'a', '--unset', 'trustDomain'], fixed);
      assert.deepEqual(readdirSync(join(v.root, 'lib/store')), ['tenant-a']);
      assert.deepEqual(readdirSync(join(v.root, 'lib/guests')), ['a']);
      // What an editor may write in the file is refused where it would count.
      const path = join(v.root, 'etc/guests/a.yaml');
      const text = readFileSync(path, 'utf8');
      writeFileSync(path, text.replace('trustDomain: tenant-a', 'trustDomain: tenant-b'));
      await v.ok(['daemon', 'stop']);
      for (const args of [
        ['start', 'a'],
        ['snapshot', 'a'],
        ['unify', 'a'],
        ['clone', 'a', 'x'],
        ['export', 'a', '-o', join(v.scratch, 'a.tar')],
        ['retag', 'a', '4242'],
        ['diff', 'a'],
      ])
        await refused(v, args, /found its files in "tenant-a"/);
      writeFileSync(path, text);
      await v.ok(['daemon', 'stop']);
      // A clone, a snapshot and a retagged guest stay where they are.
      await v.ok(['snapshot', 'a', 'one']);
      await v.ok(['clone', 'a', 'twin']);
      await v.ok(['retag', 'a', '4242']);
      await v.ok(['rollback', 'a', 'one']);
      await v.ok(['start', 'a', 'twin']);
      assert.deepEqual(readdirSync(join(v.root, 'lib/store')), ['tenant-a']);
      assert.deepEqual(
        (await view(v, 'check')).map(({ trustDomain, objects, faults }) => [
          trustDomain,
          objects > 0,
          faults,
        ]),
        [
          ['default', false, []],
          ['tenant-a', true, []],
        ],
      );
      // By an archive a guest moves, and only where the operator says so.
      const archive = join(v.scratch, 'a.tar');
      await v.ok(['export', '--snapshots', 'a', '-o', archive]);
      await refused(v, ['import', archive, 'moved'], /reaches the host by trustDomain: tenant-a/, 1);
      await v.ok(['import', archive, 'moved', 'trustDomain=tenant-b']);
      await v.ok(['rollback', 'moved', 'one']);
      await v.ok(['start', 'moved']);
      const [moved] = JSON.parse(await v.ok(['inspect', 'moved'])) as [{ trustDomain: string }];
      assert.equal(moved.trustDomain, 'tenant-b');
      assert.equal((await view(v, 'stat', '--trust-domain', 'tenant-b'))[0]?.faults.length, 0);
    });
  });

  test('a configuration written by hand counts from the first start', async () => {
    await withInstance(async (v) => {
      await v.ok(['daemon', 'start']);
      const path = join(v.root, 'etc/guests/hand.yaml');
      const text = 'template: busybox\ncommand: [sleep, "1000"]\ntrustDomain: tenant-a\n';
      writeFileSync(path, text);
      await v.ok(['start', 'hand']);
      await v.ok(['exec', 'hand', 'touch', '/srv/x']);
      await v.ok(['stop', '-t', '0', 'hand']);
      assert.deepEqual(readdirSync(join(v.root, 'lib/store')), ['tenant-a']);
      await v.ok(['clone', 'hand', 'twin']);
      writeFileSync(path, text.replace('tenant-a', 'tenant-b'));
      await refused(v, ['start', 'hand'], /found its files in "tenant-a"/);
      // Another with nothing of its own yet is free to be of another.
      await v.ok(['create', 'free', '--', 'true']);
      await v.ok(['set', 'free', 'trustDomain=tenant-b']);
      await v.ok(['clone', 'free', 'other']);
      await refused(v, ['set', 'other', 'trustDomain=tenant-a'], /found its files in "tenant-b"/);
    });
  });

  test('builds add to the store of their domain; gc deletes that of a domain without guests', async () => {
    await withInstance(async (v) => {
      const tree = join(v.scratch, 'tree');
      assert.equal(spawnSync('sh', ['-c', `mkdir -p ${tree}/etc && echo x > ${tree}/etc/file`]).status, 0);
      await v.ok([
        'build',
        'a',
        '-m',
        'directory',
        '--trust-domain',
        'tenant-a',
        '--command',
        'x',
        '--',
        tree,
      ]);
      await v.ok(['run', '--rm', '--template', 'busybox', '--trust-domain', 'tenant-b', '--', 'true']);
      await create(v, 'c', undefined);
      assert.equal(objects(v, 'tenant-a').size, 1);
      await refused(v, ['store', 'gc', '--trust-domain', 'tenant-x'], /found default, tenant-a, tenant-b/);
      // What one domain has is nothing to another: the image of the guest in tenant-a is no template there.
      const [image = ''] = readdirSync(join(storeOf(v, 'tenant-a'), 'images'));
      await refused(
        v,
        ['create', 'x', '--template', image.replace('.erofs', ''), '--trust-domain', 'tenant-b', '--', 'x'],
        /found no such tree or image/,
      );
      const dry = await view(v, 'gc', '--dry-run');
      assert.deepEqual(
        dry.map(({ deletedImages }) => deletedImages.length),
        [0, 0, 1],
      );
      await v.ok(['store', 'gc']);
      assert.deepEqual(readdirSync(join(v.root, 'lib/store')).sort(), ['default', 'tenant-a']);
      // Made anew at once, though it was known a moment ago.
      await v.ok(['run', '--rm', '--template', 'busybox', '--trust-domain', 'tenant-b', '--', 'true']);
      await v.ok(['delete', 'a']);
      await v.ok(['store', 'gc', '--trust-domain', 'tenant-a']);
      assert.deepEqual(readdirSync(join(v.root, 'lib/store')).sort(), ['default', 'tenant-b']);
      await v.ok(['start', 'c']);
    });
  });
});
