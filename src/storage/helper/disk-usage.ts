/** How much of a disk a tree takes. Every directory is reached by its descriptor, and no link is followed. */
import { closeSync, constants, lstatSync, openSync, readdirSync } from 'node:fs';

const BLOCK_BYTES = 512;

/** Returns the bytes that all below a directory take on disk; a file with several names counts once. */
export function diskUsage(directory: string): number {
  const seen = new Set<string>();
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
        bytes += stat.blocks * BLOCK_BYTES + (stat.isDirectory() ? usageBelow(at) : 0);
      }
    } finally {
      closeSync(fd);
    }
    return bytes;
  };
  return usageBelow(directory);
}
