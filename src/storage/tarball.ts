/** Archives as files: which compression one has, and whether it is the one it was. */
import { statSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { UserError } from '../base/errors.ts';
import type { Archive } from './helper/tasks.ts';
import type { ArchiveFile } from './helper-process.ts';

/** Bounds of an import, so that a small archive cannot fill the host. */
export interface ImportLimits {
  readonly maxBytes: number;
  readonly maxEntries: number;
}

/** What an archive may hold unless said otherwise. */
export const DEFAULT_IMPORT_LIMITS: ImportLimits = { maxBytes: 64 * 1024 ** 3, maxEntries: 4_000_000 };

type Compression = 'gzip' | 'xz' | 'zstd' | 'bzip2';

const MAGIC: readonly (readonly [string, Compression])[] = [
  ['1f8b', 'gzip'],
  ['fd377a585a00', 'xz'],
  ['28b52ffd', 'zstd'],
  ['425a68', 'bzip2'],
];

/**
 * Tells one state of a file from another without reading it.
 *
 * @throws UserError template-missing, invalid-template
 */
export function fileIdentity(path: string): string {
  const stat = statSync(path, { bigint: true, throwIfNoEntry: false });
  if (stat === undefined) {
    throw new UserError(
      'template-missing',
      `cannot use template ${JSON.stringify(path)}: found no such file`,
    );
  }
  if (!stat.isFile()) {
    throw new UserError(
      'invalid-template',
      `cannot use template ${JSON.stringify(path)}: found no regular file; need a tar archive`,
    );
  }
  return `${stat.dev}:${stat.ino}:${stat.size}:${stat.mtimeNs}:${stat.ctimeNs}`;
}

/** Returns an archive with what undoes its compression. */
export async function archiveAt(path: string): Promise<Archive & ArchiveFile> {
  const compression = await compressionOf(path);
  if (compression === 'xz' || compression === 'bzip2')
    return { name: path, path, compression: undefined, program: compression };
  return { name: path, path, compression };
}

async function compressionOf(path: string): Promise<Compression | undefined> {
  await using handle = await open(path, 'r');
  const { buffer, bytesRead } = await handle.read(Buffer.alloc(8), 0, 8, 0);
  const head = buffer.subarray(0, bytesRead).toString('hex');
  return MAGIC.find(([magic]) => head.startsWith(magic))?.[1];
}
