import type { Xid } from '../base/ids.ts';
import type { ControllerName } from './cgroup-layout.ts';
import type { CgroupWrite, OomSource } from './controller.ts';
import type { EffectiveLimits, LimitKind, Limits, Sample, Usage } from './limits.ts';

/** Where a guest is in the cgroups, as data: the worker makes the directories, joins, and clones. */
export interface CgroupPlace {
  /** Absolute, parents first; all are to be new. */
  readonly directories: readonly string[];
  /**
   * Controllers of the guest's cgroup2 directory that its leaf has as well. To be written while nobody is in there, when it
   * costs next to nothing (Linux 6.0; else the wait for an RCU grace period).
   */
  readonly handDown: readonly CgroupWrite[];
  /** cgroup2 directory a process is cloned into (CLONE_INTO_CGROUP, Linux 5.7). */
  readonly leaf: string;
  /** v1 `tasks` files; a process with one thread writes "0" into each, and its children inherit the place. */
  readonly joins: readonly string[];
  /** The same at the roots of these hierarchies, for a worker that is to serve others after. */
  readonly exits: readonly string[];
  /**
   * Where a process of ours that serves the guest is: charged to the guest, but neither frozen with it nor counted among
   * its tasks; on v1 by these `tasks` files.
   */
  readonly service: { readonly leaf: string; readonly joins: readonly string[] };
}

/** What a start does to cgroups, as data. */
export interface CgroupPlan extends CgroupPlace {
  /** Limits, in order, before anything of the guest runs: it never runs unlimited. */
  readonly writes: readonly CgroupWrite[];
  /** Limits that were asked for and that nothing on this host enforces. */
  readonly unenforced: readonly LimitKind[];
}

/** What a live change led to. */
export interface Effective {
  readonly limits: EffectiveLimits;
  /** Limits that were asked for and that nothing on this host enforces. */
  readonly unenforced: readonly LimitKind[];
}

/** What this host's cgroups can do. */
export interface CgroupCapabilities {
  readonly controllers: Readonly<Record<ControllerName, 'v1' | 'v2' | 'none'>>;
  readonly enforced: readonly LimitKind[];
  /** Why something is missing, one clause each. */
  readonly reasons: readonly string[];
}

/** How often a guest has met a limit. */
export interface LimitHit {
  readonly resource: 'pids' | 'memory';
  readonly count: number;
}

/** Keeps the cgroups of one instance. Every call but `prepareInstance` needs that one to have run. */
export interface CgroupDriver {
  /** `hybrid`: controllers on v1 hierarchies beside a cgroup2 tree; `v2`: all on cgroup2. */
  readonly kind: 'hybrid' | 'v2';
  /** The instance's directory in the cgroup2 tree: what is attached there holds for all its guests. */
  readonly directory: string;
  /** `cgroup.procs` at the root of the hierarchy of memory: of who is there nobody counts it. */
  readonly uncountedMemory: string;
  /** Removes the instance's directories; those of guests that are left stay, and so do these. */
  removeInstance(): void;
  /** Ensures the instance's directories and the controllers in them. Changes no guest. */
  prepareInstance(): void;
  /**
   * Says what a start of a guest has to do to cgroups. Reads and changes nothing.
   *
   * @throws UserError invalid-value, StateError cgroup-not-prepared
   */
  plan(xid: Xid, limits: Limits): CgroupPlan;
  /**
   * The part of `plan` that is the same whatever the limits, but for the CPUs a guest is bound to, which are not looked at.
   *
   * @throws StateError cgroup-not-prepared
   */
  place(xid: Xid, cpuset?: string): CgroupPlace;
  /** Returns which of these limits nothing on this host enforces. @throws UserError invalid-value, StateError cgroup-not-prepared */
  unenforced(limits: Limits): readonly LimitKind[];
  /**
   * Changes limits of a running guest and reads them back; memory first, since only it is refused by its usage.
   *
   * @throws UserError invalid-value, StateError limit-below-usage, cgroup-missing
   */
  apply(xid: Xid, limits: Limits): Effective;
  /**
   * Reads what a guest uses.
   *
   * @throws StateError cgroup-missing
   */
  read(xid: Xid): Usage;
  /**
   * Reads the part of it that is wanted of all guests at once, from as few files as can be.
   *
   * @throws StateError cgroup-missing
   */
  sample(xid: Xid): Sample;
  /** Where the kernel tells that a guest ran out of memory; undefined without a memory controller. */
  oomSource(xid: Xid): OomSource | undefined;
  /** Processes killed in a guest for want of memory; undefined: nobody counts them, or it has no cgroup. */
  oomKills(xid: Xid): number | undefined;
  /** Reads how often a guest has met limits of some controllers, of those the kernel counts. */
  limitHits(xid: Xid, resources: readonly LimitHit['resource'][]): readonly LimitHit[];
  /** Files that change when a guest meets a limit, as inotify tells. */
  limitFiles(xid: Xid): Readonly<Partial<Record<LimitHit['resource'], string>>>;
  /** CPU time of all that is in no guest of the instance. */
  readHostCpu(): { readonly userUs: number; readonly systemUs: number };
  /**
   * Stops every process of a guest where it is; SIGKILL still works. A guest that does not stop in time is thawed.
   *
   * @throws StateError freeze-timeout, cgroup-missing
   */
  freeze(xid: Xid, timeoutMs: number): Promise<void>;
  /** Lets a frozen guest run on. @throws StateError freeze-timeout, cgroup-missing */
  thaw(xid: Xid, timeoutMs: number): Promise<void>;
  /**
   * Sends SIGKILL to every process of a guest, forks in flight included. Does not wait.
   *
   * @throws StateError cgroup-missing; also before Linux 5.14, which has no cgroup.kill
   */
  kill(xid: Xid): void;
  /** Waits until a guest has no live process; false when the time ran out first. */
  waitEmpty(xid: Xid, timeoutMs: number): Promise<boolean>;
  /** Lists the host pids of a guest's processes, in any cgroup it made; none without a cgroup. */
  pids(xid: Xid): readonly number[];
  isPopulated(xid: Xid): boolean;
  /**
   * Removes a guest's cgroups and those it made below; fine when there are none.
   *
   * @throws StateError cgroup-busy
   */
  remove(xid: Xid): void;
  /** Lists the guests that have a cgroup in any hierarchy, ascending. */
  list(): readonly Xid[];
  capabilities(): CgroupCapabilities;
}
