/**
 * Files of our own that must be whole or not there; reading what may be missing.
 */
import {
  closeSync,
  constants,
  fstatSync,
  fsync,
  fsyncSync,
  openSync,
  readFileSync,
  readSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { dirname } from 'node:path';
import { promisify } from 'node:util';

const sync = promisify(fsync);

/**
 * Replaces a file in one step; after a power cut it is the old or the new one (write, fsync, rename, fsync directory).
 */
export function writeDurable(path: string, text: string): void {
  const fresh = `${path}.new`;
  const fd = openSync(fresh, 'w', 0o600);
  try {
    writeSync(fd, text);
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
  renameSync(fresh, path);
  syncDirectory(dirname(path));
}

/**
 * Replaces a file of the run directory in one step, without waiting for the disk: what it tells does not survive a
 * reboot, so only the death of our own process has to be stood.
 */
export function writeVolatile(path: string, text: string): void {
  const fresh = `${path}.new`;
  const fd = openSync(fresh, 'w', 0o600);
  try {
    writeSync(fd, text);
  } finally {
    closeSync(fd);
  }
  renameSync(fresh, path);
}

/** A file that is written but not yet where it is looked for. */
export interface StagedFile {
  /** Where it is; to be on the disk before it is published. */
  readonly path: string;
  /** Puts it where it is looked for, in one step. */
  publish(): Promise<void>;
}

/** Writes a file beside its place, so that it can be brought to the disk together with what it tells of. */
export function stageFile(path: string, text: string): StagedFile {
  const fresh = `${path}.new`;
  writeFileSync(fresh, text, { mode: 0o600 });
  return {
    path: fresh,
    publish: async () => {
      renameSync(fresh, path);
      await syncAll([dirname(path)]);
    },
  };
}

/**
 * Brings files and directories to the disk, all at the same time: they go with one commit of the journal and one flush
 * of the disk, where one after the other would take some for each.
 */
export async function syncAll(paths: readonly string[]): Promise<void> {
  const fds: number[] = [];
  try {
    for (const path of paths) fds.push(openSync(path, 'r'));
    // All of them begin before one has ended, and end before they are closed.
    const results = await Promise.allSettled(fds.map(async (fd) => await sync(fd)));
    const failed = results.find((result) => result.status === 'rejected');
    if (failed) throw failed.reason;
  } finally {
    for (const fd of fds) closeSync(fd);
  }
}

/** Removes a file for good; fine if it is not there. */
export function removeDurable(path: string): void {
  rmSync(path, { force: true });
  syncDirectory(dirname(path));
}

/** Reads a text file; undefined if there is none. */
export function readIfThere(path: string): string | undefined {
  // Often there is none, and an error is dear.
  if (statSync(path, { throwIfNoEntry: false }) === undefined) return undefined;
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return undefined;
    throw error;
  }
}

/**
 * Reads a text file that the operator names. Not a FIFO or device, for which the reader would wait or which never ends.
 *
 * @throws Error whose message says what was found
 */
export function readNamedFile(path: string, maxBytes: number): string {
  const fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
  try {
    const stat = fstatSync(fd);
    if (!stat.isFile()) throw new Error('something that is no file');
    if (stat.size > maxBytes) throw new Error(`more than ${maxBytes} bytes`);
    return readFileSync(fd, 'utf8');
  } finally {
    closeSync(fd);
  }
}

/** Reads at most so many bytes of a file's beginning; none of one that is missing or cannot be read. */
export function readHead(path: string, bytes: number): Buffer {
  const head = Buffer.alloc(bytes);
  try {
    const fd = openSync(path, 'r');
    try {
      return head.subarray(0, readSync(fd, head));
    } finally {
      closeSync(fd);
    }
  } catch {
    return head.subarray(0, 0);
  }
}

/** Writes the names in a directory to the disk. */
export function syncDirectory(path: string): void {
  const fd = openSync(path, 'r');
  try {
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}
