/** The files of a guest that are views: their numbers, their names, and what they are shown over. */

/** What of a guest is shown in its own measure. */
export const VIEW_GROUPS = ['memory', 'cpu', 'load', 'uptime', 'disk', 'pressure', 'vinfo'] as const;
/** One of them. */
export type ViewGroup = (typeof VIEW_GROUPS)[number];

/** Of nodes of the file system: `xid × NODES + number`; number 0 is the guest's directory. */
export const NODES = 256;
/** Number of a guest's own part of the Proc-FS; those after it are of what is in there. */
export const OWN_PROC_FS = 128;

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

/** Names of the files in a directory of views. */
export interface ViewDirectory extends ViewFile {
  readonly files: readonly { readonly number: number; readonly name: string; readonly holdMs: number }[];
}

/** The tick of what is counted in ticks. */
const TICK_MS = 10;
/** Sooner than anybody can tell; the kernel itself brings a cgroup's memory.stat up to date every 2 s. */
const SOON_MS = 50;
const SELDOM_MS = 500;

/** Files of all guests. */
export const VIEW_FILES: readonly (ViewFile | ViewDirectory)[] = [
  { number: 1, name: 'meminfo', path: '/proc/meminfo', group: 'memory', holdMs: SOON_MS },
  { number: 2, name: 'swaps', path: '/proc/swaps', group: 'memory', holdMs: SOON_MS },
  { number: 3, name: 'vmstat', path: '/proc/vmstat', group: 'memory', holdMs: SOON_MS },
  { number: 4, name: 'stat', path: '/proc/stat', group: 'cpu', holdMs: TICK_MS },
  { number: 5, name: 'cpuinfo', path: '/proc/cpuinfo', group: 'cpu', holdMs: SELDOM_MS },
  { number: 6, name: 'online', path: '/sys/devices/system/cpu/online', group: 'cpu', holdMs: SELDOM_MS },
  { number: 7, name: 'loadavg', path: '/proc/loadavg', group: 'load', holdMs: SOON_MS },
  { number: 8, name: 'uptime', path: '/proc/uptime', group: 'uptime', holdMs: TICK_MS },
  { number: 14, name: 'init-stat', path: '/proc/1/stat', group: 'uptime', holdMs: TICK_MS },
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
