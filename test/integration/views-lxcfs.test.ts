/** What a guest reads in /proc, beside what lxcfs tells the same guest: the same files in the same form. */
import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { eventually, type OpenInstance, openInstance } from '../lib/instance.ts';
import { unmet } from '../lib/requires.ts';

const FILES = ['meminfo', 'stat', 'cpuinfo', 'loadavg', 'uptime', 'swaps', 'slabinfo', 'diskstats'] as const;
type File = (typeof FILES)[number];
/** The layout of the host's memory, which we leave out. */
const HOST_LAYOUT = /^DirectMap/;

interface Texts {
  readonly ours: string;
  readonly theirs: string;
}

describe('views and lxcfs', { skip: unmet('root', 'overlay', 'fuse', 'lxcfs') }, () => {
  let v: OpenInstance;
  let lxcfs: ChildProcess;
  let directory: string;
  const texts = new Map<File, Texts>();

  before(async () => {
    directory = mkdtempSync(join(tmpdir(), 'vserver-lxcfs-'));
    // In a mount namespace of its own, with which its mounts go.
    const serve = 'mount --make-rprivate / && mkdir "$0/m" && exec lxcfs -l -f -p "$0/pid" "$0/m"';
    lxcfs = spawn('unshare', ['--mount', 'sh', '-ec', serve, directory], { stdio: 'ignore' });
    await eventually('lxcfs', () =>
      existsSync(`/proc/${lxcfs.pid}/root${directory}/m/proc/uptime`) ? true : undefined,
    );
    v = await openInstance({ under: ['nsenter', '-t', String(lxcfs.pid), '--mount'] });
    const command = FILES.flatMap((file) => [
      `cat /proc/${file}`,
      'printf "\\0"',
      `cat /lxcfs/proc/${file}`,
      'printf "\\0"',
    ]);
    const options = ['-m', '300m', '--cpus', '1', '-v', `${directory}/m:/lxcfs:ro`];
    const script = `head -c 20m /dev/zero > /dev/shm/x; ${command.join('; ')}`;
    const parts = (await v.ok(['run', ...options, '--', 'sh', '-c', script])).split('\0');
    for (const [i, file] of FILES.entries())
      texts.set(file, { ours: parts[2 * i] ?? '', theirs: parts[2 * i + 1] ?? '' });
  });
  after(async () => {
    try {
      await v.close();
    } finally {
      lxcfs.kill('SIGKILL');
      await once(lxcfs, 'exit');
      rmSync(directory, { recursive: true });
    }
  });

  const of = (file: File): Texts => texts.get(file) ?? { ours: '', theirs: '' };
  /** Names and units, without numbers. */
  const shape = (text: string): readonly string[] =>
    text
      .split('\n')
      .filter((line) => !HOST_LAYOUT.test(line))
      .map((line) => line.replaceAll(/\d+/g, '0').replaceAll(/ +/g, ' '));
  const both = ({ ours, theirs }: Texts, pattern: RegExp): readonly (readonly string[])[] =>
    [ours, theirs].map((text) => {
      const found = pattern.exec(text);
      assert.ok(found, `${pattern} in ${JSON.stringify(text)}`);
      return found.slice(1);
    });

  test('meminfo has the same lines, in the same order and units, and the same limits', () => {
    const { ours, theirs } = of('meminfo');
    assert.deepEqual(shape(ours), shape(theirs));
    for (const name of ['MemTotal', 'SwapTotal', 'SwapFree', 'Buffers']) {
      const [we, they] = both(of('meminfo'), new RegExp(`^${name}: +(\\d+) kB$`, 'm'));
      assert.deepEqual(we, they, name);
    }
    // Both read it of the same group, one after the other.
    for (const name of ['MemFree', 'Cached', 'Shmem', 'Inactive', 'AnonPages']) {
      const [we, they] = both(of('meminfo'), new RegExp(`^${name}: +(\\d+) kB$`, 'm'));
      assert.ok(Math.abs(Number(we) - Number(they)) < 4096, `${name}: ${we} and ${they}`);
    }
  });

  test('stat has the same lines', () => {
    const lines = (text: string): readonly string[] =>
      text
        .trimEnd()
        .split('\n')
        .map((line) => (line.startsWith('intr') ? 'intr 0' : line.replaceAll(/\d+/g, '0')));
    const { ours, theirs } = of('stat');
    const cpus = lines(ours).filter((line) => line.startsWith('cpu0')).length;
    assert.equal(cpus, 1, 'a limit of one CPU');
    assert.deepEqual([...new Set(lines(ours))], [...new Set(lines(theirs))]);
  });

  test('cpuinfo has the same fields, and the same values but of how many there are', () => {
    const block = (text: string): readonly string[] =>
      (text.split('\n\n')[0] ?? '').split('\n').filter((line) => !/^(siblings|cpu cores|cpu MHz)/.test(line));
    const { ours, theirs } = of('cpuinfo');
    assert.deepEqual(block(ours), block(theirs));
    assert.ok(ours.endsWith('\n\n') && theirs.endsWith('\n\n'));
  });

  test('uptime and loadavg have the same form', () => {
    const [we, they] = both(of('uptime'), /^(\d+\.\d\d) \d+\.\d\d\n$/);
    // lxcfs goes by process 1, which was made ahead and waited for its guest.
    assert.ok(Number(we) <= Number(they), `${we} and ${they}`);
    both(of('loadavg'), /^\d+\.\d\d \d+\.\d\d \d+\.\d\d \d+\/\d+ \d+\n$/);
  });

  test('swaps has the same columns', () => {
    const rows = (text: string): readonly (readonly string[])[] =>
      text
        .trimEnd()
        .split('\n')
        .map((line) => line.split(/\s+/));
    assert.deepEqual(rows(of('swaps').ours), rows(of('swaps').theirs));
  });

  test('slabinfo has the same title, and no cache of the host', () => {
    const { ours, theirs } = of('slabinfo');
    assert.ok(theirs.startsWith(ours), ours);
    assert.equal(ours.split('\n').length, 3);
  });

  test('diskstats has the same columns', () => {
    const columns = (text: string): readonly number[] => [
      ...new Set(
        text
          .split('\n')
          .filter(Boolean)
          .map((line) => line.trim().split(/\s+/).length),
      ),
    ];
    const { ours, theirs } = of('diskstats');
    if (ours !== '') assert.deepEqual(columns(ours), columns(theirs));
    else assert.match(theirs, /^ *\d+ +\d+ \w+ /);
  });
});
