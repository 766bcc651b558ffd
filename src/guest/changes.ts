/**
 * The configuration and the limits of a guest are changed and read, at once also while it runs.
 */
import { rmSync } from 'node:fs';
import { StateError } from '../base/errors.ts';
import { UndoStack } from '../base/undo.ts';
import type { Effective } from '../resources/cgroup-driver.ts';
import { readIfThere, stageFile, syncAll } from '../sys/files.ts';
import { StepError } from '../sys/syscalld.ts';
import { type ConfigChange, editConfig } from './config-text.ts';
import { type Guest, isActive } from './guest.ts';
import { changeLimits, configuredRows, type LimitRow, readRows, resetRows } from './guest-limits.ts';
import type { Host } from './host.ts';
import type { Instance } from './instance.ts';
import { guestPaths } from './paths.ts';
import { limitsOf } from './spec.ts';
import type { Views } from './views.ts';

/** Changes guests. */
export class Changes {
  readonly #instance: Instance;
  readonly #views: Views;
  readonly #host: Host;

  constructor(instance: Instance, views: Views) {
    this.#instance = instance;
    this.#views = views;
    this.#host = instance.host;
  }

  /** Changes a guest's configuration file, and its limits at once if it runs. */
  async set(guest: Guest, changes: readonly ConfigChange[]): Promise<Effective | undefined> {
    return await this.#instance.exclusive(guest, async () => {
      const paths = guestPaths(this.#host.paths, guest.name);
      const text = guest.isEphemeral ? undefined : readIfThere(paths.config);
      if (text === undefined) {
        throw new StateError(
          'guest-ephemeral',
          `cannot change guest "${guest.name}": found no configuration file, for it goes when it stops; need a guest that was created`,
        );
      }
      const { text: edited, config } = editConfig(text, changes, paths.config);
      const { storage } = this.#instance;
      storage.checkDomain(guest.name, config);
      await this.#instance.networks.check(guest, config);
      await using undo = new UndoStack();
      // A full disk refuses before anything has changed.
      const file = stageFile(paths.config, edited);
      undo.defer('configuration file', () => rmSync(file.path, { force: true }));
      await syncAll([file.path]);
      await storage.changeLimit(guest, config.disk);
      undo.defer('disk limit', () => storage.changeLimit(guest, guest.config.disk));
      let effective: Effective | undefined;
      if (guest.live && isActive(guest)) {
        // First the kernel, which may refuse; then the file.
        effective = this.#host.cgroups.apply(guest.xid, limitsOf(config));
        try {
          await changeLimits(this.#host, guest, guest.live, guest.live.config, config);
        } catch (error) {
          this.#host.cgroups.apply(guest.xid, limitsOf(guest.live.config));
          throw error;
        }
        const views = await this.#views.change(guest, guest.live, config.views);
        const live = (await this.#instance.networks.change(guest, guest.live, config)) ?? guest.live;
        this.#instance.remember(guest, {
          ...live,
          config: {
            ...live.config,
            limits: config.limits,
            scheduler: config.scheduler,
            restart: config.restart,
            health: config.health,
            views,
          },
        });
        this.#instance.networks.recorded(guest, live.network);
      }
      await file.publish();
      guest.config = config;
      undo.commit();
      this.#instance.restarts.changed(guest);
      if (guest.state === 'running' || guest.state === 'paused') this.#instance.follow(guest);
      this.#host.events.publish(guest, 'changed', { keys: changes.map(({ path }) => path.join('.')) });
      return effective;
    });
  }

  /** Reads the limits table of a guest; of one that does not run what it would be allowed. */
  async limitRows(guest: Guest): Promise<readonly LimitRow[]> {
    if (guest.live && isActive(guest)) {
      try {
        return await readRows(this.#host, guest, guest.live, await this.#instance.networks.sockets(guest));
      } catch (error) {
        // What is said of a guest that has just ended, or is about to. EBADF: syscalld has let go of its init.
        const name = error instanceof StepError ? error.errnoName : Reflect.get(Object(error), 'code');
        if (!['ESRCH', 'ENOENT', 'EBADF', 'cgroup-missing'].includes(String(name))) throw error;
      }
    }
    return configuredRows(
      this.#host,
      guest.isEphemeral ? guest.config : this.#instance.registry.readConfig(guest.name),
    );
  }

  /** Forgets how often limits were met, and the smallest and largest values seen. @throws StateError guest-stopped */
  async resetLimits(guest: Guest, what: { readonly hits: boolean; readonly minMax: boolean }): Promise<void> {
    await this.#instance.exclusive(guest, async () => {
      const live = this.#instance.running('reset limits of', guest);
      const sockets = await this.#instance.networks.sockets(guest);
      const limitMarks = await resetRows(this.#host, guest, live, sockets, what);
      this.#instance.remember(guest, { ...live, limitMarks });
    });
  }
}
