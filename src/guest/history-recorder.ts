/**
 * Looks at all running guests again and again, and writes what they have used into the history.
 */
import { join } from 'node:path';
import { setImmediate as pause } from 'node:timers/promises';
import { StateError } from '../base/errors.ts';
import type { NetworkCounters, Traffic } from '../network/rules.ts';
import { History, type HistoryRow, type HistorySample } from '../resources/history.ts';
import { uptimeMs } from './accounting.ts';
import { type Guest, isActive } from './guest.ts';
import type { Host } from './host.ts';
import type { Manager } from './manager.ts';

const INTERVAL_MS = { min: 10_000, max: 60_000 } as const;
/** A pass may take a thousandth of the time until the next. */
const SHARE_OF_CPU = 1 / 1000;
/** Guests looked at in one go: who comes meanwhile waits a millisecond or two. */
const CHUNK = 25;

/** What is read of all guests at once. */
interface Counts {
  readonly traffic: ReadonlyMap<number, NetworkCounters>;
  readonly forks: ReadonlyMap<number, number>;
}

/** Where what guests use is read. */
type AccountedParts = Pick<Manager, 'registry' | 'networks' | 'forks' | 'limitHits'>;

/** Records what the guests of an instance use. */
export class HistoryRecorder {
  readonly #host: Host;
  readonly #parts: AccountedParts;
  readonly #history: History;
  #timer: NodeJS.Timeout | undefined;
  #pass: Promise<void> | undefined;
  #isClosed = false;

  constructor(host: Host, parts: AccountedParts) {
    this.#host = host;
    this.#parts = parts;
    this.#history = new History(join(host.paths.lib, 'accounting.db'));
  }

  /** Told of a pass that failed; the next one is tried all the same. */
  onFailure: (error: unknown) => void = () => {};

  /** Begins to look at the guests. */
  start(): void {
    this.#schedule(INTERVAL_MS.min);
  }

  #schedule(delayMs: number): void {
    if (this.#isClosed) return;
    this.#timer = setTimeout(() => {
      const before = process.cpuUsage();
      void this.record()
        .catch((error: unknown) => this.onFailure(error))
        .finally(() => {
          const { user, system } = process.cpuUsage(before);
          const costMs = (user + system) / 1000;
          this.#schedule(Math.min(INTERVAL_MS.max, Math.max(INTERVAL_MS.min, costMs / SHARE_OF_CPU)));
        });
    }, delayMs).unref();
  }

  /** Looks at all running guests now, and writes what they have used; does nothing when none runs. */
  async record(): Promise<void> {
    this.#pass ??= this.#record().finally(() => {
      this.#pass = undefined;
    });
    await this.#pass;
  }

  async #record(): Promise<void> {
    const { registry, networks, forks, limitHits } = this.#parts;
    const guests = registry.list().filter(isActive);
    if (guests.length === 0) return;
    const counts = { traffic: await networks.allTraffic(), forks: await forks.counts(guests) };
    await limitHits.look(guests);
    const rows: HistoryRow[] = [];
    for (let at = 0; at < guests.length; at += CHUNK) {
      rows.push(...guests.slice(at, at + CHUNK).flatMap((guest) => this.#row(guest, counts)));
      await pause();
    }
    await this.#history.write(Math.floor(Date.now() / 1000), rows);
  }

  #row(guest: Guest, counts: Counts): readonly HistoryRow[] {
    const nid = guest.live?.network?.nid;
    const counters = nid === undefined ? undefined : counts.traffic.get(nid);
    try {
      const sample = this.#host.cgroups.sample(guest.xid);
      return [
        {
          guest: guest.name,
          uptimeSeconds: Math.floor(uptimeMs(guest) / 1000),
          cpuUserUs: sample.cpuUserUs ?? 0,
          cpuSystemUs: sample.cpuSystemUs ?? 0,
          residentBytes: sample.residentBytes ?? 0,
          tasks: sample.pids ?? 0,
          receivedBytes: counters ? sumOf(counters, ({ received }) => received) : null,
          sentBytes: counters ? sumOf(counters, ({ sent }) => sent) : null,
          forks: counts.forks.get(guest.xid) ?? null,
        },
      ];
    } catch (error) {
      if (error instanceof StateError && error.code === 'cgroup-missing') return []; // it has just ended
      throw error;
    }
  }

  /** Reads samples since a time, that of now included; `names`: only of these guests. */
  async read(since: number, names?: readonly string[]): Promise<readonly HistorySample[]> {
    await this.record();
    return await this.#history.read(since, names);
  }

  /** Writes a last pass, and closes the history. */
  async close(): Promise<void> {
    this.#isClosed = true;
    clearTimeout(this.#timer);
    await this.record();
    this.#history.close();
  }
}

function sumOf(counters: NetworkCounters, part: (kind: NetworkCounters['tcp4']) => Traffic): number {
  return Object.values(counters).reduce((sum, kind) => sum + part(kind).bytes, 0);
}
