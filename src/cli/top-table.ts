/**
 * What `vserver top` shows: two looks at all guests, and what was used in between.
 */
import { formatTable } from '../base/text-table.ts';
import { formatSizeRounded } from '../base/units.ts';
import type { GuestStat } from '../guest/accounting.ts';
import { formatCpuTime, formatSpan } from './uptime.ts';

/** What rows can be sorted by. */
export const TOP_KEYS = [
  'cpu',
  'memory',
  'virtual',
  'processes',
  'time',
  'uptime',
  'context',
  'name',
] as const;

/** One of them. */
export type TopKey = (typeof TOP_KEYS)[number];

/** A row: what a guest uses, and its share of CPU time since the look before. */
export interface TopRow extends GuestStat {
  /** Percent of one CPU. */
  readonly cpuPercent: number;
}

/** All guests, seen at one moment. */
export interface Look {
  readonly rows: readonly GuestStat[];
  /** Of a clock that only goes on. */
  readonly atMs: number;
}

const COLUMNS = [
  { title: 'CTX', align: 'right' },
  { title: 'PROC', align: 'right' },
  { title: 'TASKS', align: 'right' },
  { title: '%CPU', align: 'right' },
  { title: 'RSS', align: 'right' },
  { title: 'VSZ', align: 'right' },
  { title: 'TIME', align: 'right' },
  { title: 'UPTIME', align: 'right' },
  { title: 'NAME' },
] as const;

/** Says what each guest has used between two looks; one that was not there before has used nothing yet. */
export function rowsBetween(before: Look, now: Look): readonly TopRow[] {
  const old = new Map(before.rows.map((row) => [row.xid, row]));
  const elapsedMs = now.atMs - before.atMs;
  return now.rows.map((row) => {
    const last = old.get(row.xid);
    // Another run of the same context begins at zero.
    const usedMs = last && last.uptimeMs <= row.uptimeMs ? timeOf(row) - timeOf(last) : 0;
    return { ...row, cpuPercent: elapsedMs > 0 ? Math.max(0, (usedMs / elapsedMs) * 100) : 0 };
  });
}

function timeOf({ userMs, systemMs }: GuestStat): number {
  return userMs + systemMs;
}

const VALUES: Readonly<Record<Exclude<TopKey, 'name'>, (row: TopRow) => number>> = {
  cpu: (row) => row.cpuPercent,
  memory: (row) => row.residentBytes,
  virtual: (row) => row.virtualBytes,
  processes: (row) => row.processes,
  time: timeOf,
  uptime: (row) => row.uptimeMs,
  context: (row) => -row.xid,
};

/** Sorts rows, the largest first, names and contexts ascending; the host stays on top. */
export function sortRows(rows: readonly TopRow[], key: TopKey, isReversed = false): readonly TopRow[] {
  const direction = isReversed ? -1 : 1;
  const compare = (a: TopRow, b: TopRow): number =>
    (key === 'name' ? (a.name < b.name ? -1 : 1) : VALUES[key](b) - VALUES[key](a)) * direction ||
    a.xid - b.xid;
  return rows.toSorted((a, b) => Number(b.xid === 0) - Number(a.xid === 0) || compare(a, b));
}

/** Formats rows as a table. */
export function formatTop(rows: readonly TopRow[]): string {
  return formatTable(
    COLUMNS,
    rows.map((row) => [
      String(row.xid),
      String(row.processes),
      String(row.tasks),
      row.cpuPercent.toFixed(1),
      formatSizeRounded(row.residentBytes),
      formatSizeRounded(row.virtualBytes),
      formatCpuTime(timeOf(row)),
      formatSpan(Math.floor(row.uptimeMs / 1000)),
      row.name,
    ]),
  );
}

/** Formats the line above the table. */
export function formatSummary(rows: readonly TopRow[], key: TopKey): string {
  const guests = rows.filter(({ xid }) => xid !== 0);
  const sum = (of: (row: TopRow) => number): number => guests.reduce((all, row) => all + of(row), 0);
  return [
    `${guests.length} guests`,
    `${sum((row) => row.processes)} processes`,
    `${sum((row) => row.cpuPercent).toFixed(1)} % CPU`,
    `${formatSizeRounded(sum((row) => row.residentBytes))} resident`,
    `by ${key}`,
  ].join(', ');
}
