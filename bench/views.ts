/** What a guest reads of itself in /proc, against lxcfs: open, read and close of each file. */
import { type ChildProcess, spawn } from 'node:child_process';
import { copyFileSync, existsSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { ControlPlane } from './control-plane.ts';
import { nativeProgram, run } from './native-programs.ts';
import { missingPeer } from './peers.ts';
import type { Result, Scenario } from './scenario.ts';
import { compare, figure, quantile, type Sample } from './statistics.ts';

const TARGET = { relation: 'at most', value: 0.6 } as const;
const FILES = ['meminfo', 'stat', 'cpuinfo', 'loadavg', 'uptime', 'swaps', 'diskstats'] as const;
const NANOSECONDS_IN_US = 1000;
const MOUNTED_TIMEOUT_MS = 5000;
/** Longer than a text of memory and an answer to sysinfo(2) hold: vserverd has to make a new one. */
const OLD_US = 60_000;
const SYSINFO = { relation: 'at most', value: 100 } as const;

/** One guest reads its views and lxcfs's, which are mounted beside them, in turns of 20. */
export const views: Scenario = {
  name: 'views',
  about:
    'open, read and close of files in /proc by 1 and 2 readers of one guest; peer: lxcfs, in the same guest',
  run: measure,
};

function* measure(): Iterable<Result> {
  const reason = missingPeer('lxcfs');
  if (reason !== undefined) {
    yield { kind: 'skip', what: 'lxcfs', reason };
    return;
  }
  using control = new ControlPlane();
  using undo = new DisposableStack();
  const directory = join(control.directory, 'bench');
  const lxcfs = join(control.directory, 'lxcfs');
  for (const path of [directory, lxcfs]) mkdirSync(path);
  copyFileSync(nativeProgram('reads'), join(directory, 'reads'));
  const server = spawn('lxcfs', ['-l', '-p', join(control.directory, 'lxcfs.pid'), lxcfs], {
    stdio: 'ignore',
  });
  undo.defer(() => end(server, lxcfs));
  waitFor(join(lxcfs, 'proc/meminfo'));
  const volumes = ['--volume', `${directory}:/bench:ro`, '--volume', `${lxcfs}/proc:/lxcfs`];
  control.vserver(
    'run',
    '--detach',
    '--name',
    'g',
    '--memory',
    '300m',
    '--cpus',
    '1.5',
    ...volumes,
    '--',
    'sleep',
    '86400',
  );
  undo.defer(() => control.vserver('stop', 'g'));
  const rounds = Number(process.env['ROUNDS'] ?? 3000);
  for (const file of FILES) {
    for (const readers of [1, 2]) {
      const [ours, theirs] = read(control, file, readers, rounds, 0);
      const options = { unit: 'us', perUnit: NANOSECONDS_IN_US, target: TARGET } as const;
      yield compare(ours, { ...theirs, name: `lxcfs, ${readers} reading` }, options);
      const value = quantile(ours.values, 0.99) / quantile(theirs.values, 0.99);
      yield figure(`${file}, ${readers} reading: p99 against lxcfs`, '×', value, TARGET);
    }
  }
  for (const [how, gapUs] of [
    ['over and over', 0],
    ['when the answer is old', OLD_US],
  ] as const) {
    const values =
      times(control, 1, gapUs === 0 ? rounds : Math.min(rounds, 100), gapUs, ['sysinfo'])[0] ?? [];
    for (const [name, share] of [
      ['median', 0.5],
      ['p99', 0.99],
    ] as const)
      yield figure(
        `sysinfo(2) ${how}: ${name}`,
        'us',
        quantile(values, share) / NANOSECONDS_IN_US,
        name === 'median' && gapUs === 0 ? SYSINFO : undefined,
      );
  }
  const [ours, theirs] = read(control, 'meminfo', 1, Math.min(rounds, 100), OLD_US);
  yield compare(
    { ...ours, name: 'meminfo, when the text is old' },
    { ...theirs, name: 'lxcfs' },
    { unit: 'us', perUnit: NANOSECONDS_IN_US },
  );
}

function read(
  control: ControlPlane,
  file: string,
  readers: number,
  rounds: number,
  gapUs: number,
): readonly [Sample, Sample] {
  const [ours = [], theirs = []] = times(control, readers, rounds, gapUs, [
    `/proc/${file}`,
    `/lxcfs/${file}`,
  ]);
  return [
    { name: file, values: ours },
    { name: 'lxcfs', values: theirs },
  ];
}

/** Returns the nanoseconds of each reading of each file. */
function times(
  control: ControlPlane,
  readers: number,
  rounds: number,
  gapUs: number,
  files: readonly string[],
): readonly (readonly number[])[] {
  const numbers = [readers, rounds, gapUs].map(String);
  const output = control.vserver('exec', 'g', '/bench/reads', ...numbers, ...files);
  const values: number[][] = files.map(() => []);
  for (const line of output.trim().split('\n')) {
    const [which = 0, nanoseconds = Number.NaN] = line.split(' ').map(Number);
    values[which]?.push(nanoseconds);
  }
  return values;
}

function waitFor(path: string): void {
  for (const from = Date.now(); !existsSync(path); ) {
    if (Date.now() - from > MOUNTED_TIMEOUT_MS) throw new Error(`lxcfs: found no "${path}" after 5 s`);
    run('sleep', ['0.05']);
  }
}

function end(server: ChildProcess, mountPoint: string): void {
  run('umount', ['--lazy', mountPoint]);
  server.kill('SIGKILL');
}
