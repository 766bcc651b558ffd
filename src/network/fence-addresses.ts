/** Programs of the fence about addresses: bind, connect, send, and what a socket says its addresses are. */
import type { EbpfProgram } from '../sys/bpf/assembler.ts';
import { SOCK, SOCK_ADDR, UPDATE } from '../sys/bpf/uapi.ts';
import {
  AF_INET,
  AF_INET6,
  FenceCode,
  type FenceTarget,
  FRAME,
  MULTICAST4,
  NOWHERE,
  networkOrder,
  PROTOCOL,
  reg,
} from './fence-code.ts';
import { BINDING, KIND, NETWORK, NETWORK_FLAG, STATE, STATE_FLAG } from './fence-maps.ts';

type Family = 4 | 6;

const SOL_SOCKET = 1;
const SO_REUSEPORT = 15;
const LOW_PORTS = 1024;
/** Guests' users are `65536 × xid + uid` on the host. */
const UID_MASK = 0xffff;
/** A bind program's answer that also lifts the check of CAP_NET_BIND_SERVICE, which asks about the host's (Linux 5.12). */
const ALLOW_LOW_PORT = 3;
const SOCKADDR_BYTES = { 4: 16, 6: 28 } as const;

/** Copies the address the caller gave to the stack; 16 bytes; uses r1. */
function readUserAddress(f: FenceCode, family: Family, at: number): void {
  const { a } = f;
  if (family === 4) {
    a.load(1, 6, SOCK_ADDR.userIp4, 4);
    f.storeMapped(at, 1);
    return;
  }
  for (const i of [0, 4, 8, 12]) a.load(1, 6, SOCK_ADDR.userIp6 + i, 4).store(10, at + i, reg(1), 4);
}

/** Gives the caller, or the kernel, another address; uses r1. */
function writeUserAddress(f: FenceCode, family: Family, at: number): void {
  const { a } = f;
  if (family === 4) {
    a.load(1, 10, at + 12, 4).store(6, SOCK_ADDR.userIp4, reg(1), 4);
    return;
  }
  for (const i of [0, 4, 8, 12]) a.load(1, 10, at + i, 4).store(6, SOCK_ADDR.userIp6 + i, reg(1), 4);
}

/** Port and protocol into the frame; the port is also in r2. */
function readPortAndProtocol(f: FenceCode): void {
  const { a } = f;
  a.load(1, 6, SOCK_ADDR.protocol, 4).store(10, FRAME.protocol, reg(1), 8);
  a.load(2, 6, SOCK_ADDR.userPort, 4).swapToBigEndian(2, 16).store(10, FRAME.remotePort, reg(2), 8);
}

/** Sets the port the caller gave; `register` has it in host order and is changed. */
function writeUserPort(f: FenceCode, register: 1 | 2): void {
  f.a.swapToBigEndian(register, 16).store(6, SOCK_ADDR.userPort, reg(register), 4);
}

/**
 * bind(2). Wildcards and loopback become the context's own addresses, foreign ones are refused. A TCP socket gets a port
 * of the kernel's choice, and the port that was asked for is entered in `ports`: listeners are found by `listeners`,
 * so that no two contexts, and not the host, can be in each other's way. UDP gets what it asked for.
 */
export function bindProgram(target: FenceTarget, family: Family): EbpfProgram {
  const f = new FenceCode(target, 'address');
  const { a } = f;
  f.loadState().loadNetwork();
  a.load(1, 6, SOCK_ADDR.socket, 8).load(1, 1, SOCK.sourcePort, 4).jumpIf(1, '!=', 0, 'pass'); // EINVAL follows
  f.dropOwnBinding();
  readPortAndProtocol(f);
  readUserAddress(f, family, FRAME.remote);
  checkLowPort(f);
  a.move(1, reg(6)).call('get_socket_cookie').store(7, STATE.cookie, reg(0), 8);
  a.load(1, 10, FRAME.protocol, 8).store(7, STATE.protocol, reg(1), 1);
  if (family === 6) {
    f.unlessMapped(FRAME.remote, 'IPv6');
    bindAddress(f, 4);
    a.label('IPv6');
  }
  bindAddress(f, family);

  a.label('to a wildcard');
  f.setStateFlags(STATE_FLAG.wild);
  a.goto('choose port');
  a.label('to an address');
  f.setStateFlags(STATE_FLAG.bound);
  f.copyAddress(7, STATE.address, 10, FRAME.remote);
  a.store(7, STATE.kind, KIND.exact, 1);

  a.label('choose port').load(2, 10, FRAME.remotePort, 8).store(7, STATE.port, reg(2), 2);
  a.load(1, 10, FRAME.protocol, 8).jumpIf(1, '!=', PROTOCOL.tcp, 'address');
  a.jumpIf(2, '==', 0, 'address');
  reservePort(f);
  a.label('address');
  writeUserAddress(f, family, FRAME.own);
  a.label('allow').move(0, ALLOW_LOW_PORT).exit();
  a.label('in use');
  f.refuse(undefined, 'EADDRINUSE');
  a.label('no room');
  f.refuse('too-many', 'ENOBUFS');
  a.label('not ours');
  f.refuse('foreign-address', 'EADDRNOTAVAIL');
  return f.finish();
}

/** Ports below 1024 are for the context's root, unless its rules say otherwise. r2 is the port. */
function checkLowPort(f: FenceCode): void {
  const { a } = f;
  a.load(2, 10, FRAME.remotePort, 8).jumpIf(2, '==', 0, 'port may be used');
  a.jumpIf(2, '>=', LOW_PORTS, 'port may be used');
  f.ifNetworkFlag(NETWORK_FLAG.lowPortsAny, true, 'port may be used');
  a.call('get_current_uid_gid').and(0, UID_MASK).jumpIf(0, '==', 0, 'port may be used');
  f.refuse('low-port', 'EACCES');
  a.label('port may be used');
}

/**
 * Decides about the address in `remote`, and puts that of the real binding into `own`. Leaves for `to a wildcard`,
 * `to an address` (in `remote` then is what the binding is known by), `not ours`.
 */
function bindAddress(f: FenceCode, ip: Family): void {
  const { a } = f;
  const [specific, mine, foreign, isDual, native] = [
    a.fresh('specific address'),
    a.fresh('own address'),
    a.fresh('foreign address'),
    a.fresh('both families'),
    a.fresh('no true wildcard'),
  ];
  const [first, ownLoopback] =
    ip === 4 ? [NETWORK.primary4, NETWORK.loopback4] : [NETWORK.primary6, NETWORK.loopback6];

  if (ip === 4) {
    a.load(1, 10, FRAME.remote + 12, 4).jumpIf(1, '!=', 0, specific);
  } else {
    a.load(1, 10, FRAME.remote, 8)
      .load(2, 10, FRAME.remote + 8, 8)
      .alu(1, '|', reg(2));
    a.jumpIf(1, '!=', 0, specific);
  }
  // ::ffff:0.0.0.0 takes IPv4 only, as 0.0.0.0 does.
  f.setWildState(ip === 4 ? KIND.any4 : KIND.any6);
  // Multicast and broadcast come to sockets that are bound to no address.
  a.load(1, 10, FRAME.protocol, 8).jumpIf(1, '!=', PROTOCOL.udp, native);
  f.ifNetworkFlag(NETWORK_FLAG.multicast, false, native);
  f.copyAddress(10, FRAME.own, 10, FRAME.remote);
  a.goto('to a wildcard').label(native);
  if (ip === 6) f.ifStateFlag(STATE_FLAG.ipv6Only, false, isDual);
  chooseBinding(f, first, ownLoopback);
  a.goto('to a wildcard');
  if (ip === 6) {
    // A socket bound to an IPv6 address takes IPv6 only; one bound to an IPv4 address of its family takes both.
    a.label(isDual);
    chooseBinding(f, NETWORK.primary4, NETWORK.loopback4);
    a.goto('to a wildcard');
  }

  a.label(specific);
  f.unlessLoopback(FRAME.remote, ip, false, mine);
  f.ifNoAddress(ownLoopback, 'not ours');
  f.copyAddress(10, FRAME.remote, 8, ownLoopback);
  f.copyAddress(10, FRAME.own, 8, ownLoopback);
  a.goto('to an address');
  a.label(mine);
  f.ownerOf(FRAME.remote);
  f.ifMine(false, foreign);
  f.copyAddress(10, FRAME.own, 10, FRAME.remote);
  a.goto('to an address').label(foreign);
  const group = a.fresh('group or broadcast');
  if (ip === 4) {
    a.load(1, 10, FRAME.remote + 12, 1).jumpIf(1, '>=', MULTICAST4, group);
    f.unlessSame(FRAME.remote, NETWORK.broadcast4, 'not ours');
  } else {
    a.load(1, 10, FRAME.remote, 1).jumpIf(1, '!=', 0xff, 'not ours');
  }
  a.label(group).load(1, 10, FRAME.protocol, 8).jumpIf(1, '!=', PROTOCOL.udp, 'not ours');
  f.ifNetworkFlag(NETWORK_FLAG.multicast, true, 'allow');
  a.goto('not ours');
}

/** `own` = the first of two addresses of the context that there is; `not ours` when there is none. */
function chooseBinding(f: FenceCode, first: number, second: number): void {
  const { a } = f;
  const [other, done] = [a.fresh('no first address'), a.fresh('binding is chosen')];
  f.ifNoAddress(first, other);
  f.copyAddress(10, FRAME.own, 8, first);
  a.goto(done).label(other);
  f.ifNoAddress(second, 'not ours');
  f.copyAddress(10, FRAME.own, 8, second);
  a.label(done);
}

/** Takes the port in `ports`, alone or with others by SO_REUSEPORT, and asks the kernel for another one. */
function reservePort(f: FenceCode): void {
  const { a } = f;
  f.bindingKey();
  a.store(10, FRAME.small, 0, 8);
  a.move(1, reg(6)).move(2, SOL_SOCKET).move(3, SO_REUSEPORT).move(4, reg(10)).alu(4, '+', FRAME.small);
  a.move(5, 4).call('getsockopt').load(9, 10, FRAME.small, 4);
  f.lookup('ports', FRAME.portKey);
  a.jumpIf(0, '==', 0, 'port is free').jumpIf(9, '==', 0, 'in use').load(1, 0, BINDING.reuse, 4);
  a.jumpIf(1, '==', 0, 'in use').move(1, 1).atomicAdd(0, BINDING.count, 1);
  a.load(2, 0, BINDING.actual, 4).goto('port is reserved');
  a.label('port is free');
  f.unlessRoom('no room');
  a.load(1, 7, STATE.cookie, 8).store(10, FRAME.binding + BINDING.cookie, reg(1), 8);
  a.store(10, FRAME.binding + BINDING.actual, 0, 4).store(10, FRAME.binding + BINDING.reuse, reg(9), 4);
  a.store(10, FRAME.binding + BINDING.count, 1, 8);
  f.update('ports', FRAME.portKey, FRAME.binding, UPDATE.ifMissing);
  a.jumpIf(0, '!=', 0, 'in use');
  f.countBinding();
  a.move(2, 0).label('port is reserved');
  writeUserPort(f, 2);
  f.setStateFlags(STATE_FLAG.registered | STATE_FLAG.moved);
}

/** connect(2): loopback is the context's own, the source address is, and policy holds. */
export function connectProgram(target: FenceTarget, family: Family): EbpfProgram {
  const f = new FenceCode(target, 'address');
  const { a } = f;
  prepareSocket(f, family);
  f.loadState().loadNetwork();
  readPortAndProtocol(f);
  readUserAddress(f, family, FRAME.remote);
  if (family === 6) {
    f.unlessMapped(FRAME.remote, 'IPv6');
    findPeer(f, 4);
    a.goto('peer is found').label('IPv6');
  }
  findPeer(f, family);
  a.label('peer is found');
  writeUserAddress(f, family, FRAME.remote);
  f.setStateFlags(STATE_FLAG.active);
  a.store(7, STATE.verified, 0, 8);
  // The port it asked for was for a listener: as a client it has the real one, and says so.
  a.load(1, 10, FRAME.protocol, 8).jumpIf(1, '!=', PROTOCOL.tcp, 'keeps its port');
  f.dropOwnBinding();
  a.label('keeps its port');
  f.setStateFlags(0, STATE_FLAG.wild | STATE_FLAG.moved);
  a.load(2, 6, SOCK_ADDR.socket, 8).load(1, 2, SOCK.sourcePort, 4).jumpIf(1, '!=', 0, 'pass');
  f.ifStateFlag(STATE_FLAG.bound, true, 'pass');
  bindSource(f, family);
  a.jumpIf(0, '==', 0, 'pass');
  f.refuse(undefined, 'EADDRNOTAVAIL');
  a.label('no address');
  f.refuse(undefined, 'ENETUNREACH');
  return f.finish();
}

/**
 * The broker connects a new socket to nowhere. UDP needs nothing but a port for a moment. An ICMP echo socket, which calls
 * no program when it is bound or sends, gets the context's first address, and keeps it.
 */
function prepareSocket(f: FenceCode, family: Family): void {
  const { a } = f;
  if (family === 6) {
    for (const [i, word] of [0, 0, 0xffff].entries())
      a.load(1, 6, SOCK_ADDR.userIp6 + 4 * i, 4).jumpIf32(1, '!=', networkOrder(word), 'a peer');
  }
  a.load(1, 6, family === 4 ? SOCK_ADDR.userIp4 : SOCK_ADDR.userIp6 + 12, 4);
  a.jumpIf32(1, '!=', networkOrder(NOWHERE.address), 'a peer');
  a.load(1, 6, SOCK_ADDR.userPort, 4).swapToBigEndian(1, 16).jumpIf(1, '!=', NOWHERE.port, 'a peer');
  a.load(1, 6, SOCK_ADDR.protocol, 4).jumpIf(1, '!=', family === 4 ? PROTOCOL.icmp : PROTOCOL.icmp6, 'pass');
  f.loadState().loadNetwork();
  const first = family === 4 ? NETWORK.primary4 : NETWORK.primary6;
  f.ifNoAddress(first, 'pass').copyAddress(10, FRAME.own, 8, first);
  bindSource(f, family);
  a.goto('pass').label('a peer');
}

/** Puts the peer into `remote` and the address to reach it from into `own`; leaves for `no address`. */
function findPeer(f: FenceCode, ip: Family): void {
  const { a } = f;
  const [notLoopback, choose, outside, done, itself] = [
    a.fresh('not loopback'),
    a.fresh('choose source'),
    a.fresh('outside'),
    a.fresh('peer and source'),
    a.fresh('own address'),
  ];
  const ownLoopback = ip === 4 ? NETWORK.loopback4 : NETWORK.loopback6;
  f.unlessLoopback(FRAME.remote, ip, true, notLoopback);
  f.ifNoAddress(ownLoopback, 'no address');
  f.copyAddress(10, FRAME.remote, 8, ownLoopback);
  f.copyAddress(10, FRAME.own, 8, ownLoopback);
  a.goto(done).label(notLoopback);
  f.ownerOf(FRAME.remote);
  a.jumpIf(9, '==', 0, outside);
  f.ifMine(true, itself);
  f.checkPeer();
  a.goto(choose).label(itself);
  f.copyAddress(10, FRAME.own, 10, FRAME.remote);
  a.goto(done).label(outside);
  f.checkOutside(ip);
  a.label(choose);
  f.chooseSource(ip, 'no address');
  a.label(done);
}

/** Binds the socket to `own`, at a port the kernel chooses when it knows the peer; r0 = 0 on success. */
function bindSource(f: FenceCode, family: Family): void {
  const { a } = f;
  const at = FRAME.sockaddr;
  for (const i of [0, 8, 16, 24]) a.store(10, at + i, 0, 8);
  a.store(10, at, family === 4 ? AF_INET : AF_INET6, 2);
  if (family === 4) a.load(1, 10, FRAME.own + 12, 4).store(10, at + 4, reg(1), 4);
  else f.copyAddress(10, at + 8, 10, FRAME.own);
  a.move(1, reg(6)).move(2, reg(10)).alu(2, '+', at).move(3, SOCKADDR_BYTES[family]).call('bind');
}

/** sendmsg(2) of UDP that is not connected, or names a source: as connect, for one datagram. */
export function sendProgram(target: FenceTarget, family: Family): EbpfProgram {
  const f = new FenceCode(target, 'address');
  const { a } = f;
  f.loadState().loadNetwork();
  readPortAndProtocol(f);
  registerAutobound(f);
  readSource(f, family, FRAME.header);
  // A connected socket that names a source names no peer: the packet itself is looked at later.
  a.load(1, 6, SOCK_ADDR.userFamily, 4).jumpIf(1, '==', 0, 'source alone');
  readUserAddress(f, family, FRAME.remote);
  findPeer(f, family);
  writeUserAddress(f, family, FRAME.remote);
  a.label('source');
  unlessNamed(f, family, 'set source');
  f.ifStateFlag(STATE_FLAG.wild, false, 'check source');
  if (family === 4) {
    a.load(2, 6, SOCK_ADDR.socket, 8)
      .load(2, 2, SOCK.sourceIp4, 4)
      .load(1, 10, FRAME.header + 12, 4);
    a.jumpIf32(1, '!=', reg(2), 'check source');
  } else {
    a.load(3, 6, SOCK_ADDR.socket, 8);
    for (const i of [0, 4, 8, 12])
      a.load(2, 3, SOCK.sourceIp6 + i, 4)
        .load(1, 10, FRAME.header + i, 4)
        .jumpIf32(1, '!=', reg(2), 'check source');
  }
  // A socket bound to a wildcard has one address of the context's. It answers from the one that was asked.
  f.flowKey();
  f.lookup('flows', FRAME.prefixKey);
  a.jumpIf(0, '==', 0, 'set source');
  f.copyAddress(10, FRAME.header, 0, 0).ownerOf(FRAME.header).ifMine(false, 'set source');
  f.copyAddress(10, FRAME.own, 10, FRAME.header);
  a.goto('set source');
  a.label('source alone');
  unlessNamed(f, family, 'pass');
  a.label('check source');
  if (family === 4) {
    // A socket bound to an IPv6 address has this for IPv4 (LOOPBACK4_IPV6, 127.0.0.6): it means none.
    a.load(1, 10, FRAME.header + 12, 4).jumpIf32(1, '==', networkOrder(0x7f000006), 'set source if known');
    a.label('check named source');
  }
  f.ownerOf(FRAME.header);
  f.ifMine(false, 'foreign source');
  a.goto('pass');
  if (family === 4) {
    a.label('set source if known').load(1, 6, SOCK_ADDR.userFamily, 4).jumpIf(1, '==', 0, 'foreign source');
  }
  a.label('set source');
  if (family === 4) {
    a.load(1, 10, FRAME.own + 12, 4).store(6, SOCK_ADDR.sourceIp4, reg(1), 4);
  } else {
    for (const i of [0, 4, 8, 12])
      a.load(1, 10, FRAME.own + i, 4).store(6, SOCK_ADDR.sourceIp6 + i, reg(1), 4);
  }
  a.goto('pass').label('foreign source');
  f.copyAddress(10, FRAME.remote, 10, FRAME.header);
  f.refuse('foreign-address', 'EADDRNOTAVAIL');
  a.label('no address');
  f.refuse(undefined, 'ENETUNREACH');
  return f.finish();
}

/** The source the datagram would have, 16 bytes. */
function readSource(f: FenceCode, family: Family, at: number): void {
  const { a } = f;
  if (family === 4) {
    a.load(1, 6, SOCK_ADDR.sourceIp4, 4);
    f.storeMapped(at, 1);
    return;
  }
  for (const i of [0, 4, 8, 12]) a.load(1, 6, SOCK_ADDR.sourceIp6 + i, 4).store(10, at + i, reg(1), 4);
}

/** Goes to a label unless the datagram has a source already. */
function unlessNamed(f: FenceCode, family: Family, target: string): void {
  const { a } = f;
  const at = FRAME.header;
  if (family === 4) a.load(1, 10, at + 12, 4).jumpIf(1, '==', 0, target);
  else
    a.load(1, 10, at, 8)
      .load(2, 10, at + 8, 8)
      .alu(1, '|', reg(2))
      .jumpIf(1, '==', 0, target);
}

/** A socket that sends without bind(2) has its port from the kernel, which calls no program then. */
function registerAutobound(f: FenceCode): void {
  const { a } = f;
  a.load(2, 6, SOCK_ADDR.socket, 8).load(2, 2, SOCK.sourcePort, 4).store(10, FRAME.ownPort, reg(2), 8);
  f.ifStateFlag(STATE_FLAG.registered, true, 'port is known');
  a.store(7, STATE.port, reg(2), 2).store(7, STATE.protocol, PROTOCOL.udp, 1);
  a.load(1, 6, SOCK_ADDR.family, 4).jumpIf(1, '==', AF_INET, 'IPv4 port');
  f.setWildState(KIND.any6);
  a.goto('enter port').label('IPv4 port');
  f.setWildState(KIND.any4);
  a.label('enter port').move(1, reg(6)).call('get_socket_cookie').move(9, reg(0));
  a.store(7, STATE.cookie, reg(9), 8);
  f.enterBinding();
  a.label('port is known');
}

/** recvmsg(2) and getpeername(2): the context's own loopback is shown as everybody's. */
export function peerNameProgram(target: FenceTarget, family: Family): EbpfProgram {
  const f = new FenceCode(target, 'address', 'in');
  beginName(f, family);
  showLoopback(f, family);
  return f.finishOpen();
}

/** getsockname(2): also a wildcard, and the port that was asked for. */
export function ownNameProgram(target: FenceTarget, family: Family): EbpfProgram {
  const f = new FenceCode(target, 'address', 'in');
  const { a } = f;
  readUserAddress(f, family, FRAME.remote);
  loadNameState(f);
  a.move(1, reg(6)).call('get_socket_cookie').load(1, 7, STATE.cookie, 8).jumpIf(0, '!=', reg(1), 'address');
  f.ifStateFlag(STATE_FLAG.moved, false, 'own port');
  a.load(2, 7, STATE.port, 2);
  writeUserPort(f, 2);
  a.label('own port');
  f.ifStateFlag(STATE_FLAG.wild, false, 'address');
  a.load(1, 7, STATE.kind, 1).jumpIf(1, '==', KIND.exact, 'address');
  a.move(1, 0);
  if (family === 4) {
    a.store(6, SOCK_ADDR.userIp4, reg(1), 4).goto('pass');
  } else {
    for (const i of [0, 4, 12]) a.store(6, SOCK_ADDR.userIp6 + i, reg(1), 4);
    a.load(2, 7, STATE.kind, 1).jumpIf(2, '==', KIND.any6, 'any of IPv6').move(1, networkOrder(0xffff));
    a.label('any of IPv6')
      .store(6, SOCK_ADDR.userIp6 + 8, reg(1), 4)
      .goto('pass');
  }
  a.label('address');
  showLoopback(f, family);
  return f.finishOpen();
}

/** Most addresses are no loopback: those cost a look at one word. */
function beginName(f: FenceCode, family: Family): void {
  const { a } = f;
  readUserAddress(f, family, FRAME.remote);
  if (family === 4) a.load(1, 10, FRAME.remote + 12, 1).jumpIf(1, '!=', 127, 'pass');
  else {
    f.unlessMapped(FRAME.remote, 'no IPv4');
    a.load(1, 10, FRAME.remote + 12, 1)
      .jumpIf(1, '!=', 127, 'pass')
      .label('no IPv4');
  }
  loadNameState(f);
}

/** r7 and r8 as everywhere; but nothing can be refused here. */
function loadNameState(f: FenceCode): void {
  const { a } = f;
  f.loadSocket();
  a.loadMap(1, 'state')
    .move(3, 0)
    .move(4, 0)
    .call('sk_storage_get')
    .jumpIf(0, '==', 0, 'pass')
    .move(7, reg(0));
  f.ifStateFlag(STATE_FLAG.pass, true, 'pass');
  a.loadMap(1, 'networks').move(2, reg(7)).call('map_lookup_elem').jumpIf(0, '==', 0, 'pass').move(8, reg(0));
}

/** Shows the address in `remote` as 127.0.0.1 or ::1 if it is the context's own loopback. */
function showLoopback(f: FenceCode, family: Family): void {
  const { a } = f;
  f.unlessSame(FRAME.remote, NETWORK.loopback4, 'not loopback of IPv4');
  a.move(1, networkOrder(0x7f000001));
  a.store(6, family === 4 ? SOCK_ADDR.userIp4 : SOCK_ADDR.userIp6 + 12, reg(1), 4).goto('pass');
  a.label('not loopback of IPv4');
  if (family === 4) return;
  f.unlessSame(FRAME.remote, NETWORK.loopback6, 'pass');
  a.move(1, 0);
  for (const i of [0, 4, 8]) a.store(6, SOCK_ADDR.userIp6 + i, reg(1), 4);
  a.move(1, networkOrder(1)).store(6, SOCK_ADDR.userIp6 + 12, reg(1), 4);
}
