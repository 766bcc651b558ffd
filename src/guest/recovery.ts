/**
 * vserverd has been started anew: what runs is taken over, what a crash has left half-done is repaired.
 */

import { rmSync } from 'node:fs';
import { isGuestName } from '../base/ids.ts';
import { isAlive } from '../sys/process.ts';
import { type HeldObject, isProcess, StepError } from '../sys/syscalld.ts';
import { OBJECT_KIND } from '../sys/wire.ts';
import { brokerObjects } from './brokers.ts';
import type { Ends } from './end.ts';
import { type Guest, type GuestExit, isActive, type LiveBroker, type LiveRecord } from './guest.ts';
import { FREEZE_TIMEOUT_MS, type Host } from './host.ts';
import type { Instance } from './instance.ts';
import { findPipe, planReopenPipe } from './log-pipes.ts';
import { guestPaths } from './paths.ts';
import { finishRetag } from './retag.ts';
import type { Views } from './views.ts';

const SIGKILL = 9;

/** Takes guests over. */
export class Recovery {
  readonly #instance: Instance;
  readonly #host: Host;
  readonly #ends: Ends;
  readonly #views: Views;

  constructor(instance: Instance, ends: Ends, views: Views) {
    this.#instance = instance;
    this.#host = instance.host;
    this.#ends = ends;
    this.#views = views;
  }

  /** Reads what is on disk, takes over what runs, repairs what a crash has left half-done. */
  async recover(held: readonly HeldObject[]): Promise<void> {
    this.#host.events.onFailure = (error) => this.#instance.onFailure('keep an event', error);
    const { networks } = this.#instance;
    for (const part of [this.#views, networks.quotas, networks.denialEvents])
      part.onFailure = (what, error) => this.#instance.onFailure(what, error);
    this.#host.events.open();
    this.#instance.restarts.onFailure = this.#instance.onFailure;
    this.#instance.restarts.open();
    const processes = new Map(held.filter(isProcess).map((object) => [object.id, object]));
    const parts = [this.#instance.networks, this.#views, this.#instance.forks, this.#instance.disks];
    const known = new Set<number>(parts.flatMap((part) => part.recover(held)));
    this.#instance.storage.finishRollbacks();
    for (const record of this.#instance.registry.load(this.#instance.bootId)) {
      const object = processes.get(record.initObject);
      // By pid too: a former syscalld had other objects of the same ids.
      const held = object?.pid === record.initPid ? object : undefined;
      if (held) known.add(record.initObject).add(record.logObject);
      if (held && record.broker) for (const object of brokerObjects(record.broker)) known.add(object);
      await this.#instance.attempt(`take over guest "${record.name}"`, () => this.#adopt(record, held));
    }
    await this.#instance.attempt('fence the guests that run', () =>
      this.#instance.networks.adopt(this.#instance.registry.list()),
    );
    const hasEnded = (object: number): boolean => processes.get(object)?.waitStatus !== undefined;
    for (const guest of this.#instance.registry.list()) {
      const { broker } = guest.live ?? {};
      if (!isActive(guest)) continue;
      await this.#instance.attempt(`start the broker of guest "${guest.name}"`, async () => {
        if (!broker?.control) await this.#restartBroker(guest);
        // Nobody was there to see its end.
        else if (brokerObjects(broker).some(hasEnded)) await this.#replaceBroker(guest, broker);
      });
    }
    for (const object of held)
      if (object.kind !== OBJECT_KIND.client && !known.has(object.id)) this.#adoptStray(object);
    // Process 1 of a start that did not come to its end is among them, and goes with its cgroup.
    for (const xid of this.#host.cgroups.list()) {
      const guest = this.#instance.registry.numbered(xid);
      if (!guest || !isActive(guest))
        await this.#instance.attempt(`remove the cgroups of context ${xid}`, () =>
          this.#host.removeCgroup(xid),
        );
    }
    // Who was about to put them there is gone with its cgroup.
    await this.#instance.attempt('take away addresses of no guest', () =>
      this.#instance.networks.sweepAddresses(),
    );
    await this.#instance.attempt('put back addresses of guests', () =>
      this.#instance.networks.restoreAddresses(),
    );
    await this.#sweepDirectories();
  }

  /** A guest's broker ends before its guest only if somebody killed it: commands to come shall have another one. */
  brokerExited(object: number): void {
    const isOf = (broker: LiveBroker | undefined): boolean =>
      broker !== undefined && broker.control !== object && brokerObjects(broker).includes(object);
    const guest = this.#instance.registry.list().find(({ live }) => isOf(live?.broker));
    if (guest?.state !== 'running' && guest?.state !== 'paused') return;
    void this.#instance.attempt(`start the broker of guest "${guest.name}"`, () =>
      this.#instance.exclusive(guest, async () => {
        const { broker } = guest.live ?? {};
        if (broker && isOf(broker) && isActive(guest)) await this.#replaceBroker(guest, broker);
      }),
    );
  }

  /** Gives commands to come brokers that know the views of now. */
  async renewBrokers(): Promise<void> {
    for (const guest of this.#instance.registry.list())
      await this.#instance.attempt(`start the broker of guest "${guest.name}"`, () =>
        this.#instance.exclusive(guest, async () => {
          const { broker } = guest.live ?? {};
          if (broker && isActive(guest)) await this.#replaceBroker(guest, broker);
        }),
      );
  }

  /** Commands that were run in guests go on, and their clients wait for them; the rest belongs to nobody any more. */
  #adoptStray(object: HeldObject): void {
    if (!isProcess(object) || object.waitStatus !== undefined) {
      this.#host.syscalld.drop(object.id);
      return;
    }
    if (!this.#host.isInstanceProcess(object.pid)) {
      // Work on files that nobody waits for any more, and that may hold those of a guest.
      this.#host.syscalld.signal(object.id, SIGKILL);
      this.#host.syscalld.drop(object.id);
      return;
    }
    this.#instance.commands.adopt(object.id);
  }

  async #adopt(record: LiveRecord, held: HeldObject | undefined): Promise<void> {
    const existing = this.#instance.registry.named(record.name);
    if (existing === undefined && record.exit) {
      rmSync(guestPaths(this.#host.paths, record.name).live, { force: true });
      return;
    }
    // Also when its configuration file is broken or gone by now: a run goes on with what it was started with.
    const guest =
      existing ?? this.#instance.registry.add(record.name, record.xid, record.config, record.isEphemeral);
    guest.live = record;
    if (record.exit) return;
    guest.state = record.isPaused ? 'paused' : 'running';
    guest.ended = Promise.withResolvers<GuestExit>();
    if (!held) {
      await this.#adoptOrphan(guest, record);
      return;
    }
    this.#instance.byInit.set(record.initObject, guest);
    if (held.waitStatus === undefined) await this.#letGoOn(guest, record);
    else await this.#ends.finishAdopted(guest, held.waitStatus);
  }

  /** It may have been frozen, to be read, when vserverd died. */
  async #letGoOn(guest: Guest, { isPaused }: LiveRecord): Promise<void> {
    if (isPaused) return;
    await this.#instance.attempt(`let guest "${guest.name}" go on`, () =>
      this.#host.cgroups.thaw(guest.xid, FREEZE_TIMEOUT_MS),
    );
  }

  /** syscalld was started anew: the guest's process 1 is watched again, its exit code will not be known. */
  async #adoptOrphan(guest: Guest, record: LiveRecord): Promise<void> {
    // What the record says of objects is of the former syscalld; here the same ids are others'.
    const initObject = this.#host.syscalld.newObject();
    guest.live = { ...record, initObject, logObject: 0, client: 0, broker: undefined };
    if (!isAlive({ pid: record.initPid, startTicks: record.initStartTicks })) {
      await this.#ends.finishAdopted(guest, -1);
      return;
    }
    this.#instance.byInit.set(initObject, guest);
    const p = this.#host.program();
    const pidfd = p.sys('pidfd_open', [record.initPid, 0], { about: `process ${record.initPid}` });
    p.keep(pidfd, initObject, record.initPid);
    try {
      await this.#host.syscalld.run(`take over guest "${guest.name}"`, p);
    } catch (error) {
      if (!(error instanceof StepError)) throw error;
      await this.#ends.finishAdopted(guest, -1);
      return;
    }
    this.#instance.remember(guest, guest.live);
    await this.#letGoOn(guest, record);
    await this.#instance.attempt(`go on with the log of guest "${guest.name}"`, () =>
      this.#reopenLog(guest, record.logPipes),
    );
  }

  /** The first one goes on with the processes it knows; commands to come need one that is known here. */
  async #restartBroker(guest: Guest): Promise<void> {
    const broker = guest.live && (await this.#instance.brokers.restart(guest, guest.live.initObject));
    if (broker && guest.live) this.#instance.remember(guest, { ...guest.live, broker });
  }

  /** Commands that come meanwhile have the former one. */
  async #replaceBroker(guest: Guest, former: LiveBroker): Promise<void> {
    await this.#restartBroker(guest);
    this.#instance.brokers.drop(former);
  }

  /** The guest has the pipes to its log open for reading too, so what it wrote in between is still in there. */
  async #reopenLog(guest: Guest, logPipes: readonly number[]): Promise<void> {
    const pids = this.#host.cgroups.pids(guest.xid);
    const objects: number[] = [];
    for (const inode of logPipes) objects.push(await this.#reopenPipe(guest, pids, inode));
    const [stdout = 0, stderr = 0] = objects;
    if (!guest.live || (stdout === 0 && stderr === 0)) return;
    const logObject = this.#host.syscalld.newObject();
    this.#instance.openLog(guest, logObject, stdout, stderr);
    this.#instance.remember(guest, { ...guest.live, logObject });
  }

  /** Returns the object a pipe has become; 0: the guest has closed it. */
  async #reopenPipe(guest: Guest, pids: readonly number[], inode: number): Promise<number> {
    for (const path of findPipe(pids, inode)) {
      const object = this.#host.syscalld.newObject();
      const p = this.#host.program();
      planReopenPipe(p, path, inode, object);
      try {
        await this.#host.syscalld.run(`go on with the log of guest "${guest.name}"`, p);
        return object;
      } catch (error) {
        if (!(error instanceof StepError)) throw error; // gone in between: another one may have it
      }
    }
    return 0;
  }

  /** Directories of guests that nobody knows any more: ephemeral ones whose end nobody saw, half-made ones. */
  async #sweepDirectories(): Promise<void> {
    for (const name of this.#host.listGuestDirectories()) {
      const isKnown =
        this.#instance.registry.has(name) || this.#instance.registry.broken.some((one) => one.name === name);
      if (!isGuestName(name)) continue;
      await this.#instance.attempt(`delete what is left of guest "${name}"`, () =>
        isKnown ? this.#instance.storage.sweep(name) : this.#instance.removeFiles(name),
      );
      const guest = this.#instance.registry.named(name);
      if (guest?.state === 'stopped') {
        await this.#instance.attempt(`move guest "${name}" to xid ${guest.xid}`, () =>
          finishRetag(this.#instance.storage, guest),
        );
      }
    }
  }
}
