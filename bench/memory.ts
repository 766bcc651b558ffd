/** What an idle guest takes of the host's memory, by kind and by slab cache, and what it cannot be smaller than. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, readFileSync, rmdirSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { CONTROLLERS } from '../src/resources/cgroup-layout.ts';
import { ControlPlane } from './control-plane.ts';
import { nativeProgram } from './native-programs.ts';
import { type Memory, memory, memoryPerGuest, repeat } from './scale.ts';
import type { Figure, Result, Scenario } from './scenario.ts';

const PLAIN_TARGET = { relation: 'at most', value: 350 } as const;
const ADDRESS_TARGET = { relation: 'at most', value: 450 } as const;
/** Guests before the counted ones: what the first few take is not of each. */
const FEW = 10;
const PAGE_KIB = 4;
/** Caches told of by name. */
const CACHES = Number(process.env['CACHES'] ?? 24);
const UNIFIED = ['/sys/fs/cgroup/unified', '/sys/fs/cgroup'];
const REST = ['--', 'sleep', '86400'] as const;

/** SIZE guests (300) of each kind. */
export const memoryOfGuests: Scenario = {
  name: 'memory',
  about:
    'SIZE (300) idle guests of each kind: what each takes, beside processes with namespaces and cgroups alone',
  run: measure,
};

async function* measure(): AsyncIterable<Result> {
  const size = Number(process.env['SIZE'] ?? 300);
  yield* await sleepers('process of the host', size, []);
  using control = new ControlPlane();
  const kinds = [
    { name: 'guest', flags: ['--init=none', '--network', 'none'], target: PLAIN_TARGET },
    { name: 'guest with built-in init', flags: ['--network', 'none'], target: undefined },
    {
      name: 'guest with an address',
      flags: ['--init=none', '--ip', '10.20.$((i / 250)).$((i % 250 + 1))/16'],
      target: ADDRESS_TARGET,
    },
  ];
  control.vserver('run', '--network', 'none', '--', 'true');
  yield* await sleepers('process with namespaces and cgroups', size, hierarchies());
  for (const { name, flags, target } of kinds) {
    repeat(control, FEW + size, ['create', 'g$i', ...flags, ...REST]);
    const names = Array.from({ length: FEW + size }, (_, index) => `g${index + 1}`);
    control.vserver('start', ...names.slice(0, FEW));
    const before = reading();
    control.vserver('start', ...names.slice(FEW));
    const full = reading();
    control.vserver('stop', '--timeout', '0', ...names.slice(FEW));
    const after = reading();
    control.vserver('delete', '--all', '--force');
    yield* told(name, size, { before, full, after }, target);
  }
}

/** What /proc/meminfo and /proc/slabinfo say. */
interface Reading {
  readonly memory: Memory;
  readonly caches: Memory;
}

function reading(): Reading {
  return { memory: memory(), caches: slabCaches() };
}

/** KiB that the objects of each cache take, by its name; caches of objects alike are one (slabinfo(5)). */
function slabCaches(): Memory {
  const caches = new Map<string, number>();
  for (const line of readFileSync('/proc/slabinfo', 'utf8').split('\n').slice(2)) {
    const [name, active, , , perSlab, pages] = line.split(/\s+/);
    if (name === undefined || pages === undefined) continue;
    caches.set(name, (Number(active) * Number(pages) * PAGE_KIB) / Number(perSlab));
  }
  return caches;
}

function* told(
  name: string,
  size: number,
  readings: Readonly<Record<'before' | 'full' | 'after', Reading>>,
  target: Figure['target'],
): Iterable<Figure> {
  const { before, full, after } = readings;
  const figures = memoryPerGuest(size, before.memory, full.memory, after.memory, target);
  for (const figure of figures) yield { ...figure, what: figure.what.replace('memory per guest', name) };
  const caches = Array.from(full.caches, ([cache, kib]) => ({
    cache,
    value: (kib - (before.caches.get(cache) ?? 0)) / size,
  })).sort((a, b) => b.value - a.value);
  for (const { cache, value } of caches.slice(0, CACHES)) {
    yield {
      kind: 'figure',
      what: `${name}: slab ${cache}`,
      unit: 'KiB',
      value,
      spread: undefined,
      target: undefined,
    };
  }
}

/** Processes that sleep; with cgroup directories each in one of its own, and in namespaces of its own. */
async function sleepers(name: string, size: number, parents: readonly string[]): Promise<Iterable<Figure>> {
  const directories = parents.map((parent) => join(parent, `vserver-bench-${process.pid}`));
  for (const directory of directories) mkdirSync(directory);
  for (const directory of directories) handDown(directory);
  try {
    const few = await started(FEW, directories);
    await ended(few);
    const before = reading();
    const many = await started(size, directories);
    const full = reading();
    await ended(many);
    return told(name, size, { before, full, after: reading() }, undefined);
  } finally {
    for (const directory of directories) rmdirSync(directory);
  }
}

/** Hierarchies that guests have a cgroup in. */
function hierarchies(): readonly string[] {
  const unified = UNIFIED.find((path) => existsSync(join(path, 'cgroup.controllers')));
  if (unified === undefined) throw new Error('cannot find cgroup2; need it mounted');
  return [unified, ...['memory', 'cpu', 'pids'].map((name) => `/sys/fs/cgroup/${name}`).filter(isDirectory)];
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

async function started(size: number, directories: readonly string[]): Promise<ChildProcess> {
  const program = spawn(nativeProgram('sleepers'), [String(size), ...directories], {
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  const isUp = await Promise.race([
    once(program.stdout, 'data').then(() => true),
    once(program, 'exit').then(() => false),
  ]);
  if (!isUp) throw new Error('sleepers: ended before all slept');
  return program;
}

async function ended(program: ChildProcess): Promise<void> {
  const exit = once(program, 'exit');
  program.stdin?.end();
  await exit;
}
