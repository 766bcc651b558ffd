/** Disk limits where the file system has project quotas, and images that grow while they are used; in the machine only. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, rmSync, statfsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import {
  eventually,
  type OpenInstance,
  type Outcome,
  openInstance,
  withInstance,
} from '../../lib/instance.ts';

const options = { skip: process.env['VSERVER_TEST_VM'] === '1' ? false : 'needs the machine of the vm tier' };
const MIB = 1024 * 1024;
/** One call of the client, in a machine that is emulated and may be one of several. */
const TIMEOUT_MS = 120_000;

describe('disk limits', options, () => {
  let v: OpenInstance;
  // One for all: a control plane takes many seconds to come up under emulation.
  before(async () => {
    v = await openInstance();
  });
  after(async () => await v.close());

  const run = async (...args: readonly string[]): Promise<Outcome> =>
    await v.run(args, { timeoutMs: TIMEOUT_MS });
  const ok = async (...args: readonly string[]): Promise<string> =>
    await v.ok(args, { timeoutMs: TIMEOUT_MS });
  const sh = async (name: string, script: string): Promise<string> =>
    await ok('exec', name, 'sh', '-c', script);

  async function start(name: string, ...settings: readonly string[]): Promise<void> {
    await ok('create', name, ...settings, '--template', 'busybox', '--', 'sleep', '1000');
    await ok('start', name);
  }

  /** What statfs(2) tells in a guest. */
  async function spaceIn(
    name: string,
  ): Promise<{ readonly total: number; readonly free: number; readonly inodes: number }> {
    const text = await ok('exec', name, 'stat', '-f', '-c', '%S %b %f %c', '/');
    const [size = 0, total = 0, free = 0, inodes = 0] = text.split(' ').map(Number);
    return { total: size * total, free: size * free, inodes };
  }

  /** Writes until nothing more goes, and deletes it again; returns the bytes. */
  async function fill(name: string): Promise<number> {
    const { stdout } = await run(
      'exec',
      name,
      'sh',
      '-c',
      'dd if=/dev/zero of=/srv/big bs=64k 2>&1; stat -c %s /srv/big; rm /srv/big',
    );
    assert.match(stdout, /quota exceeded|No space left/i);
    return Number(stdout.trim().split('\n').at(-1));
  }

  const placeOf = (name: string): string => join(v.root, 'lib/guests', name);

  /** The file that is the file system of a guest's own files, if any. */
  function imageOf(name: string): string | undefined {
    return readdirSync(placeOf(name))
      .map((entry) => join(placeOf(name), entry, 'disk'))
      .find(existsSync);
  }

  /** The project of a guest's own files. */
  function projectOf(name: string): number {
    const below = readdirSync(placeOf(name)).map((entry) => join(placeOf(name), entry, 'upper'));
    const upper = [join(placeOf(name), 'upper'), ...below].filter(existsSync);
    assert.equal(upper.length, 1);
    const { stdout } = spawnSync('lsattr', ['-pd', ...upper], { encoding: 'utf8' });
    return Number(stdout.trim().split(/\s+/)[0]);
  }

  /** Makes a directory of somebody else's that is of a project. */
  function theirsOf(project: number): string {
    const theirs = join(v.scratch, 'theirs');
    mkdirSync(theirs);
    assert.equal(spawnSync('chattr', ['+P', '-p', String(project), theirs]).status, 0);
    return theirs;
  }

  function sizeOf(path: string): number {
    const { bsize, blocks } = statfsSync(path);
    return bsize * blocks;
  }

  test('by quota: df shows it, it holds, and below it all is well again', async () => {
    await start('a', '--disk', '16m', '--disk-inodes', '100');
    assert.equal(imageOf('a'), undefined);
    const { total, inodes } = await spaceIn('a');
    assert.equal(total, 16 * MIB);
    close(inodes, 100, 0.05);
    close(await fill('a'), 16 * MIB, 0.05);
    await sh('a', 'cp /bin/busybox /srv/copy; cmp /bin/busybox /srv/copy; rm /srv/copy');
    const made = await run(
      'exec',
      'a',
      'sh',
      '-c',
      'i=0; while touch /srv/f$i; do i=$((i + 1)); done; ls /srv | wc -l',
    );
    close(Number(made.stdout.trim()), 100, 0.1);
    await sh('a', 'rm /srv/f*; head -c 7000000 /dev/urandom >/srv/own; md5sum /srv/own >/srv/sum');
  });

  test('by quota: changes hold at once, up, down, away and again; not below what is in use', async () => {
    for (const [change, bytes] of [
      [['disk.space=64m', '--unset', 'disk.inodes'], 64 * MIB],
      [['disk.reserved=25'], 48 * MIB],
      [['--unset', 'disk'], undefined],
      [['disk.space=12m'], 12 * MIB],
    ] as const) {
      const { code, stderr } = await run('set', 'a', ...change);
      assert.deepEqual([code, stderr], [0, ''], change.join(' '));
      const { total } = await spaceIn('a');
      if (bytes === undefined) assert.ok(total > 1024 * MIB);
      else assert.equal(total, bytes, change.join(' '));
    }
    const small = await run('set', 'a', 'disk.space=8m', 'disk.reserved=30');
    assert.equal(small.code, 1);
    assert.match(small.stderr, /bytes and \d+ inodes in use/);
    assert.equal((await spaceIn('a')).total, 12 * MIB);
    assert.match(await ok('set', 'a'), /space: 12m/);
  });

  test('by quota: each clone has its own, and a rollback keeps it', async () => {
    await ok('snapshot', 'a', 'one');
    await ok('clone', 'a', 'b');
    await ok('start', 'b');
    close(await fill('b'), 12 * MIB, 0.05);
    close((await spaceIn('a')).free, 12 * MIB - 7_000_000, 0.05);
    await ok('stop', '-t', '0', 'a', 'b');
    await ok('rollback', 'a', 'one');
    await ok('start', 'a');
    const { total, free } = await spaceIn('a');
    assert.equal(total, 12 * MIB);
    close(free, 12 * MIB, 0.05);
  });

  test('by quota: a guest that moves to another xid has its limit there, and its former project has none', async () => {
    await start('m', '--disk', '16m');
    await sh('m', 'head -c 3000000 /dev/urandom >/srv/own; md5sum /srv/own >/srv/sum');
    await ok('stop', '-t', '0', 'm');
    const former = projectOf('m');
    await ok('retag', 'm', '4321');
    const project = projectOf('m');
    assert.deepEqual([Math.floor(project / 65_536), project % 65_536], [4321, former % 65_536]);
    const theirs = theirsOf(former);
    assert.ok(sizeOf(theirs) > 1024 * MIB);
    rmSync(theirs, { recursive: true });
    await ok('start', 'm');
    const { total, free } = await spaceIn('m');
    assert.equal(total, 16 * MIB);
    close(free, 16 * MIB, 0.05); // what it had written is its image's
    await sh('m', 'md5sum -c /srv/sum');
    close(await fill('m'), 16 * MIB, 0.05);
    await ok('delete', '--force', 'm');
  });

  test('by quota: unify leaves a guest what is excluded, however full it is', async () => {
    // As in a container, whose root is held to quotas as any other user.
    const under = ['setpriv', '--bounding-set', '-sys_resource'];
    await withInstance(
      async (w) => {
        const run = async (...args: readonly string[]): Promise<string> =>
          await w.ok(args, { timeoutMs: TIMEOUT_MS });
        const limit = ['--disk', '16m', '--disk-inodes', '40'];
        await run('create', 'u', ...limit, '--template', 'busybox', '--', 'sleep', '1000');
        await run('start', 'u');
        const look = 'find /srv /etc -type f ! -name hosts | sort | xargs md5sum | md5sum';
        const fill =
          'cp /bin/busybox /etc/deep; : > /etc/zero; mkdir -p /etc/a/b /srv/a/b; cp /bin/busybox /etc/a/b; cp /bin/busybox /srv/a/b; ' +
          'i=0; while touch /srv/a/b/f$i 2>/dev/null; do i=$((i + 1)); done; dd if=/dev/zero of=/etc/zero bs=64k 2>/dev/null; ' +
          look;
        const before = await run('exec', 'u', 'sh', '-c', fill);
        await run('stop', '-t', '0', 'u');
        const [done] = JSON.parse(await run('unify', 'u', '--json')) as [{ keptBytes: number }];
        assert.ok(done.keptBytes > 10 * MIB, String(done.keptBytes));
        await run('start', 'u');
        assert.equal(await run('exec', 'u', 'sh', '-c', look), before);
        const [blocks = 0, free = 0] = (await run('exec', 'u', 'stat', '-f', '-c', '%b %f', '/'))
          .split(' ')
          .map(Number);
        assert.equal(blocks * 4096, 16 * MIB);
        // What has become the image's is not counted any more; what is kept is.
        assert.ok(free * 4096 < 3 * MIB, String(free));
        await run('exec', 'u', 'sh', '-c', 'touch /srv/a/b/more; rm /etc/zero');
      },
      { under },
    );
  });

  test('a quota becomes an image, which grows while the guest runs, and is a quota again, with all files', async () => {
    await ok('set', 'a', 'disk.space=24m');
    await sh('a', 'head -c 9000000 /dev/urandom >/srv/more; md5sum /srv/more >>/srv/sum');
    assert.match((await run('set', 'a', 'disk.method=image')).stderr, /next start/);
    await ok('stop', '-t', '0', 'a');
    await ok('start', 'a');
    assert.ok(imageOf('a'));
    await sh('a', 'head -c 9000000 /dev/urandom >/srv/third; md5sum /srv/third >>/srv/sum');
    const grown = await run('set', 'a', 'disk.space=300m');
    assert.deepEqual([grown.code, grown.stderr], [0, '']);
    close((await spaceIn('a')).total, 300 * MIB, 0.06);
    await sh('a', 'head -c 60000000 /dev/zero >/srv/zero; md5sum -c /srv/sum; rm /srv/zero');
    await ok('set', 'a', 'disk.method=quota');
    await ok('stop', '-t', '0', 'a');
    const image = imageOf('a') ?? '';
    await eventually('the image is free', () =>
      spawnSync('losetup', ['-j', image], { encoding: 'utf8' }).stdout === '' ? true : undefined,
    );
    const checked = spawnSync('e2fsck', ['-fn', image], { encoding: 'utf8' });
    assert.equal(checked.status, 0, checked.stdout);
    await ok('start', 'a');
    assert.equal(imageOf('a'), undefined);
    assert.equal((await spaceIn('a')).total, 300 * MIB);
    await sh('a', 'md5sum -c /srv/sum');
  });

  test('a project is no longer bounded when its guest is deleted, and is left to those who have it', async () => {
    const project = projectOf('b');
    const xid = Math.floor(project / 65_536);
    await ok('delete', 'b');
    const theirs = theirsOf(project);
    assert.ok(sizeOf(theirs) > 1024 * MIB);
    writeFileSync(join(theirs, 'file'), 'theirs');
    await start('c', '--xid', String(xid), '--disk', '64m');
    assert.ok(imageOf('c'));
    close((await spaceIn('c')).total, 64 * MIB, 0.06);
    rmSync(theirs, { recursive: true });
  });

  test('a guest cannot leave its project', async () => {
    await ok('create', 'h', '--disk', '16m', '--template', 'host', '--', 'sleep', '1000');
    await ok('start', 'h');
    for (const change of ['-p 0 /srv', '-P /srv']) {
      assert.notEqual((await run('exec', 'h', 'sh', '-c', `chattr ${change}`)).code, 0, change);
    }
    assert.match(await sh('h', 'mkdir /srv/d; lsattr -pd /srv/d'), /^\s*\d{6,} \S*P/);
    close(await fill('h'), 16 * MIB, 0.05);
  });
});

function close(found: number, wanted: number, part: number): void {
  assert.ok(Math.abs(found - wanted) <= wanted * part, `found ${found}; need ${wanted} ± ${part * 100} %`);
}
