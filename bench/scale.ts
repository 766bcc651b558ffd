/** Many idle guests: what each costs in memory, how fast they start, and whether the last starts as fast as the first. */
import { readdirSync, readFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { ControlPlane } from './control-plane.ts';
import { cycles, memoryPerGuest, reading } from './memory-cycles.ts';
import { run, timeCommands } from './native-programs.ts';
import type { Figure, Result, Scenario } from './scenario.ts';
import { endSleepers, hierarchies, startSleepers, withCgroups } from './sleepers.ts';
import { compare, figure, median, medianFigure, type Sample } from './statistics.ts';

const FEW = 10;
const CPUS = availableParallelism();
const NANOSECONDS_IN_MS = 1e6;
const MEMORY_TARGET = { relation: 'at most', value: 350 } as const;
const RATE_TARGET = { relation: 'at least', value: 400 } as const;
const GROWTH_TARGET = { relation: 'at most', value: 1.2 } as const;
const VERB_RUNS = 5;
/** The history of what guests use is written once a minute at least. */
const IDLE_SECONDS = Number(process.env['IDLE_SECONDS'] ?? 60);
/** Starts and stops of all of them after the first. */
const MORE_CYCLES = 3;
const GUEST_FLAGS = ['--init=none', '--network', 'none', '--', 'sleep', '86400'] as const;

/** SIZE guests (1000) of one process each. */
export const scale: Scenario = {
  name: 'scale',
  about:
    'SIZE (1000) idle guests of one process, `sleep` of the host template, each with its own namespaces and cgroups',
  run: measure,
};

async function* measure(): AsyncIterable<Result> {
  using control = new ControlPlane();
  const size = Number(process.env['SIZE'] ?? 1000);
  const names = Array.from({ length: size }, (_, index) => `g${index + 1}`);
  const few = names.slice(0, FEW);
  // The first vserverd after a change of the sources compiles them; from its end on the code is there.
  control.vserver('run', '--network', 'none', '--', 'true');
  control.vserver('daemon', 'stop');
  repeat(control, size, ['create', 'g$i', ...GUEST_FLAGS]);
  control.vserver('create', 'probe', ...GUEST_FLAGS);

  control.vserver('start', ...few);
  const before = probe(control, `start with ${FEW} running`);
  stop(control);

  const rates: number[] = [];
  const startAll = (): void => {
    const startedAt = performance.now();
    control.vserver('start', ...names);
    rates.push(perSecond(size, startedAt));
  };
  const idle = reading();
  startAll();
  yield figure(`rate: first \`start\` of ${size} by this vserverd`, 'guests/s', rates[0] ?? Number.NaN);
  const full = reading();
  yield* daemonSizes(control, size);
  yield* accountingCost(control, size);
  const many = probe(control, `start with ${size} running`);
  stop(control);
  const first = { before: idle, full, after: reading() };
  const more = await cycles(MORE_CYCLES, first.after, startAll, () => stop(control));
  yield medianFigure(`rate: one \`start\` of ${size}, ${rates.length} times`, 'guests/s', rates, RATE_TARGET);
  yield* memoryPerGuest('memory per guest', size, [first, ...more], MEMORY_TARGET);

  control.vserver('start', ...few);
  const after = probe(control, before.name);
  stop(control);
  const peer = { name: before.name, values: alternate(before.values, after.values) };
  const subject = { name: many.name, values: alternate(many.values, many.values) };
  yield compare(subject, peer, { unit: 'ms', perUnit: NANOSECONDS_IN_MS, target: GROWTH_TARGET });

  const loopedAt = performance.now();
  repeat(control, size, ['run', '--detach', '--name', 'r$i', ...GUEST_FLAGS]);
  yield rate(`\`run --detach\`, ${size} commands, one after the other`, size, loopedAt);
  control.vserver('delete', '--all', '--force');
  yield await bareRate(size);
}

/** What no start can be faster than: processes with the namespaces and cgroups of guests, by one program for each CPU. */
async function bareRate(size: number): Promise<Figure> {
  return await withCgroups(hierarchies(), async (directories) => {
    const each = Math.ceil(size / CPUS);
    const startedAt = performance.now();
    const programs = await Promise.all(
      Array.from({ length: CPUS }, (_, i) => startSleepers(each, directories, i * each)),
    );
    const figure = rate('processes with namespaces and cgroups alone', CPUS * each, startedAt);
    await Promise.all(programs.map(endSleepers));
    return figure;
  });
}

/** Runs the client `count` times in one shell; `$i` in a word counts from 1. */
export function repeat(control: ControlPlane, count: number, words: readonly string[]): void {
  const script = `i=1; while [ $i -le ${count} ]; do ${control.argv(...words).join(' ')} >/dev/null || exit 1; i=$((i+1)); done`;
  run('sh', ['-c', script]);
}

/** Starts and stops one more guest, again and again: nanoseconds of the starts. */
function probe(control: ControlPlane, name: string): Sample {
  const commands = [
    { name, argv: control.argv('start', 'probe') },
    { name: 'stop', argv: control.argv('kill', '--signal', 'KILL', 'probe') },
    { name: 'wait', argv: control.argv('wait', 'probe') },
  ];
  const [sample] = timeCommands(commands, {
    rounds: Number(process.env['ROUNDS'] ?? 60),
    warmups: 10,
    isInOrder: true,
  });
  return sample ?? { name, values: [] };
}

function stop(control: ControlPlane): void {
  control.vserver('stop', '--all', '--timeout', '0');
}

function alternate(first: readonly number[], second: readonly number[]): readonly number[] {
  return first.flatMap((value, index) => [value, second[index] ?? value]);
}

/** Guests for each second since then. */
export function rate(how: string, count: number, startedAtMs: number): Figure {
  return figure(`rate: ${how}`, 'guests/s', perSecond(count, startedAtMs));
}

function perSecond(count: number, startedAtMs: number): number {
  return (count * 1000) / (performance.now() - startedAtMs);
}

/** What a verb takes, while so many guests run: CPU time, which a busy machine does not stretch as much. */
export function verbCost(control: ControlPlane, size: number, words: readonly string[]): Figure {
  const { vserverdPid } = control.daemons();
  const costs = Array.from({ length: VERB_RUNS }, () => {
    const before = cpuNanoseconds(vserverdPid);
    control.vserver(...words);
    return (cpuNanoseconds(vserverdPid) - before) / NANOSECONDS_IN_MS;
  });
  return figure(`\`${words.join(' ')}\` of ${size} guests, CPU time of vserverd`, 'ms', median(costs));
}

/** What it takes to look at all guests, when asked and unasked. */
function* accountingCost(control: ControlPlane, size: number): Iterable<Figure> {
  const { vserverdPid } = control.daemons();
  yield verbCost(control, size, ['stat']);
  const times = Array.from({ length: VERB_RUNS }, () => {
    const beganMs = performance.now();
    control.vserver('stat');
    return performance.now() - beganMs;
  });
  yield figure(`\`stat\` of ${size} guests, the whole command`, 'ms', median(times), {
    relation: 'at most',
    value: 100,
  });
  const before = cpuNanoseconds(vserverdPid);
  run('sleep', [String(IDLE_SECONDS)]);
  const usedMs = (cpuNanoseconds(vserverdPid) - before) / NANOSECONDS_IN_MS;
  yield figure(
    `vserverd with ${size} idle guests, ${IDLE_SECONDS} s, of one CPU`,
    '%',
    usedMs / (IDLE_SECONDS * 10),
    { relation: 'at most', value: 0.5 },
  );
}

/** First field of /proc/PID/task/TID/schedstat: time on a CPU (Documentation/scheduler/sched-stats.rst). */
function cpuNanoseconds(pid: number): number {
  return readdirSync(`/proc/${pid}/task`)
    .map((tid) => Number(readFileSync(`/proc/${pid}/task/${tid}/schedstat`, 'utf8').split(' ')[0]))
    .reduce((sum, one) => sum + one, 0);
}

/** How large both daemons are while so many guests run. */
export function* daemonSizes(control: ControlPlane, size: number): Iterable<Figure> {
  const { vserverdPid, syscalldPid } = control.daemons();
  const rollup = readFileSync(`/proc/${syscalldPid}/smaps_rollup`, 'utf8');
  const privateKib = Array.from(rollup.matchAll(/^Private_(?:Clean|Dirty): +(\d+) kB$/gm), ([, kib]) =>
    Number(kib),
  );
  const status = readFileSync(`/proc/${vserverdPid}/status`, 'utf8');
  yield figure(
    `syscalld private, ${size} guests`,
    'KiB',
    privateKib.reduce((sum, kib) => sum + kib, 0),
    { relation: 'at most', value: 1024 },
  );
  yield figure(
    `vserverd resident, ${size} guests`,
    'MB',
    (Number(/^VmRSS:\s+(\d+)/m.exec(status)?.[1]) * 1024) / 1e6,
    { relation: 'at most', value: 90 },
  );
}
