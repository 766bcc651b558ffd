/**
 * Asks the kernel for sockets of TCP and UDP, by sock_diag(7), with what eBPF programs keep of them (Linux 5.7).
 *
 *     inet_diag_req_v2: u8 family, protocol, extensions, 0; u32 states; id | attributes
 *     inet_diag_msg: u8 family, state, timer, retransmits; id; u32 expires in ms, receive queue, send queue, uid, inode | attributes
 *     id: u16 port, u16 peer's port, address[16], peer's address[16], u32 interface, u64 cookie     ports in network order
 *
 * @see include/uapi/linux/inet_diag.h
 */
import { endianness } from 'node:os';
import { StateError } from '../base/errors.ts';
import type { IpPrefix } from '../base/ip.ts';
import { attribute, concat, message } from './netlink.ts';
import type { Arg, Data, Program, Result } from './program.ts';

const LE = endianness() === 'LE';
const NETLINK_SOCK_DIAG = 4;
const SOCK_DIAG_BY_FAMILY = 20;
const NLM_F_DUMP = 0x300;
const NLMSG = { error: 2, done: 3 } as const;
const NLA_F_NESTED = 0x8000;
const NLA_TYPE_MASK = 0x3fff;
const HEADER_BYTES = 16;
const REQUEST = { states: 4, bytes: 56 } as const;
const REQUEST_ATTRIBUTE = { bytecode: 1, storages: 2, storageMap: 1 } as const;
const MESSAGE = {
  state: 1,
  timer: 2,
  retransmits: 3,
  port: 4,
  peerPort: 6,
  address: 8,
  peerAddress: 24,
  cookie: 44,
  expires: 52,
  received: 56,
  sent: 60,
  uid: 64,
  inode: 68,
  bytes: 72,
} as const;
const ATTRIBUTE = { storages: 20, storage: 1, value: 3 } as const;
/** Code of a condition on the own address, and of a jump (INET_DIAG_BC_S_COND, …_JMP). */
const CONDITION = 7;
const JUMP = 1;
const ANY_PORT = 0xffffffff;
const OP_BYTES = 4;
/** A jump has 16 bits: with more addresses than that the kernel tells of all sockets. */
const CONDITIONS_MAX = 1500;
const FAMILY = { 4: 2, 6: 10 } as const;
/** All but the pseudo state of sockets that are bound and nothing else. */
const STATES = 0x1ffe;

/** Which sockets. */
export interface SocketQuery {
  readonly family: 4 | 6;
  /** 6: TCP, 17: UDP. */
  readonly protocol: number;
  /** Networks one of which their own address is in; those of IPv4 mean mapped addresses of IPv6 as well. */
  readonly local: readonly IpPrefix[];
}

/** One end of a socket; 4 or 16 bytes in network order. */
export interface SocketEnd {
  readonly address: Uint8Array;
  readonly port: number;
}

/** A socket as the kernel has it. */
export interface KernelSocket {
  /** As in net/tcp_states.h. */
  readonly state: number;
  /** 0: none, 1: retransmission, 2: keepalive, 3: end of TIME_WAIT, 4: probe. */
  readonly timer: number;
  readonly expiresMs: number;
  readonly retransmits: number;
  readonly local: SocketEnd;
  readonly peer: SocketEnd;
  readonly cookie: bigint;
  /** In the queues; of a listener connections that wait, and how many may. */
  readonly received: number;
  readonly sent: number;
  readonly uid: number;
  /** 0: it belongs to nobody any more, or not yet. */
  readonly inode: number;
  /** What the map that was asked for has of it. */
  readonly storage: Uint8Array | undefined;
}

/** Adds the steps that ask; the answer is read by `planSocketsPart`. Returns the netlink socket. */
export function planSocketQuery(p: Program, query: SocketQuery, storageMap: Arg): Result {
  const type = p.flags('SOCK_RAW', 'SOCK_CLOEXEC', 'O_NONBLOCK');
  const socket = p.sys('socket', [p.flags('AF_NETLINK'), type, NETLINK_SOCK_DIAG], { about: 'sock_diag' });
  const bytes = queryBytes(query);
  const request = p.data(bytes, 'sockets');
  p.store(request.at(bytes.length - 4, 4), storageMap);
  p.sys('write', [socket, request, bytes.length], { about: 'ask for sockets' });
  return socket;
}

/** The whole message; its last four bytes are the descriptor of the map. */
export function queryBytes({ family, protocol, local }: SocketQuery): Uint8Array {
  const request = new Uint8Array(REQUEST.bytes);
  request[0] = FAMILY[family];
  request[1] = protocol;
  new DataView(request.buffer).setUint32(REQUEST.states, STATES, LE);
  const conditions = local.filter((one) => one.family === 4 || family === 6);
  const filter = conditions.length > CONDITIONS_MAX ? [] : [bytecode(conditions)];
  const body = concat(
    request,
    ...filter.map((code) => attribute(REQUEST_ATTRIBUTE.bytecode, code)),
    attribute(
      NLA_F_NESTED | REQUEST_ATTRIBUTE.storages,
      attribute(REQUEST_ATTRIBUTE.storageMap, new Uint8Array(4)),
    ),
  );
  return message(SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, body);
}

/**
 * Conditions of which one has to hold. Each is followed by a jump behind the end, which is taken when it holds; otherwise
 * the next one is tried, and the last one goes one instruction too far, which means no.
 */
function bytecode(conditions: readonly IpPrefix[]): Uint8Array {
  let left = conditions.reduce((sum, one) => sum + conditionBytes(one) + OP_BYTES, 0);
  const parts: Uint8Array[] = [];
  for (const [i, one] of conditions.entries()) {
    const bytes = conditionBytes(one);
    const isLast = i === conditions.length - 1;
    const op = new Uint8Array(bytes);
    const view = new DataView(op.buffer);
    op.set([CONDITION, bytes]);
    view.setUint16(2, isLast ? bytes + 2 * OP_BYTES : bytes + OP_BYTES, LE);
    op.set([FAMILY[one.family], one.length], OP_BYTES);
    view.setUint32(OP_BYTES + 4, ANY_PORT, LE);
    op.set(one.bytes, OP_BYTES + 8);
    left -= bytes;
    const jump = Uint8Array.of(JUMP, OP_BYTES, 0, 0);
    new DataView(jump.buffer).setUint16(2, left, LE);
    left -= OP_BYTES;
    parts.push(op, jump);
  }
  return concat(...parts);
}

function conditionBytes({ bytes }: IpPrefix): number {
  return OP_BYTES + 8 + bytes.length;
}

/** Where parts of an answer are: `count` of them, each an i32 length and bytes from 8 on. */
export interface SocketsLayout {
  readonly count: number;
  readonly bytes: number;
}

/**
 * Adds the steps that read the next parts of an answer; the program then returns them.
 *
 * @param layout of the first program parts of at most 8 KiB, later 32 KiB: the kernel makes them as long as the last read
 *   could take
 */
export function planSocketsPart(p: Program, socket: Arg, { count, bytes }: SocketsLayout): Data {
  const out = p.data(count * (8 + bytes), '<sockets>');
  for (let i = 0; i < count; i++) {
    const part = out.at(i * (8 + bytes), 8 + bytes);
    const length = p.sys('read', [socket, part.at(8, bytes), bytes], {
      about: 'sockets',
      ignore: ['EAGAIN'],
    });
    p.store(part.at(0, 4), length);
  }
  p.returns(out);
  return out;
}

/**
 * Reads parts of an answer.
 *
 * @returns whether it ends there
 * @throws StateError no-sock-diag
 */
export function parseSocketParts(
  out: Uint8Array,
  { count, bytes }: SocketsLayout,
  sockets: KernelSocket[],
): boolean {
  const view = new DataView(out.buffer, out.byteOffset, out.length);
  for (let i = 0; i < count; i++) {
    const from = i * (8 + bytes);
    const length = view.getInt32(from, LE);
    for (let at = from + 8; at + HEADER_BYTES <= from + 8 + length; ) {
      const size = view.getUint32(at, LE);
      const type = view.getUint16(at + 4, LE);
      if (type === NLMSG.done || type === NLMSG.error) {
        const errno = -view.getInt32(at + HEADER_BYTES, LE);
        if (errno === 0) return true;
        throw new StateError(
          'no-sock-diag',
          `cannot list sockets: found error ${errno} of sock_diag; need a kernel with inet_diag, tcp_diag and udp_diag`,
        );
      }
      if (size < HEADER_BYTES + MESSAGE.bytes) break;
      sockets.push(parseSocket(out.subarray(at + HEADER_BYTES, at + size)));
      at += (size + 3) & ~3;
    }
  }
  return false;
}

function parseSocket(bytes: Uint8Array): KernelSocket {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const u32 = (at: number): number => view.getUint32(at, LE);
  const addressBytes = bytes[0] === FAMILY[4] ? 4 : 16;
  const end = (address: number, port: number): SocketEnd => ({
    address: bytes.slice(address, address + addressBytes),
    port: view.getUint16(port),
  });
  return {
    state: view.getUint8(MESSAGE.state),
    timer: view.getUint8(MESSAGE.timer),
    expiresMs: u32(MESSAGE.expires),
    retransmits: view.getUint8(MESSAGE.retransmits),
    local: end(MESSAGE.address, MESSAGE.port),
    peer: end(MESSAGE.peerAddress, MESSAGE.peerPort),
    cookie: (BigInt(u32(MESSAGE.cookie + 4)) << 32n) | BigInt(u32(MESSAGE.cookie)),
    received: u32(MESSAGE.received),
    sent: u32(MESSAGE.sent),
    uid: u32(MESSAGE.uid),
    inode: u32(MESSAGE.inode),
    storage: storageOf(bytes.subarray(MESSAGE.bytes)),
  };
}

function storageOf(attributes: Uint8Array): Uint8Array | undefined {
  let found: Uint8Array | undefined = attributes;
  for (const type of [ATTRIBUTE.storages, ATTRIBUTE.storage, ATTRIBUTE.value])
    found = found && attributeOf(found, type);
  return found;
}

function attributeOf(attributes: Uint8Array, type: number): Uint8Array | undefined {
  const view = new DataView(attributes.buffer, attributes.byteOffset, attributes.length);
  for (let at = 0; at + 4 <= attributes.length; ) {
    const length = view.getUint16(at, LE);
    if (length < 4) return undefined;
    if ((view.getUint16(at + 2, LE) & NLA_TYPE_MASK) === type) return attributes.slice(at + 4, at + length);
    at += (length + 3) & ~3;
  }
  return undefined;
}
