import { parseXid } from '../../base/ids.ts';
import { retag as retagGuest } from '../../guest/retag.ts';
import { viewGuest } from '../guest-view.ts';
import type { Io, Services, VerbResult } from '../io.ts';
import { formatJson } from '../json.ts';
import { Progress } from '../progress.ts';
import type { ParsedVerb } from '../verb-types.ts';

/** `vserver retag`: moves a guest to another xid. */
export async function retag(parsed: ParsedVerb<'retag'>, io: Io, services: Services): Promise<VerbResult> {
  const [word = '', xid = ''] = parsed.operands;
  const { manager } = services;
  const guest = manager.registry.find(word);
  await using progress = new Progress(io, parsed.global, `retag ${guest.name}`);
  await retagGuest(manager, guest, parseXid(xid), progress.options);
  progress.clear();
  await io.out(parsed.global.json ? formatJson(viewGuest(guest, services)) : `${guest.name}\n`);
  return 0;
}
