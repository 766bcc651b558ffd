/**
 * Processes that somebody of us waits for: commands of an exec, hooks, health checks. The news of start and end may come
 * in one breath, and in any order.
 */
import type { Program } from '../sys/program.ts';
import type { Syscalld } from '../sys/syscalld.ts';
import { exitCode } from './exit-status.ts';
import type { CommandExit } from './guest.ts';

/** A process that has been started. */
export interface StartedCommand {
  /** Object of the process. */
  readonly object: number;
  /** Resolved with its exit code when it has ended. */
  readonly ended: Promise<CommandExit>;
}

interface RunningCommand {
  readonly ended: PromiseWithResolvers<CommandExit>;
  isStarted: boolean;
  exit: CommandExit | undefined;
}

/** The commands of one instance. */
export class Commands {
  readonly #syscalld: Syscalld;
  readonly #running = new Map<number, RunningCommand>();

  constructor(syscalld: Syscalld) {
    this.#syscalld = syscalld;
  }

  /**
   * Runs a program that makes `object` a process, and follows that.
   *
   * @param onStarted called before its end is taken notice of
   * @throws StepError
   */
  async start(
    what: string,
    program: Program,
    object: number,
    onStarted: () => void = () => {},
  ): Promise<StartedCommand> {
    const command: RunningCommand = { ended: Promise.withResolvers(), isStarted: false, exit: undefined };
    this.#running.set(object, command);
    try {
      await this.#syscalld.run(what, program);
    } catch (error) {
      this.#running.delete(object);
      throw error;
    }
    command.isStarted = true;
    onStarted();
    if (command.exit) this.#finish(object, command, command.exit);
    return { object, ended: command.ended.promise };
  }

  /** One that was started by a vserverd before us: it goes on, and is forgotten when it ends. */
  adopt(object: number): void {
    this.#running.set(object, { ended: Promise.withResolvers(), isStarted: true, exit: undefined });
  }

  /** A process has ended. Returns whether it was one of them. */
  exited(object: number, waitStatus: number): boolean {
    const command = this.#running.get(object);
    if (!command) return false;
    command.exit = { code: exitCode(waitStatus), at: new Date().toISOString() };
    if (command.isStarted) this.#finish(object, command, command.exit);
    return true;
  }

  #finish(object: number, command: RunningCommand, exit: CommandExit): void {
    this.#running.delete(object);
    this.#syscalld.drop(object);
    command.ended.resolve(exit);
  }
}
