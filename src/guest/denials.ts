/**
 * Tells of guests whose network refused them something: at most one event of a guest in ten seconds, with how often and why.
 * The fence says when there is something to tell; nobody looks before.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { isXid } from '../base/ids.ts';
import type { Fence } from '../network/fence.ts';
import type { Denial, DenialReason } from '../network/rules.ts';
import { isActive } from './guest.ts';
import type { Host } from './host.ts';
import type { Registry } from './registry.ts';

/** What comes at once is told as one. */
const GATHER_MS = 500;
const PAUSE_MS = 10_000;

/** Tells of the guests of one instance. */
export class DenialEvents {
  readonly #host: Host;
  readonly #registry: Registry;
  /** What has been told of, by network context and all that tells denials apart. */
  #told: ReadonlyMap<string, number> = new Map();
  #isWatching = false;
  #isClosed = false;
  /** Told of failures that no caller waits for. */
  onFailure: (what: string, error: unknown) => void = () => {};

  constructor(host: Host, registry: Registry) {
    this.#host = host;
    this.#registry = registry;
  }

  /**
   * There is a fence: what it denies from now on is told.
   *
   * @param isNew it has denied nothing yet; otherwise what it has was told, or happened while nobody was there
   */
  begin(fence: Fence, isNew: boolean): void {
    if (this.#isWatching || this.#isClosed) return;
    this.#isWatching = true;
    void this.#watch(fence, isNew)
      .catch((error: unknown) => {
        if (!this.#isClosed) this.onFailure('tell of denials', error);
      })
      .finally(() => {
        this.#isWatching = false;
      });
  }

  /** Nobody is told any more. */
  close(): void {
    this.#isClosed = true;
  }

  async #watch(fence: Fence, isNew: boolean): Promise<void> {
    if (!isNew) this.#told = countsOf(await fence.readDenials());
    while (!this.#isClosed) {
      await fence.waitForDenial();
      await sleep(GATHER_MS, undefined, { ref: false });
      if (this.#isClosed) return;
      await fence.resetAlarm();
      this.#tell(await fence.readDenials());
      await sleep(PAUSE_MS, undefined, { ref: false });
    }
  }

  #tell(denials: readonly Denial[]): void {
    const fresh = new Map<number, Map<DenialReason, number>>();
    for (const denial of denials) {
      const told = this.#told.get(keyOf(denial)) ?? 0;
      // The fence may have forgotten it and begun anew.
      const count = denial.count < told ? denial.count : denial.count - told;
      if (count === 0) continue;
      const reasons = fresh.get(denial.nid) ?? new Map<DenialReason, number>();
      reasons.set(denial.reason, (reasons.get(denial.reason) ?? 0) + count);
      fresh.set(denial.nid, reasons);
    }
    this.#told = countsOf(denials);
    for (const [nid, reasons] of fresh) {
      const guest = isXid(nid) ? this.#registry.numbered(nid) : undefined; // whose network it is
      if (!guest || !isActive(guest)) continue;
      const count = [...reasons.values()].reduce((sum, one) => sum + one, 0);
      this.#host.events.publish(guest, 'network.denied', { count, reasons: Object.fromEntries(reasons) });
    }
  }
}

function countsOf(denials: readonly Denial[]): ReadonlyMap<string, number> {
  return new Map(denials.map((denial) => [keyOf(denial), denial.count]));
}

function keyOf({ nid, reason, direction, protocol, address, port }: Denial): string {
  return [nid, reason, direction, protocol, address, port].join(' ');
}
