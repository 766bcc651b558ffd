import { UserError } from '../../base/errors.ts';
import { parseGuestName } from '../../base/ids.ts';
import { parseMethodWords } from '../build-options.ts';
import { callerEnv } from '../caller-files.ts';
import { configValuesOf, createOptionsOf } from '../config-values.ts';
import { viewGuest } from '../guest-view.ts';
import type { Io, Services, VerbResult } from '../io.ts';
import { formatJson } from '../json.ts';
import { Progress } from '../progress.ts';
import type { ParsedVerb } from '../verb-types.ts';

/** `vserver build`: makes an image by a method, and a guest from it. */
export async function build(parsed: ParsedVerb<'build'>, io: Io, services: Services): Promise<VerbResult> {
  const { options, operands, command, global } = parsed;
  const name = options.name ?? parseGuestName(operands[0] ?? '');
  const { method, force } = options;
  if (method === undefined) {
    throw new UserError(
      'usage',
      `cannot build guest "${name}": found no method; need one, for example -m template`,
    );
  }
  if (options.template !== undefined) {
    throw new UserError(
      'usage',
      `cannot build guest "${name}": found --template; need "-m template -- -t FILE"`,
    );
  }
  // Seldom needed, and not small.
  const { Builds, hasOwnInit } = await import('../../guest/builds.ts');
  const own = configValuesOf(createOptionsOf(options), [], callerEnv(options, io), io.cwd);
  const { source, labels } = parseMethodWords(method, command, io.cwd, hasOwnInit(own));
  const values = { ...own, labels: { ...labels, ...own.labels } };
  await using progress = new Progress(io, global, `build ${name}`);
  const guest = await new Builds(services.manager).build(
    name,
    { source, values, isForced: force },
    progress.options,
  );
  progress.clear();
  await io.out(global.json ? formatJson(viewGuest(guest, services)) : `${name}\n`);
  return 0;
}
