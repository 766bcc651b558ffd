/** The brokers of guests: who has one, and what it answers. */
import { idRangeOf } from '../context/id-map.ts';
import { possibleCpus } from '../sys/bpf/cpus.ts';
import { answersLayout } from '../views/answers.ts';
import type { GuestConfig } from './config-types.ts';
import { configOf, type Guest, type LiveBroker } from './guest.ts';
import type { Host } from './host.ts';
import type { Networks } from './networks.ts';
import { guestPaths } from './paths.ts';
import { type BrokerSpec, planBroker } from './plan-broker.ts';
import type { QuotaSpec } from './plan-quota-service.ts';
import { brokeredCalls, limitsOf } from './spec.ts';
import type { GuestStorage } from './storage.ts';

/** Keeps the brokers of one instance. */
export class Brokers {
  readonly #host: Host;
  readonly #networks: Networks;
  readonly #storage: GuestStorage;

  constructor(host: Host, networks: Networks, storage: GuestStorage) {
    this.#host = host;
    this.#storage = storage;
    this.#networks = networks;
  }

  /**
   * Decides the broker of a guest that starts. Changes nothing that lasts but that there is a fence.
   *
   * @param config what it is started with
   * @param init object of its process 1
   * @returns undefined for a guest that has none
   */
  async plan(guest: Guest, config: GuestConfig, init: number): Promise<BrokerSpec | undefined> {
    const calls = brokeredCalls(this.#host, config);
    if (calls === undefined) return undefined;
    const { syscalld, cgroups, kernel, paths, views } = this.#host;
    const { service } = cgroups.place(guest.xid, limitsOf(config).cpuset);
    const isMeasured = views !== undefined && (calls.sysinfo || calls.affinity);
    const sockets = calls.sockets && { fence: await this.#networks.brokerFence(guest) };
    const state = calls.quota ? await this.#storage.userQuotaState(guest) : undefined;
    const quota: QuotaSpec | undefined =
      state && (state.user || state.group)
        ? {
            directory: guestPaths(paths, guest.name).directory,
            xid: guest.xid,
            views: (await this.#host.coversLinks()) ? views : undefined,
          }
        : undefined;
    return {
      cgroup: service.leaf,
      joins: service.joins,
      uid: idRangeOf(guest.xid).hostBase,
      objects: {
        process: syscalld.newObject(),
        control: syscalld.newObject(),
        ...((isMeasured || calls.quota) && sockets?.fence?.raw ? { rawMaker: syscalld.newObject() } : {}),
        ...(quota && state && { quota: { process: syscalld.newObject(), ...state } }),
      },
      takesTurns: kernel.major > 6 || (kernel.major === 6 && kernel.minor >= 6),
      init,
      sockets,
      measure: isMeasured
        ? { layout: answersLayout(possibleCpus()), views: { objects: views, xid: guest.xid } }
        : undefined,
      quota: quota ?? (calls.quota ? 'none' : undefined),
    };
  }

  /**
   * Starts another broker for a running guest: the first one only goes on with the processes it knows.
   *
   * @param init object of its process 1
   */
  async restart(guest: Guest, init: number): Promise<LiveBroker | undefined> {
    const spec = await this.plan(guest, configOf(guest), init);
    if (spec === undefined) return undefined;
    const p = this.#host.program();
    planBroker(p, spec);
    await this.#host.syscalld.run(`start the broker of guest "${guest.name}"`, p);
    return spec.objects;
  }

  /** Forgets a broker, which ends when nobody asks it any more. */
  drop(broker: LiveBroker): void {
    for (const object of brokerObjects(broker)) this.#host.syscalld.drop(object);
  }
}

/** Returns all objects of a broker that are known here. */
export function brokerObjects({ process, control, rawMaker = 0, quota }: LiveBroker): readonly number[] {
  return [control, process, rawMaker, quota?.process ?? 0].filter((object) => object !== 0);
}
