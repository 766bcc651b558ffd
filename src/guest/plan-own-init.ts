/**
 * What a guest gets in addition whose process 1 is an init of its own, systemd above all: a part of the cgroup tree that
 * it may divide, a file system of its own on /dev/shm, and a console.
 */
import { dirname } from 'node:path';
import type { Program, Result } from '../sys/program.ts';
import { openBelow, planMove } from './plan-below.ts';
import { planFilesystem } from './plan-mounts.ts';
import { planWriteFile } from './plan-paths.ts';
import { INIT_FD, type OwnerSpec } from './plan-types.ts';

/** Cgroups a guest may make: each costs the host memory that no limit of the guest's counts in full. */
const CGROUPS_MAX = 1024;
/** What the owner of a delegated cgroup may write (cgroups(7), "Cgroups v2 delegation"); no limit is among them. */
const DELEGATED = ['', 'cgroup.procs', 'cgroup.threads', 'cgroup.subtree_control'] as const;

/**
 * Adds the worker's steps that delegate a guest's cgroup2 directory. Its controllers are not handed down, so that its
 * processes, and those of later execs, may stay in a cgroup that has children.
 */
export function planDelegate(p: Program, leaf: string, { hostBase }: OwnerSpec): void {
  const at = p.flags('AT_FDCWD');
  planWriteFile(p, at, `${leaf}/cgroup.max.descendants`, String(CGROUPS_MAX));
  // Who mounts a part of the tree must be allowed to walk there before Linux 6.16 (kernfs_node_dentry, fs/kernfs/mount.c).
  const instance = dirname(dirname(leaf));
  p.sys('fchmodat', [at, instance, 0o711], { about: `"${instance}"` });
  for (const name of DELEGATED) {
    const path = name === '' ? leaf : `${leaf}/${name}`;
    p.sys('fchownat', [at, path, hostBase, hostBase, p.flags('AT_SYMLINK_NOFOLLOW')], {
      about: `"${path}" to the guest`,
    });
  }
}

/** Adds process 1's steps. With the host's network there is no /sys, as the guest's root does not own that network. */
export function planOwnInit(p: Program, hostNetwork: boolean): void {
  // systemd insists on a mount there; this one is a part of /dev, and bounded with it.
  const shm = openBelow(p, INIT_FD.dev, 'shm', true);
  planMove(p, planTree(p, shm, '/dev/shm'), shm, '/dev/shm');
  if (hostNetwork) return;
  const cgroups = planFilesystem(
    p,
    'cgroup2',
    [],
    ['MOUNT_ATTR_NOSUID', 'MOUNT_ATTR_NODEV', 'MOUNT_ATTR_NOEXEC'],
  );
  planMove(p, cgroups, openBelow(p, INIT_FD.sys, 'fs/cgroup', true), '/sys/fs/cgroup');
}

/** Adds the steps that make a terminal the guest's /dev/console too. */
export function planConsole(p: Program, terminal: Result): void {
  const create = p.flags('O_WRONLY', 'O_CREAT', 'O_EXCL', 'O_NOFOLLOW', 'O_CLOEXEC');
  const file = p.sys('openat', [INIT_FD.dev, 'console', create, 0o600], { about: '/dev/console' });
  p.sys('close', [file]);
  planMove(
    p,
    planTree(p, terminal, '/dev/console'),
    openBelow(p, INIT_FD.dev, 'console', false),
    '/dev/console',
  );
}

function planTree(p: Program, file: Result, about: string): Result {
  return p.sys('open_tree', [file, '', p.flags('OPEN_TREE_CLONE', 'OPEN_TREE_CLOEXEC', 'AT_EMPTY_PATH')], {
    about,
  });
}
