/**
 * The filter of a guest with a broker. Where that makes its sockets it asks for those of the IP families, and about
 * interfaces; where the guest is shown its own measure, about memory, load and CPUs; where it has quotas, about these. It lets
 * everything else pass.
 *
 * It stands beside the guest's own filter (seccomp.ts), which is not changed by it: of two filters the more restrictive
 * verdict holds (seccomp(2)), so what the profile refuses stays refused. What is not asked for is made by the kernel in
 * the guest's own network namespace, which leads nowhere.
 */
import { BPF, BpfAssembler, type BpfLabel } from './classic-bpf.ts';
import type { SeccompAbi } from './seccomp.ts';

/** SECCOMP_RET_… of linux/seccomp.h. */
const ALLOW = 0x7fff_0000;
const NOTIFY = 0x7fc0_0000;
const ERRNO = 0x0005_0000;
/** asm-generic/errno.h, which every supported architecture uses. */
const ENOSYS = 38;
const EPROTONOSUPPORT = 93;

/** The same on every supported architecture (linux/socket.h, linux/net.h, linux/in.h). */
const FAMILIES = [2, 10]; // AF_INET, AF_INET6
const NETLINK = 16; // AF_NETLINK
const SOCK_DIAG = 4; // NETLINK_SOCK_DIAG
const TYPES = [1, 2]; // SOCK_STREAM, SOCK_DGRAM
const RAW = 3; // SOCK_RAW
const TYPE_MASK = 0xf;
const ECHO_PROTOCOLS = [1, 58]; // ICMP, ICMPv6
const PROTOCOLS = [0, 6, 17, ...ECHO_PROTOCOLS]; // any, TCP, UDP, ICMP, ICMPv6
/**
 * Requests of ioctl(2) about interfaces, routes and neighbours (linux/sockios.h, linux/wireless.h): all but those about the
 * socket itself, SIOCOUTQNSD and SIOCGSKNS.
 */
const INTERFACE_REQUESTS: readonly (readonly [first: number, last: number])[] = [
  [0x890b, 0x894a],
  [0x8950, 0x89df],
  [0x8b00, 0x8bff],
];
/** First argument of socketcall(2) that makes a socket. */
const SYS_SOCKET = 1;

const NR_OFFSET = 0;
const ARCH_OFFSET = 4;

/** Raw sockets that are asked for as well: those of ICMP, or all; others are made in the guest's own network namespace. */
export type RawSockets = 'icmp' | 'all' | undefined;

/** What a broker is asked about. */
export interface BrokeredCalls {
  /** Sockets and interfaces; undefined: they are those of the guest's own network namespace. */
  readonly sockets: { readonly raw: RawSockets } | undefined;
  /** Memory and load: sysinfo(2). */
  readonly sysinfo: boolean;
  /** CPUs: sched_getaffinity(2). */
  readonly affinity: boolean;
  /** Quotas of its users: quotactl(2), quotactl_fd(2). */
  readonly quota: boolean;
}

/**
 * Returns the filter, for both ABIs, as an array of struct sock_filter.
 *
 * Another protocol than those asked for is refused, as by a kernel without it: a program that found MPTCP in a namespace
 * that leads nowhere would not fall back to TCP. So is sock_diag(7), which would tell of the sockets of that namespace
 * alone: ss(8) then reads /proc/net, where the guest's own are. `socketcall` has its arguments in memory, which no filter can read:
 * ENOSYS for a socket, which 32-bit programs can make directly since Linux 4.3.
 */
export function compileBrokerFilter(
  abi: SeccompAbi,
  { sockets, sysinfo, affinity, quota }: BrokeredCalls,
): Uint8Array {
  const assembler = new BpfAssembler();
  let next = assembler.return(ALLOW);
  for (const table of [abi.compat, abi]) {
    if (table === null) continue;
    let start = assembler.return(ALLOW);
    const on = (name: string, emit: () => BpfLabel): void => {
      const number = table.syscalls[name];
      if (number !== undefined) start = assembler.branch(BPF.IF_EQUAL, number, emit(), start);
    };
    if (quota) for (const name of ['quotactl', 'quotactl_fd']) on(name, () => assembler.return(NOTIFY));
    if (affinity) on('sched_getaffinity', () => assembler.return(NOTIFY));
    if (sysinfo) on('sysinfo', () => assembler.return(NOTIFY));
    if (sockets) {
      on('ioctl', () => emitIoctl(assembler, abi));
      on('socketcall', () => emitSocketcall(assembler, abi));
      on('socket', () => emitSocket(assembler, abi, sockets.raw));
    }
    start = assembler.load(NR_OFFSET, start);
    next = assembler.branch(BPF.IF_EQUAL, table.auditArch, start, next);
  }
  return assembler.finish(assembler.load(ARCH_OFFSET, next), abi.littleEndian);
}

function emitSocket(assembler: BpfAssembler, { littleEndian }: SeccompAbi, raw: RawSockets): BpfLabel {
  const oneOf = (values: readonly number[], found: BpfLabel, otherwise: BpfLabel): BpfLabel =>
    values.reduceRight<BpfLabel>(
      (next, value) => assembler.branch(BPF.IF_EQUAL, value, found, next),
      otherwise,
    );
  const allow = (): BpfLabel => assembler.return(ALLOW);
  // The kernel takes ints: the upper halves of the registers mean nothing to it.
  let next = oneOf(PROTOCOLS, assembler.return(NOTIFY), assembler.return(ERRNO + EPROTONOSUPPORT));
  next = assembler.load(argumentOffset(2, littleEndian), next);
  next = assembler.and(TYPE_MASK, oneOf(TYPES, next, emitRaw(assembler, littleEndian, raw)));
  next = assembler.load(argumentOffset(1, littleEndian), next);
  const other = assembler.branch(BPF.IF_EQUAL, NETLINK, emitNetlink(assembler, littleEndian), allow());
  return assembler.load(argumentOffset(0, littleEndian), oneOf(FAMILIES, next, other));
}

function emitNetlink(assembler: BpfAssembler, littleEndian: boolean): BpfLabel {
  const refuse = assembler.return(ERRNO + EPROTONOSUPPORT);
  const next = assembler.branch(BPF.IF_EQUAL, SOCK_DIAG, refuse, assembler.return(ALLOW));
  return assembler.load(argumentOffset(2, littleEndian), next);
}

/** The type is in the accumulator, and is neither of a stream nor of datagrams. */
function emitRaw(assembler: BpfAssembler, littleEndian: boolean, raw: RawSockets): BpfLabel {
  const allow = assembler.return(ALLOW);
  if (raw === undefined) return allow;
  const notify = assembler.return(NOTIFY);
  const protocols = ECHO_PROTOCOLS.reduceRight<BpfLabel>(
    (next, protocol) => assembler.branch(BPF.IF_EQUAL, protocol, notify, next),
    allow,
  );
  const found = raw === 'all' ? notify : assembler.load(argumentOffset(2, littleEndian), protocols);
  return assembler.branch(BPF.IF_EQUAL, RAW, found, allow);
}

function emitIoctl(assembler: BpfAssembler, { littleEndian }: SeccompAbi): BpfLabel {
  let next = assembler.return(ALLOW);
  for (const [first, last] of INTERFACE_REQUESTS.toReversed()) {
    const below = assembler.branch(BPF.IF_GREATER, last, next, assembler.return(NOTIFY));
    next = assembler.branch(BPF.IF_GREATER_OR_EQUAL, first, below, assembler.return(ALLOW));
  }
  return assembler.load(argumentOffset(1, littleEndian), next);
}

function emitSocketcall(assembler: BpfAssembler, { littleEndian }: SeccompAbi): BpfLabel {
  const refuse = assembler.return(ERRNO + ENOSYS);
  const next = assembler.branch(BPF.IF_EQUAL, SYS_SOCKET, refuse, assembler.return(ALLOW));
  return assembler.load(argumentOffset(0, littleEndian), next);
}

/** Of the lower half of an argument in struct seccomp_data: u64 args[6] at 16. */
function argumentOffset(index: number, isLittleEndian: boolean): number {
  return 16 + 8 * index + (isLittleEndian ? 0 : 4);
}
