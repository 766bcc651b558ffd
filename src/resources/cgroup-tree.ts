import { dirname } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { StateError, SysError } from '../base/errors.ts';
import { isXid, type Xid } from '../base/ids.ts';
import {
  type CgroupEvents,
  flatKeyedValue,
  parseEvents,
  parseFlatKeyed,
  parseNestedKeyed,
  parseWords,
} from '../spec/cgroup-files.ts';
import type {
  CgroupCapabilities,
  CgroupDriver,
  CgroupPlace,
  CgroupPlan,
  Effective,
  LimitHit,
} from './cgroup-driver.ts';
import {
  type CgroupFiles,
  childrenOf,
  ensureDirectory,
  isErrno,
  pidsIn,
  readIfPresent,
  subtree,
} from './cgroup-fs.ts';
import { type CgroupLayout, CONTROLLERS, type ControllerName, GUEST_LEAF } from './cgroup-layout.ts';
import type { Controller, OomSource } from './controller.ts';
import { cpuV1, cpuV2 } from './cpu.ts';
import { checkCpus, cpusetV1, cpusetV2, prepareCpusetV1 } from './cpuset.ts';
import {
  ALL_CPUS,
  checkLimits,
  type EffectiveLimits,
  givenKinds,
  LIMIT_KINDS,
  type LimitKind,
  type Limits,
  type Sample,
  type Usage,
} from './limits.ts';
import { memoryV1 } from './memory-v1.ts';
import { memoryV2 } from './memory-v2.ts';
import { pidsController } from './pids.ts';

const CGROUP_EVENTS = 'cgroup.events';
const CGROUP_FREEZE = 'cgroup.freeze';
const CGROUP_KILL = 'cgroup.kill';
/** A single thread that moves itself takes no global lock here (Linux 5.6); with cgroup.procs it waits for RCU, 7 to 15 ms. */
const CGROUP1_TASKS = 'tasks';
const CGROUP_MAX_DEPTH = 'cgroup.max.depth';
/** Whether pressure is measured (Linux 6.1): each level that does costs half a percent of a context switch. */
const CGROUP_PRESSURE = 'cgroup.pressure';
const CGROUP_CONTROLLERS = 'cgroup.controllers';
const CGROUP_SUBTREE_CONTROL = 'cgroup.subtree_control';
const CPU_STAT = 'cpu.stat';
const IO_STAT = 'io.stat';

/** Holds what serves the guest, its broker, where a directory that hands controllers down may not. */
const SERVICE_LEAF = 'b';
/** Controllers a version 2 tree hands down to guests. */
const DELEGATED = ['memory', 'cpu', 'pids', 'io', 'cpuset'];
/** Levels a guest can make below its own: enough for a nested init and engine, few enough for PATH_MAX in `remove`. */
const MAX_DEPTH = 12;
const POLL_MAX_MS = 20;
/** What a new cgroup has anyway. To write a CPU quota costs the more the more cgroups there are (walk_tg_tree_from). */
const UNLIMITED: Readonly<Record<string, string>> = {
  'memory.limit_in_bytes': '-1',
  'memory.memsw.limit_in_bytes': '-1',
  'memory.max': 'max',
  'memory.swap.max': 'max',
  'cpu.cfs_period_us': '100000',
  'cpu.cfs_quota_us': '-1',
  'cpu.shares': '1024',
  'cpu.max': 'max 100000',
  'cpu.weight': '100',
  'cpu.cfs_burst_us': '0',
  'cpu.max.burst': '0',
  'cpu.idle': '0',
  'pids.max': 'max',
};

/**
 * Makes the driver of one instance.
 *
 * @param parent the instance's directory at the top of each hierarchy, see `instanceCgroupName`
 */
export function createCgroupDriver(files: CgroupFiles, layout: CgroupLayout, parent: string): CgroupDriver {
  return new CgroupTree(files, layout, parent);
}

/** A controller and the hierarchy it is used in. */
interface Binding {
  readonly name: ControllerName;
  readonly version: 'v1' | 'v2';
  /** Directory of a guest in which its limits are. */
  readonly directoryOf: (xid: Xid) => string;
  readonly parent: string;
  readonly controller: Controller;
}

class CgroupTree implements CgroupDriver {
  readonly kind: 'hybrid' | 'v2';
  readonly #files: CgroupFiles;
  readonly #layout: CgroupLayout;
  readonly #unified: string;
  /** The instance's v1 directories in which each guest has one; controllers mounted together share one. */
  readonly #v1: readonly string[];
  /** The instance's directory in cpuset's own v1 hierarchy, where only guests with CPUs of their own have one. */
  readonly #cpusets: string | undefined;
  readonly #bindings: readonly Binding[];
  readonly #refusals = new Map<string, string>();
  #enforced: ReadonlySet<LimitKind> | undefined;
  #canStopPressure = false;

  constructor(files: CgroupFiles, layout: CgroupLayout, parent: string) {
    this.kind = layout.v1.size > 0 ? 'hybrid' : 'v2';
    this.#files = files;
    this.#layout = layout;
    this.#unified = `${layout.unified}/${parent}`;
    const cpusetMount = layout.v1.get('cpuset');
    const mounts = new Set([...layout.v1].filter(([name]) => name !== 'cpuset').map(([, mount]) => mount));
    this.#v1 = [...mounts].map((mount) => `${mount}/${parent}`);
    this.#cpusets =
      cpusetMount === undefined || mounts.has(cpusetMount) ? undefined : `${cpusetMount}/${parent}`;
    this.#bindings = CONTROLLERS.map((name) => {
      const mount = layout.v1.get(name);
      const of = mount === undefined ? this.#unified : `${mount}/${parent}`;
      if (mount !== undefined)
        return {
          name,
          version: 'v1',
          parent: of,
          directoryOf: (xid) => `${of}/${xid}`,
          controller: VERSION_1[name],
        };
      // Tasks are counted where the guest's are alone; what serves it is beside them.
      const below = name === 'pids' ? `/${GUEST_LEAF}` : '';
      return {
        name,
        version: 'v2',
        parent: of,
        directoryOf: (xid) => `${of}/${xid}${below}`,
        controller: VERSION_2[name],
      };
    });
  }

  prepareInstance(): void {
    this.#refusals.clear();
    this.#delegate(this.#layout.unified);
    for (const directory of this.#instanceDirectories()) ensureDirectory(this.#files, directory);
    for (const { name, version, parent } of this.#bindings)
      if (name === 'cpuset' && version === 'v1') prepareCpusetV1(this.#files, parent);
    this.#delegate(this.#unified);
    const depth = `${this.#unified}/${CGROUP_MAX_DEPTH}`;
    if (this.#files.read(depth).trim() !== String(MAX_DEPTH)) this.#files.write(depth, String(MAX_DEPTH));
    // A guest's is read at its own directory; above and below nobody asks.
    const pressure = `${this.#unified}/${CGROUP_PRESSURE}`;
    this.#canStopPressure = readIfPresent(this.#files, pressure) !== undefined;
    if (this.#canStopPressure) this.#files.write(pressure, '0');
    this.#enforced = this.#findEnforced();
  }

  get directory(): string {
    return this.#unified;
  }

  get uncountedMemory(): string {
    return `${this.#layout.v1.get('memory') ?? this.#layout.unified}/cgroup.procs`;
  }

  removeInstance(): void {
    if (this.list().length > 0) return;
    for (const directory of this.#instanceDirectories()) this.#removeDirectory(directory, 'this instance');
  }

  #instanceDirectories(): readonly string[] {
    return [this.#unified, ...this.#v1, ...(this.#cpusets === undefined ? [] : [this.#cpusets])];
  }

  /** The directory of its own for CPUs that a guest is started with. */
  #cpusetOf(xid: Xid, cpuset = ALL_CPUS): readonly string[] {
    return this.#cpusets === undefined || cpuset === ALL_CPUS ? [] : [`${this.#cpusets}/${xid}`];
  }

  /** @throws UserError invalid-value, cpu-missing */
  #check(limits: Limits): void {
    checkLimits(limits);
    for (const { name, parent, version } of this.#bindings)
      if (name === 'cpuset') checkCpus(this.#files, parent, version, limits);
  }

  plan(xid: Xid, limits: Limits): CgroupPlan {
    this.#check(limits);
    const enforced = this.#enforcedKinds();
    const place = this.place(xid, limits.cpuset);
    const pressure = { path: `${place.leaf}/${CGROUP_PRESSURE}`, text: '0' };
    return {
      ...place,
      writes: [
        ...this.#bindings
          .flatMap(({ directoryOf, controller }) => controller.plan(directoryOf(xid), limits, enforced))
          .filter(({ path, text }) => UNLIMITED[path.slice(path.lastIndexOf('/') + 1)] !== text),
        ...(this.#canStopPressure ? [pressure] : []),
      ],
      unenforced: unenforcedOf(limits, enforced),
    };
  }

  unenforced(limits: Limits): readonly LimitKind[] {
    this.#check(limits);
    return unenforcedOf(limits, this.#enforcedKinds());
  }

  place(xid: Xid, cpuset?: string): CgroupPlace {
    const enforced = this.#enforcedKinds();
    const guest = `${this.#unified}/${xid}`;
    const leaf = `${guest}/${GUEST_LEAF}`;
    const handDown = this.#bindings
      .filter(({ name, version }) => name === 'pids' && version === 'v2' && enforced.has(name))
      .map(({ name }) => ({ path: `${guest}/${CGROUP_SUBTREE_CONTROL}`, text: `+${name}` }));
    const v1 = [...this.#v1.map((parent) => `${parent}/${xid}`), ...this.#cpusetOf(xid, cpuset)];
    const counting = this.#bindings.find(({ name, version }) => name === 'pids' && version === 'v1')?.parent;
    return {
      directories: [guest, leaf, ...v1],
      handDown,
      leaf,
      joins: v1.map((directory) => `${directory}/${CGROUP1_TASKS}`),
      exits: v1.map((directory) => `${dirname(dirname(directory))}/${CGROUP1_TASKS}`),
      service: {
        // A cgroup for it alone is 7 KiB of each guest: only where the one above may have no processes.
        leaf: handDown.length > 0 ? `${guest}/${SERVICE_LEAF}` : guest,
        joins: v1.map(
          (directory) => `${dirname(directory) === counting ? counting : directory}/${CGROUP1_TASKS}`,
        ),
      },
    };
  }

  apply(xid: Xid, limits: Limits): Effective {
    this.#check(limits);
    const enforced = this.#enforcedKinds();
    const wanted = Object.fromEntries(
      givenKinds(limits)
        .filter((kind) => enforced.has(kind))
        .map((kind) => [kind, limits[kind]]),
    );
    return this.#inGuest('change limits of', xid, () => {
      for (const { name, parent, directoryOf, controller } of this.#bindings) {
        if (name === 'cpuset' && parent === this.#cpusets) this.#applyOwnCpuset(xid, wanted);
        else controller.apply(this.#files, directoryOf(xid), wanted, `guest ${xid}`);
      }
      const read = this.#bindings.map(({ directoryOf, controller }) =>
        controller.readLimits(this.#files, directoryOf(xid)),
      );
      const cpuset = enforced.has('cpuset') ? ALL_CPUS : undefined; // unless it has some of its own
      return {
        limits: Object.assign({ ...NO_LIMITS, cpuset }, ...read),
        unenforced: unenforcedOf(limits, enforced),
      };
    });
  }

  read(xid: Xid): Usage {
    const guest = `${this.#unified}/${xid}`;
    return this.#inGuest('read usage of', xid, () => {
      // cpu.stat of cgroup2 counts run time with or without the cpu controller (since Linux 4.15).
      const cpu = parseFlatKeyed(this.#files.read(`${guest}/${CPU_STAT}`));
      const controllers = this.#bindings.map(({ directoryOf, controller }) =>
        controller.readUsage(this.#files, directoryOf(xid)),
      );
      const usage: Usage = {
        ...NO_USAGE,
        cpuUsageUs: cpu.get('usage_usec'),
        cpuUserUs: cpu.get('user_usec'),
        cpuSystemUs: cpu.get('system_usec'),
        ...readIo(this.#files, guest),
      };
      return Object.assign(usage, ...controllers);
    });
  }

  /** A running guest that gets CPUs of its own moves; who is born meanwhile is so where its parent is. */
  #applyOwnCpuset(xid: Xid, limits: Limits): void {
    const { cpuset } = limits;
    if (cpuset === undefined || this.#cpusets === undefined) return;
    const directory = `${this.#cpusets}/${xid}`;
    if (cpuset === ALL_CPUS && readIfPresent(this.#files, `${directory}/cgroup.procs`) === undefined) return;
    ensureDirectory(this.#files, directory);
    cpusetV1.apply(this.#files, directory, limits, `guest ${xid}`);
    const moved = new Set<number>();
    for (
      let fresh = this.pids(xid);
      fresh.length > 0;
      fresh = this.pids(xid).filter((pid) => !moved.has(pid))
    ) {
      for (const pid of fresh) {
        moved.add(pid);
        try {
          this.#files.write(`${directory}/cgroup.procs`, String(pid));
        } catch (error) {
          if (!isErrno(error, 'ESRCH')) throw error; // it has ended
        }
      }
    }
  }

  sample(xid: Xid): Sample {
    return this.#inGuest('read usage of', xid, () => {
      const { userUs, systemUs } = this.#readCpu(`${this.#unified}/${xid}`);
      const sample: Sample = {
        cpuUserUs: userUs,
        cpuSystemUs: systemUs,
        residentBytes: undefined,
        pids: undefined,
      };
      const controllers = this.#bindings.map(({ directoryOf, controller }) =>
        controller.readSample(this.#files, directoryOf(xid)),
      );
      return Object.assign(sample, ...controllers);
    });
  }

  oomSource(xid: Xid): OomSource | undefined {
    for (const { directoryOf, controller } of this.#bindings) {
      const source = controller.oomSource?.(directoryOf(xid));
      if (source) return source;
    }
    return undefined;
  }

  oomKills(xid: Xid): number | undefined {
    const source = this.oomSource(xid);
    const text = source && readIfPresent(this.#files, source.counter);
    // oom_kill: since Linux 4.13.
    return text === undefined ? undefined : parseFlatKeyed(text).get('oom_kill');
  }

  limitHits(xid: Xid, resources: readonly LimitHit['resource'][]): readonly LimitHit[] {
    return resources.flatMap((resource) => {
      const binding = this.#bindings.find(({ name }) => name === resource);
      const count = binding?.controller.readHits?.(this.#files, binding.directoryOf(xid));
      return count === undefined ? [] : [{ resource, count }];
    });
  }

  limitFiles(xid: Xid): Readonly<Partial<Record<LimitHit['resource'], string>>> {
    return Object.fromEntries(
      this.#bindings.flatMap(({ name, directoryOf, controller }) => {
        const file = controller.hitFile?.(directoryOf(xid));
        return file === undefined ? [] : [[name, file]];
      }),
    );
  }

  readHostCpu(): { readonly userUs: number; readonly systemUs: number } {
    const all = this.#readCpu(this.#layout.unified);
    // What guests of the past used stays in the instance's count.
    const guests = this.#readCpu(this.#unified);
    return {
      userUs: Math.max(0, all.userUs - guests.userUs),
      systemUs: Math.max(0, all.systemUs - guests.systemUs),
    };
  }

  #readCpu(directory: string): { readonly userUs: number; readonly systemUs: number } {
    const stat = this.#files.read(`${directory}/${CPU_STAT}`);
    return { userUs: flatKeyedValue(stat, 'user_usec'), systemUs: flatKeyedValue(stat, 'system_usec') };
  }

  async freeze(xid: Xid, timeoutMs: number): Promise<void> {
    const leaf = `${xid}/${GUEST_LEAF}`;
    const path = `${this.#unified}/${leaf}/${CGROUP_FREEZE}`;
    this.#inGuest('freeze', xid, () => this.#files.write(path, '1'));
    if (await this.#waitFor(leaf, ({ frozen }) => frozen, timeoutMs)) return;
    this.#inGuest('thaw', xid, () => this.#files.write(path, '0'));
    throw new StateError(
      'freeze-timeout',
      `cannot freeze guest ${xid}: found processes running after ${timeoutMs} ms; need all of them to stop`,
    );
  }

  async thaw(xid: Xid, timeoutMs: number): Promise<void> {
    const leaf = `${xid}/${GUEST_LEAF}`;
    this.#inGuest('thaw', xid, () => this.#files.write(`${this.#unified}/${leaf}/${CGROUP_FREEZE}`, '0'));
    if (await this.#waitFor(leaf, ({ frozen }) => !frozen, timeoutMs)) return;
    throw new StateError(
      'freeze-timeout',
      `cannot thaw guest ${xid}: found it frozen after ${timeoutMs} ms; need the cgroups above it thawed`,
    );
  }

  kill(xid: Xid): void {
    const path = `${this.#unified}/${xid}/${CGROUP_KILL}`;
    this.#inGuest('kill', xid, () => this.#files.write(path, '1'), 'Linux 5.14 or later');
  }

  waitEmpty(xid: Xid, timeoutMs: number): Promise<boolean> {
    return this.#waitFor(String(xid), ({ populated }) => !populated, timeoutMs);
  }

  pids(xid: Xid): readonly number[] {
    return subtree(this.#files, `${this.#unified}/${xid}/${GUEST_LEAF}`).flatMap((directory) =>
      pidsIn(this.#files, directory),
    );
  }

  isPopulated(xid: Xid): boolean {
    return this.#events(String(xid)).populated;
  }

  remove(xid: Xid): void {
    // Nobody makes any below a guest's on v1.
    const directories = subtree(this.#files, `${this.#unified}/${xid}`).toReversed();
    const v1 = [...this.#v1, ...(this.#cpusets === undefined ? [] : [this.#cpusets])];
    for (const directory of [...directories, ...v1.map((parent) => `${parent}/${xid}`)]) {
      this.#removeDirectory(directory, `guest ${xid}`);
    }
  }

  list(): readonly Xid[] {
    const names = new Set(this.#instanceDirectories().flatMap((parent) => childrenOf(this.#files, parent)));
    return [...names]
      .filter((name) => /^[1-9]\d*$/.test(name))
      .map(Number)
      .filter(isXid)
      .toSorted((a, b) => a - b);
  }

  capabilities(): CgroupCapabilities {
    const enforced = this.#enforcedKinds();
    const versionOf = (name: ControllerName): 'v1' | 'v2' | 'none' => {
      const binding = this.#bindings.find((one) => one.name === name);
      if (binding === undefined) return 'none';
      const kinds = LIMIT_KINDS.filter((kind) => binding.controller.limitFiles[kind] !== undefined);
      return kinds.some((kind) => enforced.has(kind)) ? binding.version : 'none';
    };
    return {
      controllers: {
        memory: versionOf('memory'),
        cpu: versionOf('cpu'),
        pids: versionOf('pids'),
        cpuset: versionOf('cpuset'),
      },
      enforced: [...enforced],
      reasons: [
        ...this.#layout.unmounted.map(
          (name) => `controller ${name} is on a v1 hierarchy that is not mounted`,
        ),
        ...this.#refusals.values(),
      ],
    };
  }

  #removeDirectory(directory: string, owner: string): void {
    try {
      this.#files.rmdir(directory);
    } catch (error) {
      if (isErrno(error, 'ENOENT', 'ENODEV')) return;
      if (!isErrno(error, 'EBUSY', 'ENOTEMPTY')) throw error;
      const pids = pidsIn(this.#files, directory);
      throw new StateError(
        'cgroup-busy',
        `cannot remove the cgroups of ${owner}: found ${pids.length} processes in ${JSON.stringify(directory)}; ` +
          'need them gone',
        { cause: error, details: { pids } },
      );
    }
  }

  /** Hands down each controller alone: the kernel takes a list as a whole, and one refused would refuse all. */
  #delegate(directory: string): void {
    const available = parseWords(this.#files.read(`${directory}/${CGROUP_CONTROLLERS}`));
    const enabled = parseWords(this.#files.read(`${directory}/${CGROUP_SUBTREE_CONTROL}`));
    for (const name of DELEGATED) {
      if (!available.includes(name) || enabled.includes(name)) continue;
      try {
        this.#files.write(`${directory}/${CGROUP_SUBTREE_CONTROL}`, `+${name}`);
      } catch (error) {
        if (!(error instanceof SysError)) throw error;
        this.#refusals.set(name, `controller ${name} cannot be enabled in ${directory}: ${error.errnoName}`);
      }
    }
  }

  /** A limit is enforced when its file is in the instance's directory and will be in a guest's below it. */
  #findEnforced(): ReadonlySet<LimitKind> {
    const handedDown = parseWords(this.#files.read(`${this.#unified}/${CGROUP_SUBTREE_CONTROL}`));
    const kinds = this.#bindings
      .filter(({ name, version }) => version === 'v1' || handedDown.includes(name))
      .flatMap(({ parent, controller }) =>
        LIMIT_KINDS.filter((kind) => {
          const file = controller.limitFiles[kind];
          return file !== undefined && readIfPresent(this.#files, `${parent}/${file}`) !== undefined;
        }),
      );
    return new Set(kinds);
  }

  #enforcedKinds(): ReadonlySet<LimitKind> {
    if (this.#enforced !== undefined) return this.#enforced;
    throw new StateError(
      'cgroup-not-prepared',
      'cannot plan cgroups: found the instance not prepared; need prepareInstance to have run',
    );
  }

  #events(directory: string): CgroupEvents {
    const text = readIfPresent(this.#files, `${this.#unified}/${directory}/${CGROUP_EVENTS}`);
    return text === undefined ? { populated: false, frozen: false } : parseEvents(text);
  }

  async #waitFor(
    directory: string,
    isReached: (events: CgroupEvents) => boolean,
    timeoutMs: number,
  ): Promise<boolean> {
    const deadlineMs = performance.now() + timeoutMs;
    // The change takes well under a millisecond unless a process is in an uninterruptible sleep.
    for (let pauseMs = 1; !isReached(this.#events(directory)); pauseMs = Math.min(pauseMs * 2, POLL_MAX_MS)) {
      if (performance.now() >= deadlineMs) return false;
      await setTimeout(pauseMs);
    }
    return true;
  }

  #inGuest<T>(action: string, xid: Xid, call: () => T, need?: string): T {
    try {
      return call();
    } catch (error) {
      if (!isErrno(error, 'ENOENT', 'ENODEV')) throw error;
      const path = error instanceof SysError ? error.path : undefined;
      throw new StateError(
        'cgroup-missing',
        `cannot ${action} guest ${xid}: found no ${JSON.stringify(path)}; need the cgroup of a started guest`,
        { cause: error, hint: need },
      );
    }
  }
}

const VERSION_1: Readonly<Record<ControllerName, Controller>> = {
  memory: memoryV1,
  cpu: cpuV1,
  pids: pidsController,
  cpuset: cpusetV1,
};
const VERSION_2: Readonly<Record<ControllerName, Controller>> = {
  memory: memoryV2,
  cpu: cpuV2,
  pids: pidsController,
  cpuset: cpusetV2,
};

const NO_LIMITS: EffectiveLimits = {
  memoryBytes: undefined,
  memorySwapBytes: undefined,
  pids: undefined,
  cpuQuotaUs: undefined,
  cpuPeriodUs: undefined,
  cpuWeight: undefined,
  cpuBurstUs: undefined,
  cpuIdle: undefined,
  cpuset: undefined,
};

const NO_USAGE: Usage = {
  memoryBytes: undefined,
  memoryPeakBytes: undefined,
  memoryAnonBytes: undefined,
  memoryFileBytes: undefined,
  memoryMappedBytes: undefined,
  memorySharedBytes: undefined,
  memoryKernelBytes: undefined,
  swapBytes: undefined,
  memoryLimitHits: undefined,
  oomKills: undefined,
  pids: undefined,
  pidsPeak: undefined,
  pidsLimitHits: undefined,
  cpuUsageUs: undefined,
  cpuUserUs: undefined,
  cpuSystemUs: undefined,
  cpuPeriods: undefined,
  cpuThrottledPeriods: undefined,
  cpuThrottledUs: undefined,
  ioReadBytes: undefined,
  ioWriteBytes: undefined,
};

function unenforcedOf(limits: Limits, enforced: ReadonlySet<LimitKind>): readonly LimitKind[] {
  return givenKinds(limits).filter((kind) => !asksForNothing(kind, limits[kind]) && !enforced.has(kind));
}

/** What asks for no limit cannot go unenforced. */
function asksForNothing(kind: LimitKind, value: Limits[LimitKind]): boolean {
  if (kind === 'cpuBurstUs' || kind === 'cpuIdle') return value === 0;
  return value === 'max' || value === ALL_CPUS;
}

function readIo(files: CgroupFiles, directory: string): Partial<Usage> {
  const text = readIfPresent(files, `${directory}/${IO_STAT}`);
  if (text === undefined) return {};
  const devices = [...parseNestedKeyed(text).values()];
  const total = (key: string): number =>
    devices.reduce((sum, device) => sum + Number(device.get(key) ?? 0), 0);
  return { ioReadBytes: total('rbytes'), ioWriteBytes: total('wbytes') };
}
