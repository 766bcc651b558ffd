/**
 * What is known of a guest, and how its live part is kept across restarts of vserverd.
 */

import type { HealthStatus, LimitedResource, StopCause } from '../api/events.ts';
import type { GuestName, Xid } from '../base/ids.ts';
import type { QuotaState } from '../storage/user-quota.ts';
import type { GuestConfig } from './config-types.ts';

/** `broken`: its configuration file cannot be read; it may run on with what it was started with. */
export type GuestState = 'stopped' | 'starting' | 'running' | 'paused' | 'stopping';

/** How a command ended. */
export interface CommandExit {
  /** As a shell would give it: 128+N for signal N; null: nobody was there to see it. */
  readonly code: number | null;
  readonly at: string;
}

/** How a guest's last run ended. */
export interface GuestExit extends CommandExit {
  readonly cause: StopCause;
}

/** The network of a run, for one with addresses of its own. */
export interface LiveNetwork {
  /** Number of its network context: of the guest whose addresses it has. */
  readonly nid: number;
  /** Inode number of the guest's cgroup2 directory. */
  readonly cgroupId: string;
  /** Interface of the host that has the addresses, and those it did not have before. */
  readonly interface: string | undefined;
  readonly added: readonly string[];
}

/** The broker of a run: objects of syscalld, its process and the socket by which it is given more to serve; 0: not known here. */
export interface LiveBroker {
  readonly process: number;
  readonly control: number;
  /** The process that makes its raw sockets, where that is another one. */
  readonly rawMaker?: number;
  /** The process beside it that asks about quotas, if the guest has them, and of whom there are some. */
  readonly quota?: { readonly process: number } & QuotaState;
}

/** The host's end of the interface of a run, for one with a network stack of its own. */
export interface LiveLink {
  readonly name: string;
  readonly index: number;
}

/**
 * Who wants the end of a run: an operator; the control plane, which ends itself; its health check, which has it started
 * again, or leaves that to its policy.
 */
export type StopReason = 'operator' | 'shutdown' | 'health-restart' | 'health-kill';

/** What the health check of a guest says. */
export interface LiveHealth {
  readonly status: HealthStatus;
  /** Checks that failed since the last one that passed. */
  readonly failingStreak: number;
  /** Of the last check. */
  readonly checkedAt: string | null;
  readonly exitCode: number | null;
  /** Why it has no exit code. */
  readonly problem: string | null;
}

/** The run of a guest, as `run/guests/NAME.json` holds it. */
export interface LiveRecord {
  readonly name: GuestName;
  readonly xid: Xid;
  readonly bootId: string;
  /** The guest goes when its run ends. */
  readonly isEphemeral: boolean;
  /** Process 1: the host's pid, with its start so that the pid cannot be mistaken for another's. */
  readonly initPid: number;
  readonly initStartTicks: number;
  /** When the run began, in clock ticks after boot: process 1 of a context made ahead is older. Absent in earlier records. */
  readonly startTicks?: number;
  readonly initObject: number;
  /** Objects of syscalld to drop when the run ends. */
  readonly logObject: number;
  /** Inode numbers of the pipes to the log: standard output and error; none without a log of its own. */
  readonly logPipes: readonly number[];
  /** The client that relays the command's terminal, or 0. */
  readonly client: number;
  readonly network: LiveNetwork | undefined;
  readonly broker: LiveBroker | undefined;
  readonly link: LiveLink | undefined;
  readonly startedAt: string;
  readonly isPaused: boolean;
  /** Who wanted the end of the run. */
  readonly stopAsked: StopReason | undefined;
  /** What its health check says; absent before the first one. */
  readonly health?: LiveHealth;
  /** Processes killed for want of memory, as far as an event has told of them. */
  readonly oomKills?: number;
  /** How often it has met its limits, as far as an event has told of it. */
  readonly limitHits?: Readonly<Partial<Record<LimitedResource, number>>>;
  /** How often the guest was started again in a row before this run, without having run for a while. */
  readonly restarts: number;
  /** The configuration the run was started with. */
  readonly config: GuestConfig;
  /** Rows of the limits table when they were last reset, by their names. */
  readonly limitMarks?: Readonly<Record<string, LimitMark>>;
  readonly exit: GuestExit | undefined;
}

/** A row of the limits table at its last reset. */
export interface LimitMark {
  /** As the kernel counts: hits that were, the largest value so far. */
  readonly hits?: number | undefined;
  readonly peak?: number | undefined;
  /** Where observation began anew. */
  readonly min?: number | undefined;
  readonly max?: number | undefined;
}

/** A start that nobody asked for now, as `run/restarts/NAME.json` holds it. */
export interface PendingStart {
  readonly bootId: string;
  readonly dueAt: string;
  readonly delayMs: number;
  /** For the record of the run. */
  readonly restarts: number;
}

/** A guest in vserverd's memory. */
export interface Guest {
  readonly name: GuestName;
  /** Changed by `retag` alone, through the registry. */
  xid: Xid;
  readonly isEphemeral: boolean;
  /** It has no configuration file yet, and its name and xid are taken all the same. */
  isBeingMade: boolean;
  /** Of the configuration file as last read; of the run for one that has no file. */
  config: GuestConfig;
  state: GuestState;
  /** The run, also the last one. */
  live: LiveRecord | undefined;
  /** Smallest and largest values of the limits table that were seen in this run, by the rows' names. */
  readonly seenLimits: Map<string, { readonly min: number; readonly max: number }>;
  /** It will be started again. */
  pending: PendingStart | undefined;
  /** Work on this guest is one after the other. */
  queue: Promise<void>;
  /** Wait status of a process 1 that ended before its start was over. */
  earlyExit: number | undefined;
  /** Its command has ended before its start was over. */
  isEndingEarly: boolean;
  /** Makes a start that is under way fail, wherever it is. */
  cancelStart: (() => void) | undefined;
  /** Wait status of process 1, once it has followed its command. */
  gone: PromiseWithResolvers<number> | undefined;
  /** Resolved when the present run has ended and what it used is cleaned up. */
  ended: PromiseWithResolvers<GuestExit> | undefined;
}

/** When a run began, in clock ticks after boot; negative when nobody saw it. */
export function startTicksOf({ startTicks, initStartTicks }: LiveRecord): number {
  return startTicks ?? initStartTicks;
}

/** Whether a guest has processes. */
export function isActive(guest: Guest): boolean {
  return guest.state === 'running' || guest.state === 'paused' || guest.state === 'stopping';
}

/** What a guest runs with, or would be started with. */
export function configOf(guest: Guest): GuestConfig {
  return guest.live && isActive(guest) ? guest.live.config : guest.config;
}
