import type { Hash } from 'node:crypto';

const ZEROS = Buffer.alloc(1024 * 1024);

/** Adds so many zeros to a hash: a hole of a file, which nobody has to read. */
export function hashZeros(hash: Hash, count: number): void {
  for (let left = count; left > 0; left -= ZEROS.length) hash.update(ZEROS.subarray(0, left));
}
