import assert from 'node:assert/strict';
import { test } from 'node:test';
import { parseProcCgroup } from './proc-cgroup.ts';

test('parses named, shared and unified hierarchies', () => {
  assert.deepEqual(parseProcCgroup('9:name=systemd:/\n4:cpu,cpuacct:/a:b\n0::/user.slice\n'), [
    { hierarchyId: 9, controllers: ['name=systemd'], path: '/' },
    { hierarchyId: 4, controllers: ['cpu', 'cpuacct'], path: '/a:b' },
    { hierarchyId: 0, controllers: [], path: '/user.slice' },
  ]);
});

test('refuses other text', () => {
  assert.throws(() => parseProcCgroup('memory\n'), { code: 'malformed-kernel-text' });
});
