/**
 * vserverd's end of a relay (native/relay.c), which has /dev/fuse: takes the requests that the relay does not answer by
 * itself, and answers them.
 */
import { closeSync, openSync } from 'node:fs';
import { connect, type OnReadOpts, type Socket } from 'node:net';
import { type FuseRequest, fuseAnswer, fuseError, fuseLength, parseFuseRequest } from '../spec/fuse-wire.ts';
import { ints } from './wire.ts';

/** What becomes of a request: an error, a body, or for READ the whole text of a file and how long it holds. */
export type FuseReply =
  | { readonly errno: number }
  | { readonly body: Uint8Array }
  | { readonly text: string; readonly holdMs: number };

/** Answers requests. A promise must not be refused. */
export type FuseHandler = (request: FuseRequest) => FuseReply | Promise<FuseReply>;

/** One buffer for all that comes: a new one for each request would be 64 KiB that the kernel maps and clears. */
const BUFFER_BYTES = 64 * 1024;

/** A connection to a relay. */
export class FuseRelay {
  readonly #socket: Socket;
  #rest: Buffer = Buffer.alloc(0);

  private constructor(path: string, handler: FuseHandler) {
    const onread: OnReadOpts = {
      buffer: Buffer.allocUnsafeSlow(BUFFER_BYTES),
      callback: (count, buffer) => {
        this.#take(Buffer.from(buffer.buffer, buffer.byteOffset, count), handler);
        return true;
      },
    };
    this.#socket = connect({ path, onread });
    this.#socket.on('error', () => {});
  }

  /**
   * Connects to the relay that listens in `directory` under `name`.
   *
   * @param lost called when the connection ends, by `close` too
   * @returns undefined when there is none
   */
  static async connect(
    directory: string,
    name: string,
    handler: FuseHandler,
    lost: () => void,
  ): Promise<FuseRelay | undefined> {
    // By descriptor: the path of a socket may have 107 bytes only.
    const fd = openSync(directory, 'r');
    try {
      const relay = new FuseRelay(`/proc/self/fd/${fd}/${name}`, handler);
      const isThere = await new Promise<boolean>((resolve) => {
        relay.#socket.once('connect', () => resolve(true));
        relay.#socket.once('error', () => resolve(false));
      });
      if (!isThere) return undefined;
      relay.#socket.on('close', lost);
      return relay;
    } finally {
      closeSync(fd);
    }
  }

  /** Ends the connection; the relay keeps what is not answered. */
  close(): void {
    this.#socket.destroy();
  }

  #answer(request: FuseRequest, reply: FuseReply | Promise<FuseReply>, answers: Buffer[]): void {
    if (!(reply instanceof Promise)) answers.push(answerOf(request, reply));
    else void reply.then((later) => this.#socket.write(answerOf(request, later)));
  }

  #take(chunk: Buffer, handler: FuseHandler): void {
    let bytes = this.#rest.length === 0 ? chunk : Buffer.concat([this.#rest, chunk]);
    const answers: Buffer[] = [];
    for (;;) {
      const length = fuseLength(bytes);
      if (length === undefined || length > bytes.length) break;
      // A copy: its answer may be made later, when something else is in there.
      const request = parseFuseRequest(Buffer.from(bytes.subarray(0, length)));
      if (request) this.#answer(request, handler(request), answers);
      bytes = bytes.subarray(length);
    }
    this.#rest = Buffer.from(bytes);
    if (answers.length > 0)
      this.#socket.write(answers.length === 1 ? (answers[0] as Buffer) : Buffer.concat(answers));
  }
}

function answerOf({ unique }: FuseRequest, reply: FuseReply): Buffer {
  if ('errno' in reply) return fuseError(unique, reply.errno);
  if ('body' in reply) return fuseAnswer(unique, reply.body);
  return fuseAnswer(unique, ints(reply.holdMs), Buffer.from(reply.text, 'latin1'));
}
