/**
 * What is shown of a guest: as JSON by `inspect` and `list --json`, in short by tables.
 */
import { formatSignal } from '../base/signals.ts';
import { formatCpus } from '../base/units.ts';
import type { GuestConfig, HealthCheck, RestartPolicy } from '../guest/config-types.ts';
import {
  type Guest,
  type GuestExit,
  type GuestState,
  isActive,
  type LiveHealth,
  startTicksOf,
} from '../guest/guest.ts';
import { isFenced } from '../guest/guest-limits.ts';
import { FRESH } from '../guest/health.ts';
import { guestPaths } from '../guest/paths.ts';
import { limitsOf } from '../guest/spec.ts';
import type { CgroupDriver } from '../resources/cgroup-driver.ts';
import { type ContextLimits, LIMIT_ROWS, limitRowSpec } from '../resources/limit-rows.ts';
import { LIMIT_KINDS, type LimitKind } from '../resources/limits.ts';
import { type Pressure, parsePressure } from '../spec/cgroup-files.ts';
import type { Services } from './io.ts';
import { secondsSince } from './uptime.ts';

/** A limit, `max` if there is none, a list of CPUs, or a measure; null: nothing on this host keeps or counts it. */
type Measure = number | string | null;

/** What is shown as the state of a guest. */
export type ShownState = GuestState | 'restarting';

/** A guest as JSON. Sizes are bytes, times RFC 3339. */
export interface GuestView {
  readonly name: string;
  readonly xid: number;
  readonly state: ShownState;
  /** Process 1 by its host pid. */
  readonly initPid: number | null;
  readonly startedAt: string | null;
  readonly uptimeSeconds: number | null;
  readonly template: string;
  readonly trustDomain: string;
  readonly command: readonly string[];
  readonly init: string;
  readonly user: string;
  readonly cwd: string;
  readonly env: Readonly<Record<string, string>>;
  readonly hostname: string;
  readonly domainname: string | null;
  readonly network: GuestConfig['network'];
  readonly limits: LimitsView;
  readonly ccaps: readonly string[];
  readonly scheduler: GuestConfig['scheduler'];
  readonly bcaps: readonly string[];
  readonly seccomp: GuestConfig['seccomp'];
  readonly noNewPrivileges: boolean;
  readonly rlimits: GuestConfig['rlimits'];
  readonly readonlyRoot: boolean;
  readonly mounts: GuestConfig['mounts'];
  readonly sysctls: Readonly<Record<string, string>>;
  /** What it sees in its own measure. */
  readonly views: GuestConfig['views'];
  readonly stop: { readonly signal: string; readonly timeoutMs: number };
  readonly boot: GuestConfig['boot'];
  readonly restart: RestartView;
  /** Null for a guest without a check. */
  readonly health: HealthView | null;
  /** What its processes wait for; null while it does not run, and where the kernel does not measure it. */
  readonly pressure: PressureView | null;
  readonly hooks: GuestConfig['hooks'];
  readonly labels: Readonly<Record<string, string>>;
  /** It is deleted when it stops. */
  readonly ephemeral: boolean;
  /** How the last run ended; null while it runs and if it never did since the host was started. */
  readonly exit: GuestExit | null;
  /** Null for a guest that has none. */
  readonly configFile: string | null;
  /** Its own files: what it wrote, and its log. */
  readonly directory: string;
}

/** What a table shows of a guest: the kernel need not be asked. */
export type GuestSummary = Pick<
  GuestView,
  'name' | 'xid' | 'state' | 'initPid' | 'uptimeSeconds' | 'template' | 'command' | 'health' | 'labels'
>;

/** When a guest is started again. */
export interface RestartView {
  readonly policy: RestartPolicy['policy'];
  readonly maxRetries: number | null;
  readonly delayMs: number;
  readonly maxDelayMs: number;
  readonly onReboot: boolean;
  /** Starts in a row. */
  readonly restarts: number;
  /** When it will be; null if none is due. */
  readonly dueAt: string | null;
}

/** The health check of a guest, and while it runs what it says. */
export type HealthView = HealthCheck & { readonly now: LiveHealth | null };

/** Pressure of a guest, by resource. */
export type PressureView = Readonly<Record<'cpu' | 'memory' | 'io', Pressure | null>>;

/** A guest's limits: what was asked for, and while it runs what the kernel says. */
export interface LimitsView {
  readonly asked: {
    readonly memoryBytes: number | 'max';
    readonly memorySwapBytes: number | 'max';
    readonly pids: number | 'max';
    /** As a number of CPUs. */
    readonly cpus: number | 'max';
    readonly cpuWeight: number;
    readonly shmBytes: number;
  } & ContextLimits;
  /** Keys of the configuration whose limits nothing on this host enforces. */
  readonly unenforced: readonly string[];
  readonly effective: Readonly<Record<string, Measure>> | null;
  readonly usage: Readonly<Record<string, Measure>> | null;
}

/** A configuration that cannot be read, as it stands in a list. */
export interface BrokenView {
  readonly name: string;
  readonly state: 'broken';
  readonly error: string;
}

/** The key of the configuration that is a limit. */
const LIMIT_KEYS: Readonly<Record<LimitKind, string>> = {
  memoryBytes: 'limits.memory',
  memorySwapBytes: 'limits.memorySwap',
  pids: 'limits.pids',
  cpuQuotaUs: 'limits.cpus',
  cpuPeriodUs: 'limits.cpus',
  cpuWeight: 'limits.cpuWeight',
  cpuBurstUs: 'scheduler.tokensMax',
  cpuIdle: 'scheduler.fillRate',
  cpuset: 'scheduler.cpus',
};

/** Names limits as the configuration does, each once. */
export function limitKeys(kinds: readonly LimitKind[]): readonly string[] {
  return [...new Set(kinds.map((kind) => LIMIT_KEYS[kind]))];
}

/**
 * Returns the configuration a guest runs with, or would be started with.
 *
 * @throws UserError invalid-config when the file of a stopped guest cannot be used
 */
export function currentConfig(guest: Guest, { manager }: Services): GuestConfig {
  if (isActive(guest) && guest.live) return guest.live.config;
  return guest.isEphemeral ? guest.config : manager.registry.readConfig(guest.name);
}

/** Names the limits that the configuration asks for and nothing on this host enforces. */
export function unenforcedLimits(config: GuestConfig, cgroups: CgroupDriver): readonly string[] {
  const unenforced = cgroups.unenforced(limitsOf(config));
  // The default of the weight is no wish.
  const controllers = limitKeys(
    unenforced.filter((kind) => kind !== 'cpuWeight' || config.limits.cpuWeight !== 100),
  );
  const { context } = config.limits;
  // Most guests ask for none, and each start comes here.
  const asked = Object.values(context).some((value) => value !== undefined) ? LIMIT_ROWS : [];
  const rows = asked
    .map((name) => limitRowSpec(name, isFenced(config.network)))
    .filter(({ limit, scope }) => limit !== undefined && scope === 'none' && context[limit] !== undefined);
  // CFS has one weight for all, so a fill of its own by idle time there is not.
  const fills = (['fillRate2', 'interval2'] as const).filter((key) => config.scheduler[key] !== undefined);
  return [
    ...controllers,
    ...rows.map(({ key }) => `limits.${key}`),
    ...fills.map((key) => `scheduler.${key}`),
  ];
}

/** Returns what is known of a guest without asking the kernel: of thousands as well. @throws UserError invalid-config */
export function summarizeGuest(guest: Guest, services: Services): GuestSummary {
  return summaryOf(guest, currentConfig(guest, services));
}

function summaryOf(guest: Guest, config: GuestConfig): GuestSummary {
  return {
    name: guest.name,
    xid: guest.xid,
    state: shownState(guest),
    initPid: (isActive(guest) && guest.live?.initPid) || null,
    uptimeSeconds: uptimeOf(guest),
    template: config.template,
    command: config.command,
    health: viewHealth(guest, config),
    labels: config.labels,
  };
}

/** Returns all that is known of a guest. @throws UserError invalid-config */
export function viewGuest(guest: Guest, services: Services): GuestView {
  const config = currentConfig(guest, services);
  const { host } = services.manager;
  const paths = guestPaths(host.paths, guest.name);
  const run = isActive(guest) ? guest.live : undefined;
  return {
    ...summaryOf(guest, config),
    startedAt: run?.startedAt ?? null,
    trustDomain: config.trustDomain,
    init: config.init,
    user: config.user,
    cwd: config.cwd,
    env: config.env,
    hostname: config.hostname ?? guest.name,
    domainname: config.domainname ?? null,
    network: config.network,
    limits: viewLimits(guest, config, host.cgroups),
    ccaps: config.ccaps,
    scheduler: config.scheduler,
    bcaps: config.bcaps,
    seccomp: config.seccomp,
    noNewPrivileges: config.noNewPrivileges,
    rlimits: config.rlimits,
    readonlyRoot: config.readonlyRoot,
    mounts: config.mounts,
    sysctls: config.sysctls,
    views: config.views,
    stop: { signal: formatSignal(config.stop.signal), timeoutMs: config.stop.timeoutMs },
    boot: config.boot,
    restart: {
      ...config.restart,
      maxRetries: config.restart.maxRetries ?? null,
      restarts: guest.pending?.restarts ?? guest.live?.restarts ?? 0,
      dueAt: guest.pending?.dueAt ?? null,
    },
    pressure: run ? viewPressure(guest, services) : null,
    hooks: config.hooks,
    ephemeral: guest.isEphemeral,
    exit: run ? null : (guest.live?.exit ?? null),
    configFile: guest.isEphemeral ? null : paths.config,
    directory: paths.directory,
  };
}

/** Returns the health check of a guest and what it says. */
function viewHealth(guest: Guest, { health }: GuestConfig): HealthView | null {
  return health ? { ...health, now: healthOf(guest) } : null;
}

/** What the health check of a guest says now; null for one that has none, or does not run. */
function healthOf(guest: Guest): LiveHealth | null {
  if (!guest.live?.config.health || !isActive(guest)) return null;
  return guest.live.health ?? FRESH;
}

function viewPressure(guest: Guest, { manager }: Services): PressureView | null {
  const read = (kind: 'cpu' | 'memory' | 'io'): Pressure | null => {
    const text = manager.readings.pressure(guest.xid, kind);
    return text === undefined ? null : parsePressure(text);
  };
  const pressure = { cpu: read('cpu'), memory: read('memory'), io: read('io') };
  return Object.values(pressure).every((one) => one === null) ? null : pressure;
}

/** The state of a guest; one that is stopped and will be started again is `restarting`. */
export function shownState(guest: Guest): ShownState {
  return guest.state === 'stopped' && guest.pending ? 'restarting' : guest.state;
}

/** Seconds since a guest was started; null for a guest that does not run. */
export function uptimeOf(guest: Guest): number | null {
  return guest.live && isActive(guest) ? secondsSince(startTicksOf(guest.live)) : null;
}

/** Returns what a guest may use, and while it runs what it uses. */
export function viewLimits(guest: Guest, config: GuestConfig, cgroups: CgroupDriver): LimitsView {
  const { memoryBytes, memorySwapBytes, pids, cpus, cpuWeight, shmBytes, context } = config.limits;
  return {
    asked: {
      memoryBytes,
      memorySwapBytes,
      pids,
      cpus: cpus === 'max' ? cpus : Number(formatCpus(cpus)),
      cpuWeight,
      shmBytes,
      ...context,
    },
    unenforced: unenforcedLimits(config, cgroups),
    ...(isActive(guest) ? readLimits(guest, cgroups) : { effective: null, usage: null }),
  };
}

function readLimits(guest: Guest, cgroups: CgroupDriver): Pick<LimitsView, 'effective' | 'usage'> {
  if (!cgroups.isPopulated(guest.xid)) return { effective: null, usage: null }; // it has just ended
  const { limits } = cgroups.apply(guest.xid, {});
  return {
    effective: nullWhereMissing(Object.fromEntries(LIMIT_KINDS.map((kind) => [kind, limits[kind]]))),
    usage: nullWhereMissing({ ...cgroups.read(guest.xid) }),
  };
}

/** Every key is there in every answer: programs need not tell "missing" from "not counted". */
function nullWhereMissing(
  measures: Readonly<Record<string, number | string | undefined>>,
): Readonly<Record<string, Measure>> {
  return Object.fromEntries(Object.entries(measures).map(([name, measure]) => [name, measure ?? null]));
}
