import { isActive } from '../../guest/guest.ts';
import { collect } from '../for-each.ts';
import { processesOf } from '../guest-processes.ts';
import { shownState, uptimeOf } from '../guest-view.ts';
import type { Io, Services, VerbResult } from '../io.ts';
import { formatJson } from '../json.ts';
import { formatSpan } from '../uptime.ts';
import type { ParsedVerb } from '../verb-types.ts';

/** As Linux-VServer and the Linux Standard Base have it for "program is not running". */
const EXIT_STOPPED = 3;

/** What `status` says of a guest. */
export interface GuestStatus {
  readonly name: string;
  readonly xid: number;
  readonly state: string;
  readonly processes: number;
  readonly uptimeSeconds: number | null;
}

/** `vserver status`: says of guests whether they run. */
export async function status(parsed: ParsedVerb<'status'>, io: Io, services: Services): Promise<VerbResult> {
  const { values, exitCode } = await collect(parsed, io, services, async (guest) => ({
    name: guest.name,
    xid: guest.xid,
    state: shownState(guest),
    processes: (await processesOf(guest, services)).length,
    uptimeSeconds: uptimeOf(guest),
    isActive: isActive(guest),
  }));
  const shown = values.map(({ isActive: _, ...one }): GuestStatus => one);
  await io.out(parsed.global.json ? formatJson(shown) : shown.map(formatStatus).join(''));
  return exitCode || (values.some((one) => !one.isActive) ? EXIT_STOPPED : 0);
}

/** Formats a guest's status in the words of Linux-VServer. */
export function formatStatus(one: GuestStatus): string {
  if (one.uptimeSeconds === null) return `Vserver '${one.name}' is ${one.state}\n`;
  return `Vserver '${one.name}' is ${one.state} at context '${one.xid}'
Number of processes: ${one.processes}
Uptime: ${formatSpan(one.uptimeSeconds)}
`;
}
