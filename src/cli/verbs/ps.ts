import { formatTable } from '../../base/text-table.ts';
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
  const command = all ? { ...parsed, options: { all } } : parsed;
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
  await io.out(parsed.global.json ? formatJson(values.flatMap(viewProcesses)) : formatProcesses(values));
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
      // As ps(1): a process without arguments is shown by its name.
      one.argv.length === 0 ? `[${one.name}]` : one.argv.join(' '),
    ]),
  );
  return formatTable(COLUMNS, rows);
}

function viewProcesses({ name, xid, processes }: GuestProcesses): readonly object[] {
  return processes.map((one) => ({
    guest: name,
    xid,
    pid: one.pid,
    guestPid: one.guestPid,
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
