/**
 * The maps of the fence: what is in them, byte for byte. Addresses are 16 bytes in network order, ports and all other
 * numbers in host order.
 */
import type { MapSpec } from '../sys/bpf/map.ts';
import { BPF_F_CLONE } from '../sys/bpf/uapi.ts';

/** Rules that may apply to one address. */
export const RULES_PER_NETWORK = 16;
/** Bytes of a rule: u8 verdict, u8 protocol, u16 nothing, u16 first port, u16 last port. */
export const RULE = { verdict: 0, protocol: 1, from: 4, to: 6, bytes: 8 } as const;
/** Verdicts of a rule; 0 ends a list. */
export const VERDICT = { allow: 1, deny: 2 } as const;

/** `globals`, one element: u64 generation, which changes with every edit; u32 flags. */
export const GLOBALS = { generation: 0, flags: 8, bytes: 16 } as const;
/** Flags of all contexts: one at least owns whole networks, one has a limited bandwidth, one a quota. */
export const GLOBAL_FLAG = { ranges: 1, rates: 2, quotas: 4 } as const;

/**
 * `networks`: nid → u32 flags, u32 sockets it may have, u64 groups; own loopback and first address of each family, and the broadcast address of the
 * first IPv4 address's network (zero: none).
 */
export const NETWORK = {
  flags: 0,
  sockets: 4,
  groups: 8,
  loopback4: 16,
  primary4: 32,
  loopback6: 48,
  primary6: 64,
  broadcast4: 80,
  bytes: 96,
} as const;
/** Flags of a network context. */
export const NETWORK_FLAG = {
  /** `policy` has something to say. */
  rules: 1,
  metadataDenied: 2,
  multicast: 4,
  raw: 8,
  lowPortsAny: 16,
  /** `sources` has something to say for IPv4, IPv6. */
  sources4: 32,
  sources6: 64,
  /** Raw sockets of ICMP that ask for echoes. */
  rawEcho: 128,
} as const;

/** Of contexts whose `flows` are noted. */
export const NOTES_FLOWS: number = NETWORK_FLAG.rules | NETWORK_FLAG.sources4 | NETWORK_FLAG.sources6;

/** `addresses`: address → u32 nid, u32 flags. */
export const OWNER = { nid: 0, flags: 4, bytes: 8 } as const;
/** Flags of an address. */
export const OWNER_FLAG = {
  /** The host listens there too. */
  shared: 1,
  /** Own loopback of a context. */
  loopback: 2,
} as const;

/** Keys of longest prefix maps: u32 bits of what follows, u32 nid (not in `ranges`), address. */
export const PREFIX = { bits: 0, nid: 4, address: 8, bytes: 24 } as const;

/** `ports` and `listeners`: u32 nid, u16 port, u8 protocol or slot, u8 kind, address (zero for a wildcard). */
export const PORT = { nid: 0, port: 4, protocol: 6, kind: 7, address: 8, bytes: 24 } as const;
/** Kind of a binding: to one address, or to all of IPv4, or to all of IPv6 (and IPv4, unless IPV6_V6ONLY). */
export const KIND = { exact: 0, any4: 4, any6: 6 } as const;
/**
 * Value in `ports`: u64 cookie of the socket, u32 the port it really has, u32 SO_REUSEPORT, u64 sockets. UDP has the port it asked for:
 * there the second is the last word of the address at which the kernel finds a socket without a peer, in network order; 0: at none.
 */
export const BINDING = { cookie: 0, actual: 8, reuse: 12, count: 16, bytes: 24 } as const;
/** Sockets that may listen at one place by SO_REUSEPORT and come and go in any order. */
export const LISTENER_SLOTS = 4;

/**
 * `state`, for each socket: u32 nid; u16 the port it asked for, u16 flags; u64 cookie of the socket that was bound (an
 * accepted one has a copy with the listener's); u64 the generation under which its peer was found right; the address of
 * its binding, the socket's protocol (0 of a raw socket but one of ICMP), the kind of the binding, and 1 if its last packet
 * was between the context's own addresses; u32 low half of the cookie of the socket that was counted when it was made, which
 * an accepted one is not; `SEEN`.
 */
export const STATE = {
  nid: 0,
  port: 4,
  flags: 6,
  cookie: 8,
  verified: 16,
  address: 24,
  protocol: 40,
  kind: 41,
  itself: 42,
  made: 44,
  bytes: 104,
} as const;
/**
 * In `state`, of a socket without a peer for good: the last one that was found right, so that its next packet need not be
 * looked at. u32 number that is odd while somebody writes this, and another one afterwards, u16 own port, u16 peer's port, u64 the generation of it, own address,
 * peer's address, u32 in which directions it was found right, u8 1 if it was between the context's own addresses.
 */
export const SEEN = {
  sequence: 48,
  ownPort: 52,
  remotePort: 54,
  generation: 56,
  own: 64,
  remote: 80,
  directions: 96,
  itself: 100,
} as const;
/** Flags of a socket. */
export const STATE_FLAG = {
  /** Of another network namespace: no business of ours. */
  pass: 1,
  /** In `ports`. */
  registered: 2,
  /** Bound by another port than it asked for. */
  moved: 4,
  /** Bound to a wildcard. */
  wild: 8,
  /** It connects, so policy is about it; what is accepted answers. */
  active: 16,
  ipv6Only: 32,
  /** Bound to one address by the guest. */
  bound: 64,
} as const;

/** `denials`: u32 nid, u8 reason, u8 direction, u8 protocol, u16 port, address → u64 count, u64 boot time in ns. */
export const DENIAL = {
  nid: 0,
  reason: 4,
  direction: 5,
  protocol: 6,
  port: 8,
  address: 16,
  bytes: 32,
} as const;
/** Value of a denial. */
export const DENIED = { count: 0, last: 8, bytes: 16 } as const;

/**
 * `usage`: nid → u64 elements of `ports`, u64 UDP sockets; u64 sockets of socket(2), the most there were, and those refused
 * since there were as many as there may be.
 */
export const USAGE = { bindings: 0, datagrams: 8, sockets: 16, peak: 24, refused: 32, bytes: 40 } as const;
/** So that no context takes the ports of all: TCP sockets bound to a port, and bound UDP sockets. */
export const BINDINGS_MAX = 8192;
/** So that no context takes all of `sockets`. */
export const DATAGRAMS_MAX = 8192;

/** `counters`: nid → for tcp4, udp4, other4, tcp6, udp6, other6: u64 packets and bytes in, packets and bytes out. */
export const COUNTER = { kinds: 6, packets: 0, contents: 8, sent: 16, kindBytes: 32, bytes: 192 } as const;

/**
 * `rates`: u32 nid, u32 direction → u64 time that the bucket is full up to, u64 time one byte takes (in 1/1024 ns, 0: no
 * limit), u64 time a burst takes. Times in ns since boot.
 */
export const RATE = { time: 0, perByte: 8, burst: 16, bytes: 24 } as const;
/** Bits behind the point of `perByte`. */
export const RATE_SHIFT = 10;
/** Directions as in keys of `rates` and in denials. */
export const DIRECTION = { out: 0, in: 1 } as const;
/** Added to a direction in keys of `rates`: the bandwidth of a context that has used up its quota. */
export const SLOW = 2;

/** `quotas`: nid → u64 bytes; u64 ends of the period and of the next, in ns since boot; u32 numbers of three, u32 flags. */
export const QUOTA = { limit: 0, ends: 8, numbers: 24, flags: 36, bytes: 40 } as const;
/** Flags of a quota: what counts, by direction, and what happens to the rest. */
export const QUOTA_FLAG = { out: 1, in: 2, deny: 4, slow: 8 } as const;
/** `spent`: nid → u64 bytes, u64 number of the period. */
export const SPENT = { used: 0, period: 8, bytes: 16 } as const;

/** `flows`: u32 nid, u16 own port, u16 peer's port, peer's address → the own address that UDP came to from there. */
export const FLOW = { nid: 0, port: 4, peerPort: 6, address: 8, bytes: 24 } as const;

/** Buckets are taken at once, 16 bytes for each of these. */
const CONTEXTS = 16_384;
const ADDRESSES = 65_536;
const SOCKETS = 32_768;

/**
 * Number of what is in the maps: raised with every change of a map's layout or meaning, so that a vserverd finds out that
 * a fence is of another one's making.
 */
export const FENCE_VERSION = 6;

/** The maps in the order in which programs count them. */
export const FENCE_MAP_NAMES = [
  'globals',
  'guests',
  'networks',
  'addresses',
  'ranges',
  'sources',
  'policy',
  'peers',
  'ports',
  'listeners',
  'sockets',
  'denials',
  'flows',
  'counters',
  'rates',
  'usage',
  'quotas',
  'spent',
  'alarm',
  'state',
] as const;
/** Name of a map of the fence. */
export type FenceMap = (typeof FENCE_MAP_NAMES)[number];

/** What each map is made as, by name. */
export const FENCE_MAPS: Readonly<Record<FenceMap, MapSpec>> = {
  globals: { type: 'array', keyBytes: 4, valueBytes: GLOBALS.bytes, entries: 1 },
  /** u64 cgroup → u32 nid */
  guests: { type: 'hash', keyBytes: 8, valueBytes: 4, entries: CONTEXTS },
  networks: { type: 'hash', keyBytes: 4, valueBytes: NETWORK.bytes, entries: CONTEXTS },
  addresses: { type: 'hash', keyBytes: 16, valueBytes: OWNER.bytes, entries: ADDRESSES },
  ranges: { type: 'longestPrefix', keyBytes: 4 + 16, valueBytes: OWNER.bytes, entries: ADDRESSES },
  sources: { type: 'longestPrefix', keyBytes: PREFIX.bytes, valueBytes: 16, entries: ADDRESSES * 4 },
  policy: {
    type: 'longestPrefix',
    keyBytes: PREFIX.bytes,
    valueBytes: RULE.bytes * RULES_PER_NETWORK,
    entries: ADDRESSES * 4,
  },
  /** u32 nid, u32 nid → u32 1 */
  peers: { type: 'hash', keyBytes: 8, valueBytes: 4, entries: ADDRESSES },
  ports: { type: 'hash', keyBytes: PORT.bytes, valueBytes: BINDING.bytes, entries: SOCKETS * 2 },
  listeners: { type: 'sockHash', keyBytes: PORT.bytes, valueBytes: 8, entries: SOCKETS },
  /** u64 cookie → socket */
  sockets: { type: 'sockHash', keyBytes: 8, valueBytes: 8, entries: SOCKETS },
  denials: { type: 'lruHash', keyBytes: DENIAL.bytes, valueBytes: DENIED.bytes, entries: 4096 },
  flows: { type: 'lruHash', keyBytes: FLOW.bytes, valueBytes: 16, entries: 16_384 },
  counters: { type: 'perCpuHash', keyBytes: 4, valueBytes: COUNTER.bytes, entries: CONTEXTS },
  usage: { type: 'hash', keyBytes: 4, valueBytes: USAGE.bytes, entries: CONTEXTS },
  rates: { type: 'hash', keyBytes: 8, valueBytes: RATE.bytes, entries: CONTEXTS },
  quotas: { type: 'hash', keyBytes: 4, valueBytes: QUOTA.bytes, entries: CONTEXTS },
  spent: { type: 'hash', keyBytes: 4, valueBytes: SPENT.bytes, entries: CONTEXTS },
  /** Where whoever waits is told of denials, of 8 bytes each: it is read for that alone. A multiple of any page. */
  alarm: { type: 'ringBuffer', keyBytes: 0, valueBytes: 0, entries: 65_536 },
  state: { type: 'socketStorage', keyBytes: 4, valueBytes: STATE.bytes, entries: 0, flags: BPF_F_CLONE },
};
