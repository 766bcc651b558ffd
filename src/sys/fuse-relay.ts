/**
 * vserverd's end of a relay (native/relay.c), which has /dev/fuse: takes the requests that the relay does not answer by
 * itself, and answers them.
 */
import { closeSync, openSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { type FuseRequest, fuseAnswer, fuseError, fuseLength, parseFuseRequest } from '../spec/fuse-wire.ts';
import { ints } from './wire.ts';

/** What becomes of a request: an error, a body, or for READ the whole text of a file and how long it holds. */
export type FuseReply =
  | { readonly errno: number }
  | { readonly body: Uint8Array }
  | { readonly text: string; readonly holdMs: number };

/** Answers requests. A promise must not be refused. */
export type FuseHandler = (request: FuseRequest) => FuseReply | Promise<FuseReply>;

/** A connection to a relay. */
export class FuseRelay {
  readonly #socket: Socket;
  #rest: Buffer = Buffer.alloc(0);

  private constructor(socket: Socket, handler: FuseHandler, lost: () => void) {
    this.#socket = socket;
    socket.on('data', (chunk: Buffer) => {
      this.#take(chunk, handler);
    });
    socket.on('error', () => {});
    socket.on('close', lost);
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
      const socket = connect({ path: `/proc/self/fd/${fd}/${name}` });
      const isThere = await new Promise<boolean>((resolve) => {
        socket.once('connect', () => resolve(true));
        socket.once('error', () => resolve(false));
      });
      return isThere ? new FuseRelay(socket, handler, lost) : undefined;
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
      const request = parseFuseRequest(bytes.subarray(0, length));
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
