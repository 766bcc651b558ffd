/** What `vserver ps` prints. */
import { escapeControls, formatTable } from '../base/text-table.ts';
import { formatSizeRounded } from '../base/units.ts';
import type { GuestProcess } from './guest-processes.ts';
import { formatCpuTime } from './uptime.ts';

const COLUMNS = [
  { title: 'GUEST' },
  { title: 'XID', align: 'right' },
  { title: 'PID', align: 'right' },
  { title: 'GPID', align: 'right' },
  { title: 'USER', align: 'right' },
  { title: 'STAT' },
  { title: 'RSS', align: 'right' },
  { title: 'TIME', align: 'right' },
  { title: 'COMMAND' },
] as const;

/** What processes can be sorted by. */
export const PS_KEYS = ['memory', 'time', 'threads', 'pid', 'name'] as const;
/** One of them. */
export type PsKey = (typeof PS_KEYS)[number];

/** A guest with its processes. */
export interface GuestProcesses {
  readonly name: string;
  readonly xid: number;
  readonly processes: readonly GuestProcess[];
}

const VALUES: Readonly<Record<Exclude<PsKey, 'name'>, (one: GuestProcess) => number>> = {
  memory: ({ residentBytes = 0 }) => residentBytes,
  time: ({ cpuMs }) => cpuMs,
  threads: ({ threads }) => threads,
  pid: ({ pid }) => -pid,
};

/** Sorts processes across guests, the largest first, pids and names ascending: each then stands with its guest alone. */
export function sortProcesses(guests: readonly GuestProcesses[], key: PsKey): readonly GuestProcesses[] {
  const compare = (a: GuestProcess, b: GuestProcess): number =>
    key === 'name' ? (a.name < b.name ? -1 : Number(a.name > b.name)) : VALUES[key](b) - VALUES[key](a);
  return guests
    .flatMap((guest) => guest.processes.map((one) => ({ guest, one })))
    .toSorted((a, b) => compare(a.one, b.one))
    .map(({ guest, one }) => ({ ...guest, processes: [one] }));
}

/** Formats processes as a table; what the guests made of their names and arguments stands escaped. */
export function formatProcesses(guests: readonly GuestProcesses[]): string {
  const rows = guests.flatMap(({ name, xid, processes }) =>
    processes.map((one) => [
      name,
      String(xid),
      String(one.pid),
      String(one.guestPid),
      one.guestUid === undefined ? 'host' : String(one.guestUid),
      one.state,
      one.residentBytes === undefined ? '-' : formatSizeRounded(one.residentBytes),
      formatCpuTime(one.cpuMs),
      commandOf(one),
    ]),
  );
  return formatTable(COLUMNS, rows);
}

/** As ps(1): a process without arguments is shown by its name. */
function commandOf({ argv, name }: GuestProcess): string {
  return argv.length === 0 ? `[${name}]` : argv.join(' ');
}

/** Formats processes as trees, one for each guest, with their pids in the guest. */
export function formatTrees(guests: readonly GuestProcesses[]): string {
  return guests.map(({ name, xid, processes }) => `${name} (${xid})\n${formatTree(processes)}`).join('');
}

function formatTree(processes: readonly GuestProcess[]): string {
  const pids = new Set(processes.map(({ pid }) => pid));
  // What was started from outside, by an exec, has its parent there.
  const children = Map.groupBy(processes, ({ ppid }) => (pids.has(ppid) ? ppid : 0));
  const below = (pid: number, indent: string): string => {
    const own = children.get(pid) ?? [];
    return own
      .map((one, i) => {
        const isLast = i === own.length - 1;
        const line = `${indent}${isLast ? '└─' : '├─'}${one.guestPid} ${escapeControls(commandOf(one))}\n`;
        return line + below(one.pid, `${indent}${isLast ? '  ' : '│ '}`);
      })
      .join('');
  };
  return below(0, '');
}
