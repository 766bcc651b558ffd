import {
  closeSync,
  constants,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  rmdirSync,
  statSync,
  writeSync,
} from 'node:fs';
import { SysError } from '../base/errors.ts';
import { parsePids } from '../spec/cgroup-files.ts';

/**
 * The five things done to cgroup directories. Paths are absolute and below a cgroup mount, a tree the kernel makes:
 * it has no links, and nothing but a guest's own subdirectory names comes from a guest.
 *
 * Every call throws SysError cgroup-io with the kernel's errno.
 */
export interface CgroupFiles {
  read(path: string): string;
  /** Writes with one write(2): the kernel takes each write as one whole value. Never creates the file. */
  write(path: string, text: string): void;
  mkdir(path: string): void;
  rmdir(path: string): void;
  /** Names of the directories in one. */
  list(path: string): readonly string[];
}

/** Links to a directory without directories in it: its name, and its own ".". */
const LINKS_OF_LEAF = 2;

/** The kernel's cgroup directories. */
export const cgroupFiles: CgroupFiles = {
  read: (path) => attempt('read', path, () => readFileSync(path, 'utf8')),
  write: (path, text) =>
    attempt(`write ${JSON.stringify(text)} to`, path, () => {
      const fd = openSync(path, constants.O_WRONLY | constants.O_TRUNC);
      try {
        writeSync(fd, text);
      } finally {
        closeSync(fd);
      }
    }),
  mkdir: (path) => attempt('make directory', path, () => mkdirSync(path, { mode: 0o755 })),
  rmdir: (path) => attempt('remove directory', path, () => rmdirSync(path)),
  list: (path) =>
    attempt('list', path, () => {
      // Most have none, and the kernel counts them as links (kernfs_refresh_inode in fs/kernfs/inode.c).
      if (statSync(path).nlink === LINKS_OF_LEAF) return [];
      return readdirSync(path, { withFileTypes: true })
        .filter((entry) => entry.isDirectory())
        .map((entry) => entry.name);
    }),
};

function attempt<T>(action: string, path: string, call: () => T): T {
  try {
    return call();
  } catch (error) {
    if (!isNodeError(error)) throw error;
    throw new SysError('cgroup-io', `cannot ${action} ${JSON.stringify(path)}`, {
      cause: error,
      syscall: error.syscall,
      errno: -error.errno,
      errnoName: error.code,
      path,
    });
  }
}

function isNodeError(
  error: unknown,
): error is Error & { readonly syscall: string; readonly errno: number; readonly code: string } {
  return (
    error instanceof Error &&
    'syscall' in error &&
    typeof error.syscall === 'string' &&
    'errno' in error &&
    typeof error.errno === 'number' &&
    'code' in error &&
    typeof error.code === 'string'
  );
}

/** Says whether a failure is the kernel's with one of these errno names. */
export function isErrno(error: unknown, ...names: readonly string[]): boolean {
  return error instanceof SysError && names.includes(error.errnoName);
}

/** Reads a file, or returns undefined when it or its directory is not there. ENODEV: the cgroup was just removed. */
export function readIfPresent(files: CgroupFiles, path: string): string | undefined {
  try {
    return files.read(path);
  } catch (error) {
    if (isErrno(error, 'ENOENT', 'ENODEV')) return undefined;
    throw error;
  }
}

/** Makes a directory unless it is there. */
export function ensureDirectory(files: CgroupFiles, path: string): void {
  try {
    files.mkdir(path);
  } catch (error) {
    if (!isErrno(error, 'EEXIST')) throw error;
  }
}

/** Lists the names of the directories in one; none when it is not there. */
export function childrenOf(files: CgroupFiles, directory: string): readonly string[] {
  try {
    return files.list(directory);
  } catch (error) {
    if (isErrno(error, 'ENOENT', 'ENODEV')) return [];
    throw error;
  }
}

/** Lists a directory and all below it, parents first; a directory that vanishes meanwhile has no children. */
export function subtree(files: CgroupFiles, top: string): readonly string[] {
  const found = [top];
  for (const directory of found) {
    found.push(...childrenOf(files, directory).map((name) => `${directory}/${name}`));
  }
  return found;
}

/**
 * Lists the host pids of the processes in one cgroup; none when it is not there.
 *
 * A threaded cgroup has none of its own (EOPNOTSUPP): the domain above it lists them (cgroup v2, Threads).
 */
export function pidsIn(files: CgroupFiles, directory: string): readonly number[] {
  try {
    return parsePids(files.read(`${directory}/cgroup.procs`));
  } catch (error) {
    if (isErrno(error, 'ENOENT', 'ENODEV', 'EOPNOTSUPP', 'ENOTSUP')) return [];
    throw error;
  }
}
