/**
 * Reads EROFS images as `writeErofs` writes them: extended inodes, no compression.
 */
import { StateError } from '../base/errors.ts';
import {
  BLOCK_BITS,
  BLOCK_BYTES,
  COMPAT_CHECKSUM,
  crc32c,
  DIRENT_BYTES,
  FILE_TYPES,
  INODE_BYTES,
  INODE_EXTENDED,
  LABEL_OFFSET,
  LAYOUT,
  NO_ACL_LABEL,
  SLOT_BYTES,
  SUPER_MAGIC,
  SUPER_OFFSET,
  XATTR_ENTRY_BYTES,
  XATTR_HEADER_BYTES,
  XATTR_PREFIXES,
} from './erofs-format.ts';
import type { FileContent, ImageDirectory, ImageNode, InodeAttributes, Xattr } from './image-tree.ts';

const S_IFMT = 0o170000;
const REDIRECT = 'trusted.overlay.redirect';
const METACOPY = 'trusted.overlay.metacopy';
const OBJECT = /^\/obj\/([\da-f]{2})\/([\da-f]{62})$/;
const MAX_DEPTH = 4096;

/** A tree, and its inodes by their numbers, which the kernel shows as `st_ino`. */
export interface ReadImage {
  readonly root: ImageDirectory;
  readonly inodes: ReadonlyMap<number, ImageNode>;
}

/**
 * Returns the tree of an image.
 *
 * @throws StateError image-damaged for anything that `writeErofs` did not write
 */
export function readErofs(image: Buffer): ReadImage {
  try {
    return new Reader(image).read();
  } catch (error) {
    if (error instanceof RangeError) throw damaged('a reference beyond its end');
    throw error;
  }
}

/** What an image says of itself in its first block. */
export interface ImageHead {
  readonly bytes: number;
  /** No file in it has an access control list. */
  readonly isWithoutAcls: boolean;
}

/** Returns that; of anything else than such a block nothing that could be relied on. */
export function readImageHead(block: Buffer): ImageHead {
  if (block.length < BLOCK_BYTES) return { bytes: 0, isWithoutAcls: false };
  const label = block.toString('latin1', LABEL_OFFSET, LABEL_OFFSET + NO_ACL_LABEL.length);
  return {
    bytes: block.readUInt32LE(SUPER_OFFSET + 36) * BLOCK_BYTES,
    isWithoutAcls: label === NO_ACL_LABEL,
  };
}

function damaged(found: string): StateError {
  return new StateError('image-damaged', `cannot read an image: found ${found}; need it made again`);
}

class Reader {
  readonly #image: Buffer;
  readonly #inodes = new Map<number, ImageNode>();

  constructor(image: Buffer) {
    this.#image = image;
  }

  read(): ReadImage {
    const image = this.#image;
    if (image.length < BLOCK_BYTES || image.readUInt32LE(SUPER_OFFSET) !== SUPER_MAGIC)
      throw damaged('no EROFS superblock');
    const head = Buffer.from(image.subarray(SUPER_OFFSET, BLOCK_BYTES));
    const sum = head.readUInt32LE(4);
    head.writeUInt32LE(0, 4);
    if ((head.readUInt32LE(8) & COMPAT_CHECKSUM) === 0 || crc32c(head) !== sum)
      throw damaged('a superblock with another checksum');
    if (head.readUInt8(12) !== BLOCK_BITS) throw damaged('another block size');
    const root = this.#node(head.readUInt16LE(14), 0);
    if (root.kind !== 'directory') throw damaged('a root that is no directory');
    return { root, inodes: this.#inodes };
  }

  #node(number: number, depth: number): ImageNode {
    const known = this.#inodes.get(number);
    if (known?.kind === 'directory') throw damaged('a directory with two names');
    if (known) return known;
    if (depth > MAX_DEPTH) throw damaged(`more than ${MAX_DEPTH} directories in each other`);
    const at = number * SLOT_BYTES;
    const format = this.#image.readUInt16LE(at);
    if ((format & 1) !== INODE_EXTENDED) throw damaged('a compact inode');
    const node = this.#make(at, format >> 1, depth, number);
    this.#inodes.set(number, node);
    return node;
  }

  #make(at: number, layout: number, depth: number, number: number): ImageNode {
    const image = this.#image;
    const count = image.readUInt16LE(at + 2);
    const xattrBytes = count === 0 ? 0 : XATTR_HEADER_BYTES + 4 * (count - 1);
    const mode = image.readUInt16LE(at + 4);
    const all = this.#xattrs(at + INODE_BYTES, xattrBytes);
    const attributes: InodeAttributes = {
      mode: mode & ~S_IFMT,
      uid: image.readUInt32LE(at + 24),
      gid: image.readUInt32LE(at + 28),
      mtimeSeconds: Number(image.readBigInt64LE(at + 32)),
      mtimeNanoseconds: image.readUInt32LE(at + 40),
      xattrs: all.filter(([name]) => name !== REDIRECT && name !== METACOPY),
    };
    const size = Number(image.readBigUInt64LE(at + 8));
    const data = (): Buffer => this.#data(at, layout, size, at + INODE_BYTES + xattrBytes);
    switch (mode & S_IFMT) {
      case FILE_TYPES.directory.mode:
        return { ...attributes, kind: 'directory', children: this.#children(data(), depth, number) };
      case FILE_TYPES.file.mode:
        return { ...attributes, kind: 'file', size, content: contentOf(layout, all, data) };
      case FILE_TYPES.symlink.mode:
        return { ...attributes, kind: 'symlink', target: data().toString('latin1') };
      case FILE_TYPES.fifo.mode:
        return { ...attributes, kind: 'fifo' };
      case FILE_TYPES.socket.mode:
        return { ...attributes, kind: 'socket' };
      case FILE_TYPES.character.mode:
      case FILE_TYPES.block.mode: {
        const device = image.readUInt32LE(at + 16);
        return {
          ...attributes,
          kind: (mode & S_IFMT) === FILE_TYPES.block.mode ? 'block' : 'character',
          major: (device >>> 8) & 0xfff,
          minor: (device & 0xff) | ((device >>> 12) & 0xfff00),
        };
      }
      default:
        throw damaged('an inode of no type');
    }
  }

  #xattrs(at: number, length: number): readonly Xattr[] {
    const found: Xattr[] = [];
    for (let next = at + XATTR_HEADER_BYTES; next < at + length; ) {
      const nameBytes = this.#image.readUInt8(next);
      const index = this.#image.readUInt8(next + 1);
      const valueBytes = this.#image.readUInt16LE(next + 2);
      const nameAt = next + XATTR_ENTRY_BYTES;
      const prefix = XATTR_PREFIXES.find(([, number]) => number === index)?.[0];
      if (prefix === undefined) throw damaged(`an extended attribute of kind ${index}`);
      const value = this.#slice(nameAt + nameBytes, valueBytes);
      found.push([`${prefix}${this.#slice(nameAt, nameBytes).toString('latin1')}`, Buffer.from(value)]);
      next += Math.ceil((XATTR_ENTRY_BYTES + nameBytes + valueBytes) / 4) * 4;
    }
    return found;
  }

  #data(at: number, layout: number, size: number, tailAt: number): Buffer {
    const tailBytes = layout === LAYOUT.inline ? size % BLOCK_BYTES : 0;
    const own = size - tailBytes;
    const blockAt = this.#image.readUInt32LE(at + 16) * BLOCK_BYTES;
    if (own === 0) return this.#slice(tailAt, tailBytes);
    return Buffer.concat([this.#slice(blockAt, own), this.#slice(tailAt, tailBytes)]);
  }

  #slice(at: number, length: number): Buffer {
    if (at + length > this.#image.length) throw damaged('a reference beyond its end');
    return this.#image.subarray(at, at + length);
  }

  #children(data: Buffer, depth: number, own: number): ReadonlyMap<string, ImageNode> {
    const children = new Map<string, ImageNode>();
    for (let at = 0; at < data.length; at += BLOCK_BYTES) {
      const block = data.subarray(at, at + BLOCK_BYTES);
      const count = block.readUInt16LE(8) / DIRENT_BYTES;
      for (let i = 0; i < count; i++) {
        const nameAt = block.readUInt16LE(i * DIRENT_BYTES + 8);
        const end = i + 1 < count ? block.readUInt16LE((i + 1) * DIRENT_BYTES + 8) : block.length;
        const name = block.toString('latin1', nameAt, end).replace(/\0.*$/s, '');
        if (name === '.' || name === '..') continue;
        const number = Number(block.readBigUInt64LE(i * DIRENT_BYTES));
        if (number === own || name === '' || name.includes('/')) throw damaged('a bad name');
        children.set(name, this.#node(number, depth + 1));
      }
    }
    return children;
  }
}

function contentOf(layout: number, xattrs: readonly Xattr[], data: () => Buffer): FileContent {
  if (layout !== LAYOUT.chunks) return { bytes: Buffer.from(data()) };
  const redirect = xattrs.find(([name]) => name === REDIRECT)?.[1] ?? new Uint8Array(0);
  const [, first, rest] = OBJECT.exec(Buffer.from(redirect).toString('latin1')) ?? [];
  if (first === undefined || rest === undefined) throw damaged('a file without object');
  return { object: `${first}${rest}` };
}
