import { formatCompletion } from '../completion.ts';
import type { Io, VerbResult } from '../io.ts';
import { oneOf } from '../option-values.ts';
import type { ParsedVerb } from '../verb-types.ts';

const parseShell = oneOf(['bash', 'zsh', 'fish']);

/** `vserver completion`: prints the completion script of a shell. */
export async function completion(parsed: ParsedVerb<'completion'>, io: Io): Promise<VerbResult> {
  await io.out(formatCompletion(parseShell(parsed.operands[0] ?? '')));
  return 0;
}
