/**
 * The journal of events: numbered lines of JSON in files of bounded size, which outlive vserverd and the host's boot.
 *
 *     lib/events/00000000000000000000.jsonl      each named by the number before its first event,
 *     lib/events/00001790000000041234.jsonl      never renamed; the oldest is deleted when there are too many
 *
 * An event is with the kernel when `publish` returns, so it outlives our own death; nobody waits for the disk, so a power
 * cut may take the last ones. A number is never given twice, whatever was lost: after each opening they go on from the
 * time of day in milliseconds, unless they are ahead of that already.
 */
import {
  closeSync,
  ftruncateSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeSync,
} from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { join } from 'node:path';
import type { EventDetails, EventGap, EventType, GuestEvent } from '../api/events.ts';
import type { GuestName, Xid } from '../base/ids.ts';

const SEGMENT_BYTES = 1024 ** 2;
const SEGMENTS = 8;
const SUFFIX = '.jsonl';
/** Digits of the largest number JSON keeps exact, and then some: names sort as the numbers do. */
const NAME_DIGITS = 20;
const LINE_FEED = 0x0a;

/** Where a reader stands: in the file of that number, behind so many bytes. */
interface Place {
  segment: number;
  offset: number;
}

/** Writes the events of one instance, and hands them out. */
export class EventJournal {
  readonly #directory: string;
  readonly #segmentBytes: number;
  /** Numbers that name the files, rising; the last one is written to. */
  #segments: number[] = [];
  #fd = -1;
  /** Bytes of the last file. */
  #size = 0;
  #last = 0;
  readonly #listeners = new Set<() => void>();

  /** Told when an event could not be kept. */
  onFailure: (error: unknown) => void = () => {};

  constructor(directory: string, segmentBytes: number = SEGMENT_BYTES) {
    this.#directory = directory;
    this.#segmentBytes = segmentBytes;
  }

  /** Number of the last event, or of the last that was given away by a former opening. */
  get last(): number {
    return this.#last;
  }

  /** Takes over what is there; a line that the end of the machine tore is cut off. */
  open(): void {
    mkdirSync(this.#directory, { recursive: true, mode: 0o700 });
    this.#segments = readdirSync(this.#directory)
      .filter((name) => /^\d{20}\.jsonl$/.test(name))
      .map((name) => Number(name.slice(0, -SUFFIX.length)))
      .sort((a, b) => a - b);
    const present = this.#segments.at(-1);
    if (present !== undefined) {
      const whole = wholeLines(readFileSync(this.#path(present)));
      this.#last = Math.max(present, whole.last);
      this.#fd = openSync(this.#path(present), 'a', 0o600);
      this.#size = whole.bytes;
      ftruncateSync(this.#fd, whole.bytes);
    }
    this.#last = Math.max(this.#last, Date.now());
    if (present === undefined) this.#begin();
  }

  /** Tells everybody who listens, now and later. A full disk loses the event, never the caller's work. */
  publish<Type extends EventType>(
    guest: { readonly name: GuestName; readonly xid: Xid },
    type: Type,
    details: EventDetails[Type],
  ): void {
    const { name, xid } = guest;
    const event = { seq: ++this.#last, time: new Date().toISOString(), type, guest: name, xid, details };
    try {
      if (this.#size >= this.#segmentBytes) this.#begin();
      const line = Buffer.from(`${JSON.stringify(event)}\n`);
      const written = writeSync(this.#fd, line);
      if (written === line.length) this.#size += written;
      else ftruncateSync(this.#fd, this.#size);
    } catch (error) {
      this.onFailure(error);
    }
    for (const listener of this.#listeners) listener();
  }

  /** Begins the next file, and gives up the oldest. */
  #begin(): void {
    const fd = openSync(this.#path(this.#last - 1), 'a', 0o600);
    if (this.#fd >= 0) closeSync(this.#fd);
    this.#fd = fd;
    this.#size = 0;
    this.#segments.push(this.#last - 1);
    for (const old of this.#segments.splice(0, this.#segments.length - SEGMENTS)) {
      rmSync(this.#path(old), { force: true });
    }
  }

  #path(segment: number): string {
    return join(this.#directory, `${String(segment).padStart(NAME_DIGITS, '0')}${SUFFIX}`);
  }

  /**
   * Yields the events after a cursor, in order, some at a time: those there are, or with `follow` also those to come,
   * until it is aborted. Who reads slowly holds nobody up; what the journal has given up meanwhile shows as a gap.
   *
   * @param cursor number of the last event that is known already; 0: begin with the oldest there is
   */
  async *read(cursor: number, follow?: AbortSignal): AsyncGenerator<readonly (GuestEvent | EventGap)[]> {
    using news = new News(this.#listeners, follow);
    const first = this.#segments[0] ?? 0;
    const place: Place = { segment: this.#segments.findLast((one) => one <= cursor) ?? first, offset: 0 };
    if (cursor > 0 && cursor < first) yield [gapBefore(first)];
    while (follow?.aborted !== true) {
      // Taken before the read: it sees all of that.
      const [last, next] = [this.#last, this.#segments.find((one) => one > place.segment)];
      const lines = await this.#readOn(place);
      if (lines === undefined) {
        const [oldest = last] = this.#segments;
        Object.assign(place, { segment: oldest, offset: 0 });
        yield [gapBefore(oldest)];
        continue;
      }
      const events = lines.flatMap(parseEvent).filter(({ seq }) => seq > cursor);
      if (events.length > 0) yield events;
      if (next !== undefined) Object.assign(place, { segment: next, offset: 0 });
      else if (follow === undefined) return;
      else if (last === this.#last) await news.wait();
    }
  }

  /** Returns the whole lines behind a place and moves it on; undefined if the file has been given up. */
  async #readOn(place: Place): Promise<readonly string[] | undefined> {
    let file: FileHandle;
    try {
      file = await open(this.#path(place.segment));
    } catch (error) {
      if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return undefined;
      throw error;
    }
    try {
      const { size } = await file.stat();
      const bytes = Buffer.allocUnsafe(Math.max(0, size - place.offset));
      const { bytesRead } = await file.read(bytes, 0, bytes.length, place.offset);
      // A line that is just being written is there without its end at first.
      const end = bytes.subarray(0, bytesRead).lastIndexOf(LINE_FEED) + 1;
      place.offset += end;
      return end === 0 ? [] : bytes.toString('utf8', 0, end - 1).split('\n');
    } finally {
      await file.close();
    }
  }
}

/** Wakes one reader when there is something new, or nobody reads any more. */
class News implements Disposable {
  readonly #listeners: Set<() => void>;
  readonly #follow: AbortSignal | undefined;
  #wake: () => void = () => {};
  readonly #listener = (): void => this.#wake();

  constructor(listeners: Set<() => void>, follow: AbortSignal | undefined) {
    this.#listeners = listeners;
    this.#follow = follow;
    if (follow === undefined) return;
    listeners.add(this.#listener);
    follow.addEventListener('abort', this.#listener);
  }

  /** Resolves at the next news; none may have come since the caller looked. */
  async wait(): Promise<void> {
    if (this.#follow?.aborted === true) return;
    await new Promise<void>((resolve) => {
      this.#wake = resolve;
    });
  }

  [Symbol.dispose](): void {
    this.#listeners.delete(this.#listener);
    this.#follow?.removeEventListener('abort', this.#listener);
  }
}

function gapBefore(seq: number): EventGap {
  return { seq, time: new Date().toISOString(), type: 'gap', guest: null, xid: null, details: {} };
}

/** The part of a file that consists of whole events, and the number of the last; a power cut may leave anything behind it. */
function wholeLines(content: Buffer): { readonly bytes: number; readonly last: number } {
  let bytes = content.lastIndexOf(LINE_FEED) + 1;
  while (bytes > 0) {
    const begin = bytes < 2 ? 0 : content.lastIndexOf(LINE_FEED, bytes - 2) + 1;
    const [event] = parseEvent(content.toString('utf8', begin, bytes - 1));
    if (event) return { bytes, last: event.seq };
    bytes = begin;
  }
  return { bytes: 0, last: 0 };
}

/** One event or none: a line of our own, unless the end of the machine left something else. */
function parseEvent(line: string): readonly GuestEvent[] {
  try {
    const event = JSON.parse(line) as Partial<GuestEvent> | null;
    return Number.isSafeInteger(event?.seq) ? [event as GuestEvent] : [];
  } catch {
    return [];
  }
}
