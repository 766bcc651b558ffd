/** What views are computed from: the same whatever version of cgroups it was read from. */
import type { LoadAverages } from './load.ts';

/** A guest's memory, in bytes. */
export interface MemorySample {
  /** Undefined: as much as there is. */
  readonly limitBytes: number | undefined;
  readonly usageBytes: number;
  /** Of swap alone; undefined: as much as there is. */
  readonly swapLimitBytes: number | undefined;
  readonly swapBytes: number;
  /** By the names of cgroup v2's memory.stat; what a kernel does not tell is not there. */
  readonly stat: ReadonlyMap<string, number>;
}

/** A guest's CPUs and what it used of them. */
export interface CpuSample {
  /** Numbers of the CPUs it sees, ascending, at least one. */
  readonly cpus: readonly number[];
  readonly userUs: number;
  readonly systemUs: number;
  /** Since the guest's start. */
  readonly uptimeSeconds: number;
}

/** A guest's tasks. */
export interface LoadSample {
  readonly averages: LoadAverages;
  readonly running: number;
  /** In an uninterruptible sleep. */
  readonly blocked: number;
  readonly total: number;
}

/** What a guest read and wrote on one device. */
export interface DiskSample {
  readonly readBytes: number;
  readonly writeBytes: number;
  readonly reads: number;
  readonly writes: number;
}

/** What a guest sent and received, IP headers included. */
export interface TrafficSample {
  readonly received: { readonly packets: number; readonly bytes: number };
  readonly sent: { readonly packets: number; readonly bytes: number };
}
