/** Programs of the fence for connect(2) and for sending datagrams. */
import type { EbpfProgram } from '../sys/bpf/assembler.ts';
import { SOCK, SOCK_ADDR } from '../sys/bpf/uapi.ts';
import { dropOwnBinding, enterBinding, leaveHome, setWildState } from './fence-bindings.ts';
import {
  type Family,
  readPortAndProtocol,
  readSourceAddress,
  readUserAddress,
  writeUserAddress,
} from './fence-caller.ts';
import {
  AF_INET,
  AF_INET6,
  FenceCode,
  type FenceTarget,
  FRAME,
  NOWHERE,
  networkOrder,
  PROTOCOL,
  reg,
} from './fence-code.ts';
import { KIND, NETWORK, NOTES_FLOWS, STATE, STATE_FLAG } from './fence-maps.ts';
import { checkOutside, checkPeer, chooseSource, flowKey } from './fence-policy.ts';
import { forgetSeen } from './fence-seen.ts';

const SOCKADDR_BYTES = { 4: 16, 6: 28 } as const;

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
  forgetSeen(f);
  // The port it asked for was for a listener: as a client it has the real one, and says so.
  a.load(1, 10, FRAME.protocol, 8).jumpIf(1, '!=', PROTOCOL.tcp, 'keeps its port');
  dropOwnBinding(f);
  a.goto('is no listener').label('keeps its port');
  leaveHome(f);
  a.label('is no listener');
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
 * The broker connects a new ICMP echo socket, which calls no program when it is bound or sends, to nowhere: so it gets the
 * context's first address, and keeps it.
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
  a.load(1, 6, SOCK_ADDR.protocol, 4).jumpIf(
    1,
    '!=',
    family === 4 ? PROTOCOL.icmp : PROTOCOL.icmp6,
    'a peer',
  );
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
  checkPeer(f);
  a.goto(choose).label(itself);
  f.copyAddress(10, FRAME.own, 10, FRAME.remote);
  a.goto(done).label(outside);
  checkOutside(f, ip);
  a.label(choose);
  chooseSource(f, ip, 'no address');
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
  readSourceAddress(f, family, FRAME.header);
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
  // A socket bound to a wildcard has one address of the context's. It answers from the one that was asked, where it has several.
  f.ifNetworkFlag(NOTES_FLOWS, false, 'set source');
  flowKey(f);
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
  setWildState(f, KIND.any6);
  a.goto('enter port').label('IPv4 port');
  setWildState(f, KIND.any4);
  a.label('enter port').move(1, reg(6)).call('get_socket_cookie').move(9, reg(0));
  a.store(7, STATE.cookie, reg(9), 8).store(10, FRAME.small, 0, 4);
  enterBinding(f, FRAME.small);
  a.label('port is known');
}
