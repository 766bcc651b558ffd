/**
 * The quota service of a guest: a process beside its broker that asks the file system about quotas of the guest's users, since
 * that takes CAP_SYS_ADMIN on the host. It has no other capability, two descriptors, and ends with the broker.
 */
import { basename } from 'node:path';
import { planQuotaService as planHandler, QUOTA_DEVICE } from '../storage/quota-calls.ts';
import { type Arg, Program, type Result } from '../sys/program.ts';
import { planCapset, planSendFds } from './plan-command.ts';
import { planOpenDirectory, planSocketPair } from './plan-paths.ts';
import type { OwnerSpec } from './plan-types.ts';
import type { ViewsObjects } from './plan-views.ts';

/** What a guest with quotas for its users has. */
export interface QuotaSpec {
  /** A directory of the file system that has its own files. */
  readonly directory: string;
  readonly xid: number;
  /** The file system that has its view of /proc/mounts; undefined: it has none. */
  readonly views: ViewsObjects | undefined;
}

const FD = { control: 120, files: 121 } as const;
const CAP_SYS_ADMIN = 1n << 21n;
/** For whoever asks while the service is held up by a file system that does not answer. */
const WAIT_SECONDS = 2;
const TIMEVAL_BYTES = 16;

/**
 * Adds the steps that start the service. Returns the broker's end of the socket.
 *
 * @param uid host user id of the guest's root, as which it runs
 * @param object of syscalld: its process
 */
export function planQuotaService(
  p: Program,
  cgroup: Result,
  uid: number,
  object: number,
  { directory, xid }: QuotaSpec,
): Result {
  const files = planOpenDirectory(p, p.flags('AT_FDCWD'), directory);
  const control = planSocketPair(p, 'control of the quota service');
  const calls = planSocketPair(p, 'quota service');
  const timeout = p.data(TIMEVAL_BYTES, `{${WAIT_SECONDS} s}`);
  p.put(timeout, WAIT_SECONDS, 8);
  const option = [p.flags('SOL_SOCKET'), p.flags('SO_RCVTIMEO'), timeout, TIMEVAL_BYTES];
  p.sys('setsockopt', [calls.worker, ...option], { about: 'time to wait for the quota service' });
  p.spawn('quota service', { cgroup, object }, () => {
    const held: readonly (readonly [Arg, number])[] = [
      [control.child, FD.control],
      [files, FD.files],
    ];
    for (const [fd, number] of held)
      p.sys('dup3', [fd, number, p.flags('O_CLOEXEC')], { about: `as descriptor ${number}` });
    p.sys('close_range', [0, FD.control - 1, 0]);
    p.sys('close_range', [FD.files + 1, 0xffffffff, 0]);
    p.sys('setgroups', [0, 0]);
    p.sys('prctl', [p.flags('PR_SET_KEEPCAPS'), 1, 0, 0, 0]);
    p.sys('setresgid', [uid, uid, uid]);
    p.sys('setresuid', [uid, uid, uid]);
    planCapset(p, CAP_SYS_ADMIN);
    p.sys('prctl', [p.flags('PR_SET_NO_NEW_PRIVS'), 1, 0, 0, 0]);
    p.sys('prctl', [p.flags('PR_SET_DUMPABLE'), 0, 0, 0, 0]);
    const handler = new Program(p.abi);
    planHandler(handler, { files: FD.files, xid });
    p.broker(FD.control, handler.encode().bytes);
  });
  planSendFds(p, control.worker, p.data(8), [calls.child], 'socket to the quota service');
  for (const fd of [control.worker, control.child, calls.child, files]) p.sys('close', [fd]);
  return calls.worker;
}

/**
 * Adds the steps that make the node which quota tools look for as the device of the root: they compare its number with
 * that of the files there. No driver has it, so it opens nothing.
 *
 * @param dev the guest's /dev
 * @param root the mount that becomes the guest's root
 */
export function planQuotaDevice(p: Program, dev: Arg, root: Result, { hostBase }: OwnerSpec): void {
  const name = basename(QUOTA_DEVICE);
  const about = QUOTA_DEVICE;
  const stat = p.struct('stat', {});
  p.sys('fstat', [root, stat], { about: 'root' });
  const number = p.load(p.field(stat, 'stat', 'st_dev').at(0, 8), 8);
  p.sys('mknodat', [dev, name, p.flags('S_IFBLK').value | 0o600, number], { about });
  p.sys('fchownat', [dev, name, hostBase, hostBase, p.flags('AT_SYMLINK_NOFOLLOW')], { about });
}
