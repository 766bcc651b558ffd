/**
 * What all of a guest's life shares: the guests of one instance, their records, and who looks after them.
 */
import { mkdirSync } from 'node:fs';
import { StateError } from '../base/errors.ts';
import type { GuestName, Xid } from '../base/ids.ts';
import { UndoStack } from '../base/undo.ts';
import type { Readings } from '../resources/readings.ts';
import { removeGuestDirs } from '../storage/guest-dirs.ts';
import { writeVolatile } from '../sys/files.ts';
import { bootId } from '../sys/process.ts';
import { StepError } from '../sys/syscalld.ts';
import { Brokers } from './brokers.ts';
import { Commands, type StartedCommand } from './commands.ts';
import type { GuestConfig, HealthCheck } from './config-types.ts';
import { Contexts } from './contexts.ts';
import { Disks } from './disks.ts';
import { Forks } from './forks.ts';
import { type Guest, isActive, type LiveNetwork, type LiveRecord } from './guest.ts';
import { Health } from './health.ts';
import { Hooks } from './hooks.ts';
import type { Host } from './host.ts';
import { LimitHits } from './limit-hits.ts';
import { Networks } from './networks.ts';
import { OomEvents } from './oom.ts';
import { guestPaths } from './paths.ts';
import { Registry } from './registry.ts';
import { Restarts, type StartGuest } from './restarts.ts';
import { Snapshots } from './snapshots.ts';
import type { GuestStorage } from './storage.ts';

/** What is begun by itself, and not by an operator. */
export interface Reactions {
  /** Starts a guest that is due; `restarts` is for the record of the run. */
  readonly start: StartGuest;
  /** Resolves when the guests that a guest waits for are healthy. */
  readonly whenReady: (guest: Guest) => Promise<void>;
  /** Runs the command of a health check. */
  readonly runCheck: (guest: Guest, check: HealthCheck) => Promise<StartedCommand>;
  /** Does what is configured for a guest that has become unhealthy. */
  readonly unhealthy: (guest: Guest, action: HealthCheck['onFailure']) => Promise<void>;
}

/** The guests of one instance. */
export class Instance {
  readonly host: Host;
  readonly registry: Registry;
  readonly storage: GuestStorage;
  readonly snapshots: Snapshots;
  readonly networks: Networks;
  readonly brokers: Brokers;
  readonly readings: Readings;
  readonly contexts: Contexts;
  readonly commands: Commands;
  readonly hooks: Hooks;
  readonly health: Health;
  readonly oom: OomEvents;
  readonly limitHits: LimitHits;
  readonly restarts: Restarts;
  readonly forks: Forks;
  readonly disks: Disks;
  readonly bootId: string = bootId();
  /** Guests that run, by the object of their process 1. */
  readonly byInit: Map<number, Guest> = new Map<number, Guest>();

  constructor(host: Host, storage: GuestStorage, readings: Readings, reactions: Reactions) {
    this.host = host;
    this.registry = new Registry(host.paths);
    this.storage = storage;
    this.snapshots = new Snapshots(host);
    this.forks = new Forks(host, this.registry);
    this.disks = new Disks(host, this.registry);
    this.contexts = new Contexts(host, this.registry);
    this.commands = new Commands(host);
    this.hooks = new Hooks(host, this.commands);
    this.oom = new OomEvents(host, (guest, live) => this.remember(guest, live));
    this.health = new Health(host, {
      run: reactions.runCheck,
      kill: (command) => this.commands.kill(command),
      remember: (guest, live) => this.remember(guest, live),
      unhealthy: reactions.unhealthy,
    });
    this.networks = new Networks(host, this.registry);
    this.brokers = new Brokers(host, this.networks, storage);
    this.limitHits = new LimitHits(host, this.networks, (guest, live) => this.remember(guest, live));
    const note = (what: string, write: () => void): void => this.note(what, write);
    this.restarts = new Restarts(host, this.registry, this.bootId, { ...reactions, note });
    this.readings = readings;
  }

  /** Told of failures that no caller waits for. */
  onFailure: (what: string, error: unknown) => void = () => {};

  /** Looks after a guest that runs, as its configuration of now wants it. */
  follow(guest: Guest): void {
    this.health.begin(guest);
    this.limitHits.begin(guest);
    void this.attempt(`watch the memory of guest "${guest.name}"`, () => this.oom.begin(guest));
  }

  /** Puts a run on record: the next vserverd finds it. */
  record(guest: Guest, live: LiveRecord): void {
    guest.live = live;
    writeVolatile(guestPaths(this.host.paths, guest.name).live, JSON.stringify(live));
  }

  /** Puts on record what has become of a run. */
  remember(guest: Guest, live: LiveRecord): void {
    guest.live = live; // whatever can be written of it
    this.note(`put on record what has become of guest "${guest.name}"`, () => this.record(guest, live));
  }

  /** Writes what the next vserverd is to know. A full disk is told, but keeps no guest from being stopped, nor from its end. */
  note(what: string, write: () => void): void {
    try {
      write();
    } catch (error) {
      this.onFailure(what, error);
    }
  }

  /** Has what comes from two objects written to the log of a guest. */
  openLog(guest: Guest, object: number, stdout: number, stderr: number): void {
    const { directory, log } = guestPaths(this.host.paths, guest.name);
    if (guest.isEphemeral) mkdirSync(directory, { recursive: true, mode: 0o700 });
    this.host.syscalld.log(object, log, guest.config.log.maxBytes, stdout, stderr);
  }

  /** Ends the network of a run; who shares it goes on with it. */
  async closeNetwork(guest: Guest, network: LiveNetwork): Promise<void> {
    await this.attempt(`end the network of guest "${guest.name}"`, async () => {
      const heir = await this.networks.close(guest, network);
      const other = this.registry.named(heir?.name);
      if (heir && other?.live && isActive(other)) this.remember(other, heir);
      this.networks.recorded(guest, network);
    });
  }

  /** Deletes a guest's files. */
  async removeFiles(name: GuestName): Promise<void> {
    await this.storage.release(name);
    await removeGuestDirs(guestPaths(this.host.paths, name), this.host.syscalld);
  }

  /**
   * Does work on a guest when what others do with it is done.
   *
   * @throws UserError guest-not-found: meanwhile somebody deleted it
   */
  async exclusive<T>(guest: Guest, work: () => Promise<T>): Promise<T> {
    return await this.inTurn(guest, async () => {
      if (this.registry.named(guest.name) !== guest) throw this.registry.notFound(guest.name);
      return await work();
    });
  }

  /**
   * Makes a guest that stays. Its name and its xid are taken from now on; whoever wants to work on it waits until it is
   * whole, or hears that there is none.
   *
   * @param make `undo` has what is undone should it fail; the configuration file comes last: what has one exists, what has
   *   none is swept at the next start
   * @throws StateError guest-exists, xid-in-use
   */
  async makeGuest<T>(
    name: GuestName,
    xid: Xid,
    config: GuestConfig,
    make: (guest: Guest, undo: UndoStack) => Promise<T>,
  ): Promise<T> {
    const guest = this.registry.add(name, xid, config, false);
    guest.isBeingMade = true;
    return await this.inTurn(guest, async () => {
      await using undo = new UndoStack();
      undo.defer('guest in memory', () => {
        this.registry.remove(guest);
      });
      const made = await make(guest, undo);
      undo.commit();
      guest.isBeingMade = false;
      this.host.events.publish(guest, 'created', { template: guest.config.template });
      return made;
    });
  }

  /** As `exclusive`, also for a guest that is no more. */
  async inTurn<T>(guest: Guest, work: () => Promise<T>): Promise<T> {
    const before = guest.queue;
    const done = Promise.withResolvers<void>();
    guest.queue = done.promise;
    await before;
    try {
      return await work();
    } finally {
      done.resolve();
    }
  }

  /** Does what must not be in the way of the rest when it fails; the next start of vserverd tries it again. */
  async attempt(what: string, work: () => Promise<void>): Promise<void> {
    try {
      await work();
    } catch (error) {
      this.onFailure(what, error);
    }
  }

  /** The run of a guest. @throws StateError guest-stopped */
  running(verb: string, guest: Guest): LiveRecord {
    if (!guest.live || !isActive(guest)) throw stopped(verb, guest);
    return guest.live;
  }
}

/** Does work inside a guest that runs; should it end meanwhile, that is what is said. */
export async function insideRun<T>(verb: string, guest: Guest, work: () => Promise<T>): Promise<T> {
  const initObject = guest.live?.initObject;
  try {
    return await work();
  } catch (error) {
    if (!(error instanceof StepError)) throw error;
    const isOver = guest.live?.initObject !== initObject || !['running', 'paused'].includes(guest.state);
    // ESRCH: its process 1 is on its way out, and nobody has been told yet.
    if (!isOver && error.errnoName !== 'ESRCH') throw error;
    throw new StateError(
      'guest-stopped',
      `cannot ${verb} guest "${guest.name}": found that it has just ended; need it running`,
      { cause: error },
    );
  }
}

/** What is said of a guest that does not run. */
export function stopped(verb: string, guest: Guest): StateError {
  return new StateError(
    'guest-stopped',
    `cannot ${verb} guest "${guest.name}": found it ${guest.state}; need it running`,
  );
}
