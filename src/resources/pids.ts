import { parseCount, parseFlatKeyed, parseLimit } from '../spec/cgroup-files.ts';
import { type CgroupFiles, readIfPresent } from './cgroup-fs.ts';
import type { Controller } from './controller.ts';

const PIDS_MAX = 'pids.max';
const PIDS_CURRENT = 'pids.current';
const PIDS_PEAK = 'pids.peak';
const PIDS_EVENTS = 'pids.events';

/**
 * Limits and counts tasks, with the same files in both versions; a fork above the limit fails with EAGAIN.
 *
 * A limit below the present count is taken and only stops new tasks.
 *
 * @see https://docs.kernel.org/admin-guide/cgroup-v1/pids.html; since Linux 4.3
 */
export const pidsController: Controller = {
  limitFiles: { pids: PIDS_MAX },
  plan: (directory, limits, enforced) =>
    enforced.has('pids') ? [{ path: `${directory}/${PIDS_MAX}`, text: String(limits.pids ?? 'max') }] : [],
  apply: (files, directory, limits) => {
    if (limits.pids !== undefined) files.write(`${directory}/${PIDS_MAX}`, String(limits.pids));
  },
  readLimits: (files, directory) => {
    const text = readIfPresent(files, `${directory}/${PIDS_MAX}`);
    return { pids: text === undefined ? undefined : parseLimit(text) };
  },
  readUsage: (files, directory) => {
    const current = readIfPresent(files, `${directory}/${PIDS_CURRENT}`);
    const peak = readIfPresent(files, `${directory}/${PIDS_PEAK}`);
    return {
      pids: current === undefined ? undefined : parseCount(current),
      pidsPeak: peak === undefined ? undefined : parseCount(peak),
      pidsLimitHits: readHits(files, directory),
    };
  },
  hitFile: (directory) => `${directory}/${PIDS_EVENTS}`,
  readHits,
  readSample: (files, directory) => {
    const current = readIfPresent(files, `${directory}/${PIDS_CURRENT}`);
    return current === undefined ? {} : { pids: parseCount(current) };
  },
};

function readHits(files: CgroupFiles, directory: string): number | undefined {
  const events = readIfPresent(files, `${directory}/${PIDS_EVENTS}`);
  return events === undefined ? undefined : parseFlatKeyed(events).get('max');
}
