/**
 * The last steps before a guest's command runs, the same for its first process and for every exec: standard
 * descriptors, terminal, limits, filter, identity, and execve. "Drop before you run": the order matters and each
 * step says why it is where it is.
 */
import { toRlim } from '../context/rlimits.ts';
import type { Abi } from '../sys/abi.ts';
import { sizeOf } from '../sys/abi.ts';
import { type Arg, CLIENT_FD, type Data, type Label, type Program, type Result } from '../sys/program.ts';
import type { Fixed } from '../sys/varying.ts';
import { CLIENT_PTY } from '../sys/wire.ts';
import { planConsole } from './plan-own-init.ts';
import { type CommandSpec, INIT_FD, type Stdio, type TerminalSpec } from './plan-types.ts';

/** How execve may fail on one directory of PATH without ending the search (execvp(3)). */
const SEARCH_ON = ['ENOENT', 'ENOTDIR', 'EACCES'];

/** The name of a step that cannot find or run the command has this. */
export const EXECVE = 'execve ';

/** Returns the paths execve is tried with: the command as it is, or one per directory of PATH. */
function execPaths(command: string, path: string): readonly string[] {
  if (command.includes('/')) return [command];
  return path.split(':').map((directory) => `${directory === '' ? '.' : directory}/${command}`);
}

/** Descriptors that a command gets, beside those of its client. */
export interface CommandEnds {
  /** Where its output goes. */
  readonly pipes: ReadonlyMap<Stdio, Result>;
  /** Control socket of the guest's broker, if it has one. */
  readonly broker: Arg | undefined;
}

/**
 * Adds the steps that turn the current process, guest root with all its capabilities, into the command.
 *
 * @param waitForRoot adds the steps after which the guest's root is there, and returns what the command gets
 */
export function planCommand(p: Program, command: CommandSpec, waitForRoot: () => CommandEnds): void {
  if (isPreparedAhead(command)) planAhead(p, command, waitForRoot);
  else planInOrder(p, command, waitForRoot());
  planExec(p, command);
}

/**
 * Whether most of a command's steps can go on while its root is still being made: a terminal is the guest's own, and a
 * filter of the operator's might not allow what comes after it.
 */
function isPreparedAhead(command: CommandSpec): boolean {
  return !command.terminal && command.noNewPrivileges && command.isUsualFilter;
}

function planAhead(p: Program, command: CommandSpec, waitForRoot: () => CommandEnds): void {
  planSession(p);
  planIdentity(p, command);
  planNoNewPrivileges(p);
  if (command.seccomp) planSeccomp(p, command.seccomp);
  const { pipes, broker } = waitForRoot();
  planBrokerFilter(p, command, broker);
  planStdio(p, command, pipes, undefined);
  planDirectoryAndMask(p, command.cwd);
  planLimits(p, command);
  planCloseOnExec(p);
}

function planInOrder(p: Program, command: CommandSpec, { pipes, broker }: CommandEnds): void {
  planSession(p);
  const slave = command.terminal ? planTerminal(p, command.terminal) : undefined;
  planStdio(p, command, pipes, slave);
  const { seccomp } = command;
  planBrokerFilter(p, command, broker);
  // Without no_new_privs a filter needs CAP_SYS_ADMIN, so it comes before that is dropped; with it, last of all, so
  // that a strict profile need not allow what the steps between do.
  if (seccomp && !command.noNewPrivileges) planSeccomp(p, seccomp);
  planIdentity(p, command);
  planDirectoryAndMask(p, command.cwd);
  planLimits(p, command);
  if (command.noNewPrivileges) planNoNewPrivileges(p);
  planCloseOnExec(p);
  if (seccomp && command.noNewPrivileges) planSeccomp(p, seccomp);
}

function planSession(p: Program): void {
  p.sys('setsid', [], { ignore: ['EPERM'] });
  // A session keyring of its own: the worker's is the host's.
  p.sys('keyctl', [KEYCTL_JOIN_SESSION_KEYRING, 0], { about: 'new session keyring', ignore: [] });
}

function planNoNewPrivileges(p: Program): void {
  p.sys('prctl', [p.flags('PR_SET_NO_NEW_PRIVS'), 1, 0, 0, 0]);
}

/** After the change of user: RLIMIT_NPROC is checked against the new one at execve. */
function planLimits(p: Program, command: CommandSpec): void {
  for (const { resource, soft, hard } of command.rlimits) {
    const limit = p.struct('rlimit', { rlim_cur: toRlim(soft), rlim_max: toRlim(hard) });
    p.sys('prlimit64', [0, resource, limit, 0], { about: `resource limit ${resource}` });
  }
}

/** Everything above 2 is closed by execve; until then failures are still reported on one of them. */
export function planCloseOnExec(p: Program): void {
  p.sys('close_range', [3, 0xffffffff, p.flags('CLOSE_RANGE_CLOEXEC')]);
}

const KEYCTL_JOIN_SESSION_KEYRING = 1;

/** Opens a terminal of the guest's own devpts and gives its master to the client. */
function planTerminal(p: Program, terminal: TerminalSpec): Result {
  const how = p.struct('open_how', {
    flags: p.flags('O_RDWR', 'O_NOCTTY', 'O_CLOEXEC'),
    resolve: p.flags('RESOLVE_NO_SYMLINKS', 'RESOLVE_NO_MAGICLINKS'),
  });
  const master = p.sys('openat2', [p.flags('AT_FDCWD'), '/dev/pts/ptmx', how, sizeOf(p.abi, 'open_how')], {
    about: '/dev/pts/ptmx',
  });
  // Whatever the guest made of /dev/pts, only a devpts gives real terminals.
  const statfs = p.data(sizeOf(p.abi, 'statfs'));
  p.sys('fstatfs', [master, statfs]);
  const magic = p.loadField(statfs, 'statfs', 'f_type');
  p.expect(magic, '==', p.flags('DEVPTS_SUPER_MAGIC'), 'ENOTTY', '"/dev/pts/ptmx" is not of a devpts');
  p.sys('ioctl', [master, p.flags('TIOCSPTLCK'), p.data(4)], { about: 'unlock the terminal' });
  const slave = p.sys('ioctl', [master, p.flags('TIOCGPTPEER'), p.flags('O_RDWR', 'O_NOCTTY', 'O_CLOEXEC')], {
    about: 'open the terminal',
  });
  if (terminal.console) planConsole(p, slave);
  else p.sys('ioctl', [slave, p.flags('TIOCSCTTY'), 0], { about: 'controlling terminal' });
  if (terminal.plainOutput) planPlainOutput(p, slave);
  if (terminal.master.kind === 'log') {
    planSendFds(p, INIT_FD.gate, p.data(8), [master, slave], 'console to the worker');
    return slave;
  }
  const head = p.data(8);
  p.put(head, CLIENT_PTY);
  p.put(head.at(4), terminal.input ? 1 : 0);
  const socket = p.import(terminal.master.client, CLIENT_FD.socket);
  planSendFds(p, socket, head, [master], 'terminal to the client');
  return slave;
}

/** Room for the kernel's `struct termios`, and where its output flags are (asm-generic/termbits.h). */
const TERMIOS = { bytes: 64, outputFlags: 4 } as const;

/** Line ends stay as they are: the caller's terminal makes its own. */
function planPlainOutput(p: Program, slave: Result): void {
  const settings = p.data(TERMIOS.bytes, 'termios');
  p.sys('ioctl', [slave, p.flags('TCGETS'), settings], { about: 'terminal settings' });
  p.store(settings.at(TERMIOS.outputFlags), 0);
  p.sys('ioctl', [slave, p.flags('TCSETS'), settings], { about: 'terminal settings' });
}

function planStdio(
  p: Program,
  command: CommandSpec,
  pipes: ReadonlyMap<Stdio, Result>,
  slave: Result | undefined,
): void {
  for (const [fd, stdio] of command.stdio.entries()) {
    if (stdio.kind === 'client') {
      p.sys('dup3', [p.import(stdio.client, stdio.which), fd, 0], {
        about: `descriptor ${fd} of the client`,
      });
    } else if (stdio.kind === 'tty' && slave) {
      p.sys('dup3', [slave, fd, 0], { about: `terminal as descriptor ${fd}` });
    } else {
      const pipe = pipes.get(stdio);
      const from =
        pipe ??
        p.sys('openat', [p.flags('AT_FDCWD'), '/dev/null', p.flags('O_RDWR', 'O_CLOEXEC', 'O_NOFOLLOW'), 0], {
          about: '/dev/null',
        });
      p.sys('dup3', [from, fd, 0], { about: `descriptor ${fd}` });
    }
  }
  if (slave) p.sys('fchown', [slave, command.uid, -1], { about: 'terminal to the user', ignore: ['EPERM'] });
}

function planSeccomp(p: Program, filter: Fixed<Uint8Array>): void {
  p.sys('seccomp', [p.flags('SECCOMP_SET_MODE_FILTER'), 0, filterProgram(p, filter)], {
    about: 'system call filter',
  });
}

function filterProgram(p: Program, { value: filter }: Fixed<Uint8Array>): Data {
  return p.struct('sock_fprog', {
    len: filter.length / 8,
    filter: p.data(filter, `<filter of ${filter.length / 8}>`),
  });
}

/**
 * Linux 6.6, and not in older headers; 64-bit _IOW('!', 4), the same on every architecture of ours. Caller and broker wake
 * each other on the CPU they are on: on a busy machine a third less time for a socket.
 */
const SECCOMP_IOCTL_NOTIF_SET_FLAGS = 0x4008_2104;
const SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP = 1;

/**
 * Adds the steps by which a process, and what it will start, has some of its calls answered by a broker. It needs CAP_SYS_ADMIN in
 * its user namespace or no_new_privs, and keeps no way to the broker but the calls.
 */
export function planBrokerFilter(
  p: Program,
  { brokerFilter }: Pick<CommandSpec, 'brokerFilter'>,
  broker: Arg | undefined,
): void {
  if (broker === undefined || brokerFilter === undefined) return;
  // Killable: once the broker has the call, a signal waits until it is answered, as with a call that never sleeps.
  const flags = p.flags('SECCOMP_FILTER_FLAG_NEW_LISTENER', 'SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV');
  const listener = p.sys(
    'seccomp',
    [p.flags('SECCOMP_SET_MODE_FILTER'), flags, filterProgram(p, brokerFilter)],
    {
      about: 'filter of the broker',
    },
  );
  p.sys('ioctl', [listener, SECCOMP_IOCTL_NOTIF_SET_FLAGS, SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP], {
    about: 'caller and broker take turns',
    ignore: ['EINVAL'],
  });
  planSendFds(p, broker, p.data(8), [listener], 'listener to the broker');
  p.sys('close', [listener]);
}

function planIdentity(p: Program, command: CommandSpec): void {
  for (let capability = 0; capability <= LAST_CAPABILITY; capability++) {
    if (((command.bcaps.value >> BigInt(capability)) & 1n) === 1n) continue;
    p.sys('prctl', [p.flags('PR_CAPBSET_DROP'), capability, 0, 0, 0], {
      about: `capability ${capability}`,
      ignore: ['EINVAL'],
    });
  }
  const groups = p.data(4 * command.groups.length, `[${command.groups.join(', ')}]`);
  command.groups.forEach((gid, i) => {
    p.put(groups.at(4 * i), gid);
  });
  p.sys('setgroups', [command.groups.length, groups]);
  p.sys('setresgid', [command.gid, command.gid, command.gid]);
  p.sys('setresuid', [command.uid, command.uid, command.uid]);
  // Inheritable and ambient stay empty (CVE-2022-29162); execve by guest root gives it what the bound leaves.
  const held = command.uid === 0 ? command.bcaps.value : 0n;
  planCapset(p, held);
  p.sys('prctl', [p.flags('PR_CAP_AMBIENT'), p.flags('PR_CAP_AMBIENT_CLEAR_ALL'), 0, 0, 0], {
    about: 'no ambient capabilities',
  });
}

/** Highest capability of any kernel so far plus some room: one the kernel does not have is EINVAL, and ignored. */
const LAST_CAPABILITY = 44;

/** Adds the step that sets effective and permitted capabilities, and empties the inheritable ones. */
export function planCapset(p: Program, held: bigint): void {
  const header = p.struct('cap_header', { version: p.flags('_LINUX_CAPABILITY_VERSION_3') });
  const data = p.data(2 * sizeOf(p.abi, 'cap_data'), `<capabilities ${held.toString(16)}>`);
  [held & 0xffffffffn, held >> 32n].forEach((half, i) => {
    p.put(data.at(12 * i), half);
    p.put(data.at(12 * i + 4), half);
  });
  p.sys('capset', [header, data]);
}

/** Changes to a directory of the guest without following a magic link (CVE-2024-21626), and makes the usual umask. */
function planDirectoryAndMask(p: Program, cwd: string): void {
  const how = p.struct('open_how', {
    flags: p.flags('O_PATH', 'O_DIRECTORY', 'O_CLOEXEC'),
    resolve: p.flags('RESOLVE_IN_ROOT', 'RESOLVE_NO_MAGICLINKS'),
  });
  const directory = p.sys('openat2', [p.flags('AT_FDCWD'), cwd, how, sizeOf(p.abi, 'open_how')], {
    about: `working directory "${cwd}"`,
  });
  p.sys('fchdir', [directory], { about: `working directory "${cwd}"` });
  p.sys('umask', [0o022]);
}

function planExec(p: Program, command: CommandSpec): void {
  const name = command.argv[0] ?? '';
  const argv = p.vector(command.argv);
  const env = p.vector(command.env);
  const paths = execPaths(name, command.path);
  const tries = paths.map((path, i) => {
    const about = `"${path}"`;
    return p.sys(
      'execve',
      [path, argv, env],
      paths.length > 1 || i > 0 ? { about, ignore: SEARCH_ON } : { about },
    );
  });
  // Here only after a search without success: a command that may not be run is told from one that is nowhere.
  for (const result of tries)
    p.expect(result, '!=', -(p.abi.errnos['EACCES'] ?? 0), 'EACCES', `${EXECVE}"${name}"`);
  for (const result of tries.slice(0, 1)) p.expect(result, '==', 0, 'ENOENT', `${EXECVE}"${name}"`);
}

/** The same on every supported architecture (linux/socket.h). */
const MSG_NOSIGNAL = 0x4000;

/** Adds the step that sends descriptors with some bytes over a unix socket, and goes elsewhere if it cannot. */
export function planSendFds(
  p: Program,
  socket: Arg,
  payload: Data,
  fds: readonly Arg[],
  about: string,
  otherwise?: Label,
): void {
  const { control, message } = messageWithFds(p, p.abi, payload, fds.length);
  fds.forEach((fd, i) => {
    p.store(control.at(16 + 4 * i, 4), fd);
  });
  const failure = otherwise === undefined ? {} : { otherwise: { on: [], to: otherwise } };
  p.sys('sendmsg', [socket, message, MSG_NOSIGNAL], { about, ...failure });
}

/** Adds the steps that receive descriptors, and returns them. */
export function planReceiveFds(
  p: Program,
  socket: Arg,
  count: number,
  about: string,
  payload: Data = p.data(8),
): readonly Result[] {
  const { control, message } = messageWithFds(p, p.abi, payload, count);
  p.storeField(message, 'msghdr', 'msg_controllen', control.length); // the kernel's word of the time before
  const length = p.sys('recvmsg', [socket, message, 0], { about });
  // 0 is the end of the worker, which failed and says why itself.
  p.expect(length, '!=', 0, 'ECANCELED', about);
  return Array.from({ length: count }, (_, i) => p.load(control.at(16 + 4 * i, 4), 4));
}

/** A msghdr with room for `count` descriptors; the control message's data starts at byte 16 (64-bit CMSG_DATA). */
function messageWithFds(
  p: Program,
  abi: Abi,
  payload: Data,
  count: number,
): { control: Data; message: Data } {
  const control = p.data(16 + ((4 * count + 7) & ~7));
  p.put(control, 16 + 4 * count, 8);
  p.put(control.at(8), abi.constants['SOL_SOCKET'] ?? 1);
  p.put(control.at(12), abi.constants['SCM_RIGHTS'] ?? 1);
  const vector = p.struct('iovec', { iov_base: payload, iov_len: payload.length });
  const message = p.struct('msghdr', {
    msg_iov: vector,
    msg_iovlen: 1,
    msg_control: control,
    msg_controllen: control.length,
  });
  return { control, message };
}
