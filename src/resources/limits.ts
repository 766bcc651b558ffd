import { UserError } from '../base/errors.ts';
import type { Limit } from '../spec/cgroup-files.ts';
import { parseCpuList } from '../spec/cpu-list.ts';

/** Limits of a guest. In a plan a field left out means no limit; in a live change, no change. */
export interface Limits {
  /** Memory charged to the guest: anonymous, page cache, kernel objects. Rounded down to pages by the kernel. */
  readonly memoryBytes?: Limit;
  /**
   * Memory and swap together, as Docker counts it. Goes with `memoryBytes`: when that is given and this is not, the
   * two are equal and the guest gets no swap.
   */
  readonly memorySwapBytes?: Limit;
  /** Tasks: processes and threads. */
  readonly pids?: Limit;
  /** Run time per period, over all CPUs. */
  readonly cpuQuotaUs?: Limit;
  /** Length of that period; 100 ms unless given. */
  readonly cpuPeriodUs?: number;
  /** Share of contended CPU time against the other guests: 1..10000, 100 by default. */
  readonly cpuWeight?: number;
  /** Run time of former periods that may be saved up and used beyond the quota; not above it. Since Linux 5.14. */
  readonly cpuBurstUs?: number;
  /** 1: runs only when nobody else wants to, and has no weight. Since Linux 5.15. */
  readonly cpuIdle?: 0 | 1;
  /** CPUs it may use, as `0,2-3`, or `all`. */
  readonly cpuset?: string;
}

/** Name of one limit. */
export type LimitKind = keyof Limits;

/** Limits as the kernel reads them back; undefined where nothing on this host enforces one. */
export interface EffectiveLimits {
  readonly memoryBytes: Limit | undefined;
  readonly memorySwapBytes: Limit | undefined;
  readonly pids: Limit | undefined;
  readonly cpuQuotaUs: Limit | undefined;
  readonly cpuPeriodUs: number | undefined;
  readonly cpuWeight: number | undefined;
  readonly cpuBurstUs: number | undefined;
  readonly cpuIdle: number | undefined;
  readonly cpuset: string | undefined;
}

/** What a guest uses and has used since its cgroup was made; undefined where nothing on this host counts it. */
export interface Usage {
  readonly memoryBytes: number | undefined;
  /** Largest `memoryBytes` so far; version 2 since Linux 5.19. */
  readonly memoryPeakBytes: number | undefined;
  readonly memoryAnonBytes: number | undefined;
  /** Page cache, with tmpfs and shared memory. */
  readonly memoryFileBytes: number | undefined;
  /** Page cache that processes have mapped, shared memory too. */
  readonly memoryMappedBytes: number | undefined;
  /** tmpfs and shared memory. */
  readonly memorySharedBytes: number | undefined;
  /** Kernel objects: stacks, page tables, sockets, dentries, inodes. */
  readonly memoryKernelBytes: number | undefined;
  readonly swapBytes: number | undefined;
  /** How often an allocation met the memory limit; version 1 may not count it for a guest without swap. */
  readonly memoryLimitHits: number | undefined;
  /** Processes killed for want of memory. */
  readonly oomKills: number | undefined;
  /** Tasks: processes and threads. */
  readonly pids: number | undefined;
  /** Largest `pids` so far; since Linux 6.1. */
  readonly pidsPeak: number | undefined;
  /** Forks refused by the pids limit. */
  readonly pidsLimitHits: number | undefined;
  readonly cpuUsageUs: number | undefined;
  readonly cpuUserUs: number | undefined;
  readonly cpuSystemUs: number | undefined;
  /** Periods in which the guest ran under a quota, those in which it ran out, and how long it stood still. */
  readonly cpuPeriods: number | undefined;
  readonly cpuThrottledPeriods: number | undefined;
  readonly cpuThrottledUs: number | undefined;
  /** Block I/O, over all devices; version 2 only. */
  readonly ioReadBytes: number | undefined;
  readonly ioWriteBytes: number | undefined;
}

/** The part of a guest's use that is read of all guests at once, from few files. */
export interface Sample {
  readonly cpuUserUs: number | undefined;
  readonly cpuSystemUs: number | undefined;
  /** Anonymous memory and mapped files: what `vserver-stat` calls resident. */
  readonly residentBytes: number | undefined;
  /** Tasks: processes and threads. */
  readonly pids: number | undefined;
}

/** PID_MAX_LIMIT of a 64-bit kernel (include/linux/threads.h); pids.max takes no more. */
const PIDS_MAX = 4_194_304;

interface Range {
  readonly what: string;
  readonly min: number;
  readonly max: number;
  readonly isMaxAllowed: boolean;
}

/** Quota and period bounds: min_cfs_quota_period and max_cfs_quota_period in kernel/sched/core.c. */
const RANGES: Readonly<Record<Exclude<LimitKind, 'cpuset'>, Range>> = {
  memoryBytes: { what: 'memory limit', min: 1, max: Number.MAX_SAFE_INTEGER, isMaxAllowed: true },
  memorySwapBytes: {
    what: 'memory and swap limit',
    min: 1,
    max: Number.MAX_SAFE_INTEGER,
    isMaxAllowed: true,
  },
  pids: { what: 'task limit', min: 1, max: PIDS_MAX, isMaxAllowed: true },
  cpuQuotaUs: { what: 'CPU quota', min: 1_000, max: Number.MAX_SAFE_INTEGER, isMaxAllowed: true },
  cpuPeriodUs: { what: 'CPU period', min: 1_000, max: 1_000_000, isMaxAllowed: false },
  cpuWeight: { what: 'CPU weight', min: 1, max: 10_000, isMaxAllowed: false },
  cpuBurstUs: { what: 'CPU burst', min: 0, max: Number.MAX_SAFE_INTEGER, isMaxAllowed: false },
  cpuIdle: { what: 'whether it runs only in idle time', min: 0, max: 1, isMaxAllowed: false },
};

/** Every CPU: no limit. */
export const ALL_CPUS = 'all';

/** Every limit there is. */
export const LIMIT_KINDS: readonly LimitKind[] = [
  'memoryBytes',
  'memorySwapBytes',
  'pids',
  'cpuQuotaUs',
  'cpuPeriodUs',
  'cpuWeight',
  'cpuBurstUs',
  'cpuIdle',
  'cpuset',
];

/** Names the limits that are given. */
export function givenKinds(limits: Limits): readonly LimitKind[] {
  return LIMIT_KINDS.filter((kind) => limits[kind] !== undefined);
}

/**
 * Checks that each limit is one the kernel can take, and that the two memory limits go together.
 *
 * @throws UserError invalid-value
 */
export function checkLimits(limits: Limits): void {
  for (const kind of givenKinds(limits)) {
    if (kind === 'cpuset') {
      if (limits.cpuset !== ALL_CPUS) parseCpuList(limits.cpuset ?? '');
      continue;
    }
    const { what, min, max, isMaxAllowed } = RANGES[kind];
    const value = limits[kind];
    if (isMaxAllowed && value === 'max') continue;
    if (typeof value === 'number' && Number.isSafeInteger(value) && value >= min && value <= max) continue;
    const orMax = isMaxAllowed ? ', or "max"' : '';
    throw new UserError(
      'invalid-value',
      `cannot use ${JSON.stringify(value)} as ${what}; need a whole number from ${min} to ${max}${orMax}`,
    );
  }
  if (limits.memoryBytes !== undefined) memoryPair(limits.memoryBytes, limits.memorySwapBytes);
}

/** The pair of memory limits, complete. */
export interface MemoryLimits {
  readonly memoryBytes: Limit;
  readonly memorySwapBytes: Limit;
}

/**
 * Completes the pair of memory limits: without a total, memory and swap together get as much as memory alone.
 *
 * @throws UserError invalid-value when the total is below the memory limit
 */
export function memoryPair(memoryBytes: Limit, memorySwapBytes: Limit = memoryBytes): MemoryLimits {
  if (memorySwapBytes !== 'max' && (memoryBytes === 'max' || memorySwapBytes < memoryBytes)) {
    throw new UserError(
      'invalid-value',
      `cannot use ${memorySwapBytes} as memory and swap limit: found a memory limit of ${memoryBytes}; ` +
        'need a total that is not below it',
    );
  }
  return { memoryBytes, memorySwapBytes };
}
