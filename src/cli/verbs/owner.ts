import { lstatSync } from 'node:fs';
import { resolve } from 'node:path';
import { UserError } from '../../base/errors.ts';
import { formatTable } from '../../base/text-table.ts';
import { ownerOf } from '../../guest/file-owner.ts';
import type { Io, Services, VerbResult } from '../io.ts';
import { formatJson } from '../json.ts';
import type { ParsedVerb } from '../verb-types.ts';

const COLUMNS = [
  { title: 'XID' },
  { title: 'GUEST' },
  { title: 'UID' },
  { title: 'GID' },
  { title: 'FILE' },
] as const;

/** `vserver owner`: tells whose files on disk are. */
export async function owner(parsed: ParsedVerb<'owner'>, io: Io, { manager }: Services): Promise<VerbResult> {
  const owners = parsed.operands.map((file) => {
    const stat = lstatSync(resolve(io.cwd, file), { throwIfNoEntry: false });
    if (stat === undefined)
      throw new UserError('usage', `cannot tell the owner of ${JSON.stringify(file)}: found no such file`);
    const { uid, gid } = stat;
    return { file, ...ownerOf({ uid, gid }, manager.registry) };
  });
  const rows = owners.map(({ file, xid, guest, uid, gid }) => [
    String(xid),
    guest ?? (xid === 0 ? '(host)' : '(none)'),
    String(uid),
    String(gid),
    file,
  ]);
  await io.out(parsed.global.json ? formatJson(owners) : formatTable(COLUMNS, rows));
  return 0;
}
