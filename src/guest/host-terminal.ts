/**
 * A terminal of the host's for a verb that is used by keys: the client relays its own to the master, as with a command in
 * a guest, and the verb has the other end. Node never touches the caller's terminal itself.
 */
import { closeSync, constants, openSync } from 'node:fs';
import { ReadStream, WriteStream } from 'node:tty';
import { CLIENT_FD } from '../sys/program.ts';
import { CLIENT_PTY } from '../sys/wire.ts';
import type { Host } from './host.ts';
import { planSendFds } from './plan-command.ts';

/** The end of a terminal that a verb has. */
export class HostTerminal {
  readonly #input: ReadStream;
  readonly #output: WriteStream;

  constructor(path: string) {
    const open = (): number => openSync(path, constants.O_RDWR | constants.O_NOCTTY);
    const fd = open();
    try {
      this.#output = new WriteStream(open());
    } catch (error) {
      closeSync(fd);
      throw error;
    }
    this.#input = new ReadStream(fd);
    this.#input.setRawMode(true);
    // The client is gone: `keys` ends, and nobody reads what is written.
    this.#input.on('error', () => this.#input.destroy());
    this.#output.on('error', () => {});
  }

  /** Size of the caller's window now. */
  get size(): { readonly columns: number; readonly rows: number } {
    const [columns, rows] = this.#output.getWindowSize();
    return { columns, rows };
  }

  /** Calls back for each key, one character; for undefined when the caller is gone. */
  onKey(heard: (key: string | undefined) => void): void {
    this.#input.setEncoding('latin1').on('data', (text: string) => {
      for (const key of text) heard(key);
    });
    this.#input.on('close', () => heard(undefined));
  }

  async write(text: string): Promise<void> {
    await new Promise<void>((resolve) => {
      this.#output.write(text, () => resolve());
    });
  }

  close(): void {
    this.#input.destroy();
    this.#output.destroy();
  }
}

/** Opens a terminal and gives its other end to a client, which relays keys and what is written until it ends. */
export async function openHostTerminal(
  host: Host,
  client: number,
  { columns, rows }: HostTerminal['size'],
): Promise<HostTerminal> {
  const p = host.program();
  const flags = p.flags('O_RDWR', 'O_NOCTTY', 'O_CLOEXEC');
  const master = p.sys('openat', [p.flags('AT_FDCWD'), '/dev/ptmx', flags, 0], { about: '/dev/ptmx' });
  p.sys('ioctl', [master, p.flags('TIOCSPTLCK'), p.data(4)], { about: 'unlock the terminal' });
  const number = p.data(4, '<number>');
  p.sys('ioctl', [master, p.flags('TIOCGPTN'), number], { about: 'number of the terminal' });
  // The client keeps it right, but only once it has the terminal: struct winsize, u16 rows, columns and two more.
  const size = p.data(8, `<${columns} × ${rows}>`);
  p.put(size, rows, 2);
  p.put(size.at(2), columns, 2);
  p.sys('ioctl', [master, p.flags('TIOCSWINSZ'), size], { about: 'size of the terminal' });
  const head = p.data(8);
  p.put(head, CLIENT_PTY);
  p.put(head.at(4), 1);
  planSendFds(p, p.import(client, CLIENT_FD.socket), head, [master], 'terminal to the client');
  const found = p.load(number);
  const outcome = await host.syscalld.run('open a terminal', p);
  return new HostTerminal(`/dev/pts/${outcome.result(found)}`);
}
