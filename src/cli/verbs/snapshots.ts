import { formatTable } from '../../base/text-table.ts';
import { formatSizeRounded } from '../../base/units.ts';
import type { Io, Services, VerbResult } from '../io.ts';
import { formatJson } from '../json.ts';
import type { ParsedVerb } from '../verb-types.ts';
import { viewSnapshot } from './snapshot.ts';

const COLUMNS = [
  { title: 'SNAPSHOT' },
  { title: 'TAKEN' },
  { title: 'GUEST WAS' },
  { title: 'NEW', align: 'right' },
  { title: 'IMAGE' },
] as const;

/** `vserver snapshots`: lists a guest's snapshots, or forgets some. */
export async function snapshots(
  parsed: ParsedVerb<'snapshots'>,
  io: Io,
  { manager }: Services,
): Promise<VerbResult> {
  const guest = manager.registry.find(parsed.operands[0] ?? '');
  for (const name of parsed.options.forget) manager.snapshots.remove(guest.name, name);
  const all = manager.snapshots.list(guest.name);
  if (parsed.global.json) await io.out(formatJson(all.map((one) => viewSnapshot(guest.name, one))));
  else if (parsed.global.quiet) await io.out(all.map(({ name }) => `${name}\n`).join(''));
  else {
    const rows = all.map(({ name, takenAt, wasRunning, newBytes, pin }) => [
      name,
      takenAt,
      wasRunning ? 'running' : 'stopped',
      formatSizeRounded(newBytes),
      pin.pinned,
    ]);
    await io.out(formatTable(COLUMNS, rows));
  }
  return 0;
}
