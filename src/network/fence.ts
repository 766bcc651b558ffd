/**
 * The fence: eBPF programs and maps that keep each guest's sockets, which live in the host's network namespace, to the
 * addresses and peers of the guest's network context.
 *
 * The programs are attached to the instance's cgroup and stay as long as that. The maps, and the link of the program that
 * finds listeners, are descriptors of syscalld: a new vserverd goes on with them.
 */
import { endianness } from 'node:os';
import { StateError, UserError } from '../base/errors.ts';
import { possibleCpus } from '../sys/bpf/cpus.ts';
import { planAttached } from '../sys/bpf/load.ts';
import { planDelete, planEnterPerCpu, planLookup, planOpenMap, planUpdate } from '../sys/bpf/map.ts';
import { type MapBatch, readMap } from '../sys/bpf/read-map.ts';
import { UPDATE } from '../sys/bpf/uapi.ts';
import { planLoopbackAddress } from '../sys/loopback-address.ts';
import { type Import, Program, type Result } from '../sys/program.ts';
import {
  type KernelSocket,
  parseSocketParts,
  planSocketQuery,
  planSocketsPart,
  type SocketsLayout,
} from '../sys/sock-diag.ts';
import type { Syscalld } from '../sys/syscalld.ts';
import { ADDRESS_BYTES, formatAddress, type Network } from './address.ts';
import { planAlarmReset, planAlarmWait } from './fence-alarm.ts';
import { type Element, long, loopback6, networkElements, spentValue, words } from './fence-elements.ts';
import {
  attachPrograms,
  type FenceHandles,
  fenceErrnos,
  makeMaps,
  mapParts,
  planEnter,
  planOpen,
} from './fence-making.ts';
import {
  BINDING,
  COUNTER,
  DENIAL,
  DENIED,
  FENCE_MAP_NAMES,
  FENCE_MAPS,
  FENCE_VERSION,
  type FenceMap,
  GLOBAL_FLAG,
  GLOBALS,
  SPENT,
  USAGE,
} from './fence-maps.ts';
import { fencePrograms, lookupSpec } from './fence-programs.ts';
import { parseAllCounters, parseCounters, parseDenials, parseSockets, parseSpent } from './fence-reading.ts';
import {
  asDatagramBound,
  bindingKeys,
  ownDatagrams,
  ownStreams,
  placesOf,
  type SocketChoice,
  withLocalhost,
} from './own-sockets.ts';
import type { Denial, NetworkCounters, NetworkRules, Nid, SocketUsage, Spent } from './rules.ts';

export type { FenceHandles } from './fence-making.ts';

/** What a fence is made around. */
export interface FenceOptions {
  /** cgroup2 directory all of whose guests are fenced. */
  readonly cgroup: string;
  /** Depth of a guest's cgroup below the root of the cgroup2 tree: 2 for `/vserver/XID`. */
  readonly guestLevel: number;
  /** The network namespace, by path; default that of syscalld. */
  readonly netns?: string;
  /** `cgroup.procs` of a cgroup to make the maps in: see `makeMaps`. */
  readonly uncountedMemory?: string;
}

/**
 * Loads and attaches a fence; one that is attached to the cgroup already, and that nobody has the handles of, is
 * replaced. Needs Linux 5.18.
 *
 * @throws SysError program-failed, BugError ebpf-refused
 */
export async function createFence(syscalld: Syscalld, options: FenceOptions): Promise<Fence> {
  const { cgroup, netns = null, guestLevel, uncountedMemory } = options;
  const objects = newObjects(syscalld);
  try {
    const { netnsCookie, maps } = await makeMaps(syscalld, objects, { netns, uncountedMemory });
    const handles: FenceHandles = { version: FENCE_VERSION, objects, maps, cgroup, netns };
    const target = { errnos: fenceErrnos(syscalld.abi), guestLevel, netnsCookie };
    await attachPrograms(syscalld, handles, fencePrograms(target));
    return new Fence(syscalld, handles, 0);
  } catch (error) {
    for (const name of FENCE_MAP_NAMES) syscalld.drop(objects[name]);
    throw error;
  }
}

/**
 * Goes on with a fence whose syscalld has died: the programs still stand, the maps are theirs, and only the program that
 * finds listeners is linked again. Then `adopt` each context.
 *
 * @throws SysError program-failed when the fence is gone, and a new one has to be made
 */
export async function recoverFence(syscalld: Syscalld, before: FenceHandles): Promise<Fence> {
  const handles: FenceHandles = { ...before, objects: newObjects(syscalld) };
  const p = new Program(syscalld.abi);
  const { count } = planAttached(p, 'BPF_CGROUP_INET_EGRESS', planOpen(p, handles.cgroup));
  p.expect(count, '!=', 0, 'ENOENT', 'the fence');
  await syscalld.run('find the fence', p);
  try {
    for (const names of mapParts()) {
      const part = new Program(syscalld.abi);
      for (const name of names)
        part.keep(planOpenMap(part, name, handles.maps[name], FENCE_MAPS[name]), handles.objects[name]);
      await syscalld.run('find the fence', part);
    }
    await attachPrograms(syscalld, handles, [lookupSpec()]);
  } catch (error) {
    for (const name of FENCE_MAP_NAMES) syscalld.drop(handles.objects[name]);
    throw error;
  }
  return openFence(syscalld, handles);
}

function newObjects(syscalld: Syscalld): FenceHandles['objects'] {
  const names = [...FENCE_MAP_NAMES, 'link' as const];
  return Object.fromEntries(names.map((name) => [name, syscalld.newObject()])) as FenceHandles['objects']; // the same names
}

/** Goes on with a fence; its objects must be among those syscalld holds. Then `adopt` each context. */
export function openFence(syscalld: Syscalld, handles: FenceHandles): Fence {
  return new Fence(syscalld, handles, GLOBAL_FLAG.ranges | GLOBAL_FLAG.rates | GLOBAL_FLAG.quotas);
}

/** A fence that stands. */
export class Fence {
  readonly handles: FenceHandles;
  readonly #syscalld: Syscalld;
  readonly #known = new Map<Nid, Known>();
  /** Whose an address or a range is, by the name of its element. */
  readonly #owners = new Map<string, Nid>();
  /** Never cleared: a flag too many costs a lookup, one too few opens a gap. */
  #flags: number;
  readonly #cpus: number = possibleCpus();
  #generation = 0n;

  /** `flags`: what contexts that are there may need. */
  constructor(syscalld: Syscalld, handles: FenceHandles, flags: number) {
    this.#syscalld = syscalld;
    this.handles = handles;
    this.#flags = flags;
  }

  /** Remembers what is set for a context, without a word to the kernel: after `openFence`. */
  adopt(nid: Nid, rules: NetworkRules): void {
    this.#remember(nid, indexed(networkElements(nid, rules)), true);
    this.#addFlags(rules);
  }

  /**
   * Sets up a context, or changes it: its sockets are under the new rules when this returns.
   *
   * @param spent of its quota, if the fence does not know
   * @throws UserError invalid-address, invalid-network, invalid-rule, too-many-rules; StateError address-in-use
   */
  async setNetwork(nid: Nid, rules: NetworkRules, spent?: Spent): Promise<void> {
    const p = this.#program();
    const done = this.#planEdit(p, nid, rules, spent);
    await this.#syscalld.run(`set network ${nid}`, p);
    done();
  }

  /**
   * As `setNetwork`, in the program of a start, which runs in the fence's network namespace.
   *
   * @returns call it when the program has run
   */
  planNetwork(p: Program, nid: Nid, rules: NetworkRules, spent?: Spent): () => void {
    return this.#planEdit(p, nid, rules, spent);
  }

  /** Removes a context: sockets that are left of it can do nothing more. Fine when there is none. */
  async removeNetwork(nid: Nid): Promise<void> {
    const p = this.#program();
    planDelete(p, this.#map(p, 'networks'), words(nid), `network ${nid}`);
    for (const { map, key } of this.#known.get(nid)?.elements.values() ?? [])
      planDelete(p, this.#map(p, map), key, map);
    planDelete(p, this.#map(p, 'counters'), words(nid), 'counters');
    for (const map of ['usage', 'spent'] as const) planDelete(p, this.#map(p, map), words(nid), map);
    planLoopbackAddress(p, 'remove', loopback6(nid));
    this.#planGeneration(p);
    await this.#syscalld.run(`remove network ${nid}`, p);
    this.#remember(nid, NOTHING, true);
    this.#known.delete(nid);
  }

  /** Says that the sockets made below a cgroup are a context's; `cgroup` is the inode of its directory. */
  async bindGuest(cgroup: bigint, nid: Nid): Promise<void> {
    const p = this.#program();
    planUpdate(p, this.#map(p, 'guests'), long(cgroup), words(nid), { about: 'guest' });
    await this.#syscalld.run(`bind a cgroup to network ${nid}`, p);
  }

  /** Adds the steps that do so for the directory that is open as `cgroup`. */
  planBindGuest(p: Program, cgroup: Result | Import, nid: Nid): void {
    const stat = p.struct('stat', {});
    p.sys('fstat', [cgroup, stat], { about: 'cgroup' });
    const key = p.data(8, '<cgroup>');
    p.store(key, p.loadField(stat, 'stat', 'st_ino'), 8);
    planUpdate(p, this.#map(p, 'guests'), key, words(nid), { about: 'guest' });
  }

  /** Takes that back; sockets that are there stay the context's. */
  async unbindGuest(cgroup: bigint): Promise<void> {
    const p = this.#program();
    planDelete(p, this.#map(p, 'guests'), long(cgroup), 'guest');
    await this.#syscalld.run('unbind a cgroup', p);
  }

  /** Returns what a context has sent and received; zeros for one that is not set up. */
  async readCounters(nid: Nid): Promise<NetworkCounters> {
    const p = this.#program();
    p.returns(planLookup(p, this.#map(p, 'counters'), words(nid), COUNTER.bytes * this.#cpus, '<counters>'));
    return parseCounters((await this.#syscalld.run(`read counters of network ${nid}`, p)).out, this.#cpus);
  }

  /** Returns what each context has sent and received. */
  async readAllCounters(): Promise<ReadonlyMap<Nid, NetworkCounters>> {
    const spec = { keyBytes: 4, valueBytes: COUNTER.bytes * this.#cpus };
    const counters = new Map<Nid, NetworkCounters>();
    for await (const { out, layout } of this.#readMap('counters', spec, COUNTERS_BATCH))
      for (const [nid, found] of parseAllCounters(out, layout, this.#cpus)) counters.set(nid, found);
    return counters;
  }

  /** Lists what was refused, to one context or to all, the latest first. The fence remembers the last few thousand. */
  async readDenials(nid?: Nid): Promise<readonly Denial[]> {
    const denials: Denial[] = [];
    const spec = { keyBytes: DENIAL.bytes, valueBytes: DENIED.bytes };
    for await (const { out, layout } of this.#readMap('denials', spec, DENIALS_BATCH))
      denials.push(...parseDenials(out, layout));
    return denials
      .filter((denial) => nid === undefined || denial.nid === nid)
      .sort((a, b) => b.lastMs - a.lastMs);
  }

  /** Resolves when something is denied, or was since `resetAlarm`. It costs nothing until then but a worker that waits. */
  async waitForDenial(): Promise<void> {
    const p = new Program(this.#syscalld.abi);
    planAlarmWait(p, this.#map(p, 'alarm'));
    await this.#syscalld.run('wait for denials', p);
  }

  /** Says that the denials of until now are known. */
  async resetAlarm(): Promise<void> {
    const p = new Program(this.#syscalld.abi);
    planAlarmReset(p, this.#map(p, 'alarm'));
    await this.#syscalld.run('go on with denials', p);
  }

  /** Returns what contexts have spent of their quotas. */
  async readSpent(): Promise<ReadonlyMap<Nid, Spent>> {
    const spent = new Map<Nid, Spent>();
    const spec = { keyBytes: 4, valueBytes: SPENT.bytes };
    for await (const { out, layout } of this.#readMap('spent', spec, SPENT_BATCH))
      for (const [nid, found] of parseSpent(out, layout)) spent.set(nid, found);
    return spent;
  }

  /** Returns how many sockets each context has and had. */
  async readSockets(): Promise<ReadonlyMap<Nid, SocketUsage>> {
    const usage = new Map<Nid, SocketUsage>();
    const spec = { keyBytes: 4, valueBytes: USAGE.bytes };
    for await (const { out, layout } of this.#readMap('usage', spec, USAGE_BATCH))
      for (const [nid, found] of parseSockets(out, layout)) usage.set(nid, found);
    return usage;
  }

  /**
   * Returns the sockets of a context of TCP (6) or UDP (17), as it knows them: with the addresses and ports it asked for.
   *
   * @param which.isUser says which of the host's users its sockets belong to
   * @param which.most how many are wanted; more may come
   * @throws StepError when the host has no sock_diag(7) for that protocol
   */
  async listSockets(
    nid: Nid,
    family: 4 | 6,
    protocol: 6 | 17,
    which: SocketChoice,
  ): Promise<readonly KernelSocket[]> {
    const own = [...(this.#known.get(nid)?.elements.values() ?? [])].flatMap(ownNetwork);
    const { state } = this.handles.objects;
    const netlink = this.#syscalld.newObject();
    const sockets: KernelSocket[] = [];
    try {
      for (let layout = FIRST_PART; ; layout = NEXT_PART) {
        const p = this.#program();
        if (layout === FIRST_PART) {
          const socket = planSocketQuery(p, { family, protocol, local: placesOf(own) }, p.import(state));
          p.keep(socket, netlink);
          planSocketsPart(p, socket, layout);
        } else planSocketsPart(p, p.import(netlink), layout);
        const { out } = await this.#syscalld.run(`list sockets of network ${nid}`, p);
        const found: KernelSocket[] = [];
        const isEnd = parseSocketParts(out, layout, found);
        sockets.push(
          ...(protocol === 6 ? ownStreams(found, nid, own) : ownDatagrams(found, own, which.isUser)),
        );
        if (isEnd || sockets.length >= which.most) break;
      }
    } finally {
      this.#syscalld.drop(netlink);
    }
    const asked = protocol === 6 ? sockets : await this.#asAsked(nid, sockets);
    return asked.map((socket) => withLocalhost(socket, nid));
  }

  /** The kernel does not tell what the fence keeps of a datagram socket: its binding is looked up. */
  async #asAsked(nid: Nid, sockets: readonly KernelSocket[]): Promise<readonly KernelSocket[]> {
    const asked: KernelSocket[] = [];
    for (let from = 0; from < sockets.length; from += LOOKUPS_MAX) {
      const part = sockets.slice(from, from + LOOKUPS_MAX);
      const keys = part.map((socket) => bindingKeys(socket, nid));
      const each = (keys[0]?.length ?? 0) * BINDING.bytes;
      const p = this.#program();
      const values = p.data(part.length * each, '<bindings>');
      const map = this.#map(p, 'ports');
      for (const [i, key] of keys.flat().entries())
        planLookup(p, map, key, values.at(i * BINDING.bytes, BINDING.bytes), 'binding');
      p.returns(values);
      const { out } = await this.#syscalld.run(`list bindings of network ${nid}`, p);
      asked.push(...part.map((socket, i) => asDatagramBound(socket, out.subarray(i * each, (i + 1) * each))));
    }
    return asked;
  }

  /** Forgets the fence: the maps go with its last program, that is, with the cgroup. */
  close(): void {
    for (const object of Object.values(this.handles.objects)) this.#syscalld.drop(object);
  }

  /** Yields a map's elements, `most` at a time. */
  #readMap(
    map: FenceMap,
    spec: { readonly keyBytes: number; readonly valueBytes: number },
    most: number,
  ): AsyncGenerator<MapBatch> {
    return readMap(this.#syscalld, `read ${map}`, spec, most, () => {
      const p = this.#program();
      return { p, map: this.#map(p, map) };
    });
  }

  #program(): Program {
    const p = new Program(this.#syscalld.abi);
    planEnter(p, this.handles.netns);
    return p;
  }

  #map(p: Program, map: FenceMap): Import {
    return p.import(this.handles.objects[map]);
  }

  #planEdit(p: Program, nid: Nid, rules: NetworkRules, spent: Spent | undefined): () => void {
    const next = indexed(networkElements(nid, rules));
    this.#refuseConflicts(nid, next);
    const { elements: before, isSure } = this.#known.get(nid) ?? { elements: NOTHING, isSure: true };
    if (before.size === 0) {
      planLoopbackAddress(p, 'add', loopback6(nid));
      const none = new Uint8Array(COUNTER.bytes * this.#cpus);
      planEnterPerCpu(p, this.#map(p, 'counters'), words(nid), none, 'counters');
      planUpdate(p, this.#map(p, 'usage'), words(nid), new Uint8Array(USAGE.bytes), {
        about: 'usage',
        flags: UPDATE.ifMissing,
        ignore: ['EEXIST'],
      });
    }
    if (rules.quota) {
      const [period] = rules.quota.period.numbers;
      planUpdate(p, this.#map(p, 'spent'), words(nid), spentValue(spent ?? { period, bytes: 0 }), {
        about: 'spent',
        flags: UPDATE.ifMissing,
        ignore: ['EEXIST'],
      });
    }
    for (const [id, { map, key, value }] of next) {
      const old = before.get(id);
      if (!isSure || old === undefined || Buffer.compare(old.value, value) !== 0)
        planUpdate(p, this.#map(p, map), key, value, { about: map });
    }
    for (const [id, { map, key }] of before) if (!next.has(id)) planDelete(p, this.#map(p, map), key, map);
    this.#addFlags(rules);
    this.#planGeneration(p);
    // Until it is known how the program ended, any of both may be set.
    this.#remember(nid, new Map([...before, ...next]), false);
    return () => this.#remember(nid, next, true);
  }

  #remember(nid: Nid, elements: ReadonlyMap<string, Element>, isSure: boolean): void {
    for (const id of this.#known.get(nid)?.elements.keys() ?? [])
      if (this.#owners.get(id) === nid) this.#owners.delete(id);
    for (const [id, { map }] of elements)
      if (map === 'addresses' || map === 'ranges') this.#owners.set(id, nid);
    this.#known.set(nid, { elements, isSure });
  }

  #addFlags({ ranges = [], bandwidth, quota }: NetworkRules): void {
    if (quota !== undefined) this.#flags |= GLOBAL_FLAG.quotas;
    if (ranges.length > 0) this.#flags |= GLOBAL_FLAG.ranges;
    if (bandwidth !== undefined) this.#flags |= GLOBAL_FLAG.rates;
  }

  /** Makes every socket's peer be looked at again. */
  #planGeneration(p: Program): void {
    const now = BigInt(Date.now()) * 1000n;
    this.#generation = now > this.#generation ? now : this.#generation + 1n;
    const value = new Uint8Array(GLOBALS.bytes);
    value.set(long(this.#generation));
    value.set(words(this.#flags), GLOBALS.flags);
    planUpdate(p, this.#map(p, 'globals'), words(0), value, { about: 'generation' });
  }

  #refuseConflicts(nid: Nid, elements: ReadonlyMap<string, Element>): void {
    for (const [id, { map, key }] of elements) {
      const other = this.#owners.get(id);
      if (other === undefined || other === nid) continue;
      const address = formatAddress(map === 'addresses' ? key : key.subarray(4));
      throw new StateError(
        'address-in-use',
        `cannot give ${JSON.stringify(address)} to network ${nid}: found it in network ${other}; need one of its own`,
      );
    }
  }
}

/** Of the kernel's answer; most contexts have few sockets. */
const FIRST_PART: SocketsLayout = { count: 2, bytes: 8192 };
const NEXT_PART: SocketsLayout = { count: 3, bytes: 32_768 };

/** Each takes three lookups, and a program has room for a thousand steps. */
const LOOKUPS_MAX = 100;

/** The addresses of a context, of its elements. */
function ownNetwork({ map, key }: Element): readonly Network[] {
  if (map === 'addresses') return [{ address: key, prefix: 8 * ADDRESS_BYTES }];
  if (map !== 'ranges') return [];
  return [{ address: key.subarray(4), prefix: new DataView(key.buffer, key.byteOffset).getUint32(0, LE) }];
}

/** What a context has in the maps. */
interface Known {
  readonly elements: ReadonlyMap<string, Element>;
  /** An edit has ended well: just these are set. */
  readonly isSure: boolean;
}
const NOTHING: Known['elements'] = new Map();

const LE = endianness() === 'LE';
const DENIALS_BATCH = 1024;
const COUNTERS_BATCH = 128;
const SPENT_BATCH = 1024;
const USAGE_BATCH = 1024;

function indexed(elements: readonly Element[]): ReadonlyMap<string, Element> {
  const index = new Map<string, Element>();
  for (const element of elements) {
    const id = `${element.map} ${Buffer.from(element.key).toString('hex')}`;
    if (index.has(id) && element.map === 'addresses') {
      throw new UserError(
        'invalid-address',
        `cannot use ${JSON.stringify(formatAddress(element.key))} twice in one network`,
      );
    }
    index.set(id, element);
  }
  return index;
}
