/**
 * Health checks: a command that is run in a guest now and then, and what is done when it fails too often. A guest without
 * one costs nothing; one with one a timer while it runs.
 */
import { isDeepStrictEqual } from 'node:util';
import type { HealthStatus } from '../api/events.ts';
import { primaryError } from '../base/errors.ts';
import type { StartedCommand } from './commands.ts';
import type { HealthCheck } from './config-types.ts';
import type { Guest, LiveHealth, LiveRecord } from './guest.ts';
import type { Host } from './host.ts';

/** Between checks while failures do not count yet. */
const START_INTERVAL_MS = 5000;

/** What health checks need of the engine. */
export interface HealthDeps {
  /** Runs the check's command in the guest. */
  run(guest: Guest, check: HealthCheck): Promise<StartedCommand>;
  /** Kills it with what it started. */
  kill(command: StartedCommand): Promise<void>;
  remember(guest: Guest, live: LiveRecord): void;
  /** A guest has become unhealthy: does what its configuration wants. */
  unhealthy(guest: Guest, action: HealthCheck['onFailure']): Promise<void>;
}

/** The checks of one run of a guest. */
interface Watch {
  readonly guest: Guest;
  readonly check: HealthCheck;
  readonly initObject: number;
  readonly begunMs: number;
  timer: NodeJS.Timeout | undefined;
}

/** The health checks of one instance. */
export class Health {
  readonly #host: Host;
  readonly #deps: HealthDeps;
  readonly #watches = new Map<Guest, Watch>();

  constructor(host: Host, deps: HealthDeps) {
    this.#host = host;
    this.#deps = deps;
  }

  /** A guest runs, or its check may be another now. */
  begin(guest: Guest): void {
    const check = guest.live?.config.health;
    const present = this.#watches.get(guest);
    if (present?.initObject === guest.live?.initObject && isDeepStrictEqual(present?.check, check)) return;
    this.end(guest);
    if (!guest.live || check === undefined) return;
    const { initObject } = guest.live;
    const watch: Watch = { guest, check, initObject, begunMs: performance.now(), timer: undefined };
    this.#watches.set(guest, watch);
    this.#setTimer(watch);
  }

  /** A guest has ended. */
  end(guest: Guest): void {
    clearTimeout(this.#watches.get(guest)?.timer);
    this.#watches.delete(guest);
  }

  /** Nothing is checked any more. */
  close(): void {
    for (const guest of this.#watches.keys()) this.end(guest);
  }

  #isStarting({ check, begunMs }: Watch): boolean {
    return performance.now() - begunMs < check.startPeriodMs;
  }

  #setTimer(watch: Watch): void {
    const { intervalMs } = watch.check;
    const delayMs = this.#isStarting(watch) ? Math.min(intervalMs, START_INTERVAL_MS) : intervalMs;
    watch.timer = setTimeout(() => void this.#turn(watch), delayMs);
  }

  /** Whether it is still this run that is watched. */
  #isCurrent(watch: Watch): boolean {
    const { guest, initObject } = watch;
    return this.#watches.get(guest) === watch && guest.live?.initObject === initObject;
  }

  async #turn(watch: Watch): Promise<void> {
    const { guest } = watch;
    // A paused guest cannot answer, and nobody waits for it.
    if (guest.state === 'running') {
      const result = await this.#check(watch);
      if (!this.#isCurrent(watch)) return;
      if (guest.state === 'running') await this.#take(watch, result);
    }
    if (this.#isCurrent(watch)) this.#setTimer(watch);
  }

  /** Runs the command once. Its exit code; null: it could not be run, or was killed since it took too long. */
  async #check({ guest, check }: Watch): Promise<Pick<LiveHealth, 'exitCode' | 'problem'>> {
    const late = Promise.withResolvers<'late'>();
    const timer = setTimeout(() => late.resolve('late'), check.timeoutMs);
    try {
      const command = await this.#deps.run(guest, check);
      const first = await Promise.race([command.ended, late.promise]);
      if (first !== 'late') return { exitCode: first.code, problem: null };
      await this.#deps.kill(command);
      return { exitCode: null, problem: `no end within ${check.timeoutMs} ms` };
    } catch (error) {
      const primary = primaryError(error);
      return { exitCode: null, problem: primary instanceof Error ? primary.message : String(primary) };
    } finally {
      clearTimeout(timer);
    }
  }

  async #take(watch: Watch, result: Pick<LiveHealth, 'exitCode' | 'problem'>): Promise<void> {
    const { guest, check } = watch;
    const { live } = guest;
    if (!live) return;
    const before = live.health ?? FRESH;
    const hasPassed = result.exitCode === 0;
    const isCounted = before.status !== 'starting' || !this.#isStarting(watch);
    const failingStreak = hasPassed ? 0 : before.failingStreak + (isCounted ? 1 : 0);
    const status: HealthStatus = hasPassed
      ? 'healthy'
      : failingStreak >= check.retries
        ? 'unhealthy'
        : before.status;
    const health: LiveHealth = { status, failingStreak, checkedAt: new Date().toISOString(), ...result };
    // What is read back after the death of vserverd is the status; the file need not change with each check.
    if (status === before.status) guest.live = { ...live, health };
    else this.#deps.remember(guest, { ...live, health });
    if (status === before.status) return;
    this.#host.events.publish(guest, 'health.changed', { status, failingStreak, ...result });
    if (status === 'unhealthy') await this.#deps.unhealthy(guest, check.onFailure);
  }
}

/** Before the first check. */
export const FRESH: LiveHealth = {
  status: 'starting',
  failingStreak: 0,
  checkedAt: null,
  exitCode: null,
  problem: null,
};
