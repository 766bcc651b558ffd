/**
 * One line on the caller's terminal that says how far long work is; nothing where no terminal is, or with --quiet.
 */
import { formatSizeRounded } from '../base/units.ts';
import type { HelperProgress } from '../storage/helper/tasks.ts';
import type { HelperOptions } from '../storage/helper-process.ts';
import type { Io } from './io.ts';
import type { GlobalOptions } from './verb-types.ts';

const BAR_WIDTH = 20;
const CLEAR_LINE = '\r\u001b[K';

/** Returns a share as a bar and in percent. */
function bar(share: number): string {
  const filled = Math.round(Math.min(share, 1) * BAR_WIDTH);
  return `[${'#'.repeat(filled)}${'-'.repeat(BAR_WIDTH - filled)}] ${Math.floor(Math.min(share, 1) * 100)} %`;
}

/** A line that is written over again and again. */
export class Progress implements AsyncDisposable {
  readonly #io: Io;
  readonly #what: string;
  readonly #isShown: boolean;
  /** For what tells how far it is. */
  readonly options: HelperOptions;
  #last: Promise<void> = Promise.resolve();
  #isWaiting = false;
  #now = '';

  constructor(io: Io, global: GlobalOptions, what: string) {
    this.#io = io;
    this.#what = what;
    this.#isShown = io.tty[2] && !global.quiet;
    const onProgress = this.#isShown ? (now: HelperProgress): void => this.#show(now) : undefined;
    const onStep = global.quiet ? undefined : (what: string): void => this.#step(what);
    this.options = { signal: io.signal, onProgress, onStep };
  }

  /** Says what is done now; where no terminal is, on a line of its own. */
  #step(what: string): void {
    this.#now = `: ${what}`;
    this.#write(this.#isShown ? `${CLEAR_LINE}${this.#what}${this.#now}` : `${this.#what}${this.#now}\n`);
  }

  #show({ files, readBytes, totalBytes }: HelperProgress): void {
    // A terminal that is slow gets the latest only.
    if (this.#isWaiting) return;
    this.#isWaiting = true;
    const parts = [
      ...(readBytes !== undefined && totalBytes ? [bar(readBytes / totalBytes)] : []),
      ...(readBytes !== undefined && !totalBytes ? [formatSizeRounded(readBytes)] : []),
      ...(files > 0 ? [`${files} files`] : []),
    ];
    this.#write(`${CLEAR_LINE}${this.#what}${this.#now}: ${parts.join(' ')}`);
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
