/**
 * Numbers of the EROFS format, which is little-endian everywhere.
 *
 * @see fs/erofs/erofs_fs.h; EROFS since Linux 5.4, chunk-based files since 5.15
 */

/** Where the superblock begins. */
export const SUPER_OFFSET = 1024;
export const SUPER_MAGIC = 0xe0f5e1e2;
export const BLOCK_BITS = 12;
export const BLOCK_BYTES: number = 1 << BLOCK_BITS;
/** The superblock has a crc32c; times of inodes are modification times. */
export const COMPAT_CHECKSUM = 1;
export const COMPAT_MTIME = 2;
export const INCOMPAT_CHUNKED_FILE = 4;

/** Where the superblock has the volume's name, of 16 bytes at most. */
export const LABEL_OFFSET: number = SUPER_OFFSET + 64;
/** Name of a volume in which no file has an access control list; without a name it may be that one has. */
export const NO_ACL_LABEL = 'no-acl';

/** An inode's number is its place in the image, in units of this. */
export const SLOT_BYTES = 32;
/** An inode of the extended form. */
export const INODE_BYTES = 64;
export const INODE_EXTENDED = 1;

/** Where an inode's data is; bits 1 to 3 of its format. */
export const LAYOUT = { plain: 0, inline: 2, chunks: 4 } as const;

/** A chunk that is a hole. */
export const NULL_ADDRESS = 0xffffffff;

export const XATTR_HEADER_BYTES = 12;
export const XATTR_ENTRY_BYTES = 4;

/** What the first part of an attribute's name is written as; the longest that fits. */
export const XATTR_PREFIXES: readonly (readonly [prefix: string, index: number])[] = [
  ['user.', 1],
  ['system.posix_acl_access', 2],
  ['system.posix_acl_default', 3],
  ['trusted.', 4],
  ['security.', 6],
];

export const DIRENT_BYTES = 12;

/** File types: of a mode (inode(7)), and in a directory. */
export const FILE_TYPES = {
  file: { mode: 0o100000, dirent: 1 },
  directory: { mode: 0o040000, dirent: 2 },
  character: { mode: 0o020000, dirent: 3 },
  block: { mode: 0o060000, dirent: 4 },
  fifo: { mode: 0o010000, dirent: 5 },
  socket: { mode: 0o140000, dirent: 6 },
  symlink: { mode: 0o120000, dirent: 7 },
} as const;

/** Returns the crc32c of bytes as EROFS has it: seed all ones, not inverted at the end. */
export function crc32c(bytes: Uint8Array): number {
  let crc = 0xffffffff;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0x82f63b78 : 0);
  }
  return crc >>> 0;
}
