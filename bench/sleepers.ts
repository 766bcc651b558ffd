/** Processes that sleep, with namespaces and cgroups of their own and nothing else: what a guest cannot be less than. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, readFileSync, rmdirSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { CONTROLLERS } from '../src/resources/cgroup-layout.ts';
import { nativeProgram } from './native-programs.ts';

const UNIFIED = ['/sys/fs/cgroup/unified', '/sys/fs/cgroup'];

/** Hierarchies that guests have a cgroup in. */
export function hierarchies(): readonly string[] {
  const unified = UNIFIED.find((path) => existsSync(join(path, 'cgroup.controllers')));
  if (unified === undefined) throw new Error('cannot find cgroup2; need it mounted');
  return [unified, ...['memory', 'cpu', 'pids'].map((name) => `/sys/fs/cgroup/${name}`).filter(isDirectory)];
}

/** Calls `body` with a new directory in each of these hierarchies, which go when it is over. */
export async function withCgroups<T>(
  parents: readonly string[],
  body: (directories: readonly string[]) => Promise<T>,
): Promise<T> {
  const directories = parents.map((parent) => join(parent, `vserver-bench-${process.pid}`));
  for (const directory of directories) mkdirSync(directory);
  try {
    for (const directory of directories) handDown(directory);
    return await body(directories);
  } finally {
    for (const directory of directories) rmdirSync(directory);
  }
}

/** Starts processes; with cgroup directories each in one of its own below, and in namespaces of its own. All sleep. */
export async function startSleepers(
  size: number,
  directories: readonly string[],
  first = 0,
): Promise<ChildProcess> {
  const program = spawn(nativeProgram('sleepers'), [String(size), String(first), ...directories], {
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  const isUp = await Promise.race([
    once(program.stdout, 'data').then(() => true),
    once(program, 'exit').then(() => false),
  ]);
  if (!isUp) throw new Error('sleepers: ended before all slept');
  return program;
}

/** Ends what `startSleepers` started. */
export async function endSleepers(program: ChildProcess): Promise<void> {
  const exit = once(program, 'exit');
  program.stdin?.end();
  await exit;
}

function isDirectory(path: string): boolean {
  return statSync(path, { throwIfNoEntry: false })?.isDirectory() === true;
}

/** On cgroup2 the controllers that guests have. */
function handDown(directory: string): void {
  const control = join(directory, 'cgroup.subtree_control');
  if (!existsSync(control)) return;
  const has = readFileSync(join(directory, 'cgroup.controllers'), 'utf8').trim().split(' ');
  const wanted = CONTROLLERS.filter((name) => has.includes(name)).map((name) => `+${name}`);
  if (wanted.length > 0) writeFileSync(control, wanted.join(' '));
}
