/**
 * The pipes through which the output of a detached guest goes to its log, and how a new syscalld finds them again.
 */
import { type Dir, opendirSync, readlinkSync } from 'node:fs';
import { planNumberPath } from '../sys/number-path.ts';
import type { Program, Result } from '../sys/program.ts';
import type { CommandSpec, Stdio } from './plan-types.ts';

const FD = '/proc/self/fd/';
/** "pipe:[", an inode number, "]". */
const NAME_BYTES = 32;

/** A pipe whose reading end syscalld keeps. */
export interface LogPipe {
  /** The command's end. */
  readonly end: Result;
  readonly inode: Result;
}

/** Adds the pipes of a command whose output is kept. */
export function planLogPipes(p: Program, stdio: CommandSpec['stdio']): ReadonlyMap<Stdio, LogPipe> {
  const pipes = new Map<Stdio, LogPipe>();
  for (const one of stdio) {
    if (one.kind !== 'pipe') continue;
    const pair = p.data(8);
    p.sys('pipe2', [pair, p.flags('O_CLOEXEC')], { about: 'log pipe' });
    const reader = p.load(pair);
    p.keep(reader, one.object);
    const stat = p.struct('stat', {});
    p.sys('fstat', [reader, stat], { about: 'log pipe' });
    // For reading too: without syscalld, the other reader, a guest that writes waits for the next one, and gets no SIGPIPE.
    const path = planNumberPath(p, FD, p.load(pair.at(4, 4)));
    const end = p.sys('openat', [p.flags('AT_FDCWD'), path, p.flags('O_RDWR', 'O_CLOEXEC'), 0], {
      about: 'log pipe',
    });
    pipes.set(one, { end, inode: p.loadField(stat, 'stat', 'st_ino') });
  }
  return pipes;
}

/** Descriptors looked at in search of one pipe: a guest may have millions. */
const LOOKS_MAX = 4096;
/** Places told: the guest may close each of them in the very moment. */
const PLACES_MAX = 4;

/**
 * Returns the places where the processes have a pipe open, as paths in /proc, the likely ones first. The guest may close
 * it, or put another file there, at any time.
 */
export function* findPipe(pids: readonly number[], inode: number, procRoot = '/proc'): Generator<string> {
  let looks = 0;
  let places = 0;
  for (const path of descriptors(pids, procRoot)) {
    if (looks++ === LOOKS_MAX || places === PLACES_MAX) return;
    if (linkOf(path) !== nameOf(inode)) continue;
    places++;
    yield path;
  }
}

function* descriptors(pids: readonly number[], procRoot: string): Generator<string> {
  for (const fd of [1, 2]) for (const pid of pids) yield `${procRoot}/${pid}/fd/${fd}`;
  for (const pid of pids) {
    let directory: Dir;
    try {
      directory = opendirSync(`${procRoot}/${pid}/fd`);
    } catch {
      continue; // it has ended
    }
    try {
      for (let entry = directory.readSync(); entry; entry = directory.readSync()) {
        if (entry.name !== '1' && entry.name !== '2') yield `${procRoot}/${pid}/fd/${entry.name}`;
      }
    } finally {
      directory.closeSync();
    }
  }
}

function linkOf(path: string): string | undefined {
  try {
    return readlinkSync(path);
  } catch {
    return undefined; // closed, or the process has ended
  }
}

/**
 * Adds the steps by which syscalld keeps a pipe's reading end that it finds open in a guest. Whatever the guest has put
 * there by now, it is only looked at (O_PATH opens nothing of a file system), and by a name that no file can have: one
 * with a path begins with "/", one of pipefs is made of "pipe:" and its inode number (fs/pipe.c, pipefs_dname).
 */
export function planReopenPipe(p: Program, path: string, inode: number, object: number): void {
  const at = p.flags('AT_FDCWD');
  const found = p.sys('openat', [at, path, p.flags('O_PATH', 'O_CLOEXEC'), 0], { about: `"${path}"` });
  const own = planNumberPath(p, FD, found);
  const name = p.data(NAME_BYTES);
  p.sys('readlinkat', [at, own, name, NAME_BYTES], { about: `"${path}"` });
  p.expectBytes(name, Buffer.from(nameOf(inode)), 'ESTALE', `"${path}" is not ${nameOf(inode)}`);
  // The very file that was looked at, by its own number: the guest cannot exchange it any more.
  const flags = p.flags('O_RDONLY', 'O_NONBLOCK', 'O_CLOEXEC');
  p.keep(p.sys('openat', [at, own, flags, 0], { about: `"${path}"` }), object);
}

function nameOf(inode: number): string {
  return `pipe:[${inode}]`;
}
