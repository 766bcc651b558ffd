/** Files of guests on a real Debian root: clones, what they share, the first build, and the speed of reading and writing. */
import { spawnSync } from 'node:child_process';
import { existsSync, globSync, mkdirSync, readFileSync, renameSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { instanceCgroupName } from '../src/resources/cgroup-layout.ts';
import { ControlPlane } from './control-plane.ts';
import { BENCH_BUILD, run, timeCommands } from './native-programs.ts';
import { coldReads, warmReads } from './reading.ts';
import type { Result, Scenario } from './scenario.ts';
import { compare, figure, median, type Sample } from './statistics.ts';

const NANOSECONDS_IN_MS = 1e6;
const GUESTS = 50;
/** What each of them reads. */
const READ = 'find /usr -xdev -type f -print0 | xargs -0 cat | wc -c';
/** The file whose first byte is written. */
const LARGE = { path: 'srv/large', mib: 64 } as const;

/** ROUNDS (20) of each; builds and large writes a quarter of it. */
export const storage: Scenario = {
  name: 'storage',
  about:
    'clone, build, read and write of guests on a Debian root (mmdebstrap --variant=standard, bookworm); peers: tar, the host, and a plain overlay',
  run: measure,
};

function* measure(): Iterable<Result> {
  const tarball = debianRoot();
  if (tarball === undefined) {
    yield { kind: 'skip', what: 'storage', reason: 'needs mmdebstrap, and a mirror of Debian' };
    return;
  }
  const rounds = Number(process.env['ROUNDS'] ?? 20);
  const few = Math.ceil(rounds / 4);
  using control = new ControlPlane();
  const tree = join(control.directory, 'tree');
  mkdirSync(tree);
  run('tar', ['-C', tree, '-xf', tarball]);
  control.vserver('create', 'deb', '--template', `tarball:${tarball}`, '--', 'sleep', '86400');
  control.vserver('create', 'small', '--template', 'busybox', '--', 'sleep', '86400');
  yield figure('files of the root', '', count(tree));
  yield* clones(control, rounds);
  control.vserver('start', 'x');
  yield* warmReads(control, 'x', tree, rounds);
  control.vserver('stop', '-t', '0', 'x');
  yield* largeWrite(control, few);
  yield* sharing(control);
  yield* builds(tarball, control.directory, Math.min(few, 5));
  yield* coldReads(tarball, few);
}

/** The tarball, made once: a mirror has its own speed. */
function debianRoot(): string | undefined {
  const path = join(BENCH_BUILD, 'debian.tar');
  if (existsSync(path)) return path;
  const fresh = `${path}.new.tar`;
  mkdirSync(BENCH_BUILD, { recursive: true });
  const large = `truncate -s ${LARGE.mib}M "$1/${LARGE.path}" && shred -n 1 "$1/${LARGE.path}"`;
  const { status } = spawnSync(
    'mmdebstrap',
    ['--quiet', '--variant=standard', `--customize-hook=${large}`, 'bookworm', fresh],
    { stdio: 'ignore' },
  );
  if (status === 0) renameSync(fresh, path);
  else rmSync(fresh, { force: true });
  return status === 0 ? path : undefined;
}

function count(tree: string): number {
  return Number(run('sh', ['-c', 'find "$1" -xdev | wc -l', 'sh', tree]));
}

function* clones(control: ControlPlane, rounds: number): Iterable<Result> {
  const command = (name: string, ...words: string[]) => ({ name, argv: control.argv(...words) });
  const [large, , small] = timeCommands(
    [
      command('clone of a Debian root', 'clone', 'deb', 'x'),
      command('delete', 'delete', 'x'),
      command('clone of busybox', 'clone', 'small', 'y'),
      command('delete', 'delete', 'y'),
    ],
    { rounds, warmups: 10, isInOrder: true },
  );
  if (large === undefined || small === undefined) return;
  yield compare(large, small, { unit: 'ms', perUnit: NANOSECONDS_IN_MS });
  const milliseconds = median(large.values) / NANOSECONDS_IN_MS;
  yield figure(large.name, 'ms', milliseconds, { relation: 'at most', value: 6 });
  control.vserver('clone', 'deb', 'x');
  const places = [join(control.root, 'lib/guests/x'), join(control.root, 'etc/guests/x.yaml')];
  const blocks = run('du', ['-s', '--block-size=1024', ...places])
    .trim()
    .split('\n');
  const kib = blocks.reduce((sum, line) => sum + Number(line.split('\t')[0]), 0);
  yield figure('a clone on disk', 'KiB', kib, { relation: 'at most', value: 32 });
}

/** The first write to a file of the image copies it. */
function* largeWrite(control: ControlPlane, rounds: number): Iterable<Result> {
  const write = `printf x | dd of=/${LARGE.path} bs=1 conv=notrunc status=none`;
  const step = (name: string, ...words: string[]) => ({ name, argv: control.argv(...words) });
  const samples: readonly Sample[] = timeCommands(
    [
      step('clone', 'clone', 'deb', 'w'),
      step('start', 'start', 'w'),
      step(`first write to a file of ${LARGE.mib} MiB`, 'exec', 'w', 'sh', '-c', write),
      step('the next one', 'exec', 'w', 'sh', '-c', write),
      step('delete', 'delete', '--force', 'w'),
    ],
    { rounds, warmups: 1, isInOrder: true },
  );
  const [, , first, next] = samples;
  if (first && next) yield compare(first, next, { unit: 'ms', perUnit: NANOSECONDS_IN_MS });
}

/** What guests read is charged to the one who brought it into memory: all but the first bring nothing. */
function* sharing(control: ControlPlane): Iterable<Result> {
  const names = Array.from({ length: GUESTS }, (_, index) => `r${index + 1}`);
  for (const name of names) control.vserver('clone', 'deb', name);
  control.vserver('start', ...names);
  const bytes = names.map((name) => Number(control.vserver('exec', name, 'sh', '-c', READ)));
  const cached = names.map((name) => cacheOf(control, name)).slice(1);
  const read = bytes[0] ?? Number.NaN;
  const copies = 1 + cached.reduce((sum, value) => sum + value, 0) / read;
  yield figure(`read by each of ${GUESTS} guests`, 'MB', read / 1e6);
  yield figure('copies of it in memory', '', copies, { relation: 'at most', value: 1.3 });
  control.vserver('delete', '--force', ...names);
}

/** Bytes of files in memory that are charged to a guest. */
function cacheOf(control: ControlPlane, name: string): number {
  const [view] = JSON.parse(control.vserver('inspect', name, '--json')) as readonly {
    readonly xid: number;
  }[];
  const [path] = globSync(
    `/sys/fs/cgroup{/memory,}/${instanceCgroupName(control.root)}/${view?.xid}/memory.stat`,
  );
  const text = path === undefined ? '' : readFileSync(path, 'utf8');
  return Number(/^(?:total_cache|file) (\d+)$/m.exec(text)?.[1]);
}

/** Each build is the first of its instance. */
function* builds(tarball: string, directory: string, rounds: number): Iterable<Result> {
  const built: number[] = [];
  const unpacked: number[] = [];
  for (let round = 0; round < rounds; round++) {
    using fresh = new ControlPlane();
    fresh.vserver('list');
    built.push(timed(() => fresh.vserver('create', 'deb', '--template', `tarball:${tarball}`, '--', 'true')));
    const tree = join(directory, `unpacked-${round}`);
    mkdirSync(tree);
    unpacked.push(
      timed(() => run('sh', ['-c', 'tar -C "$1" -xf "$2" && sync -f "$1"', 'sh', tree, tarball])),
    );
    run('rm', ['-rf', tree]);
  }
  yield compare(
    { name: 'first build from a tarball', values: built },
    { name: 'tar -x, and sync', values: unpacked },
    { unit: 'ms', perUnit: 1, target: { relation: 'at most', value: 1.5 } },
  );
}

function timed(body: () => void): number {
  const begun = performance.now();
  body();
  return performance.now() - begun;
}
