/**
 * Runs test tiers one after the other under one report: `node tools/test.ts unit root vm`. Installs the host tools a
 * tier needs where apt can; otherwise their tests skip and say so. `MUST_RUN` makes such a skip a failure.
 */
import { spawnSync } from 'node:child_process';
import { existsSync, globSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join, relative, resolve } from 'node:path';
import { run } from 'node:test';
import type { TestEvent } from 'node:test/reporters';
import { isRequirement, mustRun, probe, type Requirement } from '../test/lib/requires.ts';
import { inLanes, type Run } from './lanes.ts';
import { report } from './reporter.ts';

type Tier = {
  /** Relative to the checkout; the file name decides the tier. */
  readonly globs: readonly string[];
  /** Files at once: each makes an instance of its own and looks for leaks there alone. */
  readonly lanes: number;
  /** Files that run one after the other before these: they measure shares of processors, or ask for all there is. */
  readonly alone: readonly string[];
  /** Files that take longer than their size tells: they begin first of those that run beside others. */
  readonly long: readonly string[];
  readonly fileTimeoutMs: number;
  /** The Debian package that brings a requirement of the tier's tests. */
  readonly packages: Readonly<Partial<Record<Requirement, string>>>;
};

const TIERS = {
  unit: {
    globs: ['src/**/*.test.ts', 'tools/**/*.test.ts', 'test/lib/**/*.test.ts'],
    lanes: 2,
    alone: [],
    long: [],
    fileTimeoutMs: 120_000,
    packages: {},
  },
  root: {
    globs: ['test/integration/**/*.test.ts', 'test/security/**/*.test.ts'],
    lanes: 3, // a file waits for a part of its time
    alone: ['test/integration/{load,scheduler}.test.ts', 'test/security/kernel.test.ts'],
    long: [
      'test/security/mutations.test.ts',
      'test/integration/control-plane.test.ts',
      'test/security/{network,paths}.test.ts',
    ],
    fileTimeoutMs: 1_200_000, // of which the longest takes two minutes on an idle machine
    packages: {
      'erofs-utils': 'erofs-utils',
      busybox: 'busybox-static',
      nginx: 'nginx',
      postgresql: 'postgresql',
      redis: 'redis-server',
      sshd: 'openssh-server',
      nodejs: 'nodejs',
      htop: 'htop',
      curl: 'curl',
      mmdebstrap: 'mmdebstrap',
      rsync: 'rsync',
      skopeo: 'skopeo',
      registry: 'docker-registry',
      wrk: 'wrk',
      netstat: 'net-tools',
      lsof: 'lsof',
      lxcfs: 'lxcfs',
      munin: 'munin-plugins-core',
    },
  },
  vm: {
    globs: ['test/vm/*.test.ts'],
    lanes: 1,
    alone: [],
    long: [],
    fileTimeoutMs: 2_000_000,
    packages: {
      busybox: 'busybox-static',
      qemu: 'qemu-system-x86',
      dmsetup: 'dmsetup',
      quota: 'quota',
      xfs: 'xfsprogs',
    },
  },
} as const satisfies Readonly<Record<string, Tier>>;

type TierName = keyof typeof TIERS;

const ROOT = resolve(import.meta.dirname, '..');
const SLOWEST_SHOWN = 12;

function isTierName(name: string): name is TierName {
  return Object.hasOwn(TIERS, name);
}

/** Services that packages bring, as in /etc/init.d. */
const SERVICES: Readonly<Record<string, string>> = {
  nginx: 'nginx',
  postgresql: 'postgresql',
  'redis-server': 'redis-server',
  'openssh-server': 'ssh',
  rsync: 'rsync',
  'docker-registry': 'docker-registry',
  lxcfs: 'lxcfs',
};
/** What Debian's packages ask before they start a service (invoke-rc.d(8)); 101 forbids it. */
const START_POLICY = '/usr/sbin/policy-rc.d';

// A failure is not the end: the tests that need the package say so. Tests want programs: no service is started by this.
function install(tiers: readonly TierName[]): void {
  if (process.geteuid?.() !== 0) return;
  const missing = tiers
    .flatMap((name) => Object.entries(TIERS[name].packages))
    .filter(([name]) => isRequirement(name) && probe(name) !== undefined)
    .map(([, debianPackage]) => debianPackage);
  if (missing.length === 0) return;
  const packages = [...new Set(missing)];
  console.log(`installing ${packages.join(' ')}`);
  const env = { ...process.env, DEBIAN_FRONTEND: 'noninteractive' };
  const aptGet = (...args: readonly string[]): boolean =>
    spawnSync('apt-get', ['-qq', '-o', 'DPkg::Lock::Timeout=300', ...args], {
      env,
      stdio: ['ignore', 'ignore', 'inherit'],
    }).status === 0;
  const services = packages.flatMap((name) => SERVICES[name] ?? []);
  const fresh = services.filter((service) => !existsSync(join('/etc/init.d', service)));
  const hasOwnPolicy = existsSync(START_POLICY);
  if (!hasOwnPolicy) writeFileSync(START_POLICY, '#!/bin/sh\nexit 101\n', { mode: 0o755, flag: 'wx' });
  try {
    if (!aptGet('install', '-y', '--no-install-recommends', ...packages)) {
      // A fresh machine has no package lists, or lists whose files the mirror no longer serves.
      aptGet('update');
      aptGet('install', '-y', '--no-install-recommends', ...packages);
    }
  } finally {
    if (!hasOwnPolicy) rmSync(START_POLICY);
    // Nor with the next boot.
    for (const service of fresh) spawnSync('update-rc.d', [service, 'disable']);
  }
}

function filesOf(globs: readonly string[]): readonly string[] {
  return globSync([...globs], { cwd: ROOT })
    .map((file) => join(ROOT, file))
    .sort();
}

/** The runs of a tier, one for each file: those that run alone, then the others; with what they took at the end. */
function runsOf(name: TierName): readonly AsyncIterable<TestEvent>[] {
  const { globs, lanes, alone, long } = TIERS[name];
  const files = filesOf(globs);
  const first = filesOf(alone);
  // Then those that take the longest, which as a rule are the large ones: at the end no lane waits for one of them.
  const begin = long.flatMap((pattern) => filesOf([pattern]));
  const others = files
    .filter((file) => ![...first, ...begin].includes(file))
    .toSorted((a, b) => statSync(b).size - statSync(a).size);
  const tookMs = new Map<string, number>();
  const start = (file: string): Run<TestEvent> => {
    const startedMs = performance.now();
    const { events, ended } = runFile(name, file);
    return { events, ended: ended.then(() => tookMs.set(file, performance.now() - startedMs)) };
  };
  const runs = [...inLanes(first, 1, start), ...inLanes([...begin, ...others], lanes, start)];
  const opening = (): string => `tier ${name}: ${files.length} files`;
  const closing = (): string => `tier ${name}, the slowest files: ${slowest(tookMs)}`;
  return runs.map((events, i) =>
    noted(events, i === 0 ? opening : undefined, i === runs.length - 1 ? closing : undefined),
  );
}

async function* noted(
  events: AsyncIterable<TestEvent>,
  ...[before, after]: readonly ((() => string) | undefined)[]
): AsyncGenerator<TestEvent> {
  const note = (message: string): TestEvent => ({
    type: 'test:diagnostic',
    data: { nesting: 0, level: 'info', message },
  });
  if (before) yield note(before());
  yield* events;
  if (after) yield note(after());
}

function slowest(tookMs: ReadonlyMap<string, number>): string {
  const words = [...tookMs]
    .toSorted(([, a], [, b]) => b - a)
    .slice(0, SLOWEST_SHOWN)
    .map(([file, ms]) => `${relative(ROOT, file)} ${(ms / 1000).toFixed(0)} s`);
  return words.join(', ');
}

function runFile(name: TierName, file: string): Run<TestEvent> {
  const { fileTimeoutMs: timeout } = TIERS[name];
  // The option `timeout` fails a test and lets it go on; only the signal ends a file's process.
  const events = run({ cwd: ROOT, files: [file], timeout, signal: AbortSignal.timeout(timeout) });
  const { promise: ended, resolve: end } = Promise.withResolvers<void>();
  events.on('test:summary', (summary) => {
    if (summary.file === undefined) end(); // the run's own
  });
  events.once('close', end);
  return { events, ended };
}

async function main(names: readonly string[]): Promise<boolean> {
  const tiers = names.filter(isTierName);
  if (tiers.length === 0 || tiers.length < names.length) {
    console.error(
      `cannot test: found tiers "${names.join(' ')}"; need some of: ${Object.keys(TIERS).join(' ')}`,
    );
    return false;
  }
  const empty = tiers.find((name) => filesOf(TIERS[name].globs).length === 0);
  if (empty !== undefined) {
    console.error(`cannot test: found no file in tier "${empty}"; need ${TIERS[empty].globs.join(' or ')}`);
    return false;
  }
  const required = mustRun();
  install(tiers);
  return report(tiers.flatMap(runsOf), required, process.stdout);
}

process.exitCode = (await main(process.argv.slice(2))) ? 0 : 1;
