/**
 * What the programs of the fence have in common: who the socket belongs to, whose an address is, what policy says, and
 * how something is refused.
 *
 * In all of them r6 is the context, r7 the socket's `state`, r8 the `networks` element of its context.
 */
import { endianness } from 'node:os';
import { EbpfAssembler, type EbpfProgram, type Operand, type Register } from '../sys/bpf/assembler.ts';
import { SKB, SOCK_ADDR, SOCKOPT } from '../sys/bpf/uapi.ts';
import {
  DENIAL,
  DENIED,
  DIRECTION,
  FENCE_MAP_NAMES,
  type FenceMap,
  GLOBAL_FLAG,
  GLOBALS,
  NETWORK,
  OWNER,
  PREFIX,
  STATE,
  STATE_FLAG,
} from './fence-maps.ts';
import type { DenialReason } from './rules.ts';

/** Reasons by their number in `denials`. */
export const REASONS: readonly DenialReason[] = [
  'policy',
  'metadata',
  'loopback',
  'guest',
  'foreign-address',
  'socket-option',
  'socket-type',
  'low-port',
  'too-many',
  'quota',
];

/** Error numbers of this machine that programs return. */
export interface FenceErrnos {
  readonly EPERM: number;
  readonly EACCES: number;
  readonly EADDRINUSE: number;
  readonly EADDRNOTAVAIL: number;
  readonly ENETUNREACH: number;
  readonly ENOBUFS: number;
  readonly EPROTONOSUPPORT: number;
}

/** What all programs of one fence are made for. */
export interface FenceTarget {
  readonly errnos: FenceErrnos;
  /** Depth of a guest's cgroup below the root of the cgroup2 tree. */
  readonly guestLevel: number;
  /** SO_NETNS_COOKIE of the namespace whose sockets are fenced. */
  readonly netnsCookie: bigint;
}

/** Places on the stack, bytes below the frame pointer. */
export const FRAME = {
  /** The other side's address. */
  remote: -16,
  /** Our side's, or the one that is asked for. */
  own: -32,
  prefixKey: -56,
  small: -64,
  portKey: -88,
  binding: -112,
  denialKey: -144,
  denied: -160,
  sockaddr: -192,
  header: -232,
  remotePort: -240,
  protocol: -248,
  reason: -256,
  errno: -264,
  ownerFlags: -272,
  initial: -376,
  ownPort: -384,
  quota: -408,
  spent: -416,
  generation: -424,
} as const;

/** IP protocols; and AF_… and levels that are the same on all architectures. */
export const PROTOCOL = { icmp: 1, tcp: 6, udp: 17, icmp6: 58 } as const;
export const AF_INET = 2;
export const AF_INET6 = 10;
export const TCP_LISTEN = 10;
/** First byte of 224.0.0.0/3: multicast, and 255.255.255.255. */
export const MULTICAST4 = 0xe0;
/** 255.255.255.255, port 1: an ICMP echo socket that connects there gets an address, and no peer (EACCES or ENETUNREACH). */
export const NOWHERE = { address: 0xffffffff, port: 1 } as const;

const IS_LITTLE = endianness() === 'LE';
const ALLOW_LOOKUP_CREATE = 1;

/** Returns the number whose 4 bytes in host order are those of `value` in network order, for use as an immediate. */
export function networkOrder(value: number): number {
  const view = new DataView(new ArrayBuffer(4));
  view.setUint32(0, value);
  return view.getInt32(0, IS_LITTLE);
}

/** What stands before an IPv4 address in 16 bytes, as the third of its words. */
export const MAPPED_WORD: number = networkOrder(0xffff);

/** A register as an operand. */
export const reg = (register: Register): Operand => ({ register });

/** How a program gets at its socket, and so what it is about. */
export type Hook = 'address' | 'socket' | 'option' | 'packet';

/**
 * r0 = owner of an address on the stack (`OWNER`), or on to a label. Ranges are looked for only where a context has one: the
 * host's own datagrams come by here too.
 */
export function findOwner(a: EbpfAssembler, at: number, none: string): void {
  const hit = a.fresh('owned');
  a.loadMap(1, 'addresses').move(2, reg(10)).alu(2, '+', at).call('map_lookup_elem').jumpIf(0, '!=', 0, hit);
  a.loadMapValue(1, 'globals')
    .load(1, 1, GLOBALS.flags, 4)
    .and(1, GLOBAL_FLAG.ranges)
    .jumpIf(1, '==', 0, none);
  a.store(10, FRAME.prefixKey, 128, 4);
  for (const i of [0, 4, 8, 12]) a.load(1, 10, at + i, 4).store(10, FRAME.prefixKey + 4 + i, reg(1), 4);
  a.loadMap(1, 'ranges').move(2, reg(10)).alu(2, '+', FRAME.prefixKey).call('map_lookup_elem');
  a.jumpIf(0, '==', 0, none).label(hit);
}

/** Builds one program of the fence. */
export class FenceCode {
  readonly a: EbpfAssembler = new EbpfAssembler();
  readonly target: FenceTarget;
  readonly hook: Hook;
  readonly direction: 'in' | 'out';

  constructor(target: FenceTarget, hook: Hook, direction: 'in' | 'out' = 'out') {
    this.target = target;
    this.hook = hook;
    this.direction = direction;
    this.a.move(6, reg(1));
    // Most packets need none of it.
    if (hook !== 'packet') this.clearFrame(FRAME.protocol);
  }

  /** What is about the other side is nothing so far. */
  clearFrame(...more: readonly number[]): this {
    for (const at of [FRAME.remote, FRAME.remote + 8, FRAME.remotePort, FRAME.ownPort, ...more])
      this.a.store(10, at, 0, 8);
    return this;
  }

  /** r0 = place of an element, or 0; `key` is on the stack. */
  lookup(map: FenceMap, key: number): this {
    this.a.loadMap(1, map).move(2, reg(10)).alu(2, '+', key).call('map_lookup_elem');
    return this;
  }

  /** Writes an element from the stack. */
  update(map: FenceMap, key: number, value: number, flags: number): this {
    this.a.loadMap(1, map).move(2, reg(10)).alu(2, '+', key).move(3, reg(10)).alu(3, '+', value);
    this.a.move(4, flags).call('map_update_elem');
    return this;
  }

  /** Copies 16 bytes with r1; both places are aligned to 8. */
  copyAddress(to: Register, toAt: number, from: Register, fromAt: number): this {
    for (const i of [0, 8]) this.a.load(1, from, fromAt + i, 8).store(to, toAt + i, reg(1), 8);
    return this;
  }

  /** Writes a register, which holds an IPv4 address as it travels, as 16 bytes on the stack. */
  storeMapped(at: number, address: Register): this {
    this.a
      .store(10, at, 0, 8)
      .store(10, at + 8, MAPPED_WORD, 4)
      .store(10, at + 12, reg(address), 4);
    return this;
  }

  /** Goes to a label unless the 16 bytes on the stack are an IPv4 address; uses r1. */
  unlessMapped(at: number, target: string): this {
    this.a.load(1, 10, at, 8).jumpIf(1, '!=', 0, target);
    this.a.load(1, 10, at + 8, 4).jumpIf32(1, '!=', MAPPED_WORD, target);
    return this;
  }

  /** Goes to a label unless 16 bytes on the stack are the same as the context's at a place; uses r1 and r2. */
  unlessSame(at: number, address: number, target: string): this {
    for (const i of [0, 8])
      this.a
        .load(1, 10, at + i, 8)
        .load(2, 8, address + i, 8)
        .jumpIf(1, '!=', reg(2), target);
    return this;
  }

  /** Goes to a label if flags of the context are set, or are not; uses r1. */
  ifNetworkFlag(flag: number, is: boolean, target: string): this {
    this.a
      .load(1, 8, NETWORK.flags, 4)
      .and(1, flag)
      .jumpIf(1, is ? '!=' : '==', 0, target);
    return this;
  }

  /** Goes to a label if flags of the socket are set, or are not; uses r1. */
  ifStateFlag(flag: number, is: boolean, target: string): this {
    this.a
      .load(1, 7, STATE.flags, 2)
      .and(1, flag)
      .jumpIf(1, is ? '!=' : '==', 0, target);
    return this;
  }

  /** Sets and clears flags of the socket with r1. */
  setStateFlags(set: number, clear = 0): this {
    this.a.load(1, 7, STATE.flags, 2);
    if (clear !== 0) this.a.and(1, ~clear);
    this.a.alu(1, '|', set).store(7, STATE.flags, reg(1), 2);
    return this;
  }

  /** r2 = the socket; packets without one go to `pass`. */
  loadSocket(): this {
    const { a } = this;
    if (this.hook === 'address') a.load(2, 6, SOCK_ADDR.socket, 8);
    else if (this.hook === 'option') a.load(2, 6, SOCKOPT.socket, 8);
    else if (this.hook === 'socket') a.move(2, reg(6));
    else a.load(2, 6, SKB.socket, 8).jumpIf(2, '==', 0, 'pass');
    return this;
  }

  /**
   * r7 = the socket's state. A socket of no fenced context, or of another namespace, goes to `pass`. One that is in a
   * fenced cgroup and has no state, for it was made before the cgroup was bound, gets one that is under policy.
   */
  loadState(): this {
    const { a } = this;
    const have = a.fresh('state is there');
    this.loadSocket();
    a.loadMap(1, 'state').move(3, 0).move(4, 0).call('sk_storage_get').jumpIf(0, '!=', 0, have);
    this.#loadGuest();
    a.load(1, 0, 0, 4);
    for (let at = 0; at < STATE.bytes; at += 8) a.store(10, FRAME.initial + at, 0, 8);
    a.store(10, FRAME.initial + STATE.nid, reg(1), 4);
    a.store(10, FRAME.initial + STATE.flags, STATE_FLAG.active, 2);
    this.loadSocket();
    a.loadMap(1, 'state').move(3, reg(10)).alu(3, '+', FRAME.initial).move(4, ALLOW_LOOKUP_CREATE);
    a.call('sk_storage_get').jumpIf(0, '!=', 0, have);
    this.#fail('ENOBUFS');
    a.label(have).move(7, reg(0));
    return this.ifStateFlag(STATE_FLAG.pass, true, 'pass');
  }

  /** Ends with an error that is nobody's denial. */
  #fail(errno: keyof FenceErrnos): void {
    const { a } = this;
    if (this.hook !== 'packet') a.move(1, -this.target.errnos[errno]).call('set_retval');
    a.move(0, 0).exit();
  }

  /** r0 = place of the nid of the cgroup; others go to `pass`. */
  #loadGuest(): this {
    const { a } = this;
    if (this.hook === 'packet') {
      a.move(1, reg(6)).move(2, this.target.guestLevel).call('skb_ancestor_cgroup_id');
    } else {
      a.move(1, this.target.guestLevel).call('get_current_ancestor_cgroup_id');
    }
    a.store(10, FRAME.small, reg(0), 8);
    this.lookup('guests', FRAME.small);
    a.jumpIf(0, '==', 0, 'pass');
    return this;
  }

  /** As `loadState` for a new socket, which has none: r7 is not set, r9 = nid. */
  loadCreator(): this {
    this.#loadGuest();
    this.a.load(9, 0, 0, 4);
    return this;
  }

  /** r8 = the context; a socket of one that is gone is refused everything. */
  loadNetwork(): this {
    const { a } = this;
    const have = a.fresh('context is there');
    a.loadMap(1, 'networks').move(2, reg(7)).call('map_lookup_elem').jumpIf(0, '!=', 0, have);
    this.refuse('policy', 'EPERM');
    a.label(have).move(8, reg(0));
    return this;
  }

  /** r9 = nid of the context an address on the stack belongs to, or 0; its flags are then in the frame. */
  ownerOf(at: number): this {
    const { a } = this;
    const [none, done] = [a.fresh('not owned'), a.fresh('owner known')];
    findOwner(a, at, none);
    a.load(9, 0, OWNER.nid, 4).load(1, 0, OWNER.flags, 4).store(10, FRAME.ownerFlags, reg(1), 8);
    a.goto(done).label(none).move(9, 0).store(10, FRAME.ownerFlags, 0, 8).label(done);
    return this;
  }

  /** Goes to a label if the address `ownerOf` was asked about is the socket's context's. */
  ifMine(is: boolean, target: string): this {
    this.a.load(1, 7, STATE.nid, 4).jumpIf(9, is ? '==' : '!=', reg(1), target);
    return this;
  }

  /** Writes the key of a longest prefix lookup for the socket's context with r1. */
  prefixKey(at: number): this {
    const { a } = this;
    a.store(10, FRAME.prefixKey + PREFIX.bits, 160, 4);
    a.load(1, 7, STATE.nid, 4).store(10, FRAME.prefixKey + PREFIX.nid, reg(1), 4);
    return this.copyAddress(10, FRAME.prefixKey + PREFIX.address, 10, at);
  }

  /** Goes to a label unless the 32-bit words of an address on the stack are these; uses r1. */
  unlessWords(at: number, words: readonly (number | undefined)[], target: string): void {
    for (const [i, word] of words.entries()) {
      if (word !== undefined) this.a.load(1, 10, at + 4 * i, 4).jumpIf32(1, '!=', networkOrder(word), target);
    }
  }

  /** Goes to a label unless an address on the stack is ::1 (or :: if `any`), or 127.0.0.1 (or 0.0.0.0). */
  unlessLoopback(at: number, ip: 4 | 6, any: boolean, target: string): this {
    const { a } = this;
    const yes = a.fresh('loopback');
    if (ip === 4) {
      a.load(1, 10, at + 12, 4);
      if (any) a.jumpIf(1, '==', 0, yes);
      a.jumpIf32(1, '!=', networkOrder(0x7f000001), target);
    } else {
      this.unlessWords(at, [0, 0, 0], target);
      a.load(1, 10, at + 12, 4);
      if (any) a.jumpIf(1, '==', 0, yes);
      a.jumpIf32(1, '!=', networkOrder(1), target);
    }
    a.label(yes);
    return this;
  }

  /** Goes to a label if the context has none of these addresses; uses r1 and r2. */
  ifNoAddress(at: number, target: string): this {
    this.a
      .load(1, 8, at, 8)
      .load(2, 8, at + 8, 8)
      .alu(1, '|', reg(2))
      .jumpIf(1, '==', 0, target);
    return this;
  }

  /** Ends with an error the caller sees, and counts the denial. */
  refuse(reason: DenialReason | undefined, errno: keyof FenceErrnos): this {
    this.a.store(10, FRAME.reason, reason === undefined ? -1 : REASONS.indexOf(reason), 8);
    this.a.store(10, FRAME.errno, -this.target.errnos[errno], 8).goto('refuse');
    return this;
  }

  /** Ends the program: what `pass` and `refuse` are. `pass` returns 1, as every kind of program has it. */
  finish(): EbpfProgram {
    const { a } = this;
    a.label('pass').move(0, 1).exit();
    a.label('refuse');
    this.#countDenial();
    if (this.hook !== 'packet') a.load(1, 10, FRAME.errno, 8).call('set_retval');
    a.move(0, 0).exit();
    return a.program(FENCE_MAP_NAMES);
  }

  /** Ends a program that refuses nothing. */
  finishOpen(): EbpfProgram {
    this.a.label('pass').move(0, 1).exit();
    return this.a.program(FENCE_MAP_NAMES);
  }

  #countDenial(): void {
    const { a } = this;
    const at = FRAME.denialKey;
    const [fresh, tell, done] = [a.fresh('first denial'), a.fresh('denial counted'), a.fresh('denial told')];
    a.load(1, 10, FRAME.reason, 8).jumpIf(1, '==', -1, done);
    for (const i of [0, 8, 16, 24]) a.store(10, at + i, 0, 8);
    a.store(10, at + DENIAL.reason, reg(1), 1);
    if (this.hook === 'socket') a.store(10, at + DENIAL.nid, reg(9), 4);
    else a.load(1, 7, STATE.nid, 4).store(10, at + DENIAL.nid, reg(1), 4);
    a.store(10, at + DENIAL.direction, DIRECTION[this.direction], 1);
    a.load(1, 10, FRAME.protocol, 8).store(10, at + DENIAL.protocol, reg(1), 1);
    a.load(1, 10, FRAME.remotePort, 8).store(10, at + DENIAL.port, reg(1), 2);
    this.copyAddress(10, at + DENIAL.address, 10, FRAME.remote);
    a.call('ktime_get_boot_ns').store(10, FRAME.denied + DENIED.last, reg(0), 8);
    a.store(10, FRAME.denied + DENIED.count, 1, 8);
    this.lookup('denials', at);
    a.jumpIf(0, '==', 0, fresh).move(1, 1).atomicAdd(0, DENIED.count, 1);
    a.load(1, 10, FRAME.denied + DENIED.last, 8)
      .store(0, DENIED.last, reg(1), 8)
      .goto(tell);
    a.label(fresh);
    this.update('denials', at, FRAME.denied, 0);
    // It is full if nobody reads it: whoever does has not looked since, and will.
    a.label(tell).loadMap(1, 'alarm').move(2, reg(10)).alu(2, '+', FRAME.denied).move(3, 8).move(4, 0);
    a.call('ringbuf_output').label(done);
  }
}
