/**
 * What a guest's broker does when a process of the guest calls socket(2): it makes the socket where it is itself,
 * in the host's network namespace and below the guest's cgroup, and puts it into the process in place of the result. And
 * when one asks about interfaces by ioctl(2), which would be told of the host's.
 */
import { type AskedCall, planAnswer, planGoOn } from '../sys/asked-call.ts';
import { planNumberPath } from '../sys/number-path.ts';
import type { Program, Result } from '../sys/program.ts';
import { planBindRaw, planPrepareSocket } from './fence-broker.ts';

/** SOCK_TYPE_MASK of linux/net.h. */
const TYPE_MASK = 0xf;

/** Descriptors by which the broker of a guest with a fence makes sockets. */
export interface SocketMaker {
  /** The fence's map of sockets. */
  readonly sockets: number;
  /** Of a guest that is given raw sockets, which its root alone may make. */
  readonly raw: RawSocketMaker | undefined;
}

/** What it takes to make raw sockets, beside CAP_NET_RAW. */
export interface RawSocketMaker {
  /** Host user id of the guest's root. */
  readonly uid: number;
  /** Descriptor of the fence's map of contexts, and the number of the guest's. */
  readonly networks: number;
  readonly nid: number;
}

/**
 * Adds the steps that answer socket(2).
 *
 * @param has undefined: there is no fence
 */
export function planMakeSocket(h: Program, call: AskedCall, has: SocketMaker | undefined): void {
  const [plain, failed, refuse] = [h.label(), h.label(), h.label()];
  const { listener, id, end } = call;
  const [family, type, protocol] = [call.argument(0), call.argument(1), call.argument(2)];
  if (has?.raw) planRootOnly(h, call, type, has.raw.uid);
  const socket = h.sys('socket', [family, type, protocol], { otherwise: { on: [], to: refuse } });
  if (has?.raw) planBindRaw(h, has.raw, { socket, family, type });
  if (has) planPrepareSocket(h, has.sockets, { socket, type, protocol });
  const add = h.struct('seccomp_notif_addfd', { flags: h.flags('SECCOMP_ADDFD_FLAG_SEND') });
  const flags = h.field(add, 'seccomp_notif_addfd', 'newfd_flags').at(0, 4);
  h.store(flags, 0);
  h.expect(type, '&', h.flags('SOCK_CLOEXEC'), 'EINVAL', 'close on exec', {
    mask: h.flags('SOCK_CLOEXEC'),
    otherwise: plain,
  });
  h.store(flags, h.flags('O_CLOEXEC'));
  h.place(plain);
  h.storeField(add, 'seccomp_notif_addfd', 'id', id);
  h.storeField(add, 'seccomp_notif_addfd', 'srcfd', socket);
  // In the caller's name: its RLIMIT_NOFILE holds.
  const added = h.sys('ioctl', [listener, h.flags('SECCOMP_IOCTL_NOTIF_ADDFD'), add], {
    about: 'hand over',
    otherwise: { on: [], to: failed },
  });
  h.sys('close', [socket]);
  h.jump(end);

  h.place(failed);
  h.sys('close', [socket]);
  planAnswer(h, call, { error: added });
  h.place(refuse);
  planAnswer(h, call, { error: socket });
}

/**
 * Refuses a raw socket to all but the guest's root, which the kernel would do itself if it were the caller's to make: the
 * directory of a process in /proc belongs to its effective user (task_dump_owner, fs/proc/base.c).
 */
function planRootOnly(h: Program, call: AskedCall, type: Result, uid: number): void {
  const [granted, refused] = [h.label(), h.label()];
  h.expect(type, '&', h.flags('SOCK_RAW'), 'EPERM', 'a raw socket', { mask: TYPE_MASK, otherwise: granted });
  const about = 'the caller';
  const path = planNumberPath(h, '/proc/', call.caller());
  const caller = h.sys('openat', [h.flags('AT_FDCWD'), path, h.flags('O_PATH', 'O_CLOEXEC'), 0], {
    about,
    otherwise: { on: [], to: refused },
  });
  const stat = h.struct('stat', {});
  h.sys('fstat', [caller, stat], { about, ignore: [] });
  h.sys('close', [caller]);
  h.expect(h.loadField(stat, 'stat', 'st_uid'), '!=', uid | 0, 'EPERM', about, { otherwise: granted });
  h.place(refused);
  planAnswer(h, call, { error: -(h.abi.errnos['EPERM'] ?? 1) });
  h.place(granted);
}

/**
 * A question about interfaces is one to the guest's own network namespace, whatever socket it is asked on: that gets a
 * socket from there in its place, and the call goes on. Programs ask on sockets they have for nothing else.
 *
 * @param dark a socket of the guest's own network namespace, which knows the interfaces that are shown
 */
export function planInterfaceRequest(h: Program, call: AskedCall, dark: number): void {
  const { listener, id } = call;
  const set = h.struct('seccomp_notif_addfd', {
    flags: h.flags('SECCOMP_ADDFD_FLAG_SETFD'),
    srcfd: dark,
    newfd_flags: h.flags('O_CLOEXEC'),
  });
  h.storeField(set, 'seccomp_notif_addfd', 'id', id);
  h.storeField(set, 'seccomp_notif_addfd', 'newfd', call.argument(0));
  h.sys('ioctl', [listener, h.flags('SECCOMP_IOCTL_NOTIF_ADDFD'), set], {
    about: 'put in place',
    ignore: [],
  });
  planGoOn(h, call);
}
