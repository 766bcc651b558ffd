import { UserError } from '../../base/errors.ts';
import { didYouMean } from '../../base/suggest.ts';
import { formatGeneralHelp, formatVerbHelp } from '../help.ts';
import type { Io, VerbResult } from '../io.ts';
import { findVerb, VERB_ALIASES, VERB_NAMES } from '../verb-table.ts';
import type { ParsedVerb } from '../verb-types.ts';

/** `vserver help`: lists the verbs, or explains one. */
export async function help(parsed: ParsedVerb<'help'>, io: Io): Promise<VerbResult> {
  const [word] = parsed.operands;
  const verb = word === undefined ? undefined : findVerb(word);
  if (word !== undefined && verb === undefined) {
    throw new UserError('usage', `cannot explain ${JSON.stringify(word)}; need a verb`, {
      hint: didYouMean(word, [...VERB_NAMES, ...VERB_ALIASES.keys()]) ?? 'see "vserver help"',
    });
  }
  await io.out(verb === undefined ? formatGeneralHelp() : formatVerbHelp(verb));
  return 0;
}
