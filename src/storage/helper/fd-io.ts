/**
 * Descriptors of a user's: they may be set not to wait, and are left as they are, for others share them.
 */
import { readSync, writeSync } from 'node:fs';

const RETRY_MS = 5;
const SLEEPER = new Int32Array(new SharedArrayBuffer(4));

/** Writes all of it, however long the other end takes. */
export function writeAll(fd: number, bytes: Uint8Array): void {
  for (let at = 0; at < bytes.length; ) at += waiting(() => writeSync(fd, bytes, at));
}

/** Reads what there is; 0 at the end. */
export function readSome(fd: number, buffer: Uint8Array): number {
  return waiting(() => readSync(fd, buffer));
}

function waiting(call: () => number): number {
  for (;;) {
    try {
      return call();
    } catch (error) {
      if (!(error instanceof Error && 'code' in error && error.code === 'EAGAIN')) throw error;
      Atomics.wait(SLEEPER, 0, 0, RETRY_MS);
    }
  }
}
