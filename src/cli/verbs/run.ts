import { UserError } from '../../base/errors.ts';
import type { Guest } from '../../guest/guest.ts';
import { callerEnv } from '../caller-files.ts';
import { configValuesOf } from '../config-values.ts';
import { clientConnection } from '../connection.ts';
import type { Io, Services, VerbResult } from '../io.ts';
import type { ParsedVerb } from '../verb-types.ts';

/** `vserver run`: creates a guest, starts it and, unless detached, hands the caller over to its command. */
export async function run(parsed: ParsedVerb<'run'>, io: Io, { manager }: Services): Promise<VerbResult> {
  const { options, command } = parsed;
  const values = configValuesOf(options, command, callerEnv(options, io), io.cwd);
  const { name } = options;
  if (values.command === undefined && values.init !== 'own') {
    throw new UserError(
      'usage',
      'cannot run a guest: found no command; need one after the options, or --init=own',
    );
  }
  if (options.explain) {
    await io.out(await manager.starts.explainRun(name, values));
    return 0;
  }
  const isEphemeral = name === undefined || options.rm;
  if (isEphemeral && (options.restart?.policy ?? 'no') !== 'no') {
    throw new UserError(
      'usage',
      'cannot run a guest with --restart: found that it is deleted when it stops; need --name, and no --rm',
    );
  }
  if (isEphemeral && options.healthOnFailure === 'restart') {
    throw new UserError(
      'usage',
      'cannot run a guest with --health-on-failure restart: found that it is deleted when it stops; need --name, and no --rm',
    );
  }
  const connection = options.detach ? undefined : clientConnection(options, io);
  const guest = await startGuest();
  if (connection) return 'bound';
  await io.out(`${guest.name}\n`);
  return 0;

  async function startGuest(): Promise<Guest> {
    if (isEphemeral) return await manager.starts.runEphemeral(name, values, connection);
    const created = await manager.making.create(name, values);
    await manager.starts.start(created, connection);
    return created;
  }
}
