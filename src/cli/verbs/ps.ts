import { escapeControls, formatTable } from '../../base/text-table.ts';
import { isActive } from '../../guest/guest.ts';
import { collect } from '../for-each.ts';
import { type GuestProcess, processesOf } from '../guest-processes.ts';
import type { Io, Services, VerbResult } from '../io.ts';
import { formatJson } from '../json.ts';
import { formatCpuTime } from '../uptime.ts';
import type { ParsedVerb } from '../verb-types.ts';

const COLUMNS = [
  { title: 'GUEST' },
  { title: 'XID', align: 'right' },
  { title: 'PID', align: 'right' },
  { title: 'GPID', align: 'right' },
  { title: 'USER', align: 'right' },
  { title: 'STAT' },
  { title: 'TIME', align: 'right' },
  { title: 'COMMAND' },
] as const;

/** A guest with its processes. */
export interface GuestProcesses {
  readonly name: string;
  readonly xid: number;
  readonly processes: readonly GuestProcess[];
}

/** `vserver ps`: lists the processes of guests. */
export async function ps(parsed: ParsedVerb<'ps'>, io: Io, services: Services): Promise<VerbResult> {
  const all = parsed.operands.length === 0;
  const command = all ? { ...parsed, options: { ...parsed.options, all } } : parsed;
  const { values, exitCode } = await collect(
    command,
    io,
    services,
    async (guest): Promise<GuestProcesses> => ({
      name: guest.name,
      xid: guest.xid,
      processes: await processesOf(guest, services),
    }),
    { isMeant: isActive },
  );
  const format = parsed.options.tree ? formatTrees : formatProcesses;
  await io.out(parsed.global.json ? formatJson(values.flatMap(viewProcesses)) : format(values));
  return exitCode;
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

function viewProcesses({ name, xid, processes }: GuestProcesses): readonly object[] {
  return processes.map((one) => ({
    guest: name,
    xid,
    pid: one.pid,
    guestPid: one.guestPid,
    ppid: one.ppid,
    uid: one.uid,
    guestUid: one.guestUid ?? null,
    state: one.state,
    threads: one.threads,
    residentBytes: one.residentBytes ?? null,
    cpuMs: one.cpuMs,
    name: one.name,
    argv: one.argv,
  }));
}
