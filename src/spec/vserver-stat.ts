/**
 * The lines of `vserver-stat`, as its parsers know them: util-vserver 0.30, src/vserver-stat.c.
 *
 *     column  0    1..9   10..16  17..23  24..33    34..43   44..53   55..74
 *             CTX  PROC   VSZ     RSS     userTIME  sysTIME  UPTIME   NAME      all but CTX and NAME on the right
 */

/** One context. */
export interface StatRow {
  readonly xid: number;
  readonly processes: number;
  readonly virtualBytes: number;
  readonly residentBytes: number;
  readonly userMs: number;
  readonly systemMs: number;
  readonly uptimeMs: number;
  readonly name: string;
}

/** What the host's own row is called. */
export const HOST_NAME = 'root server';

const TITLES = 'CTX   PROC    VSZ    RSS  userTIME   sysTIME    UPTIME NAME';
const NAME_MAX_LENGTH = 20;
const MEMORY_SUFFIXES = [' ', 'K', 'M', 'G', 'T'];
const DAYS_MAX = 999 * 999;

/** Formats the line of titles and one line for each context. */
export function formatStat(rows: readonly StatRow[]): string {
  return [TITLES, ...rows.map(formatRow)].map((line) => `${line}\n`).join('');
}

function formatRow(row: StatRow): string {
  const xid = String(row.xid);
  return [
    xid,
    String(row.processes).padStart(10 - xid.length),
    formatMemory(row.virtualBytes).padStart(7),
    formatMemory(row.residentBytes).padStart(7),
    formatTime(row.userMs).padStart(10),
    formatTime(row.systemMs).padStart(10),
    formatTime(row.uptimeMs).padStart(10),
    ' ',
    row.name.slice(0, NAME_MAX_LENGTH),
  ].join('');
}

/** Formats bytes in units of 1024 below 1000, with one digit behind the point, cut off, unless that is 0. */
export function formatMemory(bytes: number): string {
  let value = bytes;
  let tenths = 0;
  for (const suffix of MEMORY_SUFFIXES) {
    if (value < 1000) return `${value}${tenths === 0 ? '' : `.${tenths}`}${suffix}`;
    tenths = Math.floor(((value % 1024) * 10) / 1024);
    value = Math.floor(value / 1024);
  }
  return `${Math.min(value, 9999)}+`;
}

/** Formats a time by three units: `1m12s33` (hundredths), `1h23m45`, `12d04h11`, and `3y12d04` from 1000 days on. */
export function formatTime(ms: number): string {
  const seconds = Math.floor(ms / 1000);
  const [days, hours] = [Math.floor(seconds / 86_400), Math.floor(seconds / 3600) % 24];
  const [minutes, rest] = [Math.floor(seconds / 60) % 60, seconds % 60];
  if (days > DAYS_MAX) return 'INVALID';
  if (days > 999) return `${Math.floor(days / 365)}y${two(days % 365)}d${two(hours)}`;
  if (days > 0) return `${days}d${two(hours)}h${two(minutes)}`;
  if (hours > 0) return `${hours}h${two(minutes)}m${two(rest)}`;
  return `${minutes}m${two(rest)}s${two(Math.floor((ms % 1000) / 10))}`;
}

function two(value: number): string {
  return String(value).padStart(2, '0');
}
