/**
 * The start of a guest: its configuration and files, a context, and the two programs that make a guest of it.
 */

import { existsSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { primaryError, StateError, VserverError } from '../base/errors.ts';
import type { GuestName, Xid } from '../base/ids.ts';
import { UndoStack } from '../base/undo.ts';
import { idRangeOf } from '../context/id-map.ts';
import { createGuestDirs } from '../storage/guest-dirs.ts';
import type { Abi } from '../sys/abi.ts';
import { readIfThere, writeDurable } from '../sys/files.ts';
import { bootTimeSeconds, identifyProcess, TICKS_PER_SECOND } from '../sys/process.ts';
import { Program, type Runnable } from '../sys/program.ts';
import { StepError } from '../sys/syscalld.ts';
import { numberOf, vary } from '../sys/varying.ts';
import { commandErrors } from './command-errors.ts';
import { completeConfig } from './config.ts';
import { editConfig } from './config-text.ts';
import type { GuestConfig, GuestConfigValues } from './config-types.ts';
import type { Context, ContextRequest } from './contexts.ts';
import type { Copies } from './copies.ts';
import { awaitHealthy } from './dependencies.ts';
import type { Ends } from './end.ts';
import type { Guest, GuestExit, LiveLink, LiveNetwork, LiveRecord } from './guest.ts';
import type { Host } from './host.ts';
import { IdMaps } from './id-maps.ts';
import type { Instance } from './instance.ts';
import { linkSpec } from './links.ts';
import type { NetworkOpening } from './networks.ts';
import { guestPaths } from './paths.ts';
import { OVERLAY_CREATE } from './plan-mounts.ts';
import { type HostSide, leavesNothing, planGuestSide, planHostSide } from './plan-start.ts';
import type { StartSpec } from './plan-types.ts';
import { finishRetag } from './retag.ts';
import {
  type CommandRequest,
  type Connection,
  commandSpec,
  connectionToLog,
  consoleOf,
  limitsOf,
  startSpec,
} from './spec.ts';
import { findUser } from './user-files.ts';

const LAYERS_TIMEOUT_MS = 5000;
const LAYERS_POLL_MS = 10;

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

/** Starts guests. */
export class Starts {
  readonly #instance: Instance;
  readonly #host: Host;
  readonly #ends: Ends;
  readonly #copies: Copies;

  constructor(instance: Instance, ends: Ends, copies: Copies) {
    this.#instance = instance;
    this.#host = instance.host;
    this.#ends = ends;
    this.#copies = copies;
  }

  /**
   * Starts a guest with its configured command. Allowed in: stopped.
   *
   * @param connect what the command's standard descriptors are; without, they go to the guest's log
   * @param restarts how often in a row it was started by itself
   * @throws StateError guest-running; StepError with the step that failed; UserError template and user errors
   */
  async start(guest: Guest, connect?: Connection, restarts = 0): Promise<LiveRecord> {
    return await this.#instance.exclusive(guest, async () => {
      if (guest.state !== 'stopped')
        throw new StateError(
          'guest-running',
          `cannot start guest "${guest.name}": found it ${guest.state}; need it stopped`,
        );
      return await this.#tellFailedStart(guest, () => this.#startStopped(guest, connect, restarts));
    });
  }

  /** Resolves when the guests that a guest waits for are healthy. @throws StateError dependency-unhealthy */
  async whenReady(guest: Guest): Promise<void> {
    const { registry } = this.#instance;
    await this.#tellFailedStart(guest, () => awaitHealthy(this.#host, registry, guest));
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
        : this.#instance.registry.add(
            name ?? this.#instance.registry.inventName(config.xid),
            config.xid,
            config,
            true,
          );
    let context: Context;
    try {
      context = await this.#instance.contexts.take(contextRequest(config, config.xid));
    } catch (error) {
      if (early) this.#instance.registry.remove(early);
      throw error;
    }
    let guest: Guest;
    try {
      guest =
        early ??
        this.#instance.registry.add(
          name ?? this.#instance.registry.inventName(context.xid),
          context.xid,
          config,
          true,
        );
    } catch (error) {
      await this.#instance.contexts.discard(context);
      throw error;
    } finally {
      this.#instance.registry.release(context.xid);
    }
    try {
      await this.#instance.exclusive(guest, () =>
        this.#tellFailedStart(guest, () => this.#start(guest, context, connect)),
      );
    } catch (error) {
      this.#instance.registry.remove(guest);
      await this.#instance.removeFiles(guest.name);
      throw error;
    } finally {
      this.#instance.contexts.refill();
    }
    return guest;
  }

  /** Returns the program of a start, without running it. */
  async explainStart(guest: Guest): Promise<string> {
    const { program, objects } = this.#instance.contexts.plan(
      guest.xid,
      contextRequest(guest.config, guest.xid),
    );
    using idMaps = await IdMaps.make(this.#host, guest);
    const { spec } = await this.#planStart(guest, objects, undefined, idMaps);
    const [host, inside] = [this.#host.program(), this.#host.program()];
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
    const xid = config.xid ?? this.#instance.registry.reserveXid();
    this.#instance.registry.release(xid);
    const guest = this.#instance.registry.add(
      name ?? this.#instance.registry.inventName(xid),
      xid,
      config,
      true,
    );
    try {
      return await this.explainStart(guest);
    } finally {
      this.#instance.registry.remove(guest);
    }
  }

  async #startStopped(guest: Guest, connect: Connection | undefined, restarts: number): Promise<LiveRecord> {
    await this.#readConfig(guest);
    await finishRetag(this.#instance.storage, guest);
    await this.#instance.attempt(`unify guest "${guest.name}"`, () => this.#copies.unifyIfDue(guest));
    await this.#instance.storage.fitFiles(guest);
    this.#instance.storage.isAboutToRun(guest.name);
    await using undo = new UndoStack();
    if (this.#instance.hooks.has(guest, 'initialize', 'prepreStart', 'preStart'))
      await this.#beginHooks(guest, undo);
    const deadlineMs = performance.now() + LAYERS_TIMEOUT_MS;
    for (;;) {
      const context = await this.#instance.contexts.take(contextRequest(guest.config, guest.xid));
      try {
        const live = await this.#start(guest, context, connect, restarts);
        undo.commit();
        await this.#instance.hooks.try(guest, 'postStart', { INIT_PID: live.initPid });
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

  /** Reads the configuration anew; what a file written by hand lacks of a created guest is made up for. */
  async #readConfig(guest: Guest): Promise<void> {
    if (guest.isEphemeral) return;
    const paths = guestPaths(this.#host.paths, guest.name);
    guest.config = this.#instance.registry.readConfig(guest.name);
    if (guest.config.xid === undefined) {
      const text = readIfThere(paths.config) ?? '';
      writeDurable(paths.config, editConfig(text, [{ path: ['xid'], value: guest.xid }], paths.config).text);
      guest.config = { ...guest.config, xid: guest.xid };
    }
    if (!existsSync(paths.directory)) await createGuestDirs(paths, idRangeOf(guest.xid).hostBase);
    this.#instance.storage.adopt(guest);
  }

  async #beginHooks(guest: Guest, undo: UndoStack): Promise<void> {
    let isCancelled = false;
    guest.state = 'starting';
    undo.defer('state', () => {
      guest.state = 'stopped';
    });
    // What they have made is for this one to take away.
    undo.defer('hooks', () => this.#instance.hooks.try(guest, 'postpostStop', { CAUSE: 'start-failed' }));
    guest.cancelStart = () => {
      isCancelled = true;
    };
    await this.#instance.hooks.run(guest, 'initialize');
    await this.#instance.hooks.run(guest, 'prepreStart');
    if (isCancelled) throw startCancelled(guest);
  }

  async #tellFailedStart<T>(guest: Guest, start: () => Promise<T>): Promise<T> {
    try {
      return await start();
    } catch (error) {
      const primary = primaryError(error);
      this.#host.events.publish(guest, 'start.failed', {
        code: primary instanceof VserverError ? primary.code : 'unknown',
        message: primary instanceof Error ? primary.message : String(primary),
      });
      throw error;
    }
  }

  /** Waits for a guest that goes with its run and whose command has ended, so that its name can be had again. */
  async #endingOf(name: GuestName | undefined): Promise<void> {
    const guest = this.#instance.registry.named(name);
    if (guest?.isEphemeral && guest.state === 'stopping') await guest.ended?.promise;
  }

  async #planStart(
    guest: Guest,
    { init, worker }: Context['objects'],
    connect: Connection | undefined,
    { objects: idMaps }: IdMaps,
  ): Promise<PlannedStart> {
    const { config, name, xid } = guest;
    const { syscalld } = this.#host;
    const files = await this.#instance.storage.freeFiles(guest);
    const template = await this.#instance.storage.template(guest);
    const lower = await this.#instance.storage.lower(template);
    const newObject = (): number => (connect ? 0 : syscalld.newObject());
    const log = { file: newObject(), stdout: newObject(), stderr: newObject() };
    const connection = connect ? consoleOf(config, connect) : connectionToLog(config, log);
    const user = await findUser(
      this.#host,
      config.user,
      {
        kind: 'files',
        upper: guest.isEphemeral ? undefined : files,
        lower,
        hostUsr: template.hostUsr,
        attachAt: this.#host.attachPoint,
        detachedLayers: this.#host.detachedLayers,
      },
      idRangeOf(xid).count,
    );
    await this.#instance.storage.freeFiles(guest, files); // a name was looked up in them
    const request: CommandRequest = { argv: config.command, env: {}, cwd: undefined };
    const command = commandSpec(this.#host, config, config.hostname ?? name, request, user, connection);
    const limits = limitsOf(config);
    // The init makes the command's process while the limit is still being written.
    if (config.init === 'fake' && limits.pids === 1)
      throw new StateError(
        'process-limit',
        `cannot start guest "${name}": found limits.pids 1; need 2 or more, for the built-in init and the command, or init: none`,
      );
    const cgroup = this.#host.cgroups.plan(xid, limits);
    const objects = {
      init: vary(init),
      ending: connect ? vary(syscalld.newObject()) : undefined,
      worker: vary(worker),
    };
    const circumstances = {
      name,
      xid,
      files,
      lower,
      hostUsr: template.hostUsr,
      cgroup,
      isEphemeral: guest.isEphemeral,
      objects,
      idMaps,
      network: await this.#instance.networks.plan(guest),
      broker: await this.#instance.brokers.plan(guest, config, init),
      link: linkSpec(this.#host, guest, init),
    };
    return { spec: startSpec(this.#host, config, circumstances, command), log };
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
      if (network) await this.#instance.closeNetwork(guest, network);
    });
    undo.defer('context', () => this.#instance.contexts.discard(context));
    const cancelled = Promise.withResolvers<never>();
    guest.cancelStart = () => cancelled.reject(startCancelled(guest));
    using idMaps = await IdMaps.make(this.#host, guest);
    const { spec, log } = await Promise.race([
      this.#planStart(guest, context.objects, connect, idMaps),
      cancelled.promise,
    ]);
    await this.#instance.hooks.run(guest, 'preStart', { INIT_PID: context.initPid });
    guest.gone = undefined;
    guest.isEndingEarly = false;
    guest.ended = Promise.withResolvers<GuestExit>();
    guest.earlyExit = undefined;
    guest.seenLimits.clear();
    this.#instance.byInit.set(init, guest);
    undo.defer('process 1', () => {
      this.#instance.byInit.delete(init);
      for (const object of [log.stdout, log.stderr]) if (object) this.#host.syscalld.drop(object);
    });
    const { broker } = spec;
    if (broker) undo.defer('broker', () => this.#instance.brokers.drop(broker.objects));
    const opening = spec.network ? await this.#instance.networks.begin(guest, spec.network) : undefined;
    network = opening?.live;
    const started = await Promise.race([this.#runStart(guest, context, spec, opening), cancelled.promise]);
    network = started.network;
    guest.cancelStart = undefined;
    // Before anybody else hears of the run: its end may be told in the same breath.
    if (connect?.client) this.#host.syscalld.bind(connect.client, init);
    const { initPid } = context;
    if (log.file) this.#instance.openLog(guest, log.file, log.stdout, log.stderr);
    const live: LiveRecord = {
      name: guest.name,
      xid: guest.xid,
      bootId: this.#instance.bootId,
      isEphemeral: guest.isEphemeral,
      initPid,
      initStartTicks: identifyProcess(initPid)?.startTicks ?? -1,
      startTicks: Math.floor(bootTimeSeconds() * TICKS_PER_SECOND),
      initObject: init,
      logObject: log.file,
      logPipes: started.logPipes,
      client: connect?.terminal?.master.kind === 'client' ? numberOf(connect.terminal.master.client) : 0,
      network,
      broker: broker?.objects,
      link: started.link,
      startedAt: new Date().toISOString(),
      isPaused: false,
      stopAsked: undefined,
      restarts,
      config: guest.config,
      exit: undefined,
    };
    this.#instance.record(guest, live);
    this.#instance.networks.recorded(guest, network);
    this.#instance.restarts.started(guest);
    guest.state = 'running';
    this.#instance.follow(guest);
    undo.commit();
    this.#host.events.publish(guest, 'started', { initPid, ephemeral: guest.isEphemeral });
    if (guest.isEndingEarly) this.#ends.ending(init);
    if (guest.earlyExit !== undefined) this.#ends.exited(init, guest.earlyExit);
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
    const { abi, syscalld } = this.#host;
    const what = `start guest "${guest.name}"`;
    const runHost = async (): Promise<StartedParts> => {
      let side: ReturnType<typeof planHost>;
      try {
        side = planHost(abi, spec, opening);
      } catch (error) {
        syscalld.drop(objects.worker); // the guest's side would wait for it
        throw error;
      }
      const { program, opened, logPipes, link } = side;
      const outcome = await syscalld.run(what, program, objects.worker);
      return {
        logPipes: logPipes.map((inode) => outcome.result(inode)),
        network: opened?.(outcome),
        link: spec.link && link && { name: spec.link.name, index: outcome.result(link) },
      };
    };
    const runInside = async (): Promise<void> => {
      const { program } = Program.alike(abi, spec, planGuestSide);
      await commandErrors(what, syscalld.run(what, program, objects.initPrograms));
    };
    // The worker is at it while the other program is made.
    const [host, inside] = await Promise.allSettled([runHost(), runInside()]);
    // Process 1 may have failed before it took its program, when that of its context was over already.
    const early = syscalld.childFailure(what, objects.worker);
    const isFree =
      !early && host.status === 'fulfilled' && inside.status === 'fulfilled' && leavesNothing(spec);
    if (isFree) syscalld.free(objects.worker);
    else syscalld.drop(objects.worker);
    if (early) throw early;
    const failures = [inside, host]
      .filter((one) => one.status === 'rejected')
      .map(({ reason }) => reason as unknown);
    if (failures.length > 0) throw failures.find((one) => !isConsequence(one)) ?? failures[0];
    return host.status === 'fulfilled' ? host.value : { logPipes: [], network: undefined, link: undefined };
  }
}

/** Plans the worker's part of a start. A network is not planned twice: the fence keeps in mind what it was told. */
function planHost(
  abi: Abi,
  spec: StartSpec,
  opening: NetworkOpening | undefined,
): HostSide & {
  readonly program: Runnable;
  readonly opened: ReturnType<NetworkOpening['plan']> | undefined;
} {
  if (opening) {
    const program = new Program(abi);
    return { program, opened: opening.plan(program), ...planHostSide(program, spec) };
  }
  const { program, planned } = Program.alike(abi, spec, planHostSide);
  return { program, opened: undefined, ...planned };
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

/**
 * Whether a program of a start may have failed only since the other one did: nobody sends, receives or is there. Who ends
 * with something unread resets the connection (unix_release_sock, net/unix/af_unix.c).
 */
function isConsequence(error: unknown): boolean {
  if (!(error instanceof StepError)) return false;
  const { call, errnoName, stepIndex } = error;
  const isGone = errnoName === 'EPIPE' || errnoName === 'ECONNRESET';
  return stepIndex < 0 || errnoName === 'ECANCELED' || ((call === 'sendmsg' || call === 'recvmsg') && isGone);
}
