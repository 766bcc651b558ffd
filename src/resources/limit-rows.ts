/**
 * The limits table of Linux-VServer (`/proc/virtual/XID/limit`, `vlimit`): its rows, what each counts, and what enforces a
 * limit today.
 *
 * Two rows are the cgroups' own (limits.ts: PROC, RSS). For the others there is no controller: an IPC namespace has limits
 * of its own, the network fence counts sockets, setrlimit(2) holds per process or per user, and two rows nothing can limit.
 */

/** Rows in the order of the table. */
export const LIMIT_ROWS = [
  'PROC',
  'VM',
  'VML',
  'RSS',
  'ANON',
  'FILES',
  'OFD',
  'LOCKS',
  'SOCK',
  'MSGQ',
  'SHM',
  'SEMA',
  'SEMS',
  'DENT',
] as const;
/** Name of a row. */
export type LimitRowName = (typeof LIMIT_ROWS)[number];

/** Limits of a guest that no cgroup controller enforces; absent: none. Sizes in bytes. */
export interface ContextLimits {
  /** VM: address space. */
  readonly addressSpaceBytes?: number;
  /** VML: locked memory. */
  readonly lockedMemoryBytes?: number;
  /** ANON: private writable memory. */
  readonly anonymousBytes?: number;
  /** FILES: open files. */
  readonly openFiles?: number;
  /** OFD: file descriptors. */
  readonly fileDescriptors?: number;
  /** LOCKS: file locks. */
  readonly fileLocks?: number;
  /** SOCK: sockets. */
  readonly sockets?: number;
  /** MSGQ: bytes in message queues. */
  readonly messageQueueBytes?: number;
  /** SHM: System V shared memory. */
  readonly sharedMemoryBytes?: number;
  /** SEMA: sets of System V semaphores. */
  readonly semaphoreSets?: number;
  /** SEMS: System V semaphores in all sets. */
  readonly semaphores?: number;
  /** DENT: cached names of files. */
  readonly dentries?: number;
}
/** Name of such a limit. */
export type ContextLimitName = keyof ContextLimits;

/**
 * Whom a limit holds for: the guest as a whole, each of its users, each of its processes, or nobody, for the kernel has
 * no such limit.
 */
export type LimitScope = 'guest' | 'user' | 'process' | 'none';

/** What is known of a row. */
export interface LimitRowSpec {
  readonly row: LimitRowName;
  /** Name and number in `vlimit`. */
  readonly option: string;
  readonly number: number;
  /** What the original's numbers count. */
  readonly unit: 'count' | 'pages' | 'bytes';
  /** Key of the configuration's `limits` for the hard limit. */
  readonly key: string;
  /** The limit that is meant; undefined for PROC and RSS, which cgroups have. */
  readonly limit: ContextLimitName | undefined;
  readonly scope: LimitScope;
  /** What enforces it. */
  readonly mechanism: string;
  /** What a call of the guest gets that runs into it; empty where none does. */
  readonly errno: string;
}

function row(
  name: LimitRowName,
  [option, number, unit]: readonly [string, number, LimitRowSpec['unit']],
  key: string,
  limit: ContextLimitName | undefined,
  [scope, mechanism, errno]: readonly [LimitScope, string, string],
): LimitRowSpec {
  return { row: name, option, number, unit, key, limit, scope, mechanism, errno };
}

/** Every row of the table. */
export const LIMIT_ROW_SPECS: Readonly<Record<LimitRowName, LimitRowSpec>> = {
  PROC: row('PROC', ['nproc', 6, 'count'], 'pids', undefined, ['guest', 'cgroup pids', 'EAGAIN']),
  VM: row('VM', ['as', 9, 'pages'], 'addressSpace', 'addressSpaceBytes', ['process', 'RLIMIT_AS', 'ENOMEM']),
  VML: row('VML', ['memlock', 8, 'pages'], 'lockedMemory', 'lockedMemoryBytes', [
    'process',
    'RLIMIT_MEMLOCK',
    'ENOMEM',
  ]),
  RSS: row('RSS', ['rss', 5, 'pages'], 'memory', undefined, ['guest', 'cgroup memory', 'SIGKILL']),
  ANON: row('ANON', ['anon', 18, 'pages'], 'anonymousMemory', 'anonymousBytes', [
    'process',
    'RLIMIT_DATA',
    'ENOMEM',
  ]),
  FILES: row('FILES', ['nofile', 7, 'count'], 'openFiles', 'openFiles', [
    'process',
    'RLIMIT_NOFILE',
    'EMFILE',
  ]),
  OFD: row('OFD', ['openfd', 17, 'count'], 'fileDescriptors', 'fileDescriptors', [
    'process',
    'RLIMIT_NOFILE',
    'EMFILE',
  ]),
  LOCKS: row('LOCKS', ['locks', 10, 'count'], 'fileLocks', 'fileLocks', ['none', 'nothing', '']),
  SOCK: row('SOCK', ['nsock', 16, 'count'], 'sockets', 'sockets', ['guest', 'network fence', 'ENOBUFS']),
  MSGQ: row('MSGQ', ['msgqueue', 12, 'bytes'], 'messageQueues', 'messageQueueBytes', [
    'guest',
    'kernel.msgmni, msgmnb; RLIMIT_MSGQUEUE',
    'ENOSPC',
  ]),
  SHM: row('SHM', ['shmem', 19, 'pages'], 'sharedMemory', 'sharedMemoryBytes', [
    'guest',
    'kernel.shmall',
    'ENOSPC',
  ]),
  SEMA: row('SEMA', ['semary', 20, 'count'], 'semaphoreSets', 'semaphoreSets', [
    'guest',
    'kernel.sem',
    'ENOSPC',
  ]),
  SEMS: row('SEMS', ['nsems', 21, 'count'], 'semaphores', 'semaphores', ['guest', 'kernel.sem', 'ENOSPC']),
  DENT: row('DENT', ['dentry', 22, 'count'], 'dentries', 'dentries', ['none', 'nothing', '']),
};

/** Returns what is known of a row for one guest: sockets are limited where the fence is around them. */
export function limitRowSpec(name: LimitRowName, isFenced: boolean): LimitRowSpec {
  const spec = LIMIT_ROW_SPECS[name];
  return name === 'SOCK' && !isFenced ? unenforced(spec) : spec;
}

/** Says that nobody enforces a row. */
export function unenforced(spec: LimitRowSpec): LimitRowSpec {
  return { ...spec, scope: 'none', mechanism: 'nothing', errno: '' };
}

/** Resource limits of setrlimit(2) that stand for limits of a guest, soft and hard alike. */
export function rlimitsOf(limits: ContextLimits): Readonly<Record<string, number>> {
  const files = [limits.openFiles, limits.fileDescriptors].filter((one) => one !== undefined);
  const all = {
    as: limits.addressSpaceBytes,
    memlock: limits.lockedMemoryBytes,
    data: limits.anonymousBytes,
    nofile: files.length === 0 ? undefined : Math.min(...files),
    msgqueue: limits.messageQueueBytes,
  };
  return Object.fromEntries(Object.entries(all).filter(([, value]) => value !== undefined)) as Readonly<
    Record<string, number>
  >; // what is left is a number
}

/** What a new IPC namespace has (include/uapi/linux/{sem,msg,shm}.h, since Linux 3.16 and 4.x). */
const DEFAULT = {
  'kernel.shmall': '18446744073692774399',
  'kernel.msgmni': '32000',
  'kernel.msgmnb': '16384',
  'kernel.sem': '32000 1024000000 500 32000',
} as const;
/** A sysctl of the IPC namespace by which a limit is enforced. */
export type IpcSysctl = keyof typeof DEFAULT;
/** All of them. */
const IPC_SYSCTLS: readonly IpcSysctl[] = Object.keys(DEFAULT) as IpcSysctl[]; // its own keys

/** IPCMNI, the most queues or sets of semaphores a namespace may have. */
const IPC_MAX = 32_768;
const MSGMNB = 16_384;

/**
 * Sysctls of the guest's IPC namespace that stand for its limits.
 *
 * Bytes in queues: the product of the largest number of queues and of the bytes in one is never above the limit.
 */
export function ipcSysctlsOf(
  limits: ContextLimits,
  pageBytes: number,
): Readonly<Partial<Record<IpcSysctl, string>>> {
  const { messageQueueBytes, sharedMemoryBytes, semaphoreSets, semaphores } = limits;
  const sysctls: Partial<Record<IpcSysctl, string>> = {};
  if (sharedMemoryBytes !== undefined)
    sysctls['kernel.shmall'] = String(Math.floor(sharedMemoryBytes / pageBytes));
  if (messageQueueBytes !== undefined) {
    const bytesOfOne = Math.max(1, Math.min(MSGMNB, messageQueueBytes));
    sysctls['kernel.msgmnb'] = String(bytesOfOne);
    sysctls['kernel.msgmni'] = String(Math.min(IPC_MAX, Math.floor(messageQueueBytes / bytesOfOne)));
  }
  if (semaphoreSets !== undefined || semaphores !== undefined) {
    const [ofSet, all, operations, sets] = DEFAULT['kernel.sem'].split(' ');
    sysctls['kernel.sem'] = [ofSet, semaphores ?? all, operations, semaphoreSets ?? sets].join(' ');
  }
  return sysctls;
}

/** The same, with the kernel's own value where a limit was taken away. */
export function ipcSysctlsBetween(
  before: ContextLimits,
  after: ContextLimits,
  pageBytes: number,
): Readonly<Partial<Record<IpcSysctl, string>>> {
  const [old, next] = [ipcSysctlsOf(before, pageBytes), ipcSysctlsOf(after, pageBytes)];
  const changed = IPC_SYSCTLS.filter((name) => old[name] !== next[name]);
  return Object.fromEntries(changed.map((name) => [name, next[name] ?? DEFAULT[name]]));
}
