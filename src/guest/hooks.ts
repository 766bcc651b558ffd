/**
 * The operator's commands at the stages of a guest's life, run on the host as root. The stages are Linux-VServer's:
 *
 *     initialize ─ prepre-start ─ (context made) ─ pre-start ─ (running) ─ post-start
 *     pre-stop ─ (asked to stop) ─ (ended) ─ post-stop ─ (cleaned up) ─ postpost-stop
 */
import { dirname } from 'node:path';
import { primaryError, StateError } from '../base/errors.ts';
import { formatDuration } from '../base/units.ts';
import type { Commands } from './commands.ts';
import type { HookStage } from './config-types.ts';
import type { Guest } from './guest.ts';
import type { Host } from './host.ts';
import { guestPaths } from './paths.ts';
import { planHook } from './plan-hook.ts';

const LOG_BYTES = 1024 ** 2;
const PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';

/** What the stages are called for the commands and in events: the original's words. */
const STAGE_WORDS: Readonly<Record<HookStage, string>> = {
  initialize: 'initialize',
  prepreStart: 'prepre-start',
  preStart: 'pre-start',
  postStart: 'post-start',
  preStop: 'pre-stop',
  postStop: 'post-stop',
  postpostStop: 'postpost-stop',
};

/** Variables of a stage beside those that every stage has, without their prefix. */
export type HookFacts = Readonly<Record<string, string | number>>;

/** Runs hooks. */
export class Hooks {
  readonly #host: Host;
  readonly #commands: Commands;

  constructor(host: Host, commands: Commands) {
    this.#host = host;
    this.#commands = commands;
  }

  /** Whether a guest has a hook at one of these stages; one that goes with its run has none. */
  has(guest: Guest, ...stages: readonly HookStage[]): boolean {
    return !guest.isEphemeral && stages.some((stage) => guest.config.hooks[stage] !== undefined);
  }

  /**
   * Runs the hook of a stage, if there is one, to its end.
   *
   * @throws StateError hook-failed when it cannot be run, does not exit with 0, or not in time
   */
  async run(guest: Guest, stage: HookStage, facts: HookFacts = {}): Promise<void> {
    const command = guest.config.hooks[stage];
    if (guest.isEphemeral || command === undefined) return;
    const begunMs = performance.now();
    const { exitCode, timedOut, cause } = await this.#runToEnd(guest, stage, command, facts);
    this.#host.events.publish(guest, 'hook.ended', {
      stage: STAGE_WORDS[stage],
      exitCode,
      timedOut,
      durationMs: Math.round(performance.now() - begunMs),
    });
    if (exitCode === 0) return;
    const { timeoutMs } = guest.config.hooks;
    const found = timedOut
      ? `no end within ${formatDuration(timeoutMs)}`
      : exitCode === null
        ? `that "${command[0] ?? ''}" cannot be run`
        : `exit code ${exitCode}`;
    throw new StateError(
      'hook-failed',
      `cannot run hook ${STAGE_WORDS[stage]} of guest "${guest.name}": found ${found}; need exit code 0`,
      { cause, hint: `what it wrote: vserver logs --hooks ${guest.name}` },
    );
  }

  /** Runs a hook whose failure changes nothing any more: the event tells it. */
  async try(guest: Guest, stage: HookStage, facts: HookFacts = {}): Promise<void> {
    await this.run(guest, stage, facts).catch((error: unknown) => {
      if (!(error instanceof StateError)) throw error;
    });
  }

  async #runToEnd(
    guest: Guest,
    stage: HookStage,
    command: readonly string[],
    facts: HookFacts,
  ): Promise<{ readonly exitCode: number | null; readonly timedOut: boolean; readonly cause?: unknown }> {
    const { syscalld, paths } = this.#host;
    const [process, stdout, stderr] = [syscalld.newObject(), syscalld.newObject(), syscalld.newObject()];
    const log = syscalld.newObject();
    const { config, hooksLog } = guestPaths(paths, guest.name);
    const p = this.#host.program();
    planHook(p, {
      argv: [...command, STAGE_WORDS[stage], guest.name],
      env: this.#environment(guest, stage, facts),
      cwd: dirname(config),
      process,
      stdout,
      stderr,
    });
    const what = `run hook ${STAGE_WORDS[stage]} of guest "${guest.name}"`;
    const timeout = Promise.withResolvers<'late'>();
    const timer = setTimeout(() => timeout.resolve('late'), guest.config.hooks.timeoutMs);
    try {
      const started = await this.#commands.start(what, p, process, () => {
        syscalld.log(log, hooksLog, LOG_BYTES, stdout, stderr);
      });
      const first = await Promise.race([started.ended, timeout.promise]);
      if (first !== 'late') return { exitCode: first.code, timedOut: false };
      await this.#commands.kill(started);
      return { exitCode: (await started.ended).code, timedOut: true };
    } catch (error) {
      return { exitCode: null, timedOut: false, cause: primaryError(error) };
    } finally {
      clearTimeout(timer);
      syscalld.drop(log);
    }
  }

  #environment(guest: Guest, stage: HookStage, facts: HookFacts): Readonly<Record<string, string>> {
    const { root } = this.#host.paths;
    const own = Object.entries(facts).map(([name, value]) => [`VSERVER_${name}`, String(value)] as const);
    return {
      PATH,
      HOME: '/root',
      ...(root === undefined ? {} : { VSERVER_ROOT: root }),
      VSERVER_NAME: guest.name,
      VSERVER_XID: String(guest.xid),
      VSERVER_STAGE: STAGE_WORDS[stage],
      ...Object.fromEntries(own),
    };
  }
}
