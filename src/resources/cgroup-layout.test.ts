import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { discoverCgroups, instanceCgroupName } from './cgroup-layout.ts';

const fixture = (name: string): string =>
  readFileSync(new URL(`../../test/fixtures/cgroup/${name}`, import.meta.url), 'utf8');

test('finds controllers on separate v1 hierarchies beside an empty cgroup2 tree', () => {
  const layout = discoverCgroups(fixture('hybrid-mountinfo'), fixture('hybrid-proc-cgroup'));
  assert.equal(layout.unified, '/sys/fs/cgroup/unified');
  assert.deepEqual(
    [...layout.v1],
    [
      ['memory', '/sys/fs/cgroup/memory'],
      ['cpu', '/sys/fs/cgroup/cpu'],
      ['pids', '/sys/fs/cgroup/pids'],
      ['cpuset', '/sys/fs/cgroup/cpuset'],
    ],
  );
  assert.deepEqual(layout.unmounted, []);
});

test('finds controllers that share a hierarchy, under whatever name it is mounted', () => {
  const mounts = [
    '1 0 8:1 / / rw - ext4 root rw',
    '2 1 0:2 / /cg/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct',
    '3 1 0:3 / /cg/both rw - cgroup cgroup rw,memory,pids',
    '4 1 0:4 / /cg/two rw - cgroup2 none rw,nsdelegate',
  ].join('\n');
  const layout = discoverCgroups(mounts, '0::/system.slice/x.service\n');
  assert.deepEqual(
    [...layout.v1],
    [
      ['memory', '/cg/both'],
      ['cpu', '/cg/cpu,cpuacct'],
      ['pids', '/cg/both'],
    ],
  );
  assert.equal(layout.unified, '/cg/two');
});

test('finds cgroup2 alone, and prefers the whole tree over a bind mount of a part', () => {
  const mounts = [
    '1 0 8:1 / / rw - ext4 root rw',
    '2 1 0:2 /part /srv/part rw - cgroup2 cgroup2 rw',
    '3 1 0:2 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot',
  ].join('\n');
  assert.deepEqual(discoverCgroups(mounts, '0::/init.scope\n'), {
    unified: '/sys/fs/cgroup',
    v1: new Map(),
    unmounted: [],
  });
});

test('names controllers whose v1 hierarchy is not mounted', () => {
  const mounts = '1 0 0:1 / /c rw - cgroup2 c rw';
  assert.deepEqual(discoverCgroups(mounts, '4:memory:/\n3:freezer:/\n0::/\n').unmounted, ['memory']);
});

test('asks for cgroup2 when it is not mounted', () => {
  const mounts = '1 0 0:1 / /sys/fs/cgroup/memory rw - cgroup c rw,memory';
  assert.throws(() => discoverCgroups(mounts, '1:memory:/\n'), {
    name: 'StateError',
    code: 'cgroup2-missing',
  });
});

test('names one directory per instance', () => {
  assert.equal(instanceCgroupName(undefined), 'vserver');
  assert.equal(instanceCgroupName('/srv/a'), 'vserver-b068a6ce');
  assert.notEqual(instanceCgroupName('/srv/a'), instanceCgroupName('/srv/b'));
});
