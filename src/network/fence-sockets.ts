/** Programs of the fence about a socket's life: made, bound, listening, closed, and its options. */
import type { EbpfProgram } from '../sys/bpf/assembler.ts';
import { SOCK, SOCK_OPS, SOCKOPT, TCP_LISTEN_EVENT, UPDATE } from '../sys/bpf/uapi.ts';
import {
  addToUsage,
  bindingKey,
  dropBinding,
  enterBinding,
  setWildState,
  unlessRoom,
} from './fence-bindings.ts';
import { AF_INET, FenceCode, type FenceTarget, FRAME, PROTOCOL, reg } from './fence-code.ts';
import {
  BINDING,
  FENCE_MAP_NAMES,
  KIND,
  LISTENER_SLOTS,
  NETWORK,
  NETWORK_FLAG,
  PORT,
  STATE,
  STATE_FLAG,
  USAGE,
} from './fence-maps.ts';

/** SOCK_STREAM, SOCK_DGRAM, SOCK_RAW where they are as on most architectures. */
const SOCKET_TYPE = { stream: 1, datagram: 2, raw: 3 } as const;
const CREATE_IF_MISSING = 1;

/** Gives a new socket its state. What is neither TCP, UDP nor an ICMP echo socket is refused, so MPTCP and SCTP are. */
export function createProgram(target: FenceTarget): EbpfProgram {
  const f = new FenceCode(target, 'socket');
  const { a } = f;
  f.loadCreator();
  for (let at = 0; at < STATE.bytes; at += 8) a.store(10, FRAME.initial + at, 0, 8);
  a.store(10, FRAME.initial + STATE.nid, reg(9), 4);
  a.move(1, reg(6)).call('get_netns_cookie').loadImmediate(1, target.netnsCookie);
  a.jumpIf(0, '==', reg(1), 'our namespace');
  a.store(10, FRAME.initial + STATE.flags, STATE_FLAG.pass, 2).goto('keep');

  a.label('our namespace').load(1, 6, SOCK.protocol, 4).store(10, FRAME.protocol, reg(1), 8);
  a.store(10, FRAME.initial + STATE.protocol, reg(1), 1);
  a.load(2, 6, SOCK.type, 4).jumpIf(2, '==', SOCKET_TYPE.raw, 'raw');
  a.jumpIf(2, '==', SOCKET_TYPE.datagram, 'datagram').jumpIf(2, '!=', SOCKET_TYPE.stream, 'other');
  a.jumpIf(1, '==', PROTOCOL.tcp, 'keep').goto('other');
  a.label('datagram');
  for (const protocol of [PROTOCOL.icmp, PROTOCOL.icmp6]) a.jumpIf(1, '==', protocol, 'keep');
  a.jumpIf(1, '!=', PROTOCOL.udp, 'other').move(7, reg(10)).alu(7, '+', FRAME.initial);
  unlessRoom(f, 'too many', 'datagrams');
  a.goto('keep').label('too many');
  f.refuse('socket-type', 'ENOBUFS');
  a.label('other');
  f.refuse('socket-type', 'EPROTONOSUPPORT');
  // Its packets are its own writing: none of them says anything about the next one.
  a.label('raw');
  for (const protocol of [PROTOCOL.icmp, PROTOCOL.icmp6]) a.jumpIf(1, '==', protocol, 'raw ICMP');
  a.store(10, FRAME.initial + STATE.protocol, 0, 1)
    .label('raw ICMP')
    .store(10, FRAME.small, reg(9), 4);
  f.lookup('networks', FRAME.small);
  a.jumpIf(0, '==', 0, 'no raw').load(1, 0, NETWORK.flags, 4).move(2, reg(1)).and(2, NETWORK_FLAG.raw);
  a.jumpIf(2, '!=', 0, 'keep').and(1, NETWORK_FLAG.rawEcho).jumpIf(1, '==', 0, 'no raw');
  a.load(1, 10, FRAME.protocol, 8);
  for (const protocol of [PROTOCOL.icmp, PROTOCOL.icmp6]) a.jumpIf(1, '==', protocol, 'keep');
  a.label('no raw');
  f.refuse('socket-type', 'EPERM');

  a.label('keep').loadMap(1, 'state').move(2, reg(6)).move(3, reg(10)).alu(3, '+', FRAME.initial);
  a.move(4, CREATE_IF_MISSING).call('sk_storage_get').jumpIf(0, '!=', 0, 'kept');
  f.refuse('socket-type', 'ENOBUFS');
  a.label('kept').move(7, reg(0));
  f.ifStateFlag(STATE_FLAG.pass, true, 'pass');
  countSocket(f);
  return f.finish();
}

/** Counts the new socket whose state is at r7, or refuses it: the context has as many as it may have. */
function countSocket(f: FenceCode): void {
  const { a } = f;
  a.loadMap(1, 'usage').move(2, reg(7)).call('map_lookup_elem').jumpIf(0, '==', 0, 'pass').move(8, reg(0));
  a.loadMap(1, 'networks').move(2, reg(7)).call('map_lookup_elem').jumpIf(0, '==', 0, 'room');
  a.load(1, 0, NETWORK.sockets, 4);
  a.load(2, 8, USAGE.sockets, 8).jumpIf(2, '<', reg(1), 'room');
  a.move(1, 1).atomicAdd(8, USAGE.refused, 1);
  f.refuse('too-many', 'ENOBUFS');
  a.label('room').move(1, 1).atomicAdd(8, USAGE.sockets, 1);
  a.load(1, 8, USAGE.sockets, 8).load(2, 8, USAGE.peak, 8).jumpIf(1, '<=', reg(2), 'no peak');
  a.store(8, USAGE.peak, reg(1), 8).label('no peak');
  a.move(1, reg(6)).call('get_socket_cookie').store(7, STATE.made, reg(0), 4);
  unlessDatagrams(f, 'pass');
  addToUsage(f, 1, 'datagrams');
}

/** Goes to a label unless the socket is one of UDP; not only its protocol says so, a raw socket may have the same. */
function unlessDatagrams(f: FenceCode, target: string): void {
  f.a.load(1, 6, SOCK.type, 4).jumpIf(1, '!=', SOCKET_TYPE.datagram, target);
  f.a.load(1, 6, SOCK.protocol, 4).jumpIf(1, '!=', PROTOCOL.udp, target);
}

/** Frees the port and the place of a socket that is closed. Accepted sockets have a copy of the listener's state: not theirs. */
export function releaseProgram(target: FenceTarget): EbpfProgram {
  const f = new FenceCode(target, 'socket');
  // No program of the cgroup uses this map: named here, it lives as long as they do (see `recoverFence`).
  f.a.loadMap(1, 'sockets');
  loadFencedState(f);
  f.a.move(1, reg(6)).call('get_socket_cookie').load(1, 7, STATE.made, 4);
  f.a.jumpIf32(0, '!=', reg(1), 'not counted');
  addToUsage(f, -1, 'sockets');
  unlessDatagrams(f, 'not counted');
  addToUsage(f, -1, 'datagrams');
  f.a.label('not counted');
  unlessOwn(f);
  dropBinding(f);
  return f.finishOpen();
}

/** r7 = the state of the context's socket; any other goes to `pass`. */
function loadFencedState(f: FenceCode): void {
  const { a } = f;
  a.loadMap(1, 'state').move(2, reg(6)).move(3, 0).move(4, 0).call('sk_storage_get');
  a.jumpIf(0, '==', 0, 'pass').move(7, reg(0));
  f.ifStateFlag(STATE_FLAG.pass, true, 'pass');
}

/** r9 = the socket's cookie; goes to `pass` unless it was bound itself. */
function unlessOwn(f: FenceCode): void {
  const { a } = f;
  a.move(1, reg(6)).call('get_socket_cookie').move(9, reg(0));
  a.load(1, 7, STATE.cookie, 8).jumpIf(1, '!=', reg(9), 'pass');
}

/** Notes which port the kernel gave: for TCP that of the real binding, for UDP the one that all know. */
export function postBindProgram(target: FenceTarget, family: 4 | 6): EbpfProgram {
  const f = new FenceCode(target, 'socket');
  const { a } = f;
  loadFencedState(f);
  unlessOwn(f);
  a.load(1, 6, SOCK.protocol, 4).jumpIf(1, '==', PROTOCOL.udp, 'udp');
  f.ifStateFlag(STATE_FLAG.registered, true, 'moved');
  a.load(1, 6, SOCK.sourcePort, 4).store(7, STATE.port, reg(1), 2).goto('pass');
  a.label('moved');
  bindingKey(f);
  f.lookup('ports', FRAME.portKey);
  a.jumpIf(0, '==', 0, 'pass')
    .load(1, 6, SOCK.sourcePort, 4)
    .store(0, BINDING.actual, reg(1), 4)
    .goto('pass');
  a.label('udp');
  f.ifStateFlag(STATE_FLAG.registered, true, 'pass');
  a.load(1, 6, SOCK.sourcePort, 4).store(7, STATE.port, reg(1), 2);
  a.load(1, 6, family === 4 ? SOCK.sourceIp4 : SOCK.sourceIp6 + 12, 4).store(10, FRAME.small, reg(1), 4);
  enterBinding(f, FRAME.small);
  return f.finishOpen();
}

/** Enters a TCP socket that begins to listen where connections look for it. */
export function listenProgram(target: FenceTarget): EbpfProgram {
  const f = new FenceCode(target, 'socket');
  const { a } = f;
  const key = FRAME.portKey;
  a.load(1, 6, SOCK_OPS.op, 4).jumpIf(1, '!=', TCP_LISTEN_EVENT, 'done');
  a.load(2, 6, SOCK_OPS.socket, 8).jumpIf(2, '==', 0, 'done');
  a.loadMap(1, 'state').move(3, 0).move(4, 0).call('sk_storage_get').jumpIf(0, '==', 0, 'done');
  a.move(7, reg(0)).load(1, 7, STATE.flags, 2).and(1, STATE_FLAG.pass).jumpIf(1, '!=', 0, 'done');
  // It may have had a peer before.
  a.store(7, STATE.verified, 0, 8);
  a.load(1, 7, STATE.cookie, 8).jumpIf(1, '!=', 0, 'bound');
  // listen() without bind(): at all addresses, at the port the kernel gave. If there is no room for it, nobody comes there.
  a.load(1, 6, SOCK_OPS.localPort, 4).store(7, STATE.port, reg(1), 2);
  a.store(7, STATE.protocol, PROTOCOL.tcp, 1).load(1, 6, SOCK_OPS.family, 4);
  a.jumpIf(1, '==', AF_INET, 'IPv4');
  setWildState(f, KIND.any6);
  a.goto('take port').label('IPv4');
  setWildState(f, KIND.any4);
  a.label('take port').move(1, reg(6)).call('get_socket_cookie').move(9, reg(0));
  a.store(7, STATE.cookie, reg(9), 8);
  f.setStateFlags(STATE_FLAG.wild);
  enterBinding(f);
  f.ifStateFlag(STATE_FLAG.registered, false, 'done');
  a.label('bound');
  bindingKey(f);
  for (let slot = 0; slot < LISTENER_SLOTS; slot++) {
    a.store(10, key + PORT.protocol, slot, 1);
    a.move(1, reg(6)).loadMap(2, 'listeners').move(3, reg(10)).alu(3, '+', key).move(4, UPDATE.ifMissing);
    a.call('sock_hash_update').jumpIf(0, '==', 0, 'done');
  }
  a.label('done').move(0, 1).exit();
  return a.program(FENCE_MAP_NAMES);
}

const LEVEL = { socket: 1, ip: 0, ip6: 41 } as const;
const IPV6_V6ONLY = 26;
/** Would let a socket use what is not its context's: devices, marks, foreign addresses, routes of the sender's choice. */
const REFUSED_OPTIONS: readonly (readonly [level: number, name: number])[] = [
  [LEVEL.socket, 25], // SO_BINDTODEVICE
  [LEVEL.socket, 36], // SO_MARK
  [LEVEL.socket, 62], // SO_BINDTOIFINDEX
  [LEVEL.ip, 4], // IP_OPTIONS: source routes
  [LEVEL.ip, 15], // IP_FREEBIND
  [LEVEL.ip, 19], // IP_TRANSPARENT
  [LEVEL.ip, 50], // IP_UNICAST_IF
  [LEVEL.ip6, 57], // IPV6_RTHDR
  [LEVEL.ip6, 75], // IPV6_TRANSPARENT
  [LEVEL.ip6, 76], // IPV6_UNICAST_IF
  [LEVEL.ip6, 78], // IPV6_FREEBIND
];
const MULTICAST_OPTIONS: readonly (readonly [level: number, name: number])[] = [
  [LEVEL.ip, 35], // IP_ADD_MEMBERSHIP
  [LEVEL.ip, 39], // IP_ADD_SOURCE_MEMBERSHIP
  [LEVEL.ip, 42], // MCAST_JOIN_GROUP
  [LEVEL.ip, 46], // MCAST_JOIN_SOURCE_GROUP
  [LEVEL.ip6, 20], // IPV6_ADD_MEMBERSHIP
  [LEVEL.ip6, 42],
  [LEVEL.ip6, 46],
];
/** A raw socket's headers of its own: of ICMP alone it writes no other. */
const HEADER_OPTIONS: readonly (readonly [level: number, name: number])[] = [
  [LEVEL.ip, 3], // IP_HDRINCL
  [LEVEL.ip6, 36], // IPV6_HDRINCL
];
/** The kernel shows a program one page of a value, and refuses longer ones unless the program says it has not touched them. */
const VALUE_BYTES = 4096;

/** Refuses options that reach past the fence; remembers IPV6_V6ONLY, which decides what a wildcard is. */
export function optionProgram(target: FenceTarget): EbpfProgram {
  const f = new FenceCode(target, 'option');
  const { a } = f;
  a.load(1, 6, SOCKOPT.length, 4).jumpIf32(1, '<=', VALUE_BYTES, 'short').move(2, 0);
  a.store(6, SOCKOPT.length, reg(2), 4).label('short');
  a.load(2, 6, SOCKOPT.level, 4).load(3, 6, SOCKOPT.name, 4);
  for (const level of Object.values(LEVEL)) {
    const next = a.fresh('next level');
    a.jumpIf32(2, '!=', level, next);
    if (level === LEVEL.ip6) a.jumpIf32(3, '==', IPV6_V6ONLY, 'v6only');
    for (const [of, name] of REFUSED_OPTIONS) if (of === level) a.jumpIf32(3, '==', name, 'refused option');
    for (const [of, name] of MULTICAST_OPTIONS) if (of === level) a.jumpIf32(3, '==', name, 'multicast');
    for (const [of, name] of HEADER_OPTIONS) if (of === level) a.jumpIf32(3, '==', name, 'own headers');
    a.goto('pass').label(next);
  }
  a.goto('pass');

  a.label('v6only');
  f.loadState();
  a.load(1, 6, SOCKOPT.value, 8).load(2, 6, SOCKOPT.valueEnd, 8).move(3, reg(1)).alu(3, '+', 4);
  a.jumpIf(3, '>', reg(2), 'pass').load(1, 1, 0, 4).jumpIf(1, '==', 0, 'both families');
  f.setStateFlags(STATE_FLAG.ipv6Only);
  a.goto('pass').label('both families');
  f.setStateFlags(0, STATE_FLAG.ipv6Only);
  a.goto('pass');

  a.label('multicast');
  f.loadState().loadNetwork().ifNetworkFlag(NETWORK_FLAG.multicast, true, 'pass');
  a.goto('refuse it').label('own headers');
  f.loadState().loadNetwork().ifNetworkFlag(NETWORK_FLAG.raw, true, 'pass');
  a.goto('refuse it').label('refused option');
  f.loadState();
  a.label('refuse it').load(1, 6, SOCKOPT.name, 4).store(10, FRAME.remotePort, reg(1), 8);
  f.refuse('socket-option', 'EPERM');
  return f.finish();
}
