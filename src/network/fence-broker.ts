/** What the broker does to a new socket before the guest gets it. */
import { endianness } from 'node:os';
import { planLookup, planUpdate } from '../sys/bpf/map.ts';
import type { Arg, Program, Result } from '../sys/program.ts';
import { AF_INET, AF_INET6, NOWHERE, PROTOCOL } from './fence-code.ts';
import { words } from './fence-elements.ts';
import { NETWORK } from './fence-maps.ts';

const SOL_SOCKET = 1;
const SO_COOKIE = 57;
const SOCK_DATAGRAM = 2;
const SOCK_RAW = 3;
const SOCK_TYPE_MASK = 0xf;
const IP4_BYTES = 16;
const IP6_BYTES = 28;
const FAMILY_BYTES = 2;
/** What stands before an IPv4 address in 16 bytes. */
const MAPPED_BYTES = 12;

/** Socket that was made, and the arguments of the call that asked for it. */
export interface NewSocket {
  readonly socket: Result;
  readonly type: Result;
  readonly protocol: Result;
}

/**
 * Adds the steps that make a datagram socket ready: a UDP socket is entered in the fence's `sockets`, where datagrams for
 * a wildcard find it; an ICMP echo socket is bound to an address of the context's. Others stay as they are. Nothing here fails.
 *
 * @param sockets a descriptor of the fence's map of that name
 */
export function planPrepareSocket(p: Program, sockets: Arg, { socket, type, protocol }: NewSocket): void {
  const [end, echo4, echo6, disconnect] = [p.label(), p.label(), p.label(), p.label()];
  const quiet = { ignore: [] } as const;
  p.expect(type, '&', SOCK_DATAGRAM, 'EINVAL', 'a datagram socket', { mask: SOCK_TYPE_MASK, otherwise: end });
  p.expect(protocol, '!=', PROTOCOL.icmp, 'EINVAL', 'no echo socket', { otherwise: echo4 });
  p.expect(protocol, '!=', PROTOCOL.icmp6, 'EINVAL', 'no echo socket', { otherwise: echo6 });

  // The kernel takes a UDP socket into a sockhash only while that has a port; it stays there when that is given back. It gives one
  // to who sends (inet_autobind), before it finds that there is nobody to send to: the cheapest call that does.
  const cookie = p.data(8, '<cookie>');
  const length = p.data(4, '<8>');
  p.put(length, 8);
  const value = p.data(8, '<socket>');
  p.sys('sendto', [socket, 0, 0, 0, 0, 0], { about: 'to nobody', ...quiet });
  p.sys('getsockopt', [socket, SOL_SOCKET, SO_COOKIE, cookie, length], {
    about: 'cookie',
    otherwise: { on: [], to: disconnect },
  });
  p.store(value, socket, 8);
  planUpdate(p, sockets, cookie, value, { about: 'a datagram socket', ...quiet });
  p.jump(disconnect);

  const nowhere4 = p.data(sockaddr4(NOWHERE.address, NOWHERE.port), '255.255.255.255:1');
  const nowhere6 = p.data(
    sockaddr6([0, 0, 0xffff, NOWHERE.address], NOWHERE.port),
    '[::ffff:255.255.255.255]:1',
  );
  p.place(echo6);
  p.sys('connect', [socket, nowhere6, nowhere6.length], { about: 'to nowhere', ...quiet });
  p.jump(disconnect);
  p.place(echo4);
  p.sys('connect', [socket, nowhere4, nowhere4.length], { about: 'to nowhere', ...quiet });
  p.place(disconnect);
  p.sys('connect', [socket, p.data(IP4_BYTES, 'AF_UNSPEC'), FAMILY_BYTES], { about: 'no more', ...quiet });
  p.place(end);
}

/**
 * Adds the steps that bind a raw socket to the context's first address of its family, from which it then sends: no program
 * is asked where that goes. Others stay as they are, and nothing here fails.
 */
export function planBindRaw(
  p: Program,
  { networks, nid }: { readonly networks: Arg; readonly nid: number },
  { socket, family, type }: { readonly socket: Result; readonly family: Result; readonly type: Result },
): void {
  const [end, is6] = [p.label(), p.label()];
  const about = 'first address';
  p.expect(type, '&', SOCK_RAW, 'EINVAL', 'a raw socket', { mask: SOCK_TYPE_MASK, otherwise: end });
  const context = planLookup(p, networks, words(nid), NETWORK.bytes, '<context>');
  p.expect(family, '==', AF_INET, 'EINVAL', 'IPv4', { otherwise: is6 });
  const name4 = p.data(sockaddr4(0, 0), about);
  p.store(name4.at(4, 4), p.load(context.at(NETWORK.primary4 + MAPPED_BYTES, 4)));
  p.sys('bind', [socket, name4, name4.length], { about, ignore: [] });
  p.jump(end);
  p.place(is6);
  const name6 = p.data(sockaddr6([0, 0, 0, 0], 0), about);
  for (const i of [0, 8]) p.store(name6.at(8 + i, 8), p.load(context.at(NETWORK.primary6 + i, 8), 8), 8);
  p.sys('bind', [socket, name6, name6.length], { about, ignore: [] });
  p.place(end);
}

const LE = endianness() === 'LE';

/** struct sockaddr_in */
function sockaddr4(address: number, port: number): Uint8Array {
  const bytes = new Uint8Array(IP4_BYTES);
  const view = new DataView(bytes.buffer);
  view.setUint16(0, AF_INET, LE);
  view.setUint16(2, port);
  view.setUint32(4, address);
  return bytes;
}

/** struct sockaddr_in6 */
function sockaddr6(address: readonly [number, number, number, number], port: number): Uint8Array {
  const bytes = new Uint8Array(IP6_BYTES);
  const view = new DataView(bytes.buffer);
  view.setUint16(0, AF_INET6, LE);
  view.setUint16(2, port);
  for (const [i, word] of address.entries()) view.setUint32(8 + 4 * i, word);
  return bytes;
}
