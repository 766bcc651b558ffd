import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { ImageDirectory, ImageNode } from './image-tree.ts';
import { hashTree, listingLine, walkTree } from './tree-listing.ts';

const PLAIN = { mode: 0o644, uid: 1, gid: 2, mtimeSeconds: 3, mtimeNanoseconds: 4, xattrs: [] } as const;
const FILE: ImageNode = {
  ...PLAIN,
  kind: 'file',
  size: 5,
  content: { object: 'ab'.repeat(32) },
  xattrs: [['user.b', Buffer.from('x')]],
};
const WHITEOUT: ImageNode = { ...PLAIN, kind: 'character', major: 0, minor: 0 };

function tree(children: readonly (readonly [string, ImageNode])[]): ImageDirectory {
  const xattrs = [['trusted.overlay.opaque', Buffer.from('y')]] as const;
  return { ...PLAIN, mode: 0o755, kind: 'directory', xattrs, children: new Map(children) };
}

test('lists a tree in the order of its names, links as such', () => {
  const root = tree([
    ['z', FILE],
    ['a', FILE],
    ['d', tree([['n', { ...PLAIN, kind: 'symlink', target: '../z' }]])],
    ['gone', WHITEOUT],
  ]);
  assert.deepEqual([...walkTree(root)].map(listingLine), [
    'directory 755 1 2 3.4 ""',
    `file 644 1 2 3.4 5 ${'ab'.repeat(32)} "a" user.b=eA==`,
    'directory 755 1 2 3.4 "d"',
    'symlink 644 1 2 3.4 "../z" "d/n"',
    'link "a" "z"',
  ]);
});

test('has another hash when two names are no more one file', () => {
  const one = tree([
    ['a', FILE],
    ['b', FILE],
  ]);
  const two = tree([
    ['a', FILE],
    ['b', { ...FILE }],
  ]);
  assert.notEqual(hashTree(one).sha256, hashTree(two).sha256);
  assert.equal(hashTree(one).entries, 3);
  assert.deepEqual(hashTree(tree([['s', { ...PLAIN, kind: 'socket' }]])), hashTree(tree([])));
});
