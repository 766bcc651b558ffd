/**
 * The life of guests: create, start, stop, exec, delete; the only place that knows the order.
 *
 *     stopped ─ start ─▶ starting ─▶ running ⇄ paused
 *        ▲                              │ stop, kill, or its process 1 ends
 *        └──────── cleaned up ◀── stopping
 */
import { existsSync, mkdirSync, rmSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { primaryError, StateError, SysError, VserverError } from '../base/errors.ts';
import { type GuestName, isGuestName, type Xid } from '../base/ids.ts';
import { UndoStack } from '../base/undo.ts';
import { idRangeOf } from '../context/id-map.ts';
import type { Effective } from '../resources/cgroup-driver.ts';
import type { Readings } from '../resources/readings.ts';
import { createGuestDirs, refuseMounted, removeGuestDirs } from '../storage/guest-dirs.ts';
import { readIfThere, removeDurable, writeDurable, writeVolatile } from '../sys/files.ts';
import { bootId, identifyProcess, isAlive, takesSignal } from '../sys/process.ts';
import type { Program } from '../sys/program.ts';
import { type HeldObject, isProcess, StepError } from '../sys/syscalld.ts';
import { OBJECT_KIND } from '../sys/wire.ts';
import { Commands, type StartedCommand } from './commands.ts';
import { completeConfig, parseGuestConfig } from './config.ts';
import { type ConfigChange, createConfigText, editConfigText } from './config-text.ts';
import type { GuestConfig, GuestConfigValues, HealthCheck } from './config-types.ts';
import { type Context, type ContextRequest, Contexts } from './contexts.ts';
import { Copies } from './copies.ts';
import type { EventJournal } from './event-journal.ts';
import { causeOf, exitCodeOfInit } from './exit-status.ts';
import { Forks } from './forks.ts';
import {
  type Guest,
  type GuestExit,
  isActive,
  type LiveLink,
  type LiveNetwork,
  type LiveRecord,
  type StopReason,
} from './guest.ts';
import { changeLimits, configuredRows, type LimitRow, readRows, resetRows } from './guest-limits.ts';
import { Health } from './health.ts';
import { Hooks } from './hooks.ts';
import type { Host } from './host.ts';
import { linkSpec, removeLink } from './links.ts';
import { findPipe, planReopenPipe } from './log-pipes.ts';
import { type NetworkOpening, Networks } from './networks.ts';
import { OomEvents } from './oom.ts';
import { guestPaths } from './paths.ts';
import { EXECVE } from './plan-command.ts';
import { planExec } from './plan-exec.ts';
import { OVERLAY_CREATE } from './plan-mounts.ts';
import { planSignals } from './plan-signal.ts';
import { planGuestSide, planHostSide } from './plan-start.ts';
import type { StartSpec } from './plan-types.ts';
import { ProcFs } from './proc-fs.ts';
import { Registry } from './registry.ts';
import { Restarts } from './restarts.ts';
import { Snapshots } from './snapshots.ts';
import {
  type CommandRequest,
  type Connection,
  commandSpec,
  connectionToLog,
  consoleOf,
  limitsOf,
  startSpec,
} from './spec.ts';
import type { GuestStorage } from './storage.ts';
import { findUser } from './user-files.ts';
import { Views } from './views.ts';

const SIGKILL = 9;
const HEALTH_LOG_BYTES = 256 * 1024;
const FREEZE_TIMEOUT_MS = 5000;
const LISTEN_POLL_MS = 20;
const LAYERS_TIMEOUT_MS = 5000;
const LAYERS_POLL_MS = 10;

/** What `stop` may be asked to do otherwise than configured. */
export interface StopRequest {
  readonly timeoutMs?: number | undefined;
  /** Who wants it, unless an operator. */
  readonly reason?: StopReason;
}

interface PlannedStart {
  readonly spec: StartSpec;
  /** Objects: the guest's log, and before it has them, the pipes to it. 0: it has none. */
  readonly log: { readonly file: number; readonly stdout: number; readonly stderr: number };
}

interface StartedParts {
  /** Inode numbers of the pipes to the log. */
  readonly logPipes: readonly number[];
  readonly network: LiveNetwork | undefined;
  readonly link: LiveLink | undefined;
}

interface PlannedExec {
  readonly program: Program;
  readonly object: number;
}

/** Keeps the guests of one instance. */
export class Manager {
  readonly host: Host;
  readonly registry: Registry;
  readonly storage: GuestStorage;
  readonly #contexts: Contexts;
  readonly networks: Networks;
  readonly #restarts: Restarts;
  readonly views: Views;
  readonly readings: Readings;
  readonly snapshots: Snapshots;
  readonly copies: Copies;
  readonly forks: Forks;
  readonly #bootId = bootId();
  readonly #byInit = new Map<number, Guest>();
  readonly #commands: Commands;
  readonly #hooks: Hooks;
  readonly #health: Health;
  readonly #oom: OomEvents;

  constructor(host: Host, storage: GuestStorage, readings: Readings) {
    this.host = host;
    this.registry = new Registry(host.paths);
    this.storage = storage;
    this.snapshots = new Snapshots(host);
    this.copies = new Copies(this);
    this.forks = new Forks(host, this.registry);
    this.#contexts = new Contexts(host, this.registry);
    this.#commands = new Commands(host);
    this.#hooks = new Hooks(host, this.#commands);
    this.#oom = new OomEvents(host, (guest, live) => this.#remember(guest, live));
    this.#health = new Health(host, {
      run: (guest, check) => this.#runCheck(guest, check),
      kill: (command) => this.#commands.kill(command),
      remember: (guest, live) => this.#remember(guest, live),
      unhealthy: (guest, action) => this.#unhealthy(guest, action),
    });
    this.networks = new Networks(host, this.registry);
    this.#restarts = new Restarts(host, this.registry, this.#bootId, (guest, restarts) =>
      this.start(guest, undefined, restarts),
    );
    this.readings = readings;
    this.views = new Views(host, this.registry, readings, new ProcFs(this));
  }

  // ---- start-up and repair ----------------------------------------------------------------------------------------

  /** Reads what is on disk, takes over what runs, repairs what a crash has left half-done. */
  async recover(held: readonly HeldObject[]): Promise<void> {
    this.#events.onFailure = (error) => this.onFailure('keep an event', error);
    this.views.onFailure = (what, error) => this.onFailure(what, error);
    this.#events.open();
    this.#restarts.onFailure = this.onFailure;
    this.#restarts.open();
    const processes = new Map(held.filter(isProcess).map((object) => [object.id, object]));
    const parts = [this.networks, this.views, this.forks];
    const known = new Set<number>(parts.flatMap((part) => part.recover(held)));
    for (const record of this.registry.load(this.#bootId)) {
      const object = processes.get(record.initObject);
      // By pid too: a former syscalld had other objects of the same ids.
      const held = object?.pid === record.initPid ? object : undefined;
      if (held) known.add(record.initObject).add(record.logObject);
      if (held && record.network) known.add(record.network.process).add(record.network.control);
      await this.#attempt(`take over guest "${record.name}"`, () => this.#adopt(record, held));
    }
    await this.#attempt('fence the guests that run', () => this.networks.adopt(this.registry.list()));
    for (const guest of this.registry.list()) {
      const { network } = guest.live ?? {};
      if (network?.control !== 0 || !isActive(guest)) continue;
      await this.#attempt(`start the socket broker of guest "${guest.name}"`, () =>
        this.#restartBroker(guest),
      );
    }
    for (const object of held)
      if (object.kind !== OBJECT_KIND.client && !known.has(object.id)) this.#adoptStray(object);
    // Process 1 of a start that did not come to its end is among them, and goes with its cgroup.
    for (const xid of this.host.cgroups.list()) {
      const guest = this.registry.numbered(xid);
      if (!guest || !isActive(guest))
        await this.#attempt(`remove the cgroups of context ${xid}`, () => this.#removeCgroup(xid));
    }
    await this.#sweepDirectories();
  }

  /** Commands that were run in guests go on, and their clients wait for them; the rest belongs to nobody any more. */
  #adoptStray(object: HeldObject): void {
    if (!isProcess(object) || object.waitStatus !== undefined) {
      this.host.syscalld.drop(object.id);
      return;
    }
    if (!this.host.isInstanceProcess(object.pid)) {
      // Work on files that nobody waits for any more, and that may hold those of a guest.
      this.host.syscalld.signal(object.id, SIGKILL);
      this.host.syscalld.drop(object.id);
      return;
    }
    this.#commands.adopt(object.id);
  }

  async #adopt(record: LiveRecord, held: HeldObject | undefined): Promise<void> {
    const existing = this.registry.named(record.name);
    if (existing === undefined && record.exit) {
      rmSync(guestPaths(this.host.paths, record.name).live, { force: true });
      return;
    }
    // Also when its configuration file is broken or gone by now: a run goes on with what it was started with.
    const guest = existing ?? this.registry.add(record.name, record.xid, record.config, record.isEphemeral);
    guest.live = record;
    if (record.exit) return;
    guest.state = record.isPaused ? 'paused' : 'running';
    guest.ended = Promise.withResolvers<GuestExit>();
    if (!held) {
      await this.#adoptOrphan(guest, record);
      return;
    }
    this.#byInit.set(record.initObject, guest);
    // It was frozen to be read when vserverd died.
    if (!record.isPaused && held.waitStatus === undefined)
      await this.#attempt(`let guest "${guest.name}" go on`, () =>
        this.host.cgroups.thaw(guest.xid, FREEZE_TIMEOUT_MS),
      );
    if (held.waitStatus !== undefined) await this.#finishAdopted(guest, held.waitStatus);
  }

  /** syscalld was started anew: the guest's process 1 is watched again, its exit code will not be known. */
  async #adoptOrphan(guest: Guest, record: LiveRecord): Promise<void> {
    // What the record says of objects is of the former syscalld; here the same ids are others'.
    const initObject = this.host.syscalld.newObject();
    const network = record.network && { ...record.network, process: 0, control: 0 };
    guest.live = { ...record, initObject, logObject: 0, client: 0, network };
    if (!isAlive({ pid: record.initPid, startTicks: record.initStartTicks })) {
      await this.#finishAdopted(guest, -1);
      return;
    }
    this.#byInit.set(initObject, guest);
    const p = this.host.program();
    const pidfd = p.sys('pidfd_open', [record.initPid, 0], { about: `process ${record.initPid}` });
    p.keep(pidfd, initObject, record.initPid);
    try {
      await this.host.syscalld.run(`take over guest "${guest.name}"`, p);
    } catch (error) {
      if (!(error instanceof StepError)) throw error;
      await this.#finishAdopted(guest, -1);
      return;
    }
    this.#remember(guest, guest.live);
    await this.#attempt(`go on with the log of guest "${guest.name}"`, () =>
      this.#reopenLog(guest, record.logPipes),
    );
  }

  /** The first one goes on with the processes it knows; commands to come need one that is known here. */
  async #restartBroker(guest: Guest): Promise<void> {
    if (!guest.live?.network) return;
    const network = await this.networks.restartBroker(guest, guest.live.initObject, guest.live.network);
    this.#remember(guest, { ...guest.live, network });
  }

  /** The guest has the pipes to its log open for reading too, so what it wrote in between is still in there. */
  async #reopenLog(guest: Guest, logPipes: readonly number[]): Promise<void> {
    const pids = this.host.cgroups.pids(guest.xid);
    const objects: number[] = [];
    for (const inode of logPipes) objects.push(await this.#reopenPipe(guest, pids, inode));
    const [stdout = 0, stderr = 0] = objects;
    if (!guest.live || (stdout === 0 && stderr === 0)) return;
    const logObject = this.host.syscalld.newObject();
    this.#openLog(guest, logObject, stdout, stderr);
    this.#remember(guest, { ...guest.live, logObject });
  }

  /** Returns the object a pipe has become; 0: the guest has closed it. */
  async #reopenPipe(guest: Guest, pids: readonly number[], inode: number): Promise<number> {
    for (const path of findPipe(pids, inode)) {
      const object = this.host.syscalld.newObject();
      const p = this.host.program();
      planReopenPipe(p, path, inode, object);
      try {
        await this.host.syscalld.run(`go on with the log of guest "${guest.name}"`, p);
        return object;
      } catch (error) {
        if (!(error instanceof StepError)) throw error; // gone in between: another one may have it
      }
    }
    return 0;
  }

  /** Directories of guests that nobody knows any more: ephemeral ones whose end nobody saw, half-made ones. */
  async #sweepDirectories(): Promise<void> {
    for (const name of this.host.listGuestDirectories()) {
      const isKnown = this.registry.has(name) || this.registry.broken.some((one) => one.name === name);
      if (!isGuestName(name)) continue;
      await this.#attempt(`delete what is left of guest "${name}"`, () =>
        isKnown ? this.storage.sweep(name) : this.removeFiles(name),
      );
    }
  }

  // ---- making and unmaking ----------------------------------------------------------------------------------------

  /**
   * Creates a guest that stays: its configuration file and its directories.
   *
   * @throws StateError guest-exists, xid-in-use; UserError invalid-config, invalid-template
   */
  async create(name: GuestName, values: GuestConfigValues): Promise<Guest> {
    const paths = guestPaths(this.host.paths, name);
    const parsed = completeConfig(values);
    await using undo = new UndoStack();
    const xid = parsed.xid ?? this.registry.assignXid();
    const guest = this.registry.add(name, xid, { ...parsed, xid }, false);
    undo.defer('guest in memory', () => {
      this.registry.remove(guest);
    });
    await this.networks.check(guest, parsed);
    const template = await this.storage.prepare(parsed.template);
    await createGuestDirs(paths, idRangeOf(xid).hostBase);
    undo.defer('directories', () => this.removeFiles(name));
    this.storage.pin(name, this.storage.pinOf(template, parsed.template));
    // The configuration file last: what has one exists, what has none is swept at the next start.
    writeDurable(paths.config, createConfigText({ ...values, xid }, paths.config));
    undo.commit();
    this.created(guest);
    return guest;
  }

  /** Tells of a guest that exists from now on. */
  created(guest: Guest): void {
    this.#events.publish(guest, 'created', { template: guest.config.template });
  }

  /** Waits for a guest that goes with its run and whose command has ended, so that its name can be had again. */
  async #endingOf(name: GuestName | undefined): Promise<void> {
    const guest = this.registry.named(name);
    if (guest?.isEphemeral && guest.state === 'stopping') await guest.ended?.promise;
  }

  /** Returns a name for a guest that was given none. */
  inventName(xid: Xid): GuestName {
    const name = `guest-${xid}`;
    if (isGuestName(name) && !this.registry.has(name)) return name;
    return `${name}-${Date.now().toString(36)}` as GuestName; // letters, digits and dashes only
  }

  /**
   * Deletes a guest and its files. Allowed in: stopped; with `force` a running guest is killed first.
   *
   * @throws StateError guest-running
   */
  async delete(guest: Guest, force: boolean): Promise<void> {
    if (force && guest.state !== 'stopped') await this.stop(guest, { timeoutMs: 0 });
    if (guest.isEphemeral) return; // gone with its run
    // Who has its addresses and was told to end too, as `delete --all --force` does it, is waited for.
    const users = this.networks.usersOf(guest).filter((user) => user.live?.stopAsked);
    for (const user of users) await user.ended?.promise;
    await this.exclusive(guest, async () => {
      if (guest.state !== 'stopped') {
        throw new StateError(
          'guest-running',
          `cannot delete guest "${guest.name}": found it ${guest.state}; need it stopped, or --force`,
        );
      }
      this.networks.checkUnused(guest);
      const paths = guestPaths(this.host.paths, guest.name);
      refuseMounted(paths);
      // The configuration first: without it the rest is swept, should we not get to the end.
      removeDurable(paths.config);
      this.#restarts.forget(guest);
      this.registry.remove(guest);
      rmSync(paths.live, { force: true });
      await this.removeFiles(guest.name);
      this.#events.publish(guest, 'deleted', {});
    });
  }

  /** Deletes a guest's files. */
  async removeFiles(name: GuestName): Promise<void> {
    await removeGuestDirs(guestPaths(this.host.paths, name), this.host.syscalld);
  }

  // ---- start ------------------------------------------------------------------------------------------------------

  /**
   * Starts a guest with its configured command. Allowed in: stopped.
   *
   * @param connect what the command's standard descriptors are; without, they go to the guest's log
   * @param restarts how often in a row it was started by itself
   * @throws StateError guest-running; StepError with the step that failed; UserError template and user errors
   */
  async start(guest: Guest, connect?: Connection, restarts = 0): Promise<LiveRecord> {
    return await this.exclusive(guest, async () => {
      if (guest.state !== 'stopped')
        throw new StateError(
          'guest-running',
          `cannot start guest "${guest.name}": found it ${guest.state}; need it stopped`,
        );
      return await this.#tellFailedStart(guest, () => this.#startStopped(guest, connect, restarts));
    });
  }

  async #startStopped(guest: Guest, connect: Connection | undefined, restarts: number): Promise<LiveRecord> {
    await this.#readConfig(guest);
    await this.#attempt(`unify guest "${guest.name}"`, () => this.copies.unifyIfDue(guest));
    await this.storage.fitFiles(guest);
    this.storage.isAboutToRun(guest.name);
    await using undo = new UndoStack();
    if (this.#hooks.has(guest, 'initialize', 'prepreStart', 'preStart')) await this.#beginHooks(guest, undo);
    const deadlineMs = performance.now() + LAYERS_TIMEOUT_MS;
    for (;;) {
      const context = await this.#contexts.take(contextRequest(guest.config, guest.xid));
      try {
        const live = await this.#start(guest, context, connect, restarts);
        undo.commit();
        await this.#hooks.try(guest, 'postStart', { INIT_PID: live.initPid });
        return live;
      } catch (error) {
        // The run before is over, but the kernel gives its mounts up a moment later (delayed_mntput, fs/namespace.c).
        const isInUse =
          error instanceof StepError && error.step === OVERLAY_CREATE && error.errnoName === 'EBUSY';
        if (!isInUse || performance.now() > deadlineMs) throw error;
        await sleep(LAYERS_POLL_MS);
      }
    }
  }

  async #beginHooks(guest: Guest, undo: UndoStack): Promise<void> {
    let isCancelled = false;
    guest.state = 'starting';
    undo.defer('state', () => {
      guest.state = 'stopped';
    });
    // What they have made is for this one to take away.
    undo.defer('hooks', () => this.#hooks.try(guest, 'postpostStop', { CAUSE: 'start-failed' }));
    guest.cancelStart = () => {
      isCancelled = true;
    };
    await this.#hooks.run(guest, 'initialize');
    await this.#hooks.run(guest, 'prepreStart');
    if (isCancelled) throw startCancelled(guest);
  }

  async #tellFailedStart<T>(guest: Guest, start: () => Promise<T>): Promise<T> {
    try {
      return await start();
    } catch (error) {
      const primary = primaryError(error);
      this.#events.publish(guest, 'start.failed', {
        code: primary instanceof VserverError ? primary.code : 'unknown',
        message: primary instanceof Error ? primary.message : String(primary),
      });
      throw error;
    }
  }

  /** Reads the configuration anew; what a file written by hand lacks of a created guest is made up for. */
  async #readConfig(guest: Guest): Promise<void> {
    if (guest.isEphemeral) return;
    const paths = guestPaths(this.host.paths, guest.name);
    guest.config = this.registry.readConfig(guest.name);
    if (guest.config.xid === undefined) {
      const text = readIfThere(paths.config) ?? '';
      writeDurable(paths.config, editConfigText(text, [{ path: ['xid'], value: guest.xid }], paths.config));
      guest.config = { ...guest.config, xid: guest.xid };
    }
    if (!existsSync(paths.directory)) await createGuestDirs(paths, idRangeOf(guest.xid).hostBase);
  }

  /** Creates a guest that exists only while it runs, and starts it. */
  async runEphemeral(
    name: GuestName | undefined,
    values: GuestConfigValues,
    connect?: Connection,
  ): Promise<Guest> {
    const config = completeConfig(values);
    await this.#endingOf(name);
    // A number that is asked for is taken by the guest first: what is made for it must not be another's.
    const early =
      config.xid === undefined
        ? undefined
        : this.registry.add(name ?? this.inventName(config.xid), config.xid, config, true);
    let context: Context;
    try {
      context = await this.#contexts.take(contextRequest(config, config.xid));
    } catch (error) {
      if (early) this.registry.remove(early);
      throw error;
    }
    let guest: Guest;
    try {
      guest = early ?? this.registry.add(name ?? this.inventName(context.xid), context.xid, config, true);
    } catch (error) {
      await this.#contexts.discard(context);
      throw error;
    } finally {
      this.registry.release(context.xid);
    }
    try {
      await this.exclusive(guest, () =>
        this.#tellFailedStart(guest, () => this.#start(guest, context, connect)),
      );
    } catch (error) {
      this.registry.remove(guest);
      await this.removeFiles(guest.name);
      throw error;
    } finally {
      this.#contexts.refill();
    }
    return guest;
  }

  /** Returns the program of a start, without running it. */
  async explainStart(guest: Guest): Promise<string> {
    const { program, objects } = this.#contexts.plan(guest.xid, contextRequest(guest.config, guest.xid));
    const { spec } = await this.#planStart(guest, objects.init, undefined);
    const [host, inside] = [this.host.program(), this.host.program()];
    planHostSide(host, spec);
    planGuestSide(inside, spec);
    return [
      `# make the context\n${program.explain()}`,
      `# the worker, in the guest's cgroups\n${host.explain()}`,
      `# process 1, at the same time\n${inside.explain()}`,
    ].join('\n');
  }

  /** Returns the program of the start of a guest that does not exist. */
  async explainRun(name: GuestName | undefined, values: GuestConfigValues): Promise<string> {
    const config = completeConfig(values);
    const xid = config.xid ?? this.registry.reserveXid();
    this.registry.release(xid);
    const guest = this.registry.add(name ?? this.inventName(xid), xid, config, true);
    try {
      return await this.explainStart(guest);
    } finally {
      this.registry.remove(guest);
    }
  }

  async #planStart(guest: Guest, init: number, connect: Connection | undefined): Promise<PlannedStart> {
    const { config, name, xid } = guest;
    const { syscalld } = this.host;
    const files = await this.storage.freeFiles(guest);
    const template = await this.storage.template(guest);
    const lower = await this.storage.lower(template);
    const newObject = (): number => (connect ? 0 : syscalld.newObject());
    const log = { file: newObject(), stdout: newObject(), stderr: newObject() };
    const connection = connect ? consoleOf(config, connect) : connectionToLog(config, log);
    const user = await findUser(
      this.host,
      config.user,
      {
        kind: 'files',
        upper: guest.isEphemeral ? undefined : files,
        lower,
        hostUsr: template.hostUsr,
        attachAt: this.host.attachPoint,
        detachedLayers: this.host.detachedLayers,
      },
      idRangeOf(xid).count,
    );
    await this.storage.freeFiles(guest); // a name was looked up in them
    const request: CommandRequest = { argv: config.command, env: {}, cwd: undefined };
    const command = commandSpec(this.host, config, config.hostname ?? name, request, user, connection);
    const cgroup = this.host.cgroups.plan(xid, limitsOf(config));
    const objects = { init, ending: connect ? syscalld.newObject() : 0 };
    const circumstances = {
      name,
      xid,
      files,
      lower,
      hostUsr: template.hostUsr,
      cgroup,
      isEphemeral: guest.isEphemeral,
      objects,
      network: await this.networks.plan(guest, init),
      link: linkSpec(this.host, guest, init),
    };
    return { spec: startSpec(this.host, config, circumstances, command), log };
  }

  async #start(
    guest: Guest,
    context: Context,
    connect: Connection | undefined,
    restarts = 0,
  ): Promise<LiveRecord> {
    guest.state = 'starting';
    const { init } = context.objects;
    await using undo = new UndoStack();
    undo.defer('state', () => {
      guest.state = 'stopped';
    });
    let network: LiveNetwork | undefined;
    // After the context: its sockets are fenced as long as it has any process.
    undo.defer('network', async () => {
      if (network) await this.#closeNetwork(guest, network);
    });
    undo.defer('context', () => this.#contexts.discard(context));
    const cancelled = Promise.withResolvers<never>();
    guest.cancelStart = () => cancelled.reject(startCancelled(guest));
    const { spec, log } = await Promise.race([this.#planStart(guest, init, connect), cancelled.promise]);
    await this.#hooks.run(guest, 'preStart', { INIT_PID: context.initPid });
    guest.gone = undefined;
    guest.isEndingEarly = false;
    guest.ended = Promise.withResolvers<GuestExit>();
    guest.earlyExit = undefined;
    guest.seenLimits.clear();
    this.#byInit.set(init, guest);
    undo.defer('process 1', () => {
      this.#byInit.delete(init);
      for (const object of [log.stdout, log.stderr]) if (object) this.host.syscalld.drop(object);
    });
    const opening = spec.network ? await this.networks.begin(guest, spec.network) : undefined;
    network = opening?.live;
    const started = await Promise.race([this.#runStart(guest, context, spec, opening), cancelled.promise]);
    network = started.network;
    guest.cancelStart = undefined;
    // Before anybody else hears of the run: its end may be told in the same breath.
    if (connect?.client) this.host.syscalld.bind(connect.client, init);
    const { initPid } = context;
    if (log.file) this.#openLog(guest, log.file, log.stdout, log.stderr);
    const live: LiveRecord = {
      name: guest.name,
      xid: guest.xid,
      bootId: this.#bootId,
      isEphemeral: guest.isEphemeral,
      initPid,
      initStartTicks: identifyProcess(initPid)?.startTicks ?? -1,
      initObject: init,
      logObject: log.file,
      logPipes: started.logPipes,
      client: connect?.terminal?.master.kind === 'client' ? connect.terminal.master.client : 0,
      network,
      link: started.link,
      startedAt: new Date().toISOString(),
      isPaused: false,
      stopAsked: undefined,
      restarts,
      config: guest.config,
      exit: undefined,
    };
    this.#remember(guest, live);
    this.#restarts.started(guest);
    guest.state = 'running';
    this.#follow(guest);
    undo.commit();
    this.#events.publish(guest, 'started', { initPid, ephemeral: guest.isEphemeral });
    if (guest.isEndingEarly) this.ending(init);
    if (guest.earlyExit !== undefined) this.exited(init, guest.earlyExit);
    return live;
  }

  /**
   * Runs both programs of a start; of two failures the one that is not the other's consequence is told.
   *
   * @returns what the worker's part made
   */
  async #runStart(
    guest: Guest,
    { objects }: Context,
    spec: StartSpec,
    opening: NetworkOpening | undefined,
  ): Promise<StartedParts> {
    const what = `start guest "${guest.name}"`;
    const runHost = async (): Promise<StartedParts> => {
      const p = this.host.program();
      // It keeps what it holds until nobody waits: the last descriptor of a detached mount costs an RCU grace period.
      p.park = objects.worker;
      const opened = opening?.plan(p);
      const { logPipes, link } = planHostSide(p, spec);
      const outcome = await this.host.syscalld.run(what, p, objects.worker);
      return {
        logPipes: logPipes.map((inode) => outcome.result(inode)),
        network: opened?.(outcome),
        link: spec.link && link && { name: spec.link.name, index: outcome.result(link) },
      };
    };
    const runInside = async (): Promise<void> => {
      const p = this.host.program();
      planGuestSide(p, spec);
      await commandErrors(what, this.host.syscalld.run(what, p, objects.initPrograms));
    };
    // The worker is at it while the other program is made.
    const [host, inside] = await Promise.allSettled([runHost(), runInside()]);
    // Process 1 may have failed before it took its program, when that of its context was over already.
    const early = this.host.syscalld.childFailure(what, objects.worker);
    this.host.syscalld.drop(objects.worker);
    if (early) throw early;
    const failures = [inside, host]
      .filter((one) => one.status === 'rejected')
      .map(({ reason }) => reason as unknown);
    if (failures.length > 0) throw failures.find((one) => !isConsequence(one)) ?? failures[0];
    return host.status === 'fulfilled' ? host.value : { logPipes: [], network: undefined, link: undefined };
  }

  /** Looks after a guest that runs, as its configuration of now wants it. */
  #follow(guest: Guest): void {
    this.#health.begin(guest);
    void this.#attempt(`watch the memory of guest "${guest.name}"`, () => this.#oom.begin(guest));
  }

  #remember(guest: Guest, live: LiveRecord): void {
    guest.live = live;
    writeVolatile(guestPaths(this.host.paths, guest.name).live, JSON.stringify(live));
  }

  // ---- the end of a run -------------------------------------------------------------------------------------------

  /** The command of a guest has ended, its caller may know: whoever wants the guest next waits until the rest is gone too. */
  ending(object: number): void {
    const guest = this.#byInit.get(object);
    if (guest === undefined) return;
    if (guest.state === 'starting') {
      guest.isEndingEarly = true;
      return;
    }
    guest.gone = Promise.withResolvers<number>();
    this.#finishSoon(guest, guest.gone.promise);
  }

  /** A process that syscalld holds has ended. */
  exited(object: number, waitStatus: number): void {
    const guest = this.#byInit.get(object);
    if (guest?.gone) {
      guest.gone.resolve(waitStatus);
      return;
    }
    if (guest?.state === 'starting') {
      guest.earlyExit = waitStatus; // the start goes on first, or fails for that
      return;
    }
    if (guest) {
      this.#finishSoon(guest, waitStatus);
      return;
    }
    if (this.#commands.exited(object, waitStatus)) return;
    this.#brokerExited(object);
    void this.#attempt('go on with the views of guests', async () => {
      if (await this.views.exited(object)) await this.#contexts.renew();
    });
    this.#contexts.exited(object); // or somebody else's, who hears of it in another way
  }

  /** A guest's socket broker ends before its guest only if somebody killed it: commands to come shall have another one. */
  #brokerExited(object: number): void {
    const guest = this.registry.list().find((one) => one.live?.network?.process === object);
    if (guest?.state !== 'running' && guest?.state !== 'paused') return;
    void this.#attempt(`start the socket broker of guest "${guest.name}"`, () =>
      this.exclusive(guest, async () => {
        const { network } = guest.live ?? {};
        if (network?.process !== object || !isActive(guest)) return;
        for (const old of [network.process, network.control]) this.host.syscalld.drop(old);
        await this.#restartBroker(guest);
      }),
    );
  }

  /**
   * A client gave its command's terminal back, and ends. What a guest's first command writes there from now on goes to
   * the log; any other command finds its terminal hung up.
   */
  detached(client: number, master: number): void {
    const guest = [...this.#byInit.values()].find((one) => one.live?.client === client);
    if (guest?.live) {
      const logObject = this.host.syscalld.newObject();
      this.#openLog(guest, logObject, master, 0);
      this.#remember(guest, { ...guest.live, logObject, client: 0 });
    } else {
      this.host.syscalld.drop(master);
    }
    this.host.syscalld.clientExit(client, 0);
  }

  #openLog(guest: Guest, object: number, stdout: number, stderr: number): void {
    const { directory, log } = guestPaths(this.host.paths, guest.name);
    if (guest.isEphemeral) mkdirSync(directory, { recursive: true, mode: 0o700 });
    this.host.syscalld.log(object, log, guest.config.log.maxBytes, stdout, stderr);
  }

  /** Told of failures that no caller waits for. */
  onFailure: (what: string, error: unknown) => void = () => {};

  /** Whoever waits for the repair does not wait for hooks. */
  async #finishAdopted(guest: Guest, waitStatus: number): Promise<void> {
    if (this.#hooks.has(guest, 'postStop', 'postpostStop')) this.#finishSoon(guest, waitStatus);
    else await this.#finish(guest, waitStatus);
  }

  #finishSoon(guest: Guest, waitStatus: number | Promise<number>): void {
    void this.#finish(guest, waitStatus).catch((error: unknown) => {
      this.onFailure(`clean up guest "${guest.name}"`, error);
    });
  }

  async #finish(guest: Guest, waitStatus: number | Promise<number>): Promise<void> {
    guest.state = 'stopping';
    this.#health.end(guest);
    const { live, ended } = guest;
    let exit: GuestExit | undefined;
    // Waits for a start that is just coming to its end, and keeps the next one off until all is cleaned up.
    await this.exclusive(guest, async () => {
      const status = await waitStatus;
      const run = guest.live ?? live;
      exit = { code: exitCodeOfInit(status), at: new Date().toISOString(), cause: causeOf(run, status) };
      if (run) {
        this.#byInit.delete(run.initObject);
        this.host.syscalld.drop(run.initObject);
        if (run.logObject) this.host.syscalld.drop(run.logObject);
      }
      this.#oom.end(guest);
      void this.#attempt('forget forks', () => this.forks.end(guest));
      const facts = { EXIT_CODE: exit.code ?? '', CAUSE: exit.cause };
      await this.#hooks.try(guest, 'postStop', facts);
      await this.#attempt(`clean up guest "${guest.name}"`, () => this.#removeCgroup(guest.xid));
      const last = guest.live ?? run;
      const { network, link } = last ?? {};
      if (last && network) {
        guest.live = { ...last, network: undefined }; // others that end now do not leave it their addresses
        await this.#closeNetwork(guest, network);
      }
      if (link)
        await this.#attempt(`remove interface "${link.name}"`, () => removeLink(this.host, guest, link));
      if (guest.isEphemeral) {
        await this.#attempt(`delete guest "${guest.name}"`, () => this.removeFiles(guest.name));
        rmSync(guestPaths(this.host.paths, guest.name).live, { force: true });
        this.registry.remove(guest);
      } else if (run) {
        this.#restarts.ended(guest, run, exit);
        this.#remember(guest, { ...run, isPaused: false, exit });
      }
      await this.#hooks.try(guest, 'postpostStop', facts);
      guest.state = 'stopped';
      this.#events.publish(guest, 'stopped', { exitCode: exit.code, cause: exit.cause });
      this.#restarts.schedule(guest);
    });
    if (exit) ended?.resolve(exit);
  }

  async #closeNetwork(guest: Guest, network: LiveNetwork): Promise<void> {
    await this.#attempt(`end the network of guest "${guest.name}"`, async () => {
      const heir = await this.networks.close(guest, network);
      const other = this.registry.named(heir?.name);
      if (heir && other?.live && isActive(other)) this.#remember(other, heir);
    });
  }

  /** Does what must not be in the way of the rest when it fails; the next start of vserverd tries it again. */
  async #attempt(what: string, work: () => Promise<void>): Promise<void> {
    try {
      await work();
    } catch (error) {
      this.onFailure(what, error);
    }
  }

  async #removeCgroup(xid: Xid): Promise<void> {
    await this.host.removeCgroup(xid);
  }

  // ---- a running guest --------------------------------------------------------------------------------------------

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
    if (reason === 'operator') this.#restarts.stopAsked(guest);
    const { ended } = guest;
    if (!guest.live || !ended || !isActive(guest)) return wasPending ? guest.live?.exit : undefined;
    const live: LiveRecord = { ...guest.live, stopAsked: reason };
    this.#remember(guest, live);
    const timeoutMs = request.timeoutMs ?? live.config.stop.timeoutMs;
    if (guest.state === 'paused') await this.resume(guest);
    if (guest.state === 'running') await this.#hooks.try(guest, 'preStop', { INIT_PID: live.initPid });
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
      this.host.syscalld.signal(live.initObject, SIGKILL);
    return await ended.promise;
  }

  /** An init of the guest's own that has just been started may not listen yet: what it gets till then is lost. */
  async #askToStop({ initPid, initObject, config }: LiveRecord, isOver: AbortSignal): Promise<void> {
    const { signal } = config.stop;
    const isListening = config.init !== 'own' || takesSignal(initPid, signal);
    this.host.syscalld.signal(initObject, signal);
    if (isListening) return;
    while (!isOver.aborted && !takesSignal(initPid, signal)) await sleep(LISTEN_POLL_MS);
    if (!isOver.aborted) this.host.syscalld.signal(initObject, signal);
  }

  /** Sends a signal to a guest's process 1. @throws StateError guest-stopped */
  kill(guest: Guest, signal: number): void {
    const live = this.#running('signal', guest);
    if (signal === SIGKILL) {
      this.#restarts.stopAsked(guest);
      this.#remember(guest, { ...live, stopAsked: 'operator' });
    }
    this.host.syscalld.signal(live.initObject, signal);
  }

  /**
   * Sends a signal to processes of a guest, named by their pids there.
   *
   * @throws StateError guest-stopped, process-not-found: then those before it have got theirs
   */
  async signalProcesses(guest: Guest, guestPids: readonly number[], signal: number): Promise<void> {
    const live = this.#running('signal', guest);
    const object = this.host.syscalld.newObject();
    const p = this.host.program();
    planSignals(p, p.import(live.initObject), object, guestPids, signal);
    try {
      await this.host.syscalld.run(`signal processes of guest "${guest.name}"`, p);
    } catch (error) {
      if (!(error instanceof StepError) || error.errnoName !== 'ESRCH') throw error;
      throw new StateError(
        'process-not-found',
        `cannot signal processes of guest "${guest.name}": found no process ${error.step?.split(' ').at(-1)}; ` +
          'need pids as in the guest',
        { cause: error, hint: `see \`vserver ps ${guest.name}\`, column GPID` },
      );
    } finally {
      this.host.syscalld.drop(object);
    }
  }

  /** Takes a guest off the CPUs; fine if it is paused already. @throws StateError guest-stopped, freeze-timeout */
  async pause(guest: Guest): Promise<void> {
    const live = this.#running('pause', guest);
    await this.host.cgroups.freeze(guest.xid, FREEZE_TIMEOUT_MS);
    const wasPaused = guest.state === 'paused';
    guest.state = 'paused';
    this.#remember(guest, { ...live, isPaused: true });
    if (!wasPaused) this.#events.publish(guest, 'paused', {});
  }

  /** Lets a paused guest run on; fine if it runs. @throws StateError guest-stopped, freeze-timeout */
  async resume(guest: Guest): Promise<void> {
    const live = this.#running('resume', guest);
    await this.host.cgroups.thaw(guest.xid, FREEZE_TIMEOUT_MS);
    const wasPaused = guest.state === 'paused';
    guest.state = 'running';
    this.#remember(guest, { ...live, isPaused: false });
    if (wasPaused) this.#events.publish(guest, 'resumed', {});
  }

  /** Resolves when the present run ends. @throws StateError guest-stopped */
  async wait(guest: Guest): Promise<GuestExit> {
    if (guest.ended && isActive(guest)) return await guest.ended.promise;
    if (guest.live?.exit) return guest.live.exit;
    throw stopped('wait for', guest);
  }

  #running(verb: string, guest: Guest): LiveRecord {
    if (!guest.live || !isActive(guest)) throw stopped(verb, guest);
    return guest.live;
  }

  /**
   * Runs a further command in a guest. Allowed in: running.
   *
   * @throws StateError guest-stopped, guest-paused; StepError; UserError user errors, command-not-found, command-not-executable
   */
  async exec(
    guest: Guest,
    request: CommandRequest & { readonly user: string | undefined },
    connection: Connection,
  ): Promise<StartedCommand> {
    const { program, object } = await this.#planExec(guest, request, connection);
    const what = `run "${request.argv[0] ?? ''}" in guest "${guest.name}"`;
    const started = this.#commands.start(what, program, object, () => {
      if (connection.client) this.host.syscalld.bind(connection.client, object);
    });
    return await commandErrors(what, started);
  }

  async #runCheck(guest: Guest, { test }: HealthCheck): Promise<StartedCommand> {
    const { syscalld } = this.host;
    const [log, stdout, stderr] = [syscalld.newObject(), syscalld.newObject(), syscalld.newObject()];
    const connection = connectionToLog({ init: 'fake' }, { stdout, stderr });
    const request = { argv: test, env: {}, cwd: undefined, user: undefined };
    const { program, object } = await this.#planExec(guest, request, connection);
    const { directory, healthLog } = guestPaths(this.host.paths, guest.name);
    const what = `check the health of guest "${guest.name}"`;
    const start = this.#commands.start(what, program, object, () => {
      if (guest.isEphemeral) mkdirSync(directory, { recursive: true, mode: 0o700 });
      syscalld.log(log, healthLog, HEALTH_LOG_BYTES, stdout, stderr);
    });
    const started = await commandErrors(what, start);
    void started.ended.then(() => syscalld.drop(log));
    return started;
  }

  async #unhealthy(guest: Guest, action: HealthCheck['onFailure']): Promise<void> {
    await this.#attempt(`${action} unhealthy guest "${guest.name}"`, async () => {
      if (action === 'restart') await this.stop(guest, { reason: 'health-restart' });
      if (action === 'kill') await this.stop(guest, { reason: 'health-kill', timeoutMs: 0 });
      if (action === 'stop') await this.stop(guest);
    });
  }

  /** Returns the program of an exec, without running it. */
  async explainExec(
    guest: Guest,
    request: CommandRequest & { readonly user: string | undefined },
    connection: Connection,
  ): Promise<string> {
    const { program } = await this.#planExec(guest, request, connection);
    return program.explain();
  }

  async #planExec(
    guest: Guest,
    request: CommandRequest & { readonly user: string | undefined },
    connection: Connection,
  ): Promise<PlannedExec> {
    const live = this.#running('run a command in', guest);
    if (guest.state === 'paused') {
      throw new StateError(
        'guest-paused',
        `cannot run a command in guest "${guest.name}": found it paused; need \`vserver resume ${guest.name}\``,
      );
    }
    const { config } = live;
    const root = { kind: 'process', pid: live.initPid, initObject: live.initObject } as const;
    const user = await findUser(this.host, request.user ?? config.user, root, idRangeOf(guest.xid).count);
    const command = commandSpec(this.host, config, config.hostname ?? guest.name, request, user, connection);
    const { leaf, joins } = this.host.cgroups.plan(guest.xid, limitsOf(config));
    const object = this.host.syscalld.newObject();
    const program = this.host.program();
    planExec(program, {
      initObject: live.initObject,
      processObject: object,
      cgroupLeaf: leaf,
      joins,
      hostNetwork: config.network.mode === 'host',
      brokerObject: live.network?.control ?? 0,
      command,
    });
    return { program, object };
  }

  /** Changes a guest's configuration file, and its limits at once if it runs. */
  async set(guest: Guest, changes: readonly ConfigChange[]): Promise<Effective | undefined> {
    return await this.exclusive(guest, async () => {
      const paths = guestPaths(this.host.paths, guest.name);
      const text = guest.isEphemeral ? undefined : readIfThere(paths.config);
      if (text === undefined) {
        throw new StateError(
          'guest-ephemeral',
          `cannot change guest "${guest.name}": found no configuration file, for it goes when it stops; need a guest that was created`,
        );
      }
      const edited = editConfigText(text, changes, paths.config);
      const config = parseGuestConfig(edited, paths.config);
      await this.networks.check(guest, config);
      let effective: Effective | undefined;
      if (guest.live && isActive(guest)) {
        // First the kernel, which may refuse; then the file.
        effective = this.host.cgroups.apply(guest.xid, limitsOf(config));
        try {
          await changeLimits(this.host, guest, guest.live, guest.live.config, config);
        } catch (error) {
          this.host.cgroups.apply(guest.xid, limitsOf(guest.live.config));
          throw error;
        }
        const live = (await this.networks.change(guest, guest.live, config)) ?? guest.live;
        this.#remember(guest, {
          ...live,
          config: {
            ...live.config,
            limits: config.limits,
            scheduler: config.scheduler,
            restart: config.restart,
            health: config.health,
          },
        });
      }
      writeDurable(paths.config, edited);
      guest.config = config;
      this.#restarts.changed(guest);
      if (guest.state === 'running' || guest.state === 'paused') this.#follow(guest);
      this.#events.publish(guest, 'changed', { keys: changes.map(({ path }) => path.join('.')) });
      return effective;
    });
  }

  /** Reads the limits table of a guest; of one that does not run what it would be allowed. */
  async limitRows(guest: Guest): Promise<readonly LimitRow[]> {
    if (guest.live && isActive(guest)) {
      try {
        return await readRows(this.host, guest, guest.live, await this.networks.sockets(guest));
      } catch (error) {
        // What is said of a guest that has just ended, or is about to.
        const name = error instanceof StepError ? error.errnoName : Reflect.get(Object(error), 'code');
        if (name !== 'ESRCH' && name !== 'ENOENT' && name !== 'cgroup-missing') throw error;
      }
    }
    return configuredRows(this.host, guest.isEphemeral ? guest.config : this.registry.readConfig(guest.name));
  }

  /** Forgets how often limits were met, and the smallest and largest values seen. @throws StateError guest-stopped */
  async resetLimits(guest: Guest, what: { readonly hits: boolean; readonly minMax: boolean }): Promise<void> {
    await this.exclusive(guest, async () => {
      const live = this.#running('reset limits of', guest);
      const marks = await resetRows(this.host, guest, live, await this.networks.sockets(guest), what);
      this.#remember(guest, { ...live, limitMarks: marks });
    });
  }

  /** Starts what is due, and after a boot of the host what is to be up. Called once all is repaired. */
  startDue(): void {
    for (const guest of this.registry.list()) if (isActive(guest)) this.#follow(guest);
    this.#restarts.begin();
  }

  /** Starts nothing by itself until `startDue`. */
  holdDue(): void {
    this.#restarts.hold();
  }

  /** Waits for the guests whose run is just coming to its end. */
  async settled(): Promise<void> {
    for (const guest of this.registry.list()) {
      if (guest.state === 'stopping') await guest.ended?.promise;
    }
  }

  /** Ends what was prepared for guests to come, and leaves no cgroup of the instance if no guest runs. */
  async close(): Promise<void> {
    this.holdDue();
    this.#health.close();
    this.#oom.close();
    await this.#contexts.close();
    await this.networks.end();
    await this.views.end();
    this.forks.close();
    this.host.cgroups.removeInstance();
  }

  get #events(): EventJournal {
    return this.host.events;
  }

  /** Does work on a guest when what others do with it is done. */
  async exclusive<T>(guest: Guest, work: () => Promise<T>): Promise<T> {
    const before = guest.queue;
    const done = Promise.withResolvers<void>();
    guest.queue = done.promise;
    await before;
    try {
      return await work();
    } finally {
      done.resolve();
    }
  }
}

function contextRequest(config: GuestConfig, xid: Xid | undefined): ContextRequest {
  const { network, limits, scheduler, sysctls, views } = config;
  return {
    xid,
    hostNetwork: network.mode === 'host',
    ownSys: network.mode === 'private',
    devBytes: limits.shmBytes,
    cpuset: scheduler.cpus,
    // In a network stack of its own everybody may ping, as on most hosts.
    sysctls: network.mode === 'private' ? { 'net.ipv4.ping_group_range': '0 65534', ...sysctls } : sysctls,
    views,
  };
}

function startCancelled(guest: Guest): StateError {
  return new StateError(
    'start-cancelled',
    `cannot start guest "${guest.name}": found it told to stop before it had started`,
  );
}

/** Whether a program of a start may have failed only since the other one did: nobody sends, receives or is there. */
function isConsequence(error: unknown): boolean {
  if (!(error instanceof StepError)) return false;
  const { call, errnoName, stepIndex } = error;
  return stepIndex < 0 || errnoName === 'ECANCELED' || (call === 'sendmsg' && errnoName === 'EPIPE');
}

function stopped(verb: string, guest: Guest): StateError {
  return new StateError(
    'guest-stopped',
    `cannot ${verb} guest "${guest.name}": found it ${guest.state}; need it running`,
  );
}

/** A command that is not there, or cannot be run, is the user's matter and has exit codes of its own. */
async function commandErrors<T>(what: string, run: Promise<T>): Promise<T> {
  try {
    return await run;
  } catch (error) {
    if (!(error instanceof StepError) || !error.step?.includes(EXECVE)) throw error;
    const name = error.step.slice(error.step.indexOf('"'));
    const details = { syscall: 'execve', errno: error.errno, errnoName: error.errnoName, cause: error };
    if (error.errnoName === 'ENOENT' || error.errnoName === 'ENOTDIR') {
      throw new SysError(
        'command-not-found',
        `cannot ${what}: found no command ${name} in the guest`,
        details,
      );
    }
    throw new SysError(
      'command-not-executable',
      `cannot ${what}: found that ${name} cannot be executed`,
      details,
    );
  }
}
