/** How much of a disk a tree takes. Every directory is reached by its descriptor, and no link is followed. */
import { closeSync, constants, lstatSync, openSync, readdirSync } from 'node:fs';

const BLOCK_BYTES = 512;

/** What a tree takes. */
export interface DiskUsage {
  readonly bytes: number;
  readonly inodes: number;
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
