/**
 * Guests with a network stack of their own (mode `private`): the pair of interfaces between that and the host's.
 */
import { hash } from 'node:crypto';
import { isDeepStrictEqual } from 'node:util';
import { parseIpPrefix } from '../base/ip.ts';
import type { BothWays } from '../network/rules.ts';
import { parseNetDev } from '../spec/net-dev.ts';
import { readIfThere } from '../sys/files.ts';
import type { GuestNetwork } from './config-types.ts';
import type { Guest, LiveLink, LiveRecord } from './guest.ts';
import type { Host } from './host.ts';
import { type LinkSpec, planLinkChange, planLinkGone } from './plan-link.ts';

/** `IFNAMSIZ` without its NUL, include/uapi/linux/if.h. */
const MAX_NAME = 15;
const PREFIX = 'vs-';

/** Returns what the host's end of a guest's interface is called. */
function linkName({ name, xid }: Pick<Guest, 'name' | 'xid'>): string {
  const own = PREFIX + name;
  return own.length <= MAX_NAME ? own : `${PREFIX}${xid}`;
}

/**
 * Decides a guest's pair of interfaces; undefined for one that has no network stack of its own.
 *
 * @param init object of its process 1
 */
export function linkSpec(host: Host, guest: Guest, init: number): LinkSpec | undefined {
  const { mode, addresses, gateways = [], bridge } = guest.config.network;
  if (mode !== 'private') return undefined;
  return {
    name: linkName(guest),
    alias: `vserver guest ${guest.name}`,
    bridge,
    addresses: addresses.map(parseIpPrefix),
    gateways: gateways.map(parseIpPrefix),
    identity: identityOf(host, guest.name),
    init,
  };
}

/** Hardware addresses stay what they are from run to run, as caches and DHCP servers remember them. */
function identityOf(host: Host, name: string): Uint8Array {
  const machine = readIfThere('/etc/machine-id') ?? '';
  return hash('sha256', `${machine} ${host.paths.root ?? ''} ${name}`, 'buffer').subarray(0, 5);
}

/** Removes what the end of a run may have left of its pair: the kernel does so too, but a moment later. */
export async function removeLink(host: Host, guest: Guest, link: LiveLink): Promise<void> {
  const p = host.program();
  planLinkGone(p, link.index);
  await host.syscalld.run(`remove the interface of guest "${guest.name}"`, p);
}

/**
 * Changes the addresses of a running guest.
 *
 * @returns its record after that; undefined when nothing changes before its next start
 */
export async function changeLink(
  host: Host,
  guest: Guest,
  live: LiveRecord,
  after: GuestNetwork,
): Promise<LiveRecord | undefined> {
  const { network: before } = live.config;
  if (!live.link || after.mode !== 'private' || isDeepStrictEqual(before.addresses, after.addresses))
    return undefined;
  const p = host.program();
  const link = {
    init: p.import(live.initObject),
    name: live.link.name,
    hasBridge: before.bridge !== undefined,
  };
  const without = (some: readonly string[], others: readonly string[]): readonly string[] =>
    some.filter((one) => !others.includes(one));
  planLinkChange(
    p,
    link,
    without(after.addresses, before.addresses).map(parseIpPrefix),
    without(before.addresses, after.addresses).map(parseIpPrefix),
  );
  await host.syscalld.run(`change the addresses of guest "${guest.name}"`, p);
  const network = { ...before, addresses: after.addresses };
  return { ...live, config: { ...live.config, network } };
}

/** Returns what has gone over a guest's interface; undefined when it is gone. */
export function linkTraffic({ name }: LiveLink): BothWays | undefined {
  const counted = parseNetDev(readIfThere('/proc/self/net/dev') ?? '').get(name);
  // What the host's end has received the guest has sent.
  return counted && { received: counted.sent, sent: counted.received };
}
