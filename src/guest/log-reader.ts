/**
 * Reads a guest's log while syscalld writes it: `log` grows, and is now and then renamed to `log.1`, whose predecessor
 * is gone then (native/log.c).
 */
import { type FSWatcher, watch } from 'node:fs';
import { type FileHandle, open, stat } from 'node:fs/promises';
import { endianness } from 'node:os';
import { dirname } from 'node:path';
import { type LogRecord, LogRecordReader } from '../spec/log-records.ts';

const CHUNK_BYTES = 64 * 1024;
/** inotify tells of changes; this is for a file system that does not. */
const POLL_MS = 1000;

/** One of the files, held open: so its inode number is not given to another meanwhile. */
interface LogFile {
  readonly handle: FileHandle;
  readonly inode: number;
  /** Of what was there when the file was opened. */
  readonly size: number;
  /** Up to where `records` has read. */
  offset: number;
  records: LogRecordReader;
}

/** The log of one guest, from its oldest record on. */
export class GuestLog implements AsyncDisposable {
  readonly #path: string;
  /** In the order they were written; the last one may still grow. */
  #files: readonly LogFile[];

  private constructor(path: string, files: readonly LogFile[]) {
    this.#path = path;
    this.#files = files;
  }

  /** Opens the log; a guest that never wrote has none, which reads as an empty one. */
  static async open(path: string): Promise<GuestLog> {
    return new GuestLog(path, await openUnknown(path, []));
  }

  /** Yields the records that were there at `open`, some at a time; may be called again. They are valid until the next. */
  async *stored(): AsyncGenerator<readonly LogRecord[]> {
    for (const file of this.#files) {
      file.offset = 0;
      file.records = newReader();
      yield* read(file, file.size);
    }
  }

  /**
   * Yields the records that came after `stored`, until `ended` is resolved and all is read, or `signal` is aborted.
   *
   * Nothing is lost when the log is rotated, unless it is rotated twice before we come to read: then what the log itself
   * has given up is missing.
   */
  async *follow(ended: Promise<unknown>, signal: AbortSignal): AsyncGenerator<readonly LogRecord[]> {
    using waker = new Waker(dirname(this.#path));
    let isEnded = false;
    const end = (): void => {
      isEnded = true;
      waker.wake();
    };
    void ended.then(end, end);
    signal.addEventListener('abort', end, { once: true });
    while (!signal.aborted) {
      // Taken before the reads: they see all that was written until then.
      const isLast = isEnded;
      yield* this.#readOn();
      if (isLast) return;
      await waker.wait(POLL_MS);
    }
  }

  async *#readOn(): AsyncGenerator<readonly LogRecord[]> {
    for (;;) {
      const last = this.#files.at(-1);
      if (last) yield* read(last);
      const newer = await openUnknown(this.#path, this.#files);
      if (newer.length === 0) return;
      // Now that there is a newer file, nothing more comes into this one.
      if (last) yield* read(last);
      const all = [...this.#files, ...newer];
      for (const file of newer.slice(0, -1)) yield* read(file);
      // Two stay open: while the newest was not rotated, `log.1` is the one before it.
      this.#files = all.slice(-2);
      await closeAll(all.slice(0, -2));
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await closeAll(this.#files);
  }
}

function newReader(): LogRecordReader {
  return new LogRecordReader(endianness() === 'LE');
}

/** Opens the files that are not among the known ones, older first. */
async function openUnknown(path: string, known: readonly LogFile[]): Promise<readonly LogFile[]> {
  const older = `${path}.1`;
  const found: LogFile[] = [];
  for (;;) {
    const first = await openFile(older);
    const second = await openFile(path);
    const now = await stat(older).catch(() => undefined);
    const isRotated = now?.ino !== first?.inode;
    for (const file of [first, isRotated ? undefined : second]) {
      const isNew = file !== undefined && ![...known, ...found].some((one) => one.inode === file.inode);
      if (isNew) found.push(file);
      else await file?.handle.close();
    }
    if (!isRotated) return found;
    // Rotated while we looked: what was opened as the newest is now the older one, or was skipped.
    await second?.handle.close();
  }
}

async function openFile(path: string): Promise<LogFile | undefined> {
  try {
    const handle = await open(path);
    const { ino, size } = await handle.stat();
    return { handle, inode: ino, size, offset: 0, records: newReader() };
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return undefined;
    throw error;
  }
}

async function* read(
  file: LogFile,
  end: number = Number.POSITIVE_INFINITY,
): AsyncGenerator<readonly LogRecord[]> {
  const buffer = Buffer.allocUnsafe(CHUNK_BYTES);
  while (file.offset < end) {
    const length = Math.min(CHUNK_BYTES, end - file.offset);
    const { bytesRead } = await file.handle.read(buffer, 0, length, file.offset);
    if (bytesRead === 0) return;
    file.offset += bytesRead;
    yield [...file.records.push(buffer.subarray(0, bytesRead))];
  }
}

async function closeAll(files: readonly LogFile[]): Promise<void> {
  for (const file of files) await file.handle.close();
}

/** Sleeps until something changes in a directory. */
class Waker implements Disposable {
  readonly #watcher: FSWatcher | undefined;
  #isAwake = false;
  #resolve: (() => void) | undefined;

  constructor(directory: string) {
    try {
      this.#watcher = watch(directory, () => {
        this.wake();
      });
      // The directory is deleted with an ephemeral guest; the reader's end comes another way.
      this.#watcher.on('error', () => {
        this.wake();
      });
    } catch {
      this.#watcher = undefined; // no inotify instance left, or no directory: looking from time to time will do
    }
  }

  wake(): void {
    this.#isAwake = true;
    this.#resolve?.();
  }

  /** Resolves when `wake` was called since the last time, or after some time. */
  async wait(timeoutMs: number): Promise<void> {
    if (!this.#isAwake) {
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, timeoutMs);
        this.#resolve = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
    this.#resolve = undefined;
    this.#isAwake = false;
  }

  [Symbol.dispose](): void {
    this.#watcher?.close();
    this.#resolve?.();
  }
}
