/**
 * The Proc-FS of Linux-VServer: `virtual/XID/…` of running guests, `virtnet/NID/…` of their networks, and what there is of
 * all, as texts in the original's formats.
 */
import { machine, release, type, version } from 'node:os';
import { UserError } from '../base/errors.ts';
import { isXid } from '../base/ids.ts';
import { formatIpAddress, lastOf, parseIpPrefix } from '../base/ip.ts';
import type { Traffic, TrafficKind } from '../network/rules.ts';
import { BUCKET_DEFAULTS } from '../resources/token-bucket.ts';
import {
  type FamilyTransfers,
  formatAccounting,
  formatContextInfo,
  formatContextStatus,
  formatContextsStatus,
  formatInterfaceInfo,
  formatLimits,
  formatNames,
  formatNetworkInfo,
  formatNetworkStatus,
  formatNetworksStatus,
  formatScheduler,
  formatVirtualization,
  type LimitLine,
  type Transfer,
} from '../spec/virtual-files.ts';
import { onlineCpus } from '../sys/online-cpus.ts';
import { TICKS_PER_SECOND } from '../sys/process.ts';
import { type Guest, isActive, type LiveRecord, startTicksOf } from './guest.ts';
import { readMappedLine } from './guest-limits.ts';
import type { Manager } from './manager.ts';
import { capabilityBound, rawAccess } from './spec.ts';

/**
 * What version of the interface is spoken: 2.3.1 on x86-64, with secure /proc, hard scheduling, idle limits and time, full
 * link breaking, spaces, networks of version 2, tags in the owner, and without dynamic ids.
 */
const INTERFACE = { version: 0x00020301, syscall: 236, features: 0x01000ff1 } as const;

const CONTEXT_FILES = ['info', 'status', 'limit', 'sched', 'cvirt', 'cacct', 'nsproxy'] as const;
const NETWORK_FILES = ['info', 'status'] as const;
const SUMMARIES = ['info', 'status'] as const;

/** Flags of a context (uapi/vserver/context.h). */
const FLAG = {
  fakeInit: 1n << 4n,
  namespace: 1n << 7n,
  schedHard: 1n << 8n,
  schedPause: 1n << 10n,
  virtMem: 1n << 16n,
  virtUptime: 1n << 17n,
  virtCpu: 1n << 18n,
  virtLoad: 1n << 19n,
  hideMount: 1n << 24n,
  hideVinfo: 1n << 26n,
  stateAdmin: 1n << 34n,
  helper: 1n << 36n,
  rebootKill: 1n << 37n,
} as const;
/** RAW_ICMP of contexts, and of networks (uapi/vserver/{context,network}.h). */
const CCAP = { raw_icmp: 1n << 8n, quota_ctl: 1n << 20n } as const;
const NCAP = { rawIcmp: 1n << 8n, multicast: 1n << 12n } as const;
/** Flags of a network: its own loopback, shown as 127.0.0.1; only its interfaces and addresses. */
const NETWORK_FLAGS = (1n << 9n) | (1n << 25n) | (1n << 26n) | (1n << 34n);
/** CLONE_NEWNS, …CGROUP, …UTS, …IPC, …USER, …PID; and …NET. */
const SPACES = 0x3e020000;
const SPACE_NET = 0x40000000;
const LOAD_INTERVAL_SECONDS = 5;
const US_PER_TICK = 10_000;

/** Who looks: the host sees all guests, a guest itself. */
export type Viewer = Guest | 'host';

/** Lists the names in a directory, those of directories with "/"; undefined when it is none. */
export function listVirtual(
  manager: Manager,
  path: string,
  viewer: Viewer = 'host',
): readonly string[] | undefined {
  const [area, id, ...rest] = path.split('/').filter((part) => part !== '');
  if (rest.length > 0) return undefined;
  if (area === undefined) return ['virtual/', 'virtnet/'];
  const isContext = area === 'virtual';
  if (!isContext && area !== 'virtnet') return undefined;
  if (id !== undefined) {
    // Not by the list of all: who looks for one guest after the other would have it made as often.
    if (isContext) return runningAs(manager, id, viewer) && CONTEXT_FILES;
    return membersOf(manager, id, viewer).length > 0 ? NETWORK_FILES : undefined;
  }
  const running = runningOf(manager, viewer);
  const ids = running.flatMap(({ guest, live }) => (isContext ? guest.xid : (live.network?.nid ?? [])));
  return [...SUMMARIES, ...[...new Set(ids)].toSorted((a, b) => a - b).map((one) => `${one}/`)];
}

/** Reads a file. @throws UserError no-such-file */
export async function readVirtual(manager: Manager, path: string, viewer: Viewer = 'host'): Promise<string> {
  const [area, ...parts] = path.split('/').filter((part) => part !== '');
  const isDeeper = parts.length > 2;
  const read = area === 'virtual' ? readContext : area === 'virtnet' ? readNetwork : undefined;
  const text = isDeeper ? undefined : await read?.(manager, parts, viewer);
  if (text !== undefined) return text;
  throw new UserError(
    'no-such-file',
    `cannot read ${JSON.stringify(path)}: found no such file in the Proc-FS; need one such as virtual/status, or virtual/XID/limit of a guest that runs`,
  );
}

interface Running {
  readonly guest: Guest;
  readonly live: LiveRecord;
}

function runningOf(manager: Manager, viewer: Viewer): readonly Running[] {
  return (viewer === 'host' ? manager.registry.list() : [viewer]).flatMap((guest) =>
    guest.live && isActive(guest) ? [{ guest, live: guest.live }] : [],
  );
}

function runningAs(manager: Manager, id: string, viewer: Viewer): Running | undefined {
  const xid = Number(id);
  const guest = isXid(xid) ? manager.registry.numbered(xid) : undefined;
  if (!guest?.live || !isActive(guest) || (viewer !== 'host' && viewer !== guest)) return undefined;
  return String(xid) === id ? { guest, live: guest.live } : undefined;
}

/** Guests in a network context; the first is the one it is named after, if that runs. */
function membersOf(manager: Manager, id: string, viewer: Viewer): readonly Running[] {
  if (viewer !== 'host' && String(viewer.live?.network?.nid) !== id) return [];
  return runningOf(manager, 'host')
    .filter(({ live }) => live.network !== undefined && String(live.network.nid) === id)
    .toSorted((a, b) => Number(String(b.guest.xid) === id) - Number(String(a.guest.xid) === id));
}

async function readContext(
  manager: Manager,
  [first, second]: readonly string[],
  viewer: Viewer,
): Promise<string | undefined> {
  if (second === undefined) {
    const running = runningOf(manager, viewer);
    const count = running.length;
    if (first === 'info') return formatInterfaceInfo(INTERFACE);
    if (first !== 'status') return undefined;
    const own = Array.from({ length: 6 }, () => count) as [number, number, number, number, number, number]; // six
    return formatContextsStatus({
      total: count,
      active: count,
      spaceSets: count,
      spaces: own,
      initTasks: running.filter(({ live }) => live.config.init === 'own').length,
    });
  }
  const found = first === undefined ? undefined : runningAs(manager, first, viewer);
  return found && (await readContextFile(manager, found, second, viewer));
}

/** In the order of the original. */
async function limitLines(manager: Manager, guest: Guest): Promise<readonly LimitLine[]> {
  const rows: readonly LimitLine[] = await manager.changes.limitRows(guest);
  const behind = 1 + rows.findIndex(({ row }) => row === 'ANON');
  return rows.toSpliced(behind, 0, readMappedLine(manager.host, guest));
}

async function readContextFile(
  manager: Manager,
  running: Running,
  file: string,
  viewer: Viewer,
): Promise<string | undefined> {
  const { guest, live } = running;
  switch (file) {
    case 'info':
      return formatContextInfo({ xid: guest.xid, initPid: viewer === 'host' ? live.initPid : 1 });
    case 'status':
      return statusOf(manager, running);
    case 'limit':
      return formatLimits(await limitLines(manager, guest));
    case 'sched':
      return schedulerOf(manager, running);
    case 'cvirt':
      return await virtualizationOf(manager, running);
    case 'cacct':
      return await accountingOf(manager, guest);
    case 'nsproxy':
      return namesOf(running);
    default:
      return undefined;
  }
}

function statusOf(manager: Manager, { guest, live }: Running): string {
  const { config } = live;
  const tasks = manager.host.cgroups.sample(guest.xid).pids ?? 0;
  const isSet: readonly (readonly [boolean, bigint])[] = [
    [config.init !== 'own', FLAG.fakeInit],
    [config.scheduler.hard, FLAG.schedHard],
    [guest.state === 'paused', FLAG.schedPause],
    [config.views.includes('memory'), FLAG.virtMem],
    [config.views.includes('cpu'), FLAG.virtCpu],
    [config.views.includes('load'), FLAG.virtLoad],
    [!config.views.includes('vinfo'), FLAG.hideVinfo],
  ];
  const always = FLAG.namespace | FLAG.virtUptime | FLAG.hideMount;
  const states = FLAG.stateAdmin | FLAG.helper | FLAG.rebootKill;
  return formatContextStatus({
    references: tasks + 1,
    tasks,
    flags: isSet.reduce((flags, [isOn, flag]) => (isOn ? flags | flag : flags), always | states),
    bcaps: capabilityBound(config),
    ccaps: config.ccaps.reduce((sum: bigint, name) => sum | CCAP[name], 0n),
    spaces: config.network.mode === 'host' ? SPACES : SPACES + SPACE_NET,
  });
}

const NO_TICKS = { userTicks: 0, systemTicks: 0, heldTicks: 0 } as const;

/** What a guest used is counted over all CPUs: it stands with the first one, and readers look for a line of each. */
function schedulerOf(manager: Manager, { guest, live }: Running): string {
  const { scheduler } = live.config;
  const usage = manager.host.cgroups.read(guest.xid);
  const ticks = (us: number | undefined): number => Math.floor((us ?? 0) / US_PER_TICK);
  const used = {
    userTicks: ticks(usage.cpuUserUs),
    systemTicks: ticks(usage.cpuSystemUs),
    heldTicks: ticks(usage.cpuThrottledUs),
  };
  return formatScheduler({
    ...BUCKET_DEFAULTS,
    fillRate2: 1,
    interval2: 8,
    prioBias: 0,
    ...scheduler,
    isHeld: guest.state === 'paused',
    cpus: onlineCpus().map((cpu, i) => ({
      cpu,
      ...(i === 0 ? used : NO_TICKS),
    })),
  });
}

async function virtualizationOf(manager: Manager, { guest, live }: Running): Promise<string> {
  const { averages, running, blocked, total } = await manager.views.load(guest);
  const ranSeconds = (Date.now() - Date.parse(live.startedAt)) / 1000;
  return formatVirtualization({
    biasUptimeSeconds: Math.max(0, startTicksOf(live)) / TICKS_PER_SECOND,
    threads: total,
    running,
    uninterruptible: blocked,
    held: guest.state === 'paused' ? total : 0,
    loadUpdates: Math.max(0, Math.floor(ranSeconds / LOAD_INTERVAL_SECONDS)),
    load: averages,
    totalForks: (await manager.forks.counts([guest])).get(guest.xid) ?? 0,
  });
}

/** What uname(2) says there: the names it was started with. */
function namesOf({ guest, live }: Running): string {
  return formatNames({
    sysname: type(),
    nodename: live.config.hostname ?? guest.name,
    release: release(),
    version: version(),
    machine: machine(),
    domainname: live.config.domainname ?? '(none)',
  });
}

async function accountingOf(manager: Manager, guest: Guest): Promise<string> {
  const traffic = await manager.networks.traffic(guest);
  if (traffic === undefined) return formatAccounting({});
  if ('all' in traffic) {
    // A stack of its own counts packets of all families together.
    const of = ({ packets, bytes }: Traffic): Transfer => ({ count: packets, bytes });
    const { received, sent } = traffic.all;
    return formatAccounting({
      OTHER: { received: of(received), sent: of(sent), failed: { count: 0, bytes: 0 } },
    });
  }
  const family = (kinds: readonly TrafficKind[]): FamilyTransfers => {
    const sum = (way: 'received' | 'sent'): Transfer =>
      kinds.reduce(
        ({ count, bytes }, kind) => ({
          count: count + traffic[kind][way].packets,
          bytes: bytes + traffic[kind][way].bytes,
        }),
        { count: 0, bytes: 0 },
      );
    return { received: sum('received'), sent: sum('sent'), failed: { count: 0, bytes: 0 } };
  };
  return formatAccounting({
    INET: family(['tcp4', 'udp4', 'other4']),
    INET6: family(['tcp6', 'udp6', 'other6']),
  });
}

function readNetwork(
  manager: Manager,
  [first, second]: readonly string[],
  viewer: Viewer,
): string | undefined {
  if (second === undefined) {
    if (first === 'info') return formatInterfaceInfo(INTERFACE);
    if (first !== 'status') return undefined;
    const nids = new Set(runningOf(manager, viewer).flatMap(({ live }) => live.network?.nid ?? []));
    return formatNetworksStatus({ total: nids.size, active: nids.size });
  }
  const members = membersOf(manager, first ?? '', viewer);
  const [owner] = members;
  if (owner === undefined) return undefined;
  if (second === 'info') return networkInfoOf(Number(first), owner);
  if (second !== 'status') return undefined;
  const tasks = members.reduce(
    (sum, { guest }) => sum + (manager.host.cgroups.sample(guest.xid).pids ?? 0),
    0,
  );
  const { config } = owner.live;
  const raw = rawAccess(config) === undefined ? 0n : NCAP.rawIcmp;
  const multicast = config.network.policy?.multicast === true ? NCAP.multicast : 0n;
  return formatNetworkStatus({
    references: tasks + members.length,
    tasks,
    flags: NETWORK_FLAGS,
    ncaps: raw | multicast,
  });
}

function networkInfoOf(nid: number, { live }: Running): string {
  const prefixes = live.config.network.addresses.map(parseIpPrefix);
  const [first] = prefixes.filter(({ family }) => family === 4);
  const broadcast = first ? formatIpAddress(lastOf(first.bytes, first.length)) : '0.0.0.0';
  return formatNetworkInfo({
    nid,
    broadcast,
    loopback: `127.${nid >> 8}.${nid & 0xff}.1`,
    addresses: prefixes.map(({ family, bytes, length }) => {
      const ones = new Uint8Array(bytes.length).map((_, i) => maskByte(length - 8 * i));
      const mask = formatIpAddress(ones);
      return {
        address: formatIpAddress(bytes),
        mask: family === 4 ? mask : `${mask}/${length}`,
        isIpv6: family === 6,
      };
    }),
  });
}

/** A byte of a mask of which so many bits are left to set. */
function maskByte(bits: number): number {
  if (bits <= 0) return 0;
  return bits >= 8 ? 0xff : (0xff << (8 - bits)) & 0xff;
}
