/** What the files of views tell: texts in a guest's own measure, which are made when somebody reads them. */
import { readFileSync } from 'node:fs';
import type { Xid } from '../base/ids.ts';
import type { Readings } from '../resources/readings.ts';
import { parseCpuList } from '../spec/cpu-list.ts';
import { FUSE_ERRNO } from '../spec/fuse-wire.ts';
import { QUOTA_DEVICE } from '../storage/quota-calls.ts';
import { possibleCpus } from '../sys/bpf/cpus.ts';
import type { FuseReply } from '../sys/fuse-relay.ts';
import { onlineCpus } from '../sys/online-cpus.ts';
import { bootTimeSeconds } from '../sys/process.ts';
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
import { type NetworkTable, SELDOM_MS, UPTIME_AHEAD_SECONDS } from '../views/files.ts';
import { formatInitStat } from '../views/init-stat.ts';
import {
  formatMeminfo,
  formatSwaps,
  formatVmstat,
  parseMeminfo,
  SLABINFO,
  sysinfoMemory,
} from '../views/meminfo.ts';
import { formatMounts } from '../views/mounts.ts';
import type { CpuSample, LoadSample } from '../views/sample.ts';
import type { Disks } from './disks.ts';
import type { Forks } from './forks.ts';
import { configOf, type Guest, isActive, type LiveRecord } from './guest.ts';
import { GUEST_LEVEL, type Host } from './host.ts';
import type { Instance } from './instance.ts';
import { Loads } from './loads.ts';
import { isNetworkTable, networkText } from './network-views.ts';
import type { Networks } from './networks.ts';
import type { FileInfo } from './view-tree.ts';

/** A table of sockets holds for so many times as long as it took to make. */
const HOLD_FACTOR = 20;
/** When the kernel first computes its load averages after a boot: LOAD_FREQ, include/linux/sched/loadavg.h. */
const FIRST_LOAD_MS = 5000;
/** What is less is a clock that is kept right. */
const CLOCK_SET_SECONDS = 0.2;

/** Files that the kernel tells each guest of its own, or nobody but the host's root. */
const OWN_ALWAYS: readonly string[] = ['init-stat', 'mounts', 'slabinfo'];

/** CPUs that a guest may run on, and those that it sees, at a time. */
interface SeenCpus {
  readonly allowed: readonly number[];
  readonly cpus: readonly number[];
  readonly atMs: number;
}

/** What the texts are of. */
export type ViewSources = Pick<Instance, 'registry' | 'readings' | 'forks' | 'disks' | 'networks'>;

/** Makes the texts of one instance. */
export class ViewTexts {
  readonly #readings: Readings;
  readonly #loads: Loads;
  readonly #forks: Forks;
  readonly #disks: Disks;
  readonly #networks: Networks;
  readonly #failed: (what: string, error: unknown) => void;
  readonly #bootOffsets = new WeakMap<LiveRecord, number>();
  readonly #cpusSeen = new WeakMap<LiveRecord, SeenCpus>();
  /** When the host was booted, of the epoch in seconds. */
  #hostBoot = 0;
  #layout: AnswersLayout | undefined;

  /** @param failed told of what goes wrong while a guest reads */
  constructor(
    host: Host,
    { registry, readings, forks, disks, networks }: ViewSources,
    failed: (what: string, error: unknown) => void,
  ) {
    this.#readings = readings;
    this.#loads = new Loads(host, registry, GUEST_LEVEL);
    this.#forks = forks;
    this.#disks = disks;
    this.#networks = networks;
    this.#failed = failed;
  }

  /** Returns what somebody reads in a file of a guest. */
  read(file: FileInfo, guest: Guest): FuseReply | Promise<FuseReply> {
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

  /** What the kernel would tell there of a file that was turned off: the host's, but by the guest's clock. */
  #hostText({ name, path = '' }: FileInfo, guest: Guest): string {
    if (OWN_ALWAYS.includes(name)) return this.#text(name, guest);
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
      case 'slabinfo':
        return SLABINFO;
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

function hostText(name: string): string {
  return readFileSync(`/proc/${name}`, 'latin1');
}

/** What a process of a guest has to add to the host's boot clock. */
function bootOffsetSeconds(pid: number): number {
  const [, seconds = 0, nanoseconds = 0] =
    /^boottime\s+(-?\d+)\s+(\d+)$/m.exec(readFileSync(`/proc/${pid}/timens_offsets`, 'latin1')) ?? [];
  return Number(seconds) + Number(nanoseconds) / 1e9;
}
