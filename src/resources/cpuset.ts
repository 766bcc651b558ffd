import { type CgroupFiles, readIfPresent } from './cgroup-fs.ts';
import type { Controller } from './controller.ts';
import { ALL_CPUS } from './limits.ts';

const CPUS = 'cpuset.cpus';
const MEMS = 'cpuset.mems';
const CLONE_CHILDREN = 'cgroup.clone_children';

/**
 * The CPUs a guest may use, by version 2 files: an empty list is that of the cgroup above.
 *
 * @see https://docs.kernel.org/admin-guide/cgroup-v2.html (Cpuset); since Linux 5.0
 */
export const cpusetV2: Controller = {
  limitFiles: { cpuset: CPUS },
  plan: (directory, limits, enforced) =>
    enforced.has('cpuset') ? [{ path: `${directory}/${CPUS}`, text: textOf(limits.cpuset) }] : [],
  apply: (files, directory, { cpuset }) => {
    if (cpuset !== undefined) files.write(`${directory}/${CPUS}`, textOf(cpuset));
  },
  readLimits: (files, directory) => {
    const text = readIfPresent(files, `${directory}/${CPUS}`);
    return text === undefined ? {} : { cpuset: text.trim() || ALL_CPUS };
  },
  readUsage: () => ({}),
  readSample: () => ({}),
};

/** The kernel takes a line feed for the empty list, and nothing at all for no write. */
function textOf(cpuset: string = ALL_CPUS): string {
  return cpuset === ALL_CPUS ? '\n' : cpuset;
}

/**
 * Makes an instance's directory in a version 1 hierarchy one below which groups can be used as they are made: without
 * CPUs and memory nodes of its own a group takes no process.
 *
 * @see https://docs.kernel.org/admin-guide/cgroup-v1/cpusets.html
 */
export function prepareCpusetV1(files: CgroupFiles, directory: string): void {
  const above = directory.slice(0, directory.lastIndexOf('/'));
  for (const file of [CPUS, MEMS]) {
    if (files.read(`${directory}/${file}`).trim() !== '') continue;
    files.write(`${directory}/${file}`, files.read(`${above}/${file}`).trim());
  }
  files.write(`${directory}/${CLONE_CHILDREN}`, '1');
}

/** The same limit by version 1 files, where every list is spelled out. A guest has a group there only if it needs one. */
export const cpusetV1: Controller = {
  ...cpusetV2,
  plan: (directory, { cpuset = ALL_CPUS }, enforced) =>
    enforced.has('cpuset') && cpuset !== ALL_CPUS ? [{ path: `${directory}/${CPUS}`, text: cpuset }] : [],
  apply: (files, directory, { cpuset }) => {
    if (cpuset === undefined) return;
    const above = directory.slice(0, directory.lastIndexOf('/'));
    const text = cpuset === ALL_CPUS ? files.read(`${above}/${CPUS}`).trim() : cpuset;
    files.write(`${directory}/${CPUS}`, text);
  },
};
