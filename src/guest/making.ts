/**
 * Guests that stay are created and deleted.
 */
import { rmSync } from 'node:fs';
import { StateError } from '../base/errors.ts';
import type { GuestName } from '../base/ids.ts';
import { idRangeOf } from '../context/id-map.ts';
import { createGuestDirs, refuseMounted } from '../storage/guest-dirs.ts';
import { removeDurable } from '../sys/files.ts';
import { completeConfig } from './config.ts';
import { createConfigText } from './config-text.ts';
import type { GuestConfigValues } from './config-types.ts';
import type { Ends } from './end.ts';
import type { Guest } from './guest.ts';
import type { Host } from './host.ts';
import type { Instance } from './instance.ts';
import { guestPaths } from './paths.ts';
import { forgetQuotas } from './user-quotas.ts';

/** Creates and deletes guests. */
export class Making {
  readonly #instance: Instance;
  readonly #host: Host;
  readonly #ends: Ends;

  constructor(instance: Instance, ends: Ends) {
    this.#instance = instance;
    this.#host = instance.host;
    this.#ends = ends;
  }

  /**
   * Creates a guest that stays: its configuration file and its directories.
   *
   * @throws StateError guest-exists, xid-in-use; UserError invalid-config, invalid-template
   */
  async create(name: GuestName, values: GuestConfigValues): Promise<Guest> {
    const paths = guestPaths(this.#host.paths, name);
    const parsed = completeConfig(values);
    const xid = parsed.xid ?? this.#instance.registry.assignXid();
    return await this.#instance.makeGuest(name, xid, { ...parsed, xid }, async (guest, undo) => {
      const { storage } = this.#instance;
      await this.#instance.networks.check(guest, parsed);
      const template = await storage.prepare(parsed.template, parsed.trustDomain);
      await createGuestDirs(paths, idRangeOf(xid).hostBase);
      undo.defer('directories', () => this.#instance.removeFiles(name));
      const file = createConfigText({ ...values, xid }, paths.config);
      await storage.furnish(guest, storage.pinOf(template, parsed.template), file.text);
      guest.config = this.#instance.registry.wrote(name, file);
      return guest;
    });
  }

  /**
   * Deletes a guest and its files. Allowed in: stopped; with `force` a running guest is killed first.
   *
   * @throws StateError guest-running
   */
  async delete(guest: Guest, force: boolean): Promise<void> {
    do {
      if (force && guest.state !== 'stopped') await this.#ends.stop(guest, { timeoutMs: 0 });
      if (guest.isEphemeral) return; // gone with its run
    } while (!(await this.#deleteStopped(guest, force)));
  }

  /** Returns false for one that is to be stopped once more: somebody has just started it again. */
  async #deleteStopped(guest: Guest, force: boolean): Promise<boolean> {
    // Who has its addresses and was told to end too, as `delete --all --force` does it, is waited for.
    const users = this.#instance.networks.usersOf(guest).filter((user) => user.live?.stopAsked);
    for (const user of users) await user.ended?.promise;
    return await this.#instance.exclusive(guest, async () => {
      if (guest.state !== 'stopped' && force) return false;
      if (guest.state !== 'stopped') {
        throw new StateError(
          'guest-running',
          `cannot delete guest "${guest.name}": found it ${guest.state}; need it stopped, or --force`,
        );
      }
      this.#instance.networks.checkUnused(guest);
      const paths = guestPaths(this.#host.paths, guest.name);
      refuseMounted(paths);
      // While there is a guest that the ids are of: whoever gets its xid is not held to them.
      await forgetQuotas(this.#instance.storage.users, guest.xid);
      // The configuration first: without it the rest is swept, should we not get to the end.
      removeDurable(paths.config);
      this.#instance.restarts.forget(guest);
      this.#instance.registry.remove(guest);
      rmSync(paths.live, { force: true });
      await this.#instance.removeFiles(guest.name);
      this.#host.events.publish(guest, 'deleted', {});
      return true;
    });
  }
}
