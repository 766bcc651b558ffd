/** A guest's own files: made, and deleted without ever leaving their directory. */
import { chmodSync, chownSync, lstatSync, mkdirSync, readFileSync, realpathSync, rmdirSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { StateError } from '../base/errors.ts';
import { UndoStack } from '../base/undo.ts';
import { parseMountInfo } from '../spec/mountinfo.ts';
import { Program } from '../sys/program.ts';
import { StepError } from '../sys/syscalld.ts';
import { openDirectory, removeDirectory, type StorageMachine } from './machine.ts';

/** A guest's own files. */
export interface GuestFiles {
  /** The overlay's upper layer: what the guest wrote. Owned by the guest's root. */
  readonly upper: string;
  /** The overlay's work directory, on the file system of `upper`. */
  readonly work: string;
}

/** Where a guest's own files are. */
export interface GuestDirs extends GuestFiles {
  /** Holds the others; mode 0700, so that a setuid program of the guest is out of reach of the host's users. */
  readonly directory: string;
}

/**
 * Tells the file system that the directories in one have nothing to do with each other: ext4 gives each a part of the
 * disk of its own (chattr(1), `T`). In one part the mounts of a thousand overlays, each of which makes three files for a
 * try, get in each other's way: without a journal ext4 passes over what was deleted within the last minute inode by inode
 * (recently_deleted, fs/ext4/ialloc.c). A file system that does not ask stays as it is.
 */
export async function spreadDirectories(machine: StorageMachine, path: string): Promise<void> {
  const what = `spread the directories in ${JSON.stringify(path)}`;
  const run = async (call: 'FS_IOC_GETFLAGS' | 'FS_IOC_SETFLAGS', value: number): Promise<number> => {
    const p = new Program(machine.abi);
    const flags = p.data(4, 'flags');
    p.put(flags, value);
    p.sys('ioctl', [openDirectory(p, path), p.flags(call), flags], { about: path });
    const got = p.load(flags, 4);
    return (await machine.run(what, p)).result(got);
  };
  try {
    const flags = await run('FS_IOC_GETFLAGS', 0);
    const top = machine.abi.constants['FS_TOPDIR_FL'] ?? 0;
    if ((flags & top) === 0) await run('FS_IOC_SETFLAGS', flags | top);
  } catch (error) {
    if (!(error instanceof StepError)) throw error; // tmpfs, xfs, and others that have no such flag
  }
}

/**
 * Makes the directories of a guest; all or none.
 *
 * @param hostUid the host's id for the guest's root: `65536 × xid`
 * @throws StateError guest-files-exist
 */
export async function createGuestDirs(dirs: GuestDirs, hostUid: number): Promise<void> {
  mkdirSync(dirname(dirs.directory), { recursive: true, mode: 0o700 });
  if (lstatSync(dirs.directory, { throwIfNoEntry: false }) !== undefined) {
    throw new StateError(
      'guest-files-exist',
      `cannot create ${JSON.stringify(dirs.directory)}: found it there already; need it deleted`,
    );
  }
  await using undo = new UndoStack();
  for (const path of [dirs.directory, dirs.upper, dirs.work]) {
    mkdirSync(path, { mode: 0o700 });
    undo.defer(`create ${path}`, () => rmdirSync(path));
  }
  chownSync(dirs.upper, hostUid, hostUid);
  chmodSync(dirs.upper, 0o755);
  undo.commit();
}

/**
 * Deletes a guest's files; nothing happens if there are none. Leaves everything that only seems to be below: links are
 * not followed, and nothing is deleted while something is mounted there.
 *
 * @param mountInfo `/proc/self/mountinfo`, or a file like it
 * @throws StateError guest-files-mounted
 * @throws StepError EXDEV when a mount came in between
 */
export async function removeGuestDirs(
  dirs: Pick<GuestDirs, 'directory'>,
  machine: StorageMachine,
  mountInfo: string = '/proc/self/mountinfo',
): Promise<void> {
  refuseMounted(dirs, mountInfo);
  if (lstatSync(dirs.directory, { throwIfNoEntry: false }) === undefined) return;
  const parent = realpathSync.native(dirname(dirs.directory));
  await removeDirectory(
    machine,
    `delete ${JSON.stringify(dirs.directory)}`,
    parent,
    basename(dirs.directory),
  );
}

/**
 * Throws while something is mounted on or below a guest's directory: called before anything of the guest is deleted.
 *
 * @param mountInfo `/proc/self/mountinfo`, or a file like it
 * @throws StateError guest-files-mounted
 */
export function refuseMounted(
  dirs: Pick<GuestDirs, 'directory'>,
  mountInfo: string = '/proc/self/mountinfo',
): void {
  if (lstatSync(dirs.directory, { throwIfNoEntry: false }) === undefined) return;
  const directory = join(realpathSync.native(dirname(dirs.directory)), basename(dirs.directory));
  const mounted = parseMountInfo(readFileSync(mountInfo, 'utf8')).find(
    ({ mountPoint }) => mountPoint === directory || mountPoint.startsWith(`${directory}/`),
  );
  if (mounted === undefined) return;
  throw new StateError(
    'guest-files-mounted',
    `cannot delete ${JSON.stringify(directory)}: found a mount on ${JSON.stringify(mounted.mountPoint)}; need it unmounted`,
  );
}
