import { UserError } from '../base/errors.ts';
import { parseCpuList } from '../spec/cpu-list.ts';
import { type CgroupFiles, readIfPresent } from './cgroup-fs.ts';
import type { Controller } from './controller.ts';
import { ALL_CPUS, type Limits } from './limits.ts';

const CPUS = 'cpuset.cpus';
const EFFECTIVE_CPUS = 'cpuset.cpus.effective';
const MEMS = 'cpuset.mems';
const CLONE_CHILDREN = 'cgroup.clone_children';

/**
 * Makes an instance's directory in a version 1 hierarchy one below which groups can be used as they are made: without
 * CPUs and memory nodes of its own a group takes no process.
 *
 * @see https://docs.kernel.org/admin-guide/cgroup-v1/cpusets.html
 */
export function prepareCpusetV1(files: CgroupFiles, directory: string): void {
  for (const file of [CPUS, MEMS]) {
    if (files.read(`${directory}/${file}`).trim() !== '') continue;
    files.write(`${directory}/${file}`, files.read(`${above(directory)}/${file}`).trim());
  }
  files.write(`${directory}/${CLONE_CHILDREN}`, '1');
}

/**
 * Refuses CPUs that the host does not have: version 1 says ERANGE or EINVAL, version 2 takes them and lets a guest that has no other
 * ones run on all.
 *
 * @param parent the cgroup above that of guests
 * @throws UserError cpu-missing, invalid-value
 */
export function checkCpus(
  files: CgroupFiles,
  parent: string,
  version: 'v1' | 'v2',
  { cpuset = ALL_CPUS }: Limits,
): void {
  if (cpuset === ALL_CPUS) return;
  const all = readIfPresent(files, `${parent}/${version === 'v1' ? CPUS : EFFECTIVE_CPUS}`)?.trim() ?? '';
  if (all === '') return;
  const present = new Set(parseCpuList(all));
  if (parseCpuList(cpuset).every((cpu) => present.has(cpu))) return;
  throw new UserError('cpu-missing', `cannot use CPUs ${cpuset}: found CPUs ${all}; need some of these`);
}

/**
 * The CPUs a guest may use. A group with processes cannot be given back the empty list it may have begun with (ENOSPC,
 * validate_change() in kernel/cgroup/cpuset.c), so all CPUs are those of the cgroup above.
 *
 * @param allFile where that one says them
 */
function cpusetBy(allFile: string): Controller {
  const all = (files: CgroupFiles, directory: string): string =>
    readIfPresent(files, `${above(directory)}/${allFile}`)?.trim() ?? '';
  return {
    limitFiles: { cpuset: CPUS },
    plan: (directory, { cpuset = ALL_CPUS }, enforced) =>
      enforced.has('cpuset') && cpuset !== ALL_CPUS ? [{ path: `${directory}/${CPUS}`, text: cpuset }] : [],
    apply: (files, directory, { cpuset }) => {
      if (cpuset === undefined) return;
      const path = `${directory}/${CPUS}`;
      if (cpuset !== ALL_CPUS) files.write(path, cpuset);
      else if (files.read(path).trim() !== '') files.write(path, all(files, directory));
    },
    readLimits: (files, directory) => {
      const text = readIfPresent(files, `${directory}/${CPUS}`)?.trim();
      if (text === undefined) return {};
      return { cpuset: text === '' || text === all(files, directory) ? ALL_CPUS : text };
    },
    readUsage: () => ({}),
    readSample: () => ({}),
  };
}

/**
 * By version 2 files.
 *
 * @see https://docs.kernel.org/admin-guide/cgroup-v2.html (Cpuset); since Linux 5.0
 */
export const cpusetV2: Controller = cpusetBy(EFFECTIVE_CPUS);

/** By version 1 files. A guest has a group there only if it needs one. */
export const cpusetV1: Controller = cpusetBy(CPUS);

function above(directory: string): string {
  return directory.slice(0, directory.lastIndexOf('/'));
}
