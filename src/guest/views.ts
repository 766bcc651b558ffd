/**
 * The views of the guests of an instance: the file system that has them, and the texts of its files, which are made when
 * somebody reads them.
 */
import { existsSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { isXid, type Xid } from '../base/ids.ts';
import type { Readings } from '../resources/readings.ts';
import { parseCpuList } from '../spec/cpu-list.ts';
import { FUSE_ERRNO, type FuseNode } from '../spec/fuse-wire.ts';
import { parseMountInfo } from '../spec/mountinfo.ts';
import { QUOTA_DEVICE } from '../storage/quota-calls.ts';
import { possibleCpus } from '../sys/bpf/cpus.ts';
import { readIfThere, writeVolatile } from '../sys/files.ts';
import { FuseRelay, type FuseReply } from '../sys/fuse-relay.ts';
import { answerFuse, type FuseEntry, type FuseTree } from '../sys/fuse-tree.ts';
import { onlineCpus } from '../sys/online-cpus.ts';
import { bootTimeSeconds, identifyProcess, isAlive, type ProcessIdentity } from '../sys/process.ts';
import type { Program } from '../sys/program.ts';
import { type HeldObject, StepError } from '../sys/syscalld.ts';
import { ANSWERS_FILE, type AnswersLayout, answersLayout, formatAnswers } from '../views/answers.ts';
import {
  formatCpuinfo,
  formatCpuList,
  formatLoadavg,
  formatStat,
  formatUptime,
  parseLoadavg,
  visibleCpus,
} from '../views/cpu.ts';
import { formatDiskstats } from '../views/disk.ts';
import {
  ALL_FILES,
  LIVE_VIEW_GROUPS,
  NETWORK_FILES,
  type NetworkTable,
  NODES,
  QUOTA_FILES,
  SELDOM_MS,
  UPTIME_AHEAD_SECONDS,
  VIEW_FILES,
  VIEW_GROUPS,
  type ViewFile,
  type ViewGroup,
  type ViewLink,
} from '../views/files.ts';
import { formatInitStat } from '../views/init-stat.ts';
import { formatMeminfo, formatSwaps, formatVmstat, parseMeminfo, sysinfoMemory } from '../views/meminfo.ts';
import { formatMounts } from '../views/mounts.ts';
import type { CpuSample, LoadSample } from '../views/sample.ts';
import type { GuestConfig } from './config-types.ts';
import type { Disks } from './disks.ts';
import type { Forks } from './forks.ts';
import { configOf, type Guest, isActive, type LiveRecord } from './guest.ts';
import { GUEST_LEVEL, type Host } from './host.ts';
import type { Instance } from './instance.ts';
import { Loads } from './loads.ts';
import { hasNetworkViews, isNetworkTable, networkText } from './network-views.ts';
import type { Networks } from './networks.ts';
import {
  importViews,
  planProcFs,
  planProcFsEnd,
  planViews,
  planViewsAgain,
  planViewsTakeover,
  VIEWS_SOCKET,
  type ViewsObjects,
} from './plan-views.ts';
import { isProcFsMounted, isProcFsNode, PROC_FS_NAME, PROC_FS_ROOT, type ProcFs } from './proc-fs.ts';
import type { Registry } from './registry.ts';

const ROOT_NODE = 1;
const RECONNECT_MS = 100;
/** A table of sockets holds for so many times as long as it took to make. */
const HOLD_FACTOR = 20;
/** When the kernel first computes its load averages after a boot: LOAD_FREQ, include/linux/sched/loadavg.h. */
const FIRST_LOAD_MS = 5000;
/** What is less is a clock that is kept right. */
const CLOCK_SET_SECONDS = 0.2;

/** What `run/views.json` holds. */
interface ViewsRecord {
  readonly objects: ViewsObjects;
  readonly relay: ProcessIdentity;
}

interface FileInfo {
  readonly name: string;
  readonly holdMs: number;
  /** What it is over, and the switch that turns it off; undefined: guests do not see it. */
  readonly path?: string;
  readonly group?: ViewGroup;
}

/** Looked at once: fifteen looks at files that are there anyway took a tenth of a start. */
let filesOfHost: readonly ViewFile[] | undefined;

/** Returns the files of this host that a guest with these groups has views over. */
export function viewFilesOf(groups: readonly ViewGroup[]): readonly ViewFile[] {
  filesOfHost ??= VIEW_FILES.filter(({ path }) => existsSync(path));
  return filesOfHost.filter(({ group }) => groups.includes(group));
}

/** The files of groups, as far as a guest of this kind has them. */
function filesOf({ network }: GuestConfig, groups: readonly ViewGroup[]): readonly ViewFile[] {
  return viewFilesOf(groups).filter(({ path }) => network.mode !== 'host' || !path.startsWith('/sys/'));
}

/** CPUs that a guest may run on, and those that it sees, at a time. */
interface SeenCpus {
  readonly allowed: readonly number[];
  readonly cpus: readonly number[];
  readonly atMs: number;
}

/** What views are of. */
export type ViewsParts = Pick<Instance, 'registry' | 'readings' | 'forks' | 'disks' | 'networks'>;

/** Keeps the views of one instance. */
export class Views implements FuseTree {
  readonly #host: Host;
  readonly #registry: Registry;
  readonly #readings: Readings;
  readonly #loads: Loads;
  readonly #forks: Forks;
  readonly #disks: Disks;
  readonly #procFs: ProcFs;
  readonly #networks: Networks;
  readonly #told = new Set<string>();
  #record: ViewsRecord | undefined;
  /** A relay that a former syscalld started. */
  #former: ProcessIdentity | undefined;
  #relay: FuseRelay | undefined;
  readonly #bootOffsets = new WeakMap<LiveRecord, number>();
  readonly #cpusSeen = new WeakMap<LiveRecord, SeenCpus>();
  #isEnding = false;
  /** When the host was booted, of the epoch in seconds. */
  #hostBoot = 0;
  #layout: AnswersLayout | undefined;

  constructor(host: Host, { registry, readings, forks, disks, networks }: ViewsParts, procFs: ProcFs) {
    this.#host = host;
    this.#registry = registry;
    this.#readings = readings;
    this.#forks = forks;
    this.#disks = disks;
    this.#procFs = procFs;
    this.#networks = networks;
    this.#loads = new Loads(host, registry, GUEST_LEVEL);
  }

  /** Told of what goes wrong while a guest reads. */
  onFailure: (what: string, error: unknown) => void = () => {};

  get #file(): string {
    return join(this.#host.paths.run, 'views.json');
  }

  // ---- the file system --------------------------------------------------------------------------------------------

  /** Goes on with the relay of a former vserverd. Returns its objects, if syscalld has them still. */
  recover(held: readonly HeldObject[]): readonly number[] {
    const text = readIfThere(this.#file);
    const record = text === undefined ? undefined : (JSON.parse(text) as ViewsRecord); // our own file
    if (!record || !isAlive(record.relay)) return [];
    const pids = new Map(held.map(({ id, pid }) => [id, pid]));
    if (!pids.has(record.objects.mount) || pids.get(record.objects.relay) !== record.relay.pid) {
      this.#former = record.relay; // syscalld was started anew
      return [];
    }
    this.#record = record;
    return Object.values(record.objects);
  }

  /** Makes the file system, unless it is there, and serves it. Without it guests have no views, and `check` says why. */
  async prepare(): Promise<void> {
    try {
      this.#record ??= await this.#takeOver();
      if (!this.#record) {
        await this.#hideProcFs(); // of a relay that is no more
        this.#record = await this.#make();
      }
    } catch (error) {
      if (!(error instanceof StepError)) throw error;
      this.#host.viewsMissing = error.message;
      return;
    }
    this.#host.views = this.#record.objects;
    await this.#connect();
    await this.#showProcFs();
  }

  /** Mounts the Proc-FS on the host, unless it is there. Guests do without it, and `check` says why it is not. */
  async #showProcFs(): Promise<void> {
    const { paths, views } = this.#host;
    if (!views || isProcFsMounted(paths.run)) return;
    const p = this.#host.program();
    planProcFs(p, importViews(p, views), paths.run);
    this.#host.procFsMissing = await this.#tryProcFs('show the Proc-FS', p);
  }

  async #hideProcFs(): Promise<void> {
    const { paths } = this.#host;
    if (!isProcFsMounted(paths.run)) return;
    const p = this.#host.program();
    planProcFsEnd(p, paths.run);
    await this.#tryProcFs('end the Proc-FS', p);
  }

  async #tryProcFs(what: string, p: Program): Promise<string | undefined> {
    try {
      await this.#host.syscalld.run(what, p);
      return undefined;
    } catch (error) {
      if (!(error instanceof StepError)) throw error;
      this.#failed(what, error);
      return error.message;
    }
  }

  async #takeOver(): Promise<ViewsRecord | undefined> {
    if (!this.#former) return undefined;
    const { syscalld } = this.#host;
    const objects = this.#newObjects();
    const p = this.#host.program();
    planViewsTakeover(p, this.#former.pid, objects);
    try {
      await syscalld.run('take over the relay of views', p);
    } catch (error) {
      if (!(error instanceof StepError)) throw error;
      return undefined; // it has just ended
    }
    return this.#remember({ objects, relay: this.#former });
  }

  #drop(objects: ViewsObjects): void {
    for (const object of Object.values(objects)) if (object !== 0) this.#host.syscalld.drop(object);
  }

  #newObjects(): ViewsObjects {
    const { syscalld, detachedLayers } = this.#host;
    // Detached mounts can be layers since the kernel copies them too (Linux 6.15).
    const namespace = detachedLayers ? 0 : syscalld.newObject();
    return { mount: syscalld.newObject(), relay: syscalld.newObject(), namespace };
  }

  #remember(record: ViewsRecord): ViewsRecord {
    writeVolatile(this.#file, JSON.stringify(record));
    return record;
  }

  /**
   * A process has ended. If it was the relay there is another one when this resolves, and the guests that run have their
   * files of that.
   *
   * @returns whether it was
   */
  async exited(object: number): Promise<boolean> {
    if (object !== this.#record?.objects.relay || this.#isEnding) return false;
    this.#drop(this.#record.objects);
    this.#record = undefined;
    this.#host.views = undefined;
    await this.prepare();
    const views = this.#host.views;
    if (views === undefined) return true;
    for (const guest of this.#registry.list().filter(isActive)) {
      if (!guest.live) continue;
      const p = this.#host.program();
      const { initObject, config } = guest.live;
      const ofNetwork = (await hasNetworkViews(this.#host, config)) ? NETWORK_FILES : [];
      const ofQuota = guest.live.broker?.quota && (await this.#host.coversLinks()) ? QUOTA_FILES : [];
      const files = [...filesOf(config, config.views), ...ofNetwork, ...ofQuota];
      planViewsAgain(p, { init: p.import(initObject), views: importViews(p, views), xid: guest.xid }, files);
      await this.#host.syscalld.run(`show guest "${guest.name}" its views again`, p);
    }
    return true;
  }

  /**
   * Shows a guest that runs in its own measure what its configuration says. What is turned off tells the host's numbers
   * from now on; of what is turned on those files are put in place that the guest does not have yet.
   *
   * @returns the groups it has now
   */
  async change(guest: Guest, live: LiveRecord, wanted: readonly ViewGroup[]): Promise<readonly ViewGroup[]> {
    const isOn = (group: ViewGroup): boolean =>
      (LIVE_VIEW_GROUPS.includes(group) ? wanted : live.config.views).includes(group);
    const groups = VIEW_GROUPS.filter(isOn);
    const { views, syscalld } = this.#host;
    const added = groups.filter((group) => !live.config.views.includes(group));
    if (added.length === 0 || views === undefined) return groups;
    const mounts = parseMountInfo(readFileSync(`/proc/${live.initPid}/mountinfo`, 'latin1'));
    const isThere = (path: string): boolean =>
      mounts.some(({ mountPoint, fsType }) => mountPoint === path.replace(/\/$/, '') && fsType === 'fuse');
    const files = filesOf(live.config, added).filter(({ path }) => !isThere(path));
    if (files.length === 0) return groups;
    const p = this.#host.program();
    const init = p.import(live.initObject);
    planViewsAgain(p, { init, views: importViews(p, views), xid: guest.xid }, files);
    await syscalld.run(`show guest "${guest.name}" more views`, p);
    return groups;
  }

  async #make(): Promise<ViewsRecord> {
    const { syscalld, paths } = this.#host;
    const objects = this.#newObjects();
    const p = this.#host.program();
    const pid = planViews(p, { run: paths.run, attach: this.#host.attachPoint }, objects);
    const outcome = await syscalld.run('make the file system of views', p);
    const relay = identifyProcess(outcome.result(pid)) ?? { pid: outcome.result(pid), startTicks: -1 };
    return this.#remember({ objects, relay });
  }

  async #connect(): Promise<void> {
    const lost = (): void => {
      this.#relay = undefined;
      if (!this.#isEnding) setTimeout(() => void this.#connect(), RECONNECT_MS).unref();
    };
    this.#relay = await FuseRelay.connect(
      this.#host.paths.run,
      VIEWS_SOCKET,
      (request) => (isProcFsNode(request.node) ? this.#procFs.answer(request) : answerFuse(this, request)),
      lost,
    );
  }

  /** Ends them if no guest runs; else the relay goes on, for the next vserverd. */
  async end(): Promise<void> {
    this.#isEnding = true;
    // While it is served: nobody on the host shall wait there for who does not come.
    await this.#hideProcFs();
    this.#relay?.close();
    if (!this.#record || this.#registry.list().some(isActive)) return;
    this.#host.syscalld.signal(this.#record.objects.relay, SIGKILL);
    this.#drop(this.#record.objects);
    for (const path of [this.#file, join(this.#host.paths.run, VIEWS_SOCKET)]) rmSync(path, { force: true });
  }

  // ---- requests ---------------------------------------------------------------------------------------------------

  /** Guests are not listed, and every number is there: contexts are made before their guest is known. */
  lookup(node: number, name: string): FuseNode | undefined {
    if (node === ROOT_NODE && name === PROC_FS_NAME) return { node: PROC_FS_ROOT, isDirectory: true };
    if (node !== ROOT_NODE) return entriesOf(node).find((one) => one.name === name);
    const xid = /^[1-9]\d*$/.test(name) ? Number(name) : 0;
    return isXid(xid) ? { node: xid * NODES, isDirectory: true } : undefined;
  }

  attributes(node: number): FuseNode {
    return entryOf(node) ?? { node, isDirectory: node === ROOT_NODE || node % NODES === 0 };
  }

  entries(node: number): readonly FuseEntry[] {
    return entriesOf(node);
  }

  read(node: number): FuseReply | Promise<FuseReply> {
    const [xid, number] = [Math.floor(node / NODES), node % NODES];
    files ??= allFiles();
    const file = files.get(number);
    const guest = isXid(xid) ? this.#registry.numbered(xid) : undefined;
    if (!file || !guest) return { errno: FUSE_ERRNO.EIO };
    // Its command may be there before we know that it is.
    if (guest.state === 'starting') return guest.queue.then(() => this.#readNow(file, guest));
    return this.#readNow(file, guest);
  }

  #readNow(file: FileInfo, guest: Guest): FuseReply | Promise<FuseReply> {
    if (file.name === ANSWERS_FILE.name) return this.#readAnswers(file, guest);
    if (file.name === 'loadavg') return this.#readLoad(file, guest);
    if (file.name === 'diskstats' && this.#readings.disks(guest.xid) === undefined)
      return this.#readDisks(file, guest);
    if (file.name === 'stat') return this.#readStat(file, guest);
    if (isNetworkTable(file.name)) return this.#readNetwork(file.name, file.holdMs, guest);
    return this.#readFile(file, guest);
  }

  async #readNetwork(name: NetworkTable, holdMs: number, guest: Guest): Promise<FuseReply> {
    const beganMs = performance.now();
    try {
      const text = await networkText(this.#networks, guest, name);
      // Who has many sockets and reads on and on takes no more than a part of our time.
      return { text, holdMs: Math.max(holdMs, Math.ceil(HOLD_FACTOR * (performance.now() - beganMs))) };
    } catch (error) {
      return this.#refused(name, guest, error);
    }
  }

  async #readStat(file: FileInfo, guest: Guest): Promise<FuseReply> {
    await this.#forks.look().catch((error: unknown) => this.#failed('count the forks of guests', error));
    return this.#readFile(file, guest);
  }

  async #readDisks(file: FileInfo, guest: Guest): Promise<FuseReply> {
    await this.#disks.look().catch((error: unknown) => this.#failed('count the disks of guests', error));
    return this.#readFile({ ...file, holdMs: SELDOM_MS }, guest);
  }

  /** A kernel that has just booted tells no load either: who asks then does not wait for our first look at tasks, a long one. */
  #readAnswers(file: FileInfo, guest: Guest): FuseReply | Promise<FuseReply> {
    const ageMs = Date.now() - Date.parse(guest.live?.startedAt ?? '');
    if (this.#loads.last(guest) || !(ageMs < FIRST_LOAD_MS)) return this.#readLoad(file, guest);
    setImmediate(() => void this.load(guest));
    return this.#readFile(file, guest);
  }

  async #readLoad(file: FileInfo, guest: Guest): Promise<FuseReply> {
    await this.load(guest);
    return this.#readFile(file, guest);
  }

  /** Returns a guest's load averages and tasks. */
  async load(guest: Guest): Promise<LoadSample> {
    try {
      return await this.#loads.of(guest);
    } catch (error) {
      this.#failed('count the tasks of guests', error);
      return this.#noLoad(guest.xid);
    }
  }

  #readFile(file: FileInfo, guest: Guest): FuseReply {
    const { name, holdMs, group } = file;
    if (!isActive(guest)) return { errno: FUSE_ERRNO.EIO };
    const isOn = group === undefined || configOf(guest).views.includes(group);
    try {
      return { text: isOn ? this.#text(name, guest) : this.#hostText(file, guest), holdMs };
    } catch (error) {
      return this.#refused(name, guest, error);
    }
  }

  #refused(name: string, guest: Guest, error: unknown): FuseReply {
    // It may have just ended, and its files with it.
    if (isActive(guest) && guest.state !== 'stopping') this.#failed(`show guests their ${name}`, error);
    return { errno: FUSE_ERRNO.EIO };
  }

  /** Tells each kind of failure once: a guest may read for ever. */
  #failed(what: string, error: unknown): void {
    if (this.#told.has(what)) return;
    this.#told.add(what);
    this.onFailure(what, error);
  }

  /** What the kernel would tell there of a file that was turned off: the host's, but by the guest's clock. */
  #hostText({ name, path = '' }: FileInfo, guest: Guest): string {
    if (name === 'init-stat' || name === 'mounts') return this.#text(name, guest);
    const text = readFileSync(path, 'latin1');
    if (name !== 'uptime' && name !== 'stat') return text;
    const { uptimeSeconds } = this.#cpu(guest);
    if (name === 'stat') return text.replace(/^btime .*$/m, `btime ${this.#bootSeconds(uptimeSeconds)}`);
    return text.replace(/^[\d.]+/, (uptimeSeconds + UPTIME_AHEAD_SECONDS).toFixed(2));
  }

  #text(name: string, guest: Guest): string {
    const { xid } = guest;
    switch (name) {
      case 'meminfo':
        return formatMeminfo(hostText('meminfo'), this.#readings.memory(xid));
      case 'swaps':
        return formatSwaps(hostText('meminfo'), this.#readings.memory(xid));
      case 'vmstat':
        return formatVmstat(hostText('vmstat'), hostText('meminfo'), this.#readings.memory(xid));
      case 'cpuinfo':
        return formatCpuinfo(hostText('cpuinfo'), this.#cpu(guest));
      case 'online':
        return formatCpuList(this.#cpu(guest).cpus);
      case 'stat': {
        const sample = this.#cpu(guest);
        return formatStat(
          sample,
          this.#loads.last(guest) ?? this.#noLoad(xid),
          this.#bootSeconds(sample.uptimeSeconds),
          this.#forks.last(guest),
        );
      }
      case 'loadavg':
        return formatLoadavg(this.#loads.last(guest) ?? this.#noLoad(xid));
      case 'uptime':
        return formatUptime(this.#cpu(guest), UPTIME_AHEAD_SECONDS);
      case 'init-stat': {
        const pid = guest.live?.initPid ?? 0;
        return formatInitStat(readFileSync(`/proc/${pid}/stat`, 'latin1'), pid);
      }
      case 'mounts':
        return mountsOf(guest);
      case 'diskstats':
        return formatDiskstats(hostText('diskstats'), this.#readings.disks(xid) ?? this.#disks.last(guest));
      case ANSWERS_FILE.name:
        return this.#answers(guest);
      default:
        return this.#readings.pressure(xid, name as 'cpu' | 'memory' | 'io') ?? '';
    }
  }

  /** When a guest's clock began, of the epoch: the same second each time, unless somebody sets the host's clock. */
  #bootSeconds(uptimeSeconds: number): number {
    const hostUptime = bootTimeSeconds();
    const hostBoot = Date.now() / 1000 - hostUptime;
    if (Math.abs(hostBoot - this.#hostBoot) > CLOCK_SET_SECONDS) this.#hostBoot = hostBoot;
    return Math.floor(this.#hostBoot + hostUptime - uptimeSeconds);
  }

  /** What is not shown in the guest's own measure is the host's, as in its files. */
  #answers(guest: Guest): string {
    this.#layout ??= answersLayout(possibleCpus());
    const groups = configOf(guest).views;
    const cpu = this.#cpu(guest);
    const own = groups.includes('load') && (this.#loads.last(guest) ?? this.#noLoad(guest.xid));
    return formatAnswers(this.#layout, {
      memory: sysinfoMemory(
        parseMeminfo(hostText('meminfo')),
        groups.includes('memory') ? this.#readings.memory(guest.xid) : undefined,
      ),
      load: own || parseLoadavg(hostText('loadavg')),
      cpu: groups.includes('cpu') ? cpu : { ...cpu, cpus: cpu.allowed },
      allowedCpus: cpu.allowed,
    });
  }

  /** What a guest's processes have to add to the host's boot clock: it never changes. */
  #bootOffsetSeconds(live: LiveRecord): number {
    const known = this.#bootOffsets.get(live) ?? bootOffsetSeconds(live.initPid);
    this.#bootOffsets.set(live, known);
    return known;
  }

  /** Looked at seldom: it takes most of the time that a text takes. A configuration that changes is another record. */
  #seenCpus({ xid, live }: Guest): SeenCpus {
    const known = live && this.#cpusSeen.get(live);
    if (known && performance.now() - known.atMs < SELDOM_MS) return known;
    const { limit, cpuset } = this.#readings.cpuShare(xid);
    const allowed = cpuset === undefined ? onlineCpus() : parseCpuList(cpuset);
    const seen = { allowed, cpus: visibleCpus(allowed, limit), atMs: performance.now() };
    if (live) this.#cpusSeen.set(live, seen);
    return seen;
  }

  #cpu(guest: Guest): CpuSample & Pick<SeenCpus, 'allowed'> {
    const { live } = guest;
    const { allowed, cpus } = this.#seenCpus(guest);
    return {
      allowed,
      cpus,
      ...this.#readings.cpu(guest.xid),
      uptimeSeconds: Math.max(0, bootTimeSeconds() + (live ? this.#bootOffsetSeconds(live) : 0)),
    };
  }

  /** What can be said where the kernel does not let us count. */
  #noLoad(xid: Xid): LoadSample {
    return { averages: [0, 0, 0], running: 1, blocked: 0, total: this.#readings.tasks(xid) };
  }
}

/** The table of mounts of a guest whose users have quotas. */
function mountsOf({ live }: Guest): string {
  const text = readFileSync(`/proc/${live?.initPid ?? 0}/mounts`, 'latin1');
  const { user = false, group = false } = live?.broker?.quota ?? {};
  return formatMounts(text, QUOTA_DEVICE, [...(user ? ['usrquota'] : []), ...(group ? ['grpquota'] : [])]);
}

const SIGKILL = 9;

/** A file, a directory or a link, with the number of the directory it is in. */
interface Placed {
  readonly number: number;
  readonly name: string;
  readonly directory: number;
  readonly isDirectory: boolean;
  readonly target: string | undefined;
}

/** Everything that guests have, once it is asked for. */
let placed: ReadonlyMap<number, Placed> | undefined;
/** The same, by the directory it is in. */
let listed: ReadonlyMap<number, readonly Placed[]> | undefined;

function allPlaced(): ReadonlyMap<number, Placed> {
  const all: Placed[] = [];
  const add = (one: ViewFile | ViewLink, directory: number, isDirectory: boolean): void => {
    const target = 'target' in one ? one.target : undefined;
    all.push({ number: one.number, name: one.name, directory, isDirectory, target });
  };
  for (const one of ALL_FILES) {
    add(one, 0, one.path.endsWith('/'));
    if (!('files' in one)) continue;
    for (const file of one.files) add({ ...one, ...file }, one.number, false);
    // Which of them there are depends on the kernel.
    for (const link of one.links ?? [])
      if (existsSync(`/proc/net/${link.name}`)) add(link, one.number, false);
  }
  const { number, name } = ANSWERS_FILE;
  all.push({ number, name, directory: 0, isDirectory: false, target: undefined });
  return new Map(all.map((one) => [one.number, one]));
}

function entryOf(node: number): FuseEntry | undefined {
  placed ??= allPlaced();
  const one = placed.get(node % NODES);
  if (!one || node === ROOT_NODE) return undefined;
  const { name, isDirectory, target } = one;
  return { name, node, isDirectory, ...(target === undefined ? {} : { target }) };
}

/** What is in a directory; nothing in a file, and nothing is told of the root. */
function entriesOf(node: number): readonly FuseEntry[] {
  if (node === ROOT_NODE) return [];
  placed ??= allPlaced();
  listed ??= Map.groupBy(placed.values(), ({ directory }) => directory);
  const [guest, number] = [node - (node % NODES), node % NODES];
  return (listed.get(number) ?? []).flatMap((one) => entryOf(guest + one.number) ?? []);
}

/** Every file that has a text, once one is read. */
let files: ReadonlyMap<number, FileInfo> | undefined;

function allFiles(): ReadonlyMap<number, FileInfo> {
  const all: readonly (FileInfo & { readonly number: number })[] = ALL_FILES.flatMap((one) =>
    'files' in one
      ? one.files.map((file) => ({ ...file, path: one.path + file.name, group: one.group }))
      : [one],
  );
  return new Map([...all, ANSWERS_FILE].map((one) => [one.number, one]));
}

function hostText(name: string): string {
  return readFileSync(`/proc/${name}`, 'latin1');
}

/** What a process of a guest has to add to the host's boot clock. */
function bootOffsetSeconds(pid: number): number {
  const [, seconds = 0, nanoseconds = 0] =
    /^boottime\s+(-?\d+)\s+(\d+)$/m.exec(readFileSync(`/proc/${pid}/timens_offsets`, 'latin1')) ?? [];
  return Number(seconds) + Number(nanoseconds) / 1e9;
}
