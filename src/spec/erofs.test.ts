import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { BLOCK_BYTES, crc32c, SUPER_OFFSET } from './erofs-format.ts';
import { readErofs, readImageHead } from './erofs-reader.ts';
import { writeErofs } from './erofs-writer.ts';
import { type ImageDirectory, type ImageNode, type InodeAttributes, isAcl } from './image-tree.ts';

const PLAIN: InodeAttributes = {
  mode: 0o755,
  uid: 0,
  gid: 0,
  mtimeSeconds: 1_700_000_000,
  mtimeNanoseconds: 123_456_789,
  xattrs: [],
};
const HASH = 'ab'.repeat(32);

function directory(children: Readonly<Record<string, ImageNode>>): ImageDirectory {
  return { ...PLAIN, kind: 'directory', children: new Map(Object.entries(children)) };
}

function object(size: number): ImageNode {
  return { ...PLAIN, kind: 'file', size, content: { object: HASH } };
}

/** The tree in an order of its own, bytes as bytes: what two trees that mean the same have in common. */
function plain(node: ImageNode): unknown {
  const xattrs = node.xattrs.map(([name, value]) => [name, Buffer.from(value).toString('hex')]).sort();
  if (node.kind === 'directory') {
    const children = [...node.children].map(([name, child]) => [name, plain(child)]);
    return { ...node, xattrs, children: children.sort(([a], [b]) => (String(a) < String(b) ? -1 : 1)) };
  }
  if (node.kind !== 'file') return { ...node, xattrs };
  if (node.size === 0) return { ...node, xattrs, content: {} }; // needs none
  return {
    ...node,
    xattrs,
    content: 'bytes' in node.content ? Buffer.from(node.content.bytes).toString('hex') : node.content,
  };
}

function hasAcl(node: ImageNode): boolean {
  return node.xattrs.some(isAcl) || (node.kind === 'directory' && [...node.children.values()].some(hasAcl));
}

const attributes = fc.record(
  {
    mode: fc.nat(0o7777),
    uid: fc.nat(65_535),
    gid: fc.nat(65_535),
    mtimeSeconds: fc.integer({ min: -(2 ** 33), max: 2 ** 34 }),
    mtimeNanoseconds: fc.nat(999_999_999),
    xattrs: fc.uniqueArray(
      fc.tuple(
        fc.constantFrom('user.a', 'user.b.c', 'security.capability', 'system.posix_acl_access', 'trusted.x'),
        fc.uint8Array({ maxLength: 300 }),
      ),
      { selector: ([name]) => name },
    ),
  },
  { noNullPrototype: true },
);
const name = fc
  .string({
    minLength: 1,
    maxLength: 200,
    unit: fc.integer({ min: 1, max: 255 }).map((code) => String.fromCharCode(code)),
  })
  .filter((text) => !text.includes('/') && text !== '.' && text !== '..');
const { node } = fc.letrec<{ node: ImageNode; directory: ImageDirectory }>((tie) => ({
  node: fc.oneof(
    { maxDepth: 3 },
    fc.tuple(attributes, fc.nat(2 ** 45)).map(([a, size]) => ({
      ...a,
      kind: 'file' as const,
      size,
      content: { object: HASH },
    })),
    fc.tuple(attributes, fc.uint8Array({ maxLength: 9000 })).map(([a, bytes]) => ({
      ...a,
      kind: 'file' as const,
      size: bytes.length,
      content: { bytes },
    })),
    fc
      .tuple(attributes, fc.string({ minLength: 1, maxLength: 4095, unit: 'binary-ascii' }))
      .map(([a, target]) => ({
        ...a,
        kind: 'symlink' as const,
        target,
      })),
    fc.tuple(attributes, fc.nat(4095), fc.nat(1_048_575)).map(([a, major, minor]) => ({
      ...a,
      kind: 'character' as const,
      major,
      minor,
    })),
    attributes.map((a) => ({ ...a, kind: 'fifo' as const })),
    tie('directory'),
  ),
  directory: fc
    .tuple(attributes, fc.array(fc.tuple(name, tie('node')), { maxLength: 60 }))
    .map(([a, children]) => ({ ...a, kind: 'directory' as const, children: new Map(children) })),
}));

describe('an image', () => {
  test('holds what was written, whatever that is', () => {
    fc.assert(
      fc.property(node, (any) => {
        const root = any.kind === 'directory' ? any : directory({ it: any });
        const image = writeErofs(root);
        const { root: read } = readErofs(image);
        assert.deepEqual(plain(read), plain(root));
        assert.deepEqual(writeErofs(read), image);
        assert.deepEqual(readImageHead(image), { bytes: image.length, isWithoutAcls: !hasAcl(root) });
      }),
      { numRuns: 60 },
    );
  });

  test('keeps one file with several names one file, and counts links', () => {
    const file = object(9);
    const image = writeErofs(directory({ a: file, b: file, c: object(9), d: directory({ e: file }) }));
    const { root, inodes } = readErofs(image);
    assert.equal(root.children.get('a'), root.children.get('b'));
    assert.notEqual(root.children.get('a'), root.children.get('c'));
    assert.equal(inodes.size, 4);
    const links = [...inodes].map(([number, { kind }]) => [kind, image.readUInt32LE(number * 32 + 44)]);
    assert.deepEqual(links.sort(), [
      ['directory', 2],
      ['directory', 3],
      ['file', 1],
      ['file', 3],
    ]);
  });

  test('sorts the names of a large directory over its blocks', () => {
    const names = Array.from({ length: 3000 }, (_, i) => `name-${(i * 7919) % 3000}`);
    const root = directory(Object.fromEntries(names.map((one) => [one, object(1)])));
    const read = [...readErofs(writeErofs(root)).root.children.keys()];
    assert.deepEqual(read, names.toSorted());
  });

  test('is the same for the same tree, and has another uuid for another', () => {
    const uuid = (image: Buffer): string => image.toString('hex', SUPER_OFFSET + 48, SUPER_OFFSET + 64);
    const one = writeErofs(directory({ a: object(1), b: object(2) }));
    assert.deepEqual(writeErofs(directory({ b: object(2), a: object(1) })), one);
    assert.notEqual(uuid(writeErofs(directory({ a: object(1), b: object(3) }))), uuid(one));
    assert.notEqual(uuid(one), '0'.repeat(32));
  });

  test('takes 192 bytes for a file of the store', () => {
    const files = (count: number): ImageDirectory =>
      directory(Object.fromEntries(Array.from({ length: count }, (_, i) => [`f${10_000 + i}`, object(1)])));
    const growth = writeErofs(files(8000)).length - writeErofs(files(0)).length;
    assert.ok(growth < 8000 * (192 + 20), String(growth));
  });

  test('refuses what does not fit', () => {
    for (const xattrs of [
      [['user.big', new Uint8Array(65_536)]],
      [['btrfs.x', new Uint8Array(1)]],
    ] as const) {
      assert.throws(() => writeErofs(directory({ a: { ...PLAIN, kind: 'fifo', xattrs: [...xattrs] } })), {
        code: 'image-too-big',
      });
    }
    for (const bad of ['', '..', 'a/b', 'x'.repeat(256)])
      assert.throws(() => writeErofs(directory({ [bad]: object(1) })), { code: 'bad-name' });
  });
});

test('a damaged image is refused, and never reads beyond its end', () => {
  const image = writeErofs(
    directory({ a: object(5000), d: directory({ l: { ...PLAIN, kind: 'symlink', target: 'x' } }) }),
  );
  const flipped = Buffer.from(image);
  flipped.writeUInt8(1, SUPER_OFFSET + 60);
  assert.throws(() => readErofs(flipped), { code: 'image-damaged' });
  assert.throws(() => readErofs(Buffer.alloc(0)), { code: 'image-damaged' });
  fc.assert(
    fc.property(fc.integer({ min: BLOCK_BYTES, max: image.length - 1 }), fc.nat(255), (at, byte) => {
      const damaged = Buffer.from(image);
      damaged.writeUInt8(byte, at);
      try {
        readErofs(damaged);
      } catch (error) {
        assert.equal((error as { code?: unknown }).code, 'image-damaged', String(error));
      }
    }),
  );
});

test('crc32c is the one of RFC 3720, not inverted', () => {
  assert.equal(~crc32c(Buffer.from('123456789')) >>> 0, 0xe3069283);
});
