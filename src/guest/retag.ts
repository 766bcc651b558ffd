/**
 * Moves a guest to another xid. Its image knows no xid; what it wrote is made a part of that, so nothing is left whose
 * owner would have to change but the root of its own files, which are made anew.
 *
 *     lib/guests/NAME/retag    such a move is under way: whatever xid the configuration has is the guest's, and its own
 *                              files, which are empty, are to be that one's
 */
import { StateError } from '../base/errors.ts';
import type { Xid } from '../base/ids.ts';
import type { HelperOptions } from '../storage/helper-process.ts';
import { readIfThere, writeDurable } from '../sys/files.ts';
import { editConfig } from './config-text.ts';
import type { Guest } from './guest.ts';
import type { Manager } from './manager.ts';
import { guestPaths } from './paths.ts';
import type { GuestStorage } from './storage.ts';
import { forgetQuotas, keptQuotas, putQuotas } from './user-quotas.ts';

/**
 * Gives a guest another xid. What it sees does not change. Allowed in: stopped.
 *
 * @throws StateError guest-ephemeral, guest-running, xid-in-use, network-shared, cancelled; UserError template-followed
 */
export async function retag(manager: Manager, guest: Guest, xid: Xid, options: HelperOptions): Promise<void> {
  const { registry, storage, networks, copies, host } = manager;
  const path = guestPaths(host.paths, guest.name).config;
  await storage.storeOf(guest).withoutDeleting(async () => {
    await manager.exclusive(guest, async () => {
      const text = guest.isEphemeral ? undefined : readIfThere(path);
      if (guest.state !== 'stopped' || text === undefined) {
        throw new StateError(
          'guest-running',
          `cannot retag guest "${guest.name}": found it ${guest.state}; need it stopped, and one that was created`,
        );
      }
      if (guest.xid === xid) return;
      registry.checkXid(xid);
      networks.checkUnused(guest);
      const { isEmpty } = await storage.ownFiles(guest);
      if (!isEmpty) {
        await storage.checkFlattens(guest, 'retag');
        await copies.settle(guest, options);
      }
      const { text: edited, config } = editConfig(text, [{ path: ['xid'], value: xid }], path);
      await putQuotas(storage.users, xid, await keptQuotas(storage.users, guest.xid));
      const former = guest.xid;
      // Taken from here on: nobody is given it meanwhile.
      registry.renumber(guest, xid);
      storage.markMoving(guest.name);
      writeDurable(path, edited);
      guest.config = config;
      await finishRetag(storage, guest);
      await forgetQuotas(storage.users, former);
      host.events.publish(guest, 'changed', { keys: ['xid'] });
    });
  });
}

/** Goes on with a move that was under way. Allowed in: stopped. */
export async function finishRetag(storage: GuestStorage, guest: Guest): Promise<void> {
  if (!storage.isMoving(guest.name)) return;
  await storage.renew(guest);
  storage.unmarkMoving(guest.name);
}
