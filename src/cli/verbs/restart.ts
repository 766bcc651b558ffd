import { StateError } from '../../base/errors.ts';
import { isActive } from '../../guest/guest.ts';
import { forEachGuest, MAX_PARALLEL } from '../for-each.ts';
import type { Io, Services, VerbResult } from '../io.ts';
import type { ParsedVerb } from '../verb-types.ts';

/** `vserver restart`: stops guests and starts them with their configuration of now; with `--all` those that run. */
export async function restart(
  parsed: ParsedVerb<'restart'>,
  io: Io,
  services: Services,
): Promise<VerbResult> {
  const { manager } = services;
  return await forEachGuest(
    parsed,
    io,
    services,
    async (guest) => {
      if (guest.isEphemeral) {
        throw new StateError(
          'guest-ephemeral',
          `cannot restart guest "${guest.name}": found that it is deleted when it stops; need one made by \`vserver create\``,
        );
      }
      await manager.ends.stop(guest, { timeoutMs: parsed.options.timeout });
      await manager.starts.start(guest);
    },
    { isMeant: (guest) => isActive(guest) && !guest.isEphemeral, parallel: MAX_PARALLEL },
  );
}
