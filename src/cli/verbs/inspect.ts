import { collect } from '../for-each.ts';
import { viewGuest } from '../guest-view.ts';
import type { Io, Services, VerbResult } from '../io.ts';
import { formatJson } from '../json.ts';
import type { ParsedVerb } from '../verb-types.ts';
import { viewRow } from './limit.ts';

/** `vserver inspect`: prints a JSON array with all that is known of guests. */
export async function inspect(
  parsed: ParsedVerb<'inspect'>,
  io: Io,
  services: Services,
): Promise<VerbResult> {
  const { values, exitCode } = await collect(parsed, io, services, async (guest) => ({
    ...viewGuest(guest, services),
    limitTable: (await services.manager.changes.limitRows(guest)).map(viewRow),
  }));
  await io.out(formatJson(values));
  return exitCode;
}
