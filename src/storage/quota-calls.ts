/**
 * quotactl(2) of a guest, answered for its own users: what the vroot proxy of Linux-VServer did. Two processes do it, so that
 * the one that looks into the guest has no privilege on the host, and the one that has it is never near the guest's memory:
 *
 *     the guest's broker ─── request ──▶ quota service, for that guest alone
 *      reads the arguments ◀── reply ───  CAP_SYS_ADMIN: translates the id, and asks the file system
 *
 * A guest's users are ids of the host in one range, by which the file system counts and bounds them: guest's id 1000 of xid
 * 7 is 7 × 65536 + 1000. Ids of other guests have no name here.
 *
 * @see quotactl(2), quotactl_fd(2), fs/quota/quota.c
 */
import { type AskedCall, planAnswer, planUnlessCall } from '../sys/asked-call.ts';
import { planNumberPath } from '../sys/number-path.ts';
import type { Arg, Data, Label, Program, Result } from '../sys/program.ts';

/** What a guest's tools are shown as the device of its root: vrsetup(8) called it so. */
export const QUOTA_DEVICE = '/dev/hdv1';

/** Both ways a message begins with the number of the call: what was given up by one end is not taken for another one's. */
const ID = 0;
/** The argument, as far as 32-bit programs have it too: there struct if_dqblk ends without a gap. */
const ARGUMENT = 24;
const REQUEST = {
  id: ID,
  command: 8,
  quotaId: 12,
  user: 16,
  group: 20,
  argument: ARGUMENT,
  bytes: 96,
} as const;
const REPLY = { id: ID, value: 8, length: 16, argument: ARGUMENT, bytes: 104 } as const;
const REPLY_ARGUMENT_BYTES = REPLY.bytes - ARGUMENT;
const LIMITS_BYTES = 68;
/** `QCMD` of linux/quota.h: the command, and in the lowest byte whose quota it is. */
const COMMAND_SHIFT = 256;
const COMMAND_MASK = 0xffff_ff00;
/** All bits but that of USRQUOTA and GRPQUOTA. */
const OTHER_TYPES_MASK = 0xfe;
const GRPQUOTA = 1;
/**
 * What is counted and what is held to limits: `XQM_CMD(5)` of linux/dqblk_xfs.h, which any file system answers since Linux
 * 4.1; struct fs_quota_stat, how much of it 32-bit programs have too, and flags.
 */
export const QUOTA_STATE = {
  command: 0x5805,
  bytes: 80,
  compatBytes: 68,
  userEnforced: 2,
  groupEnforced: 8,
} as const;
/** linux/quota.h: the counts are in files of the file system's own, so tools look for none, and check none. */
const DQF_SYS_FILE = 0x1_0000;
const ID_BYTES = 4;
const LONG = 8;
/** Ids of a guest are smaller, and that of the host is this times its xid and more (src/context/id-map.ts). */
const OTHER_IDS_MASK = 0xffff_0000;

// ---- the broker's end ---------------------------------------------------------------------------------------------------

/**
 * Adds the steps by which a broker answers quotactl(2) and quotactl_fd(2). Other calls fall through.
 *
 * @param service descriptor of the socket to the service, which gives up waiting by itself; undefined: there are no quotas
 */
export function planQuotaCall(h: Program, call: AskedCall, service: number | undefined): void {
  const [other, byDescriptor, isQuota] = [h.label(), h.label(), h.label()];
  const command = h.data(ID_BYTES, '<command>');
  planUnlessCall(h, call, 'quotactl', byDescriptor);
  h.store(command, call.int(0));
  h.jump(isQuota);
  h.place(byDescriptor);
  planUnlessCall(h, call, 'quotactl_fd', other);
  h.store(command, call.int(1));
  h.place(isQuota);
  if (service === undefined) planAnswer(h, call, { error: errno(h, 'ESRCH') });
  else planAskService(h, call, command, service);
  h.place(other);
}

function planAskService(h: Program, call: AskedCall, command: Data, service: number): void {
  const outcome = h.data(LONG, '<outcome>');
  const finish = h.label();
  const exits = new Exits(h, outcome, finish);
  const request = h.data(REQUEST.bytes, '<request>');
  const reply = h.data(REPLY.bytes, '<reply>');
  const caller = planOpenCaller(h, call, exits);
  const id = request.at(REQUEST.id, LONG);
  h.store(id, call.id, LONG);
  h.sys('ioctl', [call.listener, h.flags('SECCOMP_IOCTL_NOTIF_ID_VALID'), id], {
    about: 'still there',
    otherwise: exits.on('ESRCH'),
  });
  planFileSystem(h, call, { command, ...caller, exits });

  const ask = h.label();
  planUnlessCommand(h, h.load(command), 'Q_SETQUOTA', ask);
  const given = h.sys(
    'pread64',
    [caller.memory, request.at(REQUEST.argument), LIMITS_BYTES, call.argument(3)],
    {
      about: 'limits',
      otherwise: exits.on('EFAULT'),
    },
  );
  h.expect(given, '==', LIMITS_BYTES, 'EFAULT', 'limits', { otherwise: exits.to('EFAULT') });
  h.place(ask);
  h.store(request.at(REQUEST.command, ID_BYTES), h.load(command));
  h.store(request.at(REQUEST.quotaId, ID_BYTES), call.int(2));
  const stat = caller.stat;
  h.store(request.at(REQUEST.user, ID_BYTES), h.loadField(stat, 'stat', 'st_uid'));
  h.store(request.at(REQUEST.group, ID_BYTES), h.loadField(stat, 'stat', 'st_gid'));

  // What came after somebody had given up waiting for it.
  h.sys('recvfrom', [service, reply, REPLY.bytes, h.flags('MSG_DONTWAIT'), 0, 0], {
    about: 'a late reply',
    ignore: [],
  });
  const about = 'quota service';
  h.sys('sendto', [service, request, REQUEST.bytes, h.flags('MSG_DONTWAIT', 'MSG_NOSIGNAL'), 0, 0], {
    about,
    otherwise: exits.on('EIO'),
  });
  const came = h.sys('recvfrom', [service, reply, REPLY.bytes, 0, 0, 0], {
    about,
    otherwise: exits.on('EIO'),
  });
  h.expect(came, '==', REPLY.bytes, 'EIO', about, { otherwise: exits.to('EIO') });
  h.expectBytes(reply.at(REPLY.id, LONG), id, 'EIO', about, exits.to('EIO'));
  const length = h.load(reply.at(REPLY.length, LONG), LONG);
  const written = h.sys('pwrite64', [caller.memory, reply.at(REPLY.argument), length, call.argument(3)], {
    about: 'answer',
    otherwise: exits.on('EFAULT'),
  });
  h.expect(written, '==', length, 'EFAULT', 'answer', { otherwise: exits.to('EFAULT') });
  h.store(outcome, h.load(reply.at(REPLY.value, LONG), LONG), LONG);
  exits.place();
  h.place(finish);
  for (const fd of [caller.memory, caller.directory]) h.sys('close', [fd], { ignore: [] });
  planAnswer(h, call, { error: h.load(outcome, LONG) });
}

/** The caller in /proc. */
interface Caller {
  readonly directory: Result;
  readonly memory: Result;
  /** Of the directory, which belongs to its effective user and group (task_dump_owner, fs/proc/base.c). */
  readonly stat: Data;
}

/**
 * Adds the steps that open the caller's directory and memory. The call is to be looked at after that: as long as it is there
 * its caller is, whose number cannot have become another's. Who is gone by then has opened nothing that is used.
 */
function planOpenCaller(h: Program, call: AskedCall, exits: Exits): Caller {
  const about = 'the caller';
  const path = planNumberPath(h, '/proc/', call.caller());
  const open = h.flags('O_PATH', 'O_CLOEXEC');
  const directory = h.sys('openat', [h.flags('AT_FDCWD'), path, open, 0], { about, ignore: [] });
  const memory = h.sys('openat', [directory, 'mem', h.flags('O_RDWR', 'O_CLOEXEC'), 0], {
    about,
    ignore: [],
  });
  const stat = h.struct('stat', {});
  h.sys('fstat', [directory, stat], { about, otherwise: exits.on('ESRCH') });
  return { directory, memory, stat };
}

/** Adds the steps that go on only if the guest's own file system is meant, which there is one of. */
function planFileSystem(
  h: Program,
  call: AskedCall,
  at: Caller & { readonly command: Data; readonly exits: Exits },
): void {
  const [byDescriptor, all, meant] = [h.label(), h.label(), h.label()];
  const { exits, memory, directory } = at;
  planUnlessCall(h, call, 'quotactl', byDescriptor);
  const special = call.argument(1);
  h.expect(special, '!=', 0, 'ENODEV', 'a device', { otherwise: all });
  const name = Buffer.from(`${QUOTA_DEVICE}\0`, 'latin1');
  const text = h.data(name.length, '<device>');
  const read = h.sys('pread64', [memory, text, name.length, special], {
    about: 'device',
    otherwise: exits.on('EFAULT'),
  });
  h.expect(read, '==', name.length, 'ENODEV', QUOTA_DEVICE, { otherwise: exits.to('ENODEV') });
  h.expectBytes(text, name, 'ENODEV', QUOTA_DEVICE, exits.to('ENODEV'));
  h.jump(meant);
  // "If special is NULL, all": there is nothing to be written that a call would not tell of.
  h.place(all);
  planUnlessCommand(h, h.load(at.command), 'Q_SYNC', exits.to('ENODEV'));
  h.jump(meant);
  h.place(byDescriptor);
  const [root, theirs] = [h.struct('stat', {}), h.struct('stat', {})];
  const path = planNumberPath(h, 'fd/', call.int(0));
  h.sys('newfstatat', [directory, path, theirs, 0], { about: 'descriptor', otherwise: exits.on('EBADF') });
  h.sys('newfstatat', [directory, 'root', root, 0], { about: 'root', otherwise: exits.on('EBADF') });
  const deviceOf = (stat: Data): Data => h.field(stat, 'stat', 'st_dev').at(0, LONG);
  h.expectBytes(deviceOf(theirs), deviceOf(root), 'ENODEV', 'the same device', exits.to('ENODEV'));
  h.place(meant);
}

// ---- the service's end --------------------------------------------------------------------------------------------------

/** What the service of a guest has. */
export interface QuotaService {
  /** Descriptor on the file system with the guest's own files. */
  readonly files: number;
  readonly xid: number;
}

/**
 * Adds the steps of the service: it answers one request, which comes over import 0, and ends with who asks. Grace times are of a whole file system:
 * they are shown, and not set; nor is anything turned on or off.
 */
export function planQuotaService(h: Program, { files, xid }: QuotaService): void {
  const [end, send] = [h.label(), h.label()];
  const socket = h.import(0);
  const request = h.data(REQUEST.bytes, '<request>');
  const reply = h.data(REPLY.bytes, '<reply>');
  const about = 'request';
  const came = h.sys('recvfrom', [socket, request, REQUEST.bytes, h.flags('MSG_DONTWAIT'), 0, 0], {
    about,
    otherwise: { on: [], to: end },
  });
  const told = h.label();
  h.expect(came, '==', 0, 'EPROTO', 'the end of the broker', { otherwise: told });
  h.exit(0);
  h.place(told);
  h.expect(came, '==', REQUEST.bytes, 'EPROTO', about, { otherwise: end });
  // Nothing of what was told before, of another user.
  for (let at = 0; at < REPLY.bytes; at += LONG) h.store(reply.at(at, LONG), 0, LONG);
  h.store(reply.at(REPLY.id, LONG), h.load(request.at(REQUEST.id, LONG), LONG), LONG);
  const value = reply.at(REPLY.value, LONG);
  const exits = new Exits(h, value, send);
  const command = h.load(request.at(REQUEST.command, ID_BYTES));
  const quotaId = h.load(request.at(REQUEST.quotaId, ID_BYTES));
  const user = h.load(request.at(REQUEST.user, ID_BYTES));
  const argument = reply.at(REPLY.argument, REPLY_ARGUMENT_BYTES);
  h.expect(command, '&', 0, 'ESRCH', 'users or groups', {
    mask: OTHER_TYPES_MASK,
    otherwise: exits.to('ESRCH'),
  });

  const on = (name: string | number, body: () => void): void => {
    const next = h.label();
    planUnlessCommand(h, command, name, next);
    body();
    h.jump(send);
    h.place(next);
  };
  const ask = (id: Result | number, to: Data, absent?: Label): void => {
    const about = 'the file system';
    const asked = h.sys('quotactl_fd', [files, command, id, to], { about, ignore: [] });
    if (absent) h.expect(asked, '!=', errno(h, 'ENOENT'), 'ENOENT', about, { otherwise: absent });
    h.store(value, asked, LONG);
    h.expect(asked, '==', 0, 'EIO', about, { otherwise: send });
  };
  const answers = (bytes: number): void => h.store(reply.at(REPLY.length, LONG), bytes, LONG);
  const rootOnly = (): void =>
    h.expect(user, '==', 0, 'EPERM', "the guest's root", { otherwise: exits.to('EPERM') });
  const ownId = (): void =>
    h.expect(quotaId, '&', 0, 'EINVAL', 'an id', { mask: OTHER_IDS_MASK, otherwise: exits.to('EINVAL') });

  on('Q_GETQUOTA', () => {
    const [ofGroup, granted, absent] = [h.label(), h.label(), h.label()];
    h.expect(user, '!=', 0, 'EPERM', "the guest's root", { otherwise: granted });
    h.expect(command, '&', 0, 'EPERM', 'a user', { mask: GRPQUOTA, otherwise: ofGroup });
    h.expect(quotaId, '==', user, 'EPERM', 'itself', { otherwise: exits.to('EPERM') });
    h.jump(granted);
    h.place(ofGroup);
    const group = h.load(request.at(REQUEST.group, ID_BYTES));
    h.expect(quotaId, '==', group, 'EPERM', 'its group', { otherwise: exits.to('EPERM') });
    h.place(granted);
    ownId();
    ask(planIdOf(h, quotaId, xid), argument, absent);
    // XFS says ENOENT of who has neither files nor limits.
    h.place(absent);
    answers(LIMITS_BYTES);
  });
  on('Q_SETQUOTA', () => {
    rootOnly();
    ownId();
    const limits = request.at(REQUEST.argument, LIMITS_BYTES);
    // What is used is counted, and not told.
    h.expect(h.loadField(limits, 'dqblk', 'dqb_valid'), '&', 0, 'EPERM', 'limits and times', {
      mask: h.flags('QIF_USAGE'),
      otherwise: exits.to('EPERM'),
    });
    ask(planIdOf(h, quotaId, xid), limits);
  });
  on('Q_GETNEXTQUOTA', () => {
    rootOnly();
    h.expect(quotaId, '&', 0, 'ENOENT', 'an id', { mask: OTHER_IDS_MASK, otherwise: exits.to('ENOENT') });
    ask(planIdOf(h, quotaId, xid), argument);
    const found = h.field(argument, 'nextdqblk', 'dqb_id').at(0, ID_BYTES);
    const isOwn = { mask: OTHER_IDS_MASK, otherwise: exits.to('ENOENT') };
    h.expect(h.load(found), '&', xid * 65_536, 'ENOENT', "the guest's own", isOwn);
    h.store(found, planIdOf(h, h.load(found), 0));
    answers(h.abi.structs['nextdqblk']?.size ?? 0);
  });
  on('Q_GETINFO', () => {
    ask(0, argument);
    h.storeField(argument, 'dqinfo', 'dqi_flags', DQF_SYS_FILE);
    answers(h.abi.structs['dqinfo']?.size ?? 0);
  });
  on('Q_GETFMT', () => {
    ask(0, argument);
    answers(ID_BYTES);
  });
  on(QUOTA_STATE.command, () => {
    const state = h.data(QUOTA_STATE.bytes, '<state>');
    ask(0, state);
    // Version and flags; the rest is of the host.
    h.store(argument.at(0, ID_BYTES), h.load(state.at(0, ID_BYTES)));
    answers(QUOTA_STATE.compatBytes);
  });
  on('Q_SYNC', () => {});
  on('Q_QUOTAON', () => {
    rootOnly();
    // As the kernel says of what is on.
    h.jump(exits.to('EBUSY'));
  });
  for (const refused of ['Q_SETINFO', 'Q_QUOTAOFF']) planIfCommand(h, command, refused, exits.to('EPERM'));
  h.jump(exits.to('EINVAL'));
  exits.place();
  h.place(send);
  h.sys('sendto', [socket, reply, REPLY.bytes, h.flags('MSG_DONTWAIT', 'MSG_NOSIGNAL'), 0, 0], {
    about: 'reply',
    ignore: [],
  });
  h.place(end);
}

/** Adds the steps that put another upper half before the lower half of an id: the xid of the host's, 0 of the guest's. */
function planIdOf(h: Program, id: Result, upper: number): Result {
  // An id in the middle, and one more over its upper half and what is beside that.
  const place = h.data(LONG, '<id>');
  const [at, over] = h.abi.littleEndian ? [0, 2] : [2, 0];
  h.store(place.at(at, ID_BYTES), id);
  h.store(place.at(over, ID_BYTES), upper);
  return h.load(place.at(at, ID_BYTES));
}

/** Adds the step that asks a file system about a quota, by a directory on it. */
export function planQuota(
  p: Program,
  directory: Arg,
  command: string | number,
  type: number,
  id: number,
  argument: Data,
  ignore?: readonly string[],
): Result {
  const number = typeof command === 'number' ? command : p.flags(command).value;
  return p.sys('quotactl_fd', [directory, number * COMMAND_SHIFT + type, id, argument], {
    about: `quota of ${id}`,
    ...(ignore ? { ignore } : {}),
  });
}

// ---- both ---------------------------------------------------------------------------------------------------------------

/** Adds the step that goes to a label unless a command is this one, of whatever type. */
function planUnlessCommand(h: Program, command: Result, name: string | number, other: Label): void {
  const wanted = (typeof name === 'number' ? name : h.flags(name).value) * COMMAND_SHIFT;
  h.expect(command, '&', wanted, 'EINVAL', String(name), { mask: COMMAND_MASK, otherwise: other });
}

/** Adds the steps that go to a label if a command is this one. */
function planIfCommand(h: Program, command: Result, name: string, found: Label): void {
  const other = h.label();
  planUnlessCommand(h, command, name, other);
  h.jump(found);
  h.place(other);
}

function errno(h: Program, name: string): number {
  return -(h.abi.errnos[name] ?? 1);
}

/** Ways out with an error: the steps for each come when all that lead there are known. */
class Exits {
  readonly #h: Program;
  readonly #outcome: Data;
  readonly #finish: Label;
  readonly #named = new Map<string, Label>();

  /**
   * @param outcome where the error is stored
   * @param finish where it goes on then
   */
  constructor(h: Program, outcome: Data, finish: Label) {
    this.#h = h;
    this.#outcome = outcome;
    this.#finish = finish;
  }

  /** The way out with an error. */
  to(name: string): Label {
    const label = this.#named.get(name) ?? this.#h.label();
    this.#named.set(name, label);
    return label;
  }

  /** The same as a failure rule. */
  on(name: string): { readonly on: readonly string[]; readonly to: Label } {
    return { on: [], to: this.to(name) };
  }

  /** Places them all; the steps before go on behind them. */
  place(): void {
    const h = this.#h;
    h.jump(this.#finish);
    for (const [name, label] of this.#named) {
      h.place(label);
      h.store(this.#outcome, errno(h, name), LONG);
      h.jump(this.#finish);
    }
  }
}
