import type { Io, Services, VerbResult } from '../io.ts';
import { formatJson } from '../json.ts';
import type { ParsedVerb } from '../verb-types.ts';
import { warnOfQuotas } from './quota.ts';
import { viewSnapshot } from './snapshot.ts';

/** `vserver rollback`: gives a guest the files and the configuration of a snapshot back. */
export async function rollback(
  parsed: ParsedVerb<'rollback'>,
  io: Io,
  { manager }: Services,
): Promise<VerbResult> {
  const [word = '', name = ''] = parsed.operands;
  const guest = manager.registry.find(word);
  const { snapshot, unheld } = await manager.copies.rollback(guest, name, parsed.options.keepConfig);
  await warnOfQuotas(io, guest, unheld);
  await io.out(parsed.global.json ? formatJson(viewSnapshot(guest.name, snapshot)) : `${guest.name}\n`);
  return 0;
}
