import { UserError } from '../../base/errors.ts';
import { escapeControls } from '../../base/text-table.ts';
import type { TreeChange } from '../../spec/tree-changes.ts';
import type { Io, Services, VerbResult } from '../io.ts';
import { formatJson } from '../json.ts';
import { Progress } from '../progress.ts';
import type { ParsedVerb } from '../verb-types.ts';

const LETTERS = { added: 'A', changed: 'C', deleted: 'D' } as const;

/** `vserver diff`: shows what changed in a guest's files. */
export async function diff(parsed: ParsedVerb<'diff'>, io: Io, { manager }: Services): Promise<VerbResult> {
  const [word = '', from, to, ...rest] = parsed.operands;
  if (rest.length > 0)
    throw new UserError(
      'usage',
      `cannot compare more than two snapshots; need no ${JSON.stringify(rest[0])}`,
    );
  const guest = manager.registry.find(word);
  await using progress = new Progress(io, parsed.global, `diff of ${guest.name}`);
  const changes = await manager.copies.compare(guest, from, to, progress.options);
  progress.clear();
  await io.out(
    parsed.global.json
      ? formatJson(changes.map(viewChange))
      : changes.map((one) => `${LETTERS[one.kind]} ${escapeControls(shownPath(one))}\n`).join(''),
  );
  return 0;
}

function viewChange(change: TreeChange): object {
  const { kind, parts } = change;
  return { kind, path: shownPath(change), ...(kind === 'changed' ? { parts } : {}) };
}

/** As text; bytes that are none are shown as `\xNN`. */
function shownPath({ path }: TreeChange): string {
  const bytes = Buffer.from(path, 'latin1');
  const text = bytes.toString('utf8');
  if (Buffer.from(text).equals(bytes)) return `/${text}`;
  return `/${path.replace(/[^\x20-\x7e]/g, (one) => `\\x${one.charCodeAt(0).toString(16).padStart(2, '0')}`)}`;
}
