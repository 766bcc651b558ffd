/** Health checks: what they say, and what is done with a guest that fails them. */
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { eventually, type OpenInstance, openInstance } from '../lib/instance.ts';
import { unmet } from '../lib/requires.ts';

interface Health {
  readonly status: string;
  readonly failingStreak: number;
  readonly exitCode: number | null;
  readonly problem: string | null;
}

interface Event {
  readonly type: string;
  readonly details: Readonly<Record<string, unknown>>;
}

describe('health checks', { skip: unmet('root', 'overlay') }, () => {
  let v: OpenInstance;
  before(async () => {
    v = await openInstance();
  });
  after(() => v.close());

  const FAST = ['--health-interval', '100ms', '--health-retries', '2'];
  const health = async (name: string): Promise<Health | null> => {
    const [view] = JSON.parse(await v.ok(['inspect', name])) as { health: { now: Health | null } | null }[];
    return view!.health?.now ?? null;
  };
  const events = async (guest: string): Promise<readonly Event[]> =>
    (await v.ok(['events', '--json', '--guest', guest]))
      .split('\n')
      .filter(Boolean)
      .map((line) => JSON.parse(line) as Event);
  const becomes = (name: string, status: string): Promise<Health> =>
    eventually(`${name} ${status}`, async () => {
      const now = await health(name);
      return now?.status === status ? now : undefined;
    });
  const told = async (name: string): Promise<readonly unknown[]> =>
    (await events(name))
      .filter(({ type }) => type === 'health.changed')
      .map(({ details }) => details['status']);

  test('go from starting to healthy to unhealthy and back; what they wrote is kept', async () => {
    const check = 'echo looked; test ! -e /bad || { echo broken >&2; exit 7; }';
    await v.ok(['create', 'web', '--health-cmd', check, ...FAST, '--', 'sleep', '1000']);
    await v.ok(['start', 'web']);
    await becomes('web', 'healthy');
    assert.match(await v.ok(['list']), /HEALTH.*\n.* running +healthy /);
    await v.ok(['exec', 'web', 'touch', '/bad']);
    const ill = await becomes('web', 'unhealthy');
    assert.equal(ill.exitCode, 7);
    assert.ok(ill.failingStreak >= 2);
    await v.ok(['exec', 'web', 'rm', '/bad']);
    assert.equal((await becomes('web', 'healthy')).failingStreak, 0);
    assert.deepEqual(await told('web'), ['healthy', 'unhealthy', 'healthy']);
    const logged = await v.run(['logs', '--health', 'web']);
    assert.match(logged.stdout, /^(looked\n)+$/);
    assert.match(logged.stderr, /^(broken\n)+$/);
    assert.equal(await v.ok(['logs', 'web']), '');
    await v.ok(['stop', '-t', '0', 'web']);
    assert.equal(await health('web'), null);
  });

  test('that take too long, or cannot be run, fail, and leave no process', async () => {
    for (const [name, test, timeout, problem] of [
      ['slow', 'sleep 1000 & sleep 1000', '200ms', /^no end within 200 ms$/],
      ['none', undefined, '1h', /found no command/],
    ] as const) {
      await v.ok([
        'create',
        name,
        '--health-cmd',
        test ?? 'true',
        ...FAST,
        '--health-timeout',
        timeout,
        '--',
        'sleep',
        '999',
      ]);
      if (test === undefined) await v.ok(['set', name, 'health.test=[/no/such]']);
      await v.ok(['start', name]);
      const now = await becomes(name, 'unhealthy');
      assert.equal(now.exitCode, null);
      assert.match(String(now.problem), problem);
    }
    await v.ok(['set', 'slow', '--unset', 'health.test']);
    await eventually('the end of the checks', async () =>
      (await v.ok(['ps', 'slow'])).includes('sleep 1000') ? undefined : true,
    );
    assert.equal(await health('slow'), null, 'a check is given up at once');
    await v.ok(['stop', '-t', '0', 'slow', 'none']);
  });

  test('failures do not count in the start period', async () => {
    const late = ['--health-cmd', 'test -e /ok', ...FAST, '--health-start-period', '1h'];
    await v.ok(['run', '-d', '--name', 'late', ...late, '--', 'sh', '-c', 'while :; do sleep 0.1; done']);
    await eventually('some checks', async () => {
      const now = await health('late');
      return now?.exitCode === 1 ? true : undefined;
    });
    assert.deepEqual((await health('late'))!.failingStreak, 0);
    await v.ok(['exec', 'late', 'touch', '/ok']);
    await becomes('late', 'healthy');
    await v.ok(['exec', 'late', 'rm', '/ok']);
    await becomes('late', 'unhealthy');
    await v.ok(['delete', '--force', 'late']);
  });

  test('an unhealthy guest is restarted, killed or stopped, as it is configured', async () => {
    for (const [action, policy, ...rest] of [
      ['restart', 'no', 'restart.scheduled', 'started'],
      ['kill', 'on-failure', 'restart.scheduled', 'started'],
      ['kill', 'no'],
      ['stop', 'always'],
    ] as const) {
      const name = `${action}-${policy}`;
      // Healthy in its second run only, so that it comes to rest.
      const check = ['--health-cmd', 'test -e /second', ...FAST, '--health-on-failure', action];
      const command = '[ -e /first ] && touch /second; touch /first; exec sleep 1000';
      await v.ok(['run', '-d', '--name', name, '--restart', policy, ...check, '--', 'sh', '-c', command]);
      const last = rest.at(-1) ?? 'stopped';
      const all = await eventually(`the end of it for ${name}`, async () => {
        const list = (await events(name)).slice(2);
        return list.filter(({ type }) => type === last).length > 0 ? list : undefined;
      });
      assert.deepEqual(
        all.slice(0, 2 + rest.length).map(({ type }) => type),
        ['health.changed', 'stopped', ...rest],
        name,
      );
      assert.equal(all[1]!.details['cause'], action === 'stop' ? 'stopped' : 'unhealthy');
      if (rest.length > 0) await becomes(name, 'healthy');
      await v.ok(['delete', '--force', name]);
    }
  });

  test('go on after the death of vserverd, and forget nothing', async () => {
    await v.ok(['run', '-d', '--name', 'on', '--health-cmd', 'test -e /ok', ...FAST, '--', 'sleep', '1000']);
    await becomes('on', 'unhealthy');
    const status = JSON.parse(await v.ok(['daemon', 'status', '--json'])) as { vserverdPid: number };
    process.kill(status.vserverdPid, 'SIGKILL');
    await eventually('another vserverd', async () => ((await v.run(['list'])).code === 0 ? true : undefined));
    assert.equal((await health('on'))!.status, 'unhealthy');
    await v.ok(['exec', 'on', 'touch', '/ok']);
    await becomes('on', 'healthy');
    assert.deepEqual(await told('on'), ['unhealthy', 'healthy']);
    await v.ok(['delete', '--force', 'on']);
  });

  test('the pressure of a guest whose processes wait is shown', { skip: unmet('psi') }, async () => {
    const hogs = 'for i in $(seq 20); do (while :; do :; done) & done; wait';
    await v.ok(['run', '-d', '--name', 'hogs', '--cpus', '0.2', '--', 'sh', '-c', hogs]);
    await eventually('some pressure', async () => {
      const [view] = JSON.parse(await v.ok(['inspect', 'hogs'])) as {
        pressure: { cpu: { some: { totalUs: number } } };
      }[];
      return view!.pressure.cpu.some.totalUs > 100_000 ? true : undefined;
    });
    await v.ok(['delete', '--force', 'hogs']);
  });

  test('options of a check need one', async () => {
    const { code, stderr } = await v.run(['create', 'x', '--health-retries', '2', '--', 'true']);
    assert.deepEqual([code, /need --health-cmd/.test(stderr)], [2, true]);
  });
});
