/**
 * A client's visit: its command line runs here, its text and exit code go back through syscalld.
 */
import type { Io, Services } from '../cli/io.ts';
import { main } from '../cli/main.ts';
import type { Syscalld } from '../sys/syscalld.ts';
import type { Hello } from '../sys/wire.ts';

const SIGINT = 2;
const SIGNAL_EXIT = 128;
/** Why a session ends whose client is gone; an exception of its own would cost each of them its making. */
const GONE = new Error('the client is gone');

/** One client being served. */
export class Session {
  readonly #syscalld: Syscalld;
  readonly #client: number;
  readonly #abort = new AbortController();
  #signal = SIGINT;

  constructor(syscalld: Syscalld, client: number) {
    this.#syscalld = syscalld;
    this.#client = client;
  }

  /** Runs the client's command line to its end. */
  async serve(hello: Hello, services: Services): Promise<void> {
    const result = await main(hello.argv, this.#io(hello), services);
    if (result === 'bound') return;
    const code = this.#abort.signal.aborted ? SIGNAL_EXIT + this.#signal : result;
    this.#syscalld.clientExit(this.#client, code);
  }

  /** The user interrupted, or asked us to end otherwise. */
  signalled(signal: number): void {
    this.#signal = signal;
    this.#abort.abort();
  }

  /** The client is gone. */
  closed(): void {
    this.#abort.abort(GONE);
  }

  #io(hello: Hello): Io {
    const write = async (fd: 1 | 2, text: string | Uint8Array): Promise<void> => {
      if (this.#abort.signal.aborted && fd === 1) return;
      await this.#syscalld.clientOut(this.#client, fd, typeof text === 'string' ? Buffer.from(text) : text);
    };
    return {
      out: (text) => write(1, text),
      err: (text) => write(2, text),
      tty: hello.tty,
      columns: hello.columns || 80,
      rows: hello.rows || 24,
      cwd: hello.cwd,
      env: hello.env,
      signal: this.#abort.signal,
      client: this.#client,
    };
  }
}
