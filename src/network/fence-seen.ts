/**
 * Parts of the fence's program for packets about `SEEN`: what a UDP socket, or a TCP socket that listens, keeps of the last
 * packet that was found right. The next one between the same addresses and ports is right too, until something is edited.
 */
import { SKB } from '../sys/bpf/uapi.ts';
import { type FenceCode, FRAME, MAPPED_WORD, reg } from './fence-code.ts';
import { GLOBALS, SEEN, STATE } from './fence-maps.ts';
import { IP4, IP4_PLAIN, IP6, IS_FRAGMENT } from './ip-headers.ts';

/** Bits of `SEEN.directions`. */
const SEEN_DIRECTION = { out: 1, in: 2 } as const;

/**
 * Goes to a label if a packet is like the last one that was right in its direction, and to another if not, if it is not plain,
 * or if somebody else is at it: nobody waits. Reads the packet where it is; uses r1 to r3.
 */
export function ifSeen(f: FenceCode, ip: 4 | 6, direction: 'in' | 'out', yes: string, no: string): void {
  const { a } = f;
  const other = a.fresh('another packet');
  const { bytes, protocol, source, destination } = ip === 4 ? IP4 : IP6;
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
  a.load(1, 2, protocol, 1).load(3, 7, STATE.protocol, 1).jumpIf(1, '!=', reg(3), no);
  lock(f, no);
  a.loadMapValue(3, 'globals').load(3, 3, GLOBALS.generation, 8);
  a.load(1, 7, SEEN.generation, 8).jumpIf(1, '!=', reg(3), other);
  a.load(1, 7, SEEN.directions, 4).and(1, SEEN_DIRECTION[direction]).jumpIf(1, '==', 0, other);
  const compare = (at: number, seen: number, width: 2 | 4): void => {
    a.load(1, 2, at, width).load(3, 7, seen, width).jumpIf(1, '!=', reg(3), other);
  };
  compare(ownPort, SEEN.ownPort, 2);
  compare(remotePort, SEEN.remotePort, 2);
  for (const i of ip === 4 ? [0] : [0, 4, 8, 12]) {
    const last = ip === 4 ? 12 : i;
    compare(own + i, SEEN.own + last, 4);
    compare(remote + i, SEEN.remote + last, 4);
  }
  if (ip === 4) {
    a.load(1, 7, SEEN.remote, 8).jumpIf(1, '!=', 0, other);
    a.load(1, 7, SEEN.remote + 8, 4).jumpIf32(1, '!=', MAPPED_WORD, other);
  }
  unlock(f);
  a.store(7, STATE.itself, 0, 1).goto(yes).label(other);
  unlock(f);
  a.goto(no);
}

/**
 * Keeps the packet whose addresses and ports are in the frame, and the generation from before it was looked at; not one between
 * the context's own addresses. Uses r1 to r3.
 */
export function remember(f: FenceCode, direction: 'in' | 'out'): void {
  const { a } = f;
  const [other, kept, done] = [a.fresh('another one'), a.fresh('kept'), a.fresh('remembered')];
  a.load(1, 7, STATE.itself, 1).jumpIf(1, '!=', 0, done);
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
  a.store(7, SEEN.directions, SEEN_DIRECTION[direction], 4).label(kept);
  unlock(f);
  a.label(done);
}

/** What was seen is nothing any more: the socket becomes another one. */
export function forgetSeen(f: FenceCode): void {
  f.a.store(7, SEEN.generation, 0, 8);
}

/** Goes to a label if somebody has it: an interrupt of this CPU, or another CPU. Uses r1. */
function lock({ a }: FenceCode, busy: string): void {
  a.move(1, 1).atomicExchange(7, SEEN.lock, 1).jumpIf(1, '!=', 0, busy);
}

function unlock({ a }: FenceCode): void {
  a.move(1, 0).atomicExchange(7, SEEN.lock, 1);
}
