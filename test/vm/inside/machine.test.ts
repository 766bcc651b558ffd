/** What the other tests rely on in the machine; runs nowhere else. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs';
import { test } from 'node:test';
import { mustRun, unmet } from '../../lib/requires.ts';

const options = { skip: process.env['VSERVER_TEST_VM'] === '1' ? false : 'needs the machine of the vm tier' };

test('the controllers belong to cgroup v2 and are enabled below its root', options, () => {
  const group = mkdtempSync('/sys/fs/cgroup/vserver-');
  try {
    const controllers = readFileSync(`${group}/cgroup.controllers`, 'utf8').trim().split(' ');
    assert.deepEqual(controllers.sort(), ['cpu', 'cpuset', 'io', 'memory', 'pids']);
    writeFileSync(`${group}/memory.max`, '67108864');
    assert.equal(readFileSync(`${group}/memory.max`, 'utf8'), '67108864\n');
  } finally {
    rmdirSync(group);
  }
});

test('/tmp keeps project quotas', options, () => {
  const [, , type, flags = ''] =
    readFileSync('/proc/mounts', 'utf8')
      .split('\n')
      .map((line) => line.split(' '))
      .find(([, path]) => path === '/tmp') ?? [];
  assert.equal(type, 'ext4');
  assert.ok(flags.split(',').includes('prjquota'), flags);
});

test('the kernel loads a module when it is asked for what it brings', options, () => {
  const directory = mkdtempSync('/tmp/machine-');
  mkdirSync(`${directory}/mnt`);
  // Not an erofs: the answer is EINVAL with the module and ENODEV without.
  spawnSync('mount', ['-t', 'erofs', '/dev/vda', `${directory}/mnt`]);
  assert.match(readFileSync('/proc/filesystems', 'utf8'), /\berofs\n/);
});

test('there is no network but lo', options, () => {
  assert.deepEqual(readdirSync('/sys/class/net'), ['lo']);
  assert.match(readFileSync('/proc/net/if_inet6', 'utf8'), /^0{31}1 /);
});

test('everything that the tests must not miss is there', options, () => {
  assert.notDeepEqual(mustRun(), []);
  assert.equal(unmet(...mustRun()), false);
});
