import { BugError, StateError } from '../base/errors.ts';
import type { Data, Flags, Program, Result } from '../sys/program.ts';
import type { StorageMachine } from './machine.ts';

const SIGKILL = 9;
const KILL_AGAIN_MS = 100;

/** A program of the host that a syscall program runs to its end. */
export interface HostCommand {
  /** Names the processes in error messages and `--explain`. */
  readonly title: string;
  /** `CLONE_NEW*` of its first process, which waits for the command. */
  readonly namespaces: Flags;
  /** Object id of the first process; with a pid namespace its end is the end of all. */
  readonly object: number;
  /** Steps of the first process: where it all happens. */
  readonly setUp: () => void;
  /** Steps of the command's own process, up to and with execve. */
  readonly exec: () => void;
}

/**
 * Adds steps that run a command and wait for it; the worker goes on when it has ended.
 *
 *     worker ──spawn──▶ first process: setUp ──spawn──▶ command: exec
 *       │ reads ◀──────── wait status, 4 bytes ◀──wait4──┘
 *
 * @returns where the wait status is; bytes 4..8 stay 0
 */
export function runHostCommand(program: Program, command: HostCommand): Data {
  const pipe = program.data(8, 'pipe');
  const status = program.data(8, 'status');
  program.sys('pipe2', [pipe, program.flags('O_CLOEXEC')]);
  const reader = program.load(pipe, 4);
  const writer = program.load(pipe.at(4), 4);
  program.spawn(command.title, { flags: command.namespaces, object: command.object }, () => {
    command.setUp();
    const pid: Result = program.spawn(`${command.title} command`, {}, command.exec);
    program.sys('wait4', [pid, status, 0, 0], { about: command.title });
    program.sys('write', [writer, status, 4], { about: 'status' });
  });
  program.sys('close', [writer]);
  const got = program.sys('read', [reader, status, 4], { about: 'status' });
  program.expect(got, '==', 4, 'ECHILD', `${command.title} to end`);
  return status;
}

/** What is thrown of work that was given up. */
export function cancelled(what: string): StateError {
  return new StateError('cancelled', `cannot ${what}: found it cancelled; nothing was changed`);
}

/** How a command ended, as wait(2) tells it. */
export function describeWaitStatus(status: number): string {
  return (status & 0x7f) === 0 ? `exit code ${(status >> 8) & 0xff}` : `signal ${status & 0x7f}`;
}

/**
 * Runs a program made with `runHostCommand` and returns the wait status; forgets the first process.
 *
 * @param options `worker`: where to run it; `signal`: kills the first process when it is aborted
 */
export async function waitStatusOf(
  machine: StorageMachine,
  what: string,
  program: Program,
  object: number,
  { worker, signal }: { readonly worker?: number; readonly signal?: AbortSignal | undefined } = {},
): Promise<number> {
  let again: NodeJS.Timeout | undefined;
  // Again and again, since a signal to what is not there yet is lost.
  const kill = (): void => {
    machine.signal(object, SIGKILL);
    again = setTimeout(kill, KILL_AGAIN_MS);
  };
  signal?.addEventListener('abort', kill, { once: true });
  if (signal?.aborted) kill();
  try {
    const { out } = await machine.run(what, program, worker);
    if (out.length < 4)
      throw new BugError('short-result', `cannot ${what}: found ${out.length} bytes of wait status`);
    return program.abi.littleEndian ? out.readInt32LE(0) : out.readInt32BE(0);
  } finally {
    signal?.removeEventListener('abort', kill);
    clearTimeout(again);
    machine.drop(object);
  }
}
