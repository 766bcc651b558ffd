/** Disk limits for real: what `df` shows in a guest, what happens at the limit, and when the limit changes. */
import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import {
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { loadAbi } from '../../src/sys/abi.ts';
import { showTree } from '../lib/guest-tree.ts';
import { eventually, type Instance, withInstance } from '../lib/instance.ts';
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

/** The file that is the guest's disk. */
function diskOf(v: Instance): string {
  const directory = join(v.root, 'lib/guests/a');
  const { files } = JSON.parse(readFileSync(join(directory, 'template.json'), 'utf8')) as { files: string };
  return join(directory, files, 'disk');
}

/** Bytes that it takes of the host. */
function takenBytes(v: Instance): number {
  return statSync(diskOf(v)).blocks * 512;
}

/** Runs a line of Python at the top of the disk of the guest, which is stopped. */
function onDisk(v: Instance, python: string): string {
  const script =
    'mount -t ext4 -o loop "$1" /mnt && cd /mnt && python3 -c "import os; $2"; cd / && umount /mnt';
  const { status, stdout, stderr } = spawnSync(
    'unshare',
    ['--mount', 'sh', '-c', script, 'sh', diskOf(v), python.replaceAll('"', "'")],
    {
      encoding: 'utf8',
    },
  );
  assert.equal(`${status}${stderr}`, '0');
  return stdout;
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
      // Not less, whether it runs or not, also by what is reserved, or when somebody writes it into the file.
      const small = /to \d+ bytes.*: found 2\d{7} bytes and \d+ inodes in use; need room for them/;
      for (const change of [['disk.space=12m'], ['disk.space=24m', 'disk.reserved=40']]) {
        const { code, stderr } = await v.run(['set', 'a', ...change]);
        assert.deepEqual([code, small.test(stderr)], [1, true], stderr);
      }
      await v.ok(['stop', '-t', '0', 'a']);
      assert.match((await v.run(['set', 'a', 'disk.space=12m'])).stderr, small);
      assert.match(await v.ok(['set', 'a']), /space: 48m/);
      const file = join(v.root, 'etc/guests/a.yaml');
      const config = readFileSync(file, 'utf8');
      writeFileSync(file, config.replace('48m', '12m'));
      const started = await v.run(['start', 'a']);
      assert.deepEqual([started.code, small.test(started.stderr)], [1, true], started.stderr);
      writeFileSync(file, config);
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

  test('let a guest that has taken all there is be started, copied and made shared', async () => {
    await withInstance(async (v) => {
      await create(v, '--disk', '16m', '--disk-inodes', '60');
      const look = 'find /srv -type f | sort | xargs md5sum | md5sum';
      const take =
        'mkdir /srv/d; i=0; while touch /srv/d/f$i 2>/dev/null; do i=$((i + 1)); done; ' +
        `dd if=/dev/zero of=/srv/d/f0 bs=4k 2>/dev/null; ${look}`;
      for (const times of [1, 2]) {
        const before = await v.ok(['exec', 'a', 'sh', '-c', take]);
        const { freeInodes, availableBytes } = await spaceIn(v, 'a');
        assert.ok(freeInodes === 0 && availableBytes < 64 * 1024, `${freeInodes} ${availableBytes}`);
        await v.ok(['stop', '-t', '0', 'a']);
        await v.ok(['start', 'a']);
        await v.ok(['snapshot', 'a', `running-${times}`]);
        await v.ok(['stop', '-t', '0', 'a']);
        await v.ok(['export', 'a', '-o', join(v.scratch, `a-${times}.tar`)]);
        await v.ok(['start', 'a']);
        assert.equal(await v.ok(['exec', 'a', 'sh', '-c', look]), before);
        await v.ok(['exec', 'a', 'sh', '-c', 'rm -r /srv/d; cp /bin/busybox /srv; rm /srv/busybox']);
      }
    });
  });

  test('by image: unify leaves a guest what is excluded, with all it has', async () => {
    await withInstance(async (v) => {
      await create(v, '--disk', '64m');
      const write =
        'head -c 300001 /dev/urandom > /etc/own; chmod 4751 /etc/own; chown 3:4 /etc/own; mkdir -p /var/log/deep; ' +
        'head -c 300002 /dev/urandom > /srv/shared; truncate -s 500000000 /var/log/deep/hole; echo x >> /var/log/deep/hole; ' +
        "touch -d '2001-02-03 04:05:06.789' /etc/own /var/log/deep /etc; sync";
      await v.ok(['exec', 'a', 'sh', '-c', write]);
      const before = await showTree(v, 'a');
      await v.ok(['stop', '-t', '0', 'a']);
      const [{ xid }] = JSON.parse(await v.ok(['inspect', 'a'])) as [{ xid: number }];
      const rootId = Buffer.alloc(4);
      rootId.writeUInt32LE(xid * 65_536);
      const capability = `0100000300040000000000000000000000000000${rootId.toString('hex')}`;
      onDisk(
        v,
        `os.setxattr("upper/etc/own", "user.note", b"mine"); os.setxattr("upper/etc/own", "security.capability", bytes.fromhex("${capability}"))`,
      );
      const [done] = JSON.parse(await v.ok(['unify', '--json', 'a'])) as [
        { state: string; ownBytes: number; keptBytes: number },
      ];
      assert.equal(done.state, 'done');
      assert.ok(done.ownBytes > 600_000 && done.keptBytes > 300_000, JSON.stringify(done));
      assert.ok(done.keptBytes < 600_000, JSON.stringify(done));
      const list = 'print(sorted(f for d, _, fs in os.walk("upper") for f in fs))';
      assert.match(onDisk(v, list), /'hole'.*'own'/);
      assert.doesNotMatch(onDisk(v, list), /shared/);
      const read =
        'p = "upper/etc/own"; print(os.getxattr(p, "user.note"), os.getxattr(p, "security.capability").hex())';
      assert.equal(onDisk(v, read), `b'mine' ${capability}\n`);
      await v.ok(['start', 'a']);
      assert.equal(await showTree(v, 'a'), before);
      close((await spaceIn(v, 'a')).totalBytes, 64 * MIB, 0.06);
      assert.ok(takenBytes(v) < 8 * MIB, String(takenBytes(v)));
    });
  });

  test('move with a guest to another xid', async () => {
    await withInstance(async (v) => {
      await create(v, '--disk', '32m', '--disk-inodes', '300');
      await v.ok([
        'exec',
        'a',
        'sh',
        '-c',
        'head -c 300000 /dev/urandom > /srv/own; chown 3:4 /srv/own; mkfifo /srv/pipe',
      ]);
      const before = await showTree(v, 'a');
      for (const xid of [4321, 4322]) {
        await v.ok(['stop', '-t', '0', 'a']);
        await v.ok(['retag', 'a', String(xid)]);
        assert.match(onDisk(v, 'print(os.stat("upper").st_uid)'), new RegExp(`^${xid * 65_536}$`, 'm'));
        await v.ok(['start', 'a']);
        assert.equal(await showTree(v, 'a'), before);
        close((await spaceIn(v, 'a')).totalBytes, 32 * MIB, 0.06);
      }
    });
  });

  test('are refused at once where they are not possible', async () => {
    await withInstance(async (v) => {
      await create(v, '--disk', '32m');
      await v.ok(['create', 'h', '--template', 'host', '--', 'sleep', '1000']);
      await v.ok(['start', 'h']);
      await v.ok(['exec', 'h', 'touch', '/srv/own']);
      for (const state of ['running', 'stopped']) {
        if (state === 'stopped') await v.ok(['stop', '-t', '0', 'a', 'h']);
        const quota = await v.run(['set', 'a', 'disk.method=quota']);
        assert.equal(quota.code, 1, state);
        assert.match(
          quota.stderr,
          /found no project quota in force .*; need ext4 or xfs mounted with prjquota/,
        );
        const late = await v.run(['set', 'h', 'disk.space=32m']);
        assert.equal(late.code, 1, state);
        assert.match(
          late.stderr,
          /found files of its own, and that it follows template "host"; need a clone/,
        );
        assert.doesNotMatch(await v.ok(['set', 'h']), /^disk:/m);
      }
      await v.ok(['start', 'a', 'h']);
      close((await spaceIn(v, 'a')).totalBytes, 32 * MIB, 0.06);
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

  test('wait for the driver of loop devices while somebody else has it loaded', async () => {
    // A device that nobody has fails as one does whose driver is not there yet.
    const hide =
      'mknod "$1" c 10 254 && mount --bind "$1" /dev/loop-control && echo hidden && exec sleep 1000';
    const home = mkdtempSync(join(tmpdir(), 'vserver-loop-'));
    const holder = spawn('unshare', ['--mount', 'sh', '-ec', hide, 'sh', join(home, 'absent')], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    try {
      await once(holder.stdout, 'data');
      const under = ['nsenter', '-t', String(holder.pid), '--mount'];
      await withInstance(
        async (v) => {
          await v.ok(['create', 'a', '--template', 'busybox', '--disk', '16m', '--', 'sleep', '1000']);
          const starting = v.run(['start', 'a']);
          await eventually('a worker that waits', () => sleepers(join(v.root, 'run'))[0]);
          const [program = '', ...words] = under;
          assert.equal(spawnSync(program, [...words, 'umount', '/dev/loop-control']).status, 0);
          assert.deepEqual(await starting, { code: 0, stdout: 'a\n', stderr: '' });
        },
        { under },
      );
    } finally {
      holder.kill('SIGKILL');
      rmSync(home, { recursive: true });
    }
  });
});

/** Processes in a directory that are in nanosleep(2). */
function sleepers(directory: string): readonly string[] {
  const { nanosleep } = loadAbi().syscalls;
  return readdirSync('/proc').filter((pid) => {
    try {
      return (
        readlinkSync(`/proc/${pid}/cwd`) === directory &&
        readFileSync(`/proc/${pid}/syscall`, 'latin1').startsWith(`${nanosleep} `)
      );
    } catch {
      return false; // no process, or one that has ended
    }
  });
}
