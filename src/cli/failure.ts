import { primaryError, StateError, VserverError } from '../base/errors.ts';

/** What the host's file system may refuse at any place, and what helps. */
const DISK_REFUSALS: Readonly<Record<string, string>> = {
  ENOSPC: 'more space, or inodes, there',
  EDQUOT: 'a larger quota there',
  EROFS: 'it to be writable',
  EIO: 'a sound disk',
};

/** Returns an error as it is, but as one with a code what the host's disk refused, which is no bug. */
export function explained(error: unknown): unknown {
  const primary = primaryError(error);
  const code = primary instanceof Error && 'code' in primary ? String(primary.code) : '';
  const need = Object.hasOwn(DISK_REFUSALS, code) ? DISK_REFUSALS[code] : undefined;
  if (need === undefined || !(primary instanceof Error)) return error;
  return new StateError('disk-failed', `cannot go on: found ${primary.message}; need ${need}`, {
    cause: primary,
  });
}

/** Returns what the user is told of a failure: one line, a hint, and the stack only of a bug. */
export function formatFailure(error: unknown): string {
  const primary = primaryError(explained(error));
  if (!(primary instanceof VserverError)) {
    const stack = primary instanceof Error ? (primary.stack ?? primary.message) : String(primary);
    return `vserver: cannot go on: found a bug; please report this\n${stack}\n`;
  }
  const hint = primary.hint === undefined ? '' : `\n${primary.hint}`;
  return `vserver: ${primary.message}${hint}\n`;
}
