/** What is told of guests that run out of memory, at once and by nobody who looks from time to time. */
import assert from 'node:assert/strict';
import { existsSync, readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { after, before, describe, test } from 'node:test';
import { eventually, type OpenInstance, openInstance } from '../lib/instance.ts';
import { unmet } from '../lib/requires.ts';

interface Event {
  readonly type: string;
  readonly details: { readonly kills?: number; readonly total?: number; readonly resource?: string };
}

/** Takes more memory than there is, in a process of its own; the shell goes on. */
const GREEDY = 'tail /dev/zero';
const IS_V1 = existsSync('/sys/fs/cgroup/memory');
const SMALL = ['--memory', '24m', '--template', 'busybox'];

describe('out of memory', { skip: unmet('root', 'overlay', 'busybox') }, () => {
  let v: OpenInstance;
  before(async () => {
    v = await openInstance();
  });
  after(() => v.close());

  const events = async (guest: string): Promise<readonly Event[]> =>
    (await v.ok(['events', '--json', '--guest', guest]))
      .split('\n')
      .filter(Boolean)
      .map((line) => JSON.parse(line) as Event);
  const killed = async (guest: string): Promise<number> =>
    (await events(guest)).reduce((sum, { type, details }) => sum + (type === 'oom' ? details.kills! : 0), 0);
  const isTold = (guest: string, kills: number): Promise<true> =>
    eventually(`${kills} kills in ${guest}`, async () =>
      (await killed(guest)) === kills ? true : undefined,
    );
  /** How many of syscalld's workers wait for memory events. */
  const waiting = async (): Promise<number> => {
    const { syscalldPid } = JSON.parse(await v.ok(['daemon', 'status', '--json'])) as { syscalldPid: number };
    const children = readFileSync(`/proc/${syscalldPid}/task/${syscalldPid}/children`, 'latin1').trim();
    return children.split(' ').filter((pid) => {
      try {
        if (readFileSync(`/proc/${pid}/comm`, 'latin1') !== 'worker\n') return false;
        return readdirSync(`/proc/${pid}/fd`).some(
          (fd) => readlinkSync(`/proc/${pid}/fd/${fd}`) === 'anon_inode:[eventfd]',
        );
      } catch {
        return false; // it has ended
      }
    }).length;
  };

  test('is told of a guest that goes on, each time, and of nobody else', async () => {
    await v.ok(['run', '-d', '--name', 'other', ...SMALL, '--', 'sleep', '1000']);
    await v.ok(['run', '-d', '--name', 'box', ...SMALL, '--', 'sleep', '1000']);
    for (let turn = 1; turn <= 3; turn++) {
      assert.equal((await v.run(['exec', 'box', 'sh', '-c', GREEDY])).code, 137);
      await isTold('box', turn);
    }
    assert.deepEqual(
      (await events('box')).filter(({ type }) => type === 'oom').map(({ details }) => details.total),
      [1, 2, 3],
    );
    assert.equal(await killed('other'), 0);
    // On v1 within a minute, by whoever looks at all guests: too long to be waited for.
    if (!IS_V1)
      await eventually('the limit that it met', async () =>
        (await events('box')).some(
          ({ type, details }) => type === 'limit.hit' && details.resource === 'memory' && details.total! > 0,
        )
          ? true
          : undefined,
      );
    await v.ok(['delete', '--force', 'box', 'other']);
  });

  test('is told before the end of a guest that ends of it', async () => {
    const run = await v.run(['run', '--name', 'gone', '--rm', ...SMALL, '--', 'sh', '-c', `exec ${GREEDY}`]);
    assert.equal(run.code, 137);
    const types = await eventually('its end', async () => {
      const list = (await events('gone')).map(({ type }) => type);
      return list.includes('stopped') ? list : undefined;
    });
    // On v2 the limit that was met is told as well.
    assert.deepEqual(
      types.filter((type) => type !== 'limit.hit'),
      ['started', 'oom', 'stopped'],
    );
  });

  test('is told of a limit that came later, and after the death of vserverd, once', async () => {
    await v.ok(['run', '-d', '--name', 'late', '--template', 'busybox', '--', 'sleep', '1000']);
    await v.ok(['set', 'late', 'limits.memory=24m']);
    await v.run(['exec', 'late', 'sh', '-c', GREEDY]);
    await isTold('late', 1);
    const status = JSON.parse(await v.ok(['daemon', 'status', '--json'])) as { vserverdPid: number };
    process.kill(status.vserverdPid, 'SIGKILL');
    await eventually('another vserverd', async () => ((await v.run(['list'])).code === 0 ? true : undefined));
    await v.run(['exec', 'late', 'sh', '-c', GREEDY]);
    await isTold('late', 2);
    await v.ok(['delete', '--force', 'late']);
    assert.equal(await killed('late'), 2);
  });

  test('is told of each of several guests that are taken over together', async () => {
    const names = ['first', 'second', 'third'];
    for (const name of names) await v.ok(['run', '-d', '--name', name, ...SMALL, '--', 'sleep', '1000']);
    const { vserverdPid } = JSON.parse(await v.ok(['daemon', 'status', '--json'])) as { vserverdPid: number };
    process.kill(vserverdPid, 'SIGKILL');
    await eventually('its end', () => (existsSync(`/proc/${vserverdPid}`) ? undefined : true));
    for (const name of names) {
      assert.equal((await v.run(['exec', name, 'sh', '-c', GREEDY])).code, 137);
      await isTold(name, 1);
    }
    await v.ok(['delete', '--force', ...names]);
  });

  test('keeps one worker waiting on cgroup v1, and none when no guest has a limit', async () => {
    const becomes = (count: number): Promise<true> =>
      eventually(`${count} waiting`, async () => ((await waiting()) === count ? true : undefined));
    await v.ok(['run', '-d', '--name', 'first', ...SMALL, '--', 'sleep', '1000']);
    await v.ok(['run', '-d', '--name', 'second', ...SMALL, '--', 'sleep', '1000']);
    await becomes(IS_V1 ? 1 : 0);
    await v.ok(['delete', '--force', 'first']);
    await becomes(IS_V1 ? 1 : 0);
    await v.ok(['delete', '--force', 'second']);
    await becomes(0);
  });
});
