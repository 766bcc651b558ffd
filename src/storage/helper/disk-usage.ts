/** How much of a disk a tree takes. Every directory is reached by its descriptor, and no link is followed. */
import { type BigIntStats, closeSync, constants, lstatSync, openSync, readdirSync } from 'node:fs';

const BLOCK_BYTES = 512;

/** What a tree takes. */
export interface DiskUsage {
  readonly bytes: number;
  readonly inodes: number;
}

/** Counts what a guest's own files take on disk while its tree is read. */
export class OwnUsage {
  readonly #own: string;
  readonly #imageSizes: ReadonlySet<bigint> | undefined;
  readonly #directories = new Set(['']);
  /** On disk; a file with several names counts once. */
  bytes = 0;

  /**
   * @param own the upper layer, which has its files at the paths that they have in the tree
   * @param imageSizes sizes of files of the image below; undefined: below is something else
   */
  constructor(own: string, imageSizes: ReadonlySet<bigint> | undefined) {
    this.#own = own;
    this.#imageSizes = imageSizes;
  }

  /** Takes an inode of the tree, a directory before what is in it; path in latin1. */
  add(stat: BigIntStats, path: string): void {
    if (!this.#directories.has(path.slice(0, Math.max(0, path.lastIndexOf('/'))))) return;
    // Of one as large as one of the image's, maybe the attributes alone are the guest's.
    const isOwn = stat.isFile() && this.#imageSizes?.has(stat.size) === false;
    const at = Buffer.from(`${this.#own}/${path}`, 'latin1');
    const own = isOwn ? stat : lstatSync(at, { bigint: true, throwIfNoEntry: false });
    if (own?.isDirectory()) this.#directories.add(path);
    this.bytes += Number(own?.blocks ?? 0n) * BLOCK_BYTES;
  }
}

/** Returns what all below a directory takes on disk; a file with several names counts once. */
export function diskUsage(directory: string): DiskUsage {
  const seen = new Set<string>();
  let inodes = 0;
  const usageBelow = (path: string | Buffer): number => {
    const fd = openSync(path, constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW);
    let bytes = 0;
    try {
      for (const name of readdirSync(`/proc/self/fd/${fd}`, 'latin1')) {
        const at = Buffer.from(`/proc/self/fd/${fd}/${name}`, 'latin1');
        const stat = lstatSync(at);
        const key = `${stat.dev}:${stat.ino}`;
        if (stat.nlink > 1 && !stat.isDirectory() && seen.has(key)) continue;
        seen.add(key);
        inodes++;
        bytes += stat.blocks * BLOCK_BYTES + (stat.isDirectory() ? usageBelow(at) : 0);
      }
    } finally {
      closeSync(fd);
    }
    return bytes;
  };
  return { bytes: usageBelow(directory), inodes };
}
