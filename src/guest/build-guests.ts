/** Guests that run only because something is built in them. */
import type { Manager } from './manager.ts';

/** Tells such a guest. */
export const BUILD_LABEL = 'vserver.build';

/** Ends those of an earlier life, whose results nobody waits for. Called once, at the start. */
export async function endBuildGuests(manager: Manager): Promise<void> {
  const left = manager.registry
    .list()
    .filter(({ config, isEphemeral }) => isEphemeral && BUILD_LABEL in config.labels);
  await Promise.all(left.map(async (guest) => await manager.ends.stop(guest, { timeoutMs: 0 })));
}
