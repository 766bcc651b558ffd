/**
 * A file system tree as a value: what an image is made of, and what is read from one.
 */

/**
 * A path in a tree is shorter than the kernel's limit of 4,095 (PATH_MAX), by what leads to the tree where it is read. It bounds how
 * many directories are in each other too: 2,038.
 */
export const MAX_PATH_BYTES = 4075;

/** An extended attribute, its name whole: `user.note`, `security.capability`. */
export type Xattr = readonly [name: string, value: Uint8Array];

/** What every inode has. */
export interface InodeAttributes {
  /** The permission bits with setuid, setgid and sticky, without the type. */
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  /** Modification time: whole seconds, which may be negative, and nanoseconds. */
  readonly mtimeSeconds: number;
  readonly mtimeNanoseconds: number;
  readonly xattrs: readonly Xattr[];
}

/** Where a regular file's bytes are. */
export type FileContent =
  /** In the store, under the sha256 of its bytes in hex. */
  | { readonly object: string }
  /** In the image itself. */
  | { readonly bytes: Uint8Array };

/**
 * An inode. One that is found under several names is one value there. Names are bytes, written as latin1: one character
 * each, so that their order is that of the bytes.
 */
export type ImageNode =
  | (InodeAttributes & { readonly kind: 'directory'; readonly children: ReadonlyMap<string, ImageNode> })
  | (InodeAttributes & { readonly kind: 'file'; readonly size: number; readonly content: FileContent })
  /** Its target in latin1. */
  | (InodeAttributes & { readonly kind: 'symlink'; readonly target: string })
  | (InodeAttributes & {
      readonly kind: 'character' | 'block';
      readonly major: number;
      readonly minor: number;
    })
  | (InodeAttributes & { readonly kind: 'fifo' | 'socket' });

/** The root of a tree, or a directory in it. */
export type ImageDirectory = Extract<ImageNode, { readonly kind: 'directory' }>;

/** Returns the name of a file in the object directory: `ab/cdef…`. */
export function objectPath(hash: string): string {
  return `${hash.slice(0, 2)}/${hash.slice(2)}`;
}

/** Whether an extended attribute is an access control list (acl(5)). */
export function isAcl([name]: Xattr): boolean {
  return name === 'system.posix_acl_access' || name === 'system.posix_acl_default';
}

/** What stands for "no such file" in a layer of an overlay. */
export function isWhiteout(node: ImageNode): boolean {
  return node.kind === 'character' && node.major === 0 && node.minor === 0;
}
