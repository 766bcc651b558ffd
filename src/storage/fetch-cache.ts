/** What is fetched for images: where in the cache it is, and how much of it there is by now. */
import { createHash } from 'node:crypto';
import { existsSync, globSync, readdirSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';

const DIGITS = 32;
/** Relative to the cache: of programs that run there (contained-command.ts), and of skopeo (containers/image, oci/layout). */
const UNFINISHED = [
  '*/{tmp,log}-????????????',
  'debian/*/{tmp,log}-????????????',
  'oci/layout-*/oci-put-blob*',
];

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

/**
 * Deletes what those who fetched something and were killed have left of what is no use to the next one.
 *
 * @param name the directory of the cache that nobody else has now; undefined: nobody has any
 */
export function discardUnfinished(cache: string, name?: string): void {
  const found = globSync(UNFINISHED, { cwd: cache });
  for (const path of found.filter((one) => name === undefined || one.startsWith(`${name}/`)))
    rmSync(join(cache, path), { recursive: true, force: true }); // only root has been there
}
