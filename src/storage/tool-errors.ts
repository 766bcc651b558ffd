/** What is said of programs of the host that fetch or make something: that one is not there, has failed, or was ended. */
import { StateError } from '../base/errors.ts';

const MESSAGE_BYTES = 4000;
const LAST_LINES = 10;

/** @param packageName the package that has it */
export function toolMissing(what: string, path: string, packageName: string, cause?: unknown): StateError {
  return new StateError(
    'tool-missing',
    `cannot ${what}: found no ${path}; need: apt-get install ${packageName}`,
    cause === undefined ? {} : { cause },
  );
}

/**
 * @param ending how it ended
 * @param log what it printed
 * @param isReason which of its lines says why; without one, the last
 */
export function toolFailed(
  what: string,
  path: string,
  ending: string,
  log: string,
  isReason: (line: string) => boolean = () => false,
): StateError {
  const words = log
    .slice(-MESSAGE_BYTES)
    .replace(/[^\x20-\x7e\n]/g, '?')
    .trim();
  const lines = words.split('\n');
  const reason = lines.findLast(isReason) ?? lines.at(-1) ?? '';
  return new StateError('tool-failed', `cannot ${what}: found ${ending} of ${path}: ${reason}`, {
    hint: `its last words:\n${lines.slice(-LAST_LINES).join('\n')}`,
  });
}

/** It was ended since nobody wants its work any more. */
export function toolCancelled(what: string): StateError {
  return new StateError('cancelled', `cannot ${what}: found it cancelled`);
}
