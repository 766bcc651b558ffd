/**
 * The load averages of guests: all are sampled in one pass, every five seconds for as long as anybody asks.
 */
import type { Xid } from '../base/ids.ts';
import { TaskCounts } from '../resources/task-counts.ts';
import { type LoadAverages, nextLoad } from '../views/load.ts';
import type { LoadSample } from '../views/sample.ts';
import { cgroupIdOf, instanceCgroupId } from './cgroup-ids.ts';
import { type Guest, isActive } from './guest.ts';
import type { Host } from './host.ts';
import type { Registry } from './registry.ts';

const SAMPLE_MS = 5000;
/** As long as the longest average: whoever asks later starts anew. */
const IDLE_MS = 15 * 60_000;

interface Known {
  /** Of the run it is about. */
  readonly initPid: number;
  readonly atMs: number;
  readonly sample: LoadSample;
}

/** Keeps the load averages of one instance's guests. */
export class Loads {
  readonly #host: Host;
  readonly #registry: Registry;
  readonly #counts: TaskCounts;
  readonly #known = new Map<Xid, Known>();
  #sampling: Promise<void> | undefined;
  #sampledAtMs = Number.NEGATIVE_INFINITY;
  #askedAtMs = 0;
  #timer: NodeJS.Timeout | undefined;

  constructor(host: Host, registry: Registry, guestLevel: number) {
    this.#host = host;
    this.#registry = registry;
    this.#counts = new TaskCounts(host.syscalld, guestLevel);
  }

  /**
   * Returns a guest's load, at most five seconds old. The first one that is asked for takes the guest to have been as busy
   * since its start as it is now.
   *
   * @throws StateError no-kernel-types; StepError
   */
  async of(guest: Guest): Promise<LoadSample> {
    this.#askedAtMs = Date.now();
    this.#timer ??= setInterval(() => this.#tick(), SAMPLE_MS).unref();
    if (this.last(guest) === undefined || Date.now() - this.#sampledAtMs > SAMPLE_MS) await this.#sample();
    return this.last(guest) ?? { averages: [0, 0, 0], running: 0, blocked: 0, total: 0 };
  }

  /** Returns what is known of a guest's load without looking; undefined: nothing. */
  last({ xid, live }: Guest): LoadSample | undefined {
    const known = this.#known.get(xid);
    return known && known.initPid === live?.initPid ? known.sample : undefined;
  }

  #tick(): void {
    const isWanted = Date.now() - this.#askedAtMs < IDLE_MS && this.#registry.list().some(isActive);
    if (isWanted) {
      void this.#sample().catch(() => {}); // the next who asks is told
      return;
    }
    clearInterval(this.#timer);
    this.#timer = undefined;
    this.#known.clear();
  }

  async #sample(): Promise<void> {
    this.#sampling ??= this.#sampleAll().finally(() => {
      this.#sampling = undefined;
    });
    await this.#sampling;
  }

  async #sampleAll(): Promise<void> {
    const guests = this.#registry.list().filter(isActive).length;
    const counts = await this.#counts.sample(instanceCgroupId(this.#host), guests);
    const nowMs = Date.now();
    for (const guest of this.#registry.list()) {
      const { xid, live } = guest;
      if (!live || !isActive(guest)) {
        this.#known.delete(xid);
        continue;
      }
      const known = this.#known.get(xid);
      const before = known?.initPid === live.initPid ? known : undefined;
      const count = counts.get(cgroupIdOf(this.#host, guest));
      const { running, blocked, total } = count ?? { running: 0, blocked: 0, total: 0 };
      const seconds = Math.max(0, nowMs - (before?.atMs ?? Date.parse(live.startedAt))) / 1000;
      const averages: LoadAverages = nextLoad(before?.sample.averages, running + blocked, seconds);
      // Its broker is below its cgroup, and none of its tasks.
      const brokers = [live.broker?.process, live.broker?.rawMaker].filter(Boolean).length;
      const own = Math.max(0, total - brokers);
      const sample = { averages, running, blocked, total: own };
      this.#known.set(xid, { initPid: live.initPid, atMs: nowMs, sample });
    }
    this.#sampledAtMs = nowMs;
  }
}
