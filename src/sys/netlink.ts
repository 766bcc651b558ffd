/**
 * Messages of rtnetlink(7), and the steps that send them.
 *
 *     nlmsghdr: u32 length, u16 type, u16 flags, u32 sequence, u32 port | a structure of the type | attributes
 *     attribute: u16 length, u16 type, bytes, up to a multiple of 4            all in host byte order
 */
import { endianness } from 'node:os';
import { firstOf, type IpPrefix, lastOf } from '../base/ip.ts';
import type { Arg, Program, Result } from './program.ts';

/** linux/rtnetlink.h, linux/netlink.h, linux/if_link.h, linux/if_addr.h: the kernel's ABI. */
const RTM = {
  newLink: 16,
  deleteLink: 17,
  newAddress: 20,
  deleteAddress: 21,
  newRoute: 24,
  deleteRoute: 25,
} as const;
const NLM_F = { request: 0x1, ack: 0x4, replace: 0x100, excl: 0x200, create: 0x400 } as const;
const IFLA = {
  address: 1,
  name: 3,
  master: 10,
  linkInfo: 18,
  alias: 20,
  afSpec: 26,
  namespace: 28,
  infoKind: 1,
  infoData: 2,
  inet6AddrGenMode: 8,
  /** linux/veth.h */
  peer: 1,
} as const;
const IFA = { address: 1, local: 2, broadcast: 4, cacheInfo: 6, flags: 8 } as const;
const RTA = { destination: 1, interface: 4, gateway: 5 } as const;
const RT_TABLE_MAIN = 254;
const RTNH_F_ONLINK = 4;
const RT_SCOPE_LINK = 253;
const RT_SCOPE_HOST = 254;
const RTN_UNICAST = 1;
/** Who made a route; below 128 numbers are others' (/etc/iproute2/rt_protos). */
const ROUTE_PROTOCOL = 197;
const IFA_F_NODAD = 0x02;
const IFF_UP = 1;
const IN6_ADDR_GEN_MODE_NONE = 1;
const FOREVER = 0xffffffff;
const FAMILY = { 4: 2, 6: 10 } as const;
const HEADER_BYTES = 16;
const IFINFO_BYTES = 16;
/** Where struct ifaddrmsg and struct ifinfomsg have the index of the interface. */
const INDEX_OFFSET = HEADER_BYTES + 4;
/** struct nlmsgerr behind the header: i32 error, 0 or negative; then the request. */
const REPLY = { error: HEADER_BYTES, bytes: 512 } as const;

const LE = endianness() === 'LE';

/** A message, and what it is for. */
export interface RouteMessage {
  readonly bytes: Uint8Array;
  readonly about: string;
  /** Where it has numbers that may be known only when it is sent; else only the index of the interface. */
  readonly holes?: readonly number[];
}

/** An interface of a kind such as `dummy`, which is to have this index. */
export function newLink(kind: string, name: string, index: number): RouteMessage {
  const info = attribute(IFLA.linkInfo, attribute(IFLA.infoKind, text(kind)));
  const body = concat(ifinfo(index, 0), attribute(IFLA.name, text(name)), info);
  return {
    bytes: request(RTM.newLink, NLM_F.create | NLM_F.excl, body),
    about: `interface ${name}, a ${kind}`,
  };
}

/** A pair of interfaces of which each gets what the other sends. */
export interface Pair {
  readonly name: string;
  readonly hardwareAddress: Uint8Array;
  readonly hasBridge: boolean;
  readonly peer: { readonly name: string; readonly index: number; readonly hardwareAddress: Uint8Array };
}

/**
 * Makes a pair (veth(4)), one here, `peer` in another network namespace; neither is up. Its holes: a descriptor of that
 * namespace, and the index of the bridge if there is one.
 */
export function newPair({ name, hardwareAddress, hasBridge, peer }: Pair): RouteMessage {
  const bridge = hasBridge ? attribute(IFLA.master, u32(0)) : new Uint8Array();
  const other = concat(
    ifinfo(peer.index, 0),
    attribute(IFLA.namespace, u32(0)),
    attribute(IFLA.name, text(peer.name)),
    attribute(IFLA.address, peer.hardwareAddress),
  );
  const kind = attribute(IFLA.infoKind, text('veth'));
  const before = concat(
    ifinfo(0, 0),
    bridge,
    attribute(IFLA.name, text(name)),
    attribute(IFLA.address, hardwareAddress),
  );
  const info = attribute(IFLA.linkInfo, concat(kind, attribute(IFLA.infoData, attribute(IFLA.peer, other))));
  // Into linkInfo, over the kind, into infoData, peer, struct ifinfomsg and the first attribute behind it.
  const namespaceAt = HEADER_BYTES + before.length + 4 + kind.length + 4 + 4 + IFINFO_BYTES + 4;
  return {
    bytes: request(RTM.newLink, NLM_F.create | NLM_F.excl, concat(before, info)),
    about: `interface ${name}, a veth`,
    holes: [namespaceAt, ...(hasBridge ? [HEADER_BYTES + IFINFO_BYTES + 4] : [])],
  };
}

/** Removes an interface, and its other end with it. */
export function deleteLink(index: number, about: string): RouteMessage {
  return { bytes: request(RTM.deleteLink, 0, ifinfo(index, 0)), about };
}

/** Lets an interface have no address but those it is given; to be sent before it is up. */
export function linkWithoutOwnAddress(index: number): RouteMessage {
  const mode = attribute(IFLA.inet6AddrGenMode, Uint8Array.of(IN6_ADDR_GEN_MODE_NONE));
  const spec = attribute(IFLA.afSpec, attribute(FAMILY[6], mode));
  return {
    bytes: request(RTM.newLink, 0, concat(ifinfo(index, 0), spec)),
    about: `interface ${index} without addresses`,
  };
}

/** Brings an interface up, perhaps with a text that is shown beside its name. */
export function linkUp(index: number, alias?: string): RouteMessage {
  const shown = alias === undefined ? new Uint8Array() : attribute(IFLA.alias, text(alias));
  const body = concat(ifinfo(index, IFF_UP), shown);
  return { bytes: request(RTM.newLink, 0, body), about: `interface ${alias ?? index} up` };
}

/** Adds an address to an interface. */
export function newAddress(index: number, prefix: IpPrefix, about: string): RouteMessage {
  return { bytes: address(RTM.newAddress, NLM_F.create | NLM_F.excl, index, prefix), about };
}

/** Takes an address from an interface. */
export function deleteAddress(index: number, prefix: IpPrefix, about: string): RouteMessage {
  return { bytes: address(RTM.deleteAddress, 0, index, prefix), about };
}

function address(
  type: number,
  flags: number,
  index: number,
  { family, bytes, length }: IpPrefix,
): Uint8Array {
  const head = Uint8Array.of(FAMILY[family], length, IFA_F_NODAD, 0);
  const broadcast =
    family === 4 && length < 31 ? attribute(IFA.broadcast, lastOf(bytes, length)) : new Uint8Array(0);
  const local = concat(attribute(IFA.local, bytes), attribute(IFA.address, bytes), broadcast);
  return request(type, flags, concat(head, u32(index), local));
}

/**
 * Adds or removes an IPv6 address, all of whose bits are its prefix, for use on the host alone. It is deprecated from the
 * start: nothing chooses it to send from. Nobody is told the outcome.
 */
export function ownAddress(action: 'add' | 'remove', index: number, bytes: Uint8Array): Uint8Array {
  const head = Uint8Array.of(FAMILY[6], 8 * bytes.length, 0, RT_SCOPE_HOST);
  const lifetimes = concat(u32(0), u32(FOREVER), u32(0), u32(0)); // preferred, valid
  const attributes = [
    attribute(IFA.local, bytes),
    attribute(IFA.address, bytes),
    attribute(IFA.flags, u32(IFA_F_NODAD)),
    attribute(IFA.cacheInfo, lifetimes),
  ];
  const body = concat(head, u32(index), ...attributes);
  return action === 'add'
    ? message(RTM.newAddress, NLM_F.create | NLM_F.replace, body)
    : message(RTM.deleteAddress, 0, body);
}

/** Makes the hosts of an address's network neighbours on an interface; EEXIST where they are. */
export function newNeighbourRoute(prefix: IpPrefix, about: string): RouteMessage {
  return {
    bytes: neighbourRoute(RTM.newRoute, NLM_F.create | NLM_F.excl, prefix),
    about,
    holes: [ROUTE_INDEX_OFFSET],
  };
}

/** Takes such a route back, if it is ours; else ESRCH. */
export function deleteNeighbourRoute(prefix: IpPrefix, about: string): RouteMessage {
  return { bytes: neighbourRoute(RTM.deleteRoute, 0, prefix), about, holes: [ROUTE_INDEX_OFFSET] };
}

/** Where the message has the index of the interface: its first attribute, behind struct rtmsg. */
const ROUTE_INDEX_OFFSET = HEADER_BYTES + 12 + 4;

function neighbourRoute(type: number, flags: number, { family, bytes, length }: IpPrefix): Uint8Array {
  const scope = family === 4 ? RT_SCOPE_LINK : 0;
  const head = Uint8Array.of(FAMILY[family], length, 0, 0, RT_TABLE_MAIN, ROUTE_PROTOCOL, scope, RTN_UNICAST);
  const attributes = concat(
    attribute(RTA.interface, u32(0)),
    attribute(RTA.destination, firstOf(bytes, length)),
  );
  return request(type, flags, concat(head, u32(0), attributes));
}

/** Makes a gateway, which need not be in a network of the interface, the way to everywhere. */
export function newDefaultRoute(index: number, gateway: Uint8Array, about: string): RouteMessage {
  const family = gateway.length === 4 ? FAMILY[4] : FAMILY[6];
  const head = Uint8Array.of(family, 0, 0, 0, RT_TABLE_MAIN, ROUTE_PROTOCOL, 0, RTN_UNICAST);
  const attributes = concat(attribute(RTA.interface, u32(index)), attribute(RTA.gateway, gateway));
  const body = concat(head, u32(RTNH_F_ONLINK), attributes);
  return { bytes: request(RTM.newRoute, NLM_F.create | NLM_F.excl, body), about };
}

/** Adds the steps that open a socket for messages about the network namespace the process is in. */
export function planRouteSocket(p: Program): Result {
  return p.sys('socket', [p.flags('AF_NETLINK'), p.flags('SOCK_RAW', 'SOCK_CLOEXEC'), 0], {
    about: 'rtnetlink',
  });
}

/**
 * Adds the steps that send a message and read what the kernel says to it.
 *
 * @param ignored names of errnos that are as good as success
 * @param late for each hole of the message the number that goes there
 * @returns 0 or the negative errno
 */
export function planRoute(
  p: Program,
  socket: Arg,
  { bytes, about, holes = [INDEX_OFFSET] }: RouteMessage,
  ignored: readonly string[] = [],
  ...late: readonly Result[]
): Result {
  const request = p.data(bytes, about);
  for (const [i, value] of late.entries()) p.store(request.at(holes[i] ?? INDEX_OFFSET, 4), value);
  const reply = p.data(REPLY.bytes);
  p.sys('write', [socket, request, bytes.length], { about });
  p.sys('read', [socket, reply, reply.length], { about });
  const error = p.load(reply.at(REPLY.error, 4));
  const done = p.label();
  for (const name of ignored) {
    p.expect(error, '!=', -(p.abi.errnos[name] ?? 0), name, about, { otherwise: done });
  }
  for (const name of [
    'EPERM',
    'EOPNOTSUPP',
    'EEXIST',
    'EINVAL',
    'EADDRNOTAVAIL',
    'ENODEV',
    'EACCES',
    'ENETUNREACH',
  ]) {
    if (!ignored.includes(name)) p.expect(error, '!=', -(p.abi.errnos[name] ?? 0), name, about);
  }
  p.expect(error, '==', 0, 'EPROTO', about);
  p.place(done);
  return error;
}

/** struct ifreq (netdevice(7)): 16 bytes of name, then the index; 40 bytes in all on 64-bit machines. */
const IFREQ = { index: 16, bytes: 40 } as const;

/** Adds the steps that find an interface of the network namespace the process is in. Fails with ENODEV. */
export function planInterfaceIndex(p: Program, name: string): Result {
  const request = p.data(IFREQ.bytes, `interface ${name}`);
  p.putText(request, name);
  const socket = p.sys('socket', [p.flags('AF_INET'), p.flags('SOCK_DGRAM', 'SOCK_CLOEXEC'), 0]);
  p.sys('ioctl', [socket, p.flags('SIOCGIFINDEX'), request], { about: `interface "${name}"` });
  return p.load(request.at(IFREQ.index, 4));
}

/** A message that the kernel is to answer. */
function request(type: number, flags: number, body: Uint8Array): Uint8Array {
  return message(type, NLM_F.ack | flags, body);
}

/** A request of any kind; its flags are `flags` and NLM_F_REQUEST. */
export function message(type: number, flags: number, body: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(HEADER_BYTES + body.length);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, bytes.length, LE);
  view.setUint16(4, type, LE);
  view.setUint16(6, NLM_F.request | flags, LE);
  bytes.set(body, HEADER_BYTES);
  return bytes;
}

/** struct ifinfomsg: u8 family, u8 0, u16 type, i32 index, u32 flags, u32 which of them to change */
function ifinfo(index: number, flags: number): Uint8Array {
  return concat(new Uint8Array(4), u32(index), u32(flags), u32(flags));
}

/** An attribute of a message. */
export function attribute(type: number, content: Uint8Array): Uint8Array {
  const bytes = new Uint8Array((4 + content.length + 3) & ~3);
  const view = new DataView(bytes.buffer);
  view.setUint16(0, 4 + content.length, LE);
  view.setUint16(2, type, LE);
  bytes.set(content, 4);
  return bytes;
}

function text(value: string): Uint8Array {
  return Buffer.from(`${value}\0`);
}

function u32(value: number): Uint8Array {
  const bytes = new Uint8Array(4);
  new DataView(bytes.buffer).setUint32(0, value, LE);
  return bytes;
}

/** Parts, one behind the other. */
export function concat(...parts: readonly Uint8Array[]): Uint8Array {
  return new Uint8Array(Buffer.concat(parts));
}
