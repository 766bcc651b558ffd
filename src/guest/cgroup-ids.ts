/**
 * Ids of guests' cgroups, by which eBPF programs know guests: the inode numbers of their directories in the cgroup2 tree,
 * which are others in each run.
 */
import { statSync } from 'node:fs';
import type { Guest } from './guest.ts';
import type { Host } from './host.ts';

interface Known {
  /** Of the run it is of. */
  readonly initPid: number;
  readonly id: bigint;
}

const known = new WeakMap<Guest, Known>();

/** Returns the id of a guest's cgroup; 0: it has none, or has just ended. */
export function cgroupIdOf(host: Host, guest: Guest): bigint {
  const { xid, live } = guest;
  if (live === undefined) return 0n;
  const before = known.get(guest);
  if (before?.initPid === live.initPid) return before.id;
  const id = inodeOf(`${host.cgroups.directory}/${xid}`);
  if (id !== 0n) known.set(guest, { initPid: live.initPid, id });
  return id;
}

/** Returns the id of the instance's cgroup, which those of guests are right below. */
export function instanceCgroupId(host: Host): bigint {
  return inodeOf(host.cgroups.directory);
}

function inodeOf(directory: string): bigint {
  return statSync(directory, { bigint: true, throwIfNoEntry: false })?.ino ?? 0n;
}
