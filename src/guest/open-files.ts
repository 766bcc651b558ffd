/** The open files of syscalld, of which it holds some for each guest that runs, and for each command that somebody waits for. */
import { readdirSync, readFileSync, statSync } from 'node:fs';
import { StateError } from '../base/errors.ts';
import { parseProcLimits } from '../spec/proc-limits.ts';

/** For workers, clients, and the undo of what fails: a start without them would leave what it has made. */
export const SPARE_FILES = 256;
/** A guest's process 1, its log and two pipes to that, its broker and the socket of it. */
export const FILES_PER_GUEST = 6;

/** How many may be open; it has made its limit as high as it may. */
export function mostOpenFiles(syscalldPid: number = process.ppid): number {
  const limits = parseProcLimits(readFileSync(`/proc/${syscalldPid}/limits`, 'latin1'));
  const { soft = 0 } = limits.get('nofile') ?? {};
  return Number(soft);
}

/** How many are open. */
export function countOpenFiles(): number {
  return fastCount() || readdirSync(`${syscalld()}/fd`).length;
}

/** Linux 6.2 tells it as the size of the directory (fs/proc/fd.c, `proc_fd_getattr`); 0 before. */
function fastCount(): number {
  return statSync(`${syscalld()}/fd`).size;
}

/** The most there were when they were last asked for: each start comes here, and to read them takes longer than to count. */
let knownMost = 0;

/** @throws StateError too-many-files when there may be too few for another guest */
export function refuseWithoutOpenFiles(): void {
  const used = fastCount();
  if (used === 0) return; // to count them each time would take a start longer the more guests there are
  if (used + SPARE_FILES <= knownMost) return;
  const most = mostOpenFiles();
  if (used + SPARE_FILES <= most) {
    knownMost = most;
    return;
  }
  throw new StateError(
    'too-many-files',
    `cannot start another guest: found ${used} of ${most} files open in syscalld; need fewer guests, or the control plane started ` +
      'with a higher hard limit (ulimit -Hn)',
  );
}

function syscalld(): string {
  return `/proc/${process.ppid}`;
}
