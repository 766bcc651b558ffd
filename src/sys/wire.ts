/**
 * Frames between vserverd and syscalld, and the client's messages; layouts: `native/wire.h` (a test compares the numbers).
 *
 *     u32 length after this header | u32 type | u64 id | body            host byte order
 */
import { endianness } from 'node:os';
import { BugError } from '../base/errors.ts';
import { textOfBytes } from './byte-text.ts';

/** `enum down` of native/wire.h: vserverd → syscalld. */
export const DOWN = {
  run: 1,
  drop: 2,
  signal: 3,
  clientOut: 4,
  clientExit: 5,
  bind: 6,
  log: 7,
  shutdown: 8,
  ready: 9,
  free: 10,
} as const;

/** `enum up` of native/wire.h: syscalld → vserverd. */
export const UP = {
  object: 101,
  snapshotEnd: 102,
  done: 103,
  exit: 104,
  ending: 105,
  clientOpen: 106,
  clientAck: 107,
  clientSignal: 108,
  clientClose: 109,
  clientDetach: 110,
  childFailed: 111,
} as const;

/** `enum object_kind` of native/wire.h. */
export const OBJECT_KIND = { fd: 1, process: 2, client: 3, log: 4, worker: 5 } as const;

/** In the place of a client's exit code: nothing was begun for it, and it connects anew. */
export const EXIT_AGAIN = -1;

/** Type of the message that gives a client its terminal. */
export const CLIENT_PTY = 7;

const LE = endianness() === 'LE';
const HEADER_BYTES = 16;

/** One frame. */
export interface Frame {
  readonly type: number;
  readonly id: number;
  readonly body: Buffer;
}

/** Returns the bytes of a frame whose body is the given parts, and `moreBytes` that are sent after them. */
export function encodeFrame(
  type: number,
  id: number,
  parts: readonly Uint8Array[] = [],
  moreBytes = 0,
): Buffer {
  let length = 0;
  for (const part of parts) length += part.length;
  const bytes = Buffer.allocUnsafe(HEADER_BYTES + length);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  view.setUint32(0, length + moreBytes, LE);
  view.setUint32(4, type, LE);
  view.setBigUint64(8, BigInt(id), LE);
  let at = HEADER_BYTES;
  for (const part of parts) {
    bytes.set(part, at);
    at += part.length;
  }
  return bytes;
}

/** Returns 32-bit integers as bytes. */
export function ints(...values: readonly number[]): Buffer {
  const bytes = Buffer.allocUnsafe(4 * values.length);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  for (let i = 0; i < values.length; i++) view.setUint32(4 * i, (values[i] ?? 0) >>> 0, LE);
  return bytes;
}

/** Returns the n-th signed 32-bit integer of a body. */
export function intAt(body: Buffer, index: number): number {
  return LE ? body.readInt32LE(4 * index) : body.readInt32BE(4 * index);
}

/** Returns a signed 64-bit integer of a body, `offset` in bytes. */
export function longAt(body: Buffer, offset: number): number {
  return Number(LE ? body.readBigInt64LE(offset) : body.readBigInt64BE(offset));
}

const NOTHING = Buffer.alloc(0);

/** Cuts a stream of bytes into frames. */
export class FrameReader {
  #rest: Buffer = NOTHING;

  /** Yields the frames that are complete with `chunk`; bodies are valid until the next call. */
  *push(chunk: Buffer): Generator<Frame> {
    let bytes = this.#rest.length === 0 ? chunk : Buffer.concat([this.#rest, chunk]);
    while (bytes.length >= HEADER_BYTES) {
      const length = intAt(bytes, 0) >>> 0;
      if (bytes.length - HEADER_BYTES < length) break;
      yield {
        type: intAt(bytes, 1),
        id: longAt(bytes, 8),
        body: bytes.subarray(HEADER_BYTES, HEADER_BYTES + length),
      };
      bytes = bytes.subarray(HEADER_BYTES + length);
    }
    this.#rest = bytes.length === 0 ? NOTHING : Buffer.from(bytes);
  }
}

/** What a client says when it comes; texts as `textOfBytes` makes them. */
export interface Hello {
  readonly pid: number;
  /** Which of its stdin, stdout, stderr are terminals. */
  readonly tty: readonly [boolean, boolean, boolean];
  readonly rows: number;
  readonly columns: number;
  readonly cwd: string;
  readonly argv: readonly string[];
  readonly env: Readonly<Record<string, string>>;
}

/** Reads the body of `UP.clientOpen`: i32 pid, u32 tty bits, u16 rows, u16 columns, u32 argc, cwd\0 argv\0… env\0… */
export function parseHello(body: Buffer): Hello {
  if (body.length < 17)
    throw new BugError('short-hello', `cannot read a client's request: found ${body.length} bytes`);
  const bits = intAt(body, 1);
  const size = intAt(body, 2);
  const count = intAt(body, 3) >>> 0;
  const texts = textOfBytes(body.subarray(16)).split('\0');
  texts.pop(); // what follows the last NUL
  if (texts.length < 1 + count) {
    throw new BugError(
      'short-hello',
      `cannot read a client's request: found ${texts.length} texts; need ${1 + count}`,
    );
  }
  const env: Record<string, string> = Object.create(null); // a variable may be named __proto__
  for (const text of texts.slice(1 + count)) {
    const equals = text.indexOf('=');
    if (equals > 0) env[text.slice(0, equals)] = text.slice(equals + 1);
  }
  const [low, high] = [size & 0xffff, size >>> 16];
  return {
    pid: intAt(body, 0),
    tty: [(bits & 1) !== 0, (bits & 2) !== 0, (bits & 4) !== 0],
    rows: LE ? low : high,
    columns: LE ? high : low,
    cwd: texts[0] ?? '/',
    argv: texts.slice(1, 1 + count),
    env,
  };
}
