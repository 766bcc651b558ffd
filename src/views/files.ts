/** The files of a guest that are views: their numbers, their names, and what they are shown over. */

/** What of a guest is shown in its own measure. */
export const VIEW_GROUPS = [
  'memory',
  'cpu',
  'load',
  'uptime',
  'disk',
  'pressure',
  'vinfo',
  'network',
] as const;
/** One of them. */
export type ViewGroup = (typeof VIEW_GROUPS)[number];

/** Those that change while a guest runs. The others are of how its context and its network were made. */
export const LIVE_VIEW_GROUPS: readonly ViewGroup[] = VIEW_GROUPS.filter(
  (group) => group !== 'vinfo' && group !== 'network',
);

/** Of nodes of the file system: `xid × NODES + number`; number 0 is the guest's directory. */
export const NODES = 256;
/** Number of a guest's own part of the Proc-FS; those after it are of what is in there. */
export const OWN_PROC_FS = 128;
/** Number of a guest's /proc/net; those after it are of what is in there. */
export const OWN_NETWORK = 192;

/** One file or directory. */
export interface ViewFile {
  /** Never given to another one: the kernel knows it by that for as long as a guest runs. 1..255. */
  readonly number: number;
  readonly name: string;
  /** In the guest; a directory's ends in "/". */
  readonly path: string;
  readonly group: ViewGroup;
  /** How long a text holds. */
  readonly holdMs: number;
}

/** Names of the files in a directory of views, and of links there. */
export interface ViewDirectory extends ViewFile {
  readonly files: readonly { readonly number: number; readonly name: string; readonly holdMs: number }[];
  readonly links?: readonly ViewLink[];
}

/** A link, by where it leads. */
export interface ViewLink {
  readonly number: number;
  readonly name: string;
  readonly target: string;
}

/** To `ps` a process that seems to have started after the uptime has no age. */
const UPTIME_MS = 50;
/** So uptime is told for when its text is told last. */
export const UPTIME_AHEAD_SECONDS: number = UPTIME_MS / 1000;
/**
 * Sooner than anybody can tell; the kernel itself brings a cgroup's memory.stat up to date every 2 s. All that is told of
 * time is in one text, so shares of it are right whatever its age.
 */
const SOON_MS = 50;
/** What changes seldom, or is counted that often only. */
export const SELDOM_MS = 500;

/** Files of /proc/net with the sockets of a guest and what they sent and received. */
export const NETWORK_TABLES = [
  'tcp',
  'tcp6',
  'udp',
  'udp6',
  'raw',
  'raw6',
  'icmp',
  'icmp6',
  'sockstat',
  'sockstat6',
  'dev',
  'snmp',
  'netstat',
] as const;
/** One of them. */
export type NetworkTable = (typeof NETWORK_TABLES)[number];

/** What else the kernel may have there: of a guest's own network namespace it is right as it is. */
const OWN_TABLES = [
  'anycast6',
  'arp',
  'dev_mcast',
  'dev_snmp6',
  'fib_trie',
  'fib_triestat',
  'if_inet6',
  'igmp',
  'igmp6',
  'ip6_flowlabel',
  'ip6_mr_cache',
  'ip6_mr_vif',
  'ip_mr_cache',
  'ip_mr_vif',
  'ipv6_route',
  'mcfilter',
  'mcfilter6',
  'netfilter',
  'netlink',
  'packet',
  'protocols',
  'psched',
  'ptype',
  'route',
  'rt6_stats',
  'rt_acct',
  'rt_cache',
  'snmp6',
  'softnet_stat',
  'stat',
  'udplite',
  'udplite6',
  'unix',
  'wireless',
  'xfrm_stat',
] as const;

/** As often as somebody may watch connections come and go. */
const SOCKETS_MS = 200;
const FIRST_TABLE = OWN_NETWORK + 2;
const FIRST_OWN_TABLE = OWN_NETWORK + 24;

/**
 * Views of a guest whose sockets a broker makes. Each process has a `net` of its own in /proc, to which /proc/net leads,
 * and in which nothing stays mounted (proc_net_d_revalidate, fs/proc/proc_net.c). So they are over that of process 1,
 * which is there as long as the guest, and /proc/net leads there.
 */
export const NETWORK_FILES: readonly [ViewDirectory, ViewFile & ViewLink] = [
  {
    number: OWN_NETWORK,
    name: 'net',
    path: '/proc/1/net/',
    group: 'network',
    holdMs: SOCKETS_MS,
    files: NETWORK_TABLES.map((name, i) => ({ number: FIRST_TABLE + i, name, holdMs: SOCKETS_MS })),
    links: OWN_TABLES.map((name, i) => ({
      number: FIRST_OWN_TABLE + i,
      name,
      target: `../../self/net/${name}`,
    })),
  },
  {
    number: OWN_NETWORK + 1,
    name: 'to-net',
    path: '/proc/net',
    group: 'network',
    holdMs: SOCKETS_MS,
    target: '1/net',
  },
];

/** View of a guest with quotas for its users, over a link to `self/mounts` (NETWORK_FILES). */
export const QUOTA_FILES: readonly ViewFile[] = [
  { number: 15, name: 'mounts', path: '/proc/mounts', group: 'disk', holdMs: SOON_MS },
];

/** Files of all guests, whatever their network. */
export const VIEW_FILES: readonly (ViewFile | ViewDirectory)[] = [
  { number: 1, name: 'meminfo', path: '/proc/meminfo', group: 'memory', holdMs: SOON_MS },
  { number: 2, name: 'swaps', path: '/proc/swaps', group: 'memory', holdMs: SOON_MS },
  { number: 3, name: 'vmstat', path: '/proc/vmstat', group: 'memory', holdMs: SOON_MS },
  { number: 16, name: 'slabinfo', path: '/proc/slabinfo', group: 'memory', holdMs: SELDOM_MS },
  { number: 4, name: 'stat', path: '/proc/stat', group: 'cpu', holdMs: SOON_MS },
  { number: 5, name: 'cpuinfo', path: '/proc/cpuinfo', group: 'cpu', holdMs: SELDOM_MS },
  { number: 6, name: 'online', path: '/sys/devices/system/cpu/online', group: 'cpu', holdMs: SELDOM_MS },
  { number: 7, name: 'loadavg', path: '/proc/loadavg', group: 'load', holdMs: SELDOM_MS },
  { number: 8, name: 'uptime', path: '/proc/uptime', group: 'uptime', holdMs: UPTIME_MS },
  { number: 14, name: 'init-stat', path: '/proc/1/stat', group: 'uptime', holdMs: SOON_MS },
  { number: 9, name: 'diskstats', path: '/proc/diskstats', group: 'disk', holdMs: SOON_MS },
  {
    number: 10,
    name: 'pressure',
    path: '/proc/pressure/',
    group: 'pressure',
    holdMs: SOON_MS,
    files: [
      { number: 11, name: 'cpu', holdMs: SOON_MS },
      { number: 12, name: 'memory', holdMs: SOON_MS },
      { number: 13, name: 'io', holdMs: SOON_MS },
    ],
  },
  // Every kernel has this directory, and in there nothing of a guest's, mostly nothing at all: /proc takes no new names.
  { number: OWN_PROC_FS, name: 'driver', path: '/proc/driver/', group: 'vinfo', holdMs: SOON_MS },
];

/** All there are. */
export const ALL_FILES: readonly (ViewFile | ViewDirectory)[] = [
  ...VIEW_FILES,
  ...NETWORK_FILES,
  ...QUOTA_FILES,
];
