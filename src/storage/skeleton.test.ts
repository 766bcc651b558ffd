import assert from 'node:assert/strict';
import { test } from 'node:test';
import { skeletonTree } from './skeleton.ts';

test('every node of the skeleton is in a directory that is there, before it', () => {
  const directories = new Set(['']);
  for (const entry of skeletonTree()) {
    assert.ok(directories.has(entry.path.split('/').slice(0, -1).join('/')), entry.path);
    if (entry.kind === 'directory') directories.add(entry.path);
  }
  assert.ok(directories.has('usr/bin'), 'where applets of busybox go');
  assert.ok(directories.has('etc'));
});

test('what a start fills is empty before: nothing is copied, by a pipe that the command keeps, when it is opened', () => {
  const filled = skeletonTree().filter(({ path }) => ['etc/hosts', 'etc/resolv.conf'].includes(path));
  assert.deepEqual(
    filled.map((entry) => entry.kind === 'file' && entry.content),
    ['', ''],
  );
});
