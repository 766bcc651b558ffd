import { UserError } from '../../base/errors.ts';
import { parseGuestName } from '../../base/ids.ts';
import { callerEnv } from '../caller-files.ts';
import { configValuesOf } from '../config-values.ts';
import { viewGuest } from '../guest-view.ts';
import type { Io, Services, VerbResult } from '../io.ts';
import { formatJson } from '../json.ts';
import type { ParsedVerb } from '../verb-types.ts';

/** `vserver create`: writes a guest's configuration file and prepares its root. */
export async function create(parsed: ParsedVerb<'create'>, io: Io, services: Services): Promise<VerbResult> {
  const { options, operands, command } = parsed;
  const name = options.name ?? parseGuestName(operands[0] ?? '');
  const values = configValuesOf(options, command, callerEnv(options, io), io.cwd);
  if (values.command === undefined && values.init !== 'own') {
    throw new UserError(
      'usage',
      `cannot create guest "${name}": found no command; need one after the options, or --init=own`,
    );
  }
  const guest = await services.manager.making.create(name, values);
  await io.out(parsed.global.json ? formatJson(viewGuest(guest, services)) : `${name}\n`);
  return 0;
}
