/**
 * The life of guests, put together: who creates, starts, ends and changes them, and who hears of what syscalld tells.
 *
 *     stopped ─ start ─▶ starting ─▶ running ⇄ paused
 *        ▲                              │ stop, kill, or its process 1 ends
 *        └──────── cleaned up ◀── stopping
 */
import type { Readings } from '../resources/readings.ts';
import { Changes } from './changes.ts';
import type { HealthCheck } from './config-types.ts';
import { Copies } from './copies.ts';
import { Ends } from './end.ts';
import { Execs } from './exec.ts';
import { type Guest, isActive } from './guest.ts';
import type { Host } from './host.ts';
import { Instance } from './instance.ts';
import { Making } from './making.ts';
import { ProcFs } from './proc-fs.ts';
import { Recovery } from './recovery.ts';
import { Signals } from './signals.ts';
import { Starts } from './start.ts';
import type { GuestStorage } from './storage.ts';
import { Views } from './views.ts';

/** Keeps the guests of one instance. */
export class Manager extends Instance {
  readonly making: Making;
  readonly starts: Starts;
  readonly signals: Signals;
  readonly ends: Ends;
  readonly execs: Execs;
  readonly changes: Changes;
  readonly copies: Copies;
  readonly views: Views;
  readonly recovery: Recovery;

  constructor(host: Host, storage: GuestStorage, readings: Readings) {
    super(host, storage, readings, {
      start: (guest, restarts) => this.starts.start(guest, undefined, restarts),
      whenReady: (guest) => this.starts.whenReady(guest),
      runCheck: (guest, check) => this.execs.runCheck(guest, check),
      unhealthy: (guest, action) => this.#unhealthy(guest, action),
    });
    this.signals = new Signals(this);
    this.ends = new Ends(this, this.signals);
    this.execs = new Execs(this);
    this.making = new Making(this, this.ends);
    this.copies = new Copies(this);
    this.starts = new Starts(this, this.ends, this.copies);
    this.views = new Views(host, this, new ProcFs(this));
    this.changes = new Changes(this, this.views);
    this.recovery = new Recovery(this, this.ends, this.views);
  }

  /** The command of a guest has ended, its caller may know. */
  ending(object: number): void {
    this.ends.ending(object);
  }

  /** A process that syscalld holds has ended. */
  exited(object: number, waitStatus: number): void {
    if (this.ends.exited(object, waitStatus) || this.commands.exited(object, waitStatus)) return;
    this.recovery.brokerExited(object);
    void this.attempt('go on with the views of guests', async () => {
      if (!(await this.views.exited(object))) return;
      await this.contexts.renew();
      await this.recovery.renewBrokers();
    });
    this.contexts.exited(object); // or somebody else's, who hears of it in another way
  }

  /**
   * A client gave its command's terminal back, and ends. What a guest's first command writes there from now on goes to
   * the log; any other command finds its terminal hung up.
   */
  detached(client: number, master: number): void {
    const guest = [...this.byInit.values()].find((one) => one.live?.client === client);
    if (guest?.live) {
      const logObject = this.host.syscalld.newObject();
      this.openLog(guest, logObject, master, 0);
      this.remember(guest, { ...guest.live, logObject, client: 0 });
    } else {
      this.host.syscalld.drop(master);
    }
    this.host.syscalld.clientExit(client, 0);
  }

  async #unhealthy(guest: Guest, action: HealthCheck['onFailure']): Promise<void> {
    await this.attempt(`${action} unhealthy guest "${guest.name}"`, async () => {
      if (action === 'restart') await this.ends.stop(guest, { reason: 'health-restart' });
      if (action === 'kill') await this.ends.stop(guest, { reason: 'health-kill', timeoutMs: 0 });
      if (action === 'stop') await this.ends.stop(guest);
    });
  }

  /** Starts what is due, and after a boot of the host what is to be up. Called once all is repaired. */
  startDue(): void {
    for (const guest of this.registry.list()) if (isActive(guest)) this.follow(guest);
    this.restarts.begin();
  }

  /** Whether guests are just starting, or ending. */
  isBusy(): boolean {
    return this.registry.list().some(({ state }) => state === 'starting' || state === 'stopping');
  }

  /** Starts nothing by itself until `startDue`. */
  holdDue(): void {
    this.restarts.hold();
  }

  /** Waits for the guests whose run is just coming to its end. */
  async settled(): Promise<void> {
    for (const guest of this.registry.list()) {
      if (guest.state === 'stopping') await guest.ended?.promise;
    }
  }

  /** Ends what was prepared for guests to come, and leaves no cgroup of the instance if no guest runs. */
  async close(): Promise<void> {
    this.holdDue();
    this.health.close();
    this.oom.close();
    this.limitHits.close();
    await this.contexts.close();
    await this.networks.end();
    await this.views.end();
    this.forks.close();
    await this.disks.close();
    this.host.cgroups.removeInstance();
  }
}
