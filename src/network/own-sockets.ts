/** The sockets of a network context, as those who made them know them. */
import { endianness } from 'node:os';
import type { IpPrefix } from '../base/ip.ts';
import type { KernelSocket, SocketEnd } from '../sys/sock-diag.ts';
import { ADDRESS_BYTES, contains, isIpv4, MAPPED_BITS, type Network } from './address.ts';
import { PROTOCOL } from './fence-code.ts';
import { loopback4, loopback6 } from './fence-elements.ts';
import { BINDING, KIND, PORT, STATE, STATE_FLAG } from './fence-maps.ts';
import type { Nid } from './rules.ts';

const LE = endianness() === 'LE';
const TCP_SYN_RECEIVED = 3;
const TCP_TIME_WAIT = 6;
const UNCONNECTED = 7;
const ANY4 = new Uint8Array(4);
const ANY6 = new Uint8Array(16);
const MAPPED = Uint8Array.of(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff);
const LOCALHOST4 = Uint8Array.of(127, 0, 0, 1);
const LOCALHOST6 = Uint8Array.of(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1);

/** Returns the networks in one of which the own address of each of a context's sockets is; a few of others may be there too. */
export function placesOf(own: readonly Network[]): readonly IpPrefix[] {
  return [
    ...own.map(
      ({ address, prefix }): IpPrefix =>
        isIpv4(address) && prefix >= MAPPED_BITS
          ? { family: 4, bytes: address.subarray(MAPPED.length), length: prefix - MAPPED_BITS }
          : { family: 6, bytes: address, length: prefix },
    ),
    { family: 4, bytes: ANY4, length: 32 },
    { family: 6, bytes: ANY6, length: 128 },
  ];
}

/** Which of a context's datagram sockets, and how many of all. */
export interface SocketChoice {
  /** Whether a user of the host is one that the context's sockets belong to. */
  readonly isUser: (uid: number) => boolean;
  readonly most: number;
}

/**
 * Returns those of the kernel's TCP sockets that are a context's, with the addresses and ports that they were asked for.
 * What has no socket any more, or not yet, is whose address it has.
 */
export function ownStreams(
  sockets: readonly KernelSocket[],
  nid: Nid,
  own: readonly Network[],
): readonly KernelSocket[] {
  return sockets.flatMap((socket) => {
    const { storage, state, local } = socket;
    if (storage === undefined) {
      const isNone = state === TCP_TIME_WAIT || state === TCP_SYN_RECEIVED;
      return isNone && isOwn(local, own) ? [socket] : [];
    }
    const view = new DataView(storage.buffer, storage.byteOffset, storage.length);
    const flags = view.getUint16(STATE.flags, LE);
    if (view.getUint32(STATE.nid, LE) !== nid || (flags & STATE_FLAG.pass) !== 0) return [];
    // What was accepted has a copy of the listener's.
    if (view.getBigUint64(STATE.cookie, LE) !== socket.cookie) return [socket];
    const port = (flags & STATE_FLAG.moved) === 0 ? local.port : view.getUint16(STATE.port, LE);
    const kind = (flags & STATE_FLAG.wild) === 0 ? KIND.exact : view.getUint8(STATE.kind);
    return [{ ...socket, local: { address: asBound(local.address, kind), port } }];
  });
}

/** As `ownStreams` of UDP: at an address of the context, or at none and of a user of its own. */
export function ownDatagrams(
  sockets: readonly KernelSocket[],
  own: readonly Network[],
  isUser: SocketChoice['isUser'],
): readonly KernelSocket[] {
  return sockets.filter(
    ({ local, uid }) => isOwn(local, own) || (local.address.every((byte) => byte === 0) && isUser(uid)),
  );
}

/** What `ports` may know a datagram socket's binding by: its address, all of IPv4, all of IPv6. */
const DATAGRAM_KINDS = [KIND.exact, KIND.any4, KIND.any6] as const;

/** Returns the keys of `ports`, by their kinds. */
export function bindingKeys({ local }: KernelSocket, nid: Nid): readonly Uint8Array[] {
  return DATAGRAM_KINDS.map((kind) => {
    const key = new Uint8Array(PORT.bytes);
    const view = new DataView(key.buffer);
    view.setUint32(PORT.nid, nid, LE);
    view.setUint16(PORT.port, local.port, LE);
    key.set([PROTOCOL.udp, kind], PORT.protocol);
    if (kind === KIND.exact) key.set(mapped(local.address), PORT.address);
    return key;
  });
}

/** Returns a datagram socket as it was bound: `values` are what `ports` has at its keys, zeros where there is nothing. */
export function asDatagramBound(socket: KernelSocket, values: Uint8Array): KernelSocket {
  const view = new DataView(values.buffer, values.byteOffset, values.length);
  const isThere = (i: number): boolean => view.getBigUint64(i * BINDING.bytes + BINDING.count, LE) > 0n;
  const kind = socket.state === UNCONNECTED ? DATAGRAM_KINDS.find((_, i) => isThere(i)) : undefined;
  const { address, port } = socket.local;
  return { ...socket, local: { address: asBound(address, kind ?? KIND.exact), port } };
}

/** The address that a socket at `address` was bound to. */
function asBound(address: Uint8Array, kind: number): Uint8Array {
  if (kind === KIND.exact) return address;
  if (address.length === ANY4.length) return ANY4;
  return kind === KIND.any6 ? ANY6 : Uint8Array.of(...MAPPED, ...ANY4);
}

/** Returns a socket with its context's own loopback as everybody's. */
export function withLocalhost<T extends { readonly local: SocketEnd; readonly peer: SocketEnd }>(
  socket: T,
  nid: Nid,
): T {
  const end = ({ address, port }: SocketEnd): SocketEnd => ({ address: localhost(address, nid), port });
  return { ...socket, local: end(socket.local), peer: end(socket.peer) };
}

function localhost(address: Uint8Array, nid: Nid): Uint8Array {
  const whole = mapped(address);
  if (isSame(whole, loopback4(nid)))
    return address.length === 4 ? LOCALHOST4 : Uint8Array.of(...MAPPED, ...LOCALHOST4);
  return isSame(whole, loopback6(nid)) ? LOCALHOST6 : address;
}

function mapped(address: Uint8Array): Uint8Array {
  return address.length === 4 ? Uint8Array.of(...MAPPED, ...address) : address;
}

function isOwn({ address }: SocketEnd, own: readonly Network[]): boolean {
  const host = { address: mapped(address), prefix: 8 * ADDRESS_BYTES };
  return own.some((one) => contains(one, host));
}

function isSame(one: Uint8Array, other: Uint8Array): boolean {
  return Buffer.compare(one, other) === 0;
}
