import type { Guest } from '../../guest/guest.ts';
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
  return await forEachGuest(parsed, io, services, (guest) => services.manager.making.delete(guest, force), {
    // Who uses the network of another is told to end before that one is looked at.
    compare: (a, b) => Number(isSharing(b)) - Number(isSharing(a)),
    parallel: MAX_PARALLEL,
  });
}

const isSharing = ({ config }: Guest): boolean => config.network.shareWith !== undefined;
