/**
 * The networks of running guests: addresses that are nobody else's, on the host's interface if the guest names one, the
 * fence around them, and the broker that makes the guest's sockets.
 */

import { rmSync, statSync } from 'node:fs';
import { networkInterfaces } from 'node:os';
import { join } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { StateError, UserError } from '../base/errors.ts';
import {
  firstOf,
  formatIpAddress,
  formatIpPrefix,
  type IpPrefix,
  overlaps,
  parseIpPrefix,
} from '../base/ip.ts';
import { UndoStack } from '../base/undo.ts';
import { idRangeOf } from '../context/id-map.ts';
import { createFence, type Fence, type FenceHandles, openFence, recoverFence } from '../network/fence.ts';
import { FENCE_VERSION } from '../network/fence-maps.ts';
import type {
  BothWays,
  Denial,
  NetworkCounters,
  NetworkRules,
  OwnAddress,
  SocketUsage,
} from '../network/rules.ts';
import { readIfThere, writeVolatile } from '../sys/files.ts';
import { isLocalAddress } from '../sys/local-address.ts';
import { bootId } from '../sys/process.ts';
import type { Program, Result } from '../sys/program.ts';
import type { KernelSocket } from '../sys/sock-diag.ts';
import { type HeldObject, type RunOutcome, StepError } from '../sys/syscalld.ts';
import { OBJECT_KIND } from '../sys/wire.ts';
import type { GuestConfig, GuestNetwork } from './config-types.ts';
import { DenialEvents } from './denials.ts';
import { configOf, type Guest, isActive, type LiveNetwork, type LiveRecord } from './guest.ts';
import { GUEST_LEVEL, type Host } from './host.ts';
import { changeLink, linkTraffic } from './links.ts';
import { hasNetworkViews } from './network-views.ts';
import type { BrokerFence } from './plan-broker.ts';
import { planDisplayChange, planHostAddresses, planHostAddressesGone } from './plan-network.ts';
import { planOpenDirectory } from './plan-paths.ts';
import type { NetworkSpec } from './plan-types.ts';
import { PromisedAddressFiles } from './promised-addresses.ts';
import { Quotas, type QuotaView, quotaRules } from './quotas.ts';
import type { Registry } from './registry.ts';
import { rawAccess } from './spec.ts';

/** Steps of a start by which a guest's network is made ready. */
export interface NetworkOpening {
  /** What `close` may have to undo once the steps are begun. */
  readonly live: LiveNetwork;
  /** Adds them, for the worker. Returns what to call with the outcome. */
  plan(p: Program): (outcome: RunOutcome) => LiveNetwork;
}

/** What a guest has sent and received: by family and protocol, or with a network stack of its own altogether. */
export type GuestTraffic = NetworkCounters | { readonly all: BothWays };

interface OpenFence {
  readonly fence: Fence;
  /** What it holds was set by a former vserverd. */
  readonly isKept: boolean;
}

/** Keeps the networks of one instance. */
export class Networks {
  readonly #host: Host;
  readonly #registry: Registry;
  readonly #promised: PromisedAddressFiles;

  /** Made for the first guest that needs it. */
  #fence: Promise<OpenFence> | undefined;
  /** Of a fence that stands since before syscalld was started anew. */
  #former: FenceHandles | undefined;
  /** Objects of a fence of another version, which nothing here understands: it is left to the guests behind it. */
  #foreign: readonly number[] | undefined;

  readonly quotas: Quotas;
  readonly denialEvents: DenialEvents;

  constructor(host: Host, registry: Registry) {
    this.#host = host;
    this.#registry = registry;
    this.#promised = new PromisedAddressFiles(host.paths.run);
    this.denialEvents = new DenialEvents(host, registry);
    this.quotas = new Quotas(host, async (guest) => {
      const { fence } = await this.#openFence();
      await fence.setNetwork(guest.xid, this.#rules(configOf(guest)));
    });
  }

  /** Returns a guest's quota of traffic, with what it has used of it; undefined without one. */
  async quota(guest: Guest): Promise<QuotaView | undefined> {
    return await this.quotas.view(this.#ownerOf(guest), async () => (await this.#openFence()).fence);
  }

  get #fenceFile(): string {
    return join(this.#host.paths.run, 'fence.json');
  }

  /**
   * Goes on with the fence of a former vserverd.
   *
   * @returns its objects; none when there is no fence, or syscalld was started anew: it is found again when it is needed
   */
  recover(held: readonly HeldObject[]): readonly number[] {
    const text = readIfThere(this.#fenceFile);
    const handles = text === undefined ? undefined : (JSON.parse(text) as FenceHandles); // our own file
    const ids = Object.values(handles?.objects ?? {});
    const there = new Set(held.filter(({ kind }) => kind === OBJECT_KIND.fd).map(({ id }) => id));
    if (handles !== undefined && handles.version !== FENCE_VERSION) {
      this.#foreign = ids.every((id) => there.has(id)) ? ids : [];
      return this.#foreign;
    }
    if (handles === undefined || !ids.every((id) => there.has(id))) {
      this.#former = handles;
      return [];
    }
    this.#fence = Promise.resolve({ fence: openFence(this.#host.syscalld, handles), isKept: true });
    return ids;
  }

  /** Takes over the networks of the guests that run: a fence that was lost is put up again around them. */
  async adopt(guests: readonly Guest[]): Promise<void> {
    const running = guests.filter((one) => one.live?.network && isActive(one));
    if (running.length === 0 || this.#isForeign()) return;
    const { fence, isKept } = await this.#openFence();
    for (const guest of running) {
      const { network } = guest.live ?? {};
      if (!network) continue;
      const owner = this.#ownerOf(guest);
      const { quota, ...rules } = this.#rules(configOf(owner));
      if (isKept) fence.adopt(network.nid, rules);
      // Of a fence that is kept the clock may have gone on past the periods it knows.
      if (quota || !isKept)
        await fence.setNetwork(
          network.nid,
          { ...rules, ...(quota && { quota }) },
          this.quotas.spentBefore(owner),
        );
      if (!isKept) await fence.bindGuest(BigInt(network.cgroupId), network.nid);
      this.quotas.opened(owner, configOf(owner).network.quota, fence);
    }
  }

  /** Whether guests run behind a fence that is of another version. */
  #isForeign(): boolean {
    if (this.#foreign === undefined) return false;
    if (this.#registry.list().some((one) => isActive(one) && one.live?.network)) return true;
    for (const object of this.#foreign) this.#host.syscalld.drop(object);
    this.#foreign = undefined; // the next one takes its place
    return false;
  }

  async #openFence(): Promise<OpenFence> {
    if (this.#isForeign()) {
      throw new StateError(
        'fence-foreign',
        'cannot use the network fence: found one of another version of vserver around guests that run; need all guests with ' +
          'addresses stopped once, they go on as they are until then',
      );
    }
    this.#fence ??= this.#makeFence();
    try {
      const open = await this.#fence;
      this.denialEvents.begin(open.fence, !open.isKept);
      return open;
    } catch (error) {
      this.#fence = undefined;
      throw error;
    }
  }

  async #makeFence(): Promise<OpenFence> {
    const { syscalld, cgroups } = this.#host;
    const kept = await this.#findFence();
    const { directory, uncountedMemory } = cgroups;
    const options = { cgroup: directory, guestLevel: GUEST_LEVEL, uncountedMemory };
    const fence = kept ?? (await createFence(syscalld, options));
    writeVolatile(this.#fenceFile, JSON.stringify(fence.handles));
    return { fence, isKept: kept !== undefined };
  }

  async #findFence(): Promise<Fence | undefined> {
    const former = this.#former;
    this.#former = undefined;
    try {
      return former && (await recoverFence(this.#host.syscalld, former));
    } catch (error) {
      if (!(error instanceof StepError)) throw error;
      return undefined; // it went with its cgroup
    }
  }

  /** The guest whose addresses a guest has. */
  #ownerOf(guest: Guest): Guest {
    return this.#owner(guest, configOf(guest).network) ?? guest;
  }

  /** @throws UserError guest-not-found */
  #rules(config: GuestConfig): NetworkRules {
    const { addresses, ranges, policy, bandwidth, quota } = config.network;
    const { peers = [], ...rest } = policy ?? {};
    const raw = rawAccess(config);
    const { sockets } = config.limits.context;
    return {
      ...addressesOf(addresses.map(parseIpPrefix)),
      policy: {
        ...rest,
        ...(raw === undefined ? {} : { raw }),
        peers: peers.map((name) => this.#registry.find(name).xid),
      },
      ...(ranges === undefined ? {} : { ranges }),
      ...(bandwidth === undefined ? {} : { bandwidth }),
      ...(quota === undefined ? {} : { quota: quotaRules(quota) }),
      ...(sockets === undefined ? {} : { sockets }),
    };
  }

  /** Returns what a guest's broker has of the fence; undefined for a guest that has no network on the host's stack. */
  async brokerFence(guest: Guest): Promise<BrokerFence | undefined> {
    const config = configOf(guest);
    if (config.network.mode !== 'isolated') return undefined;
    const { fence } = await this.#openFence();
    const { sockets, link, networks } = fence.handles.objects;
    const raw = rawAccess(config) === undefined ? undefined : { networks, nid: this.#ownerOf(guest).xid };
    return { sockets, link, raw };
  }

  /**
   * Refuses a configuration whose addresses another guest has, running or not.
   *
   * @throws StateError address-in-use; UserError guest-not-found, network-not-shareable
   */
  async check(guest: Pick<Guest, 'name'>, { network }: Pick<GuestConfig, 'network'>): Promise<void> {
    this.#owner(guest, network);
    for (;;) {
      const taken = this.#findTaken(guest, network);
      if (taken === undefined) return;
      const { other, address } = taken;
      if (other.isEphemeral && other.state === 'stopping' && other.ended) {
        await other.ended.promise; // its command has ended, it will be gone in a moment
        continue;
      }
      throw new StateError(
        'address-in-use',
        `cannot use address ${hostPart(address)} for guest "${guest.name}": found it taken by guest "${other.name}"; ` +
          `need another one${network.mode === 'isolated' ? `, or network.shareWith: ${other.name}` : ''}`,
      );
    }
  }

  #findTaken(
    guest: Pick<Guest, 'name'>,
    network: GuestNetwork,
  ): { readonly other: Guest; readonly address: string } | undefined {
    if (network.addresses.length === 0 && !network.ranges) return undefined;
    const wanted = new Set(hostParts(network.addresses));
    for (const other of this.#registry.list()) {
      const its = configOf(other).network;
      if (other.name === guest.name || placeOf(its) !== placeOf(network)) continue;
      const address = hostParts(its.addresses).find((one) => wanted.has(one)) ?? sharedPart(network, its);
      if (address !== undefined) return { other, address };
    }
    return undefined;
  }

  /** Guests that run with the addresses of this one. */
  usersOf(guest: Guest): readonly Guest[] {
    return this.#registry
      .list()
      .filter((one) => isActive(one) && one.live?.config.network.shareWith === guest.name);
  }

  /** Refuses to let a guest go whose addresses another one uses. @throws StateError network-shared */
  checkUnused(guest: Guest): void {
    const [user] = this.usersOf(guest);
    if (user === undefined) return;
    throw new StateError(
      'network-shared',
      `cannot delete guest "${guest.name}": found that guest "${user.name}" shares its network; need that one stopped`,
    );
  }

  /** The guest whose network context it is in: itself, or the one it shares with. */
  #owner(guest: Pick<Guest, 'name'>, network: GuestNetwork): Guest | undefined {
    if (network.shareWith === undefined) return this.#registry.named(guest.name);
    const owner = this.#registry.find(network.shareWith);
    const { mode, shareWith } = configOf(owner).network;
    if (owner.name === guest.name || mode !== 'isolated' || shareWith !== undefined) {
      throw new UserError(
        'network-not-shareable',
        `cannot share the network of guest "${owner.name}" with guest "${guest.name}": found that it ` +
          (owner.name === guest.name ? 'is the same guest' : 'has no addresses of its own') +
          '; need a guest with network.addresses',
      );
    }
    return owner;
  }

  /**
   * Decides a guest's network. Changes nothing that lasts but that there is a fence.
   *
   * @returns undefined for a guest that has none on the host's stack
   * @throws StateError address-in-use, no-link-kind; UserError network-not-shareable; StepError
   */
  async plan(guest: Guest): Promise<NetworkSpec | undefined> {
    const { mode } = guest.config.network;
    if (mode === 'isolated' || mode === 'private') await this.check(guest, guest.config);
    if (mode !== 'isolated') return undefined;
    const { views } = this.#host;
    return {
      addresses: configOf(this.#ownerOf(guest)).network.addresses.map(parseIpPrefix),
      linkKind: await this.#host.linkKind(),
      views:
        views && (await hasNetworkViews(this.#host, guest.config))
          ? { objects: views, xid: guest.xid }
          : undefined,
    };
  }

  /** Prepares the steps that make a guest's network ready for its start. Changes nothing. */
  async begin(guest: Guest, { addresses }: NetworkSpec): Promise<NetworkOpening> {
    const owner = this.#owner(guest, guest.config.network) ?? guest;
    const own = configOf(owner);
    const name = own.network.interface;
    const rules = this.#rules(own);
    const { fence } = await this.#openFence();
    const directory = `${this.#host.cgroups.directory}/${guest.xid}`;
    const absent = name === undefined ? [] : await notOnHost(addresses);
    const live: LiveNetwork = {
      nid: owner.xid,
      cgroupId: String(statSync(directory, { bigint: true }).ino),
      interface: name,
      added: absent.map(formatIpPrefix),
    };
    if (name !== undefined) this.#promise(guest, name, live.added);
    return {
      live,
      plan: (p) => {
        // The fence first: no address is there before it is guarded.
        fence.planNetwork(p, live.nid, rules, this.quotas.spentBefore(owner))();
        this.quotas.opened(owner, own.network.quota, fence);
        fence.planBindGuest(p, planOpenDirectory(p, p.flags('AT_FDCWD'), directory), live.nid);
        if (name === undefined) return () => live;
        const results = planHostAddresses(p, name, absent);
        return (outcome) => ({ ...live, added: addedOf(absent, results, outcome) });
      },
    };
  }

  #promise(guest: Pick<Guest, 'name'>, name: string, addresses: readonly string[]): void {
    this.#promised.add({ bootId: bootId(), guest: guest.name, interface: name, addresses });
  }

  /** The record of a run has the addresses that are on the host for it, or they have been taken away. */
  recorded(guest: Guest, network: LiveNetwork | undefined): void {
    if (network?.interface !== undefined) this.#promised.remove(guest.name);
  }

  /** Takes away the addresses of starts and changes that did not come to their end. Called once the guests that run are known. */
  async sweepAddresses(): Promise<void> {
    for (const { guest, interface: name, addresses } of this.#promised.list(bootId())) {
      const owned = new Set(
        this.#registry.list().flatMap((one) => (isActive(one) ? (one.live?.network?.added ?? []) : [])),
      );
      await this.#removeAddresses(
        { name: guest },
        name,
        addresses.filter((one) => !owned.has(one)),
      );
      this.#promised.remove(guest);
    }
  }

  /** Puts back what a change that did not come to its end has taken away. Called once the guests that run are known. */
  async restoreAddresses(): Promise<void> {
    // Of interfaces that are up: one look, where to try each address takes a socket.
    const seen = Object.values(networkInterfaces()).flatMap(
      (all) => all?.map(({ address }) => address) ?? [],
    );
    const isSeen = new Set(seen.map((address) => formatIpAddress(parseIpPrefix(address).bytes)));
    for (const guest of this.#registry.list().filter(isActive)) {
      const { interface: name, added = [] } = guest.live?.network ?? {};
      const lost = added.map(parseIpPrefix).filter(({ bytes }) => !isSeen.has(formatIpAddress(bytes)));
      if (name === undefined || lost.length === 0) continue;
      await this.#addAddresses(guest, name, lost);
      this.#promised.remove(guest.name);
    }
  }

  /** Returns the addresses that the interface had not had. */
  async #addAddresses(
    guest: Guest,
    name: string,
    addresses: readonly IpPrefix[],
  ): Promise<readonly string[]> {
    const p = this.#host.program();
    const absent = await notOnHost(addresses);
    this.#promise(guest, name, absent.map(formatIpPrefix));
    const results = planHostAddresses(p, name, absent);
    const outcome = await this.#host.syscalld.run(
      `put the addresses of guest "${guest.name}" on "${name}"`,
      p,
    );
    return addedOf(absent, results, outcome);
  }

  /** Of a guest's addresses on an interface those in whose networks no other guest is there. */
  #lastIn(guest: Pick<Guest, 'name'>, name: string, addresses: readonly string[]): readonly IpPrefix[] {
    const used = new Set<string>();
    for (const one of this.#registry.list()) {
      const network = isActive(one) ? one.live?.network : undefined;
      if (network?.interface !== name) continue;
      const stay =
        one.name === guest.name ? network.added.filter((own) => !addresses.includes(own)) : network.added;
      for (const text of networkTexts(stay)) used.add(text);
    }
    const texts = networkTexts(addresses);
    return addresses.map(parseIpPrefix).filter((_, i) => !used.has(texts[i] ?? ''));
  }

  async #removeAddresses(
    guest: Pick<Guest, 'name'>,
    name: string,
    addresses: readonly string[],
  ): Promise<void> {
    if (addresses.length === 0) return;
    const p = this.#host.program();
    planHostAddressesGone(p, name, addresses.map(parseIpPrefix), this.#lastIn(guest, name, addresses));
    try {
      await this.#host.syscalld.run(`take the addresses of guest "${guest.name}" from "${name}"`, p);
    } catch (error) {
      if (error instanceof StepError && error.errnoName === 'ENODEV') return; // they went with it
      this.#promise(guest, name, addresses); // for the next vserverd
      throw error;
    }
  }

  /**
   * Ends a guest's network, when its run has ended.
   *
   * @returns another guest that has the same addresses, and from now on those that this one put on the host's interface
   */
  async close(guest: Guest, live: LiveNetwork): Promise<LiveRecord | undefined> {
    const fence = this.#isForeign() ? undefined : (await this.#openFence()).fence;
    await fence?.unbindGuest(BigInt(live.cgroupId));
    const heir = this.#registry
      .list()
      .find((one) => one !== guest && isActive(one) && one.live?.network?.nid === live.nid)?.live;
    if (!heir?.network) {
      if (live.interface !== undefined) await this.#removeAddresses(guest, live.interface, live.added);
      if (fence) {
        await this.quotas.closing(live.nid, fence);
        await fence.removeNetwork(live.nid);
      }
      return undefined;
    }
    if (live.interface === undefined || live.added.length === 0) return undefined;
    const added = [...new Set([...heir.network.added, ...live.added])];
    return { ...heir, network: { ...heir.network, interface: live.interface, added } };
  }

  /** Returns what a guest has sent and received, with those it shares its network with; undefined without one. */
  async traffic(guest: Guest): Promise<GuestTraffic | undefined> {
    const { network, link } = (isActive(guest) && guest.live) || {};
    if (link) {
      const all = linkTraffic(link);
      return all && { all };
    }
    if (!network) return undefined;
    return await (await this.#openFence()).fence.readCounters(network.nid);
  }

  /**
   * Returns the sockets of TCP or UDP of a guest's network context, as it knows them; none without one.
   *
   * @throws StateError no-sock-diag; StepError
   */
  async listSockets(
    guest: Guest,
    family: 4 | 6,
    protocol: 6 | 17,
    most: number,
  ): Promise<readonly KernelSocket[]> {
    const network = isActive(guest) ? guest.live?.network : undefined;
    if (!network || this.#isForeign()) return [];
    const { fence } = await this.#openFence();
    const isUser = (uid: number): boolean => this.isUserOf(guest, uid);
    return await fence.listSockets(network.nid, family, protocol, { isUser, most });
  }

  /** Whether a user of the host is one of a guest, or of another one in the same network context. */
  isUserOf(guest: Guest, uid: number): boolean {
    return this.#registry.list().some((one) => {
      const { hostBase, count } = idRangeOf(one.xid);
      const isItsUser = uid >= hostBase && uid < hostBase + count;
      return isItsUser && isActive(one) && one.live?.network?.nid === guest.live?.network?.nid;
    });
  }

  /** What every network context has sent and received, by its number; none without a fence of our own. */
  async allTraffic(): Promise<ReadonlyMap<number, NetworkCounters>> {
    return this.#hasFence() ? await (await this.#openFence()).fence.readAllCounters() : new Map();
  }

  #hasFence(): boolean {
    return !this.#isForeign() && this.#registry.list().some((one) => one.live?.network && isActive(one));
  }

  /** Returns how many sockets a guest has and had on the host's stack, with those it shares its network with. */
  async sockets(guest: Guest): Promise<SocketUsage | undefined> {
    const network = isActive(guest) ? guest.live?.network : undefined;
    return network && (await this.allSockets()).get(network.nid);
  }

  /** How many sockets every network context has and had, by its number; none without a fence of our own. */
  async allSockets(): Promise<ReadonlyMap<number, SocketUsage>> {
    return this.#hasFence() ? await (await this.#openFence()).fence.readSockets() : new Map();
  }

  /** Lists what a guest's network context was refused, the latest first. */
  async denials(guest: Guest): Promise<readonly Denial[]> {
    const network = isActive(guest) ? guest.live?.network : undefined;
    if (!network) return [];
    return await (await this.#openFence()).fence.readDenials(network.nid);
  }

  /** Forgets the fence, when no guest runs any more. */
  async end(): Promise<void> {
    this.quotas.close();
    this.denialEvents.close();
    const open = await this.#fence?.catch(() => undefined);
    if (this.#registry.list().some(isActive)) return;
    open?.fence.close();
    rmSync(this.#fenceFile, { force: true });
  }

  /**
   * Changes the addresses of a running guest, and of those that share them.
   *
   * @returns its record after that; undefined when nothing changes before its next start
   */
  async change(
    guest: Guest,
    live: LiveRecord,
    { network: after, limits }: GuestConfig,
  ): Promise<LiveRecord | undefined> {
    if (live.link) return await changeLink(this.#host, guest, live, after);
    const before = live.config.network;
    if (!live.network || after.mode !== 'isolated' || after.shareWith !== before.shareWith) return undefined;
    const added = after.addresses.filter((one) => !before.addresses.includes(one)).map(parseIpPrefix);
    const removed = before.addresses.filter((one) => !after.addresses.includes(one)).map(parseIpPrefix);
    const { sockets } = live.config.limits.context;
    if (isDeepStrictEqual(before, after) && sockets === limits.context.sockets) return undefined;
    const { nid } = live.network;
    const { fence } = await this.#openFence();
    await using undo = new UndoStack();
    const setRules = async (config: GuestConfig): Promise<void> => {
      await fence.setNetwork(nid, this.#rules(config), this.quotas.spentBefore(guest));
      this.quotas.opened(guest, config.network.quota, fence);
    };
    undo.defer('rules', () => setRules(live.config));
    await setRules({ ...live.config, limits, network: after });
    const had = live.network;
    const network = await this.#changeHost(guest, had, added, removed.map(formatIpPrefix));
    undo.defer('addresses', async () => {
      const lost = had.added.filter((one) => !network.added.includes(one)).map(parseIpPrefix);
      const fresh = network.added.filter((one) => !had.added.includes(one));
      await this.#changeHost(guest, network, lost, fresh);
      this.recorded(guest, had);
    });
    for (const one of this.#registry.list()) {
      if (!one.live || !isActive(one) || one.live.network?.nid !== nid) continue;
      if (added.length + removed.length === 0) break;
      const p = this.#host.program();
      planDisplayChange(p, p.import(one.live.initObject), added, removed);
      try {
        await this.#host.syscalld.run(`show guest "${one.name}" its addresses`, p);
      } catch (error) {
        if (!(error instanceof StepError && error.errnoName === 'ESRCH')) throw error; // it is just ending
      }
    }
    undo.commit();
    const { interface: name } = before;
    const config = {
      ...live.config,
      network: { ...after, ...(name === undefined ? {} : { interface: name }) },
    };
    return { ...live, config, network };
  }

  async #changeHost(
    guest: Guest,
    network: LiveNetwork,
    added: readonly IpPrefix[],
    removed: readonly string[],
  ): Promise<LiveNetwork> {
    const name = network.interface;
    if (name === undefined) return network;
    const stay = network.added.filter((one) => !removed.includes(one));
    await this.#removeAddresses(
      guest,
      name,
      network.added.filter((one) => removed.includes(one)),
    );
    const fresh = added.length === 0 ? [] : await this.#addAddresses(guest, name, added);
    return { ...network, added: [...stay, ...fresh] };
  }
}

/** What a guest has that lies in a range of another one's, or the other way round. */
function sharedPart(one: GuestNetwork, other: GuestNetwork): string | undefined {
  if (!one.ranges && !other.ranges) return undefined;
  const networksOf = ({ addresses, ranges = [] }: GuestNetwork): readonly IpPrefix[] =>
    [...hostParts(addresses), ...ranges].map(parseIpPrefix);
  const own = networksOf(one);
  const found = networksOf(other).find((its) => own.some((mine) => overlaps(mine, its)));
  return found && formatIpPrefix(found);
}

/** Where an address can be had once: the host knows those of a bridge only by what is behind it. */
function placeOf({ bridge }: GuestNetwork): string {
  return bridge ?? '';
}

function addressesOf(addresses: readonly IpPrefix[]): Pick<NetworkRules, 'addresses4' | 'addresses6'> {
  const of = (family: 4 | 6): readonly OwnAddress[] =>
    addresses
      .filter((one) => one.family === family)
      .map(({ bytes, length }) => ({ address: formatIpAddress(bytes), prefix: length }));
  return { addresses4: of(4), addresses6: of(6) };
}

async function notOnHost(addresses: readonly IpPrefix[]): Promise<readonly IpPrefix[]> {
  const are = await Promise.all(
    addresses.map(({ family, bytes }) => isLocalAddress(family, formatIpAddress(bytes))),
  );
  return addresses.filter((_, i) => !are[i]);
}

/** The addresses that an interface did not have before. */
function addedOf(
  addresses: readonly IpPrefix[],
  results: readonly Result[],
  outcome: RunOutcome,
): readonly string[] {
  const isAdded = (result: Result | undefined): boolean =>
    result !== undefined && outcome.result(result) === 0;
  return addresses.filter((_, i) => isAdded(results[i])).map(formatIpPrefix);
}

/** The networks of addresses, as texts to compare. */
const networkTexts = remembered((address) => {
  const { family, bytes, length } = parseIpPrefix(address);
  return formatIpPrefix({ family, bytes: firstOf(bytes, length), length });
});

function hostPart(address: string): string {
  return address.split('/')[0] ?? address;
}

const hostParts = remembered(hostPart);

/** Each start and each end compares with the addresses of all other guests: these stay what they are. */
function remembered(
  textOf: (address: string) => string,
): (addresses: readonly string[]) => readonly string[] {
  const known = new WeakMap<readonly string[], readonly string[]>();
  return (addresses) => {
    const texts = known.get(addresses) ?? addresses.map(textOf);
    known.set(addresses, texts);
    return texts;
  };
}
