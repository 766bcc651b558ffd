/**
 * What is made of a guest's files as a whole: clones, snapshots, and the unification of what it wrote.
 *
 * All of it is one operation: the guest's tree becomes an image (`GuestStorage.flatten`). A stopped guest goes on from
 * that image with no files of its own, so that the next copy has nothing to read. One that runs is frozen meanwhile, and
 * keeps its files.
 */
import { StateError } from '../base/errors.ts';
import type { GuestName } from '../base/ids.ts';
import { idRangeOf } from '../context/id-map.ts';
import type { TreeChange } from '../spec/tree-changes.ts';
import { createGuestDirs } from '../storage/guest-dirs.ts';
import type { ImageOfTree, Usage, UsageResult } from '../storage/helper/tasks.ts';
import type { HelperOptions } from '../storage/helper-process.ts';
import { DEFAULT_DOMAIN } from '../storage/trust-domain.ts';
import { readIfThere } from '../sys/files.ts';
import { type ConfigChange, editConfig } from './config-text.ts';
import { type Guest, isActive } from './guest.ts';
import { FREEZE_TIMEOUT_MS } from './host.ts';
import { insideRun } from './instance.ts';
import type { Manager } from './manager.ts';
import { guestPaths } from './paths.ts';
import type { Snapshot } from './snapshots.ts';
import type { FlatGuest } from './storage.ts';
import { forgetQuotas, type KeptQuota, keptQuotas, putQuotas } from './user-quotas.ts';

/** What unification did to a guest, or would do. */
export interface Unified {
  /** `done`; `unchanged`: it has not run since it was last done; `later`: it runs, and is done at its next start. */
  readonly state: 'done' | 'unchanged' | 'later';
  /** Bytes on disk that were the guest's alone before, and that were added to the store instead. */
  readonly ownBytes: number;
  /** Of what is excluded and stays the guest's. */
  readonly keptBytes: number;
  readonly newBytes: number;
  readonly savedBytes: number;
}

/** What a guest was given back. */
export interface RolledBack {
  readonly snapshot: Snapshot;
  /** Quotas that no file system here holds anybody to. */
  readonly unheld: readonly KeptQuota[];
}

const NOTHING = { ownBytes: 0, keptBytes: 0, newBytes: 0, savedBytes: 0 } as const;

/** Makes copies of guests. */
export class Copies {
  readonly #manager: Manager;

  constructor(manager: Manager) {
    this.#manager = manager;
  }

  /**
   * Creates a guest with the files, the configuration and the quotas of users of another one, which may run.
   *
   * @param changes of the configuration; the clone has no addresses unless they give it some
   * @throws StateError guest-exists, guest-ephemeral, xid-in-use, cancelled; UserError invalid-config, trust-domain-fixed
   */
  async clone(
    source: Guest,
    name: GuestName,
    changes: readonly ConfigChange[],
    options: HelperOptions,
  ): Promise<Guest> {
    const manager = this.#manager;
    const { registry, storage } = manager;
    return await manager.exclusive(source, async () => {
      const paths = guestPaths(manager.host.paths, name);
      const text = this.#configText(source, 'clone');
      const withoutAddresses: ConfigChange = { path: ['network', 'addresses'], value: undefined };
      const isNumbered = changes.some(({ path, value }) => path[0] === 'xid' && value !== undefined);
      const assigned = isNumbered ? [] : [{ path: ['xid'], value: registry.assignXid() } as const];
      const file = editConfig(text, [withoutAddresses, ...changes, ...assigned], paths.config);
      const { config } = file;
      const xid = config.xid ?? registry.assignXid();
      return await manager.makeGuest(name, xid, config, async (guest, undo) => {
        storage.checkDomain(source.name, config);
        await manager.networks.check(guest, guest.config);
        return await storage.storeOf(source).withoutDeleting(async () => {
          const [{ pin, root }, quotas] = await Promise.all([
            this.#flatten(source, options),
            keptQuotas(storage.users, source.xid),
          ]);
          await createGuestDirs(paths, idRangeOf(xid).hostBase);
          undo.defer('directories', () => manager.removeFiles(name));
          if (quotas.length > 0) {
            undo.defer('quotas', () => forgetQuotas(storage.users, xid));
            await putQuotas(storage.users, xid, quotas);
          }
          await storage.furnish(guest, { ...pin, name: config.template }, file.text, root);
          guest.config = registry.wrote(name, file);
          return guest;
        });
      });
    });
  }

  /**
   * Takes a snapshot of a guest, which may run.
   *
   * @param keep so many are kept, the oldest are forgotten
   * @throws UserError invalid-name, snapshot-exists; StateError guest-ephemeral, cancelled
   */
  async snapshot(
    guest: Guest,
    name: string | undefined,
    keep: number | undefined,
    options: HelperOptions,
  ): Promise<Snapshot> {
    const { storage, snapshots } = this.#manager;
    return await this.#manager.exclusive(guest, async () => {
      const takenAt = new Date().toISOString();
      const chosen = name ?? takenAt.replace(/[:.]/g, '-');
      snapshots.checkNew(guest.name, chosen);
      const config = this.#configText(guest, 'take a snapshot of');
      return await storage.storeOf(guest).withoutDeleting(async () => {
        const wasRunning = isActive(guest);
        const { pin, root, captured } = await this.#flatten(guest, options);
        const quotas = await keptQuotas(storage.users, guest.xid);
        const snapshot = {
          name: chosen,
          takenAt,
          wasRunning,
          pin,
          root,
          config,
          quotas,
          newBytes: captured?.newBytes ?? 0,
        };
        snapshots.add(guest.name, snapshot);
        const all = snapshots.list(guest.name);
        for (const old of keep === undefined ? [] : all.slice(0, Math.max(0, all.length - keep)))
          snapshots.remove(guest.name, old.name);
        return snapshot;
      });
    });
  }

  /**
   * Gives a guest the files, the configuration and the quotas of users of a snapshot. What it has now is lost. Allowed in:
   * stopped.
   *
   * @param keepConfig its configuration and its quotas stay as they are
   * @throws StateError guest-running; UserError snapshot-not-found
   */
  async rollback(guest: Guest, name: string, keepConfig: boolean): Promise<RolledBack> {
    const { storage, snapshots, networks, host } = this.#manager;
    return await this.#manager.exclusive(guest, async () => {
      const snapshot = snapshots.find(guest.name, name);
      this.#checkStopped(guest, 'roll back');
      const paths = guestPaths(host.paths, guest.name);
      const text = keepConfig ? this.#configText(guest, 'roll back') : snapshot.config;
      // Of an archive, a snapshot can have been of another xid, and of another trust domain.
      const { trustDomain } = guest.config;
      const stays: readonly ConfigChange[] = [
        { path: ['xid'], value: guest.xid },
        { path: ['trustDomain'], value: trustDomain === DEFAULT_DOMAIN ? undefined : trustDomain },
      ];
      const { text: edited, config } = editConfig(text, stays, paths.config);
      await networks.check(guest, config);
      const pin = { ...snapshot.pin, name: config.template };
      await storage.replace(guest, { ...snapshot, pin }, true, undefined, edited);
      guest.config = config;
      const { quotas } = snapshot;
      const unheld = keepConfig || !quotas ? [] : await putQuotas(storage.users, guest.xid, quotas);
      return { snapshot, unheld };
    });
  }

  /**
   * Makes what a guest wrote a part of its image, so that it has in common with all others what is the same. What the
   * guest sees does not change. One that runs is done before its next start.
   *
   * @throws StateError guest-ephemeral, cancelled; UserError unify-host-template
   */
  async unify(guest: Guest, isDryRun: boolean, options: HelperOptions): Promise<Unified> {
    const { storage } = this.#manager;
    return await this.#manager.exclusive(guest, async () => {
      this.#configText(guest, 'unify');
      if (storage.isFlat(guest.name) && !isActive(guest)) return { state: 'unchanged', ...NOTHING };
      await storage.checkFlattens(guest, 'unify');
      if (isActive(guest)) {
        if (!isDryRun) storage.flattenLater(guest.name);
        return { state: 'later', ...NOTHING };
      }
      return await this.#unify(guest, isDryRun, options);
    });
  }

  /** Does what was put off while the guest ran. Called before its start, with the guest to ourselves. */
  async unifyIfDue(guest: Guest): Promise<void> {
    if (this.#manager.storage.isFlatteningDue(guest.name)) await this.#unify(guest, false, {});
  }

  async #unify(guest: Guest, isDryRun: boolean, options: HelperOptions): Promise<Unified> {
    const { storage } = this.#manager;
    return await storage.storeOf(guest).withoutDeleting(async () => {
      const { exclude } = guest.config.unify;
      const flat = await (isDryRun
        ? storage.flatten(guest, options, isDryRun, exclude)
        : storage.settle(guest, options, exclude));
      const { captured } = flat;
      if (captured === undefined) {
        if (!isDryRun) storage.markFlat(guest.name);
        return { state: 'unchanged', ...NOTHING };
      }
      const { ownBytes, newBytes, imageBytes, kept } = captured;
      const savedBytes = ownBytes - kept.bytes - newBytes - imageBytes;
      return { state: 'done', ownBytes, keptBytes: kept.bytes, newBytes, savedBytes };
    });
  }

  /**
   * Makes an image of a guest's files as they are, for the caller to read. Nothing may be deleted meanwhile.
   *
   * @param verb completes "cannot …"
   * @throws StateError guest-ephemeral, cancelled
   */
  async capture(
    guest: Guest,
    verb: string,
    options: HelperOptions,
  ): Promise<{ readonly config: string; readonly flat: FlatGuest }> {
    return await this.#manager.exclusive(guest, async () => {
      const config = this.#configText(guest, verb);
      return { config, flat: await this.#flatten(guest, options) };
    });
  }

  /** Counts what guests that stay have on disk. */
  async usage(options: HelperOptions): Promise<readonly Usage[]> {
    const { registry, storage, snapshots } = this.#manager;
    const guests = registry.list().filter(({ isEphemeral }) => !isEphemeral);
    const usages: Usage[] = [];
    for (const domain of new Set(guests.map(({ config }) => config.trustDomain))) {
      const store = storage.store(domain);
      const owners = guests
        .filter(({ config }) => config.trustDomain === domain)
        .map(({ name }) => ({
          name,
          own: storage.ownDirectories(name),
          image: storage.pinned(name),
          snapshots: snapshots.list(name).map(({ pin }) => pin.pinned),
        }));
      const work = async (): Promise<UsageResult> => await store.usage(owners, options);
      usages.push(...(await store.withoutDeleting(work)).usages);
    }
    return usages.sort((a, b) => (a.name < b.name ? -1 : 1));
  }

  /**
   * Tells what differs in a guest's files, which may run: from what it was made from to now, from a snapshot to now, or
   * from one snapshot to another.
   *
   * @throws StateError guest-ephemeral, cancelled; UserError snapshot-not-found, template-missing
   */
  async compare(
    guest: Guest,
    from: string | undefined,
    to: string | undefined,
    options: HelperOptions,
  ): Promise<readonly TreeChange[]> {
    const { storage, snapshots } = this.#manager;
    const store = storage.storeOf(guest);
    return await store.withoutDeleting(async () => {
      this.#configText(guest, 'compare');
      const [first, last] = [from, to].map((name) =>
        name === undefined ? undefined : snapshots.find(guest.name, name),
      );
      const origin = first?.pin.pinned ?? (await storage.origin(guest));
      return await storage.withImageOfTemplate(origin, store, options, async (before) => {
        const compare = async (after: ImageOfTree): Promise<readonly TreeChange[]> => {
          const rooted = first ? { ...before, root: first.root } : before;
          return (await store.compare(rooted, after, options)).changes;
        };
        if (last) {
          return await storage.withImageOfTemplate(
            last.pin.pinned,
            store,
            options,
            async (after) => await compare({ ...after, root: last.root }),
          );
        }
        return await this.#manager.exclusive(
          guest,
          async () =>
            await this.#frozen(guest, async () => await storage.withImageOf(guest, options, compare)),
        );
      });
    });
  }

  /** Makes what a stopped guest wrote a part of its image. For who has the guest to itself. */
  async settle(guest: Guest, options: HelperOptions): Promise<void> {
    await this.#flatten(guest, options);
  }

  /** Makes an image of a guest, and leaves a stopped one with it, so that it costs nothing the next time. */
  async #flatten(guest: Guest, options: HelperOptions): Promise<FlatGuest> {
    const { storage } = this.#manager;
    if (!isActive(guest)) {
      this.#checkStopped(guest, 'copy');
      const canGoOn = await storage.flattens(guest);
      return await (canGoOn ? storage.settle(guest, options) : storage.flatten(guest, options));
    }
    return await this.#frozen(guest, async () => await storage.flatten(guest, options));
  }

  /** Does some work while a guest, if it runs, is frozen. */
  async #frozen<T>(guest: Guest, work: () => Promise<T>): Promise<T> {
    const { cgroups } = this.#manager.host;
    if (guest.state === 'stopped' || guest.state === 'paused') return await work();
    await cgroups.freeze(guest.xid, FREEZE_TIMEOUT_MS);
    try {
      return await insideRun('read the files of', guest, work);
    } finally {
      await cgroups.thaw(guest.xid, FREEZE_TIMEOUT_MS);
    }
  }

  #checkStopped(guest: Guest, verb: string): void {
    if (guest.state === 'stopped') return;
    throw new StateError(
      'guest-running',
      `cannot ${verb} guest "${guest.name}": found it ${guest.state}; need it stopped`,
    );
  }

  #configText(guest: Guest, verb: string): string {
    const text = guest.isEphemeral
      ? undefined
      : readIfThere(guestPaths(this.#manager.host.paths, guest.name).config);
    if (text !== undefined) return text;
    throw new StateError(
      'guest-ephemeral',
      `cannot ${verb} guest "${guest.name}": found no configuration file, for it goes when it stops; need a guest that was created`,
    );
  }
}
