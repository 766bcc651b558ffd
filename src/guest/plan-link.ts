/**
 * The network of mode `private`: a whole stack of the guest's own, and a pair of interfaces between that and the host's.
 *
 *     host:   vs-NAME, in a bridge; or for itself, with the gateways' addresses and a route to each of the guest's
 *     guest:  eth0, with the guest's addresses and the way to everywhere else by its gateways
 */
import { formatIpAddress, type IpPrefix } from '../base/ip.ts';
import {
  deleteAddress,
  deleteLink,
  deleteNeighbourRoute,
  linkUp,
  newAddress,
  newDefaultRoute,
  newNeighbourRoute,
  newPair,
  planInterfaceIndex,
  planRoute,
  planRouteSocket,
} from '../sys/netlink.ts';
import type { Import, Program, Result } from '../sys/program.ts';
import {
  alone,
  INTERFACE,
  INTERFACE_INDEX,
  planInside,
  planKeepSecondaries,
  planOpenNetwork,
} from './plan-network.ts';

/** The pair of one run, decided. */
export interface LinkSpec {
  /** Of the host's end. */
  readonly name: string;
  readonly alias: string;
  readonly bridge: string | undefined;
  readonly addresses: readonly IpPrefix[];
  readonly gateways: readonly IpPrefix[];
  /** Five bytes that are this guest's in all its runs. */
  readonly identity: Uint8Array;
  /** Object: process 1. */
  readonly init: number;
}

/** First byte of a hardware address that is nobody's in particular; the host's end has one that no bridge takes for its own. */
const HARDWARE = { guest: 0x02, host: 0xfe } as const;

/** What the host must not be told by the guest: routes, and that its packets come from somewhere else. */
const HOST_SETTINGS: readonly (readonly [path: string, value: string])[] = [
  ['ipv4/conf/NAME/rp_filter', '1'],
  ['ipv4/conf/NAME/accept_redirects', '0'],
  ['ipv6/conf/NAME/accept_ra', '0'],
  ['ipv6/conf/NAME/accept_redirects', '0'],
];

/**
 * Adds the worker's steps that make the pair; it goes with either end, so with the guest's last process.
 *
 * @returns the index of the host's end
 */
export function planLink(p: Program, spec: LinkSpec): Result {
  const { name, bridge, addresses, gateways } = spec;
  const at = (first: number): Uint8Array => Uint8Array.of(first, ...spec.identity);
  const master = bridge === undefined ? [] : [planInterfaceIndex(p, bridge)];
  const [inside, namespace] = planInside(p, p.import(spec.init), () => [
    planRouteSocket(p),
    planOpenNetwork(p, "the guest's network namespace"),
  ]);
  const socket = planRouteSocket(p);
  const peer = { name: INTERFACE, index: INTERFACE_INDEX, hardwareAddress: at(HARDWARE.guest) };
  const pair = {
    name,
    hardwareAddress: at(HARDWARE.host),
    hasBridge: bridge !== undefined,
    peer,
  };
  planRoute(p, socket, newPair(pair), [], namespace, ...master);
  const index = planInterfaceIndex(p, name);
  for (const [path, value] of HOST_SETTINGS) planSetting(p, path.replace('NAME', name), value);
  planRoute(p, socket, linkUp(0, spec.alias), [], index);
  planRoute(p, inside, linkUp(INTERFACE_INDEX));
  if (bridge === undefined) {
    for (const gateway of gateways)
      planRoute(p, socket, newAddress(0, gateway, `gateway on "${name}"`), [], index);
    for (const one of addresses)
      planRoute(p, socket, newNeighbourRoute(alone(one), `route to "${name}"`), [], index);
  }
  for (const one of addresses) planRoute(p, inside, newAddress(INTERFACE_INDEX, one, 'address of the guest'));
  for (const { bytes } of gateways) {
    planRoute(p, inside, newDefaultRoute(INTERFACE_INDEX, bytes, `gateway ${formatIpAddress(bytes)}`));
  }
  for (const fd of [socket, inside, namespace]) p.sys('close', [fd]);
  return index;
}

/** Adds the steps that change the addresses of a running guest, and the host's routes to them. */
export function planLinkChange(
  p: Program,
  link: { readonly init: Import; readonly name: string; readonly hasBridge: boolean },
  added: readonly IpPrefix[],
  removed: readonly IpPrefix[],
): void {
  const inside = planInside(p, link.init, () => {
    planKeepSecondaries(p, INTERFACE);
    return planRouteSocket(p);
  });
  const socket = planRouteSocket(p);
  const routes = link.hasBridge ? [] : [planInterfaceIndex(p, link.name)];
  for (const index of routes) {
    for (const one of added) planRoute(p, socket, newNeighbourRoute(alone(one), 'route'), ['EEXIST'], index);
    for (const one of removed)
      planRoute(p, socket, deleteNeighbourRoute(alone(one), 'route'), ['ESRCH'], index);
  }
  // The guest may have done so itself.
  for (const one of added)
    planRoute(p, inside, newAddress(INTERFACE_INDEX, one, 'address of the guest'), ['EEXIST']);
  for (const one of removed)
    planRoute(p, inside, deleteAddress(INTERFACE_INDEX, one, 'address of the guest'), ['EADDRNOTAVAIL']);
}

/** Adds the steps that remove what is left of a pair; fine when it went with its guest. */
export function planLinkGone(p: Program, index: number): void {
  planRoute(p, planRouteSocket(p), deleteLink(index, `interface ${index}`), ['ENODEV']);
}

/** Writes a setting of the network namespace the worker is in; a kernel without it, say without IPv6, has no use for it. */
function planSetting(p: Program, path: string, value: string): void {
  const file = `/proc/sys/net/${path}`;
  const skip = p.label();
  const fd = p.sys('openat', [p.flags('AT_FDCWD'), file, p.flags('O_WRONLY', 'O_CLOEXEC'), 0], {
    about: `"${file}"`,
    otherwise: { on: ['ENOENT'], to: skip },
  });
  p.sys('write', [fd, value, value.length], { about: `"${file}"` });
  p.sys('close', [fd]);
  p.place(skip);
}
