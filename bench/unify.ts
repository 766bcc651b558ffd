/** Unification of two guests that wrote the same, against rdfind on two trees of the same files, all of it not in memory. */
import { existsSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { ControlPlane } from './control-plane.ts';
import { run } from './native-programs.ts';
import { missingPeer } from './peers.ts';
import type { Result, Scenario } from './scenario.ts';
import { compare, figure, median } from './statistics.ts';

/** Parts of a Debian root, together some ten thousand files. */
const PARTS = ['usr/share/doc', 'usr/share/perl', 'usr/share/zoneinfo', 'usr/lib/python3', 'etc'] as const;
const GUESTS = ['g1', 'g2'] as const;
const NS_IN_MS = 1_000_000;
const IDS = 65_536;
const MIB = 1024 * 1024;

/** Each round makes four trees of the host's files, and takes each two in turns. */
export const unify: Scenario = {
  name: 'unify',
  about:
    'two guests with the same 10,000 files of their own, not in memory, made to share; peer: rdfind -makehardlinks on two such trees, which changes owners, modes and times',
  run: measure,
};

function* measure(): Iterable<Result> {
  const reason = missingPeer('rdfind');
  if (reason !== undefined) {
    yield { kind: 'skip', what: 'unify', reason };
    return;
  }
  using control = new ControlPlane();
  const rounds = Number(process.env['ROUNDS'] ?? 5);
  const times: Record<'ours' | 'theirs' | 'again', number[]> = { ours: [], theirs: [], again: [] };
  const saved: { ours: number; theirs: number } = { ours: 0, theirs: 0 };
  for (let round = 0; round < rounds; round++) {
    const trees = ['t1', 't2'].map((name) => makeTree(join(control.directory, name), 0));
    const layers = GUESTS.map((name, i) => {
      control.vserver('create', name, '--xid', String(100 + i), '--template', 'busybox', '--', 'true');
      return makeTree(join(control.root, 'lib/guests', name, 'upper'), (100 + i) * IDS);
    });
    const turns = [
      (): void => {
        forget(trees);
        const before = usage(trees);
        const words = ['-makehardlinks', 'true', '-outputname', '/dev/null', ...trees];
        times.theirs.push(timed(() => run('rdfind', words)));
        saved.theirs = before - usage(trees);
      },
      (): void => {
        forget(layers);
        const before = usage(layers);
        let after = 0;
        times.ours.push(
          timed(() => {
            const rows: unknown = JSON.parse(control.vserver('unify', '--json', ...GUESTS));
            after = sumOf(rows, 'newBytes') + sumOf(rows, 'keptBytes');
          }),
        );
        saved.ours = before - after;
        times.again.push(timed(() => control.vserver('unify', ...GUESTS)));
      },
    ];
    for (const turn of round % 2 === 0 ? turns : turns.reverse()) turn();
    control.vserver('delete', ...GUESTS);
    control.vserver('store', 'gc');
    for (const tree of trees) run('rm', ['-r', tree]);
  }
  yield compare(
    { name: 'unify', values: times.ours },
    { name: 'rdfind', values: times.theirs },
    { unit: 'ms', perUnit: NS_IN_MS, target: { relation: 'at most', value: 1 } },
  );
  yield figure('what unify saves of what rdfind saves', 'of it', saved.ours / saved.theirs, {
    relation: 'at least',
    value: 0.98,
  });
  yield figure('saved', 'MiB', saved.ours / MIB);
  const again = median(times.ours) / median(times.again);
  yield figure('a second pass, faster than the first', 'times', again, { relation: 'at least', value: 10 });
}

/** Copies the host's files; all belong to one id and its group. */
function makeTree(to: string, owner: number): string {
  if (!existsSync(to)) mkdirSync(to);
  const parts = PARTS.map((part) => `./${part}`);
  run('sh', [
    '-c',
    `tar -C / -c "$@" | tar -C ${to} -x && chown -hR ${owner}:${owner} ${to}`,
    'sh',
    ...parts,
  ]);
  return to;
}

/** Writes files to the disk and takes them out of memory. */
function forget(trees: readonly string[]): void {
  run('sync', []);
  const drop =
    'import os, sys\nfor t in sys.argv[1:]:\n for d, _, fs in os.walk(t):\n  for f in fs:\n   p = os.path.join(d, f)\n' +
    '   if not os.path.islink(p):\n    n = os.open(p, os.O_RDONLY); os.posix_fadvise(n, 0, 0, os.POSIX_FADV_DONTNEED); os.close(n)';
  run('python3', ['-c', drop, ...trees]);
}

/** Bytes of files on disk; one with several names counts once. */
function usage(trees: readonly string[]): number {
  const count =
    'import os, sys\nseen = {}\nfor t in sys.argv[1:]:\n for d, _, fs in os.walk(t):\n  for f in fs:\n' +
    '   s = os.lstat(os.path.join(d, f)); seen[s.st_ino] = s.st_blocks * 512\nprint(sum(seen.values()))';
  return Number(run('python3', ['-c', count, ...trees]));
}

function timed(work: () => void): number {
  const before = process.hrtime.bigint();
  work();
  return Number(process.hrtime.bigint() - before);
}

function sumOf(rows: unknown, key: string): number {
  if (!Array.isArray(rows)) throw new Error('unify --json: no list');
  return rows.reduce((sum: number, row: Readonly<Record<string, number>>) => sum + (row[key] ?? 0), 0);
}
