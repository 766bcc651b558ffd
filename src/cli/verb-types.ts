import type { EventType } from '../api/events.ts';
import type { GuestName, Xid } from '../base/ids.ts';
import type { ContextCapability } from '../context/capabilities.ts';
import type { GuestMountValues, HealthCheck, InitStyle, NetworkMode } from '../guest/config-types.ts';
import type { BuildOnlyOptions } from './build-options.ts';
import type { LimitKindOptions, LimitValueOptions } from './limit-options.ts';
import type {
  EnvSetting,
  EventStart,
  RestartSetting,
  SecurityOption,
  TrafficQuotaSetting,
  UlimitSetting,
} from './option-values.ts';
import type { PsKey } from './ps-table.ts';
import type { TopKey } from './top-table.ts';

/** Options that every verb takes, also before the verb. */
export interface GlobalOptions {
  /** Directory that holds all state; absent: VSERVER_ROOT, or else the system's directories. */
  readonly root: string | undefined;
  readonly json: boolean;
  readonly quiet: boolean;
}

/** Options that become a guest's configuration. */
export interface ConfigOptions {
  readonly template: string | undefined;
  readonly trustDomain: string | undefined;
  readonly xid: Xid | undefined;
  readonly command: readonly string[] | undefined;
  readonly env: readonly EnvSetting[];
  readonly envFile: readonly string[];
  readonly user: string | undefined;
  readonly workdir: string | undefined;
  readonly hostname: string | undefined;
  readonly domainname: string | undefined;
  readonly init: InitStyle | undefined;
  /** Bytes. */
  readonly memory: number | 'max' | undefined;
  /** Bytes of memory and swap together. */
  readonly memorySwap: number | 'max' | undefined;
  readonly cpus: number | undefined;
  /** A weight, 1..10000, converted from Docker's shares. */
  readonly cpuShares: number | undefined;
  readonly cpuWeight: number | undefined;
  readonly pidsLimit: number | 'max' | undefined;
  readonly shmSize: number | undefined;
  /** Bytes. */
  readonly disk: number | undefined;
  readonly diskInodes: number | undefined;
  readonly network: NetworkMode | undefined;
  /** Addresses in the form of the configuration file. */
  readonly ip: readonly string[];
  readonly networkInterface: string | undefined;
  readonly bridge: string | undefined;
  /** Addresses, at most one of each family. */
  readonly gateway: readonly string[];
  readonly trafficQuota: TrafficQuotaSetting | undefined;
  readonly dns: readonly string[];
  readonly dnsSearch: readonly string[];
  readonly addHost: readonly (readonly [name: string, address: string])[];
  /** Guest whose network it shares. */
  readonly networkOf: GuestName | undefined;
  /** Words for `bcaps`: `+NAME`. */
  readonly capAdd: readonly string[];
  /** Words for `bcaps`: `-NAME`. */
  readonly capDrop: readonly string[];
  readonly ccaps: readonly ContextCapability[];
  readonly bcaps: readonly string[];
  readonly securityOpt: readonly SecurityOption[];
  readonly ulimit: readonly UlimitSetting[];
  readonly readOnly: boolean;
  readonly tmpfs: readonly GuestMountValues[];
  readonly volume: readonly GuestMountValues[];
  readonly mount: readonly GuestMountValues[];
  readonly sysctl: readonly (readonly [key: string, value: string])[];
  readonly stopSignal: string | undefined;
  readonly stopTimeout: number | undefined;
  readonly restart: RestartSetting | undefined;
  readonly mark: readonly string[];
  readonly depends: readonly string[];
  /** For the guest's shell. */
  readonly healthCmd: string | undefined;
  readonly healthInterval: number | undefined;
  readonly healthTimeout: number | undefined;
  readonly healthRetries: number | undefined;
  readonly healthStartPeriod: number | undefined;
  readonly healthOnFailure: HealthCheck['onFailure'] | undefined;
  readonly label: readonly (readonly [key: string, value: string])[];
}

/** Options of `create`. */
export interface CreateOptions extends ConfigOptions {
  readonly name: GuestName | undefined;
}

/** Options of `run`. */
export interface RunOptions extends CreateOptions {
  readonly explain: boolean;
  readonly detach: boolean;
  readonly rm: boolean;
  readonly interactive: boolean;
  readonly tty: boolean;
}

/** Options of `exec`. */
export interface ExecOptions {
  readonly detach: boolean;
  readonly interactive: boolean;
  readonly tty: boolean;
  readonly env: readonly EnvSetting[];
  readonly envFile: readonly string[];
  readonly workdir: string | undefined;
  readonly user: string | undefined;
  readonly explain: boolean;
}

/** Options of verbs that work on named guests or on all. */
export interface AllOptions {
  readonly all: boolean;
}

/** Options of `start`. */
export interface StartOptions extends AllOptions {
  /** Groups of guests, in place of names. */
  readonly mark: readonly string[];
  readonly explain: boolean;
}

/** Options of `stop` and `restart`. */
export interface StopOptions extends AllOptions {
  /** Groups of guests, in place of names. */
  readonly mark: readonly string[];
  /** Until the processes left are killed; absent: what the guest's configuration says. */
  readonly timeout: number | undefined;
}

/** Options of `limit`. */
export interface LimitOptions extends LimitKindOptions, LimitValueOptions {
  /** The guest, in the place of the operand. */
  readonly xid: string | undefined;
  readonly raw: boolean;
  readonly numbers: boolean;
  readonly decimal: boolean;
  readonly reset: boolean;
  readonly resetHits: boolean;
  readonly resetMinmax: boolean;
}

/** Options of `sched`: what is absent is left as it is. */
export interface SchedulerOptions {
  /** The guest, in the place of the operand. */
  readonly xid: string | undefined;
  readonly hard: boolean | undefined;
  readonly idleTime: boolean | undefined;
  readonly fillRate: number | undefined;
  readonly interval: number | undefined;
  readonly tokensMin: number | undefined;
  readonly tokensMax: number | undefined;
  readonly prioBias: number | undefined;
  readonly fillRate2: number | undefined;
  readonly interval2: number | undefined;
  readonly cpus: string | undefined;
}

/** Which options each verb has. */
export interface VerbOptions {
  readonly run: RunOptions;
  readonly create: CreateOptions;
  readonly build: CreateOptions & BuildOnlyOptions;
  readonly start: StartOptions;
  readonly stop: StopOptions;
  readonly restart: StopOptions;
  readonly exec: ExecOptions;
  readonly enter: { readonly user: string | undefined; readonly explain: boolean };
  readonly kill: AllOptions & { readonly signal: string | undefined; readonly pid: readonly number[] };
  readonly pause: AllOptions;
  readonly resume: AllOptions;
  readonly ps: AllOptions & { readonly tree: boolean; readonly sort: PsKey | undefined };
  readonly list: AllOptions & { readonly label: readonly (readonly [key: string, value: string])[] };
  readonly status: AllOptions;
  readonly inspect: AllOptions;
  readonly limit: LimitOptions;
  readonly sched: SchedulerOptions;
  readonly procfs: object;
  readonly stat: {
    /** How far back, in milliseconds; undefined: only now. */
    readonly since: number | undefined;
  };
  readonly top: {
    readonly once: boolean;
    readonly sort: TopKey | undefined;
    /** Between two looks, in milliseconds. */
    readonly interval: number | undefined;
  };
  readonly traffic: AllOptions;
  readonly denied: AllOptions;
  readonly set: {
    readonly unset: readonly string[];
    readonly ipAdd: readonly string[];
    readonly ipRm: readonly string[];
  };
  readonly logs: {
    /** What its hooks wrote, not its command. */
    readonly hooks: boolean;
    /** Likewise its health checks. */
    readonly health: boolean;
    readonly follow: boolean;
    /** Lines from the end; absent: all. */
    readonly tail: number | undefined;
    readonly timestamps: boolean;
  };
  readonly events: {
    /** Absent: the oldest event there is, or with `follow` the next one. */
    readonly since: EventStart | undefined;
    readonly follow: boolean;
    /** Names or xids; none: all. */
    readonly guest: readonly string[];
    readonly type: readonly EventType[];
  };
  readonly wait: object;
  readonly delete: AllOptions & { readonly force: boolean };
  readonly check: object;
  readonly clone: { readonly ip: readonly string[] };
  readonly snapshot: {
    /** How many snapshots of the guest stay; absent: all. */
    readonly keep: number | undefined;
  };
  readonly snapshots: { readonly forget: readonly string[] };
  readonly rollback: { readonly keepConfig: boolean };
  readonly diff: object;
  readonly quota: {
    readonly user: readonly string[];
    readonly group: readonly string[];
    /** Bytes. */
    readonly space: number | undefined;
    /** Bytes. */
    readonly spaceSoft: number | undefined;
    readonly inodes: number | undefined;
    readonly inodesSoft: number | undefined;
  };
  readonly owner: object;
  readonly retag: object;
  readonly du: object;
  readonly export: {
    /** File for the archive; `-` or absent: standard output. */
    readonly output: string | undefined;
    readonly zstd: boolean;
    readonly snapshots: boolean;
  };
  readonly import: {
    readonly xid: Xid | undefined;
    readonly ip: readonly string[];
    readonly trustConfig: boolean;
    /** Bytes. */
    readonly maxSize: number | undefined;
  };
  readonly unify: AllOptions & { readonly dryRun: boolean };
  readonly store: {
    readonly dryRun: boolean;
    readonly full: boolean;
    readonly trustDomain: string | undefined;
  };
  readonly version: object;
  readonly completion: object;
  readonly daemon: {
    /** Stop running guests before the daemon. */
    readonly guests: boolean;
  };
  readonly help: object;
}

/** A verb's name. */
export type Verb = keyof VerbOptions;

/** A parsed command line; `verb` tells the type of `options`. */
export type ParsedCommand = { readonly [V in Verb]: ParsedVerb<V> }[Verb];

/** A parsed command line of one verb. */
export interface ParsedVerb<V extends Verb> {
  readonly verb: V;
  readonly operands: readonly string[];
  readonly options: VerbOptions[V];
  /** The guest's command and its arguments; empty when none was given. */
  readonly command: readonly string[];
  readonly global: GlobalOptions;
}
