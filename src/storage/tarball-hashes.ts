import { statSync } from 'node:fs';
import { join } from 'node:path';
import { readIfThere, writeVolatile } from '../sys/files.ts';

/** The sha256 of archives by what `fileIdentity` says of them, so that each is read once. */
export type TarballHashes = ReadonlyMap<string, string>;

/** The oldest are forgotten; a forgotten archive is only read again. */
const MAX_ENTRIES = 256;
const MAX_BYTES = 1024 * 1024;

function pathOf(directory: string): string {
  return join(directory, 'tarballs.json');
}

/** Reads the remembered hashes; a missing or damaged file is an empty one. */
export function readTarballHashes(directory: string): TarballHashes {
  const path = pathOf(directory);
  const size = statSync(path, { throwIfNoEntry: false })?.size ?? 0;
  if (size === 0 || size > MAX_BYTES) return new Map();
  let value: unknown;
  try {
    value = JSON.parse(readIfThere(path) ?? '');
  } catch (error) {
    if (error instanceof SyntaxError) return new Map();
    throw error;
  }
  if (typeof value !== 'object' || value === null) return new Map();
  const isHash = (entry: readonly [string, unknown]): entry is [string, string] =>
    typeof entry[1] === 'string' && /^[\da-f]{64}$/.test(entry[1]);
  return new Map(Object.entries(value).filter(isHash));
}

/** Replaces the remembered hashes in one step. */
export function writeTarballHashes(directory: string, hashes: TarballHashes): void {
  const path = pathOf(directory);
  const kept = [...hashes].slice(-MAX_ENTRIES);
  // Lost in a power cut, it costs a second reading.
  writeVolatile(path, `${JSON.stringify(Object.fromEntries(kept))}\n`);
}
