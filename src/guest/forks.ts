/**
 * How often the processes of each guest have forked in its run. The kernel counts; the counter outlives vserverd, and
 * begins anew when syscalld dies.
 */
import { Recent } from '../base/recent.ts';
import { ForkCounter, type ForkCounterObjects } from '../resources/fork-counter.ts';
import { type HeldObject, StepError } from '../sys/syscalld.ts';
import { cgroupIdOf, instanceCgroupId } from './cgroup-ids.ts';
import { type Guest, isActive } from './guest.ts';
import { GUEST_LEVEL, type Host } from './host.ts';
import { KeptObjects } from './kept-objects.ts';
import type { Registry } from './registry.ts';

/** Guests that have ended whose counts go in one program. */
const ENDED_MAX = 256;
/** How old counts may be for who reads on and on. */
const RECENT_MS = 500;

/** Counts the forks of the guests of one instance. */
export class Forks {
  readonly #host: Host;
  readonly #registry: Registry;
  readonly #kept: KeptObjects<ForkCounterObjects>;
  readonly #recent = new Recent(
    RECENT_MS,
    async () => (await this.#counter?.read()) ?? new Map<bigint, number>(),
  );
  readonly #ended: bigint[] = [];
  #counter: ForkCounter | undefined;

  constructor(host: Host, registry: Registry) {
    this.#host = host;
    this.#registry = registry;
    this.#kept = new KeptObjects(host, 'forks.json');
  }

  /** Goes on with the counter of a former vserverd. Returns its objects, if syscalld has them still. */
  recover(held: readonly HeldObject[]): readonly number[] {
    const objects = this.#kept.find(held);
    if (objects === undefined) return [];
    this.#counter = new ForkCounter(this.#host.syscalld, objects);
    return Object.values(objects);
  }

  /** Counts from now on; where the kernel cannot, `check` says why. Called while no guest is being started. */
  async prepare(): Promise<void> {
    try {
      if (this.#counter) await this.#sweep(this.#counter);
      else this.#counter = await this.#make();
    } catch (error) {
      if (!(error instanceof StepError)) throw error;
      this.#host.forksMissing = error.message;
    }
  }

  async #make(): Promise<ForkCounter> {
    const instance = instanceCgroupId(this.#host);
    const counter = await ForkCounter.make(this.#host.syscalld, instance, GUEST_LEVEL);
    this.#kept.remember(counter.objects);
    return counter;
  }

  /** Guests may have ended while nobody was there. */
  async #sweep(counter: ForkCounter): Promise<void> {
    const guests = this.#registry.list().filter(isActive);
    const running = new Set(guests.map((guest) => cgroupIdOf(this.#host, guest)));
    await counter.forget([...(await counter.read()).keys()].filter((id) => !running.has(id)));
  }

  /** Returns the forks of guests by their numbers; those that nobody counts are left out. */
  async counts(guests: readonly Guest[]): Promise<ReadonlyMap<number, number>> {
    if (this.#counter === undefined || guests.length === 0) return new Map();
    const counts = await this.#counter.read();
    return new Map(guests.map((guest) => [guest.xid, counts.get(cgroupIdOf(this.#host, guest)) ?? 0]));
  }

  /** Looks how often guests have forked, unless somebody did so in the last half second. @throws StepError */
  async look(): Promise<void> {
    await this.#recent.refresh();
  }

  /** Returns what was seen of a guest at the last look; undefined: nobody counts. */
  last(guest: Guest): number | undefined {
    return this.#counter && (this.#recent.last?.get(cgroupIdOf(this.#host, guest)) ?? 0);
  }

  /** A guest has ended, its cgroup is still there. */
  async end(guest: Guest): Promise<void> {
    this.#ended.push(cgroupIdOf(this.#host, guest));
    if (this.#ended.length >= ENDED_MAX) await this.#counter?.forget(this.#ended.splice(0));
  }

  /** Ends to count if no guest runs; else goes on, for the next vserverd. */
  close(): void {
    if (this.#registry.list().some(isActive)) return;
    this.#counter?.close();
    this.#kept.forget();
  }
}
