/** Directories of the host in several guests: whose files are whose, and what a guest leaves behind there. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { chmodSync, chownSync, lstatSync, mkdirSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { describe, test } from 'node:test';
import { type Instance, withInstance } from '../lib/instance.ts';
import { unmet } from '../lib/requires.ts';

const NEEDS = ['root', 'cgroup2', 'overlay', 'userns', 'busybox'] as const;
/** The range that belongs to no guest. */
const SHARED = 65_536;

/** Makes a directory that users of the host reach. */
function directory(v: Instance, name: string, owner: number, mode: number): string {
  const path = join(v.scratch, name);
  mkdirSync(path);
  chownSync(path, owner, owner);
  chmodSync(path, mode);
  for (let above = v.scratch; above !== '/tmp' && above !== '/'; above = dirname(above))
    chmodSync(above, 0o755);
  return path;
}

async function startGuest(
  v: Instance,
  name: string,
  volume: string,
  ...more: readonly string[]
): Promise<void> {
  await v.ok(['create', name, '--template', 'busybox', '-v', volume, ...more, '--', 'sleep', '1000']);
  await v.ok(['start', name]);
}

async function inGuest(v: Instance, name: string, script: string, user = '0'): Promise<string> {
  const { stdout, stderr } = await v.run(['exec', '-u', user, name, 'sh', '-c', script]);
  return `${stdout}${stderr}`;
}

describe('volumes', { skip: unmet(...NEEDS) }, () => {
  test('keep guests apart unless they are mapped, and then are one', async () => {
    await withInstance(async (v) => {
      const path = directory(v, 'plain', 0, 0o1777);
      const shared = directory(v, 'shared', SHARED, 0o755);
      for (const name of ['a', 'b']) {
        await startGuest(v, name, `${path}:/plain`, '-v', `${shared}:/shared:idmap=shared`);
      }
      // Everybody may write there, and has what he wrote for himself.
      await inGuest(v, 'a', 'umask 077; echo secret > /plain/a');
      assert.match(await inGuest(v, 'b', 'cat /plain/a'), /Permission denied/);
      assert.match(await inGuest(v, 'b', 'rm -f /plain/a; chown 0 /plain/a'), /not permitted/);
      assert.match(await inGuest(v, 'b', 'stat -c %u:%g /plain/a'), /^65534:65534/);
      // On purpose, all ids alike.
      await inGuest(v, 'a', 'umask 077; echo one > /shared/root; mkdir /shared/five; chown 5:6 /shared/five');
      assert.equal(await inGuest(v, 'b', 'echo two >> /shared/root; cat /shared/root'), 'one\ntwo\n');
      assert.equal(
        await inGuest(v, 'b', 'umask 077; id -u > /shared/five/x; chmod 640 /shared/five/x', '5:6'),
        '',
      );
      assert.equal(
        await inGuest(v, 'a', 'cat /shared/five/x; stat -c %u:%g /shared/five/x', '5:6'),
        '5\n5:6\n',
      );
      assert.match(await inGuest(v, 'a', 'cat /shared/five/x', '7:7'), /Permission denied/);
      const [{ xid, uid, gid }] = JSON.parse(await v.ok(['owner', '--json', join(shared, 'five/x')]));
      assert.deepEqual([xid, uid, gid], [0, SHARED + 5, SHARED + 6]);
      // Who has it without the map has a stranger's files.
      await startGuest(v, 'c', `${shared}:/shared`);
      assert.match(
        await inGuest(v, 'c', 'cat /shared/root; echo x > /shared/new'),
        /(Permission denied[\s\S]*){2}/,
      );
    });
  });

  test('can be those of another guest, for reading or nothing but data', async () => {
    await withInstance(async (v) => {
      const path = directory(v, 'data', 77 * 65_536, 0o700);
      await startGuest(v, 'a', `${path}:/data`, '--xid', '77');
      await inGuest(v, 'a', 'umask 077; echo one > /data/x; cp /bin/busybox /data/echo');
      await startGuest(v, 'b', `${path}:/data:ro,idmap=77`);
      assert.match(await inGuest(v, 'b', 'cat /data/x; echo y > /data/x'), /^one\n[\s\S]*Read-only/);
      const mount = `type=bind,source=${path},target=/data,noexec,idmap=77`;
      await v.ok(['create', 'c', '--template', 'busybox', '--mount', mount, '--', 'sleep', '1000']);
      await v.ok(['start', 'c']);
      assert.match(await inGuest(v, 'c', 'echo y > /data/x; /data/echo z'), /Permission denied/);
      assert.equal(await inGuest(v, 'a', 'cat /data/x; /data/echo z'), 'y\nz\n');
      assert.match(await inGuest(v, 'b', '/data/echo z'), /^z/);
      // A node of the host's leads to no device, though it is one that the guest has.
      assert.equal(spawnSync('mknod', ['-m', '666', join(path, 'null'), 'c', '1', '3']).status, 0);
      assert.match(
        await inGuest(v, 'a', 'echo x > /data/null; echo x > /dev/null'),
        /^\S*sh: .*Permission denied$/m,
      );
      for (const wrong of ['idmap=1', 'idmap=65535', 'idmap=x', 'suid'])
        assert.equal((await v.run(['run', '-v', `${path}:/data:${wrong}`, '--', 'true'])).code, 125, wrong);
    });
  });

  test('give no user of the host the rights of another by a setuid file', async () => {
    await withInstance(async (v) => {
      const shared = directory(v, 'shared', SHARED, 0o755);
      const volume = `${shared}:/shared:idmap=shared`;
      const options = ['--security-opt', 'no-new-privileges=false'];
      await v.ok(['create', 'a', '-v', volume, ...options, '--', 'sleep', '1000']);
      await v.ok(['start', 'a']);
      await inGuest(v, 'a', 'cp /usr/bin/id /usr/bin/cat /shared; chmod 6755 /shared/id /shared/cat');
      // In a guest it has no effect at all.
      assert.equal(await inGuest(v, 'a', '/shared/id -u', '5'), '5\n');
      const { uid, mode } = lstatSync(join(shared, 'id'));
      assert.deepEqual([uid, mode & 0o7777], [SHARED, 0o6755]);
      // On the host it is a file of nobody's, whose files are there alone.
      const probe = join(v.scratch, 'root-only');
      writeFileSync(probe, 'x', { mode: 0o600 });
      const onHost = (name: string, ...args: readonly string[]): string =>
        spawnSync(
          'setpriv',
          ['--reuid=65534', '--regid=65534', '--clear-groups', join(shared, name), ...args],
          { encoding: 'utf8' },
        ).stdout;
      assert.equal(onHost('id', '-u'), `${SHARED}\n`);
      assert.equal(onHost('cat', probe), '');
    });
  });
});
