import type { Snapshot } from '../../guest/snapshots.ts';
import type { Io, Services, VerbResult } from '../io.ts';
import { formatJson } from '../json.ts';
import { Progress } from '../progress.ts';
import type { ParsedVerb } from '../verb-types.ts';

/** `vserver snapshot`: keeps a guest's files and configuration of now under a name. */
export async function snapshot(
  parsed: ParsedVerb<'snapshot'>,
  io: Io,
  { manager }: Services,
): Promise<VerbResult> {
  const [word = '', name] = parsed.operands;
  const guest = manager.registry.find(word);
  await using progress = new Progress(io, parsed.global, `snapshot of ${guest.name}`);
  const taken = await manager.copies.snapshot(guest, name, parsed.options.keep, progress.options);
  progress.clear();
  await io.out(parsed.global.json ? formatJson(viewSnapshot(guest.name, taken)) : `${taken.name}\n`);
  return 0;
}

/** What is shown of a snapshot as JSON. */
export function viewSnapshot(guest: string, { name, takenAt, wasRunning, pin, newBytes }: Snapshot): object {
  return { guest, name, takenAt, wasRunning, image: pin.pinned, newBytes };
}
