import { serializeError } from '../../base/errors.ts';
import { parseSignal } from '../../base/signals.ts';
import { isActive } from '../../guest/guest.ts';
import { forEachGuest, tellFailure } from '../for-each.ts';
import type { Io, Services, VerbResult } from '../io.ts';
import { formatJson } from '../json.ts';
import type { ParsedVerb } from '../verb-types.ts';

const SIGKILL = 9;

/** `vserver kill`: signals process 1 of guests, and with KILL resolves when they have ended; or processes by their pids. */
export async function kill(parsed: ParsedVerb<'kill'>, io: Io, services: Services): Promise<VerbResult> {
  const { manager } = services;
  const { signal: name, pid: pids } = parsed.options;
  const signal = name === undefined ? SIGKILL : parseSignal(name);
  if (parsed.operands.length === 0 && !parsed.options.all)
    return await killOnHost(pids, signal, parsed, io, services);
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

/** As vkill: pids are the host's, whichever guests they are of. */
async function killOnHost(
  pids: readonly number[],
  signal: number,
  { verb, global }: ParsedVerb<'kill'>,
  io: Io,
  { manager }: Services,
): Promise<number> {
  const results: object[] = [];
  let exitCode = 0;
  for (const pid of pids) {
    try {
      const { name } = await manager.signals.signalHostPid(pid, signal);
      results.push({ pid, name, error: null });
      if (!global.json) await io.out(`${name}\n`);
    } catch (error) {
      const code = await tellFailure(error, io, verb);
      exitCode ||= code;
      results.push({ pid, name: null, error: serializeError(error) });
    }
  }
  if (global.json) await io.out(formatJson(results));
  return exitCode;
}
