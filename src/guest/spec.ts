/**
 * From a guest's configuration to the decisions of one start or exec (plan-types.ts): identity, rights, environment.
 */

import { statSync } from 'node:fs';
import { availableParallelism, totalmem } from 'node:os';
import { UserError } from '../base/errors.ts';
import type { Xid } from '../base/ids.ts';
import type { BrokeredCalls } from '../context/broker-filter.ts';
import {
  DEFAULT_CAPABILITIES,
  OWN_INIT_CAPABILITIES,
  parseCapability,
  parseCapabilityExpression,
} from '../context/capabilities.ts';
import { idRangeOf } from '../context/id-map.ts';
import { RLIMITS } from '../context/rlimits.ts';
import type { ResolvedUser } from '../context/user.ts';
import type { RawAccess } from '../network/rules.ts';
import type { CgroupPlan } from '../resources/cgroup-driver.ts';
import { ipcSysctlsOf, rlimitsOf } from '../resources/limit-rows.ts';
import type { Limits } from '../resources/limits.ts';
import { limitsOfBucket } from '../resources/token-bucket.ts';
import { parseCpuList } from '../spec/cpu-list.ts';
import { FILLED_AT_START } from '../storage/minimal-etc.ts';
import { bootTimeSeconds } from '../sys/process.ts';
import { Fixed, vary } from '../sys/varying.ts';
import type { GuestConfig, Rlimit } from './config-types.ts';
import { HOST_IDS } from './config-types.ts';
import type { Host } from './host.ts';
import { mayMount } from './plan-mounts.ts';
import {
  type CommandSpec,
  type FilesSpec,
  type LayersSpec,
  type LowerSpec,
  type MountSpec,
  ownerOf,
  type StartSpec,
  type Stdio,
} from './plan-types.ts';
import { guestHosts, guestResolvConf } from './resolver.ts';

const PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';
/** A quarter: so a guest that fills its root leaves the host and others room. */
const MEMORY_ROOT_PART = 4;
const RAM_BYTES = totalmem();
const NET_RAW = parseCapability('NET_RAW');
const CPU_COUNT = availableParallelism();

/** Where a command's standard descriptors lead, and who relays its terminal. */
export interface Connection {
  readonly stdio: readonly [Stdio, Stdio, Stdio];
  readonly terminal: CommandSpec['terminal'];
  /** TERM of the caller, if there is a terminal. */
  readonly term: string | undefined;
  /** The client that shares the command's fate: it gets the exit code, and its signals go to the command. */
  readonly client: number | undefined;
}

/** A terminal that a real init is started on is its console. */
export function consoleOf({ init }: GuestConfig, connect: Connection): Connection {
  const { terminal } = connect;
  return init === 'own' && terminal ? { ...connect, terminal: { ...terminal, console: true } } : connect;
}

/**
 * Returns the connection of a guest whose output goes to its log, by two objects: a real init writes to a console, any
 * other command to two pipes, so that the log tells its two outputs apart.
 */
export function connectionToLog(
  { init }: Pick<GuestConfig, 'init'>,
  log: { readonly stdout: number; readonly stderr: number },
): Connection {
  if (init === 'own') {
    return {
      stdio: [{ kind: 'tty' }, { kind: 'tty' }, { kind: 'tty' }],
      terminal: {
        master: { kind: 'log', object: vary(log.stdout), hold: vary(log.stderr) },
        input: false,
        plainOutput: true,
        console: true,
      },
      term: 'dumb',
      client: undefined,
    };
  }
  return {
    stdio: [
      { kind: 'null' },
      { kind: 'pipe', object: vary(log.stdout) },
      { kind: 'pipe', object: vary(log.stderr) },
    ],
    terminal: undefined,
    term: undefined,
    client: undefined,
  };
}

/** What a caller may set for one command. */
export interface CommandRequest {
  readonly argv: readonly string[];
  readonly env: Readonly<Record<string, string>>;
  readonly cwd: string | undefined;
}

/** Returns the upper bound for capabilities of a guest. */
export function capabilityBound(config: Pick<GuestConfig, 'bcaps' | 'init'>): bigint {
  return parseCapabilityExpression(
    config.bcaps.join(' '),
    config.init === 'own' ? OWN_INIT_CAPABILITIES : DEFAULT_CAPABILITIES,
  );
}

/** Returns which raw sockets on the host's stack a guest is given. */
export function rawAccess(config: Pick<GuestConfig, 'bcaps' | 'init' | 'ccaps'>): RawAccess | undefined {
  if ((capabilityBound(config) & NET_RAW) !== 0n) return 'all';
  return config.ccaps.includes('raw_icmp') ? 'icmp' : undefined;
}

/**
 * Returns what a guest's broker is asked about; undefined: it has none. A broker that is there for sockets tells the
 * guest's own measure as well. For that alone there is one where the answers differ: in a guest with a limit.
 * A guest with quotas has one in any case.
 */
export function brokeredCalls(
  { views: mount }: Pick<Host, 'views'>,
  config: Pick<GuestConfig, 'bcaps' | 'init' | 'ccaps' | 'network' | 'views' | 'limits'>,
): BrokeredCalls | undefined {
  const { network, views, limits } = config;
  const raw = rawAccess(config);
  const isIsolated = network.mode === 'isolated';
  const isMeasured = mount !== undefined;
  const sysinfo = isMeasured && (views.includes('memory') || views.includes('load'));
  const affinity = isMeasured && views.includes('cpu');
  const quota = config.ccaps.includes('quota_ctl');
  if (isIsolated) return { sockets: { raw }, sysinfo, affinity, quota };
  const isLimited =
    (views.includes('memory') && limits.memoryBytes !== 'max') || (affinity && limits.cpus !== 'max');
  return quota || (isMeasured && isLimited) ? { sockets: undefined, sysinfo, affinity, quota } : undefined;
}

/** Returns what runs in a guest, as whom and with what. */
export function commandSpec(
  host: Host,
  config: GuestConfig,
  hostname: string,
  request: CommandRequest,
  user: ResolvedUser,
  connection: Connection,
): CommandSpec {
  const bcaps = capabilityBound(config);
  const seccomp = host.seccompFilter(config.seccomp, bcaps, config.ccaps);
  const calls = brokeredCalls(host, config);
  const { term } = connection;
  const env: Readonly<Record<string, string>> = {
    PATH,
    HOME: user.home,
    HOSTNAME: hostname,
    container: 'vserver',
    ...(term === undefined ? {} : { TERM: term }),
    ...config.env,
    ...request.env,
  };
  return {
    argv: request.argv,
    // Guests that are alike differ in their names.
    env: Object.entries(env).map(([key, value]) =>
      key === 'HOSTNAME' ? vary(`${key}=${value}`) : `${key}=${value}`,
    ),
    path: env['PATH'] ?? '/usr/bin:/bin',
    cwd: request.cwd ?? config.cwd,
    uid: user.uid,
    gid: user.gid,
    groups: user.groups,
    bcaps: new Fixed(bcaps),
    noNewPrivileges: config.noNewPrivileges,
    seccomp: seccomp && new Fixed(seccomp),
    isUsualFilter: typeof config.seccomp === 'string',
    brokerFilter: calls && new Fixed(host.brokerFilter(calls)),
    rlimits: rlimitsOfCommand(config).map(([name, { soft, hard }]) => ({
      resource: rlimitNumber(host, name),
      soft,
      hard,
    })),
    stdio: connection.stdio,
    terminal: connection.terminal,
  };
}

/** Returns the limits of setrlimit(2) of a guest's commands: what is configured as such, and not above the guest's own. */
export function rlimitsOfCommand({
  rlimits,
  limits,
}: Pick<GuestConfig, 'rlimits' | 'limits'>): readonly (readonly [name: string, limit: Rlimit])[] {
  const of = new Map<string, Rlimit>(Object.entries(rlimits));
  for (const [name, limit] of Object.entries(rlimitsOf(limits.context))) {
    const { soft, hard } = of.get(name) ?? { soft: limit, hard: limit };
    const least = (value: Rlimit['soft']): number => (value === 'unlimited' ? limit : Math.min(value, limit));
    of.set(name, { soft: least(soft), hard: least(hard) });
  }
  return [...of];
}

/** Returns the number of a limit of setrlimit(2) on this machine. */
export function rlimitNumber(host: Host, name: string): number {
  return host.abi.constants[`RLIMIT_${name.toUpperCase()}`] ?? RLIMITS[name as keyof typeof RLIMITS].number; // a name of RLIMITS
}

/** Returns a guest's limits as the cgroup driver takes them. */
export function limitsOf(config: GuestConfig): Limits {
  const { memoryBytes, memorySwapBytes, pids, cpus, cpuWeight } = config.limits;
  const { scheduler } = config;
  const cpuCount = scheduler.cpus === undefined ? CPU_COUNT : parseCpuList(scheduler.cpus).length;
  return {
    memoryBytes,
    memorySwapBytes,
    pids,
    cpuWeight,
    ...(cpus === 'max'
      ? { cpuQuotaUs: 'max' as const }
      : { cpuQuotaUs: cpus.quotaUs, cpuPeriodUs: cpus.periodUs }),
    cpuBurstUs: 0,
    ...limitsOfBucket(scheduler, cpuCount),
  };
}

/** The parts of a start that are not in the configuration. */
export interface StartCircumstances {
  readonly name: string;
  readonly xid: Xid;
  /** The guest's own files. */
  readonly files: FilesSpec;
  readonly lower: LowerSpec;
  /** The host's /usr is bound read-only over the guest's. */
  readonly hostUsr: boolean;
  readonly cgroup: Pick<CgroupPlan, 'exits' | 'leaf' | 'writes'>;
  readonly isEphemeral: boolean;
  readonly objects: StartSpec['objects'];
  /** Objects of user namespaces by the range on disk (id-maps.ts). */
  readonly idMaps: ReadonlyMap<number, number>;
  readonly network: StartSpec['network'];
  readonly broker: StartSpec['broker'];
  readonly link: StartSpec['link'];
}

/** Returns all decisions of a start. @throws UserError mount-source-missing */
export function startSpec(
  host: Host,
  config: GuestConfig,
  at: StartCircumstances,
  command: CommandSpec,
): StartSpec {
  const seconds = bootTimeSeconds();
  // The offset is in whole and nano seconds, the latter never negative (time_namespaces(7)).
  const whole = Math.ceil(seconds);
  const nanoseconds = Math.floor((whole - seconds) * 1e9);
  return {
    owner: ownerOf(idRangeOf(at.xid)),
    hostname: vary(config.hostname ?? at.name),
    domainname: config.domainname,
    init: config.init,
    command,
    objects: at.objects,
    root: {
      lower: at.lower,
      upper: at.isEphemeral ? { kind: 'memory', ...memoryRoot(config) } : layersOf(at.files),
      hostUsr: at.hostUsr,
      readonly: config.readonlyRoot,
      attachAt: host.attachPoint,
      mounts: [
        ...ownInitMounts(config),
        ...config.mounts.map((mount) => mountSpec(mount, command.bcaps.value, at.idMaps)),
      ],
      detachedLayers: host.detachedLayers,
    },
    cgroupWrites: at.cgroup.writes.map(({ path, text }) => ({ path: vary(path), text })),
    ipcSysctls: ipcSysctlsOf(config.limits.context, host.abi.pageBytes),
    delegated: config.init === 'own' ? at.cgroup.leaf : undefined,
    cgroupExits: at.cgroup.exits,
    hostNetwork: config.network.mode === 'host',
    network: at.network,
    broker: at.broker,
    link: at.link,
    networkFiles: networkFiles(config, at),
    bootOffset: vary(`boottime ${-whole} ${String(nanoseconds).padStart(9, '0')}\n`),
  };
}

function networkFiles(config: GuestConfig, at: StartCircumstances): StartSpec['networkFiles'] {
  const { addresses = [] } = at.network ?? at.link ?? {};
  const hosts = guestHosts(config.hostname ?? at.name, config.domainname, addresses, config.network.hosts);
  const resolvConf = config.network.mode === 'none' ? undefined : guestResolvConf(config.network);
  return {
    hosts: vary(FILLED_AT_START + hosts),
    resolvConf: resolvConf && FILLED_AT_START + resolvConf,
  };
}

function layersOf(files: FilesSpec): LayersSpec {
  return files.kind === 'disk' ? files : { ...files, upper: vary(files.upper), work: vary(files.work) };
}

/** The room of a guest that exists only while it runs. */
function memoryRoot(config: GuestConfig): {
  readonly sizeBytes: number;
  readonly inodes: number | undefined;
} {
  const most = memoryRootBytes(config);
  return { sizeBytes: Math.min(most, config.disk?.spaceBytes ?? most), inodes: config.disk?.inodes };
}

/** What a guest may write that exists only while it runs: as much as its memory limit, at most a part of the host's. */
function memoryRootBytes(config: GuestConfig): number {
  const part = Math.floor(RAM_BYTES / MEMORY_ROOT_PART);
  const { memoryBytes } = config.limits;
  return memoryBytes === 'max' ? part : Math.min(part, memoryBytes);
}

/** What a real init wants empty at every start, and systemd, also as Debian's, insists on. Sizes: parts of the memory. */
const OWN_INIT_MOUNTS = [
  { target: '/run', mode: 0o755, memoryPart: 5 },
  { target: '/run/lock', mode: 0o1777, memoryPart: 100 },
  { target: '/tmp', mode: 0o1777, memoryPart: 2 },
] as const;

function ownInitMounts(config: GuestConfig): readonly MountSpec[] {
  if (config.init !== 'own') return [];
  return OWN_INIT_MOUNTS.filter(({ target }) => !config.mounts.some((mount) => mount.target === target)).map(
    ({ target, mode, memoryPart }) => ({
      type: 'tmpfs',
      target,
      readonly: false,
      sizeBytes: Math.ceil(memoryRootBytes(config) / memoryPart),
      mode,
    }),
  );
}

function mountSpec(
  mount: GuestConfig['mounts'][number],
  bcaps: bigint,
  idMaps: ReadonlyMap<number, number>,
): MountSpec {
  if (mount.type === 'tmpfs') return { ...mount, mode: 0o1777 };
  const stat = statSync(mount.source, { throwIfNoEntry: false });
  if (stat === undefined) {
    throw new UserError(
      'mount-source-missing',
      `cannot mount "${mount.source}" on "${mount.target}": found no such file or directory on the host`,
    );
  }
  const { source, target, readonly, noexec, diskXid } = mount;
  if (readonly && diskXid !== undefined && !stat.isDirectory() && mayMount(bcaps)) {
    throw new UserError(
      'mount-not-sealable',
      `cannot mount "${mount.source}" on "${mount.target}": found a single file that is idmapped and read-only; ` +
        'need its directory, no idmap, or a guest without SYS_ADMIN, which could make it writable',
    );
  }
  return {
    type: 'bind',
    source,
    target,
    readonly,
    noexec,
    idMap: diskXid === HOST_IDS ? 'own' : diskXid === undefined ? undefined : idMaps.get(diskXid),
    isDirectory: stat.isDirectory(),
  };
}
