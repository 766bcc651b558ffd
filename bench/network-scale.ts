/** Many guests with an address each: what their starts, their memory and a packet cost, against guests without and few. */
import { FILES_PER_GUEST, mostOpenFiles, SPARE_FILES } from '../src/guest/open-files.ts';
import { cycles, memoryPerGuest, reading } from './memory-cycles.ts';
import { timeCommands } from './native-programs.ts';
import { HOST_ADDRESS, NetworkWorld } from './network-world.ts';
import { daemonSizes, rate, repeat, verbCost } from './scale.ts';
import type { Figure, Result, Scenario } from './scenario.ts';
import { bootstrap, compare, median } from './statistics.ts';

const NANOSECONDS_IN_MS = 1e6;
/** What an address may cost a start: this much, and `START_TARGET` times a start without. */
const START_ALLOWANCE_NS = 1e6;
const START_TARGET = { relation: 'at most', value: 1.2 } as const;
const MEMORY_TARGET = { relation: 'at most', value: 450 } as const;
const GROWTH_TARGET = { relation: 'at most', value: 1.05 } as const;
const FEW = 10;
/** Starts and stops of all of them after the first. */
const MORE_CYCLES = 1;
const KINDS = ['tcp-rr', 'udp-rr'] as const;
const SERVED = '10.9.0.5';
const REST = ['--', 'sleep', '86400'] as const;

/** SIZE guests (1000) of one process and one address each; 5000 take a hard limit of 30,200 open files. */
export const networkScale: Scenario = {
  name: 'network-scale',
  about: 'SIZE (1000) idle guests of one process with an address each: start, memory, packets',
  run: measure,
};

async function* measure(): AsyncIterable<Result> {
  using world = new NetworkWorld();
  const { control } = world;
  const wanted = Number(process.env['SIZE'] ?? 1000);
  const size = Math.min(wanted, mostGuests(world));
  if (size < wanted)
    yield {
      kind: 'skip',
      what: `${wanted - size} of ${wanted} guests`,
      reason: 'the hard limit of open files',
    };
  const names = Array.from({ length: size }, (_, index) => `g${index + 1}`);
  control.vserver('run', '--network', 'none', '--', 'true');
  control.vserver('daemon', 'stop');
  const address = '10.20.$((i / 250)).$((i % 250 + 1))/16';
  repeat(control, size, [
    'create',
    'g$i',
    '--init=none',
    '--network-interface',
    'h0',
    '--ip',
    address,
    ...REST,
  ]);
  for (const [name, ...flags] of [
    ['plain', '--network', 'none'],
    ['addressed', '--network-interface', 'h0', '--ip', '10.21.0.1/16'],
  ] as const)
    control.vserver('create', name, '--init=none', ...flags, ...REST);
  const serve = ['--', '/bench/net', 'serve', '0.0.0.0'];
  control.vserver('create', 'server', '--init=none', ...world.flags(SERVED), ...serve);
  const host = world.serve([...world.inHost(), world.program], HOST_ADDRESS);

  control.vserver('start', ...names.slice(0, FEW));
  const few = packets(world, host);
  control.vserver('stop', '--all', '--timeout', '0');
  const idle = reading();
  const startedAt = performance.now();
  control.vserver('start', ...names);
  yield rate(`one \`start\` of ${size} with an address`, size, startedAt);
  const full = reading();
  const many = packets(world, host);
  yield* starts(world, size);
  yield* daemonSizes(control, size);
  for (const words of [['list'], ['list', '--json'], ['stat'], ['status', 'g1'], ['daemon', 'status']])
    yield verbCost(control, size, words);
  const stoppedAt = performance.now();
  control.vserver('stop', '--all', '--timeout', '0');
  yield rate(`\`stop --all\` of ${size} with an address`, size, stoppedAt);
  const first = { before: idle, full, after: reading() };
  const more = await cycles(
    MORE_CYCLES,
    first.after,
    () => control.vserver('start', ...names),
    () => control.vserver('stop', '--all', '--timeout', '0'),
  );
  yield* memoryPerGuest('memory per guest', size, [first, ...more], MEMORY_TARGET);
  for (const kind of KINDS) yield growth(kind, size, few, many);
}

/** How many guests syscalld has open files for. */
function mostGuests({ control }: NetworkWorld): number {
  return Math.floor((mostOpenFiles(control.daemons().syscalldPid) - SPARE_FILES) / FILES_PER_GUEST);
}

/** CPU time of requests to a guest, over that of requests to the host in the same rounds. */
type Packets = Readonly<Record<(typeof KINDS)[number], readonly number[]>>;

function packets(world: NetworkWorld, host: readonly number[]): Packets {
  world.control.vserver('start', 'server');
  const client = (to: string): readonly string[] => [...world.inHost(), world.program, 'client', to];
  const rounds = world.drive(Number(process.env['ROUNDS'] ?? 30), KINDS, [
    { name: 'guest', pids: world.serversOf('server'), argv: client(SERVED) },
    { name: 'host', pids: host, argv: client(HOST_ADDRESS) },
  ]);
  world.control.vserver('stop', '--timeout', '0', 'server');
  const ratios = (kind: string): readonly number[] => {
    const [guest, own] = rounds.get(kind) ?? [];
    return (guest?.used ?? []).map((used, i) => used / (own?.used[i] ?? Number.NaN));
  };
  return { 'tcp-rr': ratios('tcp-rr'), 'udp-rr': ratios('udp-rr') };
}

function growth(kind: (typeof KINDS)[number], size: number, few: Packets, many: Packets): Figure {
  const spread = bootstrap(few[kind].length, (indexes) => {
    const pick = (values: readonly number[]): number => median(indexes.map((i) => values[i] ?? Number.NaN));
    return pick(many[kind]) / pick(few[kind]);
  });
  return {
    kind: 'figure',
    what: `${kind} with a guest, CPU: ${size} running against ${FEW}`,
    unit: '×',
    value: spread.value,
    spread,
    target: GROWTH_TARGET,
  };
}

function* starts({ control }: NetworkWorld, size: number): Iterable<Result> {
  const commands = ['plain', 'addressed'].flatMap((name) => [
    { name, argv: control.argv('start', name) },
    { name: 'kill', argv: control.argv('kill', '--signal', 'KILL', name) },
    { name: 'wait', argv: control.argv('wait', name) },
  ]);
  const samples = timeCommands(commands, {
    rounds: Number(process.env['ROUNDS'] ?? 30),
    warmups: 5,
    isInOrder: true,
  });
  const of = (name: string): readonly number[] =>
    samples.find((sample) => sample.name === name)?.values ?? [];
  const subject = { name: `start with an address, ${size} running`, values: of('addressed') };
  const peer = { name: 'without', values: of('plain') };
  yield compare(subject, peer, { unit: 'ms', perUnit: NANOSECONDS_IN_MS });
  const allowed = subject.values.map((value) => value - START_ALLOWANCE_NS);
  yield compare({ name: 'the same less 1 ms', values: allowed }, peer, {
    unit: 'ms',
    perUnit: NANOSECONDS_IN_MS,
    target: START_TARGET,
  });
}
