/**
 * What a guest's socket broker does when a process of the guest calls socket(2): it makes the socket where it is itself,
 * in the host's network namespace and below the guest's cgroup, and puts it into the process in place of the result. And
 * when one asks about interfaces by ioctl(2), which would be told of the host's.
 */
import { planNumberPath } from '../sys/number-path.ts';
import type { Data, Import, Label, Program, Result } from '../sys/program.ts';
import { planBindRaw, planPrepareSocket } from './fence-broker.ts';

const ARGUMENT_BYTES = 8;
/** SOCK_TYPE_MASK of linux/net.h. */
const TYPE_MASK = 0xf;

/** Descriptors that the broker of a guest with a fence has. */
export interface BrokerDescriptors {
  /** The fence's map of sockets. */
  readonly sockets: number;
  /** A socket of the guest's own network namespace, which knows the interfaces that are shown. */
  readonly dark: number;
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
 * Adds the steps that answer one call; import 0 is the listener of the filter that asks (seccomp_unotify(2)).
 *
 * @param has undefined: there is no fence
 */
export function planSocketHandler(h: Program, has: BrokerDescriptors | undefined): void {
  const [end, plain, failed, refuse, answer] = [h.label(), h.label(), h.label(), h.label(), h.label()];
  const listener = h.import(0);
  const request = h.struct('seccomp_notif', {});
  // The kernel refuses one that is not all zero.
  for (let at = 0; at < request.length; at += 8) h.store(request.at(at, 8), 0, 8);
  // ENOENT: the caller was killed, or a signal came first and it will call again.
  h.sys('ioctl', [listener, h.flags('SECCOMP_IOCTL_NOTIF_RECV'), request], {
    about: 'receive',
    otherwise: { on: ['ENOENT', 'EINTR'], to: end },
  });
  const id = h.loadField(request, 'seccomp_notif', 'id');
  const args = h.field(h.field(request, 'seccomp_notif', 'data'), 'seccomp_data', 'args');
  const [family, type, protocol] = [0, 1, 2].map((i) => h.load(args.at(ARGUMENT_BYTES * i, 8), 8));
  if (!family || !type || !protocol) return;

  const response = h.struct('seccomp_notif_resp', {});
  planInterfaceRequest(h, { listener, request, id, descriptor: family, dark: has?.dark, end });
  if (has?.raw) planRootOnly(h, { request, response, type, uid: has.raw.uid, answer });
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
  h.storeField(response, 'seccomp_notif_resp', 'error', added);
  h.jump(answer);
  h.place(refuse);
  h.storeField(response, 'seccomp_notif_resp', 'error', socket);
  h.place(answer);
  h.storeField(response, 'seccomp_notif_resp', 'id', id);
  h.sys('ioctl', [listener, h.flags('SECCOMP_IOCTL_NOTIF_SEND'), response], { about: 'refuse', ignore: [] });
  h.place(end);
}

/**
 * Refuses a raw socket to all but the guest's root, which the kernel would do itself if it were the caller's to make: the
 * directory of a process in /proc belongs to its effective user (task_dump_owner, fs/proc/base.c).
 */
function planRootOnly(
  h: Program,
  call: {
    readonly request: Data;
    readonly response: Data;
    readonly type: Result;
    readonly uid: number;
    /** Where what the response says is sent. */
    readonly answer: Label;
  },
): void {
  const { request, response, type, uid, answer } = call;
  const [granted, refused] = [h.label(), h.label()];
  h.expect(type, '&', h.flags('SOCK_RAW'), 'EPERM', 'a raw socket', { mask: TYPE_MASK, otherwise: granted });
  const about = 'the caller';
  const path = planNumberPath(h, '/proc/', h.loadField(request, 'seccomp_notif', 'pid'));
  const caller = h.sys('openat', [h.flags('AT_FDCWD'), path, h.flags('O_PATH', 'O_CLOEXEC'), 0], {
    about,
    otherwise: { on: [], to: refused },
  });
  const stat = h.struct('stat', {});
  h.sys('fstat', [caller, stat], { about, ignore: [] });
  h.sys('close', [caller]);
  h.expect(h.loadField(stat, 'stat', 'st_uid'), '!=', uid | 0, 'EPERM', about, { otherwise: granted });
  h.place(refused);
  h.storeField(response, 'seccomp_notif_resp', 'error', -(h.abi.errnos['EPERM'] ?? 1));
  h.jump(answer);
  h.place(granted);
}

/**
 * A question about interfaces is one to the guest's own network namespace, whatever socket it is asked on: that gets a
 * socket from there in its place, and the call goes on. Programs ask on sockets they have for nothing else.
 */
function planInterfaceRequest(
  h: Program,
  call: {
    readonly listener: Import;
    readonly request: Data;
    readonly id: Result;
    /** First argument. */
    readonly descriptor: Result;
    readonly dark: number | undefined;
    readonly end: Label;
  },
): void {
  const { listener, request, id, descriptor, dark, end } = call;
  const other = h.label();
  const nr = h.load(h.field(h.field(request, 'seccomp_notif', 'data'), 'seccomp_data', 'nr').at(0, 4), 4);
  for (const table of [h.abi, h.abi.compat]) {
    const number = table?.syscalls['socket'];
    if (number !== undefined) h.expect(nr, '!=', number, 'EINVAL', 'a socket', { otherwise: other });
  }
  if (dark !== undefined) {
    const set = h.struct('seccomp_notif_addfd', {
      flags: h.flags('SECCOMP_ADDFD_FLAG_SETFD'),
      srcfd: dark,
      newfd_flags: h.flags('O_CLOEXEC'),
    });
    h.storeField(set, 'seccomp_notif_addfd', 'id', id);
    h.storeField(set, 'seccomp_notif_addfd', 'newfd', descriptor);
    h.sys('ioctl', [listener, h.flags('SECCOMP_IOCTL_NOTIF_ADDFD'), set], {
      about: 'put in place',
      ignore: [],
    });
  }
  const goOn = h.struct('seccomp_notif_resp', { flags: h.flags('SECCOMP_USER_NOTIF_FLAG_CONTINUE') });
  h.storeField(goOn, 'seccomp_notif_resp', 'id', id);
  h.sys('ioctl', [listener, h.flags('SECCOMP_IOCTL_NOTIF_SEND'), goOn], { about: 'go on', ignore: [] });
  h.jump(end);
  h.place(other);
}
