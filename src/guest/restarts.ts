/**
 * Starts guests that nobody asked to start now: those whose policy wants them up again, those that rebooted, those that
 * are to come up with the host.
 *
 *     lib/guests/NAME/wanted      the operator's last word, `up` or `down`; of guests with a policy
 *     run/restarts/NAME.json      a start that is due; it is done also if vserverd dies before
 *     run/booted                  the boot whose guests have been brought up
 *
 * A due start is written before the end of the run it follows, and removed after the record of the run that came of it: so
 * at any moment of a sudden end either the run is on record, or the start is.
 */
import { mkdirSync, readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { VserverError } from '../base/errors.ts';
import { isGuestName } from '../base/ids.ts';
import { readIfThere, writeDurable, writeVolatile } from '../sys/files.ts';
import { uptimeMs } from './accounting.ts';
import { withDependencies } from './dependencies.ts';
import { type Guest, type GuestExit, isActive, type LiveRecord, type PendingStart } from './guest.ts';
import type { Host } from './host.ts';
import { guestPaths } from './paths.ts';
import type { Registry } from './registry.ts';
import { type NextStart, startAfter, startAfterFailure } from './restart-policy.ts';
import { Turns } from './turns.ts';

/** Guests with this mark come up with the host, as in Linux-VServer. */
const BOOT_MARK = 'default';
const MAX_PARALLEL = 16;

/** Starts a guest as `Manager.start` does; `restarts` is for the record of the run. */
export type StartGuest = (guest: Guest, restarts: number) => Promise<unknown>;

/** How guests are started, and what comes before. */
interface StartsGuests {
  readonly start: StartGuest;
  /** Resolves when the guests that a guest waits for are healthy. */
  readonly whenReady: (guest: Guest) => Promise<void>;
  /** Writes what the next vserverd is to know, if it can be written. */
  readonly note: (what: string, write: () => void) => void;
}

/** The starts of one instance that are due. */
export class Restarts {
  readonly #host: Host;
  readonly #registry: Registry;
  readonly #starts: StartsGuests;
  readonly #timers = new Map<Guest, NodeJS.Timeout>();
  readonly #bootId: string;
  /** Between the end of the repair and the end of the control plane. */
  #isServing = false;

  constructor(host: Host, registry: Registry, bootId: string, starts: StartsGuests) {
    this.#host = host;
    this.#registry = registry;
    this.#bootId = bootId;
    this.#starts = starts;
  }

  // ---- what the life of a guest tells -----------------------------------------------------------------------------

  /** A run has ended; called before the end is on record. Returns whether another start is due. */
  ended(guest: Guest, run: LiveRecord, exit: GuestExit): PendingStart | undefined {
    if (guest.isEphemeral) return undefined;
    const { restart: policy } = guest.config;
    // The control plane took it down with itself: it comes up again with it.
    if (run.stopAsked === 'shutdown')
      return this.#isKeptUp(guest) || guest.config.boot.marks.includes(BOOT_MARK)
        ? this.#put(guest, { delayMs: 0, restarts: 0 })
        : undefined;
    const next = startAfter(policy, {
      cause: exit.cause,
      exitCode: exit.code,
      isRestartAsked: run.stopAsked === 'health-restart',
      ranMs: uptimeMs({ live: run }),
      restarts: run.restarts,
    });
    return this.#take(guest, next, run.restarts);
  }

  /** A guest runs, whoever started it. */
  started(guest: Guest): void {
    this.#drop(guest);
    this.#want(guest, 'up');
  }

  /** An operator wants a guest to end, or to stay as it is; called before it is told. */
  stopAsked(guest: Guest): void {
    this.#drop(guest);
    this.#want(guest, 'down');
  }

  /** A guest is deleted. */
  forget(guest: Guest): void {
    this.#drop(guest);
  }

  /** The policy of a guest may be another now. */
  changed(guest: Guest): void {
    if (isActive(guest)) this.#want(guest, 'up');
    else if (!this.#isKeptUp(guest)) this.#drop(guest);
  }

  /** Tells of a start that is due, and sets the clock for it. */
  schedule(guest: Guest): void {
    if (!guest.pending) return;
    const { delayMs, restarts } = guest.pending;
    this.#host.events.publish(guest, 'restart.scheduled', { delayMs, restarts });
    if (this.#isServing) this.#setTimer(guest, guest.pending);
  }

  #setTimer(guest: Guest, pending: PendingStart): void {
    const { delayMs, dueAt } = pending;
    clearTimeout(this.#timers.get(guest));
    // The clock may have been set meanwhile; longer than it was meant to nobody waits.
    const waitMs = Math.max(0, Math.min(Date.parse(dueAt) - Date.now(), delayMs));
    const timer = setTimeout(() => {
      this.#timers.delete(guest);
      void this.#run(guest, pending);
    }, waitMs);
    this.#timers.set(guest, timer);
  }

  // ---- the control plane comes and goes ---------------------------------------------------------------------------

  /** Called before anything else. */
  open(): void {
    mkdirSync(this.#directory, { recursive: true, mode: 0o700 });
  }

  /** Goes on with what is due, and after a boot of the host brings up what is to be up. */
  begin(): void {
    this.#load();
    this.#isServing = true;
    const booted = join(this.#host.paths.run, 'booted');
    if (readIfThere(booted) !== this.#bootId) {
      const wanted = this.#registry.list().filter((guest) => this.#isForBoot(guest));
      for (const guest of withDependencies(wanted, this.#registry)) {
        const isFresh = guest.state === 'stopped' && guest.live === undefined && !guest.pending;
        if (!isFresh) continue;
        const { delayMs, restarts } = this.#put(guest, { delayMs: 0, restarts: 0 });
        this.#host.events.publish(guest, 'restart.scheduled', { delayMs, restarts });
      }
      writeVolatile(booted, this.#bootId);
    }
    const due: Guest[] = [];
    for (const guest of this.#registry.list()) {
      if (guest.pending && guest.pending.delayMs === 0) due.push(guest);
      else if (guest.pending) this.#setTimer(guest, guest.pending);
    }
    void this.#startTogether(due);
  }

  /** Those that come up with the control plane or the host, each behind those it depends on. */
  async #startTogether(guests: readonly Guest[]): Promise<void> {
    let turns: Turns<Guest>;
    try {
      turns = Turns.toStart(guests);
    } catch (error) {
      // A circle has no order: better all of them in any than none.
      this.onFailure('order the guests that come up', error);
      for (const guest of guests) if (guest.pending) this.#setTimer(guest, guest.pending);
      return;
    }
    await turns.each(MAX_PARALLEL, async (guest) => {
      if (guest.pending) await this.#run(guest, guest.pending);
    });
  }

  /** Told of failures that no caller waits for. */
  onFailure: (what: string, error: unknown) => void = () => {};

  /** Nothing is started by itself until `begin`; what is due stays on record. */
  hold(): void {
    this.#isServing = false;
    for (const timer of this.#timers.values()) clearTimeout(timer);
    this.#timers.clear();
  }

  #load(): void {
    for (const file of readdirSync(this.#directory)) {
      const name = file.slice(0, -'.json'.length);
      const guest = isGuestName(name) ? this.#registry.named(name) : undefined;
      const pending = parsePending(readIfThere(join(this.#directory, file)), this.#bootId);
      if (guest && pending && !isActive(guest)) guest.pending ??= pending;
      else rmSync(join(this.#directory, file), { force: true });
    }
  }

  #isKeptUp(guest: Guest): boolean {
    return guest.config.restart.policy !== 'no';
  }

  #isForBoot(guest: Guest): boolean {
    if (guest.config.boot.marks.includes(BOOT_MARK)) return true;
    const wanted = this.#isKeptUp(guest)
      ? readIfThere(guestPaths(this.#host.paths, guest.name).wanted)
      : undefined;
    return guest.config.restart.policy === 'always' ? wanted !== undefined : wanted === 'up';
  }

  // ---- a start ----------------------------------------------------------------------------------------------------

  async #run(guest: Guest, pending: PendingStart): Promise<void> {
    if (guest.pending !== pending || !this.#isServing) return;
    try {
      await this.#starts.whenReady(guest);
      if (guest.pending !== pending || !this.#isServing) return; // so long may have happened much
      await this.#starts.start(guest, pending.restarts);
    } catch (error) {
      // An operator was faster, and has started it, stopped it, or stops it just now.
      const isStopped = error instanceof VserverError && error.code === 'start-cancelled';
      if (guest.pending !== pending || isStopped || !this.#isServing) return;
      this.#take(guest, startAfterFailure(guest.config.restart, pending.restarts), pending.restarts);
      this.schedule(guest);
    }
  }

  #take(guest: Guest, next: NextStart | 'exhausted' | undefined, restarts: number): PendingStart | undefined {
    if (typeof next === 'object') return this.#put(guest, next);
    this.#drop(guest);
    if (next === 'exhausted') this.#host.events.publish(guest, 'restart.exhausted', { restarts });
    // A job that is done, or given up, is not begun anew with the host.
    if (guest.config.restart.policy === 'on-failure') this.#want(guest, 'down');
    return undefined;
  }

  #put(guest: Guest, { delayMs, restarts }: NextStart): PendingStart {
    const dueAt = new Date(Date.now() + delayMs).toISOString();
    guest.pending = { bootId: this.#bootId, delayMs, restarts, dueAt };
    const text = JSON.stringify(guest.pending);
    this.#starts.note(`put the next start of guest "${guest.name}" on record`, () =>
      writeVolatile(this.#path(guest), text),
    );
    return guest.pending;
  }

  #drop(guest: Guest): void {
    if (!guest.pending) return;
    guest.pending = undefined;
    clearTimeout(this.#timers.get(guest));
    this.#timers.delete(guest);
    rmSync(this.#path(guest), { force: true });
  }

  #want(guest: Guest, word: 'up' | 'down'): void {
    if (guest.isEphemeral || !this.#isKeptUp(guest)) return;
    const { wanted } = guestPaths(this.#host.paths, guest.name);
    if (readIfThere(wanted) === word) return;
    this.#starts.note(`put on record that guest "${guest.name}" is to be ${word}`, () =>
      writeDurable(wanted, word),
    );
  }

  get #directory(): string {
    return join(this.#host.paths.run, 'restarts');
  }

  #path(guest: Guest): string {
    return join(this.#directory, `${guest.name}.json`);
  }
}

/** Reads a due start of this boot. */
function parsePending(text: string | undefined, bootId: string): PendingStart | undefined {
  try {
    const pending = JSON.parse(text ?? 'null') as PendingStart | null; // written by us, in one step
    return pending?.bootId === bootId ? pending : undefined;
  } catch {
    return undefined;
  }
}
