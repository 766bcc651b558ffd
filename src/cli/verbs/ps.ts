import { UserError } from '../../base/errors.ts';
import { isActive } from '../../guest/guest.ts';
import { collect } from '../for-each.ts';
import { processesOf } from '../guest-processes.ts';
import type { Io, Services, VerbResult } from '../io.ts';
import { formatJson } from '../json.ts';
import { formatProcesses, formatTrees, type GuestProcesses, sortProcesses } from '../ps-table.ts';
import type { ParsedVerb } from '../verb-types.ts';

/** `vserver ps`: lists the processes of guests. */
export async function ps(parsed: ParsedVerb<'ps'>, io: Io, services: Services): Promise<VerbResult> {
  const { tree, sort } = parsed.options;
  if (tree && sort !== undefined)
    throw new UserError('usage', 'cannot sort trees: found --tree and --sort; need one of them');
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
  const guests = sort === undefined ? values : sortProcesses(values, sort);
  const format = tree ? formatTrees : formatProcesses;
  await io.out(parsed.global.json ? formatJson(guests.flatMap(viewProcesses)) : format(guests));
  return exitCode;
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
