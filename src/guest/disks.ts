/**
 * What guests read from disks and write to them where the kernel does not count it, on cgroup v1: counted from the first
 * time that anybody asks. The counter outlives vserverd, and begins anew when syscalld dies.
 */
import { Recent } from '../base/recent.ts';
import { DiskCounter, type DiskCounterObjects } from '../resources/disk-counter.ts';
import type { DiskReading } from '../resources/readings.ts';
import type { HeldObject } from '../sys/syscalld.ts';
import { cgroupIdOf, instanceCgroupId } from './cgroup-ids.ts';
import { type Guest, isActive } from './guest.ts';
import { GUEST_LEVEL, type Host } from './host.ts';
import { KeptObjects } from './kept-objects.ts';
import type { Registry } from './registry.ts';

/** How old counts may be: all are read at once, and a guest's text holds longer. */
const RECENT_MS = 50;

/** Counts for the guests of one instance. */
export class Disks {
  readonly #host: Host;
  readonly #registry: Registry;
  readonly #kept: KeptObjects<DiskCounterObjects>;
  readonly #recent = new Recent(RECENT_MS, async () => await (await this.#counting()).read());
  /** What failed once is not tried again and again, while guests ask. */
  #counter: Promise<DiskCounter> | undefined;

  constructor(host: Host, registry: Registry) {
    this.#host = host;
    this.#registry = registry;
    this.#kept = new KeptObjects(host, 'disks.json');
  }

  /** Goes on with the counter of a former vserverd. Returns its objects, if syscalld has them still. */
  recover(held: readonly HeldObject[]): readonly number[] {
    const objects = this.#kept.find(held);
    if (objects === undefined) return [];
    this.#counter = Promise.resolve(new DiskCounter(this.#host.syscalld, objects));
    return Object.values(objects);
  }

  /** Looks what guests have read and written, unless somebody just did. @throws StateError no-kernel-types; StepError */
  async look(): Promise<void> {
    await this.#recent.refresh();
  }

  /** Returns what was seen of a guest at the last look, by major:minor. */
  last(guest: Guest): ReadonlyMap<string, DiskReading> {
    return this.#recent.last?.get(cgroupIdOf(this.#host, guest)) ?? new Map<string, DiskReading>();
  }

  async #counting(): Promise<DiskCounter> {
    this.#counter ??= DiskCounter.make(this.#host.syscalld, instanceCgroupId(this.#host), GUEST_LEVEL).then(
      (counter) => {
        this.#kept.remember(counter.objects);
        return counter;
      },
    );
    return await this.#counter;
  }

  /** Ends to count if no guest runs; else goes on, for the next vserverd. */
  async close(): Promise<void> {
    if (this.#registry.list().some(isActive)) return;
    const counter = await this.#counter?.catch(() => undefined);
    counter?.close();
    this.#kept.forget();
  }
}
