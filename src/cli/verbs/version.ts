import { release } from 'node:os';
import type { Io, Services, VerbResult } from '../io.ts';
import { formatJson } from '../json.ts';
import type { ParsedVerb } from '../verb-types.ts';

/** `vserver version`: prints the versions of what serves the caller. */
export async function version(
  parsed: ParsedVerb<'version'>,
  io: Io,
  { manager, controlPlane }: Services,
): Promise<VerbResult> {
  const found = {
    version: controlPlane.version,
    arch: manager.host.abi.arch,
    kernel: release(),
    node: process.versions.node,
  };
  const { version: own, arch, kernel, node } = found;
  await io.out(
    parsed.global.json ? formatJson(found) : `vserver ${own} (${arch}, Linux ${kernel}, Node ${node})\n`,
  );
  return 0;
}
