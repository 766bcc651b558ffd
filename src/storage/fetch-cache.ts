/** What is fetched for images: where in the cache it is, and how much of it there is by now. */
import { createHash } from 'node:crypto';
import { existsSync, readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';

const DIGITS = 32;

/** Returns the name that stands for a source in the cache. */
export function cacheKey(source: string): string {
  return createHash('sha256').update(source).digest('hex').slice(0, DIGITS);
}

/** Returns the bytes of the files right in some directories. */
export function fetchedBytes(directories: readonly string[]): number {
  return directories
    .filter((directory) => existsSync(directory))
    .flatMap((directory) => readdirSync(directory).map((name) => join(directory, name)))
    .reduce((sum, path) => sum + (statSync(path, { throwIfNoEntry: false })?.size ?? 0), 0);
}
