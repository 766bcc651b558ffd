/**
 * One command line from its words to its exit code. Runs inside vserverd, for a client or for a test.
 */
import { exitCodeOf } from './exit-code.ts';
import { formatFailure } from './failure.ts';
import type { Io, Services, VerbResult } from './io.ts';
import { parseCommandLine } from './parse.ts';
import { findVerb } from './verb-table.ts';
import type { Verb } from './verb-types.ts';
import { runVerb } from './verbs.ts';

/** Runs a command line; every failure becomes a line on stderr and an exit code. */
export async function main(argv: readonly string[], io: Io, services: Services): Promise<VerbResult> {
  let verb: Verb | undefined;
  try {
    const parsed = parseCommandLine(argv);
    verb = parsed.verb;
    return await runVerb(parsed, io, services);
  } catch (error) {
    await io.err(formatFailure(error));
    // A line that cannot be read is still one of the verb's: `run` and `exec` have exit codes of their own.
    return exitCodeOf(error, verb ?? findVerb(argv.find((word) => !word.startsWith('-')) ?? ''));
  }
}
