/** Programs of the fence about packets: the last word on who talks to whom, the counters and limits. */
import type { EbpfProgram } from '../sys/bpf/assembler.ts';
import { SKB, SOCK } from '../sys/bpf/uapi.ts';
import { FenceCode, type FenceTarget, FRAME, MULTICAST4, PROTOCOL, reg, TCP_LISTEN } from './fence-code.ts';
import {
  COUNTER,
  DIRECTION,
  GLOBAL_FLAG,
  GLOBALS,
  NETWORK,
  NETWORK_FLAG,
  QUOTA,
  QUOTA_FLAG,
  RATE,
  RATE_SHIFT,
  SLOW,
  SPENT,
  STATE,
  STATE_FLAG,
} from './fence-maps.ts';
import { checkOutside, checkPeer, flowKey } from './fence-policy.ts';
import { ifSeen, remember } from './fence-seen.ts';
import { FRAGMENT_OFFSET, IP4, IP4_PLAIN, IP6, ROUTING_HEADER } from './ip-headers.ts';

const ETH_P_IP = 0x0800;
const ETH_P_IPV6 = 0x86dd;
/** What an egress program returns so that TCP sends less; the caller of sendmsg(2) sees no error (Linux 5.3). */
const DROP_AND_SLOW_DOWN = 2;

/**
 * What socket a packet is of decides how much is looked at: of a TCP socket with a peer one packet in a generation, for its
 * addresses do not change; of UDP, and of a TCP socket that listens, those that are not as the last one was (`SEEN`).
 */
export function packetProgram(target: FenceTarget, direction: 'in' | 'out'): EbpfProgram {
  const f = new FenceCode(target, 'packet', direction);
  const { a } = f;
  f.loadState();
  a.load(1, 6, SKB.protocol, 4).swapToBigEndian(1, 16);
  a.jumpIf(1, '==', ETH_P_IP, 'IPv4').jumpIf(1, '==', ETH_P_IPV6, 'IPv6').goto('pass');
  for (const ip of [4, 6] as const) {
    const [unknownTcp, noTcp, seen, unknown] = [
      `IPv${ip}, unknown TCP`,
      `IPv${ip}, not TCP`,
      `IPv${ip}, UDP as seen`,
      `IPv${ip}, unknown`,
    ];
    a.label(`IPv${ip}`).load(1, 7, STATE.protocol, 1).jumpIf(1, '!=', PROTOCOL.tcp, noTcp);
    count(f, ip, direction, 'tcp');
    ifVerified(f, 'as seen');
    // Of one who began, policy asks where each connection goes.
    f.ifStateFlag(STATE_FLAG.active, true, unknownTcp);
    ifSeen(f, ip, direction, 'tcp', { yes: 'TCP as seen', no: unknownTcp });
    a.label(unknownTcp);
    readHeader(f, ip, direction);
    a.goto(unknown).label(noTcp).jumpIf(1, '!=', PROTOCOL.udp, `IPv${ip}, not as seen`);
    ifSeen(f, ip, direction, 'udp', { yes: seen, no: `IPv${ip}, not as seen` });
    a.label(seen);
    count(f, ip, direction, 'udp');
    a.goto('as seen').label(`IPv${ip}, not as seen`);
    readHeader(f, ip, direction);
    count(f, ip, direction, 'of the header');
    a.label(unknown);
    f.loadNetwork();
    if (direction === 'out') checkHeader(f, ip);
    readPorts(f, ip, direction);
    if (direction === 'out') {
      checkEcho(f, ip);
      checkSent(f, ip);
    } else checkReceived(f, ip);
    a.goto(`IPv${ip} is right`);
    a.label(`IPv${ip} to itself`).store(7, STATE.itself, 1, 1);
    a.label(`IPv${ip} is right`).load(1, 7, STATE.protocol, 1).jumpIf(1, '==', PROTOCOL.udp, 'remember it');
    a.jumpIf(1, '!=', PROTOCOL.tcp, 'right');
    unlessListening(f, 'has its peer');
    a.goto('remember it');
  }
  a.label('has its peer').load(1, 10, FRAME.generation, 8).store(7, STATE.verified, reg(1), 8).goto('right');
  a.label('remember it');
  remember(f, direction);
  a.goto('right').label('TCP as seen');
  unlessListening(f, 'has the peer seen');
  a.goto('as seen').label('has the peer seen');
  a.load(1, 10, FRAME.generation, 8).store(7, STATE.verified, reg(1), 8).label('as seen');
  ifUnlimited(f, 'pass');
  f.clearFrame();
  a.load(1, 7, STATE.protocol, 1).store(10, FRAME.protocol, reg(1), 8).goto('limits').label('right');
  ifUnlimited(f, 'pass');
  a.label('limits');
  limitTraffic(f, direction);
  return f.finish();
}

/** Goes to a label if nobody has a limited bandwidth or a quota; else r8 = flags of all contexts. Uses r1. */
function ifUnlimited({ a }: FenceCode, target: string): void {
  a.loadMapValue(1, 'globals').load(8, 1, GLOBALS.flags, 4).move(1, reg(8));
  a.and(1, GLOBAL_FLAG.rates | GLOBAL_FLAG.quotas).jumpIf(1, '==', 0, target);
}

/** Goes to a label unless the socket listens for TCP; uses r1. */
function unlessListening({ a }: FenceCode, target: string): void {
  a.load(1, 6, SKB.socket, 8).jumpIf(1, '==', 0, 'pass').load(1, 1, SOCK.state, 4);
  a.jumpIf(1, '!=', TCP_LISTEN, target);
}

/**
 * Counts the packet against the context's quota, and drops it if that or the bandwidth is used up. r8 = flags of all contexts.
 * Leaves for `pass`.
 */
function limitTraffic(f: FenceCode, direction: 'in' | 'out'): void {
  const { a } = f;
  a.call('ktime_get_boot_ns').move(9, reg(0));
  a.store(10, FRAME.spent, 0, 8);
  a.and(8, GLOBAL_FLAG.quotas).move(1, reg(8)).move(8, DIRECTION[direction]).jumpIf(1, '==', 0, 'metered');
  checkQuota(f, direction);
  a.label('metered');
  limitRate(f, direction);
  a.label('goes').load(1, 10, FRAME.spent, 8).jumpIf(1, '==', 0, 'pass');
  a.load(2, 6, SKB.length, 4).atomicAdd(1, SPENT.used, 2).goto('pass');
}

/**
 * r8 = direction of the bucket that the packet is for: another one when the quota is used up. The place where the packet
 * counts goes into the frame. r9 = now.
 */
function checkQuota(f: FenceCode, direction: 'in' | 'out'): void {
  const { a } = f;
  const [limit, flags, number] = [FRAME.quota, FRAME.quota + 8, FRAME.quota + 16];
  a.load(1, 7, STATE.itself, 1).jumpIf(1, '!=', 0, 'metered');
  a.load(1, 7, STATE.nid, 4).store(10, FRAME.small, reg(1), 4);
  f.lookup('quotas', FRAME.small);
  a.jumpIf(0, '==', 0, 'metered').load(1, 0, QUOTA.flags, 4).store(10, flags, reg(1), 8);
  a.and(1, QUOTA_FLAG[direction]).jumpIf(1, '==', 0, 'metered');
  a.load(1, 0, QUOTA.limit, 8).store(10, limit, reg(1), 8).load(1, 0, QUOTA.numbers, 4);
  for (const i of [0, 1]) {
    a.load(2, 0, QUOTA.ends + 8 * i, 8).jumpIf(9, '<', reg(2), 'period known');
    a.load(1, 0, QUOTA.numbers + 4 * (i + 1), 4);
  }
  a.label('period known').store(10, number, reg(1), 8);
  f.lookup('spent', FRAME.small);
  a.jumpIf(0, '==', 0, 'metered').load(1, 10, number, 8);
  // Never back: the clock that numbers come of may be set.
  a.load(2, 0, SPENT.period, 8).jumpIf(2, '>=', reg(1), 'same period');
  a.store(0, SPENT.used, 0, 8).store(0, SPENT.period, reg(1), 8).label('same period');
  a.load(1, 0, SPENT.used, 8).load(2, 10, limit, 8).jumpIf(1, '<', reg(2), 'spend');
  a.load(1, 10, flags, 8).move(2, reg(1)).and(2, QUOTA_FLAG.deny).jumpIf(2, '==', 0, 'goes on');
  f.refuse('quota', 'EPERM');
  a.label('goes on').and(1, QUOTA_FLAG.slow).jumpIf(1, '==', 0, 'spend').alu(8, '+', SLOW);
  a.label('spend').store(10, FRAME.spent, reg(0), 8);
}

/** Drops the packet if the bucket of direction r8 is empty: a token bucket, kept as the time it is full up to. r9 = now. */
function limitRate(f: FenceCode, direction: 'in' | 'out'): void {
  const { a } = f;
  a.load(1, 7, STATE.nid, 4)
    .store(10, FRAME.small, reg(1), 4)
    .store(10, FRAME.small + 4, reg(8), 4);
  f.lookup('rates', FRAME.small);
  a.jumpIf(0, '==', 0, 'goes').load(1, 0, RATE.time, 8).load(2, 0, RATE.burst, 8).move(3, 0);
  a.jumpIf(9, '<', reg(2), 'a burst ago').move(3, reg(9)).alu(3, '-', reg(2)).label('a burst ago');
  a.jumpIf(1, '>=', reg(3), 'bucket').move(1, reg(3)).label('bucket');
  a.load(3, 6, SKB.length, 4).load(2, 0, RATE.perByte, 8).alu(3, '*', reg(2)).alu(3, '>>', RATE_SHIFT);
  a.alu(1, '+', reg(3)).jumpIf(1, '>', reg(9), 'too fast').store(0, RATE.time, reg(1), 8).goto('goes');
  a.label('too fast')
    .move(0, direction === 'out' ? DROP_AND_SLOW_DOWN : 0)
    .exit();
}

/** Protocol and addresses into the frame, and what generation they are looked at in: an edit meanwhile makes it an old one. */
function readHeader(f: FenceCode, ip: 4 | 6, direction: 'in' | 'out'): void {
  const { a } = f;
  a.loadMapValue(1, 'globals').load(1, 1, GLOBALS.generation, 8).store(10, FRAME.generation, reg(1), 8);
  a.store(7, STATE.itself, 0, 1);
  f.clearFrame();
  const { bytes, protocol, source, destination } = ip === 4 ? IP4 : IP6;
  a.move(1, reg(6)).move(2, 0).move(3, reg(10)).alu(3, '+', FRAME.header).move(4, bytes);
  a.call('skb_load_bytes').jumpIf(0, '!=', 0, 'pass');
  a.load(1, 10, FRAME.header + protocol, 1).store(10, FRAME.protocol, reg(1), 8);
  for (const [field, at] of [
    [source, direction === 'out' ? FRAME.own : FRAME.remote],
    [destination, direction === 'out' ? FRAME.remote : FRAME.own],
  ] as const) {
    if (ip === 4) {
      a.load(2, 10, FRAME.header + field, 4);
      f.storeMapped(at, 2);
    } else {
      f.copyAddress(10, at, 10, FRAME.header + field);
    }
  }
}

/** Adds the packet to the context's counters of this CPU, of a protocol or of that in the frame; uses r1 to r3. */
function count(
  f: FenceCode,
  ip: 4 | 6,
  direction: 'in' | 'out',
  protocol: 'tcp' | 'udp' | 'of the header',
): void {
  const { a } = f;
  const [add, none] = [a.fresh('count'), a.fresh('no counters')];
  const kinds = (ip === 4 ? 0 : 3) + (protocol === 'udp' ? 1 : 0);
  const side = direction === 'out' ? COUNTER.sent : 0;
  a.loadMap(1, 'counters').move(2, reg(7)).call('map_lookup_elem').jumpIf(0, '==', 0, none);
  a.move(2, reg(0)).alu(2, '+', COUNTER.kindBytes * kinds + side);
  if (protocol === 'of the header') {
    a.load(1, 10, FRAME.protocol, 8).jumpIf(1, '==', PROTOCOL.tcp, add).alu(2, '+', COUNTER.kindBytes);
    a.jumpIf(1, '==', PROTOCOL.udp, add).alu(2, '+', COUNTER.kindBytes);
  }
  a.label(add).load(1, 2, COUNTER.packets, 8).alu(1, '+', 1).store(2, COUNTER.packets, reg(1), 8);
  a.load(3, 6, SKB.length, 4).load(1, 2, COUNTER.contents, 8).alu(1, '+', reg(3));
  a.store(2, COUNTER.contents, reg(1), 8).label(none);
}

/** Goes to a label if the socket's peer was found right since the last edit; uses r1 and r2. */
function ifVerified(f: FenceCode, target: string): void {
  const { a } = f;
  const no = a.fresh('not verified');
  a.load(1, 7, STATE.verified, 8).jumpIf(1, '==', 0, no);
  a.loadMapValue(2, 'globals').load(2, 2, GLOBALS.generation, 8).jumpIf(1, '==', reg(2), target).label(no);
}

/** Ports into the frame, where there are any: not in later fragments, not behind extension headers. */
function readPorts(f: FenceCode, ip: 4 | 6, direction: 'in' | 'out'): void {
  const { a } = f;
  const [none, has] = [a.fresh('no ports'), a.fresh('has ports')];
  a.load(1, 10, FRAME.protocol, 8).jumpIf(1, '==', PROTOCOL.tcp, has).jumpIf(1, '!=', PROTOCOL.udp, none);
  a.label(has);
  if (ip === 4) {
    a.load(1, 10, FRAME.header + IP4.fragment, 2)
      .swapToBigEndian(1, 16)
      .and(1, FRAGMENT_OFFSET);
    a.jumpIf(1, '!=', 0, none);
  }
  loadPayloadOffset(f, ip);
  a.move(1, reg(6)).move(3, reg(10)).alu(3, '+', FRAME.small).move(4, 4).call('skb_load_bytes');
  a.jumpIf(0, '!=', 0, none);
  const [source, destination] =
    direction === 'out' ? [FRAME.ownPort, FRAME.remotePort] : [FRAME.remotePort, FRAME.ownPort];
  a.load(1, 10, FRAME.small, 2).swapToBigEndian(1, 16).store(10, source, reg(1), 8);
  a.load(1, 10, FRAME.small + 2, 2)
    .swapToBigEndian(1, 16)
    .store(10, destination, reg(1), 8);
  a.label(none);
}

/** ICMP_ECHO, ICMP_TIMESTAMP; ICMPV6_ECHO_REQUEST: asking, which is all that an ICMP socket is for. */
const QUESTIONS = { 4: [8, 13], 6: [128] } as const;

/** What a socket of ICMP sends is a question, unless the context may have all raw sockets: no redirect, no advertisement. */
function checkEcho(f: FenceCode, ip: 4 | 6): void {
  const { a } = f;
  const icmp = ip === 4 ? PROTOCOL.icmp : PROTOCOL.icmp6;
  const [right, wrong] = [a.fresh('a question, or no ICMP'), a.fresh('no question')];
  a.load(1, 7, STATE.protocol, 1).jumpIf(1, '!=', icmp, right);
  f.ifNetworkFlag(NETWORK_FLAG.raw, true, right);
  a.load(1, 10, FRAME.protocol, 8).jumpIf(1, '!=', icmp, wrong);
  loadPayloadOffset(f, ip);
  a.move(1, reg(6)).move(3, reg(10)).alu(3, '+', FRAME.small).move(4, 1).call('skb_load_bytes');
  a.jumpIf(0, '!=', 0, wrong).load(1, 10, FRAME.small, 1);
  for (const type of QUESTIONS[ip]) a.jumpIf(1, '==', type, right);
  a.label(wrong);
  f.refuse('socket-type', 'EPERM');
  a.label(right);
}

/** r2 = where what the IP header carries begins. */
function loadPayloadOffset(f: FenceCode, ip: 4 | 6): void {
  if (ip === 6) f.a.move(2, IP6.bytes);
  else
    f.a
      .load(2, 10, FRAME.header + IP4.version, 1)
      .and(2, 0xf)
      .alu(2, '<<', 2);
}

/** A route of the sender's choice, which a message can ask for (IP_RETOPTS, IPV6_RTHDR), leads to whom nobody checked. */
function checkHeader(f: FenceCode, ip: 4 | 6): void {
  const { a } = f;
  const plain = a.fresh('plain header');
  if (ip === 4) a.load(1, 10, FRAME.header + IP4.version, 1).jumpIf(1, '==', IP4_PLAIN, plain);
  else a.load(1, 10, FRAME.protocol, 8).jumpIf(1, '!=', ROUTING_HEADER, plain);
  f.refuse('socket-option', 'EPERM');
  a.label(plain);
}

/** What leaves must come from an address of the context's, and go where it may. */
function checkSent(f: FenceCode, ip: 4 | 6): void {
  const { a } = f;
  const right = `IPv${ip} is right`;
  const itself = `IPv${ip} to itself`;
  const [spoofed, outside, mine] = [
    a.fresh('foreign source'),
    a.fresh('outside'),
    a.fresh('source is right'),
  ];
  f.ownerOf(FRAME.own);
  f.ifMine(false, spoofed);
  a.goto(mine).label(spoofed);
  f.copyAddress(10, FRAME.remote, 10, FRAME.own);
  f.refuse('foreign-address', 'EPERM');
  a.label(mine);
  f.ownerOf(FRAME.remote);
  a.jumpIf(9, '==', 0, outside);
  f.ifMine(true, itself);
  checkPeer(f);
  a.goto(right).label(outside);
  // What was accepted answers: policy is about who begins.
  const begins = a.fresh('begins');
  a.load(1, 7, STATE.protocol, 1).jumpIf(1, '!=', PROTOCOL.tcp, begins);
  f.ifStateFlag(STATE_FLAG.active, false, right);
  a.label(begins);
  checkOutside(f, ip);
}

/** What arrives must be for the context, and from one who may reach it. */
function checkReceived(f: FenceCode, ip: 4 | 6): void {
  const { a } = f;
  const right = `IPv${ip} is right`;
  const itself = `IPv${ip} to itself`;
  const [mine, foreign, group, noFlow, outside, noLoopback] = [
    a.fresh('for us'),
    a.fresh('not for us'),
    a.fresh('group or broadcast'),
    a.fresh('no flow'),
    a.fresh('from outside'),
    a.fresh('no loopback'),
  ];
  f.ownerOf(FRAME.own);
  f.ifMine(true, mine);
  if (ip === 4) {
    a.load(1, 10, FRAME.own + 12, 1).jumpIf(1, '>=', MULTICAST4, group);
    f.unlessSame(FRAME.own, NETWORK.broadcast4, foreign);
  } else {
    a.load(1, 10, FRAME.own, 1).jumpIf(1, '!=', 0xff, foreign);
  }
  a.label(group);
  f.ifNetworkFlag(NETWORK_FLAG.multicast, true, mine);
  a.label(foreign);
  f.refuse('foreign-address', 'EPERM');

  a.label(mine);
  // At an address the host shares, the kernel finds a listener also by the port it really has: nobody is to come that way.
  const asked = a.fresh('asked port');
  f.ifStateFlag(STATE_FLAG.moved, false, asked);
  a.load(1, 7, STATE.port, 2).load(2, 10, FRAME.ownPort, 8).jumpIf(1, '==', reg(2), asked);
  f.refuse('foreign-address', 'EPERM');
  a.label(asked);
  f.ownerOf(FRAME.remote);
  a.jumpIf(9, '==', 0, outside);
  f.ifMine(true, itself);
  checkPeer(f);
  a.goto(right).label(outside);
  if (ip === 4) a.load(1, 10, FRAME.remote + 12, 1).jumpIf(1, '!=', 127, noLoopback);
  else f.unlessLoopback(FRAME.remote, 6, false, noLoopback);
  a.load(1, 10, FRAME.protocol, 8);
  a.jumpIf(1, '==', ip === 4 ? PROTOCOL.icmp : PROTOCOL.icmp6, right);
  f.refuse('loopback', 'EPERM');
  a.label(noLoopback);
  // Whoever sends UDP to the context may be answered, whatever policy says about beginning, and from the address asked.
  const [note, known] = [a.fresh('note flow'), a.fresh('flow is known')];
  a.load(1, 10, FRAME.protocol, 8).jumpIf(1, '!=', PROTOCOL.udp, noFlow);
  f.ifNetworkFlag(NETWORK_FLAG.rules, true, note).ifStateFlag(STATE_FLAG.wild, false, noFlow);
  f.ifNetworkFlag(NETWORK_FLAG.sources4 | NETWORK_FLAG.sources6, false, noFlow);
  a.label(note);
  flowKey(f);
  f.lookup('flows', FRAME.prefixKey);
  a.jumpIf(0, '!=', 0, known);
  f.update('flows', FRAME.prefixKey, FRAME.own, 0);
  // Each packet has to be noted: the map forgets what it has not seen for long.
  a.goto('right').label(known);
  f.copyAddress(0, 0, 10, FRAME.own);
  a.goto('right').label(noFlow);
}
