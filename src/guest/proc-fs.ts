/**
 * Linux-VServer's Proc-FS as files: on the host below `run/proc`, of all guests; in a guest over /proc/driver, of itself.
 * Names and texts are those of virtual-proc.ts; here they have numbers, which the kernel knows them by.
 */
import { realpathSync } from 'node:fs';
import { join } from 'node:path';
import { UserError } from '../base/errors.ts';
import { isXid } from '../base/ids.ts';
import { FUSE_ERRNO, type FuseNode, type FuseRequest } from '../spec/fuse-wire.ts';
import { parseMountInfo } from '../spec/mountinfo.ts';
import { readIfThere } from '../sys/files.ts';
import type { FuseReply } from '../sys/fuse-relay.ts';
import { answerFuse, type FuseEntry, type FuseTree } from '../sys/fuse-tree.ts';
import { NODES, OWN_NETWORK, OWN_PROC_FS } from '../views/files.ts';
import type { Guest } from './guest.ts';
import type { Manager } from './manager.ts';
import type { Viewer } from './virtual-proc.ts';

type VirtualProc = typeof import('./virtual-proc.ts');

/** Of what the host sees; below are files of views, from OWN_PROC_FS on what a guest sees, from OWN_NETWORK on views again. */
const HOST_PROC_FS = 64;
/** The whole of it, as the host sees it. */
export const PROC_FS_ROOT: number = HOST_PROC_FS;
/** Its name in the file system of views, and in the run directory. */
export const PROC_FS_NAME = 'proc';

/** Numbers within one's own: they must never change, as a kernel may know them. */
const CONTEXT = 16;
const NETWORK = 32;
const PATHS: ReadonlyMap<number, string> = new Map([
  [0, ''],
  [1, 'virtual'],
  [2, 'virtnet'],
  [3, 'virtual/info'],
  [4, 'virtual/status'],
  [5, 'virtnet/info'],
  [6, 'virtnet/status'],
  ...['', 'info', 'status', 'limit', 'sched', 'cvirt', 'cacct', 'nsproxy'].map(
    (name, i) => [CONTEXT + i, `virtual/ID/${name}`] as const,
  ),
  ...['', 'info', 'status'].map((name, i) => [NETWORK + i, `virtnet/ID/${name}`] as const),
]);
const NUMBERS: ReadonlyMap<string, number> = new Map([...PATHS].map(([number, path]) => [path, number]));
/** How long a text holds. The table of limits takes milliseconds to make, and a guest may read for ever. */
const HOLD_MS = { host: 50, guest: 1000 } as const;

interface Place {
  readonly viewer: Viewer;
  /** As virtual-proc.ts has it. */
  readonly path: string;
}

/** Whether a node is of the Proc-FS. */
export function isProcFsNode(node: number): boolean {
  const number = node % NODES;
  return node >= HOST_PROC_FS && number >= HOST_PROC_FS && number < OWN_NETWORK;
}

/** Whether it is mounted below a run directory. To look there from here would wait for ourselves. */
export function isProcFsMounted(run: string): boolean {
  const path = join(realpathSync(run), PROC_FS_NAME);
  const mounts = parseMountInfo(readIfThere('/proc/self/mountinfo') ?? '');
  return mounts.some(({ mountPoint }) => mountPoint === path);
}

/** Answers for the Proc-FS of an instance. */
export class ProcFs implements FuseTree {
  readonly #manager: Manager;
  readonly #changes = new Map<number, { readonly names: string; readonly atMs: number }>();
  #listed:
    | { readonly node: number; readonly names: string; readonly entries: readonly FuseEntry[] }
    | undefined;
  /** Loaded by the first who looks. */
  #virtual: VirtualProc | undefined;

  constructor(manager: Manager) {
    this.#manager = manager;
  }

  answer(request: FuseRequest): FuseReply | Promise<FuseReply> {
    if (this.#virtual) return answerFuse(this, request);
    return this.#load().then(
      () => answerFuse(this, request),
      () => ({ errno: FUSE_ERRNO.EIO }), // as when our sources are just being replaced
    );
  }

  async #load(): Promise<void> {
    this.#virtual = await import('./virtual-proc.ts');
  }

  lookup(node: number, name: string): FuseNode | undefined {
    const place = this.#placeOf(node);
    const child = place && this.#childOf(node, place, name);
    if (child === undefined) return undefined;
    const attributes = this.attributes(child);
    const isGuest = /^\d+$/.test(name);
    return isGuest && !attributes.isDirectory ? undefined : { ...attributes, mayGo: isGuest };
  }

  attributes(node: number): FuseNode {
    const names = this.#names(node);
    const isDirectory = names !== undefined;
    if (!isDirectory || (node % NODES) % HOST_PROC_FS > NUMBER_OF_AREAS) return { node, isDirectory };
    // Guests come and go: the kernel asks each time, and lists it anew when its time is another one.
    const text = names.join();
    const known = this.#changes.get(node);
    const now = { names: text, atMs: Math.max(Date.now(), (known?.atMs ?? 0) + 1) };
    if (known?.names !== text) this.#changes.set(node, now);
    return { node, isDirectory, changedAtMs: known?.names === text ? known.atMs : now.atMs };
  }

  entries(node: number): readonly FuseEntry[] {
    const place = this.#placeOf(node);
    const names = this.#names(node);
    if (!place || !names) return [];
    // The kernel asks for the same list in many pieces.
    const text = names.join();
    if (place.path !== '' && this.#listed?.node === node && this.#listed.names === text)
      return this.#listed.entries;
    const entries = names.flatMap((listed) => {
      const name = listed.replace(/\/$/, '');
      const child = this.#childOf(node, place, name);
      if (child === undefined) return [];
      if (place.path === '') return [{ name, ...this.attributes(child) }];
      const isDirectory = listed !== name;
      return [{ name, node: child, isDirectory, mayGo: isDirectory }];
    });
    this.#listed = { node, names: text, entries };
    return entries;
  }

  /** Returns the node of a name in a directory. */
  #childOf(node: number, { viewer, path }: Place, name: string): number | undefined {
    const childPath = path === '' ? name : `${path}/${name}`;
    const child = numberOf(childPath, viewer, node);
    // Of what a guest sees, the number is the same whatever is asked for.
    return child === undefined || this.#placeOf(child)?.path !== childPath ? undefined : child;
  }

  async read(node: number): Promise<FuseReply> {
    const place = this.#placeOf(node);
    if (!place || !this.#virtual) return { errno: FUSE_ERRNO.ESRCH };
    try {
      const text = await this.#virtual.readVirtual(this.#manager, place.path, place.viewer);
      return { text, holdMs: place.viewer === 'host' ? HOLD_MS.host : HOLD_MS.guest };
    } catch (error) {
      // It ran a moment ago, or does not answer.
      return { errno: error instanceof UserError ? FUSE_ERRNO.ESRCH : FUSE_ERRNO.EIO };
    }
  }

  #names(node: number): readonly string[] | undefined {
    const place = this.#placeOf(node);
    return place && this.#virtual?.listVirtual(this.#manager, place.path, place.viewer);
  }

  #placeOf(node: number): Place | undefined {
    const block = Math.floor(node / NODES);
    const isOwn = node % NODES >= OWN_PROC_FS;
    const number = (node % NODES) - (isOwn ? OWN_PROC_FS : HOST_PROC_FS);
    const path = PATHS.get(number)?.replace(/\/$/, '');
    if (path === undefined) return undefined;
    if (!isOwn) return { viewer: 'host', path: path.replace('ID', String(block)) };
    const viewer: Guest | undefined = isXid(block) ? this.#manager.registry.numbered(block) : undefined;
    const nid = viewer?.live?.network?.nid;
    return viewer && { viewer, path: path.replace('ID', String(number < NETWORK ? block : nid)) };
  }
}

const NUMBER_OF_AREAS = 2;

/** Returns the node of a path, in the same tree as another one. */
function numberOf(path: string, viewer: Viewer, sibling: number): number | undefined {
  const [area = '', id = '', file = ''] = path.split('/').filter((part) => part !== '');
  const isNumber = /^\d+$/.test(id);
  const number = NUMBERS.get(isNumber ? `${area}/ID/${file}` : [area, id].filter(Boolean).join('/'));
  if (number === undefined) return undefined;
  if (viewer !== 'host') return sibling - (sibling % NODES) + OWN_PROC_FS + number;
  return (isNumber ? Number(id) : 0) * NODES + HOST_PROC_FS + number;
}
