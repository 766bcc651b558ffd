/**
 * The file system of views: its session, which a relay of its own has, and its files in a guest.
 *
 *     guest ── read ──▶ kernel ── /dev/fuse ──▶ relay ── run/views.sock ──▶ vserverd
 */
import { planNumberPath } from '../sys/number-path.ts';
import type { Arg, Program, Result } from '../sys/program.ts';
import { type Text, wordsOf } from '../sys/varying.ts';
import { ANSWERS_FILE } from '../views/answers.ts';
import type { ViewFile } from '../views/files.ts';
import { openBelow, planMove, planMoveTo } from './plan-below.ts';
import { planNamespace } from './plan-mounts.ts';
import {
  OWN_MOUNTS,
  planAttach,
  planInNamespace,
  planOpenDirectory,
  planOpenNamespace,
} from './plan-paths.ts';
import { PROC_FS_NAME } from './proc-fs.ts';

/** Name of the relay's socket in the run directory. */
export const VIEWS_SOCKET = 'views.sock';

/** Descriptors of a relay. */
const RELAY_FD = { fuse: 100, listener: 101, mount: 102 } as const;
const SOCKADDR_BYTES = 110;
const BACKLOG = 4;

/** Objects of syscalld. */
export interface ViewsObjects {
  /** The mount, which no directory has. */
  readonly mount: number;
  /** The relay's process. */
  readonly relay: number;
  /** The mount namespace it is attached in; 0: in none. */
  readonly namespace: number;
}

/** The file system, as programs use it. */
export interface ViewsMount {
  readonly mount: Arg;
  readonly namespace: Arg | undefined;
}

/** A file that process 1 gets a mount of, to put it over another one. */
export type PlacedView = Pick<ViewFile, 'name' | 'path'>;

/** Returns what a program imports of the file system. */
export function importViews(p: Program, { mount, namespace }: ViewsObjects): ViewsMount {
  return { mount: p.import(mount), namespace: namespace === 0 ? undefined : p.import(namespace) };
}

/**
 * Adds the steps that make the file system and its relay. Returns the relay's pid.
 *
 * @param at.attach directory of the host where it is attached, in a mount namespace of the relay's, for a kernel that copies
 *   no detached mounts
 */
export function planViews(
  p: Program,
  at: { readonly run: string; readonly attach: string },
  objects: ViewsObjects,
): Result {
  const fuse = p.sys(
    'openat',
    [p.flags('AT_FDCWD'), '/dev/fuse', p.flags('O_RDWR', 'O_NONBLOCK', 'O_CLOEXEC'), 0],
    {
      about: '/dev/fuse',
    },
  );
  const fs = p.sys('fsopen', ['fuse', p.flags('FSOPEN_CLOEXEC')], { about: 'fuse' });
  const setText = p.flags('FSCONFIG_SET_STRING');
  p.sys('fsconfig', [fs, setText, 'fd', planNumberPath(p, '', fuse), 0], { about: 'fuse fd' });
  for (const [key, value] of [
    ['source', 'vserver'],
    ['rootmode', '40555'],
    ['user_id', '0'],
    ['group_id', '0'],
  ] as const)
    p.sys('fsconfig', [fs, setText, key, value, 0], { about: `fuse ${key}=${value}` });
  // Everybody in a guest may read; the kernel compares modes, which nobody can change, by itself.
  for (const flag of ['allow_other', 'default_permissions'])
    p.sys('fsconfig', [fs, p.flags('FSCONFIG_SET_FLAG'), flag, 0, 0], { about: `fuse ${flag}` });
  p.sys('fsconfig', [fs, p.flags('FSCONFIG_CMD_CREATE'), 0, 0, 0], { about: 'fuse' });
  const attributes = ['MOUNT_ATTR_RDONLY', 'MOUNT_ATTR_NOSUID', 'MOUNT_ATTR_NODEV', 'MOUNT_ATTR_NOEXEC'];
  const mount = p.sys('fsmount', [fs, p.flags('FSMOUNT_CLOEXEC'), p.flags(...attributes)], { about: 'fuse' });
  if (objects.namespace !== 0) {
    planNamespace(p);
    planAttach(p, mount, at.attach, 'views');
    p.keep(planOpenNamespace(p, OWN_MOUNTS), objects.namespace);
  }
  const listener = planListener(p, at.run);
  const relay = p.spawn('relay of views', { object: objects.relay }, () => {
    const held: readonly (readonly [Result, number])[] = [
      [fuse, RELAY_FD.fuse],
      [listener, RELAY_FD.listener],
      [mount, RELAY_FD.mount],
    ];
    for (const [fd, number] of held)
      p.sys('dup3', [fd, number, p.flags('O_CLOEXEC')], { about: `as descriptor ${number}` });
    p.sys('close_range', [0, RELAY_FD.fuse - 1, 0]);
    p.sys('close_range', [RELAY_FD.mount + 1, 0xffffffff, 0]);
    p.sys('prctl', [p.flags('PR_SET_DUMPABLE'), 0, 0, 0, 0]);
    p.relay(RELAY_FD.fuse, RELAY_FD.listener);
  });
  p.keep(mount, objects.mount);
  return relay;
}

/** Adds the steps that take a relay's mount over, when syscalld was started anew and has it no more. */
export function planViewsTakeover(p: Program, relayPid: number, objects: ViewsObjects): void {
  const relay = p.sys('pidfd_open', [relayPid, 0], { about: `relay ${relayPid}` });
  const mount = p.sys('pidfd_getfd', [relay, RELAY_FD.mount, 0], { about: 'mount of views' });
  p.keep(mount, objects.mount);
  if (objects.namespace !== 0) p.keep(planOpenNamespace(p, `/proc/${relayPid}/ns/mnt`), objects.namespace);
  p.keep(relay, objects.relay, relayPid);
}

/** Adds the steps that put the files over those of a running guest, whose relay has ended. */
export function planViewsAgain(
  p: Program,
  guest: { readonly init: Arg; readonly views: ViewsMount; readonly xid: number },
  files: readonly PlacedView[],
): void {
  const mounts = planInViews(p, guest.views, String(guest.xid), (listed) => planViewMounts(p, listed, files));
  p.sys('setns', [guest.init, p.flags('CLONE_NEWNS')], { about: "the guest's mount namespace" });
  const root = planOpenDirectory(p, p.flags('AT_FDCWD'), '/');
  for (const [i, { path }] of files.entries()) {
    const mount = mounts[i];
    if (mount) planMove(p, mount, openBelow(p, root, path.slice(1), path.endsWith('/')), path);
  }
}

/** A socket in the run directory, which only root can enter. */
function planListener(p: Program, runDirectory: string): Result {
  const address = p.data(SOCKADDR_BYTES, VIEWS_SOCKET);
  p.put(address, p.flags('AF_UNIX').value, 2);
  p.putText(address.at(2), VIEWS_SOCKET);
  p.sys('chdir', [runDirectory], { about: `"${runDirectory}"` });
  p.sys('unlinkat', [p.flags('AT_FDCWD'), VIEWS_SOCKET, 0], { about: VIEWS_SOCKET, ignore: ['ENOENT'] });
  const listener = p.sys('socket', [p.flags('AF_UNIX'), p.flags('SOCK_STREAM', 'SOCK_CLOEXEC'), 0]);
  p.sys('bind', [listener, address, SOCKADDR_BYTES], { about: VIEWS_SOCKET });
  p.sys('listen', [listener, BACKLOG]);
  return listener;
}

/** Adds the steps that make a detached mount of each of these in a directory of the file system. */
export function planViewMounts(
  p: Program,
  listed: Result,
  files: readonly { readonly name: string }[],
): readonly Result[] {
  const clone = p.flags('OPEN_TREE_CLONE', 'OPEN_TREE_CLOEXEC', 'AT_SYMLINK_NOFOLLOW');
  return files.map(({ name }) => p.sys('open_tree', [listed, name, clone], { about: `view "${name}"` }));
}

/** Adds the steps that mount the Proc-FS below the run directory, readable by who may enter that. */
export function planProcFs(p: Program, views: ViewsMount, run: string): void {
  const [tree] = planInViews(p, views, '.', (listed) => planViewMounts(p, listed, [{ name: PROC_FS_NAME }]));
  const path = `${run}/${PROC_FS_NAME}`;
  p.sys('mkdirat', [p.flags('AT_FDCWD'), path, 0o555], { about: `"${path}"`, ignore: ['EEXIST'] });
  if (tree) planAttach(p, tree, path, `on "${path}"`);
}

/** Adds the steps that unmount it, whoever is in there. */
export function planProcFsEnd(p: Program, run: string): void {
  const path = `${run}/${PROC_FS_NAME}`;
  p.sys('umount2', [path, p.flags('MNT_DETACH')], { about: `"${path}"` });
  p.sys('unlinkat', [p.flags('AT_FDCWD'), path, p.flags('AT_REMOVEDIR')], { about: `"${path}"` });
}

/** Adds the step that opens, in the directory of a guest's views, what its broker answers with: it is not waited for. */
export function planOpenAnswers(p: Program, listed: Result): Result {
  const { name } = ANSWERS_FILE;
  const flags = p.flags('O_RDONLY', 'O_NONBLOCK', 'O_CLOEXEC');
  return p.sys('openat', [listed, name, flags, 0], { about: `view "${name}"` });
}

/**
 * Adds steps that find files in the directory they are given: of a guest, by its xid, or of the file system.
 *
 * @param isKnown the kernel knows what is in there, since it was asked before
 */
export function planInViews<T>(
  p: Program,
  { mount, namespace }: ViewsMount,
  directory: Text,
  body: (listed: Result) => T,
  isKnown = false,
): T {
  return planInNamespace(p, namespace, () => {
    const open = p.flags('O_RDONLY', 'O_DIRECTORY', 'O_CLOEXEC');
    const listed = p.sys('openat', [mount, directory, open, 0], {
      about: `views in "${wordsOf(directory)}"`,
    });
    // All entries at once (READDIRPLUS): what follows need not ask for each.
    if (!isKnown) {
      p.sys('getdents64', [listed, p.data(LIST_BYTES), LIST_BYTES], { about: 'views' });
      // The kernel keeps the list in a page, by which the guest's memory cgroup outlives the guest.
      p.sys('fadvise64', [listed, 0, 0, p.flags('POSIX_FADV_DONTNEED')], { about: 'list of views' });
    }
    return body(listed);
  });
}

/** Adds the steps that try whether a link can be covered by another one, in a mount namespace that goes with the worker. */
export function planTryCoverLink(p: Program): void {
  const at = p.flags('AT_FDCWD');
  planNamespace(p);
  const clone = p.flags('OPEN_TREE_CLONE', 'OPEN_TREE_CLOEXEC', 'AT_SYMLINK_NOFOLLOW');
  const link = p.sys('open_tree', [at, '/proc/mounts', clone], { about: '/proc/mounts' });
  const target = p.sys('openat', [at, '/proc/net', p.flags('O_PATH', 'O_NOFOLLOW', 'O_CLOEXEC'), 0], {
    about: '/proc/net',
  });
  planMove(p, link, target, '/proc/net');
  // A file now, if it is followed.
  const file = p.sys('openat', [at, '/proc/net', p.flags('O_RDONLY', 'O_CLOEXEC'), 0], {
    about: '/proc/net',
  });
  p.sys('read', [file, p.data(8), 8], { about: '/proc/net' });
}

/** Adds process 1's steps that put mounts over files of its /proc. */
export function planViewsInProc(
  p: Program,
  proc: Arg,
  mounts: readonly Result[],
  files: readonly PlacedView[],
): void {
  for (const [i, { path }] of files.entries()) {
    const mount = mounts[i];
    const name = path.slice('/proc/'.length);
    if (mount) planMoveTo(p, mount, proc, name);
  }
}

const LIST_BYTES = 4096;
