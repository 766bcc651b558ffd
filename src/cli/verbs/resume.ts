import { forEachGuest } from '../for-each.ts';
import type { Io, Services, VerbResult } from '../io.ts';
import type { ParsedVerb } from '../verb-types.ts';

/** `vserver resume`: lets paused guests go on. */
export async function resume(parsed: ParsedVerb<'resume'>, io: Io, services: Services): Promise<VerbResult> {
  return await forEachGuest(parsed, io, services, (guest) => services.manager.signals.resume(guest), {
    isMeant: (guest) => guest.state === 'paused',
  });
}
