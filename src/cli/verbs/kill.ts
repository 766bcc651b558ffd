import { parseSignal } from '../../base/signals.ts';
import { isActive } from '../../guest/guest.ts';
import { forEachGuest } from '../for-each.ts';
import type { Io, Services, VerbResult } from '../io.ts';
import type { ParsedVerb } from '../verb-types.ts';

const SIGKILL = 9;

/** `vserver kill`: signals process 1 of guests, and with KILL resolves when they have ended; or other processes. */
export async function kill(parsed: ParsedVerb<'kill'>, io: Io, services: Services): Promise<VerbResult> {
  const { manager } = services;
  const { signal: name, pid: pids } = parsed.options;
  const signal = name === undefined ? SIGKILL : parseSignal(name);
  return await forEachGuest(
    parsed,
    io,
    services,
    async (guest) => {
      if (pids.length > 0) {
        await manager.signals.signalProcesses(guest, pids, signal);
        return;
      }
      manager.signals.kill(guest, signal);
      if (signal === SIGKILL) await guest.ended?.promise;
    },
    { isMeant: isActive },
  );
}
