/**
 * How often the processes of each guest have forked in its run. The kernel counts; the counter outlives vserverd, and
 * begins anew when syscalld dies.
 */
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { ForkCounter, type ForkCounterObjects } from '../resources/fork-counter.ts';
import { readIfThere, writeVolatile } from '../sys/files.ts';
import { type HeldObject, StepError } from '../sys/syscalld.ts';
import { OBJECT_KIND } from '../sys/wire.ts';
import { cgroupIdOf, instanceCgroupId } from './cgroup-ids.ts';
import { type Guest, isActive } from './guest.ts';
import { GUEST_LEVEL, type Host } from './host.ts';
import type { Registry } from './registry.ts';

/** Guests that have ended whose counts go in one program. */
const ENDED_MAX = 256;
/** How old counts may be for who reads on and on. */
const RECENT_MS = 500;

/** What `run/forks.json` holds. */
interface ForksRecord {
  readonly objects: ForkCounterObjects;
  /** A cgroup of another id is another instance's, also of the same name. */
  readonly instance: string;
}

/** Counts the forks of the guests of one instance. */
export class Forks {
  readonly #host: Host;
  readonly #registry: Registry;
  #counter: ForkCounter | undefined;
  readonly #ended: bigint[] = [];
  #looking: Promise<void> | undefined;
  #lookedAtMs = Number.NEGATIVE_INFINITY;
  #last: ReadonlyMap<bigint, number> = new Map();

  constructor(host: Host, registry: Registry) {
    this.#host = host;
    this.#registry = registry;
  }

  get #file(): string {
    return join(this.#host.paths.run, 'forks.json');
  }

  /** Goes on with the counter of a former vserverd. Returns its objects, if syscalld has them still. */
  recover(held: readonly HeldObject[]): readonly number[] {
    const text = readIfThere(this.#file);
    const record = text === undefined ? undefined : (JSON.parse(text) as ForksRecord); // our own file
    if (record?.instance !== String(instanceCgroupId(this.#host))) return [];
    const ids = Object.values(record.objects);
    const there = new Set(held.filter(({ kind }) => kind === OBJECT_KIND.fd).map(({ id }) => id));
    if (!ids.every((id) => there.has(id))) return [];
    this.#counter = new ForkCounter(this.#host.syscalld, record.objects);
    return ids;
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
    const record: ForksRecord = { objects: counter.objects, instance: String(instance) };
    writeVolatile(this.#file, JSON.stringify(record));
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
    if (performance.now() - this.#lookedAtMs > RECENT_MS)
      this.#looking ??= this.#look().finally(() => {
        this.#looking = undefined;
      });
    await this.#looking;
  }

  async #look(): Promise<void> {
    this.#last = (await this.#counter?.read()) ?? new Map();
    this.#lookedAtMs = performance.now();
  }

  /** Returns what was seen of a guest at the last look; undefined: nobody counts. */
  last(guest: Guest): number | undefined {
    return this.#counter && (this.#last.get(cgroupIdOf(this.#host, guest)) ?? 0);
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
    rmSync(this.#file, { force: true });
  }
}
