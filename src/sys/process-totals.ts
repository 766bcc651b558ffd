/**
 * Sums over processes, for figures that no cgroup counts. A process that has ended meanwhile adds nothing.
 */
import { readdirSync, readFileSync, statSync } from 'node:fs';

/** What some processes have and have done. */
export interface ProcessTotals {
  /** Open file descriptors, each process's own. */
  readonly openFiles: number;
  /** Storage I/O of the processes and of those they have waited for, pages made dirty included. */
  readonly ioReadBytes: number;
  readonly ioWriteBytes: number;
}

/** Pages of address space of some processes, what is not in memory too (`VSZ`). */
export function virtualPagesOf(pids: readonly number[], procRoot = '/proc'): number {
  let pages = 0;
  for (const pid of pids) pages += Number.parseInt(readOf(`${procRoot}/${pid}/statm`) ?? '0', 10);
  return pages;
}

/** Adds up open files and I/O of some processes: two more reads of /proc for each. */
export function totalsOf(pids: readonly number[], procRoot = '/proc'): ProcessTotals {
  const totals = { openFiles: 0, ioReadBytes: 0, ioWriteBytes: 0 };
  for (const pid of pids) {
    totals.openFiles += countOpenFiles(`${procRoot}/${pid}/fd`);
    const io = readOf(`${procRoot}/${pid}/io`) ?? '';
    totals.ioReadBytes += Number(/^read_bytes: (\d+)$/m.exec(io)?.[1] ?? 0);
    totals.ioWriteBytes += Number(/^write_bytes: (\d+)$/m.exec(io)?.[1] ?? 0);
  }
  return totals;
}

/** Bytes of memory that some processes have locked. */
export function lockedBytesOf(pids: readonly number[], procRoot = '/proc'): number {
  let kib = 0;
  for (const pid of pids)
    kib += Number(/^VmLck:\s*(\d+) kB$/m.exec(readOf(`${procRoot}/${pid}/status`) ?? '')?.[1] ?? 0);
  return kib * 1024;
}

/** How many file locks some processes hold. */
export function locksOf(pids: readonly number[], procRoot = '/proc'): number {
  const holders = new Set(pids);
  const locks = (readOf(`${procRoot}/locks`) ?? '').matchAll(/^\d+: (?!-> )\S+ +\S+ +\S+ +(\d+) /gm);
  return [...locks].filter(([, pid]) => holders.has(Number(pid))).length;
}

/** Lists the pids of all processes that the host sees. */
export function allPids(procRoot = '/proc'): readonly number[] {
  return readdirSync(procRoot)
    .filter((name) => /^\d+$/.test(name))
    .map(Number);
}

/** The directory's size is the number of its entries since Linux 6.2, and 0 before. */
function countOpenFiles(directory: string): number {
  return attempt(() => statSync(directory).size) || (attempt(() => readdirSync(directory).length) ?? 0);
}

function readOf(path: string): string | undefined {
  return attempt(() => readFileSync(path, 'utf8'));
}

/** Undefined when the process has gone: ENOENT, or ESRCH with the file open already. */
function attempt<T>(look: () => T): T | undefined {
  try {
    return look();
  } catch (error) {
    if (error instanceof Error && 'code' in error && (error.code === 'ENOENT' || error.code === 'ESRCH'))
      return undefined;
    throw error;
  }
}
