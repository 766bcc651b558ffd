/**
 * What a network context may use and reach, as configuration states it; `src/network/fence.ts` writes it into the kernel.
 */

/** Number of a network context, 2..65535; a guest's own has the number of its context. */
export type Nid = number;

/** An address a context owns. */
export interface OwnAddress {
  /** Text form, IPv4 or IPv6. */
  readonly address: string;
  /** Length of the network's prefix: which peers are reached from this address first. Default: the address alone. */
  readonly prefix?: number;
  /**
   * The host uses the address too: what the context does not listen for goes to the host. Otherwise nobody but the
   * context is reached there.
   */
  readonly shared?: boolean;
}

/** What a rule is about. */
export type RuleProtocol = 'tcp' | 'udp' | 'icmp' | 'any';

/** One rule about where a context may connect and send to. */
export interface EgressRule {
  readonly action: 'allow' | 'deny';
  /** `192.0.2.0/24`, `2001:db8::1`; undefined: everywhere, both families. */
  readonly to?: string;
  readonly protocol?: RuleProtocol;
  /** One port or an inclusive range; undefined: all. */
  readonly ports?: readonly [from: number, to: number];
}

/** Raw sockets that ask for echoes with ICMP; or of all protocols, with headers of their own. Their source is an own address. */
export type RawAccess = 'icmp' | 'all';

/** Who may be reached. Answers to what came in are never held back. */
export interface NetworkPolicy {
  /** The first that matches decides. */
  readonly egress?: readonly EgressRule[];
  /** What no rule matches; default `allow`. */
  readonly otherwise?: 'allow' | 'deny';
  /** The metadata services of clouds (metadata.ts), before all rules; default `deny`. */
  readonly metadata?: 'allow' | 'deny';
  /** Other contexts that may be reached and may reach this one; each of the two sides may say so. */
  readonly peers?: readonly Nid[];
  /** Groups, 0..63: contexts that have one in common reach each other. */
  readonly groups?: readonly number[];
  /** Multicast, and to receive broadcasts; a UDP socket at a wildcard then is at that of the host. Default false. */
  readonly multicast?: boolean;
  /** Which raw sockets they may have, if they are given any; default none. */
  readonly raw?: RawAccess;
  /** Who may bind ports below 1024: the context's root (default) or any of its users. */
  readonly lowPorts?: 'root' | 'any';
}

/** How fast a context may be; what is too fast is dropped, and TCP slows down. */
export interface Bandwidth {
  readonly sendBytesPerSecond?: number;
  readonly receiveBytesPerSecond?: number;
  /** How much may be sent, and received, at once after a pause; at least and by default 256 KiB. */
  readonly burstBytes?: number;
}

/** How much a context may send and receive in a period; what it sends to itself does not count. */
export interface TrafficQuota {
  readonly limitBytes: number;
  readonly direction: 'both' | 'send' | 'receive';
  /** What happens to what is above: it is dropped, is held to a bandwidth, or goes on. */
  readonly above: 'deny' | 'slow' | 'tell';
  /** With `slow`: in each direction. */
  readonly slowBytesPerSecond?: number;
  /** The period it is now, and when it and the next end. The fence begins at nothing with each of them. */
  readonly period: QuotaPeriod;
}

/** A period and the two after it. */
export interface QuotaPeriod {
  /** They rise, and are never 0. */
  readonly numbers: readonly [this: number, next: number, after: number];
  /** CLOCK_BOOTTIME, in nanoseconds. */
  readonly ends: readonly [this: bigint, next: bigint];
}

/** What a context has sent and received of its quota. */
export interface Spent {
  /** Number of the period. */
  readonly period: number;
  readonly bytes: number;
}

/** All about one network context. The first address of a family is the one that goes out where no network decides. */
export interface NetworkRules {
  readonly addresses4: readonly OwnAddress[];
  readonly addresses6: readonly OwnAddress[];
  /** Networks all of whose addresses are the context's, for example `2001:db8:1::/64`. */
  readonly ranges?: readonly string[];
  readonly policy?: NetworkPolicy;
  readonly bandwidth?: Bandwidth;
  readonly quota?: TrafficQuota;
  /** Sockets of socket(2), of both families, that may be there at a time; what is accepted does not count. */
  readonly sockets?: number;
}

/** Packets and bytes, IP headers included. */
export interface Traffic {
  readonly packets: number;
  readonly bytes: number;
}

/** In both directions, as the guest has it. */
export interface BothWays {
  readonly received: Traffic;
  readonly sent: Traffic;
}

/** Families and protocols that are counted apart. */
export type TrafficKind = 'tcp4' | 'udp4' | 'other4' | 'tcp6' | 'udp6' | 'other6';

/** What a network context has received and sent since it was set up. */
export type NetworkCounters = Readonly<Record<TrafficKind, BothWays>>;

/** Sockets of a network context by socket(2): those there are, the most there were, and those refused by their limit. */
export interface SocketUsage {
  readonly current: number;
  readonly peak: number;
  readonly refused: number;
}

/** Why something was refused. */
export type DenialReason =
  | 'policy'
  | 'metadata'
  | 'loopback'
  | 'guest'
  | 'foreign-address'
  | 'socket-option'
  | 'socket-type'
  | 'low-port'
  | 'too-many'
  | 'quota';

/** Something a context was refused, and how often. */
export interface Denial {
  readonly nid: Nid;
  readonly reason: DenialReason;
  readonly direction: 'in' | 'out';
  /** IP protocol number; 0 where there is none. */
  readonly protocol: number;
  /** The other side's address, or the one asked for; empty where there is none. */
  readonly address: string;
  /** The other side's port; for a socket option its number. */
  readonly port: number;
  readonly count: number;
  /** CLOCK_BOOTTIME of the last time, in milliseconds. */
  readonly lastMs: number;
}
