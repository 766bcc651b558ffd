/** Disk limits for real: what `df` shows in a guest, what happens at the limit, and when the limit changes. */
import assert from 'node:assert/strict';
import { readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { type Instance, withInstance } from '../lib/instance.ts';
import { unmet } from '../lib/requires.ts';

const MIB = 1024 * 1024;

interface Space {
  readonly totalBytes: number;
  readonly freeBytes: number;
  readonly availableBytes: number;
  readonly inodes: number;
  readonly freeInodes: number;
}

/** What statfs(2) tells in the guest. */
async function spaceIn(v: Instance, name: string): Promise<Space> {
  const text = await v.ok(['exec', name, 'stat', '-f', '-c', '%S %b %f %a %c %d', '/']);
  const [size = 0, total = 0, free = 0, available = 0, inodes = 0, freeInodes = 0] = text
    .split(' ')
    .map(Number);
  return {
    totalBytes: size * total,
    freeBytes: size * free,
    availableBytes: size * available,
    inodes,
    freeInodes,
  };
}

async function create(v: Instance, ...options: readonly string[]): Promise<void> {
  await v.ok(['create', 'a', '--template', 'busybox', ...options, '--', 'sleep', '1000']);
  await v.ok(['start', 'a']);
}

/** Writes until nothing more goes; returns bytes written and what the kernel said. */
async function fill(v: Instance, path: string): Promise<{ readonly bytes: number; readonly said: string }> {
  const { stdout } = await v.run([
    'exec',
    'a',
    'sh',
    '-c',
    `dd if=/dev/zero of=${path} bs=64k 2>&1; stat -c %s ${path}`,
  ]);
  return { bytes: Number(stdout.trim().split('\n').at(-1)), said: stdout };
}

function close(found: number, wanted: number, part: number): void {
  assert.ok(Math.abs(found - wanted) <= wanted * part, `found ${found}; need ${wanted} ± ${part * 100} %`);
}

/** Bytes that the guest's disk takes of the host. */
function takenBytes(v: Instance): number {
  const directory = join(v.root, 'lib/guests/a');
  const { files } = JSON.parse(readFileSync(join(directory, 'template.json'), 'utf8')) as { files: string };
  return statSync(join(directory, files, 'disk')).blocks * 512;
}

describe('disk limits', { skip: unmet('root', 'cgroup2', 'overlay', 'userns', 'busybox') }, () => {
  test('of space: df shows them, ENOSPC comes there, and what is deleted is free again', async () => {
    await withInstance(async (v) => {
      await create(v, '--disk', '64m');
      const before = await spaceIn(v, 'a');
      close(before.totalBytes, 64 * MIB, 0.03);
      assert.ok(takenBytes(v) < 8 * MIB, String(takenBytes(v)));
      const { bytes, said } = await fill(v, '/srv/big');
      assert.match(said, /No space left/);
      close(bytes, 64 * MIB, 0.05);
      assert.ok((await v.run(['exec', 'a', 'cp', '/bin/busybox', '/srv/copy'])).code !== 0);
      await v.ok([
        'exec',
        'a',
        'sh',
        '-c',
        'rm /srv/big /srv/copy; sync; cp /bin/busybox /srv/copy && cmp /bin/busybox /srv/copy',
      ]);
      const after = await spaceIn(v, 'a');
      close(after.freeBytes, before.freeBytes, 0.05);
      await v.ok(['stop', '-t', '0', 'a']);
      await v.ok(['start', 'a']);
      await v.ok(['exec', 'a', 'cmp', '/bin/busybox', '/srv/copy']);
      assert.ok(takenBytes(v) < 16 * MIB, `deleted space did not come back: ${takenBytes(v)}`);
    });
  });

  test('of files, and a part that is for nobody', async () => {
    await withInstance(async (v) => {
      await create(v, '--disk', '64m', '--disk-inodes', '200');
      await v.ok(['stop', '-t', '0', 'a']);
      await v.ok(['set', 'a', 'disk.reserved=25']);
      await v.ok(['start', 'a']);
      const { freeInodes, availableBytes, totalBytes } = await spaceIn(v, 'a');
      assert.ok(freeInodes >= 190 && freeInodes <= 230, String(freeInodes));
      close(availableBytes, 0.75 * totalBytes, 0.05);
      const made = await v.run([
        'exec',
        'a',
        'sh',
        '-c',
        'i=0; while touch /srv/f$i; do i=$((i + 1)); done; ls /srv | wc -l',
      ]);
      assert.match(made.stderr, /No space left/);
      close(Number(made.stdout.trim()), freeInodes, 0.1);
      await v.ok(['exec', 'a', 'sh', '-c', 'rm /srv/f*']);
      const { bytes } = await fill(v, '/srv/big');
      close(bytes, availableBytes, 0.05);
    });
  });

  test('change: more, less than before but enough, not less than what is there', async () => {
    await withInstance(async (v) => {
      await create(v, '--disk', '64m');
      await v.ok([
        'exec',
        'a',
        'sh',
        '-c',
        'head -c 20000000 /dev/urandom > /srv/own; md5sum /srv/own > /srv/sum',
      ]);
      for (const [size, bytes] of [
        ['256m', 256 * MIB],
        ['48m', 48 * MIB],
      ] as const) {
        await v.ok(['set', 'a', `disk.space=${size}`]);
        await v.ok(['stop', '-t', '0', 'a']);
        await v.ok(['start', 'a']);
        close((await spaceIn(v, 'a')).totalBytes, bytes, 0.06);
        await v.ok(['exec', 'a', 'md5sum', '-c', '/srv/sum']);
      }
      await v.ok(['stop', '-t', '0', 'a']);
      await v.ok(['set', 'a', 'disk.space=12m']);
      const small = await v.run(['start', 'a']);
      assert.equal(small.code, 1);
      assert.match(small.stderr, /resize2fs/);
      await v.ok(['set', 'a', 'disk.space=48m']);
      await v.ok(['start', 'a']);
      await v.ok(['exec', 'a', 'md5sum', '-c', '/srv/sum']);
    });
  });

  test('come to a guest that has files already, and go again', async () => {
    await withInstance(async (v) => {
      await create(v);
      await v.ok([
        'exec',
        'a',
        'sh',
        '-c',
        'head -c 3000000 /dev/urandom > /srv/own; md5sum /srv/own > /srv/sum',
      ]);
      for (const setting of [['disk.space=32m'], ['disk.inodes=500'], ['--unset', 'disk']]) {
        await v.ok(['stop', '-t', '0', 'a']);
        await v.ok(['set', 'a', ...setting]);
        await v.ok(['start', 'a']);
        await v.ok(['exec', 'a', 'md5sum', '-c', '/srv/sum']);
        const { totalBytes } = await spaceIn(v, 'a');
        if (setting[0] === '--unset') assert.ok(totalBytes > 1024 * MIB);
        else close(totalBytes, 32 * MIB, 0.06);
      }
      assert.equal(
        readdirSync(join(v.root, 'lib/guests/a')).filter((name) => name.startsWith('files-')).length,
        1,
      );
    });
  });

  test('hold for guests that are clones, have snapshots, or go with their run', async () => {
    await withInstance(async (v) => {
      await create(v, '--disk', '32m');
      await v.ok(['exec', 'a', 'sh', '-c', 'echo first > /srv/file']);
      await v.ok(['snapshot', 'a', 'live']);
      await v.ok(['clone', 'a', 'b']);
      await v.ok(['exec', 'a', 'sh', '-c', 'echo second > /srv/file']);
      await v.ok(['stop', '-t', '0', 'a']);
      await v.ok(['clone', 'a', 'c']);
      await v.ok(['rollback', 'a', 'live']);
      await v.ok(['start', 'a', 'b', 'c']);
      const files = await Promise.all(
        ['a', 'b', 'c'].map((name) => v.ok(['exec', name, 'cat', '/srv/file'])),
      );
      assert.deepEqual(files, ['first\n', 'first\n', 'second\n']);
      for (const name of ['a', 'b', 'c']) close((await spaceIn(v, name)).totalBytes, 32 * MIB, 0.06);
      const { stdout } = await v.run([
        'run',
        '--rm',
        '--disk',
        '16m',
        '--disk-inodes',
        '300',
        '--template',
        'busybox',
        '--',
        'stat',
        '-f',
        '-c',
        '%S %b %c',
        '/',
      ]);
      const [size = 0, blocks = 0, inodes = 0] = stdout.split(' ').map(Number);
      assert.deepEqual([size * blocks, inodes], [16 * MIB, 300]);
    });
  });

  test('find a user by name in the files on a disk of their own', async () => {
    await withInstance(async (v) => {
      await create(v, '--disk', '32m');
      await v.ok(['exec', 'a', 'sh', '-c', 'echo mine:x:77:88::/srv:/bin/sh >> /etc/passwd']);
      await v.ok(['stop', '-t', '0', 'a']);
      await v.ok(['set', 'a', 'user=mine', 'command=[sh, -c, "id -u; sleep 1000"]']);
      await v.ok(['start', 'a']);
      assert.equal((await v.ok(['exec', 'a', 'id', '-u'])).trim(), '77');
    });
  });
});
