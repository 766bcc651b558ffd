import type { GuestName, Xid } from '../base/ids.ts';
import type { CpuBandwidth } from '../base/units.ts';
import type { ContextCapability } from '../context/capabilities.ts';
import type { RlimitName } from '../context/rlimits.ts';
import type { Bandwidth, EgressRule, NetworkPolicy, TrafficQuota } from '../network/rules.ts';
import type { ContextLimits } from '../resources/limit-rows.ts';
import type { TokenBucket } from '../resources/token-bucket.ts';
import type { DiskLimit } from '../storage/disk-limit.ts';
import type { ViewGroup } from '../views/files.ts';
import type { QuotaUnit } from './quota-period.ts';

/**
 * What is process 1 of a guest: `fake` a tiny built-in init, `none` the command itself, `own` the command, which is a
 * real init.
 */
export type InitStyle = 'fake' | 'none' | 'own';

/**
 * `isolated`: addresses of its own on the host's network; `private`: a network stack of its own, with an interface whose
 * other end the host has; `none`: no network but the guest's own loopback; `host`: the host's network, without a fence.
 */
export type NetworkMode = 'isolated' | 'private' | 'none' | 'host';

/** A guest's place in the network. */
export interface GuestNetwork {
  readonly mode: NetworkMode;
  /** As `10.0.0.5/24`, each once; none if it shares another guest's. */
  readonly addresses: readonly string[];
  /** Mode `isolated`: networks all of whose addresses it has as well, as `2001:db8:1::/64`. */
  readonly ranges?: readonly string[];
  /** Mode `private`: a bridge of the host that the host's end of the guest's interface is put into. */
  readonly bridge?: string;
  /** Mode `private`: the guest's way to everywhere else, one of each family; without a bridge the host has them. */
  readonly gateways?: readonly string[];
  /** Mode `isolated`: interface of the host that has the addresses while the guest runs; absent: they are somebody else's matter. */
  readonly interface?: string;
  /** Guest whose addresses and loopback it has too. */
  readonly shareWith?: string;
  readonly policy?: GuestNetworkPolicy;
  readonly bandwidth?: Bandwidth;
  readonly quota?: GuestQuota;
  /** Name servers and search domains in place of the host's. */
  readonly dns?: readonly string[];
  readonly search?: readonly string[];
  /** Further lines of /etc/hosts: addresses by name. */
  readonly hosts?: Readonly<Record<string, string>>;
}

/** How much a guest may send and receive in a day or a month of the host's calendar. */
export interface GuestQuota {
  readonly bytes: number;
  readonly per: QuotaUnit;
  readonly direction: TrafficQuota['direction'];
  /** What happens to what is above. */
  readonly above: TrafficQuota['above'];
  /** With `slow`, and with nothing else. */
  readonly slowBytesPerSecond?: number;
}

/** Whom a guest may reach. */
export interface GuestNetworkPolicy extends Omit<NetworkPolicy, 'peers' | 'raw'> {
  /** Names of guests that may be reached, and may reach this one. */
  readonly peers?: readonly string[];
}

/** The guest's system call filter. */
export type SeccompChoice = 'default' | 'unconfined' | { readonly profile: string };

/** One resource limit of setrlimit(2); `unlimited` is RLIM_INFINITY. */
export interface Rlimit {
  readonly soft: number | 'unlimited';
  readonly hard: number | 'unlimited';
}

/** Owners on disk are the host's own ids: the guest's root is the host's there. */
export const HOST_IDS = 0;
/** Owners on disk are of a range that is nobody's: no guest has xid 1, which watched all others in the original. */
export const SHARED_IDS = 1;

/** A directory or file of the host, or a tmpfs, mounted below the guest's root. */
export type GuestMount =
  | {
      readonly type: 'bind';
      readonly source: string;
      readonly target: string;
      readonly readonly: boolean;
      /** Nothing on it is executed. */
      readonly noexec: boolean;
      /** Owners on disk are of the range of this xid, and the guest sees them as its own; 0 and 1: id-maps.ts; undefined: as they are. */
      readonly diskXid: number | undefined;
    }
  | {
      readonly type: 'tmpfs';
      readonly target: string;
      readonly readonly: boolean;
      readonly sizeBytes: number;
    };

/** When a guest is started and stopped together with others. */
export interface BootOrder {
  /** Groups it belongs to, for `start --mark` and `stop --mark`; those of `default` come up with the host. */
  readonly marks: readonly string[];
  /** Guests that are started before it, and stopped after it. */
  readonly depends: readonly Dependency[];
}

/** Another guest that one depends on. */
export interface Dependency {
  readonly name: GuestName;
  /** It is started when the other one has been, or when its health check has passed. */
  readonly condition: 'started' | 'healthy';
}

/** When a guest that ends is started again. */
export interface RestartPolicy {
  /** `on-failure`: if its exit code is not 0; `unless-stopped`: as `always`, but not with the host if it was stopped. */
  readonly policy: 'no' | 'on-failure' | 'always' | 'unless-stopped';
  /** `on-failure` only: starts in a row; absent is no limit. */
  readonly maxRetries?: number;
  /** Before the first start in a row; doubled for each further one up to `maxDelayMs`. */
  readonly delayMs: number;
  readonly maxDelayMs: number;
  /** A guest that reboots itself starts again, whatever the policy. */
  readonly onReboot: boolean;
}

/** A stage of a guest's life at which a command of the operator's may run on the host. */
export type HookStage =
  | 'initialize'
  | 'prepreStart'
  | 'preStart'
  | 'postStart'
  | 'preStop'
  | 'postStop'
  | 'postpostStop';

/** Commands of the host by stage; the first word of each is an absolute path. */
export type GuestHooks = { readonly [Stage in HookStage]?: readonly string[] } & {
  readonly timeoutMs: number;
};

/** A command that is run in a guest now and then, to see whether it does what it is for. */
export interface HealthCheck {
  readonly test: readonly string[];
  readonly intervalMs: number;
  /** Until a check is killed and has failed. */
  readonly timeoutMs: number;
  /** Failures in a row that make a guest unhealthy. */
  readonly retries: number;
  /** After the start of a guest, as long as no check has passed, failures do not count. */
  readonly startPeriodMs: number;
  /** What is done with a guest that has become unhealthy. */
  readonly onFailure: 'none' | 'restart' | 'kill' | 'stop';
}

/** Upper bounds of a guest's use of the machine; `max` is none. */
export interface GuestLimits {
  readonly memoryBytes: number | 'max';
  /** Memory and swap together, as Docker's `--memory-swap`. */
  readonly memorySwapBytes: number | 'max';
  readonly pids: number | 'max';
  readonly cpus: CpuBandwidth | 'max';
  /** Share of CPU time under contention, 1..10000. */
  readonly cpuWeight: number;
  /** Size of the tmpfs on /dev, /dev/shm included. */
  readonly shmBytes: number;
  /** The rest of the original's limits table. */
  readonly context: ContextLimits;
}

/** How a guest gets the CPUs. */
export type GuestScheduler = TokenBucket;

/** A guest's configuration, complete and checked. */
export interface GuestConfig {
  /** What it may write; absent: no bound. */
  readonly disk?: DiskLimit;
  /** Absent: the manager assigns a free one. */
  readonly xid?: Xid;
  readonly template: string;
  /** Files are shared with guests of the same one only (storage/image-stores.ts). */
  readonly trustDomain: string;
  /** At least one word; the first is a path or a name looked up in the guest's PATH. */
  readonly command: readonly string[];
  readonly env: Readonly<Record<string, string>>;
  /** `USER[:GROUP]`, names or numbers of the guest. */
  readonly user: string;
  readonly cwd: string;
  /** Absent: the guest's name. */
  readonly hostname?: string;
  readonly domainname?: string;
  readonly init: InitStyle;
  readonly stop: { readonly signal: number; readonly timeoutMs: number };
  readonly restart: RestartPolicy;
  readonly boot: BootOrder;
  readonly hooks: GuestHooks;
  readonly health?: HealthCheck | undefined;
  readonly limits: GuestLimits;
  readonly scheduler: GuestScheduler;
  readonly network: GuestNetwork;
  /** Rights of the original that re-grant a part of a capability that is not in the bound. */
  readonly ccaps: readonly ContextCapability[];
  /** Words of a capability expression (`parseCapabilityExpression`), checked; none is the default. */
  readonly bcaps: readonly string[];
  readonly seccomp: SeccompChoice;
  readonly noNewPrivileges: boolean;
  /** Keys are lower case names without `RLIMIT_`. */
  readonly rlimits: Readonly<Partial<Record<RlimitName, Rlimit>>>;
  readonly readonlyRoot: boolean;
  readonly mounts: readonly GuestMount[];
  readonly sysctls: Readonly<Record<string, string>>;
  /** What the guest sees in its own measure. */
  readonly views: readonly ViewGroup[];
  /** Files that stay its own when it is unified: patterns (storage/helper/exclusions.ts). */
  readonly unify: { readonly exclude: readonly string[] };
  readonly log: { readonly maxBytes: number };
  readonly labels: Readonly<Record<string, string>>;
}

type RlimitValue = number | 'unlimited';

/** A mount as the configuration file writes it. */
export interface GuestMountValues {
  readonly type?: 'bind' | 'tmpfs';
  readonly source?: string;
  readonly target: string;
  readonly readonly?: boolean;
  readonly size?: number | string;
  readonly idmap?: boolean | 'none' | 'host' | 'shared' | number;
  readonly noexec?: boolean;
}

/** The configuration file's values before defaults: sizes are bytes or text such as `512m`, durations text. */
export interface GuestConfigValues {
  readonly xid?: number;
  readonly template?: string;
  readonly trustDomain?: string;
  readonly command?: string | readonly string[];
  readonly env?: Readonly<Record<string, string>>;
  readonly user?: string;
  readonly cwd?: string;
  readonly hostname?: string;
  readonly domainname?: string;
  readonly init?: InitStyle;
  readonly stop?: { readonly signal?: string | number; readonly timeout?: string };
  readonly boot?: { readonly marks?: readonly string[]; readonly depends?: readonly string[] };
  readonly restart?: {
    readonly policy?: RestartPolicy['policy'];
    readonly maxRetries?: number;
    readonly delay?: string;
    readonly maxDelay?: string;
    readonly onReboot?: boolean;
  };
  readonly health?: {
    readonly test?: string | readonly string[];
    readonly interval?: string;
    readonly timeout?: string;
    readonly retries?: number;
    readonly startPeriod?: string;
    readonly onFailure?: HealthCheck['onFailure'];
  };
  readonly hooks?: { readonly [Stage in HookStage]?: string | readonly string[] } & {
    readonly timeout?: string;
  };
  readonly disk?: {
    readonly space: number | string;
    readonly inodes?: number;
    readonly reserved?: number;
    readonly method?: 'quota' | 'image';
  };
  readonly limits?: {
    readonly memory?: number | string;
    readonly memorySwap?: number | string;
    readonly pids?: number | 'max';
    readonly cpus?: number | string;
    readonly cpuWeight?: number;
    readonly shm?: number | string;
    readonly addressSpace?: number | string;
    readonly lockedMemory?: number | string;
    readonly anonymousMemory?: number | string;
    readonly openFiles?: number | 'max';
    readonly fileDescriptors?: number | 'max';
    readonly fileLocks?: number | 'max';
    readonly sockets?: number | 'max';
    readonly messageQueues?: number | string;
    readonly sharedMemory?: number | string;
    readonly semaphoreSets?: number | 'max';
    readonly semaphores?: number | 'max';
    readonly dentries?: number | 'max';
  };
  readonly scheduler?: Partial<GuestScheduler>;
  readonly network?: {
    readonly mode?: NetworkMode;
    readonly addresses?: readonly string[];
    readonly ranges?: readonly string[];
    readonly interface?: string;
    readonly bridge?: string;
    readonly gateways?: readonly string[];
    readonly shareWith?: string;
    readonly policy?: Omit<GuestNetworkPolicy, 'egress'> & {
      readonly egress?: readonly (Omit<EgressRule, 'ports'> & { readonly ports?: number | string })[];
    };
    readonly quota?: {
      readonly bytes: number | string;
      readonly per?: QuotaUnit;
      readonly direction?: GuestQuota['direction'];
      readonly above?: GuestQuota['above'];
      readonly slow?: number | string;
    };
    readonly dns?: readonly string[];
    readonly search?: readonly string[];
    readonly hosts?: Readonly<Record<string, string>>;
    readonly bandwidth?: {
      readonly send?: number | string;
      readonly receive?: number | string;
      readonly burst?: number | string;
    };
  };
  readonly ccaps?: readonly ContextCapability[];
  readonly bcaps?: readonly string[];
  readonly seccomp?: SeccompChoice;
  readonly noNewPrivileges?: boolean;
  readonly rlimits?: Readonly<
    Partial<Record<RlimitName, RlimitValue | { readonly soft: RlimitValue; readonly hard: RlimitValue }>>
  >;
  readonly readonlyRoot?: boolean;
  readonly mounts?: readonly GuestMountValues[];
  readonly sysctls?: Readonly<Record<string, string | number>>;
  readonly views?: Readonly<Partial<Record<ViewGroup, boolean>>>;
  readonly unify?: { readonly exclude?: readonly string[] };
  readonly log?: { readonly maxBytes?: number | string };
  readonly labels?: Readonly<Record<string, string>>;
}
