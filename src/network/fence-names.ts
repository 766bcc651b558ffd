/** Programs of the fence about what a socket says its addresses are. */
import type { EbpfProgram } from '../sys/bpf/assembler.ts';
import { SOCK_ADDR } from '../sys/bpf/uapi.ts';
import { type Family, readUserAddress, writeUserPort } from './fence-caller.ts';
import { FenceCode, type FenceTarget, FRAME, networkOrder, reg } from './fence-code.ts';
import { KIND, NETWORK, STATE, STATE_FLAG } from './fence-maps.ts';

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
