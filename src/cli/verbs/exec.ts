import { callerEnv } from '../caller-files.ts';
import { clientConnection, DETACHED } from '../connection.ts';
import type { Io, Services, VerbResult } from '../io.ts';
import type { ParsedVerb } from '../verb-types.ts';

/** `vserver exec`: runs a command in a running guest. */
export async function exec(parsed: ParsedVerb<'exec'>, io: Io, { manager }: Services): Promise<VerbResult> {
  const { options, command, operands } = parsed;
  const guest = manager.registry.find(operands[0] ?? '');
  const request = {
    argv: command,
    env: callerEnv(options, io),
    cwd: options.workdir,
    user: options.user,
  };
  if (options.explain) {
    await io.out(await manager.execs.explainExec(guest, request, DETACHED));
    return 0;
  }
  if (options.detach) {
    await manager.execs.exec(guest, request, DETACHED);
    return 0;
  }
  await manager.execs.exec(guest, request, clientConnection(options, io));
  return 'bound';
}
