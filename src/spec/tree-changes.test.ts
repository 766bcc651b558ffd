import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { ImageDirectory, ImageNode } from './image-tree.ts';
import { changesOf } from './tree-changes.ts';

const PLAIN = { mode: 0o644, uid: 1, gid: 2, mtimeSeconds: 3, mtimeNanoseconds: 4, xattrs: [] } as const;

function file(object: string, attributes: object = {}): ImageNode {
  return { ...PLAIN, ...attributes, kind: 'file', size: 5, content: { object } };
}

function tree(children: Readonly<Record<string, ImageNode>>, attributes: object = {}): ImageDirectory {
  return { ...PLAIN, ...attributes, kind: 'directory', children: new Map(Object.entries(children)) };
}

test('says what was added, changed and deleted', () => {
  const linked = file('l');
  const before = tree({
    same: file('a'),
    content: file('a'),
    owner: file('a'),
    gone: tree({ deep: file('a') }),
    turned: tree({ deep: file('a') }),
    other: linked,
    name: linked,
  });
  const after = tree(
    {
      same: file('a'),
      content: file('b', { mtimeSeconds: 9 }),
      owner: file('a', { uid: 7, xattrs: [['user.x', Buffer.from('1')]] }),
      turned: file('a'),
      fresh: tree({ deep: file('a') }),
      other: file('l'),
      name: file('l'),
      hidden: { ...PLAIN, kind: 'character', major: 0, minor: 0 },
    },
    { mode: 0o700, mtimeSeconds: 8 },
  );
  assert.deepEqual(
    changesOf(before, after).map(({ kind, path, parts }) => [kind, path, ...parts].join(' ')),
    [
      'changed  mode',
      'changed content content time',
      'added fresh',
      'added fresh/deep',
      'deleted gone',
      'changed other links',
      'changed owner owner xattrs',
      'changed turned type',
    ],
  );
  assert.deepEqual(changesOf(before, before), []);
});
