import type { CgroupFiles } from './cgroup-fs.ts';
import type { EffectiveLimits, LimitKind, Limits, Sample, Usage } from './limits.ts';

/** One write to one cgroup file. */
export interface CgroupWrite {
  readonly path: string;
  readonly text: string;
}

/** Where a guest's memory cgroup tells that something was killed in it. */
export interface OomSource {
  /** File with the count, `oom_kill N`. */
  readonly counter: string;
  /** cgroup v1: file by which an eventfd is told. On v2 the counter's file changes. */
  readonly control?: string;
}

/** How one controller of one cgroup version keeps a guest's limits. Directories are the guest's, absolute. */
export interface Controller {
  /** File that has to be there for a limit to be enforced. */
  readonly limitFiles: Readonly<Partial<Record<LimitKind, string>>>;
  /**
   * Lists the writes that set every enforced limit, given or not. They hold for a cgroup without processes.
   */
  plan(directory: string, limits: Limits, enforced: ReadonlySet<LimitKind>): readonly CgroupWrite[];
  /**
   * Changes the limits that are given, while the guest runs.
   *
   * @param limits only enforced ones
   * @param guest how errors call the guest
   * @throws StateError limit-below-usage, UserError invalid-value, SysError
   */
  apply(files: CgroupFiles, directory: string, limits: Limits, guest: string): void;
  /** Reads back the limits that are enforced. */
  readLimits(files: CgroupFiles, directory: string): Partial<EffectiveLimits>;
  readUsage(files: CgroupFiles, directory: string): Partial<Usage>;
  /** The memory controller only. */
  oomSource?(directory: string): OomSource;
  /** File that changes with each hit of the limit, where the kernel tells that by inotify. */
  hitFile?(directory: string): string;
  /** Reads how often the limit was met; undefined where the kernel does not count it, or it is gone. */
  readHits?(files: CgroupFiles, directory: string): number | undefined;
  /** Reads one file at most. */
  readSample(files: CgroupFiles, directory: string): Partial<Sample>;
}
