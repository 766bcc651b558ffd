/**
 * The program that starts a guest. Two parties:
 *
 *     worker (host)                                        process 1 (guest)
 *     make cgroups, set limits, join
 *     clone3 into new namespaces ────────────────────────▶ waits at the gate
 *     write uid_map, gid_map
 *     make mounts with host privilege (idmapped layers,
 *     overlay, /dev, devpts, binds) ── descriptors ──────▶ attaches them, pivots, masks, drops, executes
 */
import { sizeOf } from '../sys/abi.ts';
import type { Program, Result } from '../sys/program.ts';
import { planCapset, planCommand, planReceiveFds, planSendFds } from './plan-command.ts';
import { openLeaf, planJoin, planPipes } from './plan-exec.ts';
import { hostMountCount, planFilesystem, planHostMounts } from './plan-mounts.ts';
import { planAttach, planNumberPath, planOpenDirectory, planWriteFile } from './plan-paths.ts';
import type { MountSpec, StartSpec, Stdio } from './plan-types.ts';

/** Capabilities the built-in init keeps: CAP_KILL, to pass signals on to a command that runs as another user. */
const INIT_CAPABILITIES = 1n << 5n;

/** Adds all steps of a start, but for the cgroups if the worker sits in them already. Returns process 1's pid. */
export function planStart(p: Program, spec: StartSpec): Result {
  const { cgroup } = spec;
  if (!cgroup.isPrepared) planCgroups(p, { directories: cgroup.directories, joins: [] });
  // The limits before the guest exists; the join last, since it is from then on that they hold for the worker.
  for (const { path, text } of cgroup.writes) planWriteFile(p, p.flags('AT_FDCWD'), path, text);
  if (!cgroup.isPrepared) planCgroups(p, { directories: [], joins: cgroup.joins });
  return planSpawnInit(p, spec, cgroup.joins.length === 0 ? openLeaf(p, cgroup.leaf) : undefined);
}

/** Adds the steps that make a guest's cgroups and, where cgroup v1 needs it, move the worker in. */
export function planCgroups(
  p: Program,
  cgroup: { readonly directories: readonly string[]; readonly joins: readonly string[] },
): void {
  for (const directory of cgroup.directories) {
    p.sys('mkdirat', [p.flags('AT_FDCWD'), directory, 0o755], {
      about: `"${directory}"`,
      ignore: ['EEXIST'],
    });
  }
  for (const path of cgroup.joins) planJoin(p, path);
}

function planSpawnInit(p: Program, spec: StartSpec, leaf: Result | undefined): Result {
  // Modes are as given from here on; the worker has syscalld's mask.
  p.sys('umask', [0]);
  const gate = planGate(p);
  const pipes = planPipes(p, spec.command.stdio);
  const ns = [
    'CLONE_NEWUSER',
    'CLONE_NEWNS',
    'CLONE_NEWPID',
    'CLONE_NEWUTS',
    'CLONE_NEWIPC',
    ...(spec.hostNetwork ? [] : ['CLONE_NEWNET']),
  ];
  const guestMounts = hostMountCount(spec);
  const init = p.spawn(
    'process 1',
    {
      flags: p.flags(...ns),
      ...(leaf ? { cgroup: leaf } : {}),
      object: spec.initObject,
      about: 'new namespaces',
    },
    () => {
      // The worker's end: while this process holds it too, it would never see the worker's end.
      p.sys('close', [gate.worker]);
      const fds = planReceiveFds(p, gate.child, guestMounts, 'wait for the host side');
      planInit(p, spec, fds, pipes);
    },
  );
  p.sys('close', [gate.child]);
  const proc = planIdMaps(p, init, spec);
  const userns = p.sys('openat', [proc, 'ns/user', p.flags('O_RDONLY', 'O_CLOEXEC'), 0], {
    about: 'user namespace',
  });
  const mounts = planHostMounts(p, spec, userns);
  planSendFds(p, gate.worker, p.data(8), mounts, 'hand over the mounts');
  return init;
}

/** A socket pair between worker and child: what the child waits at. */
function planGate(p: Program): { worker: Result; child: Result } {
  const pair = p.data(8);
  p.sys('socketpair', [p.flags('AF_UNIX'), p.flags('SOCK_SEQPACKET', 'SOCK_CLOEXEC'), 0, pair], {
    about: 'gate',
  });
  return { worker: p.load(pair), child: p.load(pair.at(4, 4)) };
}

/** Writes the id maps of a process in a new user namespace, by what /proc says of it. Returns its directory there. */
export function planIdMaps(p: Program, init: Result, spec: Pick<StartSpec, 'ids'>): Result {
  const path = planNumberPath(p, '/proc/', init);
  const proc = p.sys(
    'openat',
    [p.flags('AT_FDCWD'), path, p.flags('O_PATH', 'O_DIRECTORY', 'O_CLOEXEC'), 0],
    { about: 'process 1 in /proc' },
  );
  const map = `0 ${spec.ids.hostBase} ${spec.ids.count}\n`;
  planWriteFile(p, proc, 'uid_map', map);
  planWriteFile(p, proc, 'gid_map', map);
  return proc;
}

function planInit(
  p: Program,
  spec: StartSpec,
  fds: readonly Result[],
  pipes: ReadonlyMap<Stdio, Result>,
): void {
  const [root, dev, pts, ...rest] = fds;
  if (!root || !dev || !pts) return;
  const usr = spec.root.hostUsr ? rest.shift() : undefined;
  const oldRoot = planOpenDirectory(p, p.flags('AT_FDCWD'), '/');
  p.sys('mount', [0, '/', 0, p.flags('MS_REC', 'MS_PRIVATE'), 0], { about: 'private propagation' });
  // Still the host's root by uid, so that the way to the attach point is open; as the guest's it would not be.
  planAttach(p, root, spec.root.attachAt, 'root');
  const proc = planFilesystem(p, 'proc', [], ['MOUNT_ATTR_NOSUID', 'MOUNT_ATTR_NODEV', 'MOUNT_ATTR_NOEXEC']);
  // Our own entry in /proc belongs to the host's root as long as we are not dumpable.
  planTime(p, spec, proc);
  p.sys('setresgid', [0, 0, 0]);
  p.sys('setgroups', [0, 0]);
  p.sys('setresuid', [0, 0, 0]);
  p.sys('umask', [0]);
  planMountAt(p, root, 'proc', proc);
  if (!spec.hostNetwork) {
    const sys = planFilesystem(
      p,
      'sysfs',
      [],
      ['MOUNT_ATTR_NOSUID', 'MOUNT_ATTR_NODEV', 'MOUNT_ATTR_NOEXEC', 'MOUNT_ATTR_RDONLY'],
    );
    planMountAt(p, root, 'sys', sys);
    planMasks(p, spec, sys, '/sys/', dev);
  }
  planMountAt(p, root, 'dev', dev);
  planMountAt(p, dev, 'pts', pts);
  if (usr) planMountAt(p, root, 'usr', usr);
  planMountAt(
    p,
    dev,
    'mqueue',
    planFilesystem(p, 'mqueue', [], ['MOUNT_ATTR_NOSUID', 'MOUNT_ATTR_NODEV', 'MOUNT_ATTR_NOEXEC']),
  );
  p.sys('fchdir', [root]);
  p.sys('pivot_root', ['.', '.']);
  p.sys('fchdir', [oldRoot]);
  p.sys('umount2', ['.', p.flags('MNT_DETACH')], { about: "the host's root" });
  p.sys('chdir', ['/']);
  spec.root.mounts.forEach((mount, i) => {
    const fd = rest[i];
    if (fd) planConfiguredTarget(p, root, mount, fd);
  });
  p.sys('unshare', [p.flags('CLONE_NEWCGROUP')], { about: 'cgroup namespace' });
  p.sys('sethostname', [spec.hostname, Buffer.byteLength(spec.hostname)]);
  if (spec.domainname !== undefined)
    p.sys('setdomainname', [spec.domainname, Buffer.byteLength(spec.domainname)]);
  for (const [key, value] of Object.entries(spec.sysctls))
    planWriteFile(p, proc, `sys/${key.replaceAll('.', '/')}`, value);
  planMasks(p, spec, proc, '/proc/', dev);
  if (spec.init === 'fake') {
    const command = p.spawn('command', {}, () => planCommand(p, spec.command, pipes));
    planCapset(p, INIT_CAPABILITIES);
    p.fakeinit(command);
  } else {
    planCommand(p, spec.command, pipes);
  }
}

/** Opens a name below a directory of the guest: never through a link, never out of it. */
function openBelow(
  p: Program,
  directory: Result,
  path: string,
  isDirectory: boolean,
  ignore?: readonly string[],
): Result {
  const how = p.struct('open_how', {
    flags: p.flags('O_PATH', 'O_NOFOLLOW', 'O_CLOEXEC', ...(isDirectory ? ['O_DIRECTORY'] : [])),
    resolve: p.flags('RESOLVE_BENEATH', 'RESOLVE_NO_SYMLINKS', 'RESOLVE_NO_MAGICLINKS'),
  });
  return p.sys('openat2', [directory, path, how, sizeOf(p.abi, 'open_how')], {
    about: `"${path}" in the guest`,
    ...(ignore ? { ignore } : {}),
  });
}

/** Attaches a mount on a directory directly below another one of the guest; a link in its place is refused. */
function planMountAt(p: Program, directory: Result, name: string, mount: Result): Result {
  p.sys('mkdirat', [directory, name, 0o755], {
    about: `"${name}" in the guest`,
    ignore: ['EEXIST', 'EROFS'],
  });
  const target = openBelow(p, directory, name, true);
  planMove(p, mount, target, name);
  return mount;
}

/** Makes the way to a configured mount's target, component by component, and attaches it. */
function planConfiguredTarget(p: Program, root: Result, mount: MountSpec, fd: Result): void {
  const parts = mount.target.split('/').filter((part) => part !== '');
  let at = root;
  for (const part of parts.slice(0, -1)) {
    p.sys('mkdirat', [at, part, 0o755], {
      about: `"${part}" of "${mount.target}"`,
      ignore: ['EEXIST', 'EROFS'],
    });
    at = openBelow(p, at, part, true);
  }
  const name = parts.at(-1) ?? '';
  if (mount.type === 'tmpfs' || mount.isDirectory) {
    planMountAt(p, at, name, fd);
    return;
  }
  const create = p.flags('O_WRONLY', 'O_CREAT', 'O_EXCL', 'O_NOFOLLOW', 'O_CLOEXEC');
  p.sys('openat', [at, name, create, 0o644], { about: `"${mount.target}"`, ignore: ['EEXIST', 'EROFS'] });
  planMove(p, fd, openBelow(p, at, name, false), mount.target);
}

function planMove(p: Program, mount: Result, target: Result, about: string): void {
  const empty = p.flags('MOVE_MOUNT_F_EMPTY_PATH', 'MOVE_MOUNT_T_EMPTY_PATH');
  p.sys('move_mount', [mount, '', target, '', empty], { about: `on "${about}"` });
}

/** Uptime starts at 0: a time namespace whose boot clock is set back (time_namespaces(7), Linux 5.6). */
function planTime(p: Program, spec: StartSpec, proc: Result): void {
  p.sys('unshare', [p.flags('CLONE_NEWTIME')], { about: 'time namespace' });
  planWriteFile(
    p,
    proc,
    'self/timens_offsets',
    `boottime ${spec.bootOffset.seconds} ${spec.bootOffset.nanoseconds}\n`,
  );
  const ns = p.sys('openat', [proc, 'self/ns/time_for_children', p.flags('O_RDONLY', 'O_CLOEXEC'), 0], {
    about: 'time namespace',
  });
  p.sys('setns', [ns, p.flags('CLONE_NEWTIME')], { about: 'time namespace' });
}

/** Covers paths below a mount that we made ourselves, so nothing of the guest stands between (CVE-2025-31133). */
function planMasks(p: Program, spec: StartSpec, mount: Result, prefix: string, dev: Result): void {
  const clone = p.flags('OPEN_TREE_CLONE', 'OPEN_TREE_CLOEXEC', 'AT_RECURSIVE');
  let empty: Result | undefined;
  for (const { path, kind } of spec.masks) {
    if (!path.startsWith(prefix)) continue;
    const name = path.slice(prefix.length);
    const isDirectory = name.endsWith('/');
    const target = openBelow(p, mount, name, isDirectory);
    let cover: Result;
    if (kind === 'readonly') {
      cover = p.sys(
        'open_tree',
        [target, '', p.flags('OPEN_TREE_CLONE', 'OPEN_TREE_CLOEXEC', 'AT_EMPTY_PATH')],
        { about: `"${path}"` },
      );
      const attr = p.struct('mount_attr', { attr_set: p.flags('MOUNT_ATTR_RDONLY') });
      p.sys('mount_setattr', [cover, '', p.flags('AT_EMPTY_PATH'), attr, sizeOf(p.abi, 'mount_attr')], {
        about: `"${path}" read-only`,
      });
    } else if (isDirectory) {
      empty ??= planFilesystem(
        p,
        'tmpfs',
        [
          ['nr_inodes', '2'],
          ['mode', '0555'],
        ],
        ['MOUNT_ATTR_RDONLY', 'MOUNT_ATTR_NOSUID', 'MOUNT_ATTR_NODEV'],
      );
      cover = p.sys(
        'open_tree',
        [empty, '', p.flags('OPEN_TREE_CLONE', 'OPEN_TREE_CLOEXEC', 'AT_EMPTY_PATH')],
        { about: 'empty directory' },
      );
    } else {
      cover = p.sys('open_tree', [dev, 'null', clone], { about: '/dev/null' });
    }
    planMove(p, cover, target, path);
  }
}
