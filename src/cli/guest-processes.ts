import { idRangeOf, toGuestId } from '../context/id-map.ts';
import type { Guest } from '../guest/guest.ts';
import { isActive } from '../guest/guest.ts';
import { listProcesses, type ProcessInfo } from '../sys/process-list.ts';
import type { Services } from './io.ts';

/** A process of a guest. */
export interface GuestProcess extends ProcessInfo {
  /** Its pid in the guest. */
  readonly guestPid: number;
  /** Its uid in the guest; undefined for one that is not the guest's. */
  readonly guestUid: number | undefined;
}

/** Lists the processes in a guest, by their pids there; none when it does not run. */
export async function processesOf(guest: Guest, { manager }: Services): Promise<readonly GuestProcess[]> {
  if (!isActive(guest)) return [];
  const processes = await listProcesses(manager.host.cgroups.pids(guest.xid));
  const range = idRangeOf(guest.xid);
  return processes
    .flatMap((process) => {
      // A worker that waits for the next exec sits in the guest's cgroups, but in the host's pid namespace.
      const [, guestPid] = process.nsPids;
      return guestPid === undefined
        ? []
        : [{ ...process, guestPid, guestUid: toGuestId(range, process.uid) }];
    })
    .toSorted((a, b) => a.guestPid - b.guestPid);
}
