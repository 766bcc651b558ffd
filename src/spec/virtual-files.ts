/**
 * The files of Linux-VServer's Proc-FS, byte for byte as the kernel patch prints them (2.2 and later: kernel/vserver/
 * proc.c and *_proc.h), so that what reads them goes on to work. Widths and tabs are those of its printf formats.
 */

/** `/proc/virtual/info`, `/proc/virtnet/info`. */
export interface InterfaceInfo {
  /** Version of the interface, for example 0x00020301. */
  readonly version: number;
  /** Number of the system call. */
  readonly syscall: number;
  /** Features of the kernel, by bits. */
  readonly features: number;
}

/** Formats the version of the interface. */
export function formatInterfaceInfo({ version, syscall, features }: InterfaceInfo): string {
  return (
    `VCIVersion:\t${hex(version >>> 16, 4)}:${hex(version & 0xffff, 4)}\n` +
    `VCISyscall:\t${syscall}\nVCIKernel:\t${hex(features, 8)}\n`
  );
}

/** `/proc/virtual/status`. */
export interface ContextsStatus {
  readonly total: number;
  readonly active: number;
  /** Sets of namespaces, and of each kind how many there are: file system, mount, UTS, IPC, user, pid. */
  readonly spaceSets: number;
  readonly spaces: readonly [number, number, number, number, number, number];
  readonly initTasks: number;
}

/** Formats how many contexts there are. */
export function formatContextsStatus(status: ContextsStatus): string {
  const { total, active, spaceSets, spaces, initTasks } = status;
  return (
    `#CTotal:\t${total}\n#CActive:\t${active}\n` +
    `#NSProxy:\t${spaceSets}\t ${spaces.join(' ')}\n#InitTask:\t${initTasks}\t ${initTasks}\n`
  );
}

/** `/proc/virtnet/status`. */
export function formatNetworksStatus(status: Pick<ContextsStatus, 'total' | 'active'>): string {
  return `#CTotal:\t${status.total}\n#CActive:\t${status.active}\n`;
}

/** `XID/info`. The address of the kernel's structure is nobody's business: zeros. */
export function formatContextInfo(info: { readonly xid: number; readonly initPid: number }): string {
  return `ID:\t${info.xid}\nInfo:\t${NO_ADDRESS}\nInit:\t${info.initPid}\nOOM:\t0\n`;
}

const NO_ADDRESS = '0'.repeat(16);

/** `XID/status`. */
export interface ContextStatus {
  readonly references: number;
  readonly tasks: number;
  readonly flags: bigint;
  /** Upper bound of capabilities. */
  readonly bcaps: bigint;
  readonly ccaps: bigint;
  /** CLONE_ flags of the namespaces that are its own. */
  readonly spaces: number;
}

/** Formats flags and capabilities of a context. */
export function formatContextStatus(status: ContextStatus): string {
  const { references, tasks, flags, bcaps, ccaps, spaces } = status;
  return (
    `UseCnt:\t${references}\nTasks:\t${tasks}\nFlags:\t${hex(flags, 16)}\nBCaps:\t${hex(bcaps, 16)}\n` +
    `CCaps:\t${hex(ccaps, 16)}\nUmask:\t${hex(0, 8)}\nWmask:\t${hex(0, 8)}\nSpaces:\t${hex(spaces, 8)} ${hex(0, 8)}\n`
  );
}

/** A row of `XID/limit`; what is not known is 0, as with a resource that a kernel did not count. */
export interface LimitLine {
  readonly row: string;
  readonly current: number | null;
  readonly min: number | null;
  readonly max: number | null;
  readonly soft: number | 'max';
  readonly hard: number | 'max';
  readonly hits: number | null;
}

const LIMIT_TITLES = 'Limit\t current\t     min/max\t\t    soft/hard\t\thits\n';

/** Formats the limits table. */
export function formatLimits(rows: readonly LimitLine[]): string {
  const lines = rows.map((row) => {
    const [current, min, max, soft, hard] = [row.current, row.min, row.max, row.soft, row.hard].map((value) =>
      String(value === 'max' ? -1 : (value ?? 0)).padStart(8),
    );
    return `${row.row}:\t${current}\t${min}/${max}\t${soft}/${hard}\t${String(row.hits ?? 0).padStart(6)}\n`;
  });
  return LIMIT_TITLES + lines.join('');
}

/** `XID/sched`. */
export interface SchedulerStatus {
  readonly fillRate: number;
  readonly interval: number;
  readonly fillRate2: number;
  readonly interval2: number;
  readonly tokensMin: number;
  readonly tokensMax: number;
  readonly prioBias: number;
  readonly isHeld: boolean;
  readonly idleTime: boolean;
  /** Of each CPU, in ticks of 1/100 s. */
  readonly cpus: readonly {
    readonly cpu: number;
    readonly userTicks: number;
    readonly systemTicks: number;
    readonly heldTicks: number;
  }[];
}

/** Formats the token bucket, and what was used of each CPU. */
export function formatScheduler(status: SchedulerStatus): string {
  const { fillRate, interval, fillRate2, interval2, tokensMin, tokensMax, prioBias } = status;
  const wide = (value: number): string => String(value).padStart(8);
  const state = `${status.isHeld ? 'H' : 'R'}${status.idleTime ? 'I' : '-'}`;
  const bucket = `${tokensMax} ${tokensMin} ${tokensMax} ${fillRate}/${interval} ${fillRate2}/${interval2} ${prioBias} 0`;
  const cpus = status.cpus.map(
    ({ cpu, userTicks, systemTicks, heldTicks }) =>
      `cpu ${cpu}: ${userTicks} ${systemTicks} ${heldTicks} 0 0 ${state} ${bucket}\n`,
  );
  return (
    `FillRate:\t${wide(fillRate)},${fillRate2}\nInterval:\t${wide(interval)},${interval2}\n` +
    `TokensMin:\t${wide(tokensMin)}\nTokensMax:\t${wide(tokensMax)}\nPrioBias:\t${wide(prioBias)}\n${cpus.join('')}`
  );
}

/** `XID/cvirt`. */
export interface VirtualizationStatus {
  /** Uptime of the host when the context began. */
  readonly biasUptimeSeconds: number;
  readonly threads: number;
  readonly running: number;
  readonly uninterruptible: number;
  readonly held: number;
  readonly loadUpdates: number;
  readonly load: readonly [number, number, number];
  readonly totalForks: number;
}

/** Formats what is virtual: uptime, load, tasks. */
export function formatVirtualization(status: VirtualizationStatus): string {
  const { biasUptimeSeconds, threads, running, uninterruptible, held, loadUpdates, load, totalForks } =
    status;
  return (
    `BiasUptime:\t${biasUptimeSeconds.toFixed(2)}\nnr_threads:\t${threads}\nnr_running:\t${running}\n` +
    `nr_unintr:\t${uninterruptible}\nnr_onhold:\t${held}\nload_updates:\t${loadUpdates}\n` +
    `loadavg:\t${load.map((one) => one.toFixed(2)).join(' ')}\ntotal_forks:\t${totalForks}\n`
  );
}

/** `XID/nsproxy`: what uname(2) says in there. */
export interface ContextNames {
  readonly sysname: string;
  readonly nodename: string;
  readonly release: string;
  readonly version: string;
  readonly machine: string;
  readonly domainname: string;
}

/** Formats the names of a context. Its limits of System V IPC are not told: only who is in there can read them. */
export function formatNames(names: ContextNames): string {
  const { sysname, nodename, release, version, machine, domainname } = names;
  return (
    `NSProxy:\t${NO_ADDRESS} [${NO_ADDRESS},${NO_ADDRESS},${NO_ADDRESS}]\n` +
    `SysName:\t${sysname}\nNodeName:\t${nodename}\nRelease:\t${release}\n` +
    `Version:\t${version}\nMachine:\t${machine}\nDomainName:\t${domainname}\n`
  );
}

/** Messages, or packets, and bytes. */
export interface Transfer {
  readonly count: number;
  readonly bytes: number;
}

/** What a family of sockets has received, sent and failed to. */
export interface FamilyTransfers {
  readonly received: Transfer;
  readonly sent: Transfer;
  readonly failed: Transfer;
}

const FAMILIES = ['UNSPEC', 'UNIX', 'INET', 'INET6', 'PACKET', 'OTHER'] as const;
const NOTHING: Transfer = { count: 0, bytes: 0 };
const PAGE_ROWS = 5;

/** `XID/cacct`: formats what sockets have received and sent; a family that is not given is not counted. */
export function formatAccounting(
  families: Readonly<Partial<Record<(typeof FAMILIES)[number], FamilyTransfers>>>,
): string {
  const transfer = ({ count, bytes }: Transfer): string =>
    `\t${String(count).padStart(10)}/${String(bytes).padEnd(10)}`;
  const lines = FAMILIES.map((name) => {
    const { received, sent, failed } = families[name] ?? {
      received: NOTHING,
      sent: NOTHING,
      failed: NOTHING,
    };
    return `${name}:${[received, sent, failed].map(transfer).join('')}\n`;
  });
  const zeros = (count: number): string => Array.from({ length: count }, () => '       0').join(' ');
  const pages = Array.from({ length: PAGE_ROWS }, (_, i) => `page[${i}]: ${zeros(4)}\t ${zeros(4)}\n`);
  return (
    `Type\t    recv #/bytes\t\t   send #/bytes\t\t    fail #/bytes\n${lines.join('')}\n` +
    `slab:\t ${zeros(4)}\n\n${pages.join('')}`
  );
}

/** `NID/info`. */
export interface NetworkInfo {
  readonly nid: number;
  /** Broadcast address and own loopback, IPv4. */
  readonly broadcast: string;
  readonly loopback: string;
  readonly addresses: readonly {
    readonly address: string;
    readonly mask: string;
    readonly isIpv6: boolean;
  }[];
}

/** Kinds of addresses: NXA_TYPE_ADDR with NXA_TYPE_IPV4 or IPV6. */
const ADDRESS_TYPE = { ipv4: '0011', ipv6: '0012' } as const;

/** Formats the addresses of a network context. */
export function formatNetworkInfo({ nid, broadcast, loopback, addresses }: NetworkInfo): string {
  const lines = addresses.map(({ address, mask, isIpv6 }, i) =>
    isIpv6
      ? `${i}:\t[${address}/${mask}:${ADDRESS_TYPE.ipv6}]\n`
      : `${i}:\t[${address}-0.0.0.0/${mask}:${ADDRESS_TYPE.ipv4}]\n`,
  );
  return `ID:\t${nid}\nInfo:\t${NO_ADDRESS}\nBcast:\t${broadcast}\nLback:\t${loopback}\n${lines.join('')}`;
}

/** `NID/status`. */
export function formatNetworkStatus(status: {
  readonly references: number;
  readonly tasks: number;
  readonly flags: bigint;
  readonly ncaps: bigint;
}): string {
  const { references, tasks, flags, ncaps } = status;
  return `UseCnt:\t${references}\nTasks:\t${tasks}\nFlags:\t${hex(flags, 16)}\nNCaps:\t${hex(ncaps, 16)}\n`;
}

function hex(value: number | bigint, digits: number): string {
  return value.toString(16).padStart(digits, '0');
}
