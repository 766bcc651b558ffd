/**
 * A guest that runs gets signals, and is taken off the CPUs and put back.
 */
import { basename } from 'node:path';
import { StateError } from '../base/errors.ts';
import { isXid } from '../base/ids.ts';
import { parseProcCgroup } from '../spec/proc-cgroup.ts';
import { parseProcStatus } from '../spec/proc-status.ts';
import { readIfThere } from '../sys/files.ts';
import { StepError } from '../sys/syscalld.ts';
import { type Guest, isActive } from './guest.ts';
import { FREEZE_TIMEOUT_MS, type Host } from './host.ts';
import { type Instance, stopped } from './instance.ts';
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

  /**
   * Sends a signal to a process of whatever guest, named by its pid on the host. KILL for process 1 ends the guest, as `kill`.
   *
   * @returns its guest
   * @throws StateError process-not-found
   */
  async signalHostPid(pid: number, signal: number): Promise<Guest> {
    const { syscalld } = this.#host;
    const what = `signal process ${pid}`;
    const object = syscalld.newObject();
    try {
      // It is held before it is looked whose it is: the number may become another's meanwhile.
      const p = this.#host.program();
      p.keep(p.sys('pidfd_open', [pid, 0], { about: `process ${pid}` }), object);
      await syscalld.run(what, p);
      const guest = this.#guestOf(pid);
      if (guest === undefined) throw notOfGuest(pid, "a process that is no guest's");
      if (pid === guest.live?.initPid) this.kill(guest, signal);
      else {
        const sender = this.#host.program();
        sender.sys('pidfd_send_signal', [sender.import(object), signal, 0, 0], { about: `process ${pid}` });
        await syscalld.run(what, sender);
      }
      return guest;
    } catch (error) {
      // EINVAL: a thread.
      if (!(error instanceof StepError) || !['ESRCH', 'EINVAL'].includes(error.errnoName)) throw error;
      throw notOfGuest(pid, 'no such process', error);
    } finally {
      syscalld.drop(object);
    }
  }

  #guestOf(pid: number): Guest | undefined {
    const cgroups = readIfThere(`/proc/${pid}/cgroup`);
    const status = readIfThere(`/proc/${pid}/status`);
    if (cgroups === undefined || status === undefined) return undefined;
    // Its broker sits in its cgroup, but in the host's pid namespace.
    if (parseProcStatus(status).nsPids.length < 2) return undefined;
    const path = parseProcCgroup(cgroups).find(({ hierarchyId }) => hierarchyId === 0)?.path ?? '';
    const [instance, name = ''] = path.split('/').slice(1);
    const xid = instance === basename(this.#host.cgroups.directory) ? Number(name) : 0;
    const guest = isXid(xid) ? this.#instance.registry.numbered(xid) : undefined;
    return guest && isActive(guest) ? guest : undefined;
  }

  /** Takes a guest off the CPUs; fine if it is paused already. @throws StateError guest-stopped, freeze-timeout */
  async pause(guest: Guest): Promise<void> {
    const isNew = await this.#turn('pause', guest, 'paused', () =>
      this.#host.cgroups.freeze(guest.xid, FREEZE_TIMEOUT_MS),
    );
    if (isNew) this.#host.events.publish(guest, 'paused', {});
  }

  /** Lets a paused guest run on; fine if it runs. @throws StateError guest-stopped, freeze-timeout */
  async resume(guest: Guest): Promise<void> {
    const isNew = await this.#turn('resume', guest, 'running', () =>
      this.#host.cgroups.thaw(guest.xid, FREEZE_TIMEOUT_MS),
    );
    if (isNew) this.#host.events.publish(guest, 'resumed', {});
  }

  /** Not while others have it frozen, to read its files. Returns whether its state was another one. */
  async #turn(
    verb: string,
    guest: Guest,
    state: 'paused' | 'running',
    turn: () => Promise<void>,
  ): Promise<boolean> {
    return await this.#instance.exclusive(guest, async () => {
      const before = guest.state;
      if (before !== 'running' && before !== 'paused') throw stopped(verb, guest);
      let failure: unknown;
      await turn().catch((error: unknown) => {
        failure = error;
      });
      // Its end waits for us, but has begun.
      const live = this.#instance.running(verb, guest);
      if (guest.state !== before) throw stopped(verb, guest);
      if (failure !== undefined) throw failure;
      guest.state = state;
      this.#instance.remember(guest, { ...live, isPaused: state === 'paused' });
      return before !== state;
    });
  }
}

function notOfGuest(pid: number, found: string, cause?: unknown): StateError {
  return new StateError(
    'process-not-found',
    `cannot signal process ${pid}: found ${found}; need a process of a guest by its pid on the host`,
    { cause, hint: 'see `vserver ps`, column PID; or name the guest for pids as they are there' },
  );
}
