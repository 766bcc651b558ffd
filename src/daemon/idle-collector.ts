/**
 * Gives memory back when nobody is served. A burst of commands leaves garbage that V8 would keep until the next burst
 * needs its place; a daemon that mostly waits has no use for it.
 */

/** How long nobody is served before memory is collected: so that it is in nobody's way. */
const IDLE_MS = 1000;

/** Collects garbage after bursts; needs Node's --expose-gc. */
export class IdleCollector {
  #timer: NodeJS.Timeout | undefined;

  /** A client has been served. */
  served(): void {
    if (this.#timer) {
      this.#timer.refresh();
      return;
    }
    this.#timer = setTimeout(() => {
      this.#timer = undefined;
      void globalThis.gc?.({ type: 'major', execution: 'async', flavor: 'last-resort' });
    }, IDLE_MS);
    this.#timer.unref();
  }
}
