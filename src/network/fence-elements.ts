/** Turns the rules of a network context into elements of the fence's maps. */
import { endianness } from 'node:os';
import { UserError } from '../base/errors.ts';
import {
  ADDRESS_BYTES,
  contains,
  isIpv4,
  lastAddress,
  MAPPED_BITS,
  type Network,
  networkOf,
  parseAddress,
  parseNetwork,
} from './address.ts';
import {
  DIRECTION,
  type FenceMap,
  NETWORK,
  NETWORK_FLAG,
  OWNER,
  OWNER_FLAG,
  PREFIX,
  QUOTA,
  QUOTA_FLAG,
  RATE,
  RATE_SHIFT,
  RULE,
  RULES_PER_NETWORK,
  SLOW,
  VERDICT,
} from './fence-maps.ts';
import type {
  Bandwidth,
  EgressRule,
  NetworkRules,
  Nid,
  OwnAddress,
  RuleProtocol,
  Spent,
  TrafficQuota,
} from './rules.ts';

const LE = endianness() === 'LE';
const ALL_BITS = 128;
/** Of fd76:7365:7276:6572::/64, a unique local prefix (RFC 4193): own ::1 of context n is the n-th address. */
const LOOPBACK6_PREFIX = [0xfd, 0x76, 0x73, 0x65, 0x72, 0x76, 0x65, 0x72, 0, 0, 0, 0, 0, 0] as const;
const GROUPS_MAX = 64;
/** More than there can be. */
const SOCKETS_MAX = 0xffffffff;
const NO_ADDRESS = new Uint8Array(ADDRESS_BYTES);

/** One element of a map. */
export interface Element {
  readonly map: FenceMap;
  readonly key: Uint8Array;
  readonly value: Uint8Array;
}

/** Returns a context's own 127.0.0.1: 127.x.y.1, x.y being its number. */
export function loopback4(nid: Nid): Uint8Array {
  return Uint8Array.of(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 127, nid >> 8, nid & 0xff, 1);
}

/** Returns a context's own ::1. */
export function loopback6(nid: Nid): Uint8Array {
  return Uint8Array.of(...LOOPBACK6_PREFIX, nid >> 8, nid & 0xff);
}

/** Returns 32-bit numbers in host order. */
export function words(...numbers: readonly number[]): Uint8Array {
  const bytes = new Uint8Array(4 * numbers.length);
  const view = new DataView(bytes.buffer);
  numbers.forEach((number, i) => {
    view.setUint32(4 * i, number, LE);
  });
  return bytes;
}

/** Returns a 64-bit number in host order. */
export function long(number: bigint): Uint8Array {
  const bytes = new Uint8Array(8);
  new DataView(bytes.buffer).setBigUint64(0, number, LE);
  return bytes;
}

/**
 * Returns all elements of a context; those of several contexts never have a key in common, unless they claim the same
 * address.
 *
 * @throws UserError invalid-address, invalid-network, invalid-rule, too-many-rules
 */
export function networkElements(nid: Nid, rules: NetworkRules): readonly Element[] {
  const addresses4 = own(rules.addresses4, 4);
  const addresses6 = own(rules.addresses6, 6);
  const both = [...addresses4, ...addresses6];
  const owners: Element[] = both.map(({ address, shared }) => ({
    map: 'addresses',
    key: address,
    value: owner(nid, shared ? OWNER_FLAG.shared : 0),
  }));
  for (const address of [loopback4(nid), loopback6(nid)])
    owners.push({ map: 'addresses', key: address, value: owner(nid, OWNER_FLAG.loopback) });
  const ranges: Element[] = (rules.ranges ?? []).map(parseNetwork).map(({ address, prefix }) => ({
    map: 'ranges',
    key: joined(words(prefix), address),
    value: owner(nid, 0),
  }));
  const peers: Element[] = (rules.policy?.peers ?? []).map((peer) => ({
    map: 'peers',
    key: words(nid, peer),
    value: words(1),
  }));
  return [
    ...owners,
    ...ranges,
    ...sources(nid, addresses4),
    ...sources(nid, addresses6),
    ...policyElements(nid, rules),
    ...peers,
    ...rates(nid, rules.bandwidth ?? {}, 0),
    ...quota(nid, rules.quota),
    { map: 'networks', key: words(nid), value: network(nid, rules, addresses4, addresses6) },
  ];
}

interface Own {
  readonly address: Uint8Array;
  readonly prefix: number;
  readonly shared: boolean;
}

function own(addresses: readonly OwnAddress[], family: 4 | 6): readonly Own[] {
  return addresses.map(({ address: text, prefix, shared = false }) => {
    const address = parseAddress(text);
    const skipped = family === 4 ? MAPPED_BITS : 0;
    if (isIpv4(address) !== (family === 4) || (prefix !== undefined && prefix + skipped > ALL_BITS)) {
      const found = `${text}${prefix === undefined ? '' : `/${prefix}`}`;
      throw new UserError(
        'invalid-address',
        `cannot use ${JSON.stringify(found)} as an address of IPv${family}`,
      );
    }
    return { address, prefix: prefix === undefined ? ALL_BITS : prefix + skipped, shared };
  });
}

function owner(nid: Nid, flags: number): Uint8Array {
  const value = new Uint8Array(OWNER.bytes);
  value.set(words(nid, flags));
  return value;
}

/** Which address to send from into a network, where there is a choice: the first in the network. */
function sources(nid: Nid, addresses: readonly Own[]): readonly Element[] {
  if (addresses.length < 2) return [];
  const seen = new Set<string>();
  const found: Element[] = [];
  for (const { address, prefix } of addresses) {
    const key = prefixKey(nid, networkOf(address, prefix));
    const text = Buffer.from(key).toString('hex');
    if (seen.has(text)) continue;
    seen.add(text);
    found.push({ map: 'sources', key, value: address });
  }
  return found;
}

function prefixKey(nid: Nid, { address, prefix }: Network): Uint8Array {
  const key = new Uint8Array(PREFIX.bytes);
  key.set(words(32 + prefix, nid));
  key.set(address, PREFIX.address);
  return key;
}

function network(
  nid: Nid,
  { policy = {}, sockets }: NetworkRules,
  addresses4: readonly Own[],
  addresses6: readonly Own[],
): Uint8Array {
  const bytes = new Uint8Array(NETWORK.bytes);
  let groups = 0n;
  for (const group of policy.groups ?? []) {
    if (!Number.isInteger(group) || group < 0 || group >= GROUPS_MAX)
      throw new UserError(
        'invalid-rule',
        `cannot use group ${group}; need a number from 0 to ${GROUPS_MAX - 1}`,
      );
    groups |= 1n << BigInt(group);
  }
  const flags =
    (hasRules(policy) ? NETWORK_FLAG.rules : 0) |
    (policy.metadata === 'allow' ? 0 : NETWORK_FLAG.metadataDenied) |
    (policy.multicast ? NETWORK_FLAG.multicast : 0) |
    (policy.raw === 'all' ? NETWORK_FLAG.raw : 0) |
    (policy.raw === 'icmp' ? NETWORK_FLAG.rawEcho : 0) |
    (policy.lowPorts === 'any' ? NETWORK_FLAG.lowPortsAny : 0) |
    (addresses4.length > 1 ? NETWORK_FLAG.sources4 : 0) |
    (addresses6.length > 1 ? NETWORK_FLAG.sources6 : 0);
  bytes.set(words(flags, Math.min(sockets ?? SOCKETS_MAX, SOCKETS_MAX)));
  bytes.set(long(groups), NETWORK.groups);
  bytes.set(loopback4(nid), NETWORK.loopback4);
  bytes.set(addresses4[0]?.address ?? NO_ADDRESS, NETWORK.primary4);
  bytes.set(loopback6(nid), NETWORK.loopback6);
  bytes.set(addresses6[0]?.address ?? NO_ADDRESS, NETWORK.primary6);
  bytes.set(broadcastOf(addresses4[0]), NETWORK.broadcast4);
  return bytes;
}

/** None in networks of one address or two (RFC 3021). */
function broadcastOf(first: Own | undefined): Uint8Array {
  if (first === undefined || first.prefix > ALL_BITS - 2) return NO_ADDRESS;
  return lastAddress(networkOf(first.address, first.prefix));
}

function hasRules(policy: NonNullable<NetworkRules['policy']>): boolean {
  return (policy.egress ?? []).length > 0 || policy.otherwise === 'deny';
}

const BURST_BYTES = 256 * 1024;
const NS_PER_SECOND = 1e9;

function rates(nid: Nid, limits: Bandwidth, bucket: 0 | typeof SLOW): readonly Element[] {
  const burst = Math.max(limits.burstBytes ?? 0, BURST_BYTES);
  const found: Element[] = [];
  for (const [direction, bytesPerSecond] of [
    [DIRECTION.out, limits.sendBytesPerSecond],
    [DIRECTION.in, limits.receiveBytesPerSecond],
  ] as const) {
    if (bytesPerSecond === undefined) continue;
    const perByte = Math.round((NS_PER_SECOND / bytesPerSecond) * 2 ** RATE_SHIFT);
    if (!(perByte >= 1 && perByte <= NS_PER_SECOND * 2 ** RATE_SHIFT)) {
      throw new UserError(
        'invalid-rule',
        `cannot use a bandwidth of ${bytesPerSecond} bytes per second; need 1 to ${NS_PER_SECOND * 2 ** RATE_SHIFT}`,
      );
    }
    const value = new Uint8Array(RATE.bytes);
    value.set(long(BigInt(perByte)), RATE.perByte);
    value.set(long(BigInt(Math.round((burst / bytesPerSecond) * NS_PER_SECOND))), RATE.burst);
    found.push({ map: 'rates', key: words(nid, direction + bucket), value });
  }
  return found;
}

function quota(nid: Nid, given: TrafficQuota | undefined): readonly Element[] {
  if (given === undefined) return [];
  const { limitBytes, direction, above, slowBytesPerSecond: slow, period } = given;
  const value = new Uint8Array(QUOTA.bytes);
  value.set(long(BigInt(limitBytes)), QUOTA.limit);
  value.set(joined(...period.ends.map(long)), QUOTA.ends);
  const flags =
    (direction === 'receive' ? 0 : QUOTA_FLAG.out) |
    (direction === 'send' ? 0 : QUOTA_FLAG.in) |
    (above === 'deny' ? QUOTA_FLAG.deny : 0) |
    (above === 'slow' ? QUOTA_FLAG.slow : 0);
  value.set(words(...period.numbers, flags), QUOTA.numbers);
  const limits = slow === undefined ? {} : { sendBytesPerSecond: slow, receiveBytesPerSecond: slow };
  return [{ map: 'quotas', key: words(nid), value }, ...rates(nid, limits, SLOW)];
}

/** Returns the value in `spent`. */
export function spentValue({ bytes, period }: Spent): Uint8Array {
  return joined(long(BigInt(bytes)), long(BigInt(period)));
}

interface PlacedRule {
  readonly rule: EgressRule;
  /** undefined: all of both families. */
  readonly network: Network | undefined;
}

/**
 * For every network that a rule names, and for all of each family: the rules whose networks contain it, in order. Those
 * are the rules that apply to an address whose longest match it is, since two networks are nested or have nothing in common.
 */
function policyElements(nid: Nid, { policy = {} }: NetworkRules): readonly Element[] {
  if (!hasRules(policy)) return [];
  const rules: readonly PlacedRule[] = (policy.egress ?? []).map((rule) => ({
    rule,
    network: rule.to === undefined ? undefined : parseNetwork(rule.to),
  }));
  const everywhere = [networkOf(loopback4(0), MAPPED_BITS), { address: NO_ADDRESS, prefix: 0 }];
  const elements = new Map<string, Element>();
  for (const place of [...everywhere, ...rules.flatMap((rule) => rule.network ?? [])]) {
    const family = familyOf(place);
    const applying = rules.filter(
      (rule) =>
        rule.network === undefined || (familyOf(rule.network) === family && contains(rule.network, place)),
    );
    const key = prefixKey(nid, place);
    const value = ruleList(
      applying.map(({ rule }) => rule),
      policy.otherwise ?? 'allow',
      family,
    );
    elements.set(Buffer.from(key).toString('hex'), { map: 'policy', key, value });
  }
  return [...elements.values()];
}

function familyOf({ address, prefix }: Network): 4 | 6 {
  return prefix >= MAPPED_BITS && isIpv4(address) ? 4 : 6;
}

function ruleList(rules: readonly EgressRule[], otherwise: 'allow' | 'deny', family: 4 | 6): Uint8Array {
  const end = rules.findIndex(({ protocol = 'any', ports }) => protocol === 'any' && ports === undefined);
  const list = end < 0 ? [...rules, { action: otherwise }] : rules.slice(0, end + 1);
  if (list.length > RULES_PER_NETWORK) {
    throw new UserError(
      'too-many-rules',
      `cannot use the egress rules: found ${list.length} that apply to one address; need at most ${RULES_PER_NETWORK}`,
    );
  }
  const bytes = new Uint8Array(RULE.bytes * RULES_PER_NETWORK);
  const view = new DataView(bytes.buffer);
  for (const [i, { action, protocol = 'any', ports = [0, 0xffff] }] of list.entries()) {
    const [from, to] = ports;
    if (!(Number.isInteger(from) && Number.isInteger(to) && from >= 0 && from <= to && to <= 0xffff))
      throw new UserError('invalid-rule', `cannot use ports ${from}-${to}; need 0 to 65535 in order`);
    const at = i * RULE.bytes;
    view.setUint8(at + RULE.verdict, VERDICT[action]);
    view.setUint8(at + RULE.protocol, protocolNumber(protocol, family));
    view.setUint16(at + RULE.from, from, LE);
    view.setUint16(at + RULE.to, to, LE);
  }
  return bytes;
}

function protocolNumber(protocol: RuleProtocol, family: 4 | 6): number {
  return { any: 0, tcp: 6, udp: 17, icmp: family === 4 ? 1 : 58 }[protocol];
}

function joined(...parts: readonly Uint8Array[]): Uint8Array {
  return Uint8Array.from(parts.flatMap((part) => [...part]));
}
