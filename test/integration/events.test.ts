/** What is told of guests: all of it, in order, and on from a cursor whoever died meanwhile. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { after, before, describe, test } from 'node:test';
import { eventually, type OpenInstance, openInstance } from '../lib/instance.ts';
import { unmet } from '../lib/requires.ts';

interface Event {
  readonly seq: number;
  readonly time: string;
  readonly type: string;
  readonly guest: string;
  readonly xid: number;
  readonly details: Readonly<Record<string, unknown>>;
}

describe('events', { skip: unmet('root', 'overlay') }, () => {
  let v: OpenInstance;
  before(async () => {
    v = await openInstance();
  });
  after(() => v.close());

  const events = async (...args: readonly string[]): Promise<readonly Event[]> =>
    (await v.ok(['events', '--json', ...args]))
      .split('\n')
      .filter(Boolean)
      .map((line) => JSON.parse(line) as Event);
  const types = (list: readonly Event[]): readonly string[] => list.map(({ type }) => type);
  const daemons = async (): Promise<{ readonly vserverdPid: number; readonly syscalldPid: number }> =>
    JSON.parse(await v.ok(['daemon', 'status', '--json'])) as { vserverdPid: number; syscalldPid: number };

  test('the life of a guest that stays, with details', async () => {
    await v.ok(['create', 'web', '--', 'sh', '-c', 'sleep 1000']);
    await v.ok(['start', 'web']);
    await v.ok(['pause', 'web']);
    await v.ok(['pause', 'web']);
    await v.ok(['resume', 'web']);
    await v.ok(['set', 'web', 'limits.pids=100', 'labels.a=b']);
    await v.ok(['stop', '-t', '0', 'web']);
    await v.ok(['set', 'web', 'command=exit-not-found']);
    assert.equal((await v.run(['start', 'web'])).code, 127);
    await v.ok(['delete', 'web']);
    const all = await events('--guest', 'web');
    assert.deepEqual(
      all.map(({ type, details: { initPid, message, ...details } }) => [
        type,
        { ...details, ...(initPid === undefined ? {} : { initPid: Number(initPid) > 1 }) },
      ]),
      [
        ['created', { template: 'host' }],
        ['started', { initPid: true, ephemeral: false }],
        ['paused', {}],
        ['resumed', {}],
        ['changed', { keys: ['limits.pids', 'labels.a'] }],
        ['stopped', { exitCode: 137, cause: 'stopped' }],
        ['changed', { keys: ['command'] }],
        ['start.failed', { code: 'command-not-found' }],
        ['deleted', {}],
      ],
    );
    assert.ok(all.every(({ seq }, index) => index === 0 || seq > all[index - 1]!.seq));
    assert.ok(all.every(({ guest, xid }) => guest === 'web' && xid === 1000));
    assert.ok(all.every(({ time }) => new Date(time).toISOString() === time));
    assert.match(
      await v.ok(['events', '--guest', '1000', '--type', 'stopped']),
      / web stopped exitCode=137 cause=stopped\n$/,
    );
  });

  test('are chosen by cursor, time, guest and kind', async () => {
    await v.ok(['run', '--name', 'one', '--rm', '--', 'true']);
    assert.equal((await v.run(['run', '--name', 'two', '--rm', '--', 'sh', '-c', 'exit 7'])).code, 7);
    // Its caller has the exit code before the rest is gone.
    const ended = await eventually('both ends', async () => {
      const list = await events('--type', 'stopped', '--guest', 'one', '--guest', 'two');
      return list.length === 2 ? list.toSorted((x, y) => (x.guest < y.guest ? -1 : 1)) : undefined;
    });
    assert.deepEqual(
      ended.map(({ details }) => details),
      [
        { exitCode: 0, cause: 'exited' },
        { exitCode: 7, cause: 'exited' },
      ],
    );
    const all = await events('--guest', 'two', '--type', 'started,stopped');
    assert.deepEqual(types(all), ['started', 'stopped']);
    assert.deepEqual(types(await events('--since', String(all[0]!.seq), '--guest', 'two')), ['stopped']);
    assert.deepEqual(types(await events('--since', all[1]!.time, '--guest', 'two')), ['stopped']);
    assert.deepEqual(await events('--since', '2200-01-01T00:00:00Z'), []);
    assert.equal((await events('--since', '1h')).length, (await events()).length);
    for (const since of ['yesterday', '-1', '1x', '1.5'])
      assert.equal((await v.run(['events', '--since', since])).code, 2, since);
    assert.equal((await v.run(['events', '--type', 'nonsense'])).code, 2);
  });

  test('go on from a cursor after the death of vserverd and of syscalld, without one twice or missing', async () => {
    const begin = (await events()).at(-1)!.seq;
    await v.ok(['run', '-d', '--name', 'lives', '--', 'sleep', '1000']);
    const [started] = await events('--since', String(begin), '--type', 'started');
    process.kill((await daemons()).vserverdPid, 'SIGKILL');
    await eventually('another vserverd', async () =>
      (await v.run(['pause', 'lives'])).code === 0 ? true : undefined,
    );
    const [paused] = await events('--since', String(started!.seq));
    assert.equal(paused!.type, 'paused');
    const { syscalldPid, vserverdPid } = await daemons();
    process.kill(syscalldPid, 'SIGKILL');
    await eventually('the end of both', () =>
      existsSync(`/proc/${syscalldPid}`) || existsSync(`/proc/${vserverdPid}`) ? undefined : true,
    );
    await v.ok(['delete', '--force', 'lives']);
    assert.deepEqual(types(await events('--since', String(paused!.seq))), ['resumed', 'stopped', 'deleted']);
    assert.deepEqual(types(await events('--since', String(begin))), [
      'created',
      'started',
      'paused',
      'resumed',
      'stopped',
      'deleted',
    ]);
  });

  test('are followed as they come, until the reader goes', async () => {
    const begin = (await events()).at(-1)!.seq;
    const follower = v.spawn([
      'events',
      '-f',
      '--json',
      '--since',
      String(begin),
      '--type',
      'started,stopped',
    ]);
    const lines = createInterface({ input: follower.stdout! })[Symbol.asyncIterator]();
    for (let i = 0; i < 3; i++) {
      await v.ok(['run', '--name', `turn${i}`, '--rm', '--', 'true']);
      for (const type of ['started', 'stopped']) {
        const event = JSON.parse(String((await lines.next()).value)) as Event;
        assert.deepEqual([event.type, event.guest], [type, `turn${i}`]);
      }
    }
    follower.kill('SIGINT');
    assert.deepEqual(await once(follower, 'exit'), [130, null]);
  });
});
