import { clientConnection } from '../connection.ts';
import type { Io, Services, VerbResult } from '../io.ts';
import type { ParsedVerb } from '../verb-types.ts';

/** `vserver enter`: a login shell in a running guest. */
export async function enter(parsed: ParsedVerb<'enter'>, io: Io, { manager }: Services): Promise<VerbResult> {
  const guest = manager.registry.find(parsed.operands[0] ?? '');
  const connection = clientConnection({ interactive: true, tty: io.tty[0] }, io);
  const argv = ['/bin/sh', '-l'];
  await manager.execs.exec(guest, { argv, env: {}, cwd: undefined, user: parsed.options.user }, connection);
  return 'bound';
}
