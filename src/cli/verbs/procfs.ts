import { listVirtual, readVirtual } from '../../guest/virtual-proc.ts';
import type { Io, Services, VerbResult } from '../io.ts';
import { formatJson } from '../json.ts';
import type { ParsedVerb } from '../verb-types.ts';

/** `vserver procfs`: prints a file of Linux-VServer's Proc-FS, or the names in a directory of it. */
export async function procfs(
  parsed: ParsedVerb<'procfs'>,
  io: Io,
  { manager }: Services,
): Promise<VerbResult> {
  const path = (parsed.operands[0] ?? '').replace(/^\/proc\//, '');
  const names = listVirtual(manager, path);
  if (names !== undefined) {
    await io.out(parsed.global.json ? formatJson(names) : names.map((name) => `${name}\n`).join(''));
    return 0;
  }
  const text = await readVirtual(manager, path);
  await io.out(parsed.global.json ? formatJson({ path, text }) : text);
  return 0;
}
