/**
 * What guests use: a row of `vserver stat` for each, read from as few files as can be, and all that is known of one.
 */
import { readFileSync } from 'node:fs';
import { StateError } from '../base/errors.ts';
import type { NetworkCounters } from '../network/rules.ts';
import type { Usage } from '../resources/limits.ts';
import { HOST_NAME, type StatRow } from '../spec/vserver-stat.ts';
import { bootTimeSeconds, TICKS_PER_SECOND } from '../sys/process.ts';
import { allPids, type ProcessTotals, totalsOf, virtualPagesOf } from '../sys/process-totals.ts';
import { type Guest, isActive, startTicksOf } from './guest.ts';
import type { Host } from './host.ts';

/** A row of `vserver stat`, and what is shown beside it. */
export interface GuestStat extends StatRow {
  /** Threads too. */
  readonly tasks: number;
}

/** Reads a row for each running guest, by xid. One that ends meanwhile is left out. */
export function statGuests(host: Host, guests: readonly Guest[]): readonly GuestStat[] {
  const pass = new Pass(host);
  return pass.rows(guests);
}

/** Reads a row for the host, which has all that is in no guest, and one for each running guest. */
export function statAll(host: Host, guests: readonly Guest[]): readonly GuestStat[] {
  const pass = new Pass(host);
  const rows = pass.rows(guests);
  return [pass.hostRow(rows), ...rows];
}

/** One look at all guests. */
class Pass {
  readonly #host: Host;
  readonly #guestPids = new Set<number>();

  constructor(host: Host) {
    this.#host = host;
  }

  rows(guests: readonly Guest[]): readonly GuestStat[] {
    return guests
      .filter(isActive)
      .flatMap((guest) => this.#row(guest) ?? [])
      .toSorted((a, b) => a.xid - b.xid);
  }

  #row(guest: Guest): GuestStat | undefined {
    const { cgroups } = this.#host;
    const sample = unlessGone(() => cgroups.sample(guest.xid));
    if (sample === undefined) return undefined;
    const pids = cgroups.pids(guest.xid);
    for (const pid of pids) this.#guestPids.add(pid);
    return {
      xid: guest.xid,
      processes: pids.length,
      tasks: sample.pids ?? pids.length,
      virtualBytes: virtualPagesOf(pids) * this.#host.abi.pageBytes,
      residentBytes: sample.residentBytes ?? 0,
      userMs: Math.floor((sample.cpuUserUs ?? 0) / 1000),
      systemMs: Math.floor((sample.cpuSystemUs ?? 0) / 1000),
      uptimeMs: uptimeMs(guest),
      name: guest.name,
    };
  }

  hostRow(guests: readonly GuestStat[]): GuestStat {
    const pids = allPids().filter((pid) => !this.#guestPids.has(pid));
    const { userUs, systemUs } = this.#host.cgroups.readHostCpu();
    const residentBytes = guests.reduce((sum, one) => sum - one.residentBytes, machineResidentBytes());
    return {
      xid: 0,
      processes: pids.length,
      tasks: guests.reduce((sum, one) => sum - one.tasks, machineTasks()),
      virtualBytes: virtualPagesOf(pids) * this.#host.abi.pageBytes,
      residentBytes: Math.max(0, residentBytes),
      userMs: Math.floor(userUs / 1000),
      systemMs: Math.floor(systemUs / 1000),
      uptimeMs: Math.floor(bootTimeSeconds() * 1000),
      name: HOST_NAME,
    };
  }
}

/** Milliseconds since a guest was started; 0 when nobody saw that. */
export function uptimeMs({ live }: Pick<Guest, 'live'>): number {
  const startTicks = live === undefined ? -1 : startTicksOf(live);
  if (startTicks < 0) return 0;
  return Math.max(0, Math.floor((bootTimeSeconds() - startTicks / TICKS_PER_SECOND) * 1000));
}

/** Anonymous memory and mapped files of the whole machine, as the cgroups of guests count theirs. */
function machineResidentBytes(): number {
  const text = readFileSync('/proc/meminfo', 'utf8');
  const bytes = (name: string): number =>
    Number(new RegExp(`^${name}: +(\\d+) kB$`, 'm').exec(text)?.[1] ?? 0) * 1024;
  return bytes('AnonPages') + bytes('Mapped');
}

/** /proc/loadavg: three loads, then runnable and all tasks as `2/345`. */
function machineTasks(): number {
  return Number(/\/(\d+)/.exec(readFileSync('/proc/loadavg', 'utf8'))?.[1] ?? 0);
}

/** All that is known of what one running guest uses. */
export interface GuestAccount {
  readonly row: GuestStat;
  readonly usage: Usage;
  readonly processes: ProcessTotals;
  /** Of its network context, which it may share; undefined without addresses of its own. */
  readonly traffic: NetworkCounters | undefined;
  /** Threads too; undefined where nobody counts them. */
  readonly forks: number | undefined;
}

/** Reads all that is known of each running guest. One that ends meanwhile is left out. */
export function accountGuests(
  host: Host,
  guests: readonly Guest[],
  traffic: ReadonlyMap<number, NetworkCounters>,
  forks: ReadonlyMap<number, number>,
): readonly GuestAccount[] {
  const byXid = new Map(guests.map((guest) => [guest.xid as number, guest]));
  return statGuests(host, guests).flatMap((row) => {
    const guest = byXid.get(row.xid);
    const usage = guest && unlessGone(() => host.cgroups.read(guest.xid));
    if (guest === undefined || usage === undefined) return [];
    const nid = guest.live?.network?.nid;
    return {
      row,
      usage,
      processes: totalsOf(host.cgroups.pids(guest.xid)),
      traffic: nid === undefined ? undefined : traffic.get(nid),
      forks: forks.get(guest.xid),
    };
  });
}

/** Returns what was looked at; undefined: the guest has just ended. */
export function unlessGone<T>(look: () => T): T | undefined {
  try {
    return look();
  } catch (error) {
    if (error instanceof StateError && error.code === 'cgroup-missing') return undefined;
    throw error;
  }
}
