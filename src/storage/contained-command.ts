/**
 * Runs a program of the host that fetches or makes what an image is made of: it sees the host read-only, writes one
 * directory, and ends with all it started.
 */
import { randomBytes } from 'node:crypto';
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Program } from '../sys/program.ts';
import { StepError } from '../sys/syscalld.ts';
import type { HelperOptions } from './helper-process.ts';
import { describeWaitStatus, runHostCommand, waitStatusOf } from './host-command.ts';
import type { StorageMachine } from './machine.ts';
import { planDevices, planNoCapabilities, planReadOnlyHost } from './read-only-host.ts';
import { toolCancelled, toolFailed, toolMissing } from './tool-errors.ts';

/** A program to be run. */
export interface ContainedCommand {
  /** Completes "cannot …". */
  readonly what: string;
  readonly argv: readonly [path: string, ...args: string[]];
  readonly env?: readonly string[];
  /** The directory it may write, where its TMPDIR is too. */
  readonly directory: string;
  /** Directories it must not see. */
  readonly hidden: readonly string[];
  /** Capabilities it keeps, by their numbers. */
  readonly capabilities?: readonly number[];
  /** What is said if the host has no such program: the package that has it. */
  readonly package: string;
}

const POLL_MS = 200;

/**
 * Runs a program to its end.
 *
 * @throws StateError tool-missing, tool-failed with its last words, cancelled
 */
export async function runContained(
  machine: StorageMachine,
  command: ContainedCommand,
  options: HelperOptions & { readonly onPoll?: () => void },
): Promise<void> {
  const { what, directory } = command;
  const [path] = command.argv;
  const { signal, onPoll } = options;
  const id = randomBytes(6).toString('hex');
  const log = join(directory, `log-${id}`);
  const tmp = join(directory, `tmp-${id}`);
  mkdirSync(tmp, { recursive: true, mode: 0o700 });
  writeFileSync(log, '', { mode: 0o600 });
  const program = new Program(machine.abi);
  const object = machine.newObject();
  program.returns(plan(program, command, object, log, tmp));
  if (signal?.aborted) throw toolCancelled(what);
  try {
    let isOver = false;
    const ended = waitStatusOf(machine, what, program, object, { signal }).finally(() => {
      isOver = true;
    });
    ended.catch(() => undefined); // told below
    while (!isOver) {
      onPoll?.();
      await Promise.race([ended.catch(() => undefined), sleep(POLL_MS)]);
    }
    const waitStatus = await ended;
    if (waitStatus === 0) return;
    throw toolFailed(what, path, describeWaitStatus(waitStatus), readFileSync(log, 'latin1'));
  } catch (error) {
    if (signal?.aborted) throw toolCancelled(what);
    if (error instanceof StepError && error.errnoName === 'ENOENT')
      throw toolMissing(what, path, command.package, error);
    throw error;
  } finally {
    rmSync(tmp, { recursive: true, force: true }); // only root has been there
    rmSync(log, { force: true });
  }
}

function plan(
  p: Program,
  { argv, env, directory, hidden, capabilities }: ContainedCommand,
  object: number,
  log: string,
  tmp: string,
): ReturnType<typeof runHostCommand> {
  const at = p.flags('AT_FDCWD');
  const output = p.sys('openat', [at, log, p.flags('O_WRONLY', 'O_APPEND', 'O_NOFOLLOW', 'O_CLOEXEC')], {
    about: log,
  });
  const nothing = p.sys('openat', [at, '/dev/null', p.flags('O_RDONLY', 'O_CLOEXEC')], {
    about: '/dev/null',
  });
  const [path] = argv;
  return runHostCommand(p, {
    title: path,
    namespaces: p.flags('CLONE_NEWPID', 'CLONE_NEWIPC', 'CLONE_NEWUTS', 'CLONE_NEWNS'),
    object,
    setUp: () => {
      p.sys('prctl', [p.flags('PR_SET_PDEATHSIG'), p.flags('SIGKILL')]);
      p.sys('umask', [0o022]);
      planReadOnlyHost(p, directory, hidden);
      planDevices(p);
      p.sys('mount', ['proc', '/proc', 'proc', p.flags('MS_NOSUID', 'MS_NODEV', 'MS_NOEXEC'), 0], {
        about: '/proc',
      });
      p.sys('chdir', [directory], { about: directory });
    },
    exec: () => {
      p.sys('setsid', []);
      for (const [number, fd] of [nothing, output, output].entries()) p.sys('dup3', [fd, number, 0]);
      planNoCapabilities(p, capabilities);
      const variables = [
        'PATH=/usr/sbin:/usr/bin:/sbin:/bin',
        'LC_ALL=C.UTF-8',
        `TMPDIR=${tmp}`,
        ...(env ?? [`HOME=${process.env['HOME'] ?? dirname(directory)}`]),
      ];
      p.sys('execve', [path, p.vector([...argv]), p.vector(variables)], { about: path });
    },
  });
}
