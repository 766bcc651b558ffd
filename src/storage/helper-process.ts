/**
 * Runs the storage helper (helper/main.ts): our own code in a process of its own, for what would hold vserverd up or
 * make it grow.
 *
 *     worker ──▶ first process (pid and network namespaces of its own; their end is the end of all)
 *                   ├──▶ machine: its root is the tree; runs what Node cannot do
 *                   └──▶ helper: reads the tree by descriptor, tells by a file
 */
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { BugError, StateError, UserError } from '../base/errors.ts';
import { type Import, Program, type Result } from '../sys/program.ts';
import { planSideMachine } from '../sys/side-machine.ts';
import { StepError } from '../sys/syscalld.ts';
import {
  HELPER_FD,
  type HelperLine,
  type HelperProgress,
  type HelperTask,
  type TaskResults,
} from './helper/tasks.ts';
import { cancelled, describeWaitStatus, runHostCommand, waitStatusOf } from './host-command.ts';
import { openDirectory, type StorageMachine } from './machine.ts';
import { planDecompressor, planNoCapabilities, planReadOnlyHost } from './read-only-host.ts';

/** What a caller can have of a helper that runs. */
export interface HelperOptions {
  /** Ends it; nothing of its work is published then. */
  readonly signal?: AbortSignal | undefined;
  /** Called when another part of the work begins. */
  readonly onStep?: ((what: string) => void) | undefined;
  /** Called about ten times a second. */
  readonly onProgress?: ((progress: HelperProgress) => void) | undefined;
}

/** Descriptors of an archive. */
export interface ArchiveEnds {
  readonly archive: Result | Import;
  /** Directory in which the archive is to have a name. */
  readonly target?: Result;
}

/** What a helper has open. */
export interface OpenedTree {
  readonly tree: Result;
  /** The upper layer with a guest's own files. */
  readonly layer?: Result | undefined;
}

/** What a helper works on. */
export interface HelperRun<T extends HelperTask> {
  /** Completes "cannot …". */
  readonly what: string;
  readonly task: T;
  /** Adds steps of the worker that open the tree; without, it is the store. */
  readonly openTree?: (program: Program) => OpenedTree;
  /** Adds steps that open the archive it reads or writes. */
  readonly openArchive?: (program: Program) => ArchiveEnds;
  /** Archives that it reads: absolute paths of files, with the program that undoes their compression, if it is not the helper. */
  readonly archives?: readonly ArchiveFile[];
  /** Directories that it must not see, when it reads archives. */
  readonly hidden?: readonly string[];
  /** Directory that only root can enter; what is in it afterwards is the caller's. */
  readonly workDir: string;
  /** The store's directory; without, the working directory is in it. */
  readonly store?: string;
}

/** An archive of the host. */
export interface ArchiveFile {
  readonly path: string;
  /** `xz` or `bzip2`: a program of the host, where Node has no such decompressor. */
  readonly program?: 'xz' | 'bzip2' | undefined;
}

const POLL_MS = 100;
const MESSAGE_BYTES = 2000;
/** Number of the archive in the worker. */
const ARCHIVE_FD = 112;
const AWAY = 512;
const NAMESPACES = ['CLONE_NEWPID', 'CLONE_NEWNET', 'CLONE_NEWIPC', 'CLONE_NEWUTS'] as const;
const PATH = 'PATH=/usr/sbin:/usr/bin:/sbin:/bin';
/** The heap of one that reads four million files. */
const HEAP_MEGABYTES = 4096;

/**
 * Does a task and returns its result.
 *
 * @throws StateError cancelled when `signal` was aborted; what the task throws
 */
export async function runHelper<T extends HelperTask>(
  machine: StorageMachine,
  run: HelperRun<T>,
  options: HelperOptions = {},
): Promise<TaskResults[T['kind']]> {
  const { what, workDir } = run;
  const { signal } = options;
  if (signal?.aborted) throw cancelled(what);
  const [out, messages] = [join(workDir, 'out'), join(workDir, 'messages')] as const;
  for (const path of [out, messages]) writeFileSync(path, '', { mode: 0o600 });
  const program = new Program(machine.abi);
  const object = machine.newObject();
  program.returns(planHelper(program, run, object, out, messages));
  try {
    const ended = waitStatusOf(machine, what, program, object, { signal });
    await follow(out, ended, options.onProgress);
    const waitStatus = await ended;
    const last = lines(readFileSync(out, 'utf8')).at(-1);
    if (last !== undefined && 'result' in last) return last.result as TaskResults[T['kind']]; // of our own code
    if (last !== undefined && 'error' in last) throw failure(what, last.error);
    throw new BugError(
      'helper-failed',
      `cannot ${what}: found its helper ended with ${describeWaitStatus(waitStatus)}: ${readFileSync(messages, 'latin1').slice(0, MESSAGE_BYTES)}`,
    );
  } catch (error) {
    if (signal?.aborted && (error instanceof StepError || error instanceof BugError)) throw cancelled(what);
    throw error;
  }
}

function failure(
  what: string,
  { kind, code, message }: Extract<HelperLine, { error: unknown }>['error'],
): Error {
  if (kind === 'user') return new UserError(code, message);
  if (kind === 'state') return new StateError(code, message);
  return new BugError(code, `cannot ${what}: ${message}`);
}

function lines(text: string): readonly HelperLine[] {
  return text
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line) as HelperLine); // of our own code
}

/** Tells how far it is until it has ended. */
async function follow(
  out: string,
  ended: Promise<unknown>,
  onProgress: HelperOptions['onProgress'],
): Promise<void> {
  let isOver = false;
  const over = ended.then(
    () => {
      isOver = true;
    },
    () => {
      isOver = true;
    },
  );
  if (onProgress === undefined) {
    await over;
    return;
  }
  await using handle = await open(out, 'r');
  const chunk = Buffer.alloc(64 * 1024);
  for (;;) {
    const isLast = isOver;
    const { bytesRead } = await handle.read(chunk, 0, chunk.length, null);
    const whole = chunk.toString('utf8', 0, bytesRead).split('\n').slice(0, -1).join('\n');
    const last = lines(whole).findLast((line) => 'done' in line);
    if (last) onProgress(last.done);
    if (isLast) return;
    await Promise.race([over, sleep(POLL_MS)]);
  }
}

function planHelper<T extends HelperTask>(
  p: Program,
  { task, openTree, openArchive, archives, hidden, workDir, store: storePath }: HelperRun<T>,
  object: number,
  out: string,
  messages: string,
): ReturnType<typeof runHostCommand> {
  const at = p.flags('AT_FDCWD');
  const work = openDirectory(p, workDir);
  const store =
    storePath === undefined
      ? p.sys('openat', [work, '..', p.flags('O_RDONLY', 'O_DIRECTORY', 'O_CLOEXEC'), 0], { about: 'store' })
      : openDirectory(p, storePath);
  const { tree, layer }: OpenedTree = openTree?.(p) ?? { tree: work };
  const { archive: end, target }: Partial<ArchiveEnds> = openArchive?.(p) ?? {};
  // What comes from a client may have a number that is to be another one's.
  const archive = end && p.sys('dup3', [end, ARCHIVE_FD, p.flags('O_CLOEXEC')], { about: 'archive' });
  const append = p.flags('O_WRONLY', 'O_APPEND', 'O_NOFOLLOW', 'O_CLOEXEC');
  const [outFd, messagesFd] = [out, messages].map((path) =>
    p.sys('openat', [at, path, append], { about: path }),
  );
  const files = archives?.map(({ path }) =>
    p.sys('openat', [at, path, p.flags('O_RDONLY', 'O_CLOEXEC')], { about: path }),
  );
  let socket: Result | undefined;
  let streams: readonly Result[] = [];
  return runHostCommand(p, {
    title: 'storage helper',
    // Who takes files over from a tree by links stays in its mounts.
    namespaces: p.flags(...NAMESPACES, ...(archives === undefined ? [] : ['CLONE_NEWNS'])),
    object,
    setUp: () => {
      p.sys('prctl', [p.flags('PR_SET_PDEATHSIG'), p.flags('SIGKILL')]);
      p.sys('umask', [0o077]);
      const pair = p.data(8);
      p.sys('socketpair', [p.flags('AF_UNIX'), p.flags('SOCK_SEQPACKET', 'SOCK_CLOEXEC'), 0, pair], {
        about: 'to its machine',
      });
      const [mine, other] = [p.load(pair), p.load(pair.at(4, 4))];
      socket = mine;
      p.spawn('machine of the helper', {}, () => {
        p.sys('dup3', [store, HELPER_FD.store, p.flags('O_CLOEXEC')]);
        if (layer) p.sys('dup3', [layer, HELPER_FD.own, p.flags('O_CLOEXEC')]);
        if (target) p.sys('dup3', [target, HELPER_FD.target, p.flags('O_CLOEXEC')]);
        if (target && archive) p.sys('dup3', [archive, HELPER_FD.unnamed, p.flags('O_CLOEXEC')]);
        p.sys('fchdir', [tree]);
        p.sys('chroot', ['.']);
        planSideMachine(p, other, mine);
      });
      p.sys('close', [other]);
      if (archives === undefined) return;
      planReadOnlyHost(p, dirname(workDir), hidden ?? []);
      streams = archives.map(({ program }, i) => {
        const file = files?.[i];
        if (file === undefined || program === undefined) return p.sys('dup', [file ?? tree]);
        return planDecompressor(p, program, file);
      });
    },
    exec: () => {
      p.sys('setsid', []);
      const fds = [tree, outFd, messagesFd, socket, archive, layer] as const;
      for (const [number, fd] of fds.entries())
        if (fd) p.sys('dup3', [fd, number, 0], { about: `as descriptor ${number}` });
      if (files) {
        // Away first from the numbers they are to have.
        const all = files.flatMap((file, i) => [file, streams[i] ?? file]);
        const at = (i: number): number => HELPER_FD.archive + i;
        for (const [i, fd] of all.entries()) p.sys('dup3', [fd, at(i) + AWAY, p.flags('O_CLOEXEC')]);
        for (const i of all.keys()) p.sys('dup3', [at(i) + AWAY, at(i), 0], { about: 'an archive' });
        planNoCapabilities(p);
      }
      const argv = [
        process.execPath,
        `--max-old-space-size=${HEAP_MEGABYTES}`,
        ...OPTIONS,
        mainFile(),
        JSON.stringify(task),
      ];
      p.sys('execve', [process.execPath, p.vector(argv), p.vector([PATH, ...compileCache()])], {
        about: 'helper',
      });
    },
  });
}

/** Trees are walked by functions that call themselves, 2,038 levels deep at most; a process has 8 MiB of stack unless it is told otherwise. */
const OPTIONS = ['--disable-warning=ExperimentalWarning', '--stack-size=4000'] as const;

/** Our own code as this process has it: TypeScript, or what was built of it, all of which is in folders of one depth. */
function mainFile(): string {
  const source = resolve(import.meta.dirname, '../storage/helper/main.ts');
  return existsSync(source) ? source : source.replace(/\.ts$/, '.js');
}

function compileCache(): readonly string[] {
  const directory = process.env['NODE_COMPILE_CACHE'];
  return directory === undefined ? [] : [`NODE_COMPILE_CACHE=${directory}`];
}
