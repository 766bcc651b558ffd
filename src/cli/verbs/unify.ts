import { availableParallelism } from 'node:os';
import { formatTable } from '../../base/text-table.ts';
import { formatSizeRounded } from '../../base/units.ts';
import type { Unified } from '../../guest/copies.ts';
import { collect } from '../for-each.ts';
import type { Io, Services, VerbResult } from '../io.ts';
import { formatJson } from '../json.ts';
import { Progress } from '../progress.ts';
import type { ParsedVerb } from '../verb-types.ts';

/** Each of them reads a tree, and has it in memory. */
const MAX_HELPERS = 4;
const COLUMNS = [
  { title: 'GUEST' },
  { title: 'STATE' },
  { title: 'OWN', align: 'right' },
  { title: 'KEPT', align: 'right' },
  { title: 'NEW IN STORE', align: 'right' },
  { title: 'SAVED', align: 'right' },
] as const;

/** `vserver unify`: makes what guests wrote a part of their images, so that what is the same is on disk once. */
export async function unify(parsed: ParsedVerb<'unify'>, io: Io, services: Services): Promise<VerbResult> {
  const { manager } = services;
  await using progress = new Progress(io, parsed.global, 'unify');
  const { values, exitCode } = await collect(
    parsed,
    io,
    services,
    async (guest): Promise<Unified & { readonly name: string }> => ({
      name: guest.name,
      ...(await manager.copies.unify(guest, parsed.options.dryRun, progress.options)),
    }),
    { isMeant: (guest) => !guest.isEphemeral, parallel: Math.min(MAX_HELPERS, availableParallelism()) },
  );
  progress.clear();
  await io.out(parsed.global.json ? formatJson(values) : formatTable(COLUMNS, values.map(formatRow)));
  return exitCode;
}

function formatRow({
  name,
  state,
  ownBytes,
  keptBytes,
  newBytes,
  savedBytes,
}: Unified & { readonly name: string }): readonly string[] {
  const saved = savedBytes < 0 ? `-${formatSizeRounded(-savedBytes)}` : formatSizeRounded(savedBytes);
  return [
    name,
    state,
    formatSizeRounded(ownBytes),
    formatSizeRounded(keptBytes),
    formatSizeRounded(newBytes),
    saved,
  ];
}
