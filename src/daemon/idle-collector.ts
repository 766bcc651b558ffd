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
  readonly #lull = setTimeout(() => {
    void globalThis.gc?.({ type: 'minor' });
  }, LULL_MS).unref();
  readonly #idle = setTimeout(collectAll, IDLE_MS).unref();
  readonly #again = setTimeout(collectAll, AGAIN_MS).unref();

  /** A client has been served. */
  served(): void {
    this.#lull.refresh();
    this.#idle.refresh();
    this.#again.refresh();
  }
}

function collectAll(): void {
  void globalThis.gc?.({ type: 'major', execution: 'async', flavor: 'last-resort' });
}
