/**
 * Disk limits: a file system of the guest's own, in a sparse file, which is as large as the guest may write. What it
 * shows as free is what the guest may still write, and what it deletes is the host's again.
 *
 * @see mke2fs(8), resize2fs(8) of e2fsprogs; ext4(5)
 */
import {
  chmodSync,
  closeSync,
  ftruncateSync,
  openSync,
  readdirSync,
  readFileSync,
  statfsSync,
  statSync,
} from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { StateError } from '../base/errors.ts';
import { type Arg, Program, type Result } from '../sys/program.ts';
import { StepError } from '../sys/syscalld.ts';
import { type DiskLimit, type DiskUse, usableBytes } from './disk-limit.ts';
import { describeWaitStatus, runHostCommand, waitStatusOf } from './host-command.ts';
import { planLoop, planLoopGrown } from './loop-device.ts';
import type { StorageMachine } from './machine.ts';

const MIB = 1024 * 1024;
const BLOCK_BYTES = 4096;
const INODE_BYTES = 256;
const GROUP_BYTES = 128 * MIB;
/** Without a limit of their number: an inode for so many bytes. */
const BYTES_PER_INODE = 8192;
/** Directories beside the guest's files that keep room for what an overlay makes when it is mounted. */
export const SPARE_DIRECTORIES = 6;
/** The file system's own: reserved numbers, and directories that overlay makes. */
const OWN_INODES = 24 + SPARE_DIRECTORIES;
/** Nobody's user: what is reserved is for none of the guest, whose writes all count as those of root (overlayfs). */
const NOBODY = 65_534;
const GONE_TIMEOUT_MS = 10_000;
const GONE_POLL_MS = 5;
const IMAGE_FD = 111;
/** `_IOW('f', 16, __u64)` of fs/ext4/ext4.h, since Linux 3.3; the same on the architectures we run on. */
const EXT4_IOC_RESIZE_FS = 0x4008_6610;
const TRY_RESIZE = 'try to resize the disk of the guest';
/** Whatever the host's mke2fs.conf says; with sparse_super2 the kernel would not resize it while it is used. */
const FEATURES =
  'none,has_journal,ext_attr,dir_index,filetype,extent,64bit,flex_bg,sparse_super,large_file,huge_file,dir_nlink,extra_isize,metadata_csum';

/** Number of inodes that a guest with a limit can make. */
function inodesOf({ spaceBytes, inodes }: DiskLimit): number {
  return (inodes ?? Math.ceil(spaceBytes / BYTES_PER_INODE)) + OWN_INODES;
}

/** Journal for file systems of a size, in MiB. */
function journalMib(bytes: number): number {
  if (bytes < 1024 * MIB) return 4;
  return bytes < 16 * 1024 * MIB ? 16 : 64;
}

/** Size of the file whose file system has room for what is asked for, and its own tables. */
function fileBytes(limit: DiskLimit): number {
  const { spaceBytes } = limit;
  const tables = inodesOf(limit) * INODE_BYTES + journalMib(spaceBytes) * MIB + MIB;
  const groups = Math.ceil((spaceBytes + tables) / GROUP_BYTES);
  return Math.ceil((spaceBytes + tables + groups * 4 * BLOCK_BYTES) / BLOCK_BYTES) * BLOCK_BYTES;
}

/** The part of all blocks that is for nobody, in percent: so much of the space asked for. */
function reservedOf(limit: DiskLimit): string {
  return String((limit.reservedPercent * limit.spaceBytes) / fileBytes(limit));
}

/** Returns what is taken of the file system that a path is on. */
export function diskUse(path: string): DiskUse {
  const { bsize, blocks, bfree, files, ffree } = statfsSync(path);
  return { spaceBytes: bsize * (blocks - bfree), inodes: files - ffree };
}

/** Whether what is on a disk fits one of another size. */
export function fitsDisk(use: DiskUse, limit: DiskLimit): boolean {
  return use.spaceBytes <= usableBytes(limit) && use.inodes <= inodesOf(limit);
}

/**
 * Makes a file with a file system in it.
 *
 * @throws StateError disk-tool-failed, disk-tool-missing
 */
export async function makeDisk(machine: StorageMachine, path: string, limit: DiskLimit): Promise<void> {
  const bytes = fileBytes(limit);
  const fd = openSync(path, 'wx', 0o600);
  try {
    ftruncateSync(fd, bytes);
  } finally {
    closeSync(fd);
  }
  chmodSync(path, 0o600);
  await runTool(machine, 'mke2fs', [
    ...['-q', '-F', '-t', 'ext4', '-b', String(BLOCK_BYTES), '-I', String(INODE_BYTES)],
    ...['-N', String(inodesOf(limit)), '-m', reservedOf(limit), '-J', `size=${journalMib(limit.spaceBytes)}`],
    ...['-O', FEATURES, '-E', 'lazy_itable_init=1,lazy_journal_init=1,nodiscard'],
    path,
  ]);
}

/**
 * Gives a file system that is not mounted another size; the number of its inodes changes with it.
 *
 * @throws StateError disk-tool-failed when it holds more than that
 */
export async function resizeDisk(machine: StorageMachine, path: string, limit: DiskLimit): Promise<void> {
  const bytes = fileBytes(limit);
  // resize2fs wants it checked; 1: it found and corrected something.
  await runTool(machine, 'e2fsck', ['-f', '-p', path], [0, 1]);
  if (bytes > statSync(path).size) truncate(path, bytes);
  await runTool(machine, 'resize2fs', [path, String(bytes / BLOCK_BYTES)]);
  truncate(path, bytes);
  await runTool(machine, 'tune2fs', ['-m', reservedOf(limit), path]);
}

/**
 * Makes a mounted file system larger, while it is used.
 *
 * @returns false, and nothing is changed: the kernel does not let us (it needs CAP_SYS_RESOURCE, and a file system made
 * for it), so that it has to wait until nobody uses it
 */
export async function growMounted(
  machine: StorageMachine,
  path: string,
  before: DiskLimit,
  after: DiskLimit,
): Promise<boolean> {
  const device = attachedTo(path);
  const bytes = fileBytes(after);
  if (device === undefined || bytes < fileBytes(before)) return false;
  const p = new Program(machine.abi);
  const at = p.flags('AT_FDCWD');
  const file = p.sys('openat', [at, path, p.flags('O_RDWR', 'O_NOFOLLOW', 'O_CLOEXEC'), 0], { about: path });
  const loop = p.sys('openat', [at, `/dev/${device}`, p.flags('O_RDWR', 'O_CLOEXEC'), 0], { about: device });
  // The mount is out of reach, but another one of the same device is of the same file system.
  const root = p.sys('openat', [planExt4Mount(p, loop, path), '.', p.flags('O_RDONLY', 'O_CLOEXEC'), 0], {
    about: 'disk of the guest',
  });
  const resize = (bytesWanted: number, about: string): void => {
    const blocks = p.data(8, 'blocks');
    p.put(blocks, bytesWanted / BLOCK_BYTES, 8);
    p.sys('ioctl', [root, EXT4_IOC_RESIZE_FS, blocks], { about });
  };
  resize(fileBytes(before), TRY_RESIZE);
  p.sys('ftruncate', [file, bytes], { about: path });
  p.sys('fsync', [file], { about: path });
  planLoopGrown(p, loop);
  resize(bytes, 'grow the disk of the guest');
  try {
    await machine.run('grow the disk of a guest', p);
    return true;
  } catch (error) {
    if (error instanceof StepError && error.step === `ioctl ${TRY_RESIZE}`) return false;
    throw error;
  }
}

function truncate(path: string, bytes: number): void {
  const fd = openSync(path, 'r+');
  try {
    ftruncateSync(fd, bytes);
  } finally {
    closeSync(fd);
  }
}

/** Adds the steps that mount such a file, detached. Nobody else may have it mounted. */
export function planDiskMount(p: Program, path: string): Result {
  const file = p.sys('openat', [p.flags('AT_FDCWD'), path, p.flags('O_RDWR', 'O_NOFOLLOW', 'O_CLOEXEC'), 0], {
    about: path,
  });
  const device = planLoop(p, file, { isReadOnly: false });
  const mount = planExt4Mount(p, device, path);
  // The mount keeps the device, and the device goes with it.
  for (const fd of [device, file]) p.sys('close', [fd]);
  return mount;
}

function planExt4Mount(p: Program, device: Arg, path: string): Result {
  p.sys('dup3', [device, IMAGE_FD, p.flags('O_CLOEXEC')]);
  const fs = p.sys('fsopen', ['ext4', p.flags('FSOPEN_CLOEXEC')], { about: 'ext4' });
  for (const [key, value] of [
    ['source', `/proc/self/fd/${IMAGE_FD}`],
    ['resuid', String(NOBODY)],
    ['errors', 'remount-ro'],
  ] as const)
    p.sys('fsconfig', [fs, p.flags('FSCONFIG_SET_STRING'), key, value, 0], { about: `ext4 ${key}=${value}` });
  p.sys('fsconfig', [fs, p.flags('FSCONFIG_SET_FLAG'), 'discard', 0, 0], { about: 'ext4 discard' });
  p.sys('fsconfig', [fs, p.flags('FSCONFIG_CMD_CREATE'), 0, 0, 0], { about: `mount "${path}"` });
  const flags = [p.flags('FSMOUNT_CLOEXEC'), p.flags('MOUNT_ATTR_NODEV')] as const;
  const mount = p.sys('fsmount', [fs, ...flags], { about: 'disk of the guest' });
  for (const fd of [IMAGE_FD, fs]) p.sys('close', [fd]);
  return mount;
}

/**
 * Waits until nobody has such a file mounted any more: the kernel gives a mount up a moment after its last user.
 *
 * @throws StateError disk-in-use
 */
export async function waitUntilFree(path: string): Promise<void> {
  const deadlineMs = performance.now() + GONE_TIMEOUT_MS;
  while (attachedTo(path) !== undefined) {
    if (performance.now() > deadlineMs) {
      throw new StateError(
        'disk-in-use',
        `cannot use ${JSON.stringify(path)}: found it mounted; need it free, so that it is not written from two sides`,
      );
    }
    await sleep(GONE_POLL_MS);
  }
}

/** Name of the device that such a file is. */
function attachedTo(path: string): string | undefined {
  return readdirSync('/sys/block').find((name) => name.startsWith('loop') && backingFile(name) === path);
}

function backingFile(device: string): string | undefined {
  try {
    return readFileSync(`/sys/block/${device}/loop/backing_file`, 'utf8').trimEnd();
  } catch {
    return undefined; // it has none, or is gone
  }
}

/** Runs a program of e2fsprogs on a file system that a guest has written: with the right to that alone. */
async function runTool(
  machine: StorageMachine,
  tool: string,
  args: readonly string[],
  accepted: readonly number[] = [0],
): Promise<void> {
  const what = `run ${tool} on the disk of a guest`;
  const path = ['/usr/sbin', '/sbin']
    .map((directory) => `${directory}/${tool}`)
    .find((one) => statSync(one, { throwIfNoEntry: false }));
  if (path === undefined)
    throw new StateError('disk-tool-missing', `cannot ${what}: found no ${tool}; need e2fsprogs`);
  const program = new Program(machine.abi);
  const object = machine.newObject();
  const status = runHostCommand(program, {
    title: tool,
    namespaces: program.flags('CLONE_NEWPID', 'CLONE_NEWNET', 'CLONE_NEWIPC', 'CLONE_NEWUTS'),
    object,
    setUp: () => {
      program.sys('prctl', [program.flags('PR_SET_PDEATHSIG'), program.flags('SIGKILL')]);
    },
    exec: () => {
      program.sys('prctl', [program.flags('PR_SET_NO_NEW_PRIVS'), 1, 0, 0, 0]);
      program.sys('execve', [
        path,
        program.vector([tool, ...args]),
        program.vector(['PATH=/usr/sbin:/usr/bin:/sbin:/bin', 'MKE2FS_CONFIG=/dev/null']),
      ]);
    },
  });
  program.returns(status);
  const waitStatus = await waitStatusOf(machine, what, program, object);
  if ((waitStatus & 0x7f) === 0 && accepted.includes(waitStatus >> 8)) return;
  throw new StateError(
    'disk-tool-failed',
    `cannot ${what}: found ${describeWaitStatus(waitStatus)}; need room for what it holds, and a whole file system`,
  );
}
