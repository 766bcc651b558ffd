import { forEachGuest, MAX_PARALLEL } from '../for-each.ts';
import type { Io, Services, VerbResult } from '../io.ts';
import type { ParsedVerb } from '../verb-types.ts';

/** `vserver delete`: deletes guests with all their files. */
export async function deleteGuests(
  parsed: ParsedVerb<'delete'>,
  io: Io,
  services: Services,
): Promise<VerbResult> {
  const { force } = parsed.options;
  return await forEachGuest(parsed, io, services, (guest) => services.manager.delete(guest, force), {
    parallel: MAX_PARALLEL,
  });
}
