/**
 * The traffic quotas of guests: the fence counts and keeps them; here their days and months are known, what was spent is
 * kept from run to run, and it is told when one is used up.
 *
 *     lib/guests/NAME/quota.json      of guests that stay: written when a run ends, when the quota is used up or renewed, and
 *                                     each minute in between, so that a sudden end of the host forgets no more than that
 */
import { isDeepStrictEqual } from 'node:util';
import type { Fence } from '../network/fence.ts';
import type { Spent, TrafficQuota } from '../network/rules.ts';
import { readIfThere, writeDurable, writeVolatile } from '../sys/files.ts';
import type { GuestQuota } from './config-types.ts';
import { configOf, type Guest } from './guest.ts';
import type { Host } from './host.ts';
import { guestPaths } from './paths.ts';
import { fencePeriod, periodsAt } from './quota-period.ts';

/** How late an event may be. */
const TICK_MS = 5000;
const SAVE_MS = 60_000;

/** What is known of a guest's quota. */
export interface QuotaState {
  /** Number of the period. */
  readonly period: number;
  readonly bytes: number;
  /** It was told that it is used up. */
  readonly isReached: boolean;
}

/** A guest's quota, as it is shown. */
export interface QuotaView {
  readonly limitBytes: number;
  readonly usedBytes: number;
  readonly per: GuestQuota['per'];
  readonly direction: GuestQuota['direction'];
  readonly above: GuestQuota['above'];
  /** When the next period begins, RFC 3339. */
  readonly until: string;
}

interface Kept {
  readonly guest: Guest;
  state: QuotaState;
  /** The period that the fence was told of. */
  inFence: number;
  /** As it is in the file. */
  saved: QuotaState | undefined;
  savedMs: number;
}

/** Keeps the quotas of the networks that are up. */
export class Quotas {
  readonly #host: Host;
  /** Sets the quota of a guest in the fence anew. */
  readonly #renew: (guest: Guest) => Promise<void>;
  /** By number of the network context. */
  readonly #kept = new Map<number, Kept>();
  #timer: NodeJS.Timeout | undefined;
  /** Told of failures that no caller waits for. */
  onFailure: (what: string, error: unknown) => void = () => {};

  constructor(host: Host, renew: (guest: Guest) => Promise<void>) {
    this.#host = host;
    this.#renew = renew;
  }

  /** What a guest has spent before, for the fence to go on with; undefined: nothing in the period it is now. */
  spentBefore(guest: Guest): Spent | undefined {
    return this.#kept.get(guest.xid)?.state ?? this.#read(guest);
  }

  /** The network of a guest is up, or has another configuration. */
  opened(guest: Guest, quota: GuestQuota | undefined, fence: Fence): void {
    if (quota === undefined) {
      this.#kept.delete(guest.xid);
      return;
    }
    const saved = this.#read(guest);
    const state = saved ?? { period: currentPeriod(quota), bytes: 0, isReached: false };
    const inFence = currentPeriod(quota);
    if (!this.#kept.has(guest.xid))
      this.#kept.set(guest.xid, { guest, state, inFence, saved, savedMs: Date.now() });
    this.#timer ??= setInterval(() => void this.#tick(fence), TICK_MS).unref();
  }

  /** The network of a guest ends: what it has spent is in the file when this resolves. */
  async closing(xid: number, fence: Fence): Promise<void> {
    const kept = this.#kept.get(xid);
    if (!kept) return;
    this.#look(kept, (await fence.readSpent()).get(xid));
    this.#kept.delete(xid);
    this.#save(kept, true);
    if (this.#kept.size === 0) this.close();
  }

  /** Looks no more. */
  close(): void {
    clearInterval(this.#timer);
    this.#timer = undefined;
  }

  /** Returns a guest's quota with what it has used of it; undefined without one. */
  async view(guest: Guest, fence: () => Promise<Fence>): Promise<QuotaView | undefined> {
    const { quota } = configOf(guest).network;
    if (quota === undefined) return undefined;
    const kept = this.#kept.get(guest.xid);
    if (kept) this.#look(kept, (await (await fence()).readSpent()).get(guest.xid));
    const state = kept?.state ?? this.#read(guest);
    const { numbers, starts } = periodsAt(quota.per, new Date());
    return {
      limitBytes: quota.bytes,
      usedBytes: state !== undefined && state.period >= numbers[0] ? state.bytes : 0,
      per: quota.per,
      direction: quota.direction,
      above: quota.above,
      until: starts[0].toISOString(),
    };
  }

  async #tick(fence: Fence): Promise<void> {
    try {
      const spent = await fence.readSpent();
      for (const [nid, kept] of this.#kept) {
        const { quota } = configOf(kept.guest).network;
        const before = kept.state;
        this.#look(kept, spent.get(nid));
        if (quota === undefined) continue;
        // Of the two ends that the fence knows one is past.
        if (kept.inFence !== currentPeriod(quota)) {
          kept.inFence = currentPeriod(quota);
          await this.#renew(kept.guest);
        }
        const isTold = kept.state.isReached !== before.isReached;
        if (isTold || Date.now() - kept.savedMs >= SAVE_MS) this.#save(kept, isTold);
      }
    } catch (error) {
      this.onFailure('look at the quotas of guests', error);
    }
  }

  /** Takes over what the fence has counted, and tells when that is the whole quota, and when there is a new one. */
  #look(kept: Kept, spent: Spent | undefined): void {
    const { quota } = configOf(kept.guest).network;
    if (quota === undefined) return;
    const before = kept.state;
    const known = spent !== undefined && spent.period >= before.period ? spent : before;
    const current = currentPeriod(quota);
    const { period, bytes } = known.period >= current ? known : { period: current, bytes: 0 };
    const isReached = bytes >= quota.bytes;
    const isNew = period > before.period;
    kept.state = { period, bytes, isReached };
    const { events } = this.#host;
    if (isNew && before.isReached) events.publish(kept.guest, 'quota.renewed', detailsOf(quota));
    if (isReached && (isNew || !before.isReached))
      events.publish(kept.guest, 'quota.reached', detailsOf(quota));
  }

  #save(kept: Kept, isUrgent: boolean): void {
    kept.savedMs = Date.now();
    if (kept.guest.isEphemeral || isDeepStrictEqual(kept.saved, kept.state)) return;
    kept.saved = kept.state;
    const write = isUrgent ? writeDurable : writeVolatile;
    write(guestPaths(this.#host.paths, kept.guest.name).quota, JSON.stringify(kept.state));
  }

  #read(guest: Guest): QuotaState | undefined {
    if (guest.isEphemeral) return undefined;
    const text = readIfThere(guestPaths(this.#host.paths, guest.name).quota);
    return text === undefined ? undefined : (JSON.parse(text) as QuotaState); // our own file
  }
}

/** Returns a quota as the fence takes it. */
export function quotaRules(quota: GuestQuota): TrafficQuota {
  const now = new Date();
  return {
    limitBytes: quota.bytes,
    direction: quota.direction,
    above: quota.above,
    period: fencePeriod(periodsAt(quota.per, now), now),
    ...(quota.slowBytesPerSecond === undefined ? {} : { slowBytesPerSecond: quota.slowBytesPerSecond }),
  };
}

function currentPeriod({ per }: GuestQuota): number {
  return periodsAt(per, new Date()).numbers[0];
}

function detailsOf(quota: GuestQuota): {
  readonly limitBytes: number;
  readonly per: GuestQuota['per'];
  readonly above: GuestQuota['above'];
  readonly until: string;
} {
  const { starts } = periodsAt(quota.per, new Date());
  return { limitBytes: quota.bytes, per: quota.per, above: quota.above, until: starts[0].toISOString() };
}
