/** What an idle guest takes of the host's memory, by kind and by slab cache, and what it cannot be smaller than. */
import { ControlPlane } from './control-plane.ts';
import { type Cycle, cachesPerGuest, cycles, memoryPerGuest, reading } from './memory-cycles.ts';
import { repeat } from './scale.ts';
import type { Figure, Result, Scenario } from './scenario.ts';
import { endSleepers, hierarchies, startSleepers, withCgroups } from './sleepers.ts';

const PLAIN_TARGET = { relation: 'at most', value: 350 } as const;
const ADDRESS_TARGET = { relation: 'at most', value: 450 } as const;
/** Guests before the counted ones: what the first few take is not of each. */
const FEW = 10;
const CYCLES = 2;
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
    const counted = names.slice(FEW);
    const all = await cycles(
      CYCLES,
      reading(),
      () => control.vserver('start', ...counted),
      () => control.vserver('stop', '--timeout', '0', ...counted),
    );
    control.vserver('delete', '--all', '--force');
    yield* told(name, size, all, target);
  }
}

function* told(
  name: string,
  size: number,
  all: readonly Cycle[],
  target: Figure['target'],
): Iterable<Figure> {
  yield* memoryPerGuest(name, size, all, target);
  yield* cachesPerGuest(name, size, all, CACHES);
}

async function sleepers(name: string, size: number, parents: readonly string[]): Promise<Iterable<Figure>> {
  return await withCgroups(parents, async (directories) => {
    await endSleepers(await startSleepers(FEW, directories));
    let many: Awaited<ReturnType<typeof startSleepers>> | undefined;
    const all = await cycles(
      CYCLES,
      reading(),
      async () => {
        many = await startSleepers(size, directories);
      },
      async () => {
        if (many) await endSleepers(many);
      },
    );
    return told(name, size, all, undefined);
  });
}
