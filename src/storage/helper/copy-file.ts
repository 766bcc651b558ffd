/** Copies a file that takes less room than it is long as what it is: with its holes. */
import {
  closeSync,
  constants,
  copyFileSync,
  fstatSync,
  ftruncateSync,
  openSync,
  readSync,
  writeSync,
} from 'node:fs';

const BLOCK_BYTES = 512;
const PIECE_BYTES = 1024 * 1024;

/** Copies the bytes of a file to one that is not there yet; blocks are shared where the file system can. */
export function copyFile(from: string | Buffer, to: string | Buffer): void {
  const source = openSync(from, constants.O_RDONLY | constants.O_NONBLOCK);
  try {
    const { size, blocks } = fstatSync(source);
    if (blocks * BLOCK_BYTES >= size) copyFileSync(from, to, constants.COPYFILE_FICLONE);
    else copyPieces(source, to, size);
  } finally {
    closeSync(source);
  }
}

function copyPieces(source: number, to: string | Buffer, size: number): void {
  const target = openSync(to, 'wx', 0o600);
  try {
    const piece = Buffer.allocUnsafeSlow(PIECE_BYTES);
    const zeros = Buffer.alloc(PIECE_BYTES);
    for (let at = 0; at < size; ) {
      const count = readSync(source, piece, 0, PIECE_BYTES, at);
      if (count === 0) break;
      const isZero = piece.compare(zeros, 0, count, 0, count) === 0;
      for (let done = 0; !isZero && done < count; )
        done += writeSync(target, piece, done, count - done, at + done);
      at += count;
    }
    ftruncateSync(target, size);
  } finally {
    closeSync(target);
  }
}
