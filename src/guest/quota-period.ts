/** Days and months of the host's calendar, as periods of a quota. */
import type { QuotaPeriod } from '../network/rules.ts';
import { bootTimeSeconds } from '../sys/process.ts';

/** What a quota is for. */
export type QuotaUnit = 'day' | 'month';

const DAY_MS = 86_400_000;
const NS_PER_MS = 1_000_000;

/** A period, and the two after it, in the host's time zone. */
export interface Periods {
  /** Numbers of their first days: they rise, also when a quota that was by day becomes one by month or the other way. */
  readonly numbers: QuotaPeriod['numbers'];
  /** When each of the two later ones begins. */
  readonly starts: readonly [next: Date, after: Date];
}

/** Returns the period that a moment is in. */
export function periodsAt(unit: QuotaUnit, now: Date): Periods {
  const [year, month, day] = [now.getFullYear(), now.getMonth(), now.getDate()];
  const start = (n: number): Date =>
    unit === 'day' ? new Date(year, month, day + n) : new Date(year, month + n, 1);
  const [first, next, after] = [start(0), start(1), start(2)];
  return { numbers: [numberOf(first), numberOf(next), numberOf(after)], starts: [next, after] };
}

/** Days since 1970, of a day of the host's calendar: how long it is and when it begins does not matter. */
function numberOf(date: Date): number {
  return Date.UTC(date.getFullYear(), date.getMonth(), date.getDate()) / DAY_MS;
}

/** Returns a period as the fence has it: by the clock that is not set. */
export function fencePeriod(
  { numbers, starts }: Periods,
  now: Date,
  bootSeconds: number = bootTimeSeconds(),
): QuotaPeriod {
  const at = (date: Date): bigint =>
    BigInt(Math.round(bootSeconds * 1e9)) + BigInt(date.getTime() - now.getTime()) * BigInt(NS_PER_MS);
  return { numbers, ends: [at(starts[0]), at(starts[1])] };
}
