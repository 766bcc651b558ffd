import { resolve } from 'node:path';
import { UserError } from '../../base/errors.ts';
import { parseGuestName } from '../../base/ids.ts';
import { type ArchivePlace, Archives } from '../../guest/archives.ts';
import { viewGuest } from '../guest-view.ts';
import type { Io, Services, VerbResult } from '../io.ts';
import { formatJson } from '../json.ts';
import { Progress } from '../progress.ts';
import { parseSetting } from '../settings.ts';
import type { ParsedVerb } from '../verb-types.ts';
import { clientOf } from './export.ts';
import { warnOfQuotas } from './quota.ts';

/** `vserver import`: creates a guest from an archive. */
export async function importGuest(
  parsed: ParsedVerb<'import'>,
  io: Io,
  services: Services,
): Promise<VerbResult> {
  const [file = '', name, ...settings] = parsed.operands;
  const { ip, xid, trustConfig, maxSize } = parsed.options;
  const changes = [
    ...settings.map(parseSetting),
    ...(ip.length > 0 ? [{ path: ['network', 'addresses'], value: ip } as const] : []),
  ];
  await using progress = new Progress(io, parsed.global, `import ${file === '-' ? 'a guest' : file}`);
  const { guest, unheld } = await new Archives(services.manager).import(
    {
      from: file === '-' ? standardInput(io) : { kind: 'file', path: resolve(io.cwd, file) },
      name: name === undefined ? undefined : parseGuestName(name),
      xid,
      changes,
      isTrusted: trustConfig,
      maxBytes: maxSize,
    },
    progress.options,
  );
  progress.clear();
  await warnOfQuotas(io, guest, unheld);
  await io.out(parsed.global.json ? formatJson(viewGuest(guest, services)) : `${guest.name}\n`);
  return 0;
}

function standardInput(io: Io): ArchivePlace {
  if (io.tty[0]) {
    throw new UserError('usage', 'cannot import: found a terminal as input; need a file, or a pipe');
  }
  return { kind: 'client', client: clientOf(io) };
}
