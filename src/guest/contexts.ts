/**
 * Contexts that wait for their guest. On cgroup v1 a process can only be moved into a group, and the first move after a
 * while costs the kernel an RCU grace period, 7 to 15 ms, with cgroup_mutex held (cgroup_attach_lock in
 * kernel/cgroup/cgroup.c). So workers are parked beforehand in the groups of the next contexts, and of a guest that has
 * just been exec'ed into; a start or exec from there touches no group at all.
 * On cgroup v2 processes are born in their group (CLONE_INTO_CGROUP, Linux 5.7), and nothing is prepared.
 */
import type { Xid } from '../base/ids.ts';
import type { CgroupPlan } from '../resources/cgroup-driver.ts';
import type { Host } from './host.ts';
import { planCgroups } from './plan-start.ts';
import type { Registry } from './registry.ts';

/** Contexts made ready at once: the moves after the first cost 40 µs each. */
const BATCH = 8;
/** Made anew when so few are left. */
const LOW = 4;
/** How long a worker waits in a guest for the next exec. */
const EXEC_WORKER_MS = 10_000;

/** A context's number, and the worker that sits in its cgroups; 0: none does. */
export interface Context {
  readonly xid: Xid;
  readonly worker: number;
}

/** Prepares contexts. */
export class Contexts {
  readonly #host: Host;
  readonly #registry: Registry;
  readonly #ready: Context[] = [];
  #filling: Promise<void> | undefined;
  #isClosed = false;
  readonly #inGuests = new Map<Xid, { readonly worker: Promise<number>; readonly timer: NodeJS.Timeout }>();

  constructor(host: Host, registry: Registry) {
    this.#host = host;
    this.#registry = registry;
  }

  /** Takes a new context, prepared if one is ready. */
  take(): Context {
    return this.#ready.shift() ?? { xid: this.#registry.reserveXid(), worker: 0 };
  }

  /** Prepares more contexts if few are left. Called when a start is over, so as not to be in its way. */
  refill(): void {
    if (this.#isClosed || this.#ready.length >= LOW) return;
    this.#filling ??= this.#fill().finally(() => {
      this.#filling = undefined;
    });
  }

  async #fill(): Promise<void> {
    while (this.#ready.length < BATCH && !this.#isClosed) {
      const xid = this.#registry.reserveXid();
      const plan = this.#host.cgroups.plan(xid, {});
      const worker = plan.joins.length === 0 ? 0 : await this.#park(plan);
      if (worker === 0) {
        this.#registry.release(xid);
        return;
      }
      this.#ready.push({ xid, worker });
    }
  }

  /** Takes the worker that waits in a running guest, 0 if none does. */
  async takeInGuest(xid: Xid): Promise<number> {
    const waiting = this.#inGuests.get(xid);
    if (!waiting) return 0;
    clearTimeout(waiting.timer);
    this.#inGuests.delete(xid);
    return await waiting.worker;
  }

  /** Sends a worker into a running guest to wait for the next exec. Called when an exec is under way. */
  refillGuest(xid: Xid): void {
    if (this.#isClosed || this.#inGuests.has(xid)) return;
    const plan = this.#host.cgroups.plan(xid, {});
    if (plan.joins.length === 0) return;
    const worker = this.#park({ ...plan, directories: [] });
    const timer = setTimeout(() => void this.leave(xid), EXEC_WORKER_MS);
    this.#inGuests.set(xid, { worker, timer });
  }

  /** Ends the worker that waits in a guest: its groups can be removed. */
  async leave(xid: Xid): Promise<void> {
    const worker = await this.takeInGuest(xid);
    if (worker !== 0) this.#host.syscalld.drop(worker);
  }

  async #park(plan: Pick<CgroupPlan, 'directories' | 'joins'>): Promise<number> {
    const p = this.#host.program();
    p.park = this.#host.syscalld.newObject();
    planCgroups(p, plan);
    try {
      await this.#host.syscalld.run('prepare a context', p);
      return p.park;
    } catch {
      return 0; // nothing is lost: the start makes the groups itself, and says what is wrong with them
    }
  }

  /** Ends all waiting workers and removes what was prepared. */
  async close(): Promise<void> {
    this.#isClosed = true;
    for (const xid of [...this.#inGuests.keys()]) await this.leave(xid);
    await this.#filling;
    for (const { xid, worker } of this.#ready.splice(0)) {
      this.#host.syscalld.drop(worker);
      await this.#host.removeCgroup(xid);
    }
  }
}
