/** The C programs of the benches: built when they are older than their source, and run. */
import { spawnSync } from 'node:child_process';
import { mkdirSync, statSync } from 'node:fs';
import { join, resolve } from 'node:path';
import type { Sample } from './statistics.ts';

const SOURCES = join(import.meta.dirname, 'native');

/** Where builds and results go; in a machine of machine.ts the checkout cannot be written. */
export const BENCH_BUILD: string =
  process.env['BENCH_BUILD'] ?? resolve(import.meta.dirname, '../build/bench');

/** Builds `bench/native/<name>.c` as a static program and returns its path. */
export function nativeProgram(name: 'timer' | 'micro' | 'net' | 'reads' | 'sleepers' | 'supervisor'): string {
  const source = join(SOURCES, `${name}.c`);
  const program = join(BENCH_BUILD, name);
  mkdirSync(BENCH_BUILD, { recursive: true });
  const built = statSync(program, { throwIfNoEntry: false });
  if (built === undefined || built.mtimeMs < statSync(source).mtimeMs) {
    const flags = ['-std=gnu17', '-O2', '-Wall', '-Wextra', '-Werror', '-static'];
    run('gcc', [...flags, '-o', program, source]);
  }
  return program;
}

/** A command to time and what it is called. */
export interface TimedCommand {
  readonly name: string;
  readonly argv: readonly string[];
}

/** How to time commands. */
export interface TimingOptions {
  readonly rounds: number;
  readonly warmups: number;
  /** Opened as descriptor 3 of each command. */
  readonly file?: string | undefined;
  /** How long nothing happens before each command; default 0. */
  readonly gapMs?: number;
  /** Each round runs the commands in the given order: for commands that need each other. */
  readonly isInOrder?: boolean;
}

/**
 * Times whole processes, run by run in turns, in nanoseconds; a command that fails throws.
 *
 * The timer runs in a private mount namespace without the cgroup2 tree that a hybrid host has beside cgroup v1, since
 * crun 1.8 refuses such hosts; with v1 alone it sets its limits as the others do.
 */
export function timeCommands(commands: readonly TimedCommand[], options: TimingOptions): readonly Sample[] {
  const words = commands.flatMap(({ argv }) => [',', ...argv]);
  const flags = [
    ...(options.isInOrder === true ? ['-o'] : []),
    ...(options.gapMs === undefined ? [] : ['-g', String(options.gapMs)]),
    ...(options.file === undefined ? [] : ['-f', options.file]),
  ];
  const output = run('unshare', [
    ...['--mount', 'sh', '-c', `${WITHOUT_HYBRID}; exec "$@"`, 'sh', nativeProgram('timer')],
    ...[String(options.rounds), String(options.warmups), ...flags, ...words],
  ]);
  const values = commands.map((): number[] => []);
  for (const line of output.trim().split('\n')) {
    const [which = -1, nanoseconds = Number.NaN] = line.split(' ').map(Number);
    values[which]?.push(nanoseconds);
  }
  return commands.map(({ name }, index) => ({ name, values: values[index] ?? [] }));
}

/** Shell command that hides the cgroup2 tree of a hybrid host, in a private mount namespace. */
export const WITHOUT_HYBRID = '! mountpoint -q /sys/fs/cgroup/unified || umount /sys/fs/cgroup/unified';

/** Runs a command and returns what it printed; throws unless it ends with 0. */
export function run(
  command: string,
  args: readonly string[],
  env?: Readonly<Record<string, string>>,
): string {
  const { error, status, signal, stdout, stderr } = spawnSync(command, args, {
    encoding: 'utf8',
    maxBuffer: 2 ** 28,
    env: { ...process.env, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  if (error !== undefined) throw error;
  if (status === 0) return stdout;
  throw new Error(`${command} ${args.join(' ').slice(0, 200)}: ended with ${signal ?? status}\n${stderr}`);
}
