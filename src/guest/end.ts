/**
 * The end of a run: asked for by somebody, or told by syscalld; and what is cleaned up after it.
 */
import { rmSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { takesSignal } from '../sys/process.ts';
import { causeOf, exitCodeOfInit } from './exit-status.ts';
import { type Guest, type GuestExit, isActive, type LiveRecord, type StopReason } from './guest.ts';
import type { Host } from './host.ts';
import { type Instance, stopped } from './instance.ts';
import { removeLink } from './links.ts';
import { guestPaths } from './paths.ts';
import type { Signals } from './signals.ts';

const SIGKILL = 9;
const LISTEN_POLL_MS = 20;

/** What `stop` may be asked to do otherwise than configured. */
export interface StopRequest {
  readonly timeoutMs?: number | undefined;
  /** Who wants it, unless an operator. */
  readonly reason?: StopReason;
}

/** Stops guests, and cleans up after those that have ended. */
export class Ends {
  readonly #instance: Instance;
  readonly #host: Host;
  readonly #signals: Signals;

  constructor(instance: Instance, signals: Signals) {
    this.#instance = instance;
    this.#host = instance.host;
    this.#signals = signals;
  }

  /**
   * Asks a guest to stop and kills it when it has not in time. Resolves when it has ended; at once if it is stopped. One
   * that is just being started has nobody to ask: its start fails, and leaves nothing. One that is to be started again
   * is not.
   */
  async stop(guest: Guest, request: StopRequest = {}): Promise<GuestExit | undefined> {
    if (guest.state === 'starting') {
      guest.cancelStart?.();
      await guest.queue;
    }
    const wasPending = guest.pending !== undefined;
    const { reason = 'operator' } = request;
    if (reason === 'operator') this.#instance.restarts.stopAsked(guest);
    const { ended } = guest;
    if (!guest.live || !ended || !isActive(guest)) return wasPending ? guest.live?.exit : undefined;
    const live: LiveRecord = { ...guest.live, stopAsked: reason };
    this.#instance.remember(guest, live);
    const timeoutMs = request.timeoutMs ?? live.config.stop.timeoutMs;
    // One that cannot be thawed is killed as it is.
    if (guest.state === 'paused')
      await this.#instance.attempt(`resume guest "${guest.name}"`, () => this.#signals.resume(guest));
    if (guest.state === 'running')
      await this.#instance.hooks.try(guest, 'preStop', { INIT_PID: live.initPid });
    if (timeoutMs > 0) {
      const isOver = new AbortController();
      const timeout = sleep(timeoutMs, undefined, { signal: isOver.signal }).catch(() => {});
      void this.#askToStop(live, isOver.signal);
      const exit = await Promise.race([ended.promise, timeout]);
      isOver.abort();
      if (exit) return exit;
    }
    // The same run, though its record may be another by now.
    if (isActive(guest) && guest.live?.initObject === live.initObject)
      this.#host.syscalld.signal(live.initObject, SIGKILL);
    return await ended.promise;
  }

  /** An init of the guest's own that has just been started may not listen yet: what it gets till then is lost. */
  async #askToStop({ initPid, initObject, config }: LiveRecord, isOver: AbortSignal): Promise<void> {
    const { signal } = config.stop;
    const isListening = config.init !== 'own' || takesSignal(initPid, signal);
    this.#host.syscalld.signal(initObject, signal);
    if (isListening) return;
    while (!isOver.aborted && !takesSignal(initPid, signal)) await sleep(LISTEN_POLL_MS);
    if (!isOver.aborted) this.#host.syscalld.signal(initObject, signal);
  }

  /** Resolves when the present run ends. @throws StateError guest-stopped */
  async wait(guest: Guest): Promise<GuestExit> {
    if (guest.ended && isActive(guest)) return await guest.ended.promise;
    if (guest.live?.exit) return guest.live.exit;
    throw stopped('wait for', guest);
  }

  /** The command of a guest has ended, its caller may know: whoever wants the guest next waits until the rest is gone too. */
  ending(object: number): void {
    const guest = this.#instance.byInit.get(object);
    if (guest === undefined) return;
    if (guest.state === 'starting') {
      guest.isEndingEarly = true;
      return;
    }
    guest.gone = Promise.withResolvers<number>();
    this.#finishSoon(guest, guest.gone.promise);
  }

  /** A process has ended. Returns whether it was the process 1 of a guest. */
  exited(object: number, waitStatus: number): boolean {
    const guest = this.#instance.byInit.get(object);
    if (!guest) return false;
    if (guest.gone) guest.gone.resolve(waitStatus);
    else if (guest.state === 'starting')
      guest.earlyExit = waitStatus; // the start goes on first, or fails for that
    else this.#finishSoon(guest, waitStatus);
    return true;
  }

  /** Whoever waits for the repair does not wait for hooks. */
  async finishAdopted(guest: Guest, waitStatus: number): Promise<void> {
    if (this.#instance.hooks.has(guest, 'postStop', 'postpostStop')) this.#finishSoon(guest, waitStatus);
    else await this.#finish(guest, waitStatus);
  }

  #finishSoon(guest: Guest, waitStatus: number | Promise<number>): void {
    void this.#finish(guest, waitStatus).catch((error: unknown) => {
      this.#instance.onFailure(`clean up guest "${guest.name}"`, error);
    });
  }

  async #finish(guest: Guest, waitStatus: number | Promise<number>): Promise<void> {
    guest.state = 'stopping';
    this.#instance.health.end(guest);
    const { live, ended } = guest;
    let exit: GuestExit | undefined;
    // Waits for a start that is just coming to its end, and keeps the next one off until all is cleaned up.
    await this.#instance.inTurn(guest, async () => {
      const status = await waitStatus;
      const run = guest.live ?? live;
      exit = { code: exitCodeOfInit(status), at: new Date().toISOString(), cause: causeOf(run, status) };
      if (run) {
        this.#instance.byInit.delete(run.initObject);
        this.#host.syscalld.drop(run.initObject);
        if (run.logObject) this.#host.syscalld.drop(run.logObject);
      }
      this.#instance.oom.end(guest);
      this.#instance.limitHits.end(guest);
      void this.#instance.attempt('forget forks', () => this.#instance.forks.end(guest));
      const facts = { EXIT_CODE: exit.code ?? '', CAUSE: exit.cause };
      await this.#instance.hooks.try(guest, 'postStop', facts);
      await this.#instance.attempt(`clean up guest "${guest.name}"`, () =>
        this.#host.removeCgroup(guest.xid),
      );
      const last = guest.live ?? run;
      const { network, broker, link } = last ?? {};
      if (broker) this.#instance.brokers.drop(broker);
      if (last && network) {
        guest.live = { ...last, network: undefined }; // others that end now do not leave it their addresses
        await this.#instance.closeNetwork(guest, network);
      }
      if (link)
        await this.#instance.attempt(`remove interface "${link.name}"`, () =>
          removeLink(this.#host, guest, link),
        );
      if (guest.isEphemeral) {
        await this.#instance.attempt(`delete guest "${guest.name}"`, () =>
          this.#instance.removeFiles(guest.name),
        );
        rmSync(guestPaths(this.#host.paths, guest.name).live, { force: true });
        this.#instance.registry.remove(guest);
      } else if (run) {
        // Who stops it while it ends by itself does not want it back.
        const asked = { ...run, stopAsked: run.stopAsked ?? guest.live?.stopAsked };
        this.#instance.restarts.ended(guest, asked, { ...exit, cause: causeOf(asked, status) });
        this.#instance.remember(guest, { ...asked, isPaused: false, exit });
      }
      await this.#instance.hooks.try(guest, 'postpostStop', facts);
      guest.state = 'stopped';
      this.#host.events.publish(guest, 'stopped', { exitCode: exit.code, cause: exit.cause });
      this.#instance.restarts.schedule(guest);
    });
    if (exit) ended?.resolve(exit);
  }
}
