/**
 * One line on the caller's terminal that says how far long work is; nothing where no terminal is, or with --quiet.
 */
import type { HelperOptions } from '../storage/helper-process.ts';
import type { Io } from './io.ts';
import type { GlobalOptions } from './verb-types.ts';

const CLEAR_LINE = '\r\u001b[K';

/** A line that is written over again and again. */
export class Progress implements AsyncDisposable {
  readonly #io: Io;
  readonly #what: string;
  readonly #isShown: boolean;
  /** For what tells how far it is. */
  readonly options: HelperOptions;
  #last: Promise<void> = Promise.resolve();
  #isWaiting = false;

  constructor(io: Io, global: GlobalOptions, what: string) {
    this.#io = io;
    this.#what = what;
    this.#isShown = io.tty[2] && !global.quiet;
    const onProgress = this.#isShown ? (files: number): void => this.#files(files) : undefined;
    this.options = { signal: io.signal, onProgress };
  }

  #files(count: number): void {
    // A terminal that is slow gets the latest only.
    if (this.#isWaiting) return;
    this.#isWaiting = true;
    this.#write(`${CLEAR_LINE}${this.#what}: ${count} files`);
    void this.#last.finally(() => {
      this.#isWaiting = false;
    });
  }

  /** Takes the line away. */
  clear(): void {
    if (this.#isShown) this.#write(CLEAR_LINE);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#last;
  }

  #write(text: string): void {
    this.#last = this.#last.then(() => this.#io.err(text));
  }
}
