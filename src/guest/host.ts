/**
 * What the host offers, found by trying, and what is made of it once: kernel version, masked paths that exist, compiled
 * filters, the cgroup driver.
 */
import { existsSync, mkdirSync, readdirSync, readFileSync, rmdirSync } from 'node:fs';
import { release } from 'node:os';
import { basename, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { StateError, UserError } from '../base/errors.ts';
import type { Xid } from '../base/ids.ts';
import { type BrokeredCalls, compileBrokerFilter } from '../context/broker-filter.ts';
import { type ContextCapability, formatCapabilities } from '../context/capabilities.ts';
import { deviceFilter } from '../context/devices.ts';
import { MASKED_PATHS, READ_ONLY_PATHS } from '../context/masks.ts';
import { compileSeccomp } from '../context/seccomp.ts';
import { defaultSeccompProfile } from '../context/seccomp-default.ts';
import type { CgroupDriver } from '../resources/cgroup-driver.ts';
import { type ProcLimit, parseProcLimits } from '../spec/proc-limits.ts';
import { parseSeccompProfile, resolveSeccompProfile } from '../spec/seccomp-profile.ts';
import type { Abi } from '../sys/abi.ts';
import { planAttachToCgroup } from '../sys/bpf/attach.ts';
import { readIfThere, readNamedFile } from '../sys/files.ts';
import { planNumberPath } from '../sys/number-path.ts';
import { Program, type Result } from '../sys/program.ts';
import { StepError, type Syscalld } from '../sys/syscalld.ts';
import type { SeccompChoice } from './config-types.ts';
import { EventJournal } from './event-journal.ts';
import type { InstancePaths } from './paths.ts';
import { planShared, type SharedObjects } from './plan-context.ts';
import { LINK_KINDS, planTryLink } from './plan-network.ts';
import type { Mask } from './plan-types.ts';
import { planTryCoverLink, type ViewsObjects } from './plan-views.ts';

/** How long the kernel may take to end what it was told to kill. */
const KILL_TIMEOUT_MS = 10_000;
/** How long it may take to take a guest off the CPUs, or to put it back. */
export const FREEZE_TIMEOUT_MS = 5000;
const RETRY_MS = 5;
/** Depth of a guest's cgroup below the root of the cgroup2 tree. */
export const GUEST_LEVEL = 2;

/** One thing the host can or cannot do. */
export interface Finding {
  readonly name: string;
  readonly ok: boolean;
  /** What was found; if it is not enough, what helps. */
  readonly detail: string;
}

/** The host, as the instance uses it. */
export class Host {
  readonly abi: Abi;
  readonly syscalld: Syscalld;
  readonly paths: InstancePaths;
  readonly cgroups: CgroupDriver;
  /** What happens to guests is told here. */
  readonly events: EventJournal;
  readonly masks: readonly Mask[] = existingMasks();
  readonly kernel: { readonly major: number; readonly minor: number };
  /** Overlay takes detached mounts as layers (Linux 6.15). */
  detachedLayers = false;
  /** See `planShared`; there once the host is prepared. */
  shared: SharedObjects = { scaffold: 0, sys: 0, namespace: 0 };
  /** The file system of views; undefined: there is none. */
  views: ViewsObjects | undefined;
  /** Why there are none. */
  viewsMissing: string | undefined;
  /** Why the Proc-FS is not among the host's files. */
  procFsMissing: string | undefined;
  /** Why nobody counts forks. */
  forksMissing: string | undefined;
  readonly #filters = new Map<string, Uint8Array>();
  #rlimits: ReadonlyMap<string, ProcLimit> | undefined;
  readonly #brokerFilters = new Map<string, Uint8Array>();
  #linkKind: Promise<string> | undefined;
  #coversLinks: Promise<boolean> | undefined;

  constructor(abi: Abi, syscalld: Syscalld, paths: InstancePaths, cgroups: CgroupDriver) {
    this.abi = abi;
    this.syscalld = syscalld;
    this.paths = paths;
    this.cgroups = cgroups;
    this.events = new EventJournal(join(paths.lib, 'events'));
    const [major = 0, minor = 0] = release()
      .split('.')
      .map((part) => Number.parseInt(part, 10));
    this.kernel = { major, minor };
  }

  /** The limits of setrlimit(2) that guests' processes have unless told otherwise: those the control plane was given. */
  ownRlimit(name: string): ProcLimit {
    this.#rlimits ??= parseProcLimits(readFileSync('/proc/self/limits', 'utf8'));
    return this.#rlimits.get(name) ?? { soft: 'unlimited', hard: 'unlimited' };
  }

  /** An empty directory where mounts are attached, each in a mount namespace of its own. */
  get attachPoint(): string {
    return join(this.paths.run, 'root');
  }

  /** Kills what is left in a context's cgroups and removes them. @throws StateError cgroup-busy */
  async removeCgroup(xid: Xid): Promise<void> {
    if (this.cgroups.isPopulated(xid)) this.cgroups.kill(xid);
    await this.cgroups.waitEmpty(xid, KILL_TIMEOUT_MS);
    // A worker that was parked in there may take a moment to be gone.
    for (let waitedMs = 0; ; waitedMs += RETRY_MS) {
      try {
        this.cgroups.remove(xid);
        return;
      } catch (error) {
        if (!(error instanceof StateError) || waitedMs > KILL_TIMEOUT_MS) throw error;
        await sleep(RETRY_MS);
      }
    }
  }

  /** Whether a process is in a cgroup of this instance: in a guest, or beside one. */
  isInstanceProcess(pid: number): boolean {
    const cgroups = readIfThere(`/proc/${pid}/cgroup`) ?? '';
    return cgroups.includes(`/${basename(this.cgroups.directory)}/`);
  }

  /** Calls `body` with a path that leads to what a program opens, which stays open till then. */
  async withOpened<T>(
    what: string,
    plan: (p: Program) => Result,
    body: (path: string) => T | Promise<T>,
  ): Promise<T> {
    const p = this.program();
    const opened = plan(p);
    const pid = p.sys('getpid', []);
    p.park = this.syscalld.newObject();
    const outcome = await this.syscalld.run(what, p);
    try {
      return await body(`/proc/${outcome.result(pid)}/fd/${outcome.result(opened)}/.`);
    } finally {
      this.syscalld.drop(p.park);
    }
  }

  /** Names of the guests that have files of their own. */
  listGuestDirectories(): readonly string[] {
    return readdirSync(join(this.paths.lib, 'guests'));
  }

  /** A new, empty program. */
  program(): Program {
    return new Program(this.abi);
  }

  /** Makes what all guests share, and tries what only trying can tell. Called once objects have ids of their own. */
  async prepare(): Promise<void> {
    mkdirSync(this.attachPoint, { recursive: true, mode: 0o700 });
    this.detachedLayers = await this.#probeDetachedLayers();
    this.shared = await this.#makeShared();
    await this.#fenceDevices();
  }

  async #makeShared(): Promise<SharedObjects> {
    const p = this.program();
    const { scaffold, sys, network, namespace } = planShared(
      p,
      this.masks,
      this.attachPoint,
      this.detachedLayers,
    );
    const keep = (kept: Result): number => {
      const object = this.syscalld.newObject();
      p.keep(kept, object);
      return object;
    };
    keep(network);
    const objects = {
      scaffold: keep(scaffold),
      sys: keep(sys),
      namespace: namespace === undefined ? 0 : keep(namespace),
    };
    await this.syscalld.run('make what guests share', p);
    return objects;
  }

  /** One program on the instance's cgroup holds for all guests below it, at no cost for each. */
  async #fenceDevices(): Promise<void> {
    const p = this.program();
    const cgroup = p.sys(
      'openat',
      [p.flags('AT_FDCWD'), this.cgroups.directory, p.flags('O_RDONLY', 'O_DIRECTORY', 'O_CLOEXEC'), 0],
      {
        about: `"${this.cgroups.directory}"`,
      },
    );
    planAttachToCgroup(p, 'BPF_PROG_TYPE_CGROUP_DEVICE', 'BPF_CGROUP_DEVICE', deviceFilter(), cgroup);
    await this.syscalld.run('fence devices', p);
  }

  async #probeDetachedLayers(): Promise<boolean> {
    const base = join(this.paths.lib, '.probe');
    const p = this.program();
    const clone = p.flags('OPEN_TREE_CLONE', 'OPEN_TREE_CLOEXEC');
    const lower = p.sys('open_tree', [p.flags('AT_FDCWD'), join(base, 'lower'), clone]);
    const path = planNumberPath(p, '/proc/self/fd/', lower);
    const fs = p.sys('fsopen', ['overlay', p.flags('FSOPEN_CLOEXEC')]);
    for (const [key, value] of [
      ['lowerdir', path],
      ['upperdir', join(base, 'upper')],
      ['workdir', join(base, 'work')],
    ] as const) {
      p.sys('fsconfig', [fs, p.flags('FSCONFIG_SET_STRING'), key, value, 0]);
    }
    p.sys('fsconfig', [fs, p.flags('FSCONFIG_CMD_CREATE'), 0, 0, 0]);
    try {
      for (const name of ['', 'lower', 'upper', 'work'])
        mkdirSync(join(base, name), { recursive: true, mode: 0o700 });
      await this.syscalld.run('try detached layers', p);
      return true;
    } catch {
      return false; // an older kernel, or a full disk: layers are attached first
    } finally {
      for (const name of ['work/work', 'work/index', 'work', 'upper', 'lower', '']) {
        if (existsSync(join(base, name))) rmdirSync(join(base, name));
      }
    }
  }

  /**
   * Returns the system call filter of a guest, compiled once for each profile and set of capabilities.
   *
   * @throws UserError invalid-seccomp-profile
   */
  seccompFilter(
    choice: SeccompChoice,
    bcaps: bigint,
    ccaps: readonly ContextCapability[] = [],
  ): Uint8Array | undefined {
    if (choice === 'unconfined') return undefined;
    const text = choice === 'default' ? '' : readProfile(choice.profile);
    const key = `${bcaps.toString(16)} ${ccaps.join(' ')} ${text}`;
    let filter = this.#filters.get(key);
    if (filter === undefined) {
      const profile = choice === 'default' ? defaultSeccompProfile() : parseSeccompProfile(text);
      const caps = new Set([
        ...formatCapabilities(bcaps).map((name) => `CAP_${name}`),
        ...ccaps.map((name) => `CCAP_${name.toUpperCase()}`),
      ]);
      const resolved = resolveSeccompProfile(profile, {
        caps,
        auditArch: this.abi.auditArch,
        kernel: this.kernel,
      });
      filter = compileSeccomp(resolved, this.abi).program;
      this.#filters.set(key, filter);
    }
    return filter;
  }

  /** Returns the filter of guests with a broker that is asked about these calls. */
  brokerFilter(calls: BrokeredCalls): Uint8Array {
    const key = JSON.stringify(calls);
    const filter = this.#brokerFilters.get(key) ?? compileBrokerFilter(this.abi, calls);
    this.#brokerFilters.set(key, filter);
    return filter;
  }

  /** Returns a kind of interface that guests can have for show. @throws StateError no-link-kind */
  async linkKind(): Promise<string> {
    this.#linkKind ??= this.#findLinkKind();
    return await this.#linkKind;
  }

  /** Whether a link of /proc can be covered, as the views of /proc/net want it. */
  async coversLinks(): Promise<boolean> {
    this.#coversLinks ??= this.#tryCoverLink();
    return await this.#coversLinks;
  }

  async #tryCoverLink(): Promise<boolean> {
    const p = this.program();
    planTryCoverLink(p);
    try {
      await this.syscalld.run('try to cover a link', p);
      return true;
    } catch (error) {
      if (!(error instanceof StepError)) throw error;
      return false;
    }
  }

  async #findLinkKind(): Promise<string> {
    for (const kind of LINK_KINDS) {
      const p = this.program();
      planTryLink(p, kind);
      try {
        await this.syscalld.run(`try an interface of kind "${kind}"`, p);
        return kind;
      } catch (error) {
        if (!(error instanceof StepError)) throw error;
      }
    }
    this.#linkKind = undefined; // a module may be loaded later
    throw new StateError(
      'no-link-kind',
      `cannot show a guest its addresses: found none of the interfaces ${LINK_KINDS.join(', ')} in this kernel; ` +
        'need one of them, for example: modprobe dummy',
    );
  }
}

/** The masked and read-only paths that this kernel has; `*` is expanded, directories end in "/". */
function existingMasks(): readonly Mask[] {
  const found: Mask[] = [];
  for (const [list, kind] of [
    [MASKED_PATHS, 'mask'],
    [READ_ONLY_PATHS, 'readonly'],
  ] as const) {
    for (const entry of list) {
      for (const path of expand(entry.path))
        found.push({ path: isDirectory(path) ? `${path}/` : path, kind });
    }
  }
  return found;
}

function expand(path: string): readonly string[] {
  const star = path.split('/').findIndex((part) => part.includes('*'));
  if (star < 0) return existsSync(path) ? [path] : [];
  const parts = path.split('/');
  const parent = parts.slice(0, star).join('/');
  const [before = '', after = ''] = (parts[star] ?? '').split('*');
  if (!existsSync(parent)) return [];
  return readdirSync(parent)
    .filter(
      (name) =>
        name.startsWith(before) &&
        name.endsWith(after) &&
        /^\d+$/.test(name.slice(before.length, name.length - after.length)),
    )
    .flatMap((name) => expand([parent, name, ...parts.slice(star + 1)].join('/')));
}

/** Docker's default profile has 12 KiB. */
const PROFILE_MAX_BYTES = 2 ** 20;

function readProfile(path: string): string {
  try {
    return readNamedFile(path, PROFILE_MAX_BYTES);
  } catch (cause) {
    const found = cause instanceof Error ? cause.message : 'no such file';
    throw new UserError('invalid-seccomp-profile', `cannot read seccomp profile "${path}": found ${found}`, {
      cause,
    });
  }
}

function isDirectory(path: string): boolean {
  try {
    readdirSync(path);
    return true;
  } catch {
    return false; // ENOTDIR; as root nothing else stands in the way
  }
}
