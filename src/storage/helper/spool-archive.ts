/** Writes an archive that comes by a descriptor, which may be a user's pipe, to a file, without its compression. */
import { closeSync, openSync } from 'node:fs';
import { pipeline } from 'node:stream/promises';
import { createGunzip, createZstdDecompress } from 'node:zlib';
import { UserError } from '../../base/errors.ts';
import { readSome, writeAll } from './fd-io.ts';
import type { SpoolResult, SpoolTask } from './tasks.ts';

const PIECE_BYTES = 256 * 1024;
const HEAD_BYTES = 4;
const MAGIC = { zstd: '28b52ffd', gzip: '1f8b' } as const;

/** Does a task; `advance` is called with each piece. */
export async function spoolArchive(task: SpoolTask, inFd: number, advance: () => void): Promise<SpoolResult> {
  const out = openSync(task.to, 'wx', 0o600);
  let bytes = 0;
  const take = (piece: Uint8Array): void => {
    bytes += piece.length;
    if (bytes > task.maxBytes) {
      throw new UserError(
        'archive-too-big',
        `cannot import an archive: found more than ${task.maxBytes} bytes; need less, or --max-size`,
      );
    }
    writeAll(out, piece);
    advance();
  };
  try {
    const head = readHead(inFd);
    const magic = head.toString('hex');
    const decompress = magic.startsWith(MAGIC.zstd)
      ? createZstdDecompress()
      : magic.startsWith(MAGIC.gzip)
        ? createGunzip()
        : undefined;
    if (decompress === undefined) for (const piece of pieces(inFd, head)) take(piece);
    else {
      await pipeline(pieces(inFd, head), decompress, async (source: AsyncIterable<Uint8Array>) => {
        for await (const piece of source) take(piece);
      });
    }
  } catch (error) {
    if (
      error instanceof Error &&
      'code' in error &&
      /^(?:Z_|ZSTD_|ERR_ZSTD|ERR_ZLIB)/.test(String(error.code))
    )
      throw damaged(error.message);
    throw error;
  } finally {
    closeSync(out);
  }
  return { bytes };
}

function damaged(found: string): UserError {
  return new UserError(
    'invalid-archive',
    `cannot import an archive: found ${JSON.stringify(found)}; need a whole one`,
  );
}

function readHead(fd: number): Buffer {
  const head = Buffer.alloc(HEAD_BYTES);
  let length = 0;
  for (let count = 1; count > 0 && length < head.length; length += count)
    count = readSome(fd, head.subarray(length));
  return head.subarray(0, length);
}

function* pieces(fd: number, head: Buffer): Generator<Buffer> {
  yield head;
  for (;;) {
    const piece = Buffer.allocUnsafe(PIECE_BYTES);
    const count = readSome(fd, piece);
    if (count === 0) return;
    yield piece.subarray(0, count);
  }
}
