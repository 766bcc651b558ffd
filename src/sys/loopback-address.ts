/** Steps that put an IPv6 address on the loopback device of a network namespace (rtnetlink(7)). */
import { ownAddress, planRouteSocket } from './netlink.ts';
import type { Program } from './program.ts';

/** The loopback device is the first of every namespace. */
const LOOPBACK_INDEX = 1;

/** Returns the message that adds or removes an address. */
export function encodeLoopbackAddress(action: 'add' | 'remove', address: Uint8Array): Uint8Array {
  return ownAddress(action, LOOPBACK_INDEX, address);
}

/** Adds the steps that do it; a host without IPv6 goes without. */
export function planLoopbackAddress(p: Program, action: 'add' | 'remove', address: Uint8Array): void {
  const message = encodeLoopbackAddress(action, address);
  const socket = planRouteSocket(p);
  p.sys('sendto', [socket, message, message.length, 0, 0, 0], { about: `${action} own ::1`, ignore: [] });
  p.sys('close', [socket]);
}
