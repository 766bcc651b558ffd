/** Steps that put an IPv6 address on the loopback device of a network namespace (rtnetlink(7)). */
import { endianness } from 'node:os';
import type { Program } from './program.ts';

const RTM_NEWADDR = 20;
const RTM_DELADDR = 21;
const NLM_F_REQUEST = 1;
const NLM_F_CREATE_OR_REPLACE = 0x500;
const IFA = { address: 1, local: 2, cacheInfo: 6, flags: 8 } as const;
const IFA_F_NODAD = 2;
const AF_INET6 = 10;
const AF_NETLINK = 16;
const SOCK_RAW = 3;
const SOCK_CLOEXEC_RAW = 0o2000000 | SOCK_RAW;
const HOST_SCOPE = 254;
/** The loopback device is the first of every namespace. */
const LOOPBACK_INDEX = 1;
const FOREVER = 0xffffffff;
const HEADER_BYTES = 16 + 8;

/**
 * Returns the message that adds or removes an address, all of whose bits are its prefix. It is deprecated from the start:
 * nothing on the host chooses it to send from.
 */
export function encodeLoopbackAddress(action: 'add' | 'remove', address: Uint8Array): Uint8Array {
  const le = endianness() === 'LE';
  const attributes: readonly (readonly [number, Uint8Array])[] = [
    [IFA.local, address],
    [IFA.address, address],
    [IFA.flags, new Uint8Array(Uint32Array.of(IFA_F_NODAD).buffer)],
    [IFA.cacheInfo, new Uint8Array(Uint32Array.of(0, FOREVER, 0, 0).buffer)],
  ];
  const total = attributes.reduce((sum, [, value]) => sum + 4 + value.length, HEADER_BYTES);
  const bytes = new Uint8Array(total);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, total, le);
  view.setUint16(4, action === 'add' ? RTM_NEWADDR : RTM_DELADDR, le);
  view.setUint16(6, NLM_F_REQUEST | (action === 'add' ? NLM_F_CREATE_OR_REPLACE : 0), le);
  bytes.set([AF_INET6, 128, 0, HOST_SCOPE], 16);
  view.setUint32(20, LOOPBACK_INDEX, le);
  let at = HEADER_BYTES;
  for (const [type, value] of attributes) {
    view.setUint16(at, 4 + value.length, le);
    view.setUint16(at + 2, type, le);
    bytes.set(value, at + 4);
    at += 4 + value.length;
  }
  return bytes;
}

/** Adds the steps that do it; a host without IPv6 goes without. */
export function planLoopbackAddress(p: Program, action: 'add' | 'remove', address: Uint8Array): void {
  const message = encodeLoopbackAddress(action, address);
  const socket = p.sys('socket', [AF_NETLINK, SOCK_CLOEXEC_RAW, 0], { about: 'netlink' });
  p.sys('sendto', [socket, message, message.length, 0, 0, 0], { about: `${action} own ::1`, ignore: [] });
  p.sys('close', [socket]);
}
