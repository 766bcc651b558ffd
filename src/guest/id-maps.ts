/**
 * Id maps of volumes: whose ids the files on disk have that a guest shall see with its own. A mount takes such a map from
 * a user namespace (mount_setattr(2), Linux 5.12).
 */
import { IDS_PER_CONTEXT, idRangeOf } from '../context/id-map.ts';
import { type GuestMount, HOST_IDS } from './config-types.ts';
import type { Guest } from './guest.ts';
import type { Host } from './host.ts';
import { planUserNamespace } from './plan-context.ts';

/** User namespaces whose maps the volumes of one guest need while it starts. */
export class IdMaps implements Disposable {
  readonly #host: Host;
  readonly #objects: ReadonlyMap<number, number>;

  private constructor(host: Host, objects: ReadonlyMap<number, number>) {
    this.#host = host;
    this.#objects = objects;
  }

  /** Makes those that a guest needs beside its own; mostly none. */
  static async make(host: Host, { config, xid, name }: Guest): Promise<IdMaps> {
    const wanted = new Set(config.mounts.flatMap((mount) => diskXidOf(mount) ?? []));
    const objects = new Map<number, number>();
    const made = new IdMaps(host, objects);
    try {
      for (const diskXid of wanted) {
        const [object, child] = [host.syscalld.newObject(), host.syscalld.newObject()];
        objects.set(diskXid, object);
        const p = host.program();
        p.keep(planUserNamespace(p, child, idRangeOf(xid), diskXid * IDS_PER_CONTEXT), object);
        await host.syscalld.run(`map the volumes of guest "${name}"`, p);
        host.syscalld.drop(child);
      }
    } catch (error) {
      made[Symbol.dispose]();
      throw error;
    }
    return made;
  }

  /** Object of the namespace for a range on disk. */
  get objects(): ReadonlyMap<number, number> {
    return this.#objects;
  }

  /** The mounts keep what they need. */
  [Symbol.dispose](): void {
    for (const object of this.#objects.values()) this.#host.syscalld.drop(object);
  }
}

function diskXidOf(mount: GuestMount): number | undefined {
  const diskXid = mount.type === 'bind' ? mount.diskXid : undefined;
  return diskXid === HOST_IDS ? undefined : diskXid;
}
