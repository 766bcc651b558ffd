import { clientConnection, DETACHED } from '../connection.ts';
import type { Io, Services, VerbResult } from '../io.ts';
import type { ParsedVerb } from '../verb-types.ts';

/** `vserver enter`: a login shell in a running guest. */
export async function enter(parsed: ParsedVerb<'enter'>, io: Io, { manager }: Services): Promise<VerbResult> {
  const guest = manager.registry.find(parsed.operands[0] ?? '');
  const { user, explain } = parsed.options;
  const request = { argv: ['/bin/sh', '-l'], env: {}, cwd: undefined, user };
  if (explain) {
    await io.out(await manager.execs.explainExec(guest, request, DETACHED));
    return 0;
  }
  await manager.execs.exec(guest, request, clientConnection({ interactive: true, tty: io.tty[0] }, io));
  return 'bound';
}
