/** Many guests, many lives, and guests that mean harm to the host's resources: nothing leaks, and the others go on. */
import assert from 'node:assert/strict';
import { readdirSync, readFileSync, readlinkSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { setTimeout } from 'node:timers/promises';
import { cgroupsOf, eventually, type OpenInstance, openInstance } from '../lib/instance.ts';
import { PATIENCE } from '../lib/patience.ts';
import { unmet } from '../lib/requires.ts';

const IS_VM = process.env['VSERVER_TEST_VM'] === '1';
/** Guests at once, lives of guests that stay, and of those that do not. */
const [AT_ONCE, LIVES, RUNS] = IS_VM ? [10, 30, 20] : [100, 1000, 300];
const BATCH = IS_VM ? 10 : 50;
/** What contexts made ahead take, of which there are some more or less at any time; and Node's inotify, one for all it watches. */
const SPARE: Readonly<Record<string, number>> = {
  vserverd: 1,
  syscalld: 30,
  groups: 30,
  processes: 12,
  namespaces: 48,
};

describe('under load', { skip: unmet('root', 'overlay') }, () => {
  let v: OpenInstance;
  before(async () => {
    v = await openInstance();
    await v.ok(['run', '-d', '--name', 'neighbour', '--', 'sleep', '1000']);
  });
  after(() => v.close());

  const daemons = async (): Promise<readonly [vserverd: number, syscalld: number]> => {
    const status = JSON.parse(await v.ok(['daemon', 'status', '--json'])) as {
      vserverdPid: number;
      syscalldPid: number;
    };
    return [status.vserverdPid, status.syscalldPid];
  };
  /** What an instance holds of the host, counted. */
  const holdings = async (): Promise<Readonly<Record<string, number>>> => {
    const [vserverd, syscalld] = await daemons();
    const descriptors = (pid: number): number => readdirSync(`/proc/${pid}/fd`).length;
    const groups = cgroupsOf(v.root).flatMap((path) =>
      readdirSync(path, { withFileTypes: true, recursive: true }).filter((entry) => entry.isDirectory()),
    );
    const children = readdirSync('/proc').filter((pid) => /^\d+$/.test(pid) && parentOf(pid) === syscalld);
    const spaces = new Set(
      children.flatMap((pid) =>
        ['mnt', 'user', 'net', 'pid'].map((kind) => linkOf(`/proc/${pid}/ns/${kind}`)),
      ),
    );
    return {
      vserverd: descriptors(vserverd),
      syscalld: descriptors(syscalld),
      groups: groups.length,
      processes: children.length,
      namespaces: spaces.size,
      mounts: readFileSync(`/proc/${syscalld}/mountinfo`, 'utf8').split('\n').length,
      run: readdirSync(join(v.root, 'run/guests')).length,
      lib: readdirSync(join(v.root, 'lib/guests')).length,
      etc: readdirSync(join(v.root, 'etc/guests')).length,
    };
  };
  /** Fails unless the holdings are again what they were, some spare contexts more or less aside. */
  const settlesTo = async (before: Readonly<Record<string, number>>): Promise<void> => {
    let now = before;
    await eventually('nothing more than before', async () => {
      now = await holdings();
      const grown = Object.entries(now).filter(
        ([key, count]) => count > (before[key] ?? 0) + (SPARE[key] ?? 0),
      );
      return grown.length === 0 ? true : undefined;
    }).catch(() => assert.deepEqual(now, before));
  };
  /** The neighbour answers, and soon. */
  const neighbourAnswers = async (): Promise<void> => {
    const started = performance.now();
    assert.equal(await v.ok(['exec', 'neighbour', 'echo', 'hi']), 'hi\n');
    const took = performance.now() - started;
    assert.ok(took < 5000 * PATIENCE, `${took} ms`);
  };

  test(`${AT_ONCE} guests start at once, answer, and are deleted at once`, async () => {
    await warmUp();
    const before = await holdings();
    const starts = Array.from({ length: AT_ONCE }, (_, i) =>
      v.ok(['run', '-d', ...(i % 2 ? ['--name', `g${i}`] : []), '--', 'sleep', '1000'], {
        timeoutMs: 60_000,
      }),
    );
    const names = (await Promise.all(starts)).map((name) => name.trim());
    const guests = JSON.parse(await v.ok(['list', '--json'])) as {
      name: string;
      xid: number;
      initPid: number;
      state: string;
    }[];
    assert.deepEqual(guests.map(({ name }) => name).sort(), [...names, 'neighbour'].sort());
    assert.equal(new Set(guests.map(({ xid }) => xid)).size, AT_ONCE + 1);
    assert.ok(guests.every(({ state }) => state === 'running'));
    const hostnames = await Promise.all(
      names.map((name) => v.ok(['exec', name, 'hostname'], { timeoutMs: 60_000 })),
    );
    assert.deepEqual(
      hostnames.map((text) => text.trim()),
      names,
    );
    await Promise.all(names.map((name) => v.ok(['delete', '--force', name], { timeoutMs: 60_000 })));
    assert.equal(await v.ok(['list', '-a', '-q']), 'neighbour\n');
    await settlesTo(before);
  });

  test(`${LIVES} guests are made, and deleted; ${LIVES / 10} of them run`, async () => {
    await warmUp();
    const before = await holdings();
    for (let from = 0; from < LIVES; from += BATCH) {
      const names = Array.from({ length: BATCH }, (_, i) => `life${from + i}`);
      await Promise.all(names.map((name) => v.ok(['create', name, '--', 'true'])));
      await v.ok(['start', ...names.slice(0, BATCH / 10)]);
      await v.ok(['delete', '--force', ...names]);
    }
    await settlesTo(before);
  });

  test(`${RUNS} guests live for a moment each`, async () => {
    await warmUp();
    const before = await holdings();
    for (let i = 0; i < RUNS; i++) await v.ok(['run', '--', 'true']);
    for (let i = 0; i < RUNS / 10; i++) assert.equal((await v.run(['run', '--', 'no-such'])).code, 127);
    for (let i = 0; i < RUNS / 10; i++) await v.ok(['exec', 'neighbour', 'true']);
    await settlesTo(before);
  });

  test('a guest that floods its log fills no disk and stops nobody', async () => {
    await v.ok(['run', '-d', '--name', 'flood', '--', 'sh', '-c', 'yes & yes >&2 & wait']);
    const { directory } = (
      JSON.parse(await v.ok(['inspect', 'flood', '--json'])) as { directory: string }[]
    )[0]!;
    for (let i = 0; i < 10; i++) {
      await neighbourAnswers();
      await setTimeout(100);
      const bytes = readdirSync(directory)
        .filter((name) => name.startsWith('log'))
        .reduce((sum, name) => sum + statSync(join(directory, name)).size, 0);
      assert.ok(bytes <= 10 * 1024 ** 2, `${bytes} bytes`);
    }
    await v.ok(['stop', '-t', '0', 'flood']);
    const { stdout, stderr } = await v.run(['logs', '-n', '2', 'flood']);
    assert.match(stdout + stderr, /^(y\n)+$/);
    await v.ok(['delete', 'flood']);
  });

  test('a fork bomb stays in its guest, which can be ended', async () => {
    await v.ok([
      'run',
      '-d',
      '--name',
      'bomb',
      '--pids-limit',
      '200',
      '--cpus',
      '0.5',
      '--',
      'sh',
      '-c',
      'f() { f & f & wait; }; while :; do f; done 2>/dev/null',
    ]);
    await setTimeout(500);
    await neighbourAnswers();
    assert.ok((JSON.parse(await v.ok(['ps', '--json', 'bomb'])) as unknown[]).length <= 210);
    await v.ok(['delete', '--force', 'bomb']);
    await neighbourAnswers();
  });

  test('a memory hog is ended, and nobody else', async () => {
    for (const hog of [
      'head -c 1G /dev/zero | tail',
      'dd if=/dev/zero of=/dev/shm/hog bs=1M; dd if=/dev/zero of=/hog bs=1M',
    ]) {
      const outcome = await v.run(['run', '--memory', '32m', '--', 'sh', '-c', hog]);
      assert.notEqual(outcome.code, 0, hog);
      await neighbourAnswers();
    }
  });

  /** What is made once and kept: contexts made ahead, workers parked, buffers. */
  async function warmUp(): Promise<void> {
    await v.ok(['stat', '--since', '1m']); // the history of what guests use
    await v.ok(['run', '--', 'true']);
    await v.ok(['exec', 'neighbour', 'true']);
    await setTimeout(300);
  }
});

function parentOf(pid: string): number {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, 'latin1');
    return Number(text.slice(text.lastIndexOf(')') + 2).split(' ')[1]);
  } catch {
    return 0; // it has ended
  }
}

function linkOf(path: string): string {
  try {
    return readlinkSync(path);
  } catch {
    return ''; // it has ended
  }
}
