import { formatTable } from '../../base/text-table.ts';
import { formatSizeRounded } from '../../base/units.ts';
import type { Usage } from '../../storage/helper/tasks.ts';
import type { Io, Services, VerbResult } from '../io.ts';
import { formatJson } from '../json.ts';
import { Progress } from '../progress.ts';
import type { ParsedVerb } from '../verb-types.ts';

const COLUMNS = [
  { title: 'GUEST' },
  { title: 'OWN', align: 'right' },
  { title: 'INODES', align: 'right' },
  { title: 'ALONE', align: 'right' },
  { title: 'IN SNAPSHOTS', align: 'right' },
  { title: 'SHARED', align: 'right' },
] as const;

/** `vserver du`: shows what guests take on disk. */
export async function du(parsed: ParsedVerb<'du'>, io: Io, { manager }: Services): Promise<VerbResult> {
  const { registry, copies } = manager;
  const asked = parsed.operands.map((word) => registry.find(word).name);
  await using progress = new Progress(io, parsed.global, 'du');
  const all = await copies.usage(progress.options);
  progress.clear();
  const usages = asked.length === 0 ? all : all.filter(({ name }) => asked.some((one) => one === name));
  await io.out(parsed.global.json ? formatJson(usages) : formatTable(COLUMNS, usages.map(formatRow)));
  return 0;
}

function formatRow(usage: Usage): readonly string[] {
  const size = formatSizeRounded;
  return [
    usage.name,
    size(usage.ownBytes),
    String(usage.ownInodes),
    size(usage.aloneBytes),
    size(usage.snapshotBytes),
    size(usage.sharedBytes),
  ];
}
