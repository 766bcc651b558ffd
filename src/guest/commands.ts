/**
 * Processes that somebody of us waits for: commands of an exec, hooks, health checks. The news of start and end may come
 * in one breath, and in any order.
 */
import type { Runnable } from '../sys/program.ts';
import { exitCode } from './exit-status.ts';
import type { CommandExit } from './guest.ts';
import type { Host } from './host.ts';

const SIGKILL = 9;
/** `PIDFD_SIGNAL_PROCESS_GROUP`, include/uapi/linux/pidfd.h, Linux 6.9. */
const WHOLE_GROUP = 4;

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
  readonly #host: Host;
  readonly #running = new Map<number, RunningCommand>();

  constructor(host: Host) {
    this.#host = host;
  }

  /**
   * Runs a program that makes `object` a process, and follows that.
   *
   * @param onStarted called before its end is taken notice of
   * @throws StepError
   */
  async start(
    what: string,
    program: Runnable,
    object: number,
    onStarted: () => void = () => {},
  ): Promise<StartedCommand> {
    const command: RunningCommand = { ended: Promise.withResolvers(), isStarted: false, exit: undefined };
    this.#running.set(object, command);
    try {
      await this.#host.syscalld.run(what, program);
    } catch (error) {
      this.#running.delete(object);
      throw error;
    }
    command.isStarted = true;
    onStarted();
    if (command.exit) this.#finish(object, command, command.exit);
    return { object, ended: command.ended.promise };
  }

  /** Kills a command with all it has started, but for what left its session; on kernels before 6.9 it alone. */
  async kill({ object }: StartedCommand): Promise<void> {
    const p = this.#host.program();
    const ignore = ['EINVAL', 'ESRCH'];
    p.sys('pidfd_send_signal', [p.import(object), SIGKILL, 0, WHOLE_GROUP], { about: 'its group', ignore });
    await this.#host.syscalld.run('kill a command', p);
    this.#host.syscalld.signal(object, SIGKILL);
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
    this.#host.syscalld.drop(object);
    command.ended.resolve(exit);
  }
}
