/** What an idle guest takes of the host's memory, by kind and by slab cache, and what it cannot be smaller than. */
import { readFileSync } from 'node:fs';
import { ControlPlane } from './control-plane.ts';
import { type Memory, memory, memoryPerGuest, repeat } from './scale.ts';
import type { Figure, Result, Scenario } from './scenario.ts';
import { endSleepers, hierarchies, startSleepers, withCgroups } from './sleepers.ts';
import { figure } from './statistics.ts';

const PLAIN_TARGET = { relation: 'at most', value: 350 } as const;
const ADDRESS_TARGET = { relation: 'at most', value: 450 } as const;
/** Guests before the counted ones: what the first few take is not of each. */
const FEW = 10;
const PAGE_KIB = 4;
/** Caches told of by name. */
const CACHES = Number(process.env['CACHES'] ?? 24);
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
    {
      name: 'guest of template busybox, its static `sleep`',
      flags: ['--init=none', '--network', 'none', '--template', 'busybox'],
      target: PLAIN_TARGET,
    },
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
    yield figure(`${name}: slab ${cache}`, 'KiB', value);
  }
}

async function sleepers(name: string, size: number, parents: readonly string[]): Promise<Iterable<Figure>> {
  return await withCgroups(parents, async (directories) => {
    await endSleepers(await startSleepers(FEW, directories));
    const before = reading();
    const many = await startSleepers(size, directories);
    const full = reading();
    await endSleepers(many);
    return told(name, size, { before, full, after: reading() }, undefined);
  });
}
