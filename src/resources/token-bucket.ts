/**
 * The token bucket scheduler of Linux-VServer, as far as CFS bandwidth and weights can be one.
 *
 * The original: a bucket per context and CPU gets `fillRate` tokens each `interval` ticks, up to `tokensMax`; a tick on
 * the CPU costs a token. Of a context with the hard flag whose bucket is empty nothing runs until there are `tokensMin`.
 * With the idle-time flag CPUs that would be idle fill the buckets of those on hold too. A tick is a millisecond here.
 *
 *     bucket                               CFS
 *     fillRate / interval, hard            quota / period, for all CPUs together
 *     tokensMin: what a hold waits for     period: in one as many tokens come as a hold waits for
 *     tokensMax above that                 burst (Linux 5.14)
 *     share under contention               weight, fillRate / interval = 1/4 being the usual one
 *     idle time, too                       no quota: what nobody else wants is shared by weight
 *     only idle time (fillRate 0)          cpu.idle (Linux 5.15)
 *     prioBias                             weight, 1.25 for each step as of nice(2)
 */
import type { Limits } from './limits.ts';

/** A guest's scheduling, by the original's names. */
export interface TokenBucket {
  /** What is over is held (flag sched_hard); otherwise the bucket only decides the share under contention. */
  readonly hard: boolean;
  /** Idle time fills the bucket as well (`vsched --idle-time`). */
  readonly idleTime: boolean;
  /** Tokens each interval; with `interval` absent: the guest's weight and quota are configured as such. */
  readonly fillRate?: number;
  /** Milliseconds between fills. */
  readonly interval?: number;
  readonly tokensMin?: number;
  readonly tokensMax?: number;
  /** -20 first, 19 last. */
  readonly prioBias?: number;
  /** The second fill, by idle time: CFS shares that by weight, so these two change nothing. */
  readonly fillRate2?: number;
  readonly interval2?: number;
  /** The CPUs it may use, as `0,2-3`; absent: all. */
  readonly cpus?: string;
}

/** The original's defaults; its tick of 1/1000 s. */
export const BUCKET_DEFAULTS = { fillRate: 1, interval: 4, tokensMin: 62, tokensMax: 500 } as const;

const US_PER_TICK = 1000;
/** Bounds of the kernel: min_cfs_quota_period, max_cfs_quota_period (kernel/sched/core.c). */
const PERIOD_MS = { min: 1, max: 1000 } as const;
const QUOTA_MIN_US = 1000;
const WEIGHT_MAX = 10_000;
const WEIGHT_OF_DEFAULT_RATE = 100;
/** sched_prio_to_weight: each step of nice(2) is about 10 % of a CPU, a factor of 1.25. */
const FACTOR_OF_NICE = 1.25;

/** Whether a bucket decides the weight, in the place of `limits.cpuWeight`. */
export function hasShare({ fillRate, interval, prioBias }: TokenBucket): boolean {
  return fillRate !== undefined || interval !== undefined || prioBias !== undefined;
}

/** Whether a bucket decides the quota, in the place of `limits.cpus`. */
export function hasQuota({ hard, idleTime, fillRate }: TokenBucket): boolean {
  return hard && !idleTime && fillRate !== 0;
}

/**
 * Returns what a bucket is for CFS.
 *
 * @param cpuCount CPUs the guest may use: a bucket is one of each
 */
export function limitsOfBucket(bucket: TokenBucket, cpuCount: number): Limits {
  return {
    ...(hasShare(bucket) ? { cpuWeight: weightOf(bucket) } : {}),
    ...(hasQuota(bucket) ? bandwidthOf(bucket, cpuCount) : {}),
    cpuIdle: bucket.fillRate === 0 && bucket.idleTime ? 1 : 0,
    cpuset: bucket.cpus ?? 'all',
  };
}

function weightOf({ fillRate, interval, prioBias = 0 }: TokenBucket): number {
  const rate = (fillRate ?? BUCKET_DEFAULTS.fillRate) / (interval ?? BUCKET_DEFAULTS.interval);
  const usual = BUCKET_DEFAULTS.fillRate / BUCKET_DEFAULTS.interval;
  const weight = (rate / usual) * WEIGHT_OF_DEFAULT_RATE * FACTOR_OF_NICE ** -prioBias;
  return Math.min(WEIGHT_MAX, Math.max(1, Math.round(weight)));
}

/** A burst is as much as a quota at most: a bucket of more than two periods' tokens is cut there. */
function bandwidthOf(bucket: TokenBucket, cpuCount: number): Limits {
  const { fillRate, interval, tokensMin, tokensMax } = { ...BUCKET_DEFAULTS, ...bucket };
  const rate = fillRate / interval;
  const periodMs = Math.min(PERIOD_MS.max, Math.max(PERIOD_MS.min, interval, Math.round(tokensMin / rate)));
  const cpuPeriodUs = periodMs * US_PER_TICK;
  const cpuQuotaUs = Math.max(QUOTA_MIN_US, Math.round(cpuPeriodUs * rate * cpuCount));
  const bucketUs = tokensMax * US_PER_TICK * cpuCount;
  return {
    cpuPeriodUs,
    cpuQuotaUs,
    cpuBurstUs: Math.min(cpuQuotaUs, Math.max(0, Math.round(bucketUs - cpuQuotaUs))),
  };
}
