/** What somebody looked at a moment ago. */

/** Something that is looked at anew when the last look is too old; all who ask meanwhile share one. */
export class Recent<T> {
  readonly #maxAgeMs: number;
  readonly #look: () => Promise<T>;
  #looking: Promise<void> | undefined;
  #atMs: number | undefined;
  #last: T | undefined;

  constructor(maxAgeMs: number, look: () => Promise<T>) {
    this.#maxAgeMs = maxAgeMs;
    this.#look = look;
  }

  /** What was seen at the last look; undefined before the first one. */
  get last(): T | undefined {
    return this.#last;
  }

  /** Looks, unless somebody just did. A look that failed is none. */
  async refresh(): Promise<void> {
    if (this.#atMs === undefined || performance.now() - this.#atMs > this.#maxAgeMs)
      this.#looking ??= this.#take().finally(() => {
        this.#looking = undefined;
      });
    await this.#looking;
  }

  async #take(): Promise<void> {
    this.#last = await this.#look();
    this.#atMs = performance.now();
  }
}
