import { parseGuestName } from '../../base/ids.ts';
import { viewGuest } from '../guest-view.ts';
import type { Io, Services, VerbResult } from '../io.ts';
import { formatJson } from '../json.ts';
import { Progress } from '../progress.ts';
import { parseSetting } from '../settings.ts';
import type { ParsedVerb } from '../verb-types.ts';

/** `vserver clone`: creates a guest with the files and the configuration of another one. */
export async function clone(parsed: ParsedVerb<'clone'>, io: Io, services: Services): Promise<VerbResult> {
  const [source = '', name = '', ...settings] = parsed.operands;
  const guest = services.manager.registry.find(source);
  const { ip } = parsed.options;
  const changes = [
    ...settings.map(parseSetting),
    ...(ip.length > 0 ? [{ path: ['network', 'addresses'], value: ip } as const] : []),
  ];
  await using progress = new Progress(io, parsed.global, `clone ${guest.name}`);
  const made = await services.manager.copies.clone(guest, parseGuestName(name), changes, progress.options);
  progress.clear();
  await io.out(parsed.global.json ? formatJson(viewGuest(made, services)) : `${made.name}\n`);
  return 0;
}
