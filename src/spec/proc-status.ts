import { StateError } from '../base/errors.ts';

/** What `/proc/PID/status` tells of a process. */
export interface ProcStatus {
  /** Up to 15 bytes that the process chose itself; line feed and backslash stand escaped, other controls as they are. */
  readonly name: string;
  /** One letter, for example `R`, `S`, `D`, `Z`. */
  readonly state: string;
  readonly ppid: number;
  /** Effective uid, as the user namespace of the reader numbers it. */
  readonly uid: number;
  /** The process's pid in each pid namespace, from the one of the procfs mount inwards. */
  readonly nsPids: readonly number[];
  readonly threads: number;
  /** Resident memory; absent for a zombie and a kernel thread. */
  readonly residentBytes: number | undefined;
}

/** CPU time of a process, from `/proc/PID/stat`, in clock ticks of 1/100 s. */
export interface ProcTimes {
  readonly userTicks: number;
  readonly systemTicks: number;
  /** Since boot. */
  readonly startTicks: number;
}

/**
 * Parses `/proc/PID/status`. The name is the first line and cannot end it: the kernel escapes line feeds in it.
 *
 * @throws StateError malformed-kernel-text
 * @see proc_pid_status(5); NSpid since Linux 4.1
 */
export function parseProcStatus(text: string): ProcStatus {
  const fields = new Map<string, string>();
  for (const line of text.split('\n')) {
    const at = line.indexOf(':\t');
    const key = line.slice(0, at);
    if (at > 0 && !fields.has(key)) fields.set(key, line.slice(at + 2));
  }
  const number = (key: string, index = 0): number => {
    const value = fields.get(key)?.split('\t')[index]?.trim() ?? '';
    if (!/^\d+$/.test(value)) throw malformed('status', `${key}: ${JSON.stringify(value)}`);
    return Number(value);
  };
  const nsPids = (fields.get('NSpid') ?? '').split('\t').map(Number);
  const state = fields.get('State')?.charAt(0) ?? '';
  if (!/^[A-Za-z]$/.test(state)) throw malformed('status', `State: ${JSON.stringify(state)}`);
  if (!nsPids.every((pid) => Number.isSafeInteger(pid) && pid > 0)) throw malformed('status', 'no NSpid');
  const resident = /^\s*(\d+) kB$/.exec(fields.get('VmRSS') ?? '')?.[1];
  return {
    name: fields.get('Name') ?? '',
    state,
    ppid: number('PPid'),
    uid: number('Uid', 1),
    nsPids,
    threads: number('Threads'),
    residentBytes: resident === undefined ? undefined : Number(resident) * 1024,
  };
}

/**
 * Parses the CPU times of `/proc/PID/stat`. The name in it may hold anything, blanks and parentheses too; what follows
 * the last parenthesis may not.
 *
 * @throws StateError malformed-kernel-text
 * @see proc_pid_stat(5), fields 14, 15 and 22
 */
export function parseProcStat(text: string): ProcTimes {
  const fields = text
    .slice(text.lastIndexOf(')') + 2)
    .split(' ')
    .map(Number);
  const [userTicks, systemTicks, startTicks] = [fields[11], fields[12], fields[19]];
  if (userTicks === undefined || systemTicks === undefined || startTicks === undefined) {
    throw malformed('stat', `${fields.length} fields`);
  }
  return { userTicks, systemTicks, startTicks };
}

/**
 * Parses `/proc/PID/cmdline`: arguments that each end in a NUL, or whatever the process wrote over them.
 *
 * @param isCut there was more, so the last argument may be half
 * @returns none for a zombie
 */
export function parseCmdline(text: string, isCut = false): readonly string[] {
  // A process that renames itself (setproctitle) may leave blanks or NULs behind the text.
  const words = text.replace(/[\0 ]+$/, '').split('\0');
  if (words.length === 1 && words[0] === '') return [];
  return isCut ? words.with(-1, `${words.at(-1) ?? ''}…`) : words;
}

function malformed(file: string, found: string): StateError {
  return new StateError('malformed-kernel-text', `cannot parse "/proc/PID/${file}": found ${found}`);
}
