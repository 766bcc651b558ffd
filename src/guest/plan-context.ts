/**
 * The program that makes a context: cgroups, namespaces, id maps, and what every guest has whatever runs in it. Two
 * processes then wait for the programs of a start (plan-start.ts):
 *
 *     worker, in the guest's cgroups, with the host's privilege        process 1, in the guest's namespaces
 *
 * A start may come at once, or find a context that was made before it was needed (contexts.ts).
 */
import { BugError } from '../base/errors.ts';
import { formatIdMap, type IdRange } from '../context/id-map.ts';
import { sizeOf } from '../sys/abi.ts';
import { planNumberPath } from '../sys/number-path.ts';
import type { Arg, Program, Result } from '../sys/program.ts';
import { type Num, type Text, wordsOf } from '../sys/varying.ts';
import type { ViewFile } from '../views/files.ts';
import { planMoveTo } from './plan-below.ts';
import { planReceiveFds, planSendFds } from './plan-command.ts';
import { openLeaf, openToJoin } from './plan-exec.ts';
import { planAsRootOf } from './plan-limits.ts';
import { planDev, planFilesystem, planFsmount, planNamespace, planSuperblock } from './plan-mounts.ts';
import {
  OWN_MOUNTS,
  planAttach,
  planInNamespace,
  planOpenDirectory,
  planOpenNamespace,
  planSocketPair,
  planWriteFile,
} from './plan-paths.ts';
import { INIT_FD, type Mask, type OwnerSpec, WORKER_FD } from './plan-types.ts';
import { importViews, planInViews, type ViewsObjects } from './plan-views.ts';

const FIRST_FREE_FD = 64;

/** Objects of syscalld that contexts get copies of (`planShared`). */
export interface SharedObjects {
  /** The mount namespace that those of contexts are copies of. */
  readonly scaffold: number;
  readonly sys: number;
  /** The mount namespace that /sys is attached in; 0: in none. */
  readonly namespace: number;
}

/** The cgroups of a context. */
export interface CgroupSpec {
  /** Absolute, parents first; all are to be new. */
  readonly directories: readonly Text[];
  readonly handDown: readonly { readonly path: Text; readonly text: string }[];
  readonly leaf: Text;
  readonly joins: readonly Text[];
}

/** What a context is made of. */
export interface ContextSpec {
  readonly owner: OwnerSpec;
  readonly cgroup: CgroupSpec;
  readonly hostNetwork: boolean;
  /** Its network namespace has interfaces that mean something, so it needs a /sys of its own. */
  readonly ownSys: boolean;
  /** Size of /dev, /dev/shm included. */
  readonly devBytes: number;
  readonly sysctls: Readonly<Record<string, string>>;
  readonly masks: readonly Mask[];
  readonly shared: SharedObjects;
  /** What is shown in the guest's own measure, and the file system that has these files of all guests. */
  readonly views:
    | { readonly objects: ViewsObjects; readonly directory: Text; readonly files: readonly ViewFile[] }
    | undefined;
  /** Objects of syscalld: the worker, process 1, and process 1 as the worker that takes the guest's program. */
  readonly objects: { readonly worker: Num; readonly init: Num; readonly initPrograms: Num };
}

/** Adds all steps. Returns the pid of process 1; the worker parks. */
export function planContext(p: Program, spec: ContextSpec): Result {
  const { cgroup, objects } = spec;
  p.park = objects.worker;
  // Modes are as given from here on; the worker has syscalld's mask.
  p.sys('umask', [0]);
  planCgroups(p, cgroup);
  const joins = cgroup.joins.map((path) => openToJoin(p, path));
  const leaf = openLeaf(p, cgroup.leaf);
  const gate = planSocketPair(p, 'gate');
  const programs = planSocketPair(p, 'programs of process 1');
  const spaces = ['CLONE_NEWUSER', 'CLONE_NEWNS', 'CLONE_NEWPID', 'CLONE_NEWUTS', 'CLONE_NEWIPC'];
  const flags = p.flags(...spaces, ...(spec.hostNetwork ? [] : ['CLONE_NEWNET']));
  // Whoever enters no mount of the host's has none to leave: pivot_root(2) looks at every process of the host for its old
  // root, with 1,000 guests 0.3 ms, and umount(2) waits for an RCU grace period.
  // What a user may have of inotify instances, queued signals, POSIX timers, message queues and namespaces is counted for the
  // user who made a user namespace too, up to the host's (inc_ucount(), inc_rlimit_ucounts() in kernel/ucount.c; inotify
  // since Linux 4.13, the others 5.14). Made by root, all guests and the host's services would share what root may have.
  const init = planInNamespace(p, p.import(spec.shared.scaffold), () =>
    planAsRootOf(p, spec.owner.hostBase, () =>
      p.spawn('process 1', { flags, cgroup: leaf, object: objects.init, about: 'new namespaces' }, () => {
        for (const tasks of joins) p.sys('write', [tasks, '0', 1], { about: 'join the cgroup' });
        // While this process holds the worker's ends too, it would never see the worker's end.
        for (const end of [gate.worker, programs.worker]) p.sys('close', [end]);
        planWaitingInit(p, spec, gate.child, programs.child);
      }),
    ),
  );
  p.keepWorker(programs.worker, objects.initPrograms);
  p.sys('close', [programs.child]);
  p.sys('close', [gate.child]);
  planNumber(p, gate.worker, WORKER_FD.gate);
  const proc = planIdMaps(p, init, spec.owner.map);
  const userns = p.sys('openat', [proc, 'ns/user', p.flags('O_RDONLY', 'O_CLOEXEC'), 0], {
    about: 'user namespace',
  });
  planNumber(p, userns, WORKER_FD.userns);
  const sys = planSharedSys(p, spec);
  const { views } = spec;
  const clone = (listed: Result): readonly Result[] => [planClone(p, listed, 'views')];
  const shown = views ? planInViews(p, importViews(p, views.objects), views.directory, clone) : [];
  const dev = planDev(p, spec.owner, spec.devBytes);
  planNumber(p, dev, WORKER_FD.dev);
  const mounts = [dev, ...planOwnMounts(p, spec), ...sys, ...shown];
  planSendFds(p, WORKER_FD.gate, p.data(8), mounts, 'hand over to process 1');
  return init;
}

/** Adds the steps that make a guest's cgroups. */
export function planCgroups(p: Program, cgroup: Pick<CgroupSpec, 'directories' | 'handDown'>): void {
  for (const directory of cgroup.directories) {
    p.sys('mkdirat', [p.flags('AT_FDCWD'), directory, 0o755], { about: `"${wordsOf(directory)}"` });
  }
  for (const { path, text } of cgroup.handDown) planWriteFile(p, p.flags('AT_FDCWD'), path, text);
}

const API_MOUNT = ['MOUNT_ATTR_NOSUID', 'MOUNT_ATTR_NODEV', 'MOUNT_ATTR_NOEXEC'];
const SYS_MOUNT = [...API_MOUNT, 'MOUNT_ATTR_RDONLY'];

/**
 * Names for process 1 to attach things to, until the guest's root is there or for good: the directory of its views. And a
 * directory to cover others with.
 */
const SCAFFOLD = ['proc', 'sys', 'dev', 'views', 'empty'] as const;

/** What `planShared` makes. */
interface Shared {
  /** A mount namespace with nothing in it but the scaffold, as its root. */
  readonly scaffold: Result;
  /** A masked /sys of a network namespace in which nothing is but a loopback. */
  readonly sys: Result;
  /** That namespace: the file system does not keep it alive. */
  readonly network: Result;
  readonly namespace: Result | undefined;
}

/**
 * Adds the steps that make what all guests of an instance share. Every file system has a shrinker, and every memory cgroup a
 * place for each shrinker there is (mm/shrinker.c: since Linux 6.7 1 KiB for 64 of them, before 8 bytes for each): a
 * thousand guests with one more file system each take 16 KiB more each.
 *
 * @param attachAt an empty directory of the host, for a mount namespace of the program's own
 * @param detached the kernel copies detached mounts (since Linux 6.15)
 */
export function planShared(p: Program, masks: readonly Mask[], attachAt: string, detached: boolean): Shared {
  const root = planScaffold(p);
  planNamespace(p);
  planAttach(p, root, attachAt, 'scaffold');
  const scaffold = planOpenNamespace(p, OWN_MOUNTS);
  p.sys('unshare', [p.flags('CLONE_NEWNET')], { about: 'network namespace of /sys' });
  planLoopback(p);
  const path = '/proc/self/ns/net';
  const network = p.sys('openat', [p.flags('AT_FDCWD'), path, p.flags('O_RDONLY', 'O_CLOEXEC'), 0]);
  const sys = planFilesystem(p, 'sysfs', [], SYS_MOUNT);
  let namespace: Result | undefined;
  if (detached) {
    planMasksOfSys(p, masks, sys, [p.flags('AT_FDCWD'), '/dev/null'], root);
  } else {
    // Nor does it copy them out of another namespace than one's own: this one has /sys too.
    planNamespace(p);
    namespace = planOpenNamespace(p, OWN_MOUNTS);
    const copy = planOpenDirectory(p, p.flags('AT_FDCWD'), attachAt);
    planMoveTo(p, sys, copy, 'sys');
    planMasksOfSys(p, masks, sys, [p.flags('AT_FDCWD'), '/dev/null'], copy);
    planLeaveOthers(p, copy);
    p.sys('setns', [scaffold, p.flags('CLONE_NEWNS')], { about: 'mount namespace of the scaffold' });
  }
  planLeaveOthers(p, root);
  return { scaffold, sys, network, namespace };
}

/** Leaves one mount in the namespace: it would keep file systems that the host unmounts. */
function planLeaveOthers(p: Program, root: Result): void {
  const others = planOpenDirectory(p, p.flags('AT_FDCWD'), '/');
  p.sys('fchdir', [root]);
  p.sys('pivot_root', ['.', '.']);
  p.sys('fchdir', [others]);
  p.sys('umount2', ['.', p.flags('MNT_DETACH')], { about: 'all other mounts' });
}

/** Whether a context's /sys is a copy of the one that shows a network without interfaces. */
function hasSharedSys({ hostNetwork, ownSys }: ContextSpec): boolean {
  return !hostNetwork && !ownSys;
}

/** Makes a context's copy of /sys, if that is shared. */
function planSharedSys(p: Program, spec: ContextSpec): readonly Result[] {
  if (!hasSharedSys(spec)) return [];
  const { sys, namespace } = spec.shared;
  const from = p.import(sys);
  return planInNamespace(p, namespace === 0 ? undefined : p.import(namespace), () => [
    planClone(p, from, '/sys', 'AT_RECURSIVE'),
  ]);
}

/** File systems of process 1's own namespaces. */
function ownFilesystems(
  spec: ContextSpec,
): readonly { readonly type: 'proc' | 'sysfs'; readonly attributes: readonly string[] }[] {
  return [
    { type: 'proc', attributes: API_MOUNT },
    ...(spec.hostNetwork || !spec.ownSys ? [] : [{ type: 'sysfs', attributes: SYS_MOUNT } as const]),
  ];
}

/**
 * Mounts what process 1 has made: the kernel lets nobody mount a new /proc or /sys in a mount namespace without one to be
 * seen already, but for the host's root (mount_too_revealing, fs/namespace.c).
 */
function planOwnMounts(p: Program, spec: ContextSpec): readonly Result[] {
  const wanted = ownFilesystems(spec);
  const made = planReceiveFds(p, WORKER_FD.gate, wanted.length, 'wait for process 1');
  return wanted.map(({ type, attributes }, i) => planFsmount(p, made[i] as Result, type, attributes));
}

/** Views over files of /sys are for those that have one of their own. */
function viewFiles({ views, hostNetwork }: ContextSpec): readonly ViewFile[] {
  return (views?.files ?? []).filter(({ path }) => !hostNetwork || !path.startsWith('/sys/'));
}

function planScaffold(p: Program): Result {
  const scaffold = planFilesystem(p, 'tmpfs', [['mode', '0755']], API_MOUNT);
  p.sys('umask', [0]);
  for (const name of SCAFFOLD) p.sys('mkdirat', [scaffold, name, 0o555], { about: `scaffold "${name}"` });
  const readonly = p.struct('mount_attr', { attr_set: p.flags('MOUNT_ATTR_RDONLY') });
  const size = sizeOf(p.abi, 'mount_attr');
  p.sys('mount_setattr', [scaffold, '', p.flags('AT_EMPTY_PATH'), readonly, size], { about: 'scaffold' });
  return scaffold;
}

function planClone(p: Program, tree: Arg, about: string, ...how: readonly 'AT_RECURSIVE'[]): Result {
  const flags = p.flags('OPEN_TREE_CLONE', 'OPEN_TREE_CLOEXEC', 'AT_EMPTY_PATH', ...how);
  return p.sys('open_tree', [tree, '', flags], { about });
}

/** Process 1 until its program comes: what does not depend on the guest's root is mounted, masked and in place. */
function planWaitingInit(p: Program, spec: ContextSpec, gate: Result, programs: Result): void {
  planNumber(p, gate, INIT_FD.gate);
  planNumber(p, programs, INIT_FD.programs);
  const scaffold = planOpenDirectory(p, p.flags('AT_FDCWD'), '/');
  const own = ownFilesystems(spec).map(({ type }) => planSuperblock(p, type));
  planSendFds(p, INIT_FD.gate, p.data(8), own, 'to be mounted');
  p.sys('unshare', [p.flags('CLONE_NEWCGROUP', 'CLONE_NEWTIME')], { about: 'cgroup and time namespace' });
  const count = 2 + (spec.hostNetwork ? 0 : 1) + (spec.views ? 1 : 0);
  const [dev, proc, ...rest] = planReceiveFds(p, INIT_FD.gate, count, 'wait for the worker');
  const sys = spec.hostNetwork ? undefined : rest.shift();
  const [views] = rest;
  if (!dev || !proc)
    throw new BugError('no-proc', 'cannot plan a context: found neither /dev nor /proc among the mounts');
  // Our own entry in /proc belongs to the host's root as long as we are not dumpable: these are opened now, by its uid.
  const offsets = p.sys('openat', [proc, 'self/timens_offsets', p.flags('O_WRONLY', 'O_CLOEXEC'), 0], {
    about: 'time offsets',
  });
  const time = p.sys('openat', [proc, 'self/ns/time_for_children', p.flags('O_RDONLY', 'O_CLOEXEC'), 0], {
    about: 'time namespace',
  });
  p.sys('setresgid', [0, 0, 0]);
  p.sys('setgroups', [0, 0]);
  p.sys('setresuid', [0, 0, 0]);
  planMoveTo(p, dev, scaffold, 'dev');
  planOwnInDev(p);
  planMoveTo(p, proc, scaffold, 'proc');
  for (const [key, value] of Object.entries(spec.sysctls))
    planWriteFile(p, proc, `sys/${key.replaceAll('.', '/')}`, value);
  planMasksOfProc(p, spec.masks);
  if (sys) {
    planLoopback(p);
    planMoveTo(p, sys, scaffold, 'sys');
    if (!hasSharedSys(spec)) planMasksOfSys(p, spec.masks, sys, [dev, 'null'], scaffold);
    planNumber(p, sys, INIT_FD.sys);
  }
  if (views) planMoveTo(p, views, scaffold, 'views');
  for (const { name, path } of viewFiles(spec)) planBind(p, `/views/${name}`, path);
  planNumber(p, scaffold, INIT_FD.scaffold);
  for (const [fd, number] of [
    [proc, INIT_FD.proc],
    [dev, INIT_FD.dev],
    [offsets, INIT_FD.timeOffsets],
    [time, INIT_FD.timeNamespace],
  ] as const) {
    planNumber(p, fd, number);
  }
  // Descriptor 3 is where failures are reported until the next program comes.
  p.sys('close_range', [4, INIT_FD.gate - 1, 0], { about: "the worker's descriptors" });
  p.sys('close_range', [FIRST_FREE_FD, 0xffffffff, 0], { about: "the worker's descriptors" });
  p.takeProgram(INIT_FD.programs);
}

/** Group "tty" of the guest, which owns its terminals (Debian's static id, which other distributions share). */
const TTY_GID = 5;

/**
 * File systems of the guest's in /dev: its terminals and its message queues. Made by process 1, so that the group is the
 * guest's: as an option the host's id for it would be refused from 2^31 on (devpts reads it with match_int before it got
 * fs_parser options). By mount(2), one call, as they need be nowhere before they are in place.
 */
function planOwnInDev(p: Program): void {
  // All guests together have 3072 (kernel.pty.max less kernel.pty.reserve); one guest shall not take them all.
  const options = `mode=0620,ptmxmode=0666,max=1024,gid=${TTY_GID}`;
  const [pts, mqueue] = [p.flags('MS_NOSUID', 'MS_NOEXEC'), p.flags('MS_NOSUID', 'MS_NODEV', 'MS_NOEXEC')];
  p.sys('mount', ['devpts', '/dev/pts', 'devpts', pts, options], { about: 'on "/dev/pts"' });
  p.sys('mount', ['mqueue', '/dev/mqueue', 'mqueue', mqueue, 0], { about: 'on "/dev/mqueue"' });
}

/** struct ifreq (netdevice(7)): 16 bytes of name, then u16 flags; 40 bytes in all on 64-bit machines. */
const IFREQ = { flags: 16, bytes: 40 } as const;
const IFF_UP = 1;

/** A new network namespace has a loopback, but it is down. */
function planLoopback(p: Program): void {
  const request = p.data(IFREQ.bytes, 'lo up');
  p.putText(request, 'lo');
  p.put(request.at(IFREQ.flags), IFF_UP, 2);
  const socket = p.sys('socket', [p.flags('AF_INET'), p.flags('SOCK_DGRAM', 'SOCK_CLOEXEC'), 0]);
  p.sys('ioctl', [socket, p.flags('SIOCSIFFLAGS'), request], { about: 'loopback up' });
}

/**
 * Covers paths of /proc, which is attached on the scaffold and which nobody but us has seen, so nothing of the guest stands
 * between (CVE-2025-31133).
 */
function planMasksOfProc(p: Program, masks: readonly Mask[]): void {
  const readonly = p.struct('mount_attr', { attr_set: p.flags('MOUNT_ATTR_RDONLY') });
  for (const { path, kind } of masks) {
    if (!path.startsWith('/proc/')) continue;
    if (kind === 'mask') {
      planBind(p, path.endsWith('/') ? '/empty' : '/dev/null', path);
    } else {
      planBind(p, path, path);
      const about = `"${path}" read-only`;
      p.sys('mount_setattr', [p.flags('AT_FDCWD'), path, 0, readonly, sizeOf(p.abi, 'mount_attr')], {
        about,
      });
    }
  }
}

/** Covers paths of a /sys that we made, which need not be attached. */
function planMasksOfSys(
  p: Program,
  masks: readonly Mask[],
  sys: Result,
  nullDevice: readonly [Arg, string],
  scaffold: Result,
): void {
  const clone = p.flags('OPEN_TREE_CLONE', 'OPEN_TREE_CLOEXEC');
  for (const { path } of masks) {
    if (!path.startsWith('/sys/')) continue;
    const cover = path.endsWith('/') ? ([scaffold, 'empty'] as const) : nullDevice;
    const about = `to cover "${path}"`;
    planMoveTo(p, p.sys('open_tree', [...cover, clone], { about }), sys, path.slice('/sys/'.length));
  }
}

/** Adds the step that shows a file or directory in a second place: one call, where a mount of its own is three. */
function planBind(p: Program, from: string, to: string): void {
  p.sys('mount', [from, to, 0, p.flags('MS_BIND'), 0], { about: `on "${to}"` });
}

/** Gives a descriptor its number. */
function planNumber(p: Program, fd: Result, number: number): void {
  p.sys('dup3', [fd, number, p.flags('O_CLOEXEC')], { about: `as descriptor ${number}` });
}

/** Writes the id maps of a process in a new user namespace, by what /proc says of it. Returns its directory there. */
function planIdMaps(p: Program, init: Result, map: Text): Result {
  const path: Arg = planNumberPath(p, '/proc/', init);
  const proc = p.sys(
    'openat',
    [p.flags('AT_FDCWD'), path, p.flags('O_PATH', 'O_DIRECTORY', 'O_CLOEXEC'), 0],
    {
      about: 'process 1 in /proc',
    },
  );
  planWriteFile(p, proc, 'uid_map', map);
  planWriteFile(p, proc, 'gid_map', map);
  return proc;
}

/**
 * A user namespace for id maps of mounts, open as a descriptor. Its process, `object`, waits for the worker's end.
 *
 * @param first the id on files that becomes the first of the range
 */
export function planUserNamespace(p: Program, object: number, ids: IdRange, first = 0): Result {
  const pipe = p.data(8, 'pipe');
  p.sys('pipe2', [pipe, p.flags('O_CLOEXEC')]);
  const [reader, writer] = [p.load(pipe), p.load(pipe.at(4, 4))];
  const child = p.spawn('user namespace', { flags: p.flags('CLONE_NEWUSER'), object }, () => {
    p.sys('close', [writer]);
    p.sys('read', [reader, p.data(8), 1]);
  });
  const proc = planIdMaps(p, child, formatIdMap(ids, first));
  return p.sys('openat', [proc, 'ns/user', p.flags('O_RDONLY', 'O_CLOEXEC'), 0], { about: 'user namespace' });
}
