import { ERROR_CODES, type ErrorCodeInfo } from '../api/error-codes.ts';
import { BugError, primaryError, UserError, VserverError } from '../base/errors.ts';
import { explained } from './failure.ts';
import type { Verb } from './verb-types.ts';

const EXIT_FAILED = 1;
const EXIT_USER = 2;
const EXIT_BUG = 70;
/** As chroot(1) and Docker have it, so that a command's own codes stay apart from ours. */
const EXIT_OWN_FAILURE = 125;
const COMMAND_VERBS: ReadonlySet<Verb> = new Set<Verb>(['run', 'exec', 'enter']);
const CODES: Readonly<Record<string, ErrorCodeInfo>> = ERROR_CODES;

/**
 * Finds the exit code of a verb that failed.
 *
 * @param verb absent when the command line could not be understood so far
 */
export function exitCodeOf(error: unknown, verb?: Verb): number {
  const primary = primaryError(explained(error));
  const listed =
    primary instanceof VserverError && Object.hasOwn(CODES, primary.code) ? CODES[primary.code] : undefined;
  // 126 and 127 are about the guest's command, and mean the same in every verb that runs one.
  if (listed?.exit === 126 || listed?.exit === 127) return listed.exit;
  if (verb !== undefined && COMMAND_VERBS.has(verb)) return EXIT_OWN_FAILURE;
  if (listed !== undefined) return listed.exit;
  if (primary instanceof UserError) return EXIT_USER;
  return primary instanceof VserverError && !(primary instanceof BugError) ? EXIT_FAILED : EXIT_BUG;
}
