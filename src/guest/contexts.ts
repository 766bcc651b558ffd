/**
 * Contexts that wait for their guest. Making one costs the kernel more than all the rest of a start, the namespaces
 * 0.6 ms alone: so a few are made when nobody waits.
 */
import { StateError } from '../base/errors.ts';
import type { Xid } from '../base/ids.ts';
import { idRangeOf } from '../context/id-map.ts';
import { Program, type Result, type Runnable } from '../sys/program.ts';
import { StepError } from '../sys/syscalld.ts';
import { vary } from '../sys/varying.ts';
import { VIEW_GROUPS, type ViewGroup } from '../views/files.ts';
import type { Host } from './host.ts';
import { refuseWithoutOpenFiles } from './open-files.ts';
import { type ContextSpec, planContext } from './plan-context.ts';
import { ownerOf } from './plan-types.ts';
import type { Registry } from './registry.ts';
import { viewFilesOf } from './view-tree.ts';

/** Contexts made ready in one go. */
const BATCH = 6;
/** Made anew when so few are left. */
const LOW = 3;
const SIGKILL = 9;

/** A context whose two processes wait for the programs of a start. */
export interface Context {
  readonly xid: Xid;
  readonly initPid: number;
  /** The worker, process 1, and process 1 as the worker that takes the guest's program. */
  readonly objects: { readonly worker: number; readonly init: number; readonly initPrograms: number };
}

/** What a guest's configuration wants of its context. */
export interface ContextRequest {
  /** Undefined: any. */
  readonly xid: Xid | undefined;
  readonly hostNetwork: boolean;
  readonly ownSys: boolean;
  readonly devBytes: number;
  /** CPUs it is bound to, as cgroup v1 wants to know early; undefined: all. */
  readonly cpuset: string | undefined;
  readonly sysctls: Readonly<Record<string, string>>;
  /** What is shown in the guest's own measure. */
  readonly views: readonly ViewGroup[];
}

/** What contexts made ahead are like; a guest that wants another kind gets one made for it. */
const USUAL: Omit<ContextRequest, 'xid'> = {
  hostNetwork: false,
  ownSys: false,
  devBytes: 64 * 1024 ** 2,
  cpuset: undefined,
  sysctls: {},
  views: VIEW_GROUPS,
};

function isUsual({ xid, hostNetwork, ownSys, devBytes, cpuset, sysctls, views }: ContextRequest): boolean {
  return (
    xid === undefined &&
    hostNetwork === USUAL.hostNetwork &&
    ownSys === USUAL.ownSys &&
    devBytes === USUAL.devBytes &&
    cpuset === USUAL.cpuset &&
    Object.keys(sysctls).length === 0 &&
    views.length === VIEW_GROUPS.length
  );
}

/** Makes contexts. */
export class Contexts {
  readonly #host: Host;
  readonly #registry: Registry;
  readonly #ready: Context[] = [];
  #filling: Promise<void> | undefined;
  #isClosed = false;

  constructor(host: Host, registry: Registry) {
    this.#host = host;
    this.#registry = registry;
  }

  /**
   * Returns a context, one made ahead if it fits. Without an xid asked for its number is reserved.
   *
   * @throws StepError; StateError too-many-files
   */
  async take(request: ContextRequest): Promise<Context> {
    refuseWithoutOpenFiles();
    const ready = isUsual(request) ? this.#ready.shift() : undefined;
    if (ready) return ready;
    const xid = request.xid ?? this.#registry.reserveXid();
    try {
      return await this.#make(xid, request);
    } catch (error) {
      if (request.xid === undefined) this.#registry.release(xid);
      throw error;
    }
  }

  async #make(xid: Xid, request: Omit<ContextRequest, 'xid'>, isAgain = false): Promise<Context> {
    const { program, init, objects } = this.plan(xid, request);
    try {
      const outcome = await this.#host.syscalld.run(`make context ${xid}`, program);
      return { xid, initPid: outcome.result(init), objects };
    } catch (error) {
      await this.discard({ xid, initPid: 0, objects });
      // A cgroup that a former run left would keep its limits: it is gone now.
      const isLeftOver =
        error instanceof StepError && error.call === 'mkdirat' && error.errnoName === 'EEXIST';
      if (isLeftOver && !isAgain) return await this.#make(xid, request, true);
      throw error;
    }
  }

  /** Returns the program that makes a context. */
  plan(
    xid: Xid,
    request: Omit<ContextRequest, 'xid'>,
  ): { readonly program: Runnable; readonly init: Result; readonly objects: Context['objects'] } {
    const { syscalld, cgroups } = this.#host;
    const objects = {
      worker: syscalld.newObject(),
      init: syscalld.newObject(),
      initPrograms: syscalld.newObject(),
    };
    const { directories, handDown, leaf, joins } = cgroups.place(xid, request.cpuset);
    const { hostNetwork, ownSys, devBytes, sysctls } = request;
    const spec: ContextSpec = {
      hostNetwork,
      ownSys,
      devBytes,
      sysctls,
      owner: ownerOf(idRangeOf(xid)),
      cgroup: {
        directories: directories.map(vary),
        handDown: handDown.map(({ path, text }) => ({ path: vary(path), text })),
        leaf: vary(leaf),
        joins: joins.map(vary),
      },
      masks: this.#host.masks,
      shared: this.#host.shared,
      views:
        this.#host.views === undefined
          ? undefined
          : {
              objects: this.#host.views,
              directory: vary(String(xid)),
              files: viewFilesOf(request.views),
            },
      objects: {
        worker: vary(objects.worker),
        init: vary(objects.init),
        initPrograms: vary(objects.initPrograms),
      },
    };
    const { program, planned: init } = Program.alike(this.#host.abi, spec, planContext);
    return { program, init, objects };
  }

  /** Ends a context that no guest came of, and removes its cgroups. */
  async discard(context: Context): Promise<void> {
    const { worker, init, initPrograms } = context.objects;
    this.#host.syscalld.signal(init, SIGKILL);
    for (const object of [init, initPrograms, worker]) this.#host.syscalld.drop(object);
    await this.#host.removeCgroup(context.xid);
  }

  /** A process 1 has ended before a guest came of it. */
  exited(initObject: number): void {
    const index = this.#ready.findIndex((one) => one.objects.init === initObject);
    const [lost] = index < 0 ? [] : this.#ready.splice(index, 1);
    if (lost) void this.discard(lost).finally(() => this.#registry.release(lost.xid));
  }

  /** Makes more contexts if few are left. Called when a start is over, so as not to be in its way. */
  refill(): void {
    if (this.#isClosed || this.#ready.length >= LOW) return;
    this.#filling ??= this.#fill().finally(() => {
      this.#filling = undefined;
    });
  }

  async #fill(): Promise<void> {
    while (this.#ready.length < BATCH && !this.#isClosed) {
      const xid = this.#registry.reserveXid();
      try {
        this.#ready.push(await this.#make(xid, USUAL));
      } catch (error) {
        this.#registry.release(xid);
        if (error instanceof StateError) throw error;
        return; // the next start tries again, and says what is wrong
      }
    }
  }

  /** Makes those that wait anew: something that all share has become another one. */
  async renew(): Promise<void> {
    await this.#filling;
    for (const context of this.#ready.splice(0)) {
      await this.discard(context);
      this.#registry.release(context.xid);
    }
    this.refill();
  }

  /** Ends all contexts that wait. */
  async close(): Promise<void> {
    this.#isClosed = true;
    await this.#filling;
    for (const context of this.#ready.splice(0)) await this.discard(context);
  }
}
