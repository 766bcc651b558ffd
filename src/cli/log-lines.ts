/**
 * Lines of a log whose two streams are interleaved in pieces: a line belongs to one stream, and its place among all is
 * where it begins.
 */
import { formatLogTime, type LogRecord } from '../spec/log-records.ts';

const LINE_FEED = 0x0a;

/** Counts the lines of the records that are pushed. */
export class LineCounter {
  readonly #isInLine = { 1: false, 2: false };
  /** Lines that have begun. */
  count = 0;

  push({ stream, bytes }: LogRecord): void {
    for (let at = 0; at < bytes.length; ) {
      if (!this.#isInLine[stream]) this.count++;
      const end = bytes.indexOf(LINE_FEED, at);
      this.#isInLine[stream] = end === -1;
      at = end === -1 ? bytes.length : end + 1;
    }
  }
}

/** Which part of a log is shown, and how. */
export interface LineOptions {
  /** Lines to leave out at the beginning. */
  readonly skip: number;
  /** Each line begins with the time of the record that began it. */
  readonly withTimes: boolean;
}

/** Leaves out lines at the beginning and puts times before the others. */
export class LineFormatter {
  readonly #options: LineOptions;
  readonly #isInLine = { 1: false, 2: false };
  /** Whether the line that each stream is in is shown. */
  readonly #isShown = { 1: false, 2: false };
  #begun = 0;

  constructor(options: LineOptions) {
    this.#options = options;
  }

  /** Returns what is shown of a record; nothing else is changed. */
  format(record: LogRecord): Uint8Array {
    const { stream, bytes } = record;
    const parts: Uint8Array[] = [];
    for (let at = 0; at < bytes.length; ) {
      const begins = !this.#isInLine[stream];
      if (begins) this.#isShown[stream] = ++this.#begun > this.#options.skip;
      const lineFeed = bytes.indexOf(LINE_FEED, at);
      this.#isInLine[stream] = lineFeed === -1;
      const end = lineFeed === -1 ? bytes.length : lineFeed + 1;
      if (this.#isShown[stream]) {
        if (begins && this.#options.withTimes) {
          parts.push(new TextEncoder().encode(`${formatLogTime(record.timeNs)} `));
        }
        parts.push(bytes.subarray(at, end));
      }
      at = end;
    }
    return concat(parts);
  }
}

/** Joins bytes; a single part is returned as it is. */
export function concat(parts: readonly Uint8Array[]): Uint8Array {
  if (parts.length === 1 && parts[0] !== undefined) return parts[0];
  const all = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}
