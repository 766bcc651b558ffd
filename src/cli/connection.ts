/**
 * How a caller's three descriptors become those of a guest's command. A terminal is never handed over: the command gets
 * one of the guest's own, and the client relays.
 */
import { BugError } from '../base/errors.ts';
import type { Stdio } from '../guest/plan-types.ts';
import type { Connection } from '../guest/spec.ts';
import { CLIENT_FD } from '../sys/program.ts';
import { vary } from '../sys/varying.ts';
import type { Io } from './io.ts';

/** Returns the connection for a command that the caller waits for. */
export function clientConnection(
  options: { readonly interactive: boolean; readonly tty: boolean },
  io: Io,
): Connection {
  const { client } = io;
  if (client === undefined) throw new BugError('no-client', 'cannot hand over descriptors: found no client');
  const [stdin, stdout, stderr] = io.tty;
  const itself = vary(client);
  // With its output in a pipe a command's neighbour there may read the terminal: input goes along only if asked for.
  const input = options.tty || options.interactive || stdout;
  const end = (fd: 0 | 1 | 2): Stdio => {
    if (!options.tty && !io.tty[fd]) return { kind: 'client', client: itself, which: WHICH[fd] };
    return fd === 0 && stdin && !input ? { kind: 'null' } : { kind: 'tty' };
  };
  const stdio = [end(0), end(1), end(2)] as const;
  const hasTerminal = stdio.some((one) => one.kind === 'tty');
  const relaysInput = stdio[0].kind === 'tty';
  // A terminal of the caller's that the client does not make raw, as only one it reads from, makes the line ends itself.
  const plainOutput = (stdout || stderr) && !(relaysInput && stdin);
  return {
    client,
    stdio,
    terminal: hasTerminal
      ? { master: { kind: 'client', client: itself }, input: relaysInput, plainOutput, console: false }
      : undefined,
    term: hasTerminal ? (io.env['TERM'] ?? 'xterm') : undefined,
  };
}

const WHICH = [CLIENT_FD.stdin, CLIENT_FD.stdout, CLIENT_FD.stderr] as const;

/** Returns the connection of a command that runs on alone: nothing to read, and what it writes is not kept. */
export const DETACHED: Connection = {
  stdio: [{ kind: 'null' }, { kind: 'null' }, { kind: 'null' }],
  terminal: undefined,
  term: undefined,
  client: undefined,
};
