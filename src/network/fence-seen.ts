/**
 * Parts of the fence's program for packets about `SEEN`: what a UDP socket, or a TCP socket that listens, keeps of the last
 * packet that was found right. The next one between the same addresses and ports is right too, until something is edited. Whoever
 * comes to a listener is asked about his address alone, so there his port may be another one; and a socket that was accepted
 * has a copy of what the listener has seen.
 */
import { SKB } from '../sys/bpf/uapi.ts';
import { type FenceCode, FRAME, MAPPED_WORD, reg } from './fence-code.ts';
import { GLOBALS, SEEN, STATE } from './fence-maps.ts';
import { IP4, IP4_PLAIN, IP6, IS_FRAGMENT } from './ip-headers.ts';

/** Bits of `SEEN.directions`. */
const SEEN_DIRECTION = { out: 1, in: 2 } as const;

/**
 * Goes to a label if a packet is like the last one that was right in its direction, and to another if not, if it is not plain,
 * or if somebody else is at it: nobody waits. Reads the packet where it is; the generation of this is in the frame; uses r1 to r4.
 */
export function ifSeen(
  f: FenceCode,
  ip: 4 | 6,
  direction: 'in' | 'out',
  protocol: 'tcp' | 'udp',
  { yes, no }: { readonly yes: string; readonly no: string },
): void {
  const { a } = f;
  const { bytes, protocol: carried, source, destination } = ip === 4 ? IP4 : IP6;
  const [own, remote] = direction === 'out' ? [source, destination] : [destination, source];
  const [ownPort, remotePort] = direction === 'out' ? [bytes, bytes + 2] : [bytes + 2, bytes];
  a.load(2, 6, SKB.data, 4).load(3, 6, SKB.dataEnd, 4);
  a.move(1, reg(2))
    .alu(1, '+', bytes + 4)
    .jumpIf(1, '>', reg(3), no);
  if (ip === 4) {
    a.load(1, 2, IP4.version, 1).jumpIf(1, '!=', IP4_PLAIN, no);
    a.load(1, 2, IP4.fragment, 2).swapToBigEndian(1, 16).and(1, IS_FRAGMENT).jumpIf(1, '!=', 0, no);
  }
  a.load(1, 2, carried, 1).load(3, 7, STATE.protocol, 1).jumpIf(1, '!=', reg(3), no);
  // No write: what one CPU has written another one has to fetch.
  a.load(4, 7, SEEN.sequence, 4).move(1, reg(4)).and(1, 1).jumpIf(1, '!=', 0, no);
  barrier(f);
  a.loadMapValue(3, 'globals').load(3, 3, GLOBALS.generation, 8).store(10, FRAME.generation, reg(3), 8);
  a.load(1, 7, SEEN.generation, 8).jumpIf(1, '!=', reg(3), no);
  a.load(1, 7, SEEN.directions, 4).and(1, SEEN_DIRECTION[direction]).jumpIf(1, '==', 0, no);
  const compare = (at: number, seen: number, width: 2 | 4): void => {
    a.load(1, 2, at, width).load(3, 7, seen, width).jumpIf(1, '!=', reg(3), no);
  };
  compare(ownPort, SEEN.ownPort, 2);
  if (protocol === 'udp') compare(remotePort, SEEN.remotePort, 2);
  for (const i of ip === 4 ? [0] : [0, 4, 8, 12]) {
    const last = ip === 4 ? 12 : i;
    compare(own + i, SEEN.own + last, 4);
    compare(remote + i, SEEN.remote + last, 4);
  }
  if (ip === 4) {
    a.load(1, 7, SEEN.remote, 8).jumpIf(1, '!=', 0, no);
    a.load(1, 7, SEEN.remote + 8, 4).jumpIf32(1, '!=', MAPPED_WORD, no);
  }
  a.load(2, 7, SEEN.itself, 1);
  barrier(f);
  a.load(1, 7, SEEN.sequence, 4).jumpIf(1, '!=', reg(4), no);
  a.load(1, 7, STATE.itself, 1).jumpIf(1, '==', reg(2), yes).store(7, STATE.itself, reg(2), 1).goto(yes);
}

/**
 * Keeps the packet whose addresses and ports are in the frame, and the generation from before it was looked at.
 * Uses r0 to r5.
 */
export function remember(f: FenceCode, direction: 'in' | 'out'): void {
  const { a } = f;
  const [other, kept, done] = [a.fresh('another one'), a.fresh('kept'), a.fresh('remembered')];
  // A raw socket may have written it, or something of a lower layer be about it.
  a.load(1, 10, FRAME.protocol, 8).load(2, 7, STATE.protocol, 1).jumpIf(1, '!=', reg(2), done);
  const parts = [
    { at: FRAME.generation, seen: SEEN.generation },
    ...[0, 8].flatMap((i) => [
      { at: FRAME.own + i, seen: SEEN.own + i },
      { at: FRAME.remote + i, seen: SEEN.remote + i },
    ]),
  ];
  const ports = [
    { at: FRAME.ownPort, seen: SEEN.ownPort },
    { at: FRAME.remotePort, seen: SEEN.remotePort },
  ];
  lock(f, done);
  for (const { at, seen } of parts) a.load(1, 10, at, 8).load(2, 7, seen, 8).jumpIf(1, '!=', reg(2), other);
  for (const { at, seen } of ports)
    a.load(1, 10, at, 8).swapToBigEndian(1, 16).load(2, 7, seen, 2).jumpIf(1, '!=', reg(2), other);
  a.load(1, 7, SEEN.directions, 4).alu(1, '|', SEEN_DIRECTION[direction]);
  a.store(7, SEEN.directions, reg(1), 4).goto(kept).label(other);
  for (const { at, seen } of parts) a.load(1, 10, at, 8).store(7, seen, reg(1), 8);
  for (const { at, seen } of ports) a.load(1, 10, at, 8).swapToBigEndian(1, 16).store(7, seen, reg(1), 2);
  a.load(1, 7, STATE.itself, 1).store(7, SEEN.itself, reg(1), 1);
  a.store(7, SEEN.directions, SEEN_DIRECTION[direction], 4).label(kept);
  unlock(f);
  a.label(done);
}

/** What was seen is nothing any more: the socket becomes another one. */
export function forgetSeen(f: FenceCode): void {
  f.a.store(7, SEEN.generation, 0, 8);
}

/** Goes to a label if somebody writes: an interrupt of this CPU, or another CPU. r5 = the number from before; uses r0 and r1. */
function lock({ a }: FenceCode, busy: string): void {
  a.load(5, 7, SEEN.sequence, 4).move(1, reg(5)).and(1, 1).jumpIf(1, '!=', 0, busy);
  a.move(0, reg(5)).move(1, reg(5)).alu(1, '+', 1).atomicCompareExchange(7, SEEN.sequence, 1);
  a.jumpIf32(0, '!=', reg(5), busy);
}

function unlock({ a }: FenceCode): void {
  a.move(1, reg(5)).alu(1, '+', 2).atomicExchange(7, SEEN.sequence, 1);
}

/** What is before it is read before what is after it: any exchange does that, here one with the stack. Uses r1. */
function barrier({ a }: FenceCode): void {
  a.move(1, 0).store(10, FRAME.small, 0, 4).atomicExchange(10, FRAME.small, 1);
}
