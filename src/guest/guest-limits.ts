/**
 * The limits table of a running guest: its rows as they are now, and changes of those that are no cgroup's.
 */
import { readFileSync } from 'node:fs';
import { StateError } from '../base/errors.ts';
import { idRangeOf } from '../context/id-map.ts';
import type { ProcessLimit } from '../context/rlimits.ts';
import type { SocketUsage } from '../network/rules.ts';
import {
  type ContextLimits,
  ipcSysctlsBetween,
  LIMIT_ROW_SPECS,
  LIMIT_ROWS,
  type LimitRowName,
  type LimitRowSpec,
  limitRowSpec,
  unenforced,
} from '../resources/limit-rows.ts';
import { parseProcStatus } from '../spec/proc-status.ts';
import type { LimitLine } from '../spec/virtual-files.ts';
import { lockedBytesOf, locksOf, totalsOf, virtualPagesOf } from '../sys/process-totals.ts';
import { StepError } from '../sys/syscalld.ts';
import { unlessGone } from './accounting.ts';
import type { GuestConfig, GuestNetwork } from './config-types.ts';
import type { Guest, LimitMark, LiveRecord } from './guest.ts';
import type { Host } from './host.ts';
import { planIpcSysctls, planIpcUsage, planProcessLimits } from './plan-limits.ts';
import { rlimitNumber, rlimitsOfCommand } from './spec.ts';

/** Whether a guest's limit of sockets is one of its own network context. */
export function isFenced({ mode, shareWith }: GuestNetwork): boolean {
  return mode === 'isolated' && shareWith === undefined;
}

/** A row of the table; numbers are in the original's units. Null: nothing on this host counts it. */
export interface LimitRow extends LimitRowSpec {
  readonly current: number | null;
  /** Smallest and largest value that was seen since the start or the last reset. */
  readonly min: number | null;
  readonly max: number | null;
  readonly soft: number | 'max';
  readonly hard: number | 'max';
  /** How often the limit was met; null where the kernel does not count that. */
  readonly hits: number | null;
}

/** What a row reads of the kernel. */
interface Reading {
  readonly current?: number | undefined;
  /** Largest value since the start, where the kernel keeps it. */
  readonly peak?: number | undefined;
  readonly hits?: number | undefined;
}

/** Rows of a guest that does not run: what it would be allowed. */
export function configuredRows(host: Host, config: GuestConfig): readonly LimitRow[] {
  return LIMIT_ROWS.map((name) => ({
    ...specOf(host, name, config),
    current: null,
    min: null,
    max: null,
    ...limitsOfRow(host, name, config),
    hits: null,
  }));
}

/**
 * Reads the table of a running guest.
 *
 * @param sockets of a guest with addresses of its own
 * @throws StateError cgroup-missing; StepError when it has just ended
 */
export async function readRows(
  host: Host,
  guest: Guest,
  live: LiveRecord,
  sockets: SocketUsage | undefined,
): Promise<readonly LimitRow[]> {
  const readings = await readAll(host, guest, live, sockets);
  return LIMIT_ROWS.map((name) => {
    const reading = readings[name];
    const { current } = reading;
    const { min, max, hits } = seen(guest, name, reading);
    return {
      ...specOf(host, name, live.config),
      current: current ?? null,
      min: min ?? null,
      max: max ?? null,
      ...limitsOfRow(host, name, live.config),
      hits: hits ?? null,
    };
  });
}

/** Begins to look anew for the smallest and largest values of a guest, and to count how often limits are met. */
export async function resetRows(
  host: Host,
  guest: Guest,
  live: LiveRecord,
  sockets: SocketUsage | undefined,
  what: { readonly hits: boolean; readonly minMax: boolean },
): Promise<Readonly<Record<string, LimitMark>>> {
  const readings = await readAll(host, guest, live, sockets);
  const marks: Record<string, LimitMark> = {};
  for (const name of LIMIT_ROWS) {
    const { current, peak, hits } = readings[name];
    const old = guest.live?.limitMarks?.[name];
    marks[name] = {
      ...old,
      ...(what.hits ? { hits } : {}),
      ...(what.minMax ? { peak, min: current, max: current } : {}),
    };
  }
  if (what.minMax) guest.seenLimits.clear();
  return marks;
}

/** The original counted mapped pages and never limited them: a line of its Proc-FS, and no row of ours. */
const MAPPED = 'RMAP';

/** Reads the line of mapped pages of a guest. */
export function readMappedLine(host: Host, guest: Guest): LimitLine {
  const bytes = unlessGone(() => host.cgroups.read(guest.xid))?.memoryMappedBytes;
  const current = bytes === undefined ? undefined : Math.ceil(bytes / host.abi.pageBytes);
  const { min, max } = seen(guest, MAPPED, { current });
  return {
    row: MAPPED,
    current: current ?? null,
    min: min ?? null,
    max: max ?? null,
    soft: 'max',
    hard: 'max',
    hits: null,
  };
}

/** The kernel keeps a peak for ever: after a reset it says something again once it is higher than it was then. */
function seen(
  guest: Guest,
  name: LimitRowName | typeof MAPPED,
  { current, peak, hits }: Reading,
): Reading & Partial<Extremes> {
  const mark = guest.live?.limitMarks?.[name];
  // What begins with nothing had nothing before anybody looked.
  const extremes = guest.seenLimits.get(name) ?? { min: mark?.min ?? 0, max: mark?.max ?? 0 };
  if (current === undefined) return { hits: sinceMark(hits, mark?.hits) };
  const known = peak !== undefined && (mark?.peak === undefined || peak > mark.peak) ? peak : 0;
  const next = { min: Math.min(extremes.min, current), max: Math.max(extremes.max, current, known) };
  guest.seenLimits.set(name, next);
  return { ...next, hits: sinceMark(hits, mark?.hits) };
}

function sinceMark(hits: number | undefined, mark: number | undefined): number | undefined {
  return hits === undefined ? undefined : Math.max(0, hits - (mark ?? 0));
}

/** Smallest and largest value of a row that was seen. */
export interface Extremes {
  readonly min: number;
  readonly max: number;
}

async function readAll(
  host: Host,
  guest: Guest,
  live: LiveRecord,
  sockets: SocketUsage | undefined,
): Promise<Readonly<Record<LimitRowName, Reading>>> {
  const { pageBytes } = host.abi;
  const usage = host.cgroups.read(guest.xid);
  const pids = host.cgroups.pids(guest.xid);
  const pages = (bytes: number | undefined): number | undefined =>
    bytes === undefined ? undefined : Math.ceil(bytes / pageBytes);
  const { openFiles } = totalsOf(pids);
  const ipc = await readIpc(host, guest, live);
  return {
    PROC: { current: usage.pids, peak: usage.pidsPeak, hits: usage.pidsLimitHits },
    VM: { current: virtualPagesOf(pids) },
    VML: { current: pages(lockedBytesOf(pids)) },
    RSS: {
      current: pages(usage.memoryBytes),
      peak: pages(usage.memoryPeakBytes),
      hits: usage.memoryLimitHits,
    },
    ANON: { current: pages(usage.memoryAnonBytes) },
    FILES: { current: openFiles },
    OFD: { current: openFiles },
    LOCKS: { current: locksOf(pids) },
    SOCK: sockets ? { ...sockets, hits: sockets.refused } : { current: socketsOf(live) },
    MSGQ: { current: ipc.messageBytes },
    SHM: { current: ipc.sharedPages },
    SEMA: { current: ipc.semaphoreSets },
    SEMS: { current: ipc.semaphores },
    DENT: {},
  };
}

async function readIpc(
  host: Host,
  guest: Guest,
  live: LiveRecord,
): Promise<Readonly<Record<'messageBytes' | 'sharedPages' | 'semaphoreSets' | 'semaphores', number>>> {
  const p = host.program();
  const usage = planIpcUsage(p, p.import(live.initObject));
  const outcome = await host.syscalld.run(`read limits of guest "${guest.name}"`, p);
  return {
    messageBytes: outcome.result(usage.messageBytes),
    sharedPages: outcome.result(usage.sharedPages),
    semaphoreSets: outcome.result(usage.semaphoreSets),
    semaphores: outcome.result(usage.semaphores),
  };
}

/** Sockets of the network namespace of a guest without addresses of its own, of all families. */
function socketsOf({ initPid, config }: LiveRecord): number | undefined {
  if (config.network.mode === 'host') return undefined;
  const text = readFileSync(`/proc/${initPid}/net/sockstat`, 'utf8');
  return Number(/^sockets: used (\d+)$/m.exec(text)?.[1] ?? 0);
}

/** Where the host has no controller a row of the cgroups' is nobody's. */
function specOf(host: Host, name: LimitRowName, { network }: GuestConfig): LimitRowSpec {
  const spec = limitRowSpec(name, isFenced(network));
  const kind = name === 'PROC' ? 'pids' : name === 'RSS' ? 'memoryBytes' : undefined;
  return kind === undefined || host.cgroups.capabilities().enforced.includes(kind) ? spec : unenforced(spec);
}

function limitsOfRow(
  host: Host,
  name: LimitRowName,
  { limits }: GuestConfig,
): Pick<LimitRow, 'soft' | 'hard'> {
  const { unit, limit } = LIMIT_ROW_SPECS[name];
  const inUnit = (value: number | 'max' | undefined): number | 'max' => {
    if (value === undefined || value === 'max') return 'max';
    return unit === 'pages' ? Math.floor(value / host.abi.pageBytes) : value;
  };
  // As with virt_mem: what the guest takes for its memory, and with swap.
  if (name === 'RSS') return { soft: inUnit(limits.memoryBytes), hard: inUnit(limits.memorySwapBytes) };
  const value = limit === undefined ? limits.pids : limits.context[limit];
  return { soft: 'max', hard: inUnit(value) };
}

/** Most processes that one program sets limits of. */
const PIDS_BATCH = 100;
/** A process that forks all the time has children with its new limits after the second pass. */
const PASSES_MAX = 8;

/**
 * Changes limits of a running guest that are no cgroup's, from those of one configuration to those of another.
 *
 * @throws StateError limit-not-raised, when processes may not be given more than they were started with
 */
export async function changeLimits(
  host: Host,
  guest: Guest,
  live: LiveRecord,
  before: GuestConfig,
  after: GuestConfig,
): Promise<void> {
  const { context: from } = before.limits;
  const { context: to } = after.limits;
  // Processes first: only they may be refused.
  await changeProcesses(host, guest, live, changedRlimits(host, before, after));
  await changeIpc(host, guest, live, from, to);
}

async function changeIpc(
  host: Host,
  guest: Guest,
  live: LiveRecord,
  from: ContextLimits,
  to: ContextLimits,
): Promise<void> {
  const sysctls = ipcSysctlsBetween(from, to, host.abi.pageBytes);
  if (Object.keys(sysctls).length === 0) return;
  const p = host.program();
  planIpcSysctls(p, () => p.import(live.initObject), idRangeOf(guest.xid).hostBase, sysctls);
  await host.syscalld.run(`change limits of guest "${guest.name}"`, p);
}

/** Of a limit that goes away, processes keep what vserverd itself was given: they had that before. */
function changedRlimits(host: Host, before: GuestConfig, after: GuestConfig): readonly ProcessLimit[] {
  const [old, next] = [new Map(rlimitsOfCommand(before)), new Map(rlimitsOfCommand(after))];
  const names = new Set([...old.keys(), ...next.keys()]);
  return [...names].flatMap((name) => {
    const [was, is] = [old.get(name), next.get(name) ?? host.ownRlimit(name)];
    if (was?.soft === is.soft && was.hard === is.hard) return [];
    return [{ resource: rlimitNumber(host, name), ...is }];
  });
}

async function changeProcesses(
  host: Host,
  guest: Guest,
  live: LiveRecord,
  limits: readonly ProcessLimit[],
): Promise<void> {
  if (limits.length === 0) return;
  const done = new Set<number>();
  for (let pass = 0; pass < PASSES_MAX; pass++) {
    const found = host.cgroups.pids(guest.xid).flatMap((pid) => guestPidOf(pid) ?? []);
    const fresh = found.filter((pid) => !done.has(pid));
    if (fresh.length === 0) return;
    for (let at = 0; at < fresh.length; at += PIDS_BATCH) {
      await setLimits(host, guest, live, fresh.slice(at, at + PIDS_BATCH), limits);
    }
    for (const pid of fresh) done.add(pid);
  }
}

async function setLimits(
  host: Host,
  guest: Guest,
  live: LiveRecord,
  guestPids: readonly number[],
  limits: readonly ProcessLimit[],
): Promise<void> {
  const p = host.program();
  const object = host.syscalld.newObject();
  planProcessLimits(p, p.import(live.initObject), object, idRangeOf(guest.xid).hostBase, guestPids, limits);
  try {
    await host.syscalld.run(`change limits of guest "${guest.name}"`, p);
  } catch (error) {
    if (!(error instanceof StepError) || error.errnoName !== 'EPERM') throw error;
    throw new StateError(
      'limit-not-raised',
      `cannot raise limits of the processes of guest "${guest.name}": found vserver without CAP_SYS_RESOURCE; ` +
        'need that, or the guest stopped before',
      { cause: error },
    );
  } finally {
    host.syscalld.drop(object);
  }
}

/** A process's pid in its guest; undefined for one that has ended or is none of the guest's. */
function guestPidOf(pid: number): number | undefined {
  try {
    return parseProcStatus(readFileSync(`/proc/${pid}/status`, 'utf8')).nsPids[1];
  } catch (error) {
    if (error instanceof Error && 'code' in error && (error.code === 'ENOENT' || error.code === 'ESRCH'))
      return undefined;
    throw error;
  }
}
