import { Turns } from '../../guest/turns.ts';
import { forEachGuest, MAX_PARALLEL, warn } from '../for-each.ts';
import type { Io, Services, VerbResult } from '../io.ts';
import type { ParsedVerb } from '../verb-types.ts';

/** `vserver stop`: stops guests; resolves when all have ended. */
export async function stop(parsed: ParsedVerb<'stop'>, io: Io, services: Services): Promise<VerbResult> {
  return await forEachGuest(
    parsed,
    io,
    services,
    async (guest) => {
      const exit = await services.manager.ends.stop(guest, { timeoutMs: parsed.options.timeout });
      if (exit === undefined) await warn(io, `guest "${guest.name}" is stopped already`);
    },
    { isMeant: (guest) => guest.state !== 'stopped', parallel: MAX_PARALLEL, turns: Turns.toStop },
  );
}
