/**
 * Grammars of the files in a cgroup directory, both versions.
 *
 * @see https://docs.kernel.org/admin-guide/cgroup-v2.html (Interface Files, Format)
 */
import { StateError } from '../base/errors.ts';

/** A number the kernel enforces, or `max` for none. */
export type Limit = number | 'max';

/** What cgroup.events says (cgroup2; `frozen` since Linux 5.2). */
export interface CgroupEvents {
  /** Whether the cgroup or one below it has a live process. */
  readonly populated: boolean;
  readonly frozen: boolean;
}

/**
 * Parses a file that holds one counter.
 *
 * Above 2^53 the nearest representable number is returned: an error below 1 in 2^52.
 *
 * @throws StateError malformed-kernel-text
 */
export function parseCount(text: string): number {
  const digits = text.trim();
  if (!/^\d+$/.test(digits)) throw malformed('a counter', text);
  return Number(digits);
}

/**
 * Parses a file that holds one limit: `max`, or a number.
 *
 * Version 1 has no word for "no limit": a negative number, and any number above 2^53, mean it. Its memory files read
 * 9223372036854771712 then, the largest page count of a 64-bit kernel in bytes.
 *
 * @throws StateError malformed-kernel-text
 */
export function parseLimit(text: string): Limit {
  const word = text.trim();
  if (word === 'max') return 'max';
  if (!/^-?\d+$/.test(word)) throw malformed('a limit', text);
  const value = Number(word);
  return value < 0 || !Number.isSafeInteger(value) ? 'max' : value;
}

/** Formats a limit for version 1, where -1 removes it. */
export function formatLimitV1(limit: Limit): string {
  return limit === 'max' ? '-1' : String(limit);
}

/**
 * Parses a flat keyed file: one `key number` per line, for example cpu.stat.
 *
 * @throws StateError malformed-kernel-text
 */
export function parseFlatKeyed(text: string): ReadonlyMap<string, number> {
  const values = new Map<string, number>();
  for (const line of lines(text)) {
    const at = line.indexOf(' ');
    const value = line.slice(at + 1);
    if (at < 1 || !/^\d+$/.test(value)) throw malformed('a flat keyed file', line);
    values.set(line.slice(0, at), Number(value));
  }
  return values;
}

/**
 * Finds one number in a flat keyed file, without a look at the rest: of a thousand guests that counts.
 *
 * @returns 0 when there is no such key
 */
export function flatKeyedValue(text: string, key: string): number {
  const found = text.startsWith(`${key} `) ? 0 : text.indexOf(`\n${key} `) + 1;
  if (found === 0 && !text.startsWith(`${key} `)) return 0;
  const at = found + key.length + 1;
  const end = text.indexOf('\n', at);
  return parseCount(end === -1 ? text.slice(at) : text.slice(at, end));
}

/**
 * Parses a nested keyed file: one `key sub=value sub=value…` per line, for example io.stat.
 *
 * A key without values is kept with none; io.stat shows such lines for devices without traffic.
 *
 * @throws StateError malformed-kernel-text
 */
export function parseNestedKeyed(text: string): ReadonlyMap<string, ReadonlyMap<string, string>> {
  return new Map(
    lines(text).map((line) => {
      const [key = '', ...pairs] = line.trim().split(' ');
      return [key, new Map(pairs.map((pair) => parsePair(pair, line)))];
    }),
  );
}

function parsePair(pair: string, line: string): readonly [string, string] {
  const at = pair.indexOf('=');
  if (at < 1) throw malformed('a nested keyed file', line);
  return [pair.slice(0, at), pair.slice(at + 1)];
}

/** One line of a pressure file: percents of the time in which tasks waited, and how long in all. */
export interface PressureLine {
  readonly avg10: number;
  readonly avg60: number;
  readonly avg300: number;
  readonly totalUs: number;
}

/** What a pressure file says: `some` task waited, or all that could have run did (`full`). */
export interface Pressure {
  readonly some: PressureLine | undefined;
  readonly full: PressureLine | undefined;
}

/**
 * Parses cpu.pressure, memory.pressure or io.pressure (Linux 4.20; `full` of the CPU since 5.13).
 *
 * @throws StateError malformed-kernel-text
 */
export function parsePressure(text: string): Pressure {
  const fields = parseNestedKeyed(text);
  const line = (key: string): PressureLine | undefined => {
    const values = fields.get(key);
    if (values === undefined) return undefined;
    const of = (name: string): number => {
      const number = Number(values.get(name) ?? Number.NaN);
      if (Number.isNaN(number)) throw malformed('a pressure file', text);
      return number;
    };
    return { avg10: of('avg10'), avg60: of('avg60'), avg300: of('avg300'), totalUs: of('total') };
  };
  return { some: line('some'), full: line('full') };
}

/** Parses cgroup.controllers or cgroup.subtree_control: words on one line. */
export function parseWords(text: string): readonly string[] {
  return text.split(/\s+/).filter((word) => word !== '');
}

/**
 * Parses cgroup.procs: one pid per line, in the reader's pid namespace.
 *
 * A process of another pid namespace shows as 0 and is left out: no call could name it.
 *
 * @throws StateError malformed-kernel-text
 */
export function parsePids(text: string): readonly number[] {
  return lines(text)
    .map(parseCount)
    .filter((pid) => pid !== 0);
}

/**
 * Parses cgroup.events.
 *
 * @throws StateError malformed-kernel-text
 */
export function parseEvents(text: string): CgroupEvents {
  const events = parseFlatKeyed(text);
  return { populated: events.get('populated') === 1, frozen: events.get('frozen') === 1 };
}

/**
 * Parses cpu.max: `quota period` in microseconds, the quota possibly `max`.
 *
 * @throws StateError malformed-kernel-text
 */
export function parseCpuMax(text: string): { readonly quotaUs: Limit; readonly periodUs: number } {
  const [quota, period, ...rest] = parseWords(text);
  if (quota === undefined || period === undefined || rest.length > 0) throw malformed('cpu.max', text);
  return { quotaUs: parseLimit(quota), periodUs: parseCount(period) };
}

function lines(text: string): readonly string[] {
  return text.split('\n').filter((line) => line !== '');
}

function malformed(what: string, found: string): StateError {
  return new StateError(
    'malformed-kernel-text',
    `cannot parse ${what}: found ${JSON.stringify(found.slice(0, 200))}; need the kernel's documented form`,
  );
}
