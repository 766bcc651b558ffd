/** The program of the fence for bind(2). */
import type { EbpfProgram } from '../sys/bpf/assembler.ts';
import { SOCK, SOCK_ADDR, UPDATE } from '../sys/bpf/uapi.ts';
import { addToUsage, bindingKey, dropOwnBinding, setWildState, unlessRoom } from './fence-bindings.ts';
import {
  type Family,
  readPortAndProtocol,
  readUserAddress,
  writeUserAddress,
  writeUserPort,
} from './fence-caller.ts';
import { FenceCode, type FenceTarget, FRAME, MULTICAST4, PROTOCOL, reg } from './fence-code.ts';
import { BINDING, KIND, NETWORK, NETWORK_FLAG, STATE, STATE_FLAG } from './fence-maps.ts';
import { forgetSeen } from './fence-seen.ts';

const SOL_SOCKET = 1;
const SO_REUSEPORT = 15;
const LOW_PORTS = 1024;
/** Guests' users are `65536 × xid + uid` on the host. */
const UID_MASK = 0xffff;
/** A bind program's answer that also lifts the check of CAP_NET_BIND_SERVICE, which asks about the host's (Linux 5.12). */
const ALLOW_LOW_PORT = 3;

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
  dropOwnBinding(f);
  forgetSeen(f);
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
  setWildState(f, ip === 4 ? KIND.any4 : KIND.any6);
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
  bindingKey(f);
  a.store(10, FRAME.small, 0, 8);
  a.move(1, reg(6)).move(2, SOL_SOCKET).move(3, SO_REUSEPORT).move(4, reg(10)).alu(4, '+', FRAME.small);
  a.move(5, 4).call('getsockopt').load(9, 10, FRAME.small, 4);
  f.lookup('ports', FRAME.portKey);
  a.jumpIf(0, '==', 0, 'port is free').jumpIf(9, '==', 0, 'in use').load(1, 0, BINDING.reuse, 4);
  a.jumpIf(1, '==', 0, 'in use').move(1, 1).atomicAdd(0, BINDING.count, 1);
  a.load(2, 0, BINDING.actual, 4).goto('port is reserved');
  a.label('port is free');
  unlessRoom(f, 'no room');
  a.load(1, 7, STATE.cookie, 8).store(10, FRAME.binding + BINDING.cookie, reg(1), 8);
  a.store(10, FRAME.binding + BINDING.actual, 0, 4).store(10, FRAME.binding + BINDING.reuse, reg(9), 4);
  a.store(10, FRAME.binding + BINDING.count, 1, 8);
  f.update('ports', FRAME.portKey, FRAME.binding, UPDATE.ifMissing);
  a.jumpIf(0, '!=', 0, 'in use');
  addToUsage(f, 1);
  a.move(2, 0).label('port is reserved');
  writeUserPort(f, 2);
  f.setStateFlags(STATE_FLAG.registered | STATE_FLAG.moved);
}
