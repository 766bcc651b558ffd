import type { IpPrefix } from '../base/ip.ts';
import { formatIdMap, type IdRange } from '../context/id-map.ts';
import type { ProcessLimit } from '../context/rlimits.ts';
import type { DiskLimit } from '../storage/disk-limit.ts';
import type { ImageLayer } from '../storage/image-mounts.ts';
import { type Fixed, type Num, type Text, vary } from '../sys/varying.ts';
import type { BrokerSpec } from './plan-broker.ts';
import type { LinkSpec } from './plan-link.ts';
import type { ViewsObjects } from './plan-views.ts';

/** One of the three standard descriptors of a guest's command. */
export type Stdio =
  /** A descriptor of the client, passed as it is: a pipe or a file, never a terminal. */
  | { readonly kind: 'client'; readonly client: Num; readonly which: number }
  /** The guest's own terminal, relayed by the client. */
  | { readonly kind: 'tty' }
  | { readonly kind: 'null' }
  /** A pipe whose other end syscalld keeps as this object. */
  | { readonly kind: 'pipe'; readonly object: Num };

/** The guest's own terminal for a command, if one of its three descriptors is one. */
export interface TerminalSpec {
  /**
   * Who has its other side: a client that relays it, or the log, with a hold on this side too (both objects of
   * syscalld), so that its end does not come whenever nobody in the guest has it open.
   */
  readonly master:
    | { readonly kind: 'client'; readonly client: Num }
    | { readonly kind: 'log'; readonly object: Num; readonly hold: Num };
  /** The client relays input too. */
  readonly input: boolean;
  /** What is written comes out as it is; else with line ends for a terminal in raw mode. */
  readonly plainOutput: boolean;
  /** It is the guest's /dev/console, and nobody's controlling terminal yet. */
  readonly console: boolean;
}

/** Who runs in a guest, and what it may do. */
export interface CommandSpec {
  readonly argv: readonly string[];
  /** NAME=VALUE each. */
  readonly env: readonly Text[];
  /** Where a command without a slash is looked for, as PATH has it. */
  readonly path: string;
  /** Absolute path in the guest. */
  readonly cwd: string;
  readonly uid: number;
  readonly gid: number;
  readonly groups: readonly number[];
  /** The upper bound for capabilities, one bit each. */
  readonly bcaps: Fixed<bigint>;
  readonly noNewPrivileges: boolean;
  /** Classic BPF instructions, or none. */
  readonly seccomp: Fixed<Uint8Array> | undefined;
  /** There is none, or the default one, which allows whatever comes before execve. */
  readonly isUsualFilter: boolean;
  /** The same for the filter by which a broker is asked. */
  readonly brokerFilter: Fixed<Uint8Array> | undefined;
  readonly rlimits: readonly ProcessLimit[];
  readonly stdio: readonly [Stdio, Stdio, Stdio];
  readonly terminal: TerminalSpec | undefined;
}

/** A mount of the guest's configuration. */
export type MountSpec =
  | {
      readonly type: 'bind';
      readonly source: string;
      readonly target: string;
      readonly readonly: boolean;
      readonly noexec: boolean;
      /** Undefined: not mapped; `own`: by the guest's own user namespace; else by that of an object. */
      readonly idMap: 'own' | number | undefined;
      readonly isDirectory: boolean;
    }
  | {
      readonly type: 'tmpfs';
      readonly target: string;
      readonly readonly: boolean;
      readonly sizeBytes: number;
      readonly mode: number;
    };

/** A path to cover or to make read-only in guests; directories end in "/". */
export interface Mask {
  readonly path: string;
  readonly kind: 'mask' | 'readonly';
}

/** Whose a guest's files and processes are on the host. */
export interface OwnerSpec {
  /** Its root, as a number and in decimal. */
  readonly hostBase: Num;
  readonly text: Text;
  /** As /proc/PID/uid_map takes it. */
  readonly map: Text;
}

/** Returns who owns what a context has; guests that are alike differ in it. */
export function ownerOf(ids: IdRange): OwnerSpec {
  const { hostBase } = ids;
  return { hostBase: vary(hostBase), text: vary(String(hostBase)), map: vary(formatIdMap(ids)) };
}

/** Everything a start needs, decided. */
export interface StartSpec {
  readonly owner: OwnerSpec;
  readonly hostname: Text;
  readonly domainname: string | undefined;
  readonly init: 'fake' | 'none' | 'own';
  /** The guest's cgroup2 directory, if it gets that for its own. */
  readonly delegated: string | undefined;
  /** Files of v1 cgroups by which the worker leaves those that the guest's broker was born in. */
  readonly cgroupExits: readonly string[];
  readonly command: CommandSpec;
  readonly objects: {
    /** Process 1. */
    readonly init: Num;
    /** Where it tells the end of its command; undefined: nobody waits for that. */
    readonly ending: Num | undefined;
    /** The worker, which parks. */
    readonly worker: Num;
  };
  readonly root: RootSpec;
  /** Limits: files of the guest's cgroups and what is written there. */
  readonly cgroupWrites: readonly { readonly path: Text; readonly text: string }[];
  /** Limits: sysctls of the guest's IPC namespace. */
  readonly ipcSysctls: Readonly<Record<string, string>>;
  readonly hostNetwork: boolean;
  /** Of a guest with addresses of its own. */
  readonly network: NetworkSpec | undefined;
  /** Who answers some of its system calls. */
  readonly broker: BrokerSpec | undefined;
  /** Of one with a network stack of its own. */
  readonly link: LinkSpec | undefined;
  /** Texts of /etc/hosts and /etc/resolv.conf; undefined: that is left as it is. */
  readonly networkFiles: { readonly hosts: Text; readonly resolvConf: Text | undefined };
  /** What is added to the boot-time clock, so that the guest's uptime starts at 0; as /proc/PID/timens_offsets takes it. */
  readonly bootOffset: Text;
}

/** The network of a guest whose sockets are made on the host's. */
export interface NetworkSpec {
  /** What the guest sees of itself. */
  readonly addresses: readonly IpPrefix[];
  /** Kind of the interface in the guest that has them for show. */
  readonly linkKind: string;
  /** The file system that has the guest's views of /proc/net, and which are mounted; undefined: it has none. */
  readonly views: { readonly objects: ViewsObjects; readonly xid: number } | undefined;
}

/** The own files of a guest that stays: in two directories, or in a file that is a file system with them. */
export type FilesSpec =
  | {
      readonly kind: 'directory';
      readonly upper: string;
      readonly work: string;
      /** The project by which they are kept to a limit. */
      readonly bound?: { readonly project: number; readonly limit: DiskLimit } | undefined;
    }
  | { readonly kind: 'disk'; readonly disk: string };

/** The same, as a start takes them. */
export type LayersSpec =
  | (Omit<Extract<FilesSpec, { kind: 'directory' }>, 'upper' | 'work'> & {
      readonly upper: Text;
      readonly work: Text;
    })
  | Extract<FilesSpec, { kind: 'disk' }>;

/** The layer below a guest's own files. */
export type LowerSpec = { readonly kind: 'tree'; readonly path: string } | ImageLayer;

/** What the guest's root is made of. All paths are the host's and trusted; what lies below `lower` is not. */
export interface RootSpec {
  readonly lower: LowerSpec;
  /** Where the guest's own files are: on disk, or in memory of its own for one that exists only while it runs. */
  readonly upper:
    | LayersSpec
    | { readonly kind: 'memory'; readonly sizeBytes: number; readonly inodes: number | undefined };
  /** The host's /usr is bound read-only over the guest's. */
  readonly hostUsr: boolean;
  readonly readonly: boolean;
  /** An empty directory of the host where layers are attached that may not be detached. */
  readonly attachAt: string;
  readonly mounts: readonly MountSpec[];
  /** Layers may be detached mounts (Linux 6.15; probed). */
  readonly detachedLayers: boolean;
}

/** What a guest's root file system is made of, without the mounts in it. */
export type OverlaySpec = Pick<
  RootSpec,
  'lower' | 'upper' | 'attachAt' | 'detachedLayers' | 'readonly' | 'hostUsr'
>;

/**
 * Descriptors that the programs of a context know by number, since one finds what an earlier one left: those of the
 * worker, and those of process 1. "gate" is one end each of the same socket pair.
 */
export const WORKER_FD = {
  gate: 100,
  userns: 101,
  sealed: 102,
  empty: 103,
  lower: 104,
  objects: 105,
  upper: 106,
  dev: 107,
} as const;
/** A table of 64 descriptors is part of a process's files; a longer one stays for as long as they do (NR_OPEN_DEFAULT). */
export const INIT_FD = {
  gate: 56,
  programs: 57,
  /** Root of the mount namespace, until the guest's root covers it. */
  scaffold: 58,
  proc: 59,
  sys: 60,
  dev: 61,
  timeOffsets: 62,
  timeNamespace: 63,
} as const;
