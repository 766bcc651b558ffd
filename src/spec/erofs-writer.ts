/**
 * Writes EROFS images whose regular files have no data of their own: each points at an object of the store, by the
 * attributes overlay follows (composefs does the same). One inode takes 192 bytes.
 *
 *     block 0     superblock at 1024
 *     block 1…    inodes: 64 bytes | attributes | short data: the end of a directory, a link's target, a hole's index
 *     then        whole blocks of directories, long links and files that the image carries itself
 *
 * The root comes first, as its number has 16 bits. The same tree gives the same bytes.
 */
import { createHash } from 'node:crypto';
import { BugError, UserError } from '../base/errors.ts';
import {
  BLOCK_BITS,
  BLOCK_BYTES,
  COMPAT_CHECKSUM,
  COMPAT_MTIME,
  crc32c,
  DIRENT_BYTES,
  FILE_TYPES,
  INCOMPAT_CHUNKED_FILE,
  INODE_BYTES,
  INODE_EXTENDED,
  LABEL_OFFSET,
  LAYOUT,
  NO_ACL_LABEL,
  NULL_ADDRESS,
  SLOT_BYTES,
  SUPER_MAGIC,
  SUPER_OFFSET,
  XATTR_ENTRY_BYTES,
  XATTR_HEADER_BYTES,
  XATTR_PREFIXES,
} from './erofs-format.ts';
import { type ImageDirectory, type ImageNode, isAcl, objectPath, type Xattr } from './image-tree.ts';

/** Attributes by which overlay finds a file's data in another layer (fs/overlayfs/overlayfs.h, Linux 4.19). */
const METACOPY = 'trusted.overlay.metacopy';
const REDIRECT = 'trusted.overlay.redirect';
/** Where objects are below the layer they are in. */
const OBJECTS = '/obj';

const MAX_CHUNK_BITS = BLOCK_BITS + 31;
const MAX_NAME_BYTES = 255;
const MAX_XATTR_BYTES = 65_535;
const NONE = new Uint8Array(0);
/** Attributes of a file that has no others, and where the path of its object is in them: most files differ in that alone. */
const PLAIN_OBJECT = redirectTo('0'.repeat(64));
const PLAIN_XATTRS = Buffer.from(
  encodeXattrs([
    [METACOPY, NONE],
    [REDIRECT, PLAIN_OBJECT],
  ]),
);
const PLAIN_OBJECT_AT = PLAIN_XATTRS.indexOf(PLAIN_OBJECT);

/** A node with its place in the image. */
interface Inode {
  readonly node: ImageNode;
  readonly xattrs: Uint8Array;
  /** Of a directory. */
  readonly dirents: readonly DirentBlock[];
  /** Data as bytes: of a directory only once all inodes have their places. */
  readonly dataBytes: number;
  /** How many bytes of the data follow the inode; the rest is in blocks of its own. */
  readonly tailBytes: number;
  readonly layout: number;
  /** Byte offset in the image. */
  at: number;
  /** First block of the data. */
  block: number;
  links: number;
  readonly parent: Inode | undefined;
}

/**
 * Returns the image of a tree.
 *
 * @throws UserError image-too-big for names, attributes or data that the format cannot hold
 */
export function writeErofs(root: ImageDirectory): Buffer {
  const { inodes, byNode } = collect(root);
  let at = BLOCK_BYTES;
  for (const inode of inodes) {
    const fixed = INODE_BYTES + inode.xattrs.length;
    // The tail must not cross a block's end (erofs_map_blocks, fs/erofs/data.c).
    const tailAt = at + fixed;
    const crosses =
      inode.layout === LAYOUT.inline &&
      Math.floor(tailAt / BLOCK_BYTES) !== Math.floor((tailAt + inode.tailBytes - 1) / BLOCK_BYTES);
    if (crosses) at = roundUp(tailAt, BLOCK_BYTES) - roundDownToSlot(fixed);
    inode.at = at;
    at = roundUp(at + fixed + inode.tailBytes, SLOT_BYTES);
  }
  let block = Math.ceil(at / BLOCK_BYTES);
  for (const inode of inodes) {
    const own = inode.layout === LAYOUT.chunks ? 0 : inode.dataBytes - inode.tailBytes;
    if (own === 0) continue;
    inode.block = block;
    block += Math.ceil(own / BLOCK_BYTES);
  }
  if (block > NULL_ADDRESS / 2 || block * BLOCK_BYTES > Number.MAX_SAFE_INTEGER / 2)
    throw tooBig('the tree', `${block} blocks`, 'fewer');
  const image = Buffer.alloc(block * BLOCK_BYTES);
  inodes.forEach((inode, i) => {
    writeInode(image, inode, i + 1, byNode);
  });
  const hasAcls = inodes.some(({ node }) => node.xattrs.some(isAcl));
  writeSuper(image, inodes.length, numberOf(inodes[0]), block, hasAcls ? '' : NO_ACL_LABEL);
  return image;
}

function roundUp(value: number, unit: number): number {
  return Math.ceil(value / unit) * unit;
}

/** So far before a block's end an inode begins whose tail is to begin with the block or a little later. */
function roundDownToSlot(bytes: number): number {
  return Math.floor(bytes / SLOT_BYTES) * SLOT_BYTES;
}

function numberOf(inode: Inode | undefined): number {
  return (inode?.at ?? 0) / SLOT_BYTES;
}

function tooBig(what: string, found: string, need: string): UserError {
  return new UserError('image-too-big', `cannot write an image: found ${what} with ${found}; need ${need}`);
}

function collect(root: ImageDirectory): {
  readonly inodes: readonly Inode[];
  readonly byNode: ReadonlyMap<ImageNode, Inode>;
} {
  const inodes: Inode[] = [];
  const byNode = new Map<ImageNode, Inode>();
  const add = (node: ImageNode, parent: Inode | undefined): void => {
    const known = byNode.get(node);
    if (known) {
      known.links++;
      return;
    }
    const inode = inodeOf(node, parent);
    byNode.set(node, inode);
    inodes.push(inode);
  };
  add(root, undefined);
  // The list grows while it is walked: directories close to the root are close to each other.
  for (let i = 0; i < inodes.length; i++) {
    const inode = inodes[i];
    if (inode?.node.kind !== 'directory') continue;
    const { children } = inode.node;
    for (const name of inode.dirents.flatMap(({ names }) => names)) {
      const child = children.get(name);
      if (child === undefined) continue; // the directory itself, and the one above it
      add(child, inode);
      if (child.kind === 'directory') inode.links++;
    }
  }
  return { inodes, byNode };
}

function inodeOf(node: ImageNode, parent: Inode | undefined): Inode {
  const xattrs = xattrsOf(node);
  const dirents = node.kind === 'directory' ? direntBlocks(node) : [];
  const dataBytes = node.kind === 'directory' ? direntBytes(dirents) : dataBytesOf(node);
  const fixed = INODE_BYTES + xattrs.length;
  const links = node.kind === 'directory' ? 2 : 1;
  const base = { node, xattrs, dirents, dataBytes, at: 0, block: 0, links, parent };
  if (node.kind === 'file' && 'object' in node.content && node.size > 0) {
    return {
      ...base,
      layout: LAYOUT.chunks,
      tailBytes: 4 * Math.ceil(node.size / 2 ** chunkBits(node.size)),
    };
  }
  const tailBytes = dataBytes % BLOCK_BYTES;
  const fits = tailBytes > 0 && (fixed % SLOT_BYTES) + tailBytes <= BLOCK_BYTES;
  return { ...base, layout: fits ? LAYOUT.inline : LAYOUT.plain, tailBytes: fits ? tailBytes : 0 };
}

function xattrsOf(node: ImageNode): Uint8Array {
  if (node.kind !== 'file' || !('object' in node.content) || node.size === 0)
    return encodeXattrs(node.xattrs);
  const redirect = redirectTo(node.content.object);
  if (node.xattrs.length > 0) return encodeXattrs([...node.xattrs, [METACOPY, NONE], [REDIRECT, redirect]]);
  const xattrs = Buffer.from(PLAIN_XATTRS);
  xattrs.set(redirect, PLAIN_OBJECT_AT);
  return xattrs;
}

/** Where overlay finds an object. */
function redirectTo(object: string): Buffer {
  return Buffer.from(`${OBJECTS}/${objectPath(object)}`, 'latin1');
}

function chunkBits(size: number): number {
  return Math.min(MAX_CHUNK_BITS, Math.max(BLOCK_BITS, Math.ceil(Math.log2(size))));
}

function dataBytesOf(node: Exclude<ImageNode, ImageDirectory>): number {
  switch (node.kind) {
    case 'symlink':
      return node.target.length;
    case 'file':
      return 'bytes' in node.content ? node.content.bytes.length : node.size;
    default:
      return 0;
  }
}

/** A block of a directory: its entries, and how many bytes they take. */
interface DirentBlock {
  readonly names: readonly string[];
  readonly bytes: number;
}

function direntBytes(blocks: readonly DirentBlock[]): number {
  return (blocks.length - 1) * BLOCK_BYTES + (blocks.at(-1)?.bytes ?? 0);
}

/** Entries are sorted by name over the whole directory, `.` and `..` among them. */
function direntBlocks(node: ImageDirectory): readonly DirentBlock[] {
  for (const name of node.children.keys()) {
    if (name === '' || name.length > MAX_NAME_BYTES || /[/\0]/.test(name) || name === '.' || name === '..')
      throw new BugError('bad-name', `cannot write an image: found the name ${JSON.stringify(name)}`);
  }
  const blocks: DirentBlock[] = [];
  let names: string[] = [];
  let bytes = 0;
  for (const name of ['.', '..', ...node.children.keys()].toSorted(byBytes)) {
    const more = DIRENT_BYTES + name.length;
    if (bytes + more > BLOCK_BYTES) {
      blocks.push({ names, bytes });
      names = [];
      bytes = 0;
    }
    names.push(name);
    bytes += more;
  }
  return [...blocks, { names, bytes }];
}

function byBytes(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}

function encodeXattrs(xattrs: readonly Xattr[]): Uint8Array {
  if (xattrs.length === 0) return NONE;
  const entries = xattrs.toSorted(([a], [b]) => byBytes(a, b)).map(encodeXattr);
  const bytes = Buffer.concat([Buffer.alloc(XATTR_HEADER_BYTES), ...entries]);
  if ((bytes.length - XATTR_HEADER_BYTES) / 4 + 1 > 0xffff)
    throw tooBig('a file', `${bytes.length} bytes of extended attributes`, 'at most 256 KiB');
  return bytes;
}

function encodeXattr([name, value]: Xattr): Buffer {
  const [prefix, index] = XATTR_PREFIXES.find(([start]) => name.startsWith(start)) ?? ['', 0];
  const rest = Buffer.from(name.slice(prefix.length), 'latin1');
  if (index === 0 || rest.length > MAX_NAME_BYTES || value.length > MAX_XATTR_BYTES)
    throw tooBig(
      'a file',
      `the extended attribute ${JSON.stringify(name)} of ${value.length} bytes`,
      'another',
    );
  const entry = Buffer.alloc(roundUp(XATTR_ENTRY_BYTES + rest.length + value.length, 4));
  entry.writeUInt8(rest.length, 0);
  entry.writeUInt8(index, 1);
  entry.writeUInt16LE(value.length, 2);
  entry.set(rest, XATTR_ENTRY_BYTES);
  entry.set(value, XATTR_ENTRY_BYTES + rest.length);
  return entry;
}

function writeInode(
  image: Buffer,
  inode: Inode,
  number: number,
  byNode: ReadonlyMap<ImageNode, Inode>,
): void {
  const { node, at } = inode;
  const { length } = inode.xattrs;
  image.writeUInt16LE(INODE_EXTENDED | (inode.layout << 1), at);
  image.writeUInt16LE(length === 0 ? 0 : (length - XATTR_HEADER_BYTES) / 4 + 1, at + 2);
  image.writeUInt16LE(FILE_TYPES[node.kind].mode | node.mode, at + 4);
  image.writeBigUInt64LE(BigInt(inode.dataBytes), at + 8);
  image.writeUInt32LE(dataReference(inode), at + 16);
  image.writeUInt32LE(number, at + 20);
  image.writeUInt32LE(node.uid, at + 24);
  image.writeUInt32LE(node.gid, at + 28);
  image.writeBigInt64LE(BigInt(node.mtimeSeconds), at + 32);
  image.writeUInt32LE(node.mtimeNanoseconds, at + 40);
  image.writeUInt32LE(inode.links, at + 44);
  image.set(inode.xattrs, at + INODE_BYTES);
  const tailAt = at + INODE_BYTES + length;
  if (inode.layout === LAYOUT.chunks) {
    for (let i = 0; i < inode.tailBytes; i += 4) image.writeUInt32LE(NULL_ADDRESS, tailAt + i);
    return;
  }
  const data = dataOf(inode, byNode);
  const own = data.length - inode.tailBytes;
  image.set(data.subarray(0, own), inode.block * BLOCK_BYTES);
  image.set(data.subarray(own), tailAt);
}

/** The field `i_u`: a device, the size of chunks, or the first block of the data. */
function dataReference({ node, layout, block }: Inode): number {
  if (node.kind === 'character' || node.kind === 'block') {
    // new_encode_dev(), include/linux/kdev_t.h
    return ((node.minor & 0xff) | (node.major << 8) | ((node.minor & ~0xff) << 12)) >>> 0;
  }
  return layout === LAYOUT.chunks && node.kind === 'file' ? chunkBits(node.size) - BLOCK_BITS : block;
}

function dataOf(inode: Inode, byNode: ReadonlyMap<ImageNode, Inode>): Uint8Array {
  const { node } = inode;
  if (node.kind === 'symlink') return Buffer.from(node.target, 'latin1');
  if (node.kind === 'file' && 'bytes' in node.content) return node.content.bytes;
  if (node.kind !== 'directory') return NONE;
  const data = Buffer.alloc(inode.dataBytes);
  inode.dirents.forEach(({ names }, i) => {
    writeDirents(data, i * BLOCK_BYTES, names, (name) => {
      if (name === '.') return inode;
      return name === '..' ? (inode.parent ?? inode) : byNode.get(node.children.get(name) ?? node);
    });
  });
  return data;
}

function writeDirents(
  data: Buffer,
  at: number,
  names: readonly string[],
  find: (name: string) => Inode | undefined,
): void {
  let nameAt = names.length * DIRENT_BYTES;
  names.forEach((name, i) => {
    const inode = find(name);
    const entryAt = at + i * DIRENT_BYTES;
    data.writeBigUInt64LE(BigInt(numberOf(inode)), entryAt);
    data.writeUInt16LE(nameAt, entryAt + 8);
    data.writeUInt8(FILE_TYPES[inode?.node.kind ?? 'file'].dirent, entryAt + 10);
    data.write(name, at + nameAt, 'latin1');
    nameAt += name.length;
  });
}

function writeSuper(
  image: Buffer,
  inodeCount: number,
  rootNumber: number,
  blocks: number,
  label: string,
): void {
  const at = SUPER_OFFSET;
  image.writeUInt32LE(SUPER_MAGIC, at);
  image.writeUInt32LE(COMPAT_CHECKSUM | COMPAT_MTIME, at + 8);
  image.writeUInt8(BLOCK_BITS, at + 12);
  image.writeUInt16LE(rootNumber, at + 14);
  image.writeBigUInt64LE(BigInt(inodeCount), at + 16);
  image.writeUInt32LE(blocks, at + 36);
  image.write(label, LABEL_OFFSET, 'latin1');
  image.writeUInt32LE(INCOMPAT_CHUNKED_FILE, at + 80);
  // Overlay with index=on tells its layers apart by their uuids: another tree, another uuid.
  const uuid = createHash('sha256').update(image).digest().subarray(0, 16);
  uuid[6] = ((uuid[6] ?? 0) & 0x0f) | 0x80; // version 8, RFC 9562: as we like
  uuid[8] = ((uuid[8] ?? 0) & 0x3f) | 0x80;
  image.set(uuid, at + 48);
  image.writeUInt32LE(crc32c(image.subarray(at, BLOCK_BYTES)), at + 4);
}
