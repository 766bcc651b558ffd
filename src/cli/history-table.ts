/**
 * What guests have used in a span of time, from samples of counters that begin anew with each run.
 */
import { formatTable } from '../base/text-table.ts';
import { formatSizeRounded } from '../base/units.ts';
import type { HistorySample } from '../resources/history.ts';
import { formatCpuTime, formatSpan } from './uptime.ts';

/** One guest over the time it was seen. */
export interface GuestHistory {
  readonly name: string;
  /** Of the first and the last sample: seconds of the epoch. */
  readonly from: number;
  readonly to: number;
  readonly cpuUserUs: number;
  readonly cpuSystemUs: number;
  readonly maxResidentBytes: number;
  readonly maxTasks: number;
  /** Null: never with addresses of its own. */
  readonly receivedBytes: number | null;
  readonly sentBytes: number | null;
  /** Threads too; null: nobody counted them. */
  readonly forks: number | null;
  readonly samples: readonly HistorySample[];
}

const COLUMNS = [
  { title: 'NAME' },
  { title: 'SEEN', align: 'right' },
  { title: '%CPU', align: 'right' },
  { title: 'USER', align: 'right' },
  { title: 'SYSTEM', align: 'right' },
  { title: 'MAX RSS', align: 'right' },
  { title: 'MAX TASKS', align: 'right' },
  { title: 'FORKS', align: 'right' },
  { title: 'RECEIVED', align: 'right' },
  { title: 'SENT', align: 'right' },
] as const;

type Counter = 'cpuUserUs' | 'cpuSystemUs' | 'receivedBytes' | 'sentBytes' | 'forks';

/**
 * Sums up samples of each guest.
 *
 * @param samples by guest, then by time
 */
export function historiesOf(samples: readonly HistorySample[]): readonly GuestHistory[] {
  return [...Map.groupBy(samples, ({ guest }) => guest)].map(([name, own]) => {
    const grown = (counter: Counter): number | null =>
      own.every((sample) => sample[counter] === null)
        ? null
        : own.slice(1).reduce((sum, sample, i) => sum + growth(own[i] ?? sample, sample, counter), 0);
    return {
      name,
      from: own[0]?.at ?? 0,
      to: own.at(-1)?.at ?? 0,
      cpuUserUs: grown('cpuUserUs') ?? 0,
      cpuSystemUs: grown('cpuSystemUs') ?? 0,
      maxResidentBytes: Math.max(...own.map(({ residentBytes }) => residentBytes)),
      maxTasks: Math.max(...own.map(({ tasks }) => tasks)),
      receivedBytes: grown('receivedBytes'),
      sentBytes: grown('sentBytes'),
      forks: grown('forks'),
      samples: own,
    };
  });
}

/** In another run all it has counted is new. */
function growth(before: HistorySample, after: HistorySample, counter: Counter): number {
  const value = after[counter] ?? 0;
  const isSameRun = after.uptimeSeconds >= before.uptimeSeconds && value >= (before[counter] ?? 0);
  return isSameRun ? value - (before[counter] ?? 0) : value;
}

/** Formats histories as a table. */
export function formatHistories(histories: readonly GuestHistory[]): string {
  const size = (bytes: number | null): string => (bytes === null ? '-' : formatSizeRounded(bytes));
  return formatTable(
    COLUMNS,
    histories.map((one) => {
      const seconds = one.to - one.from;
      const percent = seconds > 0 ? (one.cpuUserUs + one.cpuSystemUs) / (seconds * 10_000) : 0;
      return [
        one.name,
        formatSpan(seconds),
        percent.toFixed(1),
        formatCpuTime(one.cpuUserUs / 1000),
        formatCpuTime(one.cpuSystemUs / 1000),
        size(one.maxResidentBytes),
        String(one.maxTasks),
        one.forks === null ? '-' : String(one.forks),
        size(one.receivedBytes),
        size(one.sentBytes),
      ];
    }),
  );
}
