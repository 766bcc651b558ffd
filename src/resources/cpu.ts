import { formatLimitV1, parseCount, parseCpuMax, parseFlatKeyed, parseLimit } from '../spec/cgroup-files.ts';
import { type CgroupFiles, readIfPresent } from './cgroup-fs.ts';
import type { CgroupWrite, Controller } from './controller.ts';
import type { EffectiveLimits, LimitKind, Limits } from './limits.ts';

const CPU_MAX = 'cpu.max';
const CPU_WEIGHT = 'cpu.weight';
const CPU_STAT = 'cpu.stat';
const CPU_SHARES = 'cpu.shares';
const CPU_CFS_QUOTA = 'cpu.cfs_quota_us';
const CPU_CFS_PERIOD = 'cpu.cfs_period_us';
const CPU_CFS_BURST = 'cpu.cfs_burst_us';
const CPU_MAX_BURST = 'cpu.max.burst';
const CPU_IDLE = 'cpu.idle';

/** The kernel's default (kernel/sched/core.c, default_cfs_period). */
const DEFAULT_PERIOD_US = 100_000;
const WEIGHT_DEFAULT = 100;
const WEIGHT_MAX = 10_000;
const SHARES_DEFAULT = 1024;

/**
 * Converts a weight to version 1 shares: `shares = round(weight × 1024 / 100)`.
 *
 * This is what the kernel makes of a version 2 weight (sched_weight_from_cgroup() in kernel/sched/sched.h) and what
 * systemd does (cgroup_cpu_weight_to_shares()), so a weight means the same with either driver and ratios between
 * guests are kept. The logarithmic formula of runc 1.3.2 and crun 1.23 goes the other way, from shares of an OCI
 * file to a weight, and keeps the ends of the two ranges instead.
 */
export function sharesFromWeight(weight: number): number {
  return Math.round((weight * SHARES_DEFAULT) / WEIGHT_DEFAULT);
}

/** Converts version 1 shares to the nearest weight: sched_weight_to_cgroup(), clamped to 1..10000. */
export function weightFromShares(shares: number): number {
  return Math.min(WEIGHT_MAX, Math.max(1, Math.round((shares * WEIGHT_DEFAULT) / SHARES_DEFAULT)));
}

/**
 * CPU time by version 1 files.
 *
 * The period goes first: for a moment the old quota counts per new period, which no check of the kernel refuses as
 * long as the parent cgroup has no quota of its own.
 *
 * @see https://docs.kernel.org/scheduler/sched-bwc.html; since Linux 3.2
 */
export const cpuV1: Controller = {
  limitFiles: {
    cpuQuotaUs: CPU_CFS_QUOTA,
    cpuPeriodUs: CPU_CFS_PERIOD,
    cpuWeight: CPU_SHARES,
    cpuBurstUs: CPU_CFS_BURST,
    cpuIdle: CPU_IDLE,
  },
  plan: (directory, limits, enforced) => [
    ...(enforced.has('cpuQuotaUs')
      ? [
          { path: `${directory}/${CPU_CFS_PERIOD}`, text: String(limits.cpuPeriodUs ?? DEFAULT_PERIOD_US) },
          { path: `${directory}/${CPU_CFS_QUOTA}`, text: formatLimitV1(limits.cpuQuotaUs ?? 'max') },
        ]
      : []),
    ...(enforced.has('cpuWeight')
      ? [
          {
            path: `${directory}/${CPU_SHARES}`,
            text: String(sharesFromWeight(limits.cpuWeight ?? WEIGHT_DEFAULT)),
          },
        ]
      : []),
    ...planRest(directory, limits, enforced, CPU_CFS_BURST),
  ],
  apply: (files, directory, { cpuPeriodUs, cpuQuotaUs, cpuWeight, cpuBurstUs, cpuIdle }) => {
    const write = (file: string, text: string): void => files.write(`${directory}/${file}`, text);
    if (cpuBurstUs !== undefined) write(CPU_CFS_BURST, '0');
    if (cpuPeriodUs !== undefined) write(CPU_CFS_PERIOD, String(cpuPeriodUs));
    if (cpuQuotaUs !== undefined) write(CPU_CFS_QUOTA, formatLimitV1(cpuQuotaUs));
    if (cpuBurstUs !== undefined && cpuBurstUs > 0) write(CPU_CFS_BURST, String(cpuBurstUs));
    applyShare(files, directory, cpuIdle, () => {
      if (cpuWeight !== undefined) write(CPU_SHARES, String(sharesFromWeight(cpuWeight)));
    });
  },
  readLimits: (files, directory) => {
    const quota = readIfPresent(files, `${directory}/${CPU_CFS_QUOTA}`);
    const period = readIfPresent(files, `${directory}/${CPU_CFS_PERIOD}`);
    const shares = readIfPresent(files, `${directory}/${CPU_SHARES}`);
    return {
      cpuQuotaUs: quota === undefined ? undefined : parseLimit(quota),
      cpuPeriodUs: period === undefined ? undefined : parseCount(period),
      cpuWeight: shares === undefined ? undefined : weightFromShares(parseCount(shares)),
      ...readRest(files, directory, CPU_CFS_BURST),
    };
  },
  readUsage: (files, directory) => {
    const text = readIfPresent(files, `${directory}/${CPU_STAT}`);
    if (text === undefined) return {};
    const stat = parseFlatKeyed(text);
    const throttledNs = stat.get('throttled_time');
    return {
      cpuPeriods: stat.get('nr_periods'),
      cpuThrottledPeriods: stat.get('nr_throttled'),
      cpuThrottledUs: throttledNs === undefined ? undefined : Math.floor(throttledNs / 1000),
    };
  },
  readSample: () => ({}),
};

/**
 * CPU time by version 2 files.
 *
 * @see https://docs.kernel.org/admin-guide/cgroup-v2.html (CPU); since Linux 4.15
 */
export const cpuV2: Controller = {
  limitFiles: {
    cpuQuotaUs: CPU_MAX,
    cpuPeriodUs: CPU_MAX,
    cpuWeight: CPU_WEIGHT,
    cpuBurstUs: CPU_MAX_BURST,
    cpuIdle: CPU_IDLE,
  },
  plan: (directory, limits, enforced) => [
    ...(enforced.has('cpuQuotaUs')
      ? [
          {
            path: `${directory}/${CPU_MAX}`,
            text: `${limits.cpuQuotaUs ?? 'max'} ${limits.cpuPeriodUs ?? DEFAULT_PERIOD_US}`,
          },
        ]
      : []),
    ...(enforced.has('cpuWeight')
      ? [{ path: `${directory}/${CPU_WEIGHT}`, text: String(limits.cpuWeight ?? WEIGHT_DEFAULT) }]
      : []),
    ...planRest(directory, limits, enforced, CPU_MAX_BURST),
  ],
  apply: (files, directory, { cpuPeriodUs, cpuQuotaUs, cpuWeight, cpuBurstUs, cpuIdle }) => {
    if (cpuBurstUs !== undefined) files.write(`${directory}/${CPU_MAX_BURST}`, '0');
    if (cpuPeriodUs !== undefined || cpuQuotaUs !== undefined) {
      const current = parseCpuMax(files.read(`${directory}/${CPU_MAX}`));
      const text = `${cpuQuotaUs ?? current.quotaUs} ${cpuPeriodUs ?? current.periodUs}`;
      files.write(`${directory}/${CPU_MAX}`, text);
    }
    if (cpuBurstUs !== undefined && cpuBurstUs > 0)
      files.write(`${directory}/${CPU_MAX_BURST}`, String(cpuBurstUs));
    applyShare(files, directory, cpuIdle, () => {
      if (cpuWeight !== undefined) files.write(`${directory}/${CPU_WEIGHT}`, String(cpuWeight));
    });
  },
  readLimits: (files, directory) => {
    const max = readIfPresent(files, `${directory}/${CPU_MAX}`);
    const bandwidth = max === undefined ? undefined : parseCpuMax(max);
    const weight = readIfPresent(files, `${directory}/${CPU_WEIGHT}`);
    return {
      cpuQuotaUs: bandwidth?.quotaUs,
      cpuPeriodUs: bandwidth?.periodUs,
      cpuWeight: weight === undefined ? undefined : parseCount(weight),
      ...readRest(files, directory, CPU_MAX_BURST),
    };
  },
  readUsage: (files, directory) => {
    const text = readIfPresent(files, `${directory}/${CPU_STAT}`);
    if (text === undefined) return {};
    const stat = parseFlatKeyed(text);
    return {
      cpuPeriods: stat.get('nr_periods'),
      cpuThrottledPeriods: stat.get('nr_throttled'),
      cpuThrottledUs: stat.get('throttled_usec'),
    };
  },
  readSample: () => ({}),
};

/** The burst after the quota, which it may not exceed; idle after the weight, which nobody may set then. */
function planRest(
  directory: string,
  limits: Limits,
  enforced: ReadonlySet<LimitKind>,
  burstFile: string,
): readonly CgroupWrite[] {
  const burst = { path: `${directory}/${burstFile}`, text: String(limits.cpuBurstUs ?? 0) };
  const idle = { path: `${directory}/${CPU_IDLE}`, text: String(limits.cpuIdle ?? 0) };
  return [...(enforced.has('cpuBurstUs') ? [burst] : []), ...(enforced.has('cpuIdle') ? [idle] : [])];
}

/** A group that only runs in idle time has no weight to set (sched_group_set_shares() in kernel/sched/fair.c). */
function applyShare(
  files: CgroupFiles,
  directory: string,
  cpuIdle: 0 | 1 | undefined,
  setWeight: () => void,
): void {
  const path = `${directory}/${CPU_IDLE}`;
  const idle = cpuIdle ?? (readIfPresent(files, path)?.trim() === '1' ? 1 : 0);
  if (cpuIdle === 0) files.write(path, '0');
  if (idle === 0) setWeight();
  if (cpuIdle === 1) files.write(path, '1');
}

function readRest(files: CgroupFiles, directory: string, burstFile: string): Partial<EffectiveLimits> {
  const burst = readIfPresent(files, `${directory}/${burstFile}`);
  const idle = readIfPresent(files, `${directory}/${CPU_IDLE}`);
  return {
    cpuBurstUs: burst === undefined ? undefined : parseCount(burst),
    cpuIdle: idle === undefined ? undefined : parseCount(idle),
  };
}
