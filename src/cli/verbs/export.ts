import { statSync } from 'node:fs';
import { dirname, resolve } from 'node:path';
import { BugError, UserError } from '../../base/errors.ts';
import { type ArchivePlace, Archives } from '../../guest/archives.ts';
import type { Io, Services, VerbResult } from '../io.ts';
import { formatJson } from '../json.ts';
import { Progress } from '../progress.ts';
import type { ParsedVerb } from '../verb-types.ts';

/** `vserver export`: writes a guest to an archive. */
export async function exportGuest(
  parsed: ParsedVerb<'export'>,
  io: Io,
  { manager }: Services,
): Promise<VerbResult> {
  const guest = manager.registry.find(parsed.operands[0] ?? '');
  const { output = '-', snapshots, zstd } = parsed.options;
  const to = output === '-' ? standardOutput(io) : file(resolve(io.cwd, output), output);
  await using progress = new Progress(io, parsed.global, `export ${guest.name}`);
  const isCompressed = zstd || /\.t?zst$/.test(output);
  const request = { to, isCompressed, withSnapshots: snapshots };
  const result = await new Archives(manager).export(guest, request, progress.options);
  progress.clear();
  if (to.kind === 'file' && parsed.global.json)
    await io.out(formatJson({ guest: guest.name, file: to.path, ...result }));
  return 0;
}

function standardOutput(io: Io): ArchivePlace {
  if (io.tty[1]) {
    throw new UserError('usage', 'cannot export: found a terminal as output; need -o FILE, or a pipe');
  }
  return { kind: 'client', client: clientOf(io) };
}

/** The caller, whose descriptors an archive goes to or comes from. */
export function clientOf({ client }: Io): number {
  if (client !== undefined) return client;
  throw new BugError('no-client', 'cannot use standard descriptors: found no client');
}

function file(path: string, name: string): ArchivePlace {
  const refuse = (found: string, need: string): UserError =>
    new UserError('usage', `cannot export to ${JSON.stringify(name)}: found ${found}; need ${need}`);
  if (statSync(dirname(path), { throwIfNoEntry: false })?.isDirectory() !== true)
    throw refuse('no such directory', 'one that is there');
  const there = statSync(path, { throwIfNoEntry: false });
  if (there && !there.isFile()) throw refuse('something that is no file', 'a file, or - for standard output');
  return { kind: 'file', path };
}
