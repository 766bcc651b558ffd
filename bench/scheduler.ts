/** Shares of CPU time: what guests ask of the scheduler, and what hogs in them get. */
import { availableParallelism } from 'node:os';
import { ControlPlane } from './control-plane.ts';
import { run } from './native-programs.ts';
import type { Figure, Result, Scenario } from './scenario.ts';
import { figure } from './statistics.ts';

const CPUS = availableParallelism();
/** How long hogs are watched, after they have settled. */
const SECONDS = Number(process.env['SECONDS_WATCHED'] ?? 8);
const SETTLE_SECONDS = 1;
const ERROR_TARGET = { relation: 'at most', value: 2 } as const;

/** Hogs in guests with hard buckets, in shared idle time, bursts, and a guest that is paused. */
export const scheduler: Scenario = {
  name: 'scheduler',
  about: `asked against achieved shares of CPU time, in points; guests with one hog for each of ${CPUS} CPUs, each mix watched for ${SECONDS} s`,
  run: measure,
};

interface Hog {
  readonly name: string;
  /** `scheduler.` settings. */
  readonly settings: readonly string[];
  /** Points of a hundred it should get. */
  readonly asked: number;
  readonly threads?: number;
  /** CFS cannot do it: the figure says how far off it is. */
  readonly isKnownToMiss?: true;
}

function* measure(): Iterable<Result> {
  using control = new ControlPlane();
  const rate = (percent: number): readonly string[] => [
    'hard=true',
    `fillRate=${percent}`,
    'interval=100',
    `tokensMin=${percent}`,
    `tokensMax=${percent}`,
  ];
  const share = (fillRate: number): readonly string[] => [
    'hard=true',
    'idleTime=true',
    `fillRate=${fillRate}`,
  ];

  yield* compareShares('hard buckets, of all CPUs', ofMachine, control, [
    { name: 'h5', settings: rate(5), asked: 5 },
    { name: 'h10', settings: rate(10), asked: 10 },
    { name: 'h25', settings: rate(25), asked: 25 },
  ]);
  yield* compareShares('idle time by rate, of what all get', ofAll, control, [
    { name: 'i1', settings: share(1), asked: 12.5 },
    { name: 'i2', settings: share(2), asked: 25 },
    { name: 'i5', settings: share(5), asked: 62.5 },
  ]);
  yield* compareShares(
    'a hard bucket beside idle time, of all CPUs',
    ofMachine,
    control,
    [{ name: 'hard', settings: rate(15), asked: 15 }],
    [{ name: 'idle', settings: share(1), asked: 0 }],
  );
  // A group that is idle has a weight of 3: small, but not nothing.
  yield* compareShares('only idle time beside a rate, of what both get', ofAll, control, [
    {
      name: 'only-idle',
      settings: ['hard=true', 'idleTime=true', 'fillRate=0'],
      asked: 0,
      isKnownToMiss: true,
    },
    { name: 'rate', settings: share(1), asked: 100, isKnownToMiss: true },
  ]);
  // The original has a bucket for each CPU, CFS one for all: a single thread is given those of the others.
  yield* compareShares('a hard bucket of 10 % with a single thread, of one CPU', ofOneCpu, control, [
    { name: 'single', settings: rate(10), asked: 10, threads: 1, isKnownToMiss: true },
  ]);
  yield* bursts(control);
  yield paused(control);
}

type Shares = (usedUs: ReadonlyMap<string, number>, elapsedUs: number) => (name: string) => number;

const ofMachine: Shares = (used, elapsedUs) => (name) => ((used.get(name) ?? 0) / elapsedUs / CPUS) * 100;
const ofOneCpu: Shares = (used, elapsedUs) => (name) => ((used.get(name) ?? 0) / elapsedUs) * 100;
const ofAll: Shares = (used) => {
  const sum = [...used.values()].reduce((all, one) => all + one, 0);
  return (name) => ((used.get(name) ?? 0) / sum) * 100;
};

function* compareShares(
  mix: string,
  shares: Shares,
  control: ControlPlane,
  hogs: readonly Hog[],
  others: readonly Hog[] = [],
): Iterable<Figure> {
  const all = [...hogs, ...others];
  for (const hog of all) startHog(control, hog);
  const { used, elapsedUs } = watch(
    control,
    all.map(({ name }) => name),
  );
  const share = shares(used, elapsedUs);
  for (const { name, asked, isKnownToMiss } of hogs) {
    const got = share(name);
    yield figure(
      `${mix}: asked ${asked}, got ${got.toFixed(2)}, error`,
      'points',
      Math.abs(got - asked),
      isKnownToMiss ? undefined : ERROR_TARGET,
    );
  }
  control.vserver('delete', '--force', ...all.map(({ name }) => name));
}

function startHog(control: ControlPlane, { name, settings, threads = CPUS }: Hog): void {
  const hog = 'while :; do :; done';
  const script = `${`${hog} & `.repeat(threads - 1)}${hog}`;
  control.vserver('create', name, '--template', 'busybox', '--', 'sh', '-c', script);
  control.vserver('set', name, ...settings.map((one) => `scheduler.${one}`));
  control.vserver('start', name);
}

/** What guests use in a while. */
function watch(
  control: ControlPlane,
  names: readonly string[],
): { readonly used: ReadonlyMap<string, number>; readonly elapsedUs: number } {
  run('sleep', [String(SETTLE_SECONDS)]);
  const before = usageOf(control, names);
  const startedMs = performance.now();
  run('sleep', [String(SECONDS)]);
  const after = usageOf(control, names);
  const elapsedUs = (performance.now() - startedMs) * 1000;
  return {
    used: new Map(names.map((name) => [name, (after.get(name) ?? 0) - (before.get(name) ?? 0)])),
    elapsedUs,
  };
}

interface Account {
  readonly name: string;
  readonly cpu: { readonly userUs: number; readonly systemUs: number; readonly throttledPeriods: number };
}

function accountsOf(control: ControlPlane, names: readonly string[]): readonly Account[] {
  return JSON.parse(control.vserver('stat', '--json', ...names)) as readonly Account[]; // our own verb's
}

function usageOf(control: ControlPlane, names: readonly string[]): ReadonlyMap<string, number> {
  return new Map(accountsOf(control, names).map(({ name, cpu }) => [name, cpu.userUs + cpu.systemUs]));
}

/** A task that needs more than a fill at once, and then nothing for long. */
function* bursts(control: ControlPlane): Iterable<Figure> {
  const script = 'while :; do i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; sleep 1; done';
  for (const [what, tokensMax] of [
    ['without room for bursts', 10],
    ['with a bucket of two fills', 20],
  ] as const) {
    control.vserver('create', 'burst', '--template', 'busybox', '--', 'sh', '-c', script);
    const settings = ['hard=true', 'fillRate=10', 'interval=100', 'tokensMin=10', `tokensMax=${tokensMax}`];
    control.vserver('set', 'burst', ...settings.map((one) => `scheduler.${one}`));
    control.vserver('start', 'burst');
    run('sleep', [String(SECONDS)]);
    const [account] = accountsOf(control, ['burst']);
    yield figure(`a burst each second, ${what}: held`, 'times', account?.cpu.throttledPeriods ?? Number.NaN);
    control.vserver('delete', '--force', 'burst');
  }
}

function paused(control: ControlPlane): Figure {
  startHog(control, { name: 'paused', settings: ['prioBias=0'], asked: 0 });
  control.vserver('pause', 'paused');
  const { used } = watch(control, ['paused']);
  control.vserver('delete', '--force', 'paused');
  return figure('a hog that is paused uses', 'us', used.get('paused') ?? Number.NaN, {
    relation: 'at most',
    value: 0,
  });
}
