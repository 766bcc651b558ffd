/** What the kernel does for a process in a guest and outside, in the shape of the EuroSys 2007 table. */
import { copyFileSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { ControlPlane } from './control-plane.ts';
import { nativeProgram, run } from './native-programs.ts';
import type { Result, Scenario } from './scenario.ts';
import { ServiceCgroup } from './service-cgroup.ts';
import { bootstrap, compare, geometricMean, median } from './statistics.ts';

/** Native is a service of the host: on a stock system nothing runs outside its cgroups. */
const EACH = { relation: 'at least', value: 0.97 } as const;
const MEAN = { relation: 'at least', value: 0.99 } as const;
const NATIVE = 'service of the host';
const PLAIN = 'guest without filter';

/** Speeds of a guest over speeds of the host, so that 1 is native. */
export const micro: Scenario = {
  name: 'micro',
  about:
    'fork, exec, shell, context switch, mmap, page fault, system call: speed in a guest over speed of the host',
  run: measure,
};

/** Nanoseconds of one operation in each round. */
type Rounds = Map<string, number[]>;

function* measure(): Iterable<Result> {
  using control = new ControlPlane();
  const directory = join(control.directory, 'bench');
  mkdirSync(directory);
  const program = join(directory, 'micro');
  copyFileSync(nativeProgram('micro'), program);
  const guests = { guest: [], [PLAIN]: ['--security-opt', 'seccomp=unconfined'] };
  using service = new ServiceCgroup();
  const [shell, ...words] = service.commandLine(program);
  const subjects: (readonly [string, () => string])[] = [
    ['host', () => run(program, [])],
    [NATIVE, () => run(shell, words)],
  ];
  for (const [index, [name, flags]] of Object.entries(guests).entries()) {
    const guest = `g${index}`;
    const where = ['--network', 'none', '--volume', `${directory}:/bench:ro`];
    control.vserver('run', '--detach', '--name', guest, ...where, ...flags, '--', 'sleep', '86400');
    subjects.push([name, () => control.vserver('exec', guest, '/bench/micro')]);
  }
  const samples = new Map(subjects.map(([name]): [string, Rounds] => [name, new Map()]));
  const rounds = Number(process.env['ROUNDS'] ?? 30);
  for (let round = -1; round < rounds; round++) {
    for (const index of subjects.keys()) {
      const subject = subjects[(index + round + 1) % subjects.length];
      const output = subject?.[1]();
      if (subject !== undefined && output !== undefined && round >= 0) add(samples.get(subject[0]), output);
    }
  }
  const of = (name: string): Rounds => samples.get(name) ?? new Map();
  yield* compareWith(of(NATIVE), `${PLAIN}, of a service`, of(PLAIN), true);
  // What is left when all but the filter's share is taken out.
  yield* compareWith(of(PLAIN), 'filter alone', of('guest'));
  // Cgroups and filter together, against a process that no cgroup counts.
  yield* compareWith(of('host'), 'guest', of('guest'));
  yield* compareWith(of('host'), NATIVE, of(NATIVE));
}

function* compareWith(peer: Rounds, name: string, subject: Rounds, isWanted = false): Iterable<Result> {
  for (const [operation, values] of subject) {
    const peerSample = { name: operation, values: peer.get(operation) ?? [] };
    const options = {
      unit: 'us',
      perUnit: 1000,
      isSpeed: true,
      target: isWanted ? EACH : undefined,
    } as const;
    yield compare({ name, values }, peerSample, options);
  }
  const pick = (values: readonly number[] = [], indexes: readonly number[]): number =>
    median(indexes.map((index) => values[index] ?? Number.NaN));
  const operations = [...subject.keys()];
  const spread = bootstrap(Math.min(...[...subject.values()].map((values) => values.length)), (indexes) =>
    geometricMean(operations.map((name) => pick(peer.get(name), indexes) / pick(subject.get(name), indexes))),
  );
  yield {
    kind: 'figure',
    what: `${name}: geometric mean`,
    unit: '× native',
    value: spread.value,
    spread,
    target: isWanted ? MEAN : undefined,
  };
}

function add(rounds: Rounds | undefined, output: string): void {
  for (const line of output.trim().split('\n')) {
    const [name = '', nanoseconds] = line.split(' ');
    const values = rounds?.get(name);
    if (values === undefined) rounds?.set(name, [Number(nanoseconds)]);
    else values.push(Number(nanoseconds));
  }
}
