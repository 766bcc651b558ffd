/** Parts of the fence's programs that decide whom a context may reach, and from which address. */
import { type FenceCode, FRAME, networkOrder, PROTOCOL, reg } from './fence-code.ts';
import {
  FLOW,
  NETWORK,
  NETWORK_FLAG,
  OWNER_FLAG,
  RULE,
  RULES_PER_NETWORK,
  STATE,
  VERDICT,
} from './fence-maps.ts';
import { METADATA4, METADATA6, TRANSLATED, WIRE_SERVER } from './metadata.ts';

const DNS_PORT = 53;

/** Refuses unless the other context, r9, and the socket's may reach each other. */
export function checkPeer(f: FenceCode): void {
  const { a } = f;
  const [allowed, known, other] = [a.fresh('peer'), a.fresh('peer is there'), a.fresh('no loopback')];
  a.load(1, 10, FRAME.ownerFlags, 8).and(1, OWNER_FLAG.loopback).jumpIf(1, '==', 0, other);
  f.refuse('loopback', 'EPERM');
  a.label(other).store(10, FRAME.small, reg(9), 4);
  f.lookup('networks', FRAME.small);
  a.jumpIf(0, '!=', 0, known);
  f.refuse('guest', 'EPERM');
  a.label(known).load(1, 0, NETWORK.groups, 8).load(2, 8, NETWORK.groups, 8).alu(1, '&', reg(2));
  a.jumpIf(1, '!=', 0, allowed).load(1, 7, STATE.nid, 4);
  a.store(10, FRAME.small, reg(1), 4).store(10, FRAME.small + 4, reg(9), 4);
  f.lookup('peers', FRAME.small);
  a.jumpIf(0, '!=', 0, allowed).load(1, 7, STATE.nid, 4);
  a.store(10, FRAME.small, reg(9), 4).store(10, FRAME.small + 4, reg(1), 4);
  f.lookup('peers', FRAME.small);
  a.jumpIf(0, '!=', 0, allowed);
  f.refuse('guest', 'EPERM');
  a.label(allowed);
}

/**
 * Refuses unless the context may send to the address on the stack at `remote`, which is nobody's of ours, at the port
 * and with the protocol in the frame.
 */
export function checkOutside(f: FenceCode, ip: 4 | 6): void {
  const { a } = f;
  const at = FRAME.remote;
  const [allowed, noLoopback, noMetadata, noMulticast, denied] = [
    a.fresh('outside is allowed'),
    a.fresh('outside, no loopback'),
    a.fresh('outside, no metadata'),
    a.fresh('outside, no multicast'),
    a.fresh('outside is denied'),
  ];

  if (ip === 4) a.load(1, 10, at + 12, 1).jumpIf(1, '!=', 127, noLoopback);
  else f.unlessWords(at, [0, 0, 0, 1], noLoopback);
  // An echo of the host's loopback tells nothing; the address is not the context's own in an ICMP socket only.
  a.load(1, 10, FRAME.protocol, 8);
  a.jumpIf(1, '==', ip === 4 ? PROTOCOL.icmp : PROTOCOL.icmp6, allowed);
  f.refuse('loopback', 'EPERM');

  a.label(noLoopback);
  f.ifNetworkFlag(NETWORK_FLAG.metadataDenied, false, noMetadata);
  unlessMetadata(f, ip, noMetadata);
  f.refuse('metadata', 'EPERM');

  a.label(noMetadata);
  if (ip === 4)
    a.load(1, 10, at + 12, 1)
      .and(1, 0xf0)
      .jumpIf(1, '!=', 0xe0, noMulticast);
  else a.load(1, 10, at, 1).jumpIf(1, '!=', 0xff, noMulticast);
  f.ifNetworkFlag(NETWORK_FLAG.multicast, false, denied);

  a.label(noMulticast);
  f.ifNetworkFlag(NETWORK_FLAG.rules, false, allowed);
  f.prefixKey(at);
  f.lookup('policy', FRAME.prefixKey);
  a.jumpIf(0, '==', 0, denied);
  evaluateRules(f, allowed, denied);
  a.label(denied);
  unlessAnswer(f, allowed);
  f.refuse('policy', 'EPERM');
  a.label(allowed);
}

/** Goes to a label unless the address on the stack at `remote` is one of a cloud's metadata service. */
function unlessMetadata(f: FenceCode, ip: 4 | 6, target: string): void {
  const { a } = f;
  const isOne = a.fresh('metadata');
  if (ip === 6) {
    for (const words of METADATA6) {
      const next = a.fresh('another metadata address');
      f.unlessWords(FRAME.remote, words, next);
      a.goto(isOne).label(next);
    }
    f.unlessWords(FRAME.remote, TRANSLATED, target);
  }
  // The last word of both.
  a.load(1, 10, FRAME.remote + 12, 4);
  for (const word of METADATA4) a.jumpIf32(1, '==', networkOrder(word), isOne);
  a.jumpIf32(1, '!=', networkOrder(WIRE_SERVER), target);
  a.load(1, 10, FRAME.remotePort, 8).jumpIf(1, '==', DNS_PORT, target).label(isOne);
}

/** r0 is a list of rules. */
function evaluateRules(f: FenceCode, allowed: string, denied: string): void {
  const { a } = f;
  a.load(5, 10, FRAME.protocol, 8).load(4, 10, FRAME.remotePort, 8);
  for (let i = 0; i < RULES_PER_NETWORK; i++) {
    const at = i * RULE.bytes;
    const [next, any] = [a.fresh('next rule'), a.fresh('rule of the protocol')];
    a.load(1, 0, at + RULE.verdict, 1).jumpIf(1, '==', 0, denied);
    a.load(2, 0, at + RULE.protocol, 1)
      .jumpIf(2, '==', 0, any)
      .jumpIf(2, '!=', reg(5), next)
      .label(any);
    a.load(2, 0, at + RULE.from, 2).jumpIf(4, '<', reg(2), next);
    a.load(2, 0, at + RULE.to, 2).jumpIf(4, '>', reg(2), next);
    a.jumpIf(1, '==', VERDICT.allow, allowed).goto(denied).label(next);
  }
}

/** Goes to a label if UDP came from there before. */
function unlessAnswer(f: FenceCode, allowed: string): void {
  const { a } = f;
  const no = a.fresh('no answer');
  a.load(1, 10, FRAME.protocol, 8).jumpIf(1, '!=', PROTOCOL.udp, no);
  flowKey(f);
  f.lookup('flows', FRAME.prefixKey);
  a.jumpIf(0, '!=', 0, allowed).label(no);
}

/** Writes the key of a flow, from the addresses and ports in the frame, at `prefixKey` with r1. */
export function flowKey(f: FenceCode): void {
  const { a } = f;
  const at = FRAME.prefixKey;
  a.load(1, 7, STATE.nid, 4).store(10, at + FLOW.nid, reg(1), 4);
  a.load(1, 10, FRAME.ownPort, 8).store(10, at + FLOW.port, reg(1), 2);
  a.load(1, 10, FRAME.remotePort, 8).store(10, at + FLOW.peerPort, reg(1), 2);
  f.copyAddress(10, at + FLOW.address, 10, FRAME.remote);
}

/** Chooses the address to send from into `own`: of the network the peer is in, else the first. Uses r1. */
export function chooseSource(f: FenceCode, ip: 4 | 6, none: string): void {
  const { a } = f;
  const [first, done] = [a.fresh('first address'), a.fresh('source known')];
  const primary = ip === 4 ? NETWORK.primary4 : NETWORK.primary6;
  f.ifNoAddress(primary, none);
  f.ifNetworkFlag(ip === 4 ? NETWORK_FLAG.sources4 : NETWORK_FLAG.sources6, false, first);
  f.prefixKey(FRAME.remote);
  f.lookup('sources', FRAME.prefixKey);
  a.jumpIf(0, '==', 0, first);
  f.copyAddress(10, FRAME.own, 0, 0);
  a.goto(done).label(first);
  f.copyAddress(10, FRAME.own, 8, primary);
  a.label(done);
}
