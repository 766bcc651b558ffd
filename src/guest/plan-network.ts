/**
 * What a guest sees of its network: an interface with its addresses, for show only, and the files by which names are found.
 */
import type { IpPrefix } from '../base/ip.ts';
import { FILLED_AT_START } from '../storage/minimal-etc.ts';
import { sizeOf } from '../sys/abi.ts';
import {
  deleteAddress,
  deleteNeighbourRoute,
  linkUp,
  linkWithoutOwnAddress,
  newAddress,
  newLink,
  newNeighbourRoute,
  planInterfaceIndex,
  planRoute,
  planRouteSocket,
} from '../sys/netlink.ts';
import type { Import, Label, Program, Result } from '../sys/program.ts';
import { bytesIn, type Text } from '../sys/varying.ts';
import type { InitStyle } from './config-types.ts';
import { openBelow } from './plan-below.ts';
import type { NetworkSpec, StartSpec } from './plan-types.ts';

/** Kinds of interfaces that can stand there for show, the cheapest first; which of them a kernel has differs. */
export const LINK_KINDS: readonly string[] = ['dummy', 'ifb', 'bridge'];

/** A guest's interface, whatever it is. */
export const INTERFACE = 'eth0';
/** A new network namespace has its loopback as 1. */
export const INTERFACE_INDEX = 2;

/** Adds the steps that show a guest's addresses; done by process 1, in the guest's network namespace. */
export function planDisplay(p: Program, { linkKind, addresses }: NetworkSpec): void {
  const socket = planRouteSocket(p);
  planRoute(p, socket, newLink(linkKind, INTERFACE, INTERFACE_INDEX));
  // A kernel without IPv6 gives none by itself.
  planRoute(p, socket, linkWithoutOwnAddress(INTERFACE_INDEX), ['EOPNOTSUPP', 'EINVAL']);
  planRoute(p, socket, linkUp(INTERFACE_INDEX));
  for (const prefix of addresses) planRoute(p, socket, newAddress(INTERFACE_INDEX, prefix, 'shown address'));
  p.sys('close', [socket]);
}

/** Adds the steps that a worker of the host does in the network namespace of a guest's process 1. */
export function planInside<T>(p: Program, init: Import, body: () => T): T {
  const home = planOpenNetwork(p, "the host's network namespace");
  p.sys('setns', [init, p.flags('CLONE_NEWNET')], { about: "the guest's network namespace" });
  const made = body();
  p.sys('setns', [home, p.flags('CLONE_NEWNET')], { about: "the host's network namespace" });
  p.sys('close', [home]);
  return made;
}

/** Adds the step that opens the network namespace the process is in. */
export function planOpenNetwork(p: Program, about: string): Result {
  const flags = p.flags('O_RDONLY', 'O_CLOEXEC');
  return p.sys('openat', [p.flags('AT_FDCWD'), '/proc/self/ns/net', flags, 0], { about });
}

/** Adds the steps that try a kind of interface, in a network namespace that goes with the worker. */
export function planTryLink(p: Program, kind: string): void {
  p.sys('unshare', [p.flags('CLONE_NEWNET')], { about: 'network namespace' });
  // Any index: the other end of a pair is made first, and takes the lowest.
  planRoute(p, planRouteSocket(p), newLink(kind, INTERFACE, 0));
}

/** Adds the steps that change what a running guest sees. */
export function planDisplayChange(
  p: Program,
  init: Import,
  added: readonly IpPrefix[],
  removed: readonly IpPrefix[],
): void {
  p.sys('setns', [init, p.flags('CLONE_NEWNET')], { about: 'network namespace of the guest' });
  planKeepSecondaries(p, INTERFACE);
  const socket = planRouteSocket(p);
  for (const prefix of added)
    planRoute(p, socket, newAddress(INTERFACE_INDEX, prefix, 'shown address'), ['EEXIST']);
  for (const prefix of removed)
    planRoute(p, socket, deleteAddress(INTERFACE_INDEX, prefix, 'shown address'), ['EADDRNOTAVAIL']);
}

/**
 * Adds the steps that put addresses on an interface of the host, each for itself: as one of a network it would be what the
 * host sends from there, or go with the one that came first. The network is a route.
 *
 * @returns for each address 0, or the negative errno of what the interface had already
 */
export function planHostAddresses(p: Program, name: string, added: readonly IpPrefix[]): readonly Result[] {
  const index = planInterfaceIndex(p, name);
  const socket = planRouteSocket(p);
  const about = `address on "${name}"`;
  return added.map((prefix) => {
    const result = planRoute(p, socket, newAddress(0, alone(prefix), about), ['EEXIST'], index);
    if (isInNetwork(prefix))
      planRoute(p, socket, newNeighbourRoute(prefix, `route on "${name}"`), ['EEXIST'], index);
    return result;
  });
}

/**
 * Adds the steps that take addresses from an interface of the host; fine when they are gone.
 *
 * @param networks those whose routes go as well, as nobody else needs them
 */
export function planHostAddressesGone(
  p: Program,
  name: string,
  removed: readonly IpPrefix[],
  networks: readonly IpPrefix[],
): void {
  const index = planInterfaceIndex(p, name);
  const socket = planRouteSocket(p);
  for (const prefix of networks.filter(isInNetwork))
    planRoute(p, socket, deleteNeighbourRoute(prefix, `route on "${name}"`), ['ESRCH'], index);
  for (const prefix of removed)
    planRoute(p, socket, deleteAddress(0, alone(prefix), `address on "${name}"`), ['EADDRNOTAVAIL'], index);
}

/** An address for itself. */
export function alone({ family, bytes }: IpPrefix): IpPrefix {
  return { family, bytes, length: 8 * bytes.length };
}

function isInNetwork({ bytes, length }: IpPrefix): boolean {
  return length < 8 * bytes.length;
}

/**
 * The first address of an IPv4 network would take the others of that network with it when it goes, whosever they are
 * (promote_secondaries of ip-sysctl; systemd turns it on as well). The file is that of the worker's network namespace.
 */
export function planKeepSecondaries(p: Program, name: string): void {
  const path = `/proc/sys/net/ipv4/conf/${name}/promote_secondaries`;
  const skip = p.label();
  const file = p.sys('openat', [p.flags('AT_FDCWD'), path, p.flags('O_WRONLY', 'O_CLOEXEC'), 0], {
    about: `"${path}"`,
    otherwise: { on: [], to: skip },
  });
  p.sys('write', [file, '1', 1], { about: `"${path}"`, ignore: [] });
  p.place(skip);
}

/**
 * Adds the steps that write /etc/hosts and /etc/resolv.conf of a guest: where there is none, an empty one, or one of
 * ours. Whatever else stands in the way is the guest's own, and stays; but a link that leads nowhere, as images have it to
 * the file of a resolver that only an init would start.
 */
export function planNetworkFiles(
  p: Program,
  root: Result,
  { hosts, resolvConf }: StartSpec['networkFiles'],
  init: InitStyle,
): void {
  planFile(p, root, 'hosts', hosts, false);
  if (resolvConf !== undefined) planFile(p, root, 'resolv.conf', resolvConf, init !== 'own');
}

function planFile(p: Program, root: Result, name: string, content: Text, replacesLink: boolean): void {
  const [opened, write, close, skip] = [p.label(), p.label(), p.label(), p.label()];
  const path = `etc/${name}`;
  const about = `"/${path}" in the guest`;
  const slot = p.data(8);
  const open = (to: Label): void => {
    const how = p.struct('open_how', {
      flags: p.flags('O_RDWR', 'O_CREAT', 'O_NOFOLLOW', 'O_NONBLOCK', 'O_CLOEXEC'),
      mode: 0o644,
      resolve: p.flags('RESOLVE_NO_SYMLINKS', 'RESOLVE_NO_MAGICLINKS', 'RESOLVE_BENEATH'),
    });
    const file = p.sys('openat2', [root, path, how, sizeOf(p.abi, 'open_how')], {
      about,
      otherwise: { on: [], to },
    });
    p.store(slot, file);
  };
  if (replacesLink) {
    const again = p.label();
    open(again);
    p.jump(opened);
    p.place(again);
    planUnlinkDangling(p, root, name, skip);
  }
  open(skip);
  p.place(opened);
  const file = p.load(slot.at(0, 4));
  const mark = Buffer.from(FILLED_AT_START);
  const text = p.anyText(content).at(0, bytesIn(content));
  const found = p.data(text.length + 1);
  const length = p.sys('pread64', [file, found, found.length, 0], {
    about,
    otherwise: { on: [], to: close },
  });
  p.expect(length, '!=', 0, 'EEXIST', about, { otherwise: write });
  p.expectBytes(found, mark, 'EEXIST', about, close);
  // Where nothing changes nothing is written: ext4 writes a file out that was cut to nothing, 2 to 7 ms of a start.
  p.expect(length, '==', text.length, 'EEXIST', about, { otherwise: write });
  p.expectBytes(found, text, 'EEXIST', about, write);
  p.jump(close);
  p.place(write);
  p.sys('pwrite64', [file, text, text.length, 0], { about, ignore: [] });
  p.sys('ftruncate', [file, text.length], { about, ignore: [] });
  p.place(close);
  p.sys('close', [file], { about, ignore: [] });
  p.place(skip);
}

/** Removes a file of the guest's /etc if it is a link that leads nowhere; all else goes to `otherwise`. */
function planUnlinkDangling(p: Program, root: Result, name: string, otherwise: Label): void {
  const about = `link "/etc/${name}" in the guest`;
  const dangling = p.label();
  const how = p.struct('open_how', {
    flags: p.flags('O_PATH', 'O_CLOEXEC'),
    resolve: p.flags('RESOLVE_IN_ROOT', 'RESOLVE_NO_MAGICLINKS'),
  });
  const target = p.sys('openat2', [root, `etc/${name}`, how, sizeOf(p.abi, 'open_how')], {
    about,
    ignore: [],
  });
  p.expect(target, '!=', -(p.abi.errnos['ENOENT'] ?? 0), 'ENOENT', about, { otherwise: dangling });
  p.sys('close', [target], { about, ignore: [] });
  p.jump(otherwise);
  p.place(dangling);
  const etc = openBelow(p, root, 'etc', true);
  p.sys('unlinkat', [etc, name, 0], { about, ignore: [] });
  p.sys('close', [etc]);
}
