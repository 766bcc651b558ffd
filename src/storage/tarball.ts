import { chmodSync, mkdirSync, readFileSync, rmdirSync, statSync, unlinkSync, writeFileSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { UserError } from '../base/errors.ts';
import { Program } from '../sys/program.ts';
import type { Archive } from './helper/tasks.ts';
import type { ArchiveFile } from './helper-process.ts';
import { cancelled, describeWaitStatus, waitStatusOf } from './host-command.ts';
import { usrLinks } from './host-skeleton.ts';
import type { StorageMachine } from './machine.ts';
import { TarListing } from './tar-listing.ts';
import { type TarCompression, unpackTar } from './tar-program.ts';

/** How far an import is. */
export interface ImportProgress {
  /** Bytes of the archive read so far. */
  readonly readBytes: number;
  readonly totalBytes: number;
  /** Members unpacked so far. */
  readonly entries: number;
}

/** Bounds of an import, so that a small archive cannot fill the host. */
export interface ImportLimits {
  readonly maxBytes: number;
  readonly maxEntries: number;
}

/** What an archive may hold unless said otherwise. */
export const DEFAULT_IMPORT_LIMITS: ImportLimits = { maxBytes: 64 * 1024 ** 3, maxEntries: 4_000_000 };

const POLL_MS = 100;
const MESSAGE_BYTES = 2048;
const MAGIC: readonly (readonly [string, TarCompression])[] = [
  ['1f8b', '--gzip'],
  ['fd377a585a00', '--xz'],
  ['28b52ffd', '--zstd'],
  ['425a68', '--bzip2'],
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

/** How an archive is imported. */
export interface ImportOptions {
  /** What it is called in errors. */
  readonly shown: string;
  /** Ends the import. */
  readonly signal: AbortSignal | undefined;
}

/**
 * Unpacks an archive into `<workDir>/root`; what it needed beside that is gone when it succeeds.
 *
 * @param workDir an empty directory that only root can enter
 * @throws UserError invalid-archive, archive-too-big, foreign-owner; StateError cancelled
 */
export async function importTarball(
  machine: StorageMachine,
  path: string,
  workDir: string,
  limits: ImportLimits,
  onProgress: (progress: ImportProgress) => void,
  { signal, shown }: ImportOptions,
): Promise<void> {
  const place = (name: string): string => join(workDir, name);
  mkdirSync(place('root'));
  chmodSync(place('root'), 0o755); // whatever the umask is
  mkdirSync(place('jail'));
  writeFileSync(place('names'), '');
  writeFileSync(place('messages'), '');
  const what = `import ${shown}`;
  const worker = machine.newObject();
  try {
    const archive = await openArchive(machine, what, path, worker);
    const program = new Program(machine.abi);
    const object = machine.newObject();
    const status = unpackTar(program, {
      archiveFd: archive.fd,
      compression: await compressionOf(path),
      root: place('root'),
      jail: place('jail'),
      names: place('names'),
      messages: place('messages'),
      usrLinks: usrLinks('/').map(({ path: name, target }) => [name, target] as const),
      maxFileBytes: limits.maxBytes,
      object,
    });
    program.returns(status);
    const stop = (): void => machine.signal(object, 9);
    const watch = new Watch(place('names'), limits, archive, onProgress, stop);
    const ended = waitStatusOf(machine, what, program, object, { worker, signal });
    await watch.until(ended);
    watch.check(shown);
    const waitStatus = await ended;
    if (waitStatus !== 0) throw notAnArchive(shown, waitStatus, place('messages'));
  } catch (error) {
    if (!signal?.aborted) throw error;
    throw cancelled(what);
  } finally {
    machine.drop(worker);
  }
  for (const name of ['names', 'messages']) unlinkSync(place(name));
  rmdirSync(place('jail'));
}

interface OpenArchive {
  readonly fd: number;
  readonly pid: number;
  readonly totalBytes: number;
}

/** Opens the archive in a worker that stays: its offset, shared with tar's stdin, tells how far tar is. */
async function openArchive(
  machine: StorageMachine,
  what: string,
  path: string,
  worker: number,
): Promise<OpenArchive> {
  const program = new Program(machine.abi);
  program.park = worker;
  const fd = program.sys(
    'openat',
    [program.flags('AT_FDCWD'), path, program.flags('O_RDONLY', 'O_CLOEXEC')],
    { about: path },
  );
  const pid = program.sys('getpid', []);
  const outcome = await machine.run(what, program);
  return { fd: outcome.result(fd), pid: outcome.result(pid), totalBytes: statSync(path).size };
}

/** Returns an archive with what undoes its compression. */
export async function archiveAt(path: string): Promise<Archive & ArchiveFile> {
  const compression = await compressionOf(path);
  switch (compression) {
    case '--xz':
      return { name: path, path, compression: undefined, program: 'xz' };
    case '--bzip2':
      return { name: path, path, compression: undefined, program: 'bzip2' };
    case '--gzip':
      return { name: path, path, compression: 'gzip' };
    default:
      return { name: path, path, compression: compression === '--zstd' ? 'zstd' : undefined };
  }
}

async function compressionOf(path: string): Promise<TarCompression> {
  await using handle = await open(path, 'r');
  const { buffer, bytesRead } = await handle.read(Buffer.alloc(8), 0, 8, 0);
  const head = buffer.subarray(0, bytesRead).toString('hex');
  return MAGIC.find(([magic]) => head.startsWith(magic))?.[1];
}

/** Follows tar by what it prints, and stops it when the archive goes too far. */
class Watch {
  readonly #names: string;
  readonly #limits: ImportLimits;
  readonly #archive: OpenArchive;
  readonly #onProgress: (progress: ImportProgress) => void;
  readonly #stop: () => void;
  readonly #listing = new TarListing();

  constructor(
    names: string,
    limits: ImportLimits,
    archive: OpenArchive,
    onProgress: (progress: ImportProgress) => void,
    stop: () => void,
  ) {
    this.#names = names;
    this.#limits = limits;
    this.#archive = archive;
    this.#onProgress = onProgress;
    this.#stop = stop;
  }

  /** Resolves when `ended` has settled and everything tar printed was read. */
  async until(ended: Promise<unknown>): Promise<void> {
    let isOver = false;
    const over = ended.then(
      () => {
        isOver = true;
      },
      () => {
        isOver = true;
      },
    );
    await using handle = await open(this.#names, 'r');
    const chunk = Buffer.alloc(256 * 1024);
    for (;;) {
      const isLast = isOver;
      for (let n = chunk.length; n > 0; ) {
        ({ bytesRead: n } = await handle.read(chunk, 0, chunk.length, null));
        this.#listing.push(chunk.subarray(0, n));
      }
      this.#onProgress({ ...this.#progress(isLast), entries: this.#listing.totals.entries });
      if (isLast) return;
      if (this.#excess() !== undefined) this.#stop();
      await Promise.race([over, sleep(POLL_MS)]);
    }
  }

  #progress(isOver: boolean): Omit<ImportProgress, 'entries'> {
    const { fd, pid, totalBytes } = this.#archive;
    if (isOver) return { readBytes: totalBytes, totalBytes };
    try {
      const position = /^pos:\s*(\d+)/.exec(readFileSync(`/proc/${pid}/fdinfo/${fd}`, 'utf8'))?.[1];
      return { readBytes: Number(position ?? 0), totalBytes };
    } catch {
      return { readBytes: totalBytes, totalBytes }; // the worker has ended since
    }
  }

  #excess(): readonly [code: string, text: string] | undefined {
    const { entries, bytes, foreignOwner } = this.#listing.totals;
    const { maxEntries, maxBytes } = this.#limits;
    if (foreignOwner !== undefined) {
      return [
        'foreign-owner',
        `found owner of ${JSON.stringify(foreignOwner)}; need user and group ids below 65536`,
      ];
    }
    if (entries > maxEntries) return ['archive-too-big', `found more than ${maxEntries} members; need fewer`];
    if (bytes > maxBytes) return ['archive-too-big', `found more than ${maxBytes} bytes of files; need less`];
    return undefined;
  }

  /** Throws what is wrong with the archive by what tar printed. */
  check(shown: string): void {
    const [code, text] = this.#excess() ?? [];
    if (code !== undefined) throw new UserError(code, `cannot import ${shown}: ${text}`);
  }
}

function notAnArchive(shown: string, waitStatus: number, messages: string): UserError {
  const lines = readFileSync(messages, 'latin1')
    .slice(0, MESSAGE_BYTES)
    .split('\n')
    .filter((line) => line !== '' && !/Removing leading|Exiting with failure/.test(line));
  const found = (lines[0] ?? `tar ended with ${describeWaitStatus(waitStatus)}`).replace(
    /[^\x20-\x7e]/g,
    '?',
  );
  return new UserError(
    'invalid-archive',
    `cannot import ${shown}: found ${JSON.stringify(found)}; need a whole tar archive without hostile members`,
    { details: { messages: lines.slice(0, 10) } },
  );
}
