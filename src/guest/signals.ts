/**
 * A guest that runs gets signals, and is taken off the CPUs and put back.
 */
import { StateError } from '../base/errors.ts';
import { StepError } from '../sys/syscalld.ts';
import type { Guest } from './guest.ts';
import { FREEZE_TIMEOUT_MS, type Host } from './host.ts';
import type { Instance } from './instance.ts';
import { planSignals } from './plan-signal.ts';

const SIGKILL = 9;

/** Signals guests, pauses and resumes them. */
export class Signals {
  readonly #instance: Instance;
  readonly #host: Host;

  constructor(instance: Instance) {
    this.#instance = instance;
    this.#host = instance.host;
  }

  /** Sends a signal to a guest's process 1. @throws StateError guest-stopped */
  kill(guest: Guest, signal: number): void {
    const live = this.#instance.running('signal', guest);
    if (signal === SIGKILL) {
      this.#instance.restarts.stopAsked(guest);
      this.#instance.remember(guest, { ...live, stopAsked: 'operator' });
    }
    this.#host.syscalld.signal(live.initObject, signal);
  }

  /**
   * Sends a signal to processes of a guest, named by their pids there.
   *
   * @throws StateError guest-stopped, process-not-found: then those before it have got theirs
   */
  async signalProcesses(guest: Guest, guestPids: readonly number[], signal: number): Promise<void> {
    const live = this.#instance.running('signal', guest);
    const object = this.#host.syscalld.newObject();
    const p = this.#host.program();
    planSignals(p, p.import(live.initObject), object, guestPids, signal);
    try {
      await this.#host.syscalld.run(`signal processes of guest "${guest.name}"`, p);
    } catch (error) {
      if (!(error instanceof StepError) || error.errnoName !== 'ESRCH') throw error;
      throw new StateError(
        'process-not-found',
        `cannot signal processes of guest "${guest.name}": found no process ${error.step?.split(' ').at(-1)}; ` +
          'need pids as in the guest',
        { cause: error, hint: `see \`vserver ps ${guest.name}\`, column GPID` },
      );
    } finally {
      this.#host.syscalld.drop(object);
    }
  }

  /** Takes a guest off the CPUs; fine if it is paused already. @throws StateError guest-stopped, freeze-timeout */
  async pause(guest: Guest): Promise<void> {
    const live = this.#instance.running('pause', guest);
    await this.#host.cgroups.freeze(guest.xid, FREEZE_TIMEOUT_MS);
    const wasPaused = guest.state === 'paused';
    guest.state = 'paused';
    this.#instance.remember(guest, { ...live, isPaused: true });
    if (!wasPaused) this.#host.events.publish(guest, 'paused', {});
  }

  /** Lets a paused guest run on; fine if it runs. @throws StateError guest-stopped, freeze-timeout */
  async resume(guest: Guest): Promise<void> {
    const live = this.#instance.running('resume', guest);
    await this.#host.cgroups.thaw(guest.xid, FREEZE_TIMEOUT_MS);
    const wasPaused = guest.state === 'paused';
    guest.state = 'running';
    this.#instance.remember(guest, { ...live, isPaused: false });
    if (wasPaused) this.#host.events.publish(guest, 'resumed', {});
  }
}
