/** Guests that come up again by themselves: by policy, after a reboot of theirs, with the control plane and the host. */
import assert from 'node:assert/strict';
import { existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, test } from 'node:test';
import { eventually, type OpenInstance, openInstance } from '../lib/instance.ts';
import { unmet } from '../lib/requires.ts';

interface Event {
  readonly seq: number;
  readonly type: string;
  readonly guest: string;
  readonly details: Readonly<Record<string, unknown>>;
}

interface View {
  readonly state: string;
  readonly initPid: number | null;
  readonly exit: { readonly code: number; readonly cause: string } | null;
  readonly restart: { readonly restarts: number; readonly dueAt: string | null };
  readonly health: { readonly now: { readonly checkedAt: string | null } | null } | null;
}

describe('restarts', { skip: unmet('root', 'overlay') }, () => {
  let v: OpenInstance;
  beforeEach(async () => {
    v = await openInstance();
  });
  afterEach(() => v.close());

  const events = async (guest: string): Promise<readonly Event[]> =>
    (await v.ok(['events', '--json', '--guest', guest]))
      .split('\n')
      .filter(Boolean)
      .map((line) => JSON.parse(line) as Event);
  const told = async (guest: string): Promise<readonly string[]> =>
    (await events(guest)).map(({ type }) => type);
  const inspect = async (name: string): Promise<View> =>
    (JSON.parse(await v.ok(['inspect', name])) as View[])[0]!;
  const inState = (name: string, state: string): Promise<View> =>
    eventually(`${name} ${state}`, async () => {
      const view = await inspect(name);
      return view.state === state ? view : undefined;
    });
  /** Resolves with all events of a guest once there is the n-th of a kind. */
  const eventOf = (guest: string, type: string, n = 1): Promise<readonly Event[]> =>
    eventually(`event ${type} ${n} of ${guest}`, async () => {
      const all = await events(guest);
      return all.filter((one) => one.type === type).length >= n ? all : undefined;
    });
  const killVserverd = async (): Promise<void> => {
    const status = JSON.parse(await v.ok(['daemon', 'status', '--json'])) as { vserverdPid: number };
    process.kill(status.vserverdPid, 'SIGKILL');
  };

  /** Takes what a boot of the host takes: the run directory is in memory. */
  const bootHost = async (): Promise<void> => {
    const status = JSON.parse(await v.ok(['daemon', 'status', '--json'])) as { syscalldPid: number };
    await v.ok(['daemon', 'stop', '--guests']);
    await eventually('its end', () => (existsSync(`/proc/${status.syscalldPid}`) ? undefined : true));
    rmSync(join(v.root, 'run'), { recursive: true });
    await v.ok(['daemon', 'start']);
  };

  for (const [style, command] of [
    ['fake', ['sh', '-c', 'echo up; sleep 1000']],
    ['own', ['sh', '-c', 'echo up; while :; do sleep 1; done']],
    ['none', ['sh', '-c', 'echo up; while :; do sleep 1; done']],
  ] as const) {
    test(`a guest with init ${style} reboots and halts itself, and nobody else`, async () => {
      const template = ['--template', 'busybox'];
      await v.ok(['run', '-d', '--name', 'other', ...template, '--', 'sleep', '1000']);
      await v.ok(['run', '-d', '--name', 'box', ...template, `--init=${style}`, '--', ...command]);
      const other = await inspect('other');
      const before = await inspect('box');
      assert.equal((await v.run(['exec', 'box', 'reboot', '-f'])).stderr, '');
      const all = await eventOf('box', 'started', 2);
      assert.deepEqual(
        all.slice(1).map(({ type }) => type),
        ['started', 'stopped', 'restart.scheduled', 'started'],
      );
      assert.deepEqual(all[2]!.details, { exitCode: 0, cause: 'rebooted' });
      const after = await inState('box', 'running');
      assert.notEqual(after.initPid, before.initPid);
      await v.run(['exec', 'box', 'poweroff', '-f']);
      const halted = await inState('box', 'stopped');
      assert.deepEqual([halted.exit?.code, halted.exit?.cause], [0, 'halted']);
      assert.equal((await told('box')).at(-1), 'stopped');
      assert.equal((await inspect('other')).initPid, other.initPid);
    });
  }

  test('a guest that is not to start again by a reboot stops', async () => {
    await v.ok(['create', 'box', '--template', 'busybox', '--', 'sleep', '1000']);
    await v.ok(['set', 'box', 'restart.onReboot=false']);
    await v.ok(['start', 'box']);
    await v.run(['exec', 'box', 'reboot', '-f']);
    const view = await inState('box', 'stopped');
    assert.equal(view.exit?.cause, 'rebooted');
  });

  test('on-failure: as often as allowed, with growing delays, and not after success', async () => {
    await v.ok(['create', 'job', '--restart', 'on-failure:2', '--', 'sh', '-c', 'echo try; exit 3']);
    await v.ok(['set', 'job', 'restart.delay=20ms']);
    await v.ok(['start', 'job']);
    const all = await eventOf('job', 'restart.exhausted');
    const delays = all.filter(({ type }) => type === 'restart.scheduled').map(({ details }) => details);
    assert.deepEqual(delays, [
      { delayMs: 20, restarts: 1 },
      { delayMs: 40, restarts: 2 },
    ]);
    assert.equal(await v.ok(['logs', 'job']), 'try\ntry\ntry\n');
    assert.equal((await inspect('job')).state, 'stopped');
    await v.ok(['set', 'job', 'command=["true"]']);
    await v.ok(['start', 'job']);
    await v.ok(['wait', 'job']);
    assert.deepEqual((await told('job')).slice(-2), ['started', 'stopped']);
  });

  test('a stop ends it, also between two runs and in the middle of a start', async () => {
    await v.ok(['run', '-d', '--name', 'web', '--restart', 'always', '--', 'sleep', '1000']);
    await v.ok(['stop', '-t', '0', 'web']);
    assert.equal((await inspect('web')).state, 'stopped');
    await v.ok(['set', 'web', 'restart.delay=1h', 'restart.maxDelay=1h', 'command=["false"]']);
    await v.ok(['start', 'web']);
    const waiting = await inState('web', 'restarting');
    assert.equal(waiting.restart.restarts, 1);
    assert.ok(Date.parse(waiting.restart.dueAt!) - Date.now() > 3_500_000);
    assert.match(await v.ok(['list']), /^web +1000 +restarting /m);
    const { code, stderr } = await v.run(['stop', 'web']);
    assert.deepEqual([code, stderr], [0, '']);
    assert.equal((await inspect('web')).state, 'stopped');
    assert.deepEqual(readdirSync(join(v.root, 'run/restarts')), []);
    // By hand it starts at once, whatever is due.
    await v.ok(['start', 'web']);
    await inState('web', 'restarting');
    await v.ok(['set', 'web', 'command=["sleep", "1000"]']);
    await v.ok(['start', 'web']);
    assert.equal((await inspect('web')).restart.dueAt, null);
  });

  test('a stop while it ends by itself is one', async () => {
    const [hook, begun, go] = ['hook', 'begun', 'go'].map((name) => join(v.scratch, name)) as [
      string,
      string,
      string,
    ];
    writeFileSync(hook, `#!/bin/sh\n: >${begun}\nwhile [ ! -e ${go} ]; do sleep 0.05; done\n`, {
      mode: 0o755,
    });
    await v.ok(['create', '--restart', 'always', 'job', '--', 'true']);
    await v.ok(['set', 'job', `hooks.postStop=${hook}`]);
    await v.ok(['start', 'job']);
    await eventually('it ends', async () => existsSync(begun) || undefined);
    const stop = v.run(['stop', 'job']);
    // Its end waits for the hook, and the stop for its end: asked as soon as it is told.
    await eventually(
      'the stop is asked',
      async () =>
        readFileSync(join(v.root, 'run/guests/job.json'), 'utf8').includes('"stopAsked":"operator"') ||
        undefined,
    );
    writeFileSync(go, '');
    assert.equal((await stop).code, 0);
    assert.deepEqual(
      [(await inspect('job')).state, (await inspect('job')).restart.dueAt, await told('job')],
      ['stopped', null, ['created', 'changed', 'started', 'hook.ended', 'stopped']],
    );
  });

  test('what is due is done, once, after vserverd has been killed at any moment', async () => {
    await v.ok(['run', '-d', '--name', 'web', '--restart', 'always', '--', 'sleep', '1000']);
    await v.ok(['set', 'web', 'restart.delay=300ms']);
    for (let turn = 1; turn <= 2; turn++) {
      const { initPid } = await inState('web', 'running');
      process.kill(initPid!, 'SIGKILL');
      // Right now, and while the start is due, or just over.
      if (turn % 2 === 0) await eventOf('web', 'restart.scheduled', turn);
      await killVserverd();
      await eventually('the next run', async () => {
        const { code, stdout } = await v.run(['inspect', 'web']);
        if (code !== 0) return undefined; // another vserverd is coming up
        const [view] = JSON.parse(stdout) as View[];
        return view!.state === 'running' && view!.initPid !== initPid ? true : undefined;
      });
      assert.equal((await events('web')).filter(({ type }) => type === 'started').length, turn + 1);
    }
    await killVserverd();
    await eventually('another vserverd', async () =>
      (await v.run(['stop', 'web'])).code === 0 ? true : undefined,
    );
    await killVserverd();
    await eventually('another one', async () => ((await v.run(['list'])).code === 0 ? true : undefined));
    assert.equal((await inspect('web')).state, 'stopped');
    assert.equal((await told('web')).filter((type) => type === 'started').length, 3);
  });

  test('a stop that vserverd did not live to see is one', async () => {
    const deaf = 'trap "" TERM; echo up; while :; do sleep 0.1; done';
    await v.ok(['run', '-d', '--name', 'web', '--restart', 'always', '--', 'sh', '-c', deaf]);
    const { initPid } = await inspect('web');
    await eventually('its trap', async () => ((await v.ok(['logs', 'web'])) === 'up\n' ? true : undefined));
    const stopping = v.run(['stop', '-t', '60', 'web']);
    const live = join(v.root, 'run/guests/web.json');
    await eventually('the word of the operator', () =>
      readFileSync(live, 'utf8').includes('"stopAsked":"operator"') ? true : undefined,
    );
    await killVserverd();
    assert.equal((await stopping).code, 125);
    process.kill(initPid!, 'SIGKILL');
    await eventually('the end', () => (existsSync(`/proc/${initPid}`) ? undefined : true));
    await inState('web', 'stopped');
    assert.equal((await told('web')).filter((type) => type === 'started').length, 1);
  });

  test('with the control plane go, and come with it, those with a policy', async () => {
    for (const [name, policy] of [
      ['never', 'no'],
      ['failed', 'on-failure'],
      ['always', 'always'],
      ['unless', 'unless-stopped'],
    ] as const) {
      await v.ok(['run', '-d', '--name', name, '--restart', policy, '--', 'sleep', '1000']);
    }
    await v.ok(['daemon', 'stop', '--guests']);
    await v.ok(['daemon', 'start']);
    for (const name of ['failed', 'always', 'unless']) await inState(name, 'running');
    assert.equal((await inspect('never')).state, 'stopped');
  });

  test('after a boot of the host those come up that were up, and with always those that were stopped', async () => {
    for (const [name, policy] of [
      ['never', 'no'],
      ['job', 'on-failure'],
      ['done', 'on-failure'],
      ['always', 'always'],
      ['unless', 'unless-stopped'],
      ['stopped', 'unless-stopped'],
    ] as const) {
      await v.ok([
        'run',
        '-d',
        '--name',
        name,
        '--restart',
        policy,
        '--',
        'sleep',
        name === 'done' ? '0' : '1000',
      ]);
    }
    await v.ok(['create', 'created', '--restart', 'always', '--', 'sleep', '1000']);
    await v.ok(['wait', 'done']);
    await v.ok(['stop', '-t', '0', 'always', 'stopped']);
    await bootHost();
    for (const name of ['job', 'always', 'unless']) await inState(name, 'running');
    for (const name of ['never', 'done', 'stopped', 'created'])
      assert.equal((await inspect(name)).state, 'stopped', name);
    // Once: what is stopped later stays so when vserverd is restarted.
    await v.ok(['stop', '-t', '0', 'always']);
    await killVserverd();
    await eventually('another vserverd', async () => ((await v.run(['list'])).code === 0 ? true : undefined));
    assert.equal((await inspect('always')).state, 'stopped');
  });

  test('guests of a mark start behind those they depend on and stop before them, also with the host', async () => {
    const order = async (type: string, since: number): Promise<readonly string[]> =>
      (await v.ok(['events', '--json', '--type', type, '--since', String(since)]))
        .split('\n')
        .filter(Boolean)
        .map((line) => (JSON.parse(line) as Event).guest);
    const last = async (): Promise<number> =>
      (JSON.parse((await v.ok(['events', '--json'])).trim().split('\n').at(-1)!) as Event).seq;
    // By name they would come the other way round.
    for (const [name, ...depends] of [['a', 'b'], ['b', 'c'], ['c']] as const) {
      const options = depends.flatMap((other) => ['--depends', other]);
      // The last one is no guest of the mark, and comes with those who depend on it.
      const mark = depends.length > 0 ? ['--mark', 'default'] : [];
      await v.ok(['create', name!, ...mark, ...options, '--', 'sleep', '1000']);
    }
    await v.ok(['create', 'other', '--', 'sleep', '1000']);
    const begin = await last();
    assert.equal(await v.ok(['start', '--mark', 'default']), 'c\nb\na\n');
    assert.deepEqual(await order('started', begin), ['c', 'b', 'a']);
    assert.equal(await v.ok(['stop', '-t', '0', '--mark', 'default']), 'a\nb\n');
    await v.ok(['stop', '-t', '0', 'c']);
    assert.deepEqual(await order('stopped', begin), ['a', 'b', 'c']);
    await bootHost();
    await inState('a', 'running');
    assert.deepEqual(await order('started', begin), ['c', 'b', 'a', 'c', 'b', 'a']);
    assert.equal((await inspect('other')).state, 'stopped');
    await v.ok(['set', 'c', 'boot.depends=[a]']);
    const circle = await v.run(['stop', '--all']);
    assert.deepEqual(
      [circle.code, /in a circle|without a circle/.test(circle.stderr)],
      [1, true],
      circle.stderr,
    );
    await v.ok(['set', 'c', '--unset', 'boot.depends']);
  });

  test('a guest of a mark waits for the health of one outside it, and does not start without', async () => {
    const { code: none } = await v.run(['create', 'bad', '--depends', 'db:well', '--', 'true']);
    assert.equal(none, 2);
    const check = [
      '--health-cmd',
      'test -e /tmp/up',
      '--health-interval',
      '0.1s',
      '--health-retries',
      '1000',
    ];
    await v.ok(['create', 'db', '--template', 'busybox', ...check, '--', 'sleep', '1000']);
    const web = ['--mark', 'site', '--depends', 'db:healthy'];
    await v.ok(['create', 'web', '--template', 'busybox', ...web, '--', 'sleep', '1000']);
    const started = v.ok(['start', '--mark', 'site']);
    await inState('db', 'running');
    await eventually('db has been checked', async () =>
      (await inspect('db')).health?.now?.checkedAt ? true : undefined,
    );
    assert.equal((await inspect('web')).state, 'stopped');
    await v.ok(['exec', 'db', 'touch', '/tmp/up']);
    assert.equal(await started, 'db\nweb\n');
    await v.ok(['exec', 'db', 'rm', '/tmp/up']);
    await v.ok(['stop', '-t', '0', 'web', 'db']);

    await v.ok(['set', 'db', 'health.retries=1']);
    const refused = await v.run(['start', '--mark', 'site']);
    assert.equal(refused.code, 1);
    assert.match(refused.stderr, /cannot start guest "web": found it unhealthy; need guest "db" healthy/);
    const failed = await v.ok(['events', '--json', '--type', 'start.failed', '--guest', 'web']);
    assert.match(failed, /"code":"dependency-unhealthy"/);
    // An operator who names it has it at once.
    await v.ok(['start', 'web']);
    await v.ok(['delete', '--force', 'web', 'db']);
  });

  test('a guest that goes with its run has no policy', async () => {
    const outcome = await v.run(['run', '--restart', 'always', '--', 'true']);
    assert.equal(outcome.code, 125);
    assert.match(outcome.stderr, /need --name, and no --rm/);
    const health = ['--health-cmd', 'true', '--health-on-failure', 'restart'];
    const { code, stderr } = await v.run(['run', '--name', 'gone', '--rm', ...health, '--', 'true']);
    assert.equal(code, 125);
    assert.match(stderr, /need --name, and no --rm/);
  });
});
