/**
 * Processes of the host as /proc tells them.
 */
import { readFileSync } from 'node:fs';

/** Names a process for ever: a pid may be given again, but not with the same start. */
export interface ProcessIdentity {
  readonly pid: number;
  /** Clock ticks after boot, field 22 of /proc/PID/stat (proc_pid_stat(5)). */
  readonly startTicks: number;
}

/** Returns who has a pid now; undefined if nobody, or only a process that has ended. */
export function identifyProcess(pid: number, procRoot = '/proc'): ProcessIdentity | undefined {
  let text: string;
  try {
    // As UTF-8, though a name may be anything else: Node reads that in one step, a third of the time.
    text = readFileSync(`${procRoot}/${pid}/stat`, 'utf8');
  } catch {
    return undefined; // ended between two looks
  }
  // The command's name may hold anything, blanks and parentheses too; what follows the last one may not.
  const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
  if (fields[0] === 'Z' || fields[0] === 'X') return undefined;
  return { pid, startTicks: Number(fields[19]) };
}

/** Whether exactly that process still lives. */
export function isAlive(process: ProcessIdentity, procRoot = '/proc'): boolean {
  return identifyProcess(process.pid, procRoot)?.startTicks === process.startTicks;
}

/**
 * Whether a signal would surely come through to a process 1 of a pid namespace now: it blocks or handles it, for what is
 * left at its default is ignored there (pid_namespaces(7)). False, though it would, while it waits in sigtimedwait(2);
 * true if it has ended.
 */
export function takesSignal(pid: number, signal: number, procRoot = '/proc'): boolean {
  let text: string;
  try {
    text = readFileSync(`${procRoot}/${pid}/status`, 'latin1');
  } catch {
    return true; // ended: nothing will come of waiting
  }
  const sets = [...text.matchAll(/^Sig(?:Blk|Cgt):\t([0-9a-f]{16})$/gm)];
  return sets.some(([, mask = '0']) => ((BigInt(`0x${mask}`) >> BigInt(signal - 1)) & 1n) === 1n);
}

/** Identifies this boot of the host. */
export function bootId(procRoot = '/proc'): string {
  return readFileSync(`${procRoot}/sys/kernel/random/boot_id`, 'latin1').trim();
}

/** For so long the machine is taken not to have been suspended. */
const CLOCK_CHECK_MS = 1000;
let readAtMs = Number.NEGATIVE_INFINITY;
let readSeconds = 0;

/** Clock ticks of /proc per second as user space sees them (USER_HZ, include/asm-generic/param.h). */
export const TICKS_PER_SECOND = 100;

/** Seconds since boot, suspend included (CLOCK_BOOTTIME), to a few hundredths; reads the kernel's once a second at most. */
export function bootTimeSeconds(): number {
  if (performance.now() - readAtMs > CLOCK_CHECK_MS) {
    readSeconds = Number.parseFloat(readFileSync('/proc/uptime', 'latin1'));
    // After the read: on a busy machine that takes long, and a clock that is ahead of the kernel's would begin a guest
    // before it booted, which the kernel refuses (ERANGE, proc_timens_set_offset() in kernel/time/namespace.c).
    readAtMs = performance.now();
  }
  return readSeconds + (performance.now() - readAtMs) / 1000;
}
