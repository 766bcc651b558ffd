import { createHash } from 'node:crypto';
import { StateError } from '../base/errors.ts';
import { parseMountInfo, visibleMounts } from '../spec/mountinfo.ts';
import { parseProcCgroup } from '../spec/proc-cgroup.ts';

/** Controllers that enforce a guest's limits. */
export const CONTROLLERS = ['memory', 'cpu', 'pids', 'cpuset'] as const;
/** A controller that enforces a guest's limits. */
export type ControllerName = (typeof CONTROLLERS)[number];

/** Holds a guest's processes: a cgroup2 directory with children gets its limits but may have no process. */
export const GUEST_LEAF = 'g';

/** Where this host keeps its cgroups. */
export interface CgroupLayout {
  /** Mount point of cgroup2. */
  readonly unified: string;
  /** Mount points of the v1 hierarchies that hold a controller; two controllers may share one. */
  readonly v1: ReadonlyMap<ControllerName, string>;
  /** Controllers bound to a v1 hierarchy that no mount shows: nobody can use them until it is mounted or dissolved. */
  readonly unmounted: readonly ControllerName[];
}

/**
 * Finds the cgroup mounts.
 *
 * Our own place in the tree plays no part: guests live below the root of each mount, so that they outlive the
 * daemon's service and no slice's limits count for them twice.
 *
 * @param mountInfo text of /proc/self/mountinfo
 * @param procCgroup text of /proc/self/cgroup
 * @throws StateError cgroup2-missing when no cgroup2 is mounted
 */
export function discoverCgroups(mountInfo: string, procCgroup: string): CgroupLayout {
  // A bind mount of one cgroup shows only a part of the tree: whole mounts go first.
  const mounts = visibleMounts(parseMountInfo(mountInfo)).toSorted(
    (a, b) => Number(a.root !== '/') - Number(b.root !== '/'),
  );
  const unified = mounts.find((mount) => mount.fsType === 'cgroup2');
  if (unified === undefined) {
    throw new StateError('cgroup2-missing', 'cannot find cgroups: found no cgroup2 mount; need one', {
      hint: 'mkdir -p /sys/fs/cgroup/unified && mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified',
    });
  }
  const v1 = new Map<ControllerName, string>();
  for (const controller of CONTROLLERS) {
    const mount = mounts.find((one) => one.fsType === 'cgroup' && one.superOptions.includes(controller));
    if (mount !== undefined) v1.set(controller, mount.mountPoint);
  }
  const bound = new Set(parseProcCgroup(procCgroup).flatMap((hierarchy) => hierarchy.controllers));
  return {
    unified: unified.mountPoint,
    v1,
    unmounted: CONTROLLERS.filter((controller) => bound.has(controller) && !v1.has(controller)),
  };
}

/**
 * Names the cgroup that holds the guests of one instance.
 *
 * @param root the instance's state root, absolute; undefined for the default one
 * @returns `vserver`, or `vserver-` and 8 hex digits of the root's SHA-256
 */
export function instanceCgroupName(root: string | undefined): string {
  if (root === undefined) return 'vserver';
  return `vserver-${createHash('sha256').update(root).digest('hex').slice(0, 8)}`;
}
