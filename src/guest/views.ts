/** The file system with the views of an instance's guests: its relay, its mounts, and who answers its requests. */
import { readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { isXid } from '../base/ids.ts';
import { FUSE_ERRNO, type FuseNode } from '../spec/fuse-wire.ts';
import { parseMountInfo } from '../spec/mountinfo.ts';
import { readIfThere, writeVolatile } from '../sys/files.ts';
import { FuseRelay, type FuseReply } from '../sys/fuse-relay.ts';
import { answerFuse, type FuseEntry, type FuseTree } from '../sys/fuse-tree.ts';
import { identifyProcess, isAlive, type ProcessIdentity } from '../sys/process.ts';
import type { Program } from '../sys/program.ts';
import { type HeldObject, StepError } from '../sys/syscalld.ts';
import {
  LIVE_VIEW_GROUPS,
  NETWORK_FILES,
  NODES,
  QUOTA_FILES,
  VIEW_GROUPS,
  type ViewGroup,
} from '../views/files.ts';
import type { LoadSample } from '../views/sample.ts';
import { type Guest, isActive, type LiveRecord } from './guest.ts';
import type { Host } from './host.ts';
import { hasNetworkViews } from './network-views.ts';
import {
  importViews,
  planProcFs,
  planProcFsEnd,
  planViews,
  planViewsAgain,
  planViewsTakeover,
  VIEWS_SOCKET,
  type ViewsObjects,
} from './plan-views.ts';
import { isProcFsMounted, isProcFsNode, PROC_FS_NAME, PROC_FS_ROOT, type ProcFs } from './proc-fs.ts';
import type { Registry } from './registry.ts';
import { type ViewSources, ViewTexts } from './view-texts.ts';
import { entriesOf, entryOf, fileOf, filesOf, ROOT_NODE } from './view-tree.ts';

const RECONNECT_MS = 100;

/** What `run/views.json` holds. */
interface ViewsRecord {
  readonly objects: ViewsObjects;
  readonly relay: ProcessIdentity;
}

/** Keeps the views of one instance. */
export class Views implements FuseTree {
  readonly #host: Host;
  readonly #registry: Registry;
  readonly #texts: ViewTexts;
  readonly #procFs: ProcFs;
  readonly #told = new Set<string>();
  #record: ViewsRecord | undefined;
  /** A relay that a former syscalld started. */
  #former: ProcessIdentity | undefined;
  #relay: FuseRelay | undefined;
  #isEnding = false;

  constructor(host: Host, sources: ViewSources, procFs: ProcFs) {
    this.#host = host;
    this.#registry = sources.registry;
    this.#procFs = procFs;
    this.#texts = new ViewTexts(host, sources, (what, error) => this.#failed(what, error));
  }

  /** Told of what goes wrong while a guest reads. */
  onFailure: (what: string, error: unknown) => void = () => {};

  get #file(): string {
    return join(this.#host.paths.run, 'views.json');
  }

  // ---- the file system --------------------------------------------------------------------------------------------

  /** Goes on with the relay of a former vserverd. Returns its objects, if syscalld has them still. */
  recover(held: readonly HeldObject[]): readonly number[] {
    const text = readIfThere(this.#file);
    const record = text === undefined ? undefined : (JSON.parse(text) as ViewsRecord); // our own file
    if (!record || !isAlive(record.relay)) return [];
    const pids = new Map(held.map(({ id, pid }) => [id, pid]));
    if (!pids.has(record.objects.mount) || pids.get(record.objects.relay) !== record.relay.pid) {
      this.#former = record.relay; // syscalld was started anew
      return [];
    }
    this.#record = record;
    return Object.values(record.objects);
  }

  /** Makes the file system, unless it is there, and serves it. Without it guests have no views, and `check` says why. */
  async prepare(): Promise<void> {
    try {
      this.#record ??= await this.#takeOver();
      if (!this.#record) {
        await this.#hideProcFs(); // of a relay that is no more
        this.#record = await this.#make();
      }
    } catch (error) {
      if (!(error instanceof StepError)) throw error;
      this.#host.viewsMissing = error.message;
      return;
    }
    this.#host.views = this.#record.objects;
    await this.#connect();
    await this.#showProcFs();
  }

  /** Mounts the Proc-FS on the host, unless it is there. Guests do without it, and `check` says why it is not. */
  async #showProcFs(): Promise<void> {
    const { paths, views } = this.#host;
    if (!views || isProcFsMounted(paths.run)) return;
    const p = this.#host.program();
    planProcFs(p, importViews(p, views), paths.run);
    this.#host.procFsMissing = await this.#tryProcFs('show the Proc-FS', p);
  }

  async #hideProcFs(): Promise<void> {
    const { paths } = this.#host;
    if (!isProcFsMounted(paths.run)) return;
    const p = this.#host.program();
    planProcFsEnd(p, paths.run);
    await this.#tryProcFs('end the Proc-FS', p);
  }

  async #tryProcFs(what: string, p: Program): Promise<string | undefined> {
    try {
      await this.#host.syscalld.run(what, p);
      return undefined;
    } catch (error) {
      if (!(error instanceof StepError)) throw error;
      this.#failed(what, error);
      return error.message;
    }
  }

  async #takeOver(): Promise<ViewsRecord | undefined> {
    if (!this.#former) return undefined;
    const { syscalld } = this.#host;
    const objects = this.#newObjects();
    const p = this.#host.program();
    planViewsTakeover(p, this.#former.pid, objects);
    try {
      await syscalld.run('take over the relay of views', p);
    } catch (error) {
      if (!(error instanceof StepError)) throw error;
      return undefined; // it has just ended
    }
    return this.#remember({ objects, relay: this.#former });
  }

  #drop(objects: ViewsObjects): void {
    for (const object of Object.values(objects)) if (object !== 0) this.#host.syscalld.drop(object);
  }

  #newObjects(): ViewsObjects {
    const { syscalld, detachedLayers } = this.#host;
    // Detached mounts can be layers since the kernel copies them too (Linux 6.15).
    const namespace = detachedLayers ? 0 : syscalld.newObject();
    return { mount: syscalld.newObject(), relay: syscalld.newObject(), namespace };
  }

  #remember(record: ViewsRecord): ViewsRecord {
    writeVolatile(this.#file, JSON.stringify(record));
    return record;
  }

  /**
   * A process has ended. If it was the relay there is another one when this resolves, and the guests that run have their
   * files of that.
   *
   * @returns whether it was
   */
  async exited(object: number): Promise<boolean> {
    if (object !== this.#record?.objects.relay || this.#isEnding) return false;
    this.#drop(this.#record.objects);
    this.#record = undefined;
    this.#host.views = undefined;
    await this.prepare();
    const views = this.#host.views;
    if (views === undefined) return true;
    for (const guest of this.#registry.list().filter(isActive)) {
      if (!guest.live) continue;
      const p = this.#host.program();
      const { initObject, config } = guest.live;
      const ofNetwork = (await hasNetworkViews(this.#host, config)) ? NETWORK_FILES : [];
      const ofQuota = guest.live.broker?.quota && (await this.#host.coversLinks()) ? QUOTA_FILES : [];
      const files = [...filesOf(config, config.views), ...ofNetwork, ...ofQuota];
      planViewsAgain(p, { init: p.import(initObject), views: importViews(p, views), xid: guest.xid }, files);
      await this.#host.syscalld.run(`show guest "${guest.name}" its views again`, p);
    }
    return true;
  }

  /**
   * Shows a guest that runs in its own measure what its configuration says. What is turned off tells the host's numbers
   * from now on; of what is turned on those files are put in place that the guest does not have yet.
   *
   * @returns the groups it has now
   */
  async change(guest: Guest, live: LiveRecord, wanted: readonly ViewGroup[]): Promise<readonly ViewGroup[]> {
    const isOn = (group: ViewGroup): boolean =>
      (LIVE_VIEW_GROUPS.includes(group) ? wanted : live.config.views).includes(group);
    const groups = VIEW_GROUPS.filter(isOn);
    const { views, syscalld } = this.#host;
    const added = groups.filter((group) => !live.config.views.includes(group));
    if (added.length === 0 || views === undefined) return groups;
    const mounts = parseMountInfo(readFileSync(`/proc/${live.initPid}/mountinfo`, 'latin1'));
    const isThere = (path: string): boolean =>
      mounts.some(({ mountPoint, fsType }) => mountPoint === path.replace(/\/$/, '') && fsType === 'fuse');
    const files = filesOf(live.config, added).filter(({ path }) => !isThere(path));
    if (files.length === 0) return groups;
    const p = this.#host.program();
    const init = p.import(live.initObject);
    planViewsAgain(p, { init, views: importViews(p, views), xid: guest.xid }, files);
    await syscalld.run(`show guest "${guest.name}" more views`, p);
    return groups;
  }

  async #make(): Promise<ViewsRecord> {
    const { syscalld, paths } = this.#host;
    const objects = this.#newObjects();
    const p = this.#host.program();
    const pid = planViews(p, { run: paths.run, attach: this.#host.attachPoint }, objects);
    const outcome = await syscalld.run('make the file system of views', p);
    const relay = identifyProcess(outcome.result(pid)) ?? { pid: outcome.result(pid), startTicks: -1 };
    return this.#remember({ objects, relay });
  }

  async #connect(): Promise<void> {
    const lost = (): void => {
      this.#relay = undefined;
      if (!this.#isEnding) setTimeout(() => void this.#connect(), RECONNECT_MS).unref();
    };
    this.#relay = await FuseRelay.connect(
      this.#host.paths.run,
      VIEWS_SOCKET,
      (request) => (isProcFsNode(request.node) ? this.#procFs.answer(request) : answerFuse(this, request)),
      lost,
    );
  }

  /** Ends them if no guest runs; else the relay goes on, for the next vserverd. */
  async end(): Promise<void> {
    this.#isEnding = true;
    // While it is served: nobody on the host shall wait there for who does not come.
    await this.#hideProcFs();
    this.#relay?.close();
    if (!this.#record || this.#registry.list().some(isActive)) return;
    this.#host.syscalld.signal(this.#record.objects.relay, SIGKILL);
    this.#drop(this.#record.objects);
    for (const path of [this.#file, join(this.#host.paths.run, VIEWS_SOCKET)]) rmSync(path, { force: true });
  }

  // ---- requests ---------------------------------------------------------------------------------------------------

  /** Guests are not listed, and every number is there: contexts are made before their guest is known. */
  lookup(node: number, name: string): FuseNode | undefined {
    if (node === ROOT_NODE && name === PROC_FS_NAME) return { node: PROC_FS_ROOT, isDirectory: true };
    if (node !== ROOT_NODE) return entriesOf(node).find((one) => one.name === name);
    const xid = /^[1-9]\d*$/.test(name) ? Number(name) : 0;
    return isXid(xid) ? { node: xid * NODES, isDirectory: true } : undefined;
  }

  attributes(node: number): FuseNode {
    return entryOf(node) ?? { node, isDirectory: node === ROOT_NODE || node % NODES === 0 };
  }

  entries(node: number): readonly FuseEntry[] {
    return entriesOf(node);
  }

  isAlike(one: number, other: number): boolean {
    return one % NODES === other % NODES && Math.min(one, other) >= NODES;
  }

  read(node: number): FuseReply | Promise<FuseReply> {
    const [xid, number] = [Math.floor(node / NODES), node % NODES];
    const file = fileOf(number);
    const guest = isXid(xid) ? this.#registry.numbered(xid) : undefined;
    if (!file || !guest) return { errno: FUSE_ERRNO.EIO };
    // Its command may be there before we know that it is.
    if (guest.state === 'starting') return guest.queue.then(() => this.#texts.read(file, guest));
    return this.#texts.read(file, guest);
  }

  /** Returns a guest's load averages and tasks. */
  load(guest: Guest): Promise<LoadSample> {
    return this.#texts.load(guest);
  }

  /** Tells each kind of failure once: a guest may read for ever. */
  #failed(what: string, error: unknown): void {
    if (this.#told.has(what)) return;
    this.#told.add(what);
    this.onFailure(what, error);
  }
}

const SIGKILL = 9;
