import { forEachGuest } from '../for-each.ts';
import type { Io, Services, VerbResult } from '../io.ts';
import type { ParsedVerb } from '../verb-types.ts';

/** `vserver pause`: takes guests off the CPUs. */
export async function pause(parsed: ParsedVerb<'pause'>, io: Io, services: Services): Promise<VerbResult> {
  return await forEachGuest(parsed, io, services, (guest) => services.manager.signals.pause(guest), {
    isMeant: (guest) => guest.state === 'running',
  });
}
