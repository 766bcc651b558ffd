import { StateError } from '../../base/errors.ts';
import { withDependencies } from '../../guest/dependencies.ts';
import { Turns } from '../../guest/turns.ts';
import { collect, forEachGuest, MAX_PARALLEL, warn } from '../for-each.ts';
import { unenforcedLimits } from '../guest-view.ts';
import type { Io, Services, VerbResult } from '../io.ts';
import type { ParsedVerb } from '../verb-types.ts';

/** `vserver start`: starts guests with their configured commands. */
export async function start(parsed: ParsedVerb<'start'>, io: Io, services: Services): Promise<VerbResult> {
  const { manager } = services;
  const isTogether = parsed.options.all || parsed.options.mark.length > 0;
  const isMeant = (guest: { readonly state: string }): boolean => guest.state === 'stopped';
  if (parsed.options.explain) {
    const explain = collect(parsed, io, services, (guest) => manager.starts.explainStart(guest), { isMeant });
    const { values, exitCode } = await explain;
    await io.out(values.join('\n'));
    return exitCode;
  }
  return await forEachGuest(
    parsed,
    io,
    services,
    async (guest) => {
      try {
        if (isTogether) await manager.starts.whenReady(guest);
        await manager.starts.start(guest);
      } catch (error) {
        const isRunning = error instanceof StateError && error.code === 'guest-running';
        if (!isRunning || guest.state === 'stopping') throw error;
        await warn(io, `guest "${guest.name}" is ${guest.state} already`);
        return;
      }
      const unenforced = unenforcedLimits(guest.config, manager.host.cgroups);
      for (const key of unenforced) {
        await warn(
          io,
          `nothing on this host enforces ${key} of guest "${guest.name}"; see \`vserver check\``,
        );
      }
    },
    {
      isMeant,
      parallel: MAX_PARALLEL,
      more: (guests) => withDependencies(guests, manager.registry).filter(isMeant),
      turns: Turns.toStart,
    },
  );
}
