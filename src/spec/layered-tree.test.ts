import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { ImageDirectory } from './image-tree.ts';
import { LayeredTree } from './layered-tree.ts';
import { TarError, type TarMember } from './tar-reader.ts';

function member(name: string, fields: Partial<TarMember> = {}): TarMember {
  return {
    name,
    type: name.endsWith('/') ? 'directory' : 'file',
    linkName: '',
    mode: 0o644,
    uid: 0,
    gid: 0,
    mtimeSeconds: 0,
    mtimeNanoseconds: 0,
    size: 0,
    major: 0,
    minor: 0,
    xattrs: [],
    ...fields,
  };
}

type Layer = readonly (string | TarMember)[];

function tree(layers: readonly Layer[], hasWhiteouts = true): ImageDirectory {
  const made = new LayeredTree({ hasWhiteouts });
  for (const layer of layers) {
    made.beginLayer();
    for (const one of layer) made.add(typeof one === 'string' ? member(one) : one, undefined);
  }
  return made.finish();
}

/** The names of a tree, those of files and links alone. */
function leaves(directory: ImageDirectory, path = ''): readonly string[] {
  return [...directory.children].flatMap(([name, node]) =>
    node.kind === 'directory' ? leaves(node, `${path}${name}/`) : [`${path}${name}`],
  );
}

test('a whiteout hides what the layers below have, and no more', () => {
  const lower = ['a/1', 'a/2', 'b/1', 'c'];
  assert.deepEqual(leaves(tree([lower, ['a/.wh.1', '.wh.c']])), ['a/2', 'b/1']);
  assert.deepEqual(leaves(tree([lower, ['.wh.a']])), ['b/1', 'c']);
  // Wherever it stands in its layer.
  assert.deepEqual(leaves(tree([lower, ['.wh.c', 'c']])), ['a/1', 'a/2', 'b/1', 'c']);
  assert.deepEqual(leaves(tree([lower, ['c', '.wh.c']])), ['a/1', 'a/2', 'b/1', 'c']);
  assert.deepEqual(leaves(tree([lower, ['a/3', '.wh.a']])).toSorted(), ['a/3', 'b/1', 'c']);
  // One of a name that is not there, or through what is not there, hides nothing.
  assert.deepEqual(leaves(tree([lower, ['x/.wh.y', 'a/.wh.z', '.wh..wh.plnk']])), lower);
});

test('an opaque directory has nothing of the layers below', () => {
  const lower = ['a/1', 'a/d/2', 'b'];
  for (const upper of [
    ['a/', 'a/.wh..wh..opq', 'a/new', 'a/d/new'],
    ['a/new', 'a/d/new', 'a/.wh..wh..opq'],
  ]) {
    assert.deepEqual(leaves(tree([lower, upper])).toSorted(), ['a/d/new', 'a/new', 'b']);
  }
});

test('without whiteouts their names are names', () => {
  assert.deepEqual(leaves(tree([['a'], ['.wh.a', '.wh..wh..opq']], false)), ['a', '.wh.a', '.wh..wh..opq']);
});

test('a whiteout of nothing, or of a place, is refused', () => {
  for (const name of ['.wh.', '.wh..', '.wh...']) assert.throws(() => tree([[name]]), TarError, name);
});

test('a hard link reaches through layers and is one inode', () => {
  const root = tree([['a/file'], [member('b', { type: 'hardlink', linkName: '/a/file' })]]);
  const directory = root.children.get('a');
  assert.ok(directory?.kind === 'directory');
  assert.equal(root.children.get('b'), directory.children.get('file'));
  // What takes the place of one name leaves the other.
  const other = tree([['a'], [member('b', { type: 'hardlink', linkName: 'a' })], ['.wh.a']]);
  assert.deepEqual(leaves(other), ['b']);
});

test('names go through links of layers below, as in a root of their own', () => {
  const lower: Layer = ['usr/bin/', member('bin', { type: 'symlink', linkName: '/usr/bin' })];
  assert.deepEqual(leaves(tree([lower, ['bin/sh', 'bin/.wh.gone']])), ['usr/bin/sh', 'bin']);
  assert.deepEqual(leaves(tree([lower, ['bin/sh'], ['bin/.wh.sh']])), ['bin']);
  const around = [member('x', { type: 'symlink', linkName: 'x' })];
  assert.throws(() => tree([around, ['x/file']]), TarError);
});

test('a file takes the place of a directory, and a directory that of a file', () => {
  assert.deepEqual(
    leaves(
      tree(
        [
          ['a/1', 'b'],
          ['a', 'b/1'],
        ].map((layer) => layer.slice(0, 1)),
      ),
    ),
    ['a'],
  );
  assert.deepEqual(leaves(tree([['b'], ['b/', 'b/1']])), ['b/1']);
  const root = tree([[member('d/', { mode: 0o700 }), 'd/file'], [member('d/', { mode: 0o711 })]]);
  const directory = root.children.get('d');
  assert.ok(directory?.kind === 'directory');
  assert.deepEqual([directory.mode, [...directory.children.keys()]], [0o711, ['file']]);
});

test('a device that would hide is left out, and attributes that speak to an overlay too', () => {
  const device = member('gone', { type: 'character' });
  const xattrs = [
    'user.a',
    'user.overlay.opaque',
    'trusted.overlay.opaque',
    'security.capability',
    'security.ima',
  ].map((name) => [name, Buffer.from('1')] as const);
  const root = tree([['gone', member('file', { xattrs })], [device]]);
  assert.deepEqual([...root.children.keys()], ['file']);
  assert.deepEqual(
    root.children.get('file')?.xattrs.map(([name]) => name),
    ['user.a', 'security.capability'],
  );
});

test('a tree does not get deeper than can be read again', () => {
  const deep = (length: number): string => Array.from({ length }, () => 'd'.repeat(99)).join('/');
  assert.throws(() => tree([[`${deep(41)}/file`]]), /a name of 4104 bytes/u);
  assert.ok(tree([[`${deep(40)}/file`]]));
  const link = member('l', { type: 'symlink', linkName: deep(20) });
  assert.throws(() => tree([[`${deep(20)}/`, link, `l/${deep(21)}/file`]]), /a path of 4099 bytes/u);
  assert.ok(tree([[`${deep(20)}/`, link, `l/${deep(20)}/file`]]));
});
