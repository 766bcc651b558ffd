/**
 * What is said of a command that cannot be run.
 */
import { StateError, SysError } from '../base/errors.ts';
import { StepError } from '../sys/syscalld.ts';
import { EXECVE } from './plan-command.ts';

/** A command that is not there, or cannot be run, is the user's matter and has exit codes of its own. */
export async function commandErrors<T>(what: string, run: Promise<T>): Promise<T> {
  try {
    return await run;
  } catch (error) {
    if (!(error instanceof StepError)) throw error;
    if (error.call === 'clone3' && error.errnoName === 'EAGAIN') {
      const message = `cannot ${what}: found as many processes as the guest may have; need a higher limits.pids`;
      throw new StateError('process-limit', message, { cause: error });
    }
    if (!error.step?.includes(EXECVE)) throw error;
    const name = error.step.slice(error.step.indexOf('"'));
    const details = { syscall: 'execve', errno: error.errno, errnoName: error.errnoName, cause: error };
    // A name with a tag is what other runtimes call an image.
    const isImage = /^"[\w./-]+:[\w.-]+"$/.test(name);
    const hint = isImage
      ? `the first word is a command; "vserver help build" makes guests of images`
      : undefined;
    if (error.errnoName === 'ENOENT' || error.errnoName === 'ENOTDIR') {
      throw new SysError('command-not-found', `cannot ${what}: found no command ${name} in the guest`, {
        ...details,
        hint,
      });
    }
    throw new SysError(
      'command-not-executable',
      `cannot ${what}: found that ${name} cannot be executed`,
      details,
    );
  }
}
