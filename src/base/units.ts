import { UserError } from './errors.ts';

/** A share of CPU time as the kernel's CFS bandwidth takes it: `quotaUs` of run time in every `periodUs`. */
export interface CpuBandwidth {
  readonly quotaUs: number;
  readonly periodUs: number;
}

const KIB = 1024;
const SIZE_UNITS: readonly string[] = ['b', 'k', 'm', 'g', 't', 'p'];

const DURATION_FACTORS_MS: Readonly<Record<string, number>> = {
  ms: 1,
  s: 1_000,
  m: 60_000,
  h: 3_600_000,
  d: 86_400_000,
};

/** Period of every bandwidth this project writes; the kernel's own default (sched_cfs_bandwidth, Linux 3.2). */
const CPU_PERIOD_US = 100_000;
/** Shortest quota the kernel takes (`min_cfs_quota_period` in kernel/sched/core.c: 1 ms). */
const CPU_MIN_QUOTA_US = 1_000;
/** More CPUs than any kernel is built for (NR_CPUS is at most 8192). */
const MAX_CPUS = 8192;

/**
 * Parses a size such as `512m`, `2g`, `1.5GiB`, `100k` or `42b`; every unit is a power of 1024, as in Docker.
 *
 * @returns bytes, a safe integer; a fraction of a byte is cut off
 * @throws UserError invalid-value
 */
export function parseSize(text: string): number {
  const match = /^(\d+(?:\.\d+)?)(?: ?(?:b|([kmgtp])(?:i?b)?))?$/i.exec(text);
  if (match === null) {
    throw invalidValue('size', text, 'a number with an optional unit b, k, m, g, t or p, for example 512m');
  }
  const [, digits = '', letter = 'b'] = match;
  const factor = KIB ** SIZE_UNITS.indexOf(letter.toLowerCase());
  const bytes = Math.floor(Number(digits) * factor);
  if (!Number.isSafeInteger(bytes)) throw invalidValue('size', text, 'at most 8p');
  return bytes;
}

/**
 * Formats bytes with the largest unit that keeps the value whole, so that `parseSize` gives the same number back.
 *
 * @param bytes a safe integer, not negative
 */
export function formatSize(bytes: number): string {
  let value = bytes;
  let unit = 0;
  while (value !== 0 && value % KIB === 0 && unit < SIZE_UNITS.length - 1) {
    value /= KIB;
    unit++;
  }
  return `${value}${SIZE_UNITS[unit] ?? 'b'}`;
}

/** Formats bytes for people: three significant digits or fewer, for example `1.5GiB`. Loses precision. */
export function formatSizeRounded(bytes: number): string {
  let value = bytes;
  let unit = 0;
  while (value >= KIB && unit < SIZE_UNITS.length - 1) {
    value /= KIB;
    unit++;
  }
  if (unit === 0) return `${value}B`;
  const digits = value < 10 ? Math.round(value * 10) / 10 : Math.round(value);
  return `${digits}${(SIZE_UNITS[unit] ?? 'b').toUpperCase()}iB`;
}

/**
 * Parses a duration such as `30s`, `1m30s`, `250ms`, `1h` or `0`; each unit at most once, largest first.
 *
 * A bare number has no unit to say what it counts and is refused, except 0.
 *
 * @returns milliseconds, a safe integer
 * @throws UserError invalid-value
 */
export function parseDuration(text: string): number {
  if (text === '0') return 0;
  const match = /^(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d+(?:\.\d{1,3})?)s)?(?:(\d+)ms)?$/.exec(text);
  if (match === null || text === '') {
    throw invalidValue('duration', text, 'numbers with units d, h, m, s or ms, for example 1m30s');
  }
  const totalMs = ['d', 'h', 'm', 's', 'ms'].reduce(
    (sum, unit, index) => sum + Number(match[index + 1] ?? 0) * (DURATION_FACTORS_MS[unit] ?? 0),
    0,
  );
  const rounded = Math.round(totalMs);
  if (!Number.isSafeInteger(rounded)) throw invalidValue('duration', text, 'a shorter one');
  return rounded;
}

/**
 * Formats milliseconds so that `parseDuration` gives the same number back, for example `1m30s`.
 *
 * @param durationMs a safe integer, not negative
 */
export function formatDuration(durationMs: number): string {
  let restMs = durationMs;
  let text = '';
  for (const unit of ['d', 'h', 'm', 's', 'ms']) {
    const factorMs = DURATION_FACTORS_MS[unit] ?? 1;
    const count = Math.floor(restMs / factorMs);
    restMs -= count * factorMs;
    if (count > 0) text += `${count}${unit}`;
  }
  return text === '' ? '0' : text;
}

/**
 * Parses a number of CPUs such as `1.5` into CFS bandwidth.
 *
 * @throws UserError invalid-value; below 0.01 the kernel's shortest quota (1 ms) cannot express it
 */
export function parseCpus(text: string): CpuBandwidth {
  const need = `a number of CPUs from 0.01 to ${MAX_CPUS}, for example 1.5`;
  if (!/^\d*\.?\d+$/.test(text)) throw invalidValue('number of CPUs', text, need);
  const quotaUs = Math.round(Number(text) * CPU_PERIOD_US);
  if (quotaUs < CPU_MIN_QUOTA_US || quotaUs > MAX_CPUS * CPU_PERIOD_US) {
    throw invalidValue('number of CPUs', text, need);
  }
  return { quotaUs, periodUs: CPU_PERIOD_US };
}

/**
 * Converts cgroup v1 CPU shares, the unit of Docker's `--cpu-shares`, to a cgroup v2 weight.
 *
 * The curve is the one runc and crun use since 2025; it maps the three fixed points 2, 1024 and 262144 to 1, 100 and
 * 10000, which the older linear formula did not (1024 became 39).
 *
 * @param shares 2..262144
 * @returns weight, 1..10000
 * @see https://github.com/opencontainers/cgroups (ConvertCPUSharesToCgroupV2Value)
 */
export function cpuSharesToWeight(shares: number): number {
  if (shares <= 2) return 1;
  if (shares >= 262_144) return 10_000;
  const log = Math.log2(shares);
  const exponent = (log * log + 125 * log) / 612 - 7 / 34;
  return Math.ceil(10 ** exponent);
}

/** Formats CFS bandwidth as a number of CPUs, for example `1.5`. */
export function formatCpus(bandwidth: CpuBandwidth): string {
  return String(bandwidth.quotaUs / bandwidth.periodUs);
}

/**
 * Parses a percentage such as `5%` or `12.5%`.
 *
 * @returns a ratio from 0 to 1
 * @throws UserError invalid-value
 */
export function parsePercent(text: string): number {
  const [, digits] = /^(\d+(?:\.\d+)?)%$/.exec(text) ?? [];
  const ratio = Number(digits) / 100;
  if (digits === undefined || ratio > 1) throw invalidValue('percentage', text, '0% to 100%');
  return ratio;
}

/**
 * Parses a whole decimal number within bounds, both inclusive.
 *
 * @param what names the number in the error, for example "process limit"
 * @throws UserError invalid-value
 */
export function parseCount(
  text: string,
  what: string,
  min: number,
  max: number = Number.MAX_SAFE_INTEGER,
): number {
  const count = /^\d+$/.test(text) ? Number(text) : Number.NaN;
  if (!Number.isSafeInteger(count) || count < min || count > max) {
    const range = max === Number.MAX_SAFE_INTEGER ? `${min} or more` : `from ${min} to ${max}`;
    throw invalidValue(what, text, `a whole number ${range}`);
  }
  return count;
}

function invalidValue(what: string, text: string, need: string): UserError {
  return new UserError('invalid-value', `cannot read ${what} ${JSON.stringify(text)}; need ${need}`);
}
