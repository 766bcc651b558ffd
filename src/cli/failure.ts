import { primaryError, VserverError } from '../base/errors.ts';

/** Returns what the user is told of a failure: one line, a hint, and the stack only of a bug. */
export function formatFailure(error: unknown): string {
  const primary = primaryError(error);
  if (!(primary instanceof VserverError)) {
    const stack = primary instanceof Error ? (primary.stack ?? primary.message) : String(primary);
    return `vserver: cannot go on: found a bug; please report this\n${stack}\n`;
  }
  const hint = primary.hint === undefined ? '' : `\n${primary.hint}`;
  return `vserver: ${primary.message}${hint}\n`;
}
