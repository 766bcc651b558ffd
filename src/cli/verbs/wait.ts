import { collect } from '../for-each.ts';
import type { Io, Services, VerbResult } from '../io.ts';
import { formatJson } from '../json.ts';
import type { ParsedVerb } from '../verb-types.ts';

/** What is printed for an end that nobody saw. */
const UNKNOWN_EXIT = 125;
/** As a shell would give it to a command ended by SIGINT. */
const INTERRUPTED = 130;

/** `vserver wait`: prints the exit codes of guests when they have stopped, in the order they were named. */
export async function wait(parsed: ParsedVerb<'wait'>, io: Io, services: Services): Promise<VerbResult> {
  const { json } = parsed.global;
  const all = collect(
    parsed,
    io,
    services,
    async (guest) => {
      const exit = await services.manager.ends.wait(guest);
      return { name: guest.name, exitCode: exit.code, at: exit.at };
    },
    { parallel: Number.POSITIVE_INFINITY },
  );
  const interrupted = Promise.withResolvers<undefined>();
  io.signal.addEventListener('abort', () => interrupted.resolve(undefined), { once: true });
  const done = io.signal.aborted ? undefined : await Promise.race([all, interrupted.promise]);
  if (done === undefined) return INTERRUPTED;
  const { values, exitCode } = done;
  await io.out(
    json ? formatJson(values) : values.map(({ exitCode: code }) => `${code ?? UNKNOWN_EXIT}\n`).join(''),
  );
  return exitCode;
}
