/**
 * The log of a guest that runs detached: what it wrote, in records (struct log_record of native/wire.h).
 *
 *     u64 time, ns of CLOCK_REALTIME | u32 length | u32 stream: 1 stdout, 2 stderr | bytes          host byte order
 */
import { StateError } from '../base/errors.ts';

/** One piece of a guest's output, as it came out of its pipe; it may end anywhere in a line or a character. */
export interface LogRecord {
  /** Since 1970. */
  readonly timeNs: bigint;
  readonly stream: 1 | 2;
  readonly bytes: Uint8Array;
}

const HEADER_BYTES = 16;
/** The size of the buffer that syscalld reads the pipes with. */
const RECORD_MAX_BYTES = 64 * 1024;

/** Cuts the bytes of a log file into records. */
export class LogRecordReader {
  readonly #littleEndian: boolean;
  #rest: Uint8Array = new Uint8Array();

  constructor(littleEndian: boolean) {
    this.#littleEndian = littleEndian;
  }

  /**
   * Yields the records that are complete with `chunk`, which the reader keeps parts of.
   *
   * @throws StateError malformed-log
   */
  *push(chunk: Uint8Array): Generator<LogRecord> {
    const bytes = this.#rest.length === 0 ? chunk : join(this.#rest, chunk);
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    let at = 0;
    while (bytes.length - at >= HEADER_BYTES) {
      const length = view.getUint32(at + 8, this.#littleEndian);
      const stream = view.getUint32(at + 12, this.#littleEndian);
      if ((stream !== 1 && stream !== 2) || length > RECORD_MAX_BYTES) {
        throw new StateError(
          'malformed-log',
          `cannot read a log: found a record of stream ${stream} with ${length} bytes; need stream 1 or 2, at most ${RECORD_MAX_BYTES} bytes`,
        );
      }
      const end = at + HEADER_BYTES + length;
      if (end > bytes.length) break;
      const timeNs = view.getBigUint64(at, this.#littleEndian);
      yield { timeNs, stream, bytes: bytes.subarray(at + HEADER_BYTES, end) };
      at = end;
    }
    // A copy: the caller may read on into the same buffer (and slice of a Buffer makes none).
    this.#rest = new Uint8Array(bytes.subarray(at));
  }
}

/** Formats nanoseconds since 1970 as RFC 3339 in UTC, with nine digits after the point. */
export function formatLogTime(timeNs: bigint): string {
  const milliseconds = Number(timeNs / 1_000_000n);
  const nanoseconds = String(timeNs % 1_000_000_000n).padStart(9, '0');
  return `${new Date(milliseconds).toISOString().slice(0, 19)}.${nanoseconds}Z`;
}

function join(first: Uint8Array, second: Uint8Array): Uint8Array {
  const both = new Uint8Array(first.length + second.length);
  both.set(first);
  both.set(second, first.length);
  return both;
}
