/**
 * Gives memory back when nobody is served. A burst of commands leaves garbage that V8 would keep until the next burst
 * needs its place; a daemon that mostly waits has no use for it.
 */

/** How long nobody is served before the young generation is collected: the next start does not have to. */
const LULL_MS = 4;
/** And before all of it is: so that it is in nobody's way. */
const IDLE_MS = 1000;
/** And once more: what was alive only through what the first time freed goes now, 3 MB after a thousand starts. */
const AGAIN_MS = 2 * IDLE_MS;

/** Collects garbage after bursts; needs Node's --expose-gc. */
export class IdleCollector {
  readonly #isBusy: () => boolean;
  readonly #lull = setTimeout(() => {
    void globalThis.gc?.({ type: 'minor' });
  }, LULL_MS).unref();
  readonly #idle: NodeJS.Timeout = setTimeout(() => this.#collectAll(this.#idle), IDLE_MS).unref();
  readonly #again: NodeJS.Timeout = setTimeout(() => this.#collectAll(this.#again), AGAIN_MS).unref();

  /** @param isBusy whether guests are just starting, or ending: one client may have a thousand started */
  constructor(isBusy: () => boolean) {
    this.#isBusy = isBusy;
  }

  /** A client has been served. */
  served(): void {
    this.#lull.refresh();
    this.#idle.refresh();
    this.#again.refresh();
  }

  /** Takes 40 ms, and what is young then would be collected in small steps for a while: not in the midst of a burst. */
  #collectAll(timer: NodeJS.Timeout): void {
    if (this.#isBusy()) timer.refresh();
    else void globalThis.gc?.({ type: 'major', execution: 'async', flavor: 'last-resort' });
  }
}
