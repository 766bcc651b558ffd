/**
 * Processes as /proc shows them, for people to look at. Names and arguments are what the processes made of them.
 */
import { open } from 'node:fs/promises';
import { parseCmdline, parseProcStat, parseProcStatus } from '../spec/proc-status.ts';

/** One process, seen once. */
export interface ProcessInfo {
  readonly pid: number;
  /** Its pid in each pid namespace, from that of /proc inwards: a guest's process has two or more. */
  readonly nsPids: readonly number[];
  readonly ppid: number;
  /** Effective uid on the host. */
  readonly uid: number;
  /** One letter, for example `R`, `S`, `D`, `Z`. */
  readonly state: string;
  readonly threads: number;
  readonly residentBytes: number | undefined;
  readonly cpuMs: number;
  /** Not to be trusted, and not to be printed unescaped. */
  readonly name: string;
  /** As `name`. Empty for a zombie; cut with "…" when it is long. */
  readonly argv: readonly string[];
}

/** Clock ticks of /proc per second as user space sees them (USER_HZ, include/asm-generic/param.h). */
const TICK_MS = 10;
/** A process may have arguments of megabytes; nobody reads those in a list. */
const CMDLINE_MAX_BYTES = 4096;
const STATUS_MAX_BYTES = 16_384;

/**
 * Reads what is known of some processes. Those that have ended meanwhile are left out.
 *
 * The reads are not on the main thread: a process in an uninterruptible sleep can hold the lock of its own memory, for
 * which a read of its arguments waits.
 */
export async function listProcesses(
  pids: readonly number[],
  procRoot = '/proc',
): Promise<readonly ProcessInfo[]> {
  const processes: ProcessInfo[] = [];
  for (const pid of pids) {
    const process = await readProcess(pid, procRoot);
    if (process !== undefined) processes.push(process);
  }
  return processes;
}

async function readProcess(pid: number, procRoot: string): Promise<ProcessInfo | undefined> {
  try {
    const directory = `${procRoot}/${pid}`;
    const status = parseProcStatus((await readHead(`${directory}/status`, STATUS_MAX_BYTES)).text);
    const times = parseProcStat((await readHead(`${directory}/stat`, STATUS_MAX_BYTES)).text);
    const cmdline = await readHead(`${directory}/cmdline`, CMDLINE_MAX_BYTES);
    return {
      pid,
      nsPids: status.nsPids,
      ppid: status.ppid,
      uid: status.uid,
      state: status.state,
      threads: status.threads,
      residentBytes: status.residentBytes,
      cpuMs: (times.userTicks + times.systemTicks) * TICK_MS,
      name: status.name,
      argv: parseCmdline(cmdline.text, cmdline.isCut),
    };
  } catch (error) {
    // ENOENT: the process is gone; ESRCH: it went while its file was open.
    if (error instanceof Error && 'code' in error && (error.code === 'ENOENT' || error.code === 'ESRCH')) {
      return undefined;
    }
    throw error;
  }
}

async function readHead(path: string, maxBytes: number): Promise<{ text: string; isCut: boolean }> {
  await using file = await open(path);
  const buffer = Buffer.allocUnsafe(maxBytes);
  let length = 0;
  while (length < maxBytes) {
    const { bytesRead } = await file.read(buffer, length, maxBytes - length, null);
    if (bytesRead === 0) break;
    length += bytesRead;
  }
  return { text: buffer.toString('utf8', 0, length), isCut: length === maxBytes };
}
