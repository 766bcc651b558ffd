/**
 * Tells when guests meet their limits. Nobody looks from time to time at what the kernel tells of: inotify says that
 * `pids.events`, on both versions of cgroups, or `memory.events` has changed (kernfs_notify(), fs/kernfs/file.c, Linux 4.3
 * and 4.5). What it does not tell of, memory on version 1 and sockets, is looked at with the accounting of all guests.
 *
 * A guest that meets a limit all the time is told of less and less often.
 */
import { type FSWatcher, watch } from 'node:fs';
import type { LimitedResource } from '../api/events.ts';
import type { LimitHit } from '../resources/cgroup-driver.ts';
import { type Guest, isActive, type LiveRecord } from './guest.ts';
import { isFenced } from './guest-limits.ts';
import type { Host } from './host.ts';
import type { Networks } from './networks.ts';

/** Guests that end before are not watched: they are looked at in the end. */
const WATCH_DELAY_MS = 1000;
/** Hits that come close together are one event. */
const COLLECT_MS = 100;
/** Until the next event of the same guest and resource; doubled with each, and from the start when it was quiet as long. */
const PAUSE_MS = { min: 10_000, max: 3_600_000 } as const;

/** What was told of one resource. */
interface Told {
  atMs: number;
  pauseMs: number;
}

/** A guest that is watched. */
interface Watch {
  readonly initObject: number;
  readonly resources: readonly LimitHit['resource'][];
  readonly watchers: readonly FSWatcher[];
  readonly told: Map<LimitedResource, Told>;
  timer: NodeJS.Timeout | undefined;
}

/** Tells of the limits that guests of one instance meet. */
export class LimitHits {
  readonly #host: Host;
  readonly #networks: Networks;
  readonly #remember: (guest: Guest, live: LiveRecord) => void;
  readonly #watches = new Map<Guest, Watch>();
  readonly #fresh = new Set<Guest>();
  #timer: NodeJS.Timeout | undefined;

  constructor(host: Host, networks: Networks, remember: (guest: Guest, live: LiveRecord) => void) {
    this.#host = host;
    this.#networks = networks;
    this.#remember = remember;
  }

  /** A guest runs, or its limits may be others now. */
  begin(guest: Guest): void {
    this.#fresh.add(guest);
    this.#timer ??= setTimeout(() => {
      this.#timer = undefined;
      for (const one of this.#fresh) if (isActive(one)) this.#watch(one);
      this.#fresh.clear();
    }, WATCH_DELAY_MS).unref();
  }

  /** A guest has ended, its cgroup is still there. */
  end(guest: Guest): void {
    this.#fresh.delete(guest);
    this.#forget(guest);
    for (const { resource, count } of this.#hitsOf(guest)) this.#tell(guest, resource, count);
  }

  /** Nobody is told any more. */
  close(): void {
    clearTimeout(this.#timer);
    for (const guest of this.#watches.keys()) this.#forget(guest);
  }

  /** Looks at what the kernel does not tell of. */
  async look(guests: readonly Guest[]): Promise<void> {
    for (const guest of guests) {
      const files = this.#host.cgroups.limitFiles(guest.xid);
      if (limitedResources(guest).some((resource) => files[resource] === undefined)) this.#take(guest);
    }
    const limited = guests.filter(
      ({ live }) => live && isFenced(live.config.network) && live.config.limits.context.sockets !== undefined,
    );
    if (limited.length === 0) return;
    const sockets = await this.#networks.allSockets();
    for (const guest of limited) {
      const usage = sockets.get(guest.xid);
      if (usage && isActive(guest)) this.#tellUnlessPaused(guest, 'sockets', usage.refused);
    }
  }

  #watch(guest: Guest): void {
    const { live } = guest;
    if (!live) return;
    const resources = limitedResources(guest);
    const present = this.#watches.get(guest);
    if (present?.initObject === live.initObject && present.resources.join() === resources.join()) return;
    this.#forget(guest);
    const files = this.#host.cgroups.limitFiles(guest.xid);
    const watchers = resources.flatMap((resource) => {
      const file = files[resource];
      return (file === undefined ? undefined : watchFile(file, () => this.#changed(guest))) ?? [];
    });
    const { initObject } = live;
    this.#watches.set(guest, { initObject, resources, watchers, told: new Map(), timer: undefined });
    this.#take(guest);
  }

  #forget(guest: Guest): void {
    const present = this.#watches.get(guest);
    clearTimeout(present?.timer);
    for (const watcher of present?.watchers ?? []) watcher.close();
    this.#watches.delete(guest);
  }

  #changed(guest: Guest, delayMs: number = COLLECT_MS): void {
    const present = this.#watches.get(guest);
    if (present === undefined) return;
    present.timer ??= setTimeout(() => {
      present.timer = undefined;
      if (isActive(guest)) this.#take(guest);
    }, delayMs).unref();
  }

  /** Tells what has not been told, and looks again when the time has come for what must wait. */
  #take(guest: Guest): void {
    for (const { resource, count } of this.#hitsOf(guest)) {
      const waitMs = this.#tellUnlessPaused(guest, resource, count);
      if (waitMs > 0) this.#changed(guest, waitMs);
    }
  }

  #hitsOf(guest: Guest): readonly LimitHit[] {
    return this.#host.cgroups.limitHits(guest.xid, limitedResources(guest));
  }

  /** Returns how long it has to wait until it may be told; 0: it is told, or nothing is new. */
  #tellUnlessPaused(guest: Guest, resource: LimitedResource, count: number): number {
    const told = this.#watches.get(guest)?.told;
    const nowMs = performance.now();
    const before = told?.get(resource);
    if (count <= (guest.live?.limitHits?.[resource] ?? 0)) return 0;
    const passedMs = nowMs - (before?.atMs ?? Number.NEGATIVE_INFINITY);
    if (before && passedMs < before.pauseMs) return before.pauseMs - passedMs;
    const isQuiet = before === undefined || passedMs > 2 * before.pauseMs;
    const pauseMs = isQuiet ? PAUSE_MS.min : Math.min(PAUSE_MS.max, 2 * before.pauseMs);
    told?.set(resource, { atMs: nowMs, pauseMs });
    this.#tell(guest, resource, count);
    return 0;
  }

  #tell(guest: Guest, resource: LimitedResource, count: number): void {
    const { live } = guest;
    const before = live?.limitHits?.[resource] ?? 0;
    if (!live || count <= before) return;
    this.#remember(guest, { ...live, limitHits: { ...live.limitHits, [resource]: count } });
    this.#host.events.publish(guest, 'limit.hit', { resource, hits: count - before, total: count });
  }
}

/** Controllers by which a guest that runs has a limit. */
function limitedResources({ live }: Guest): readonly LimitHit['resource'][] {
  const { pids = 'max', memoryBytes = 'max' } = live?.config.limits ?? {};
  return [
    ...(pids === 'max' ? [] : ['pids' as const]),
    ...(memoryBytes === 'max' ? [] : ['memory' as const]),
  ];
}

/** Undefined: the guest has just ended, or there are more watches than this user may have (inotify(7)). */
function watchFile(path: string, changed: () => void): FSWatcher | undefined {
  try {
    return watch(path, changed);
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? error.code : undefined;
    if (code === 'ENOENT' || code === 'ENODEV' || code === 'ENOSPC') return undefined;
    throw error;
  }
}
