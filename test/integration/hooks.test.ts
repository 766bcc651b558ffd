/** The operator's commands at the stages of a guest's life: when they run, what they are told, and what their failure does. */
import assert from 'node:assert/strict';
import { chmodSync, existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { eventually, type OpenInstance, openInstance } from '../lib/instance.ts';
import { unmet } from '../lib/requires.ts';

const STAGES = ['initialize', 'prepreStart', 'preStart', 'postStart', 'preStop', 'postStop', 'postpostStop'];

describe('hooks', { skip: unmet('root', 'overlay') }, () => {
  let v: OpenInstance;
  before(async () => {
    v = await openInstance();
  });
  after(() => v.close());

  const script = (name: string, text: string): string => {
    const path = join(v.scratch, name);
    writeFileSync(path, `#!/bin/sh\n${text}\n`);
    chmodSync(path, 0o755);
    return path;
  };
  const events = async (
    guest: string,
  ): Promise<readonly { type: string; details: Record<string, unknown> }[]> =>
    (await v.ok(['events', '--json', '--guest', guest]))
      .split('\n')
      .filter(Boolean)
      .map((line) => JSON.parse(line) as { type: string; details: Record<string, unknown> });
  const stages = async (guest: string): Promise<readonly string[]> =>
    (await events(guest)).flatMap(({ type, details }) =>
      type === 'hook.ended' ? [`${String(details['stage'])} ${String(details['exitCode'])}`] : [type],
    );

  test('run at their stages, on the host, and are told what they need', async () => {
    const seen = join(v.scratch, 'seen');
    const hook = script(
      'all.sh',
      `alive=-; [ -z "$VSERVER_INIT_PID" ] || alive=$(grep -c "1$" /proc/$VSERVER_INIT_PID/status >/dev/null && echo alive)
echo "$1 $2 $3 $VSERVER_NAME $VSERVER_STAGE $alive $VSERVER_CAUSE $VSERVER_EXIT_CODE $(pwd)" >>${seen}
ls /proc/self/fd | tr '\\n' ' '; echo on stderr >&2`,
    );
    await v.ok([
      'create',
      'web',
      '--xid',
      '77',
      '--',
      'sh',
      '-c',
      'trap "exit 9" TERM; while :; do sleep 0.05; done',
    ]);
    await v.ok(['set', 'web', ...STAGES.map((stage) => `hooks.${stage}=["${hook}", "word"]`)]);
    await v.ok(['start', 'web']);
    await eventually('its trap', async () =>
      /SigCgt:\t0*[1-9a-f]/.test(await v.ok(['exec', 'web', 'cat', '/proc/2/status'])) ? true : undefined,
    );
    await v.ok(['stop', 'web']);
    const etc = join(v.root, 'etc/guests');
    assert.deepEqual(readFileSync(seen, 'utf8').trim().split('\n'), [
      `word initialize web web initialize -   ${etc}`,
      `word prepre-start web web prepre-start -   ${etc}`,
      `word pre-start web web pre-start alive   ${etc}`,
      `word post-start web web post-start alive   ${etc}`,
      `word pre-stop web web pre-stop alive   ${etc}`,
      `word post-stop web web post-stop - stopped 9 ${etc}`,
      `word postpost-stop web web postpost-stop - stopped 9 ${etc}`,
    ]);
    assert.deepEqual((await stages('web')).slice(2), [
      'initialize 0',
      'prepre-start 0',
      'pre-start 0',
      'started',
      'post-start 0',
      'pre-stop 0',
      'post-stop 0',
      'postpost-stop 0',
      'stopped',
    ]);
    const logged = await v.run(['logs', '--hooks', 'web']);
    assert.equal(logged.stdout, '0 1 2 3 '.repeat(7), 'nothing open but its own');
    assert.equal(logged.stderr, 'on stderr\n'.repeat(7));
    assert.equal(await v.ok(['logs', 'web']), '');
  });

  test('have the environment that is promised, and nothing of the caller or of vserverd', async () => {
    const seen = join(v.scratch, 'environment');
    const hook = script('env.sh', `cat /proc/self/environ | tr '\\0' '\\n' >>${seen}; echo >>${seen}`);
    await v.ok(['create', 'env', '--xid', '78', '--', 'sh', '-c', 'exit 4']);
    await v.ok(['set', 'env', ...STAGES.map((stage) => `hooks.${stage}=${hook}`)]);
    await v.ok(['start', 'env'], { env: { SECRET: 'of the caller' } });
    const stages = await eventually('the last stage', async () => {
      const all = existsSync(seen) ? readFileSync(seen, 'utf8').trim().split('\n\n') : [];
      return all.length === 6 ? all.map((one) => one.split('\n')) : undefined;
    });
    const usual = ['HOME=/root', 'VSERVER_NAME=env', `VSERVER_ROOT=${v.root}`, 'VSERVER_XID=78'];
    for (const [i, stage] of [
      'initialize',
      'prepre-start',
      'pre-start',
      'post-start',
      'post-stop',
      'postpost-stop',
    ].entries()) {
      const variables = (stages[i] ?? []).filter((one) => !/^(PATH|VSERVER_INIT_PID|PWD|_|SHLVL)=/.test(one));
      const end = ['VSERVER_CAUSE=exited', 'VSERVER_EXIT_CODE=4'];
      assert.deepEqual(
        variables.toSorted(),
        [...usual, `VSERVER_STAGE=${stage}`, ...(i >= 4 ? end : [])].toSorted(),
      );
      const hasInit = (stages[i] ?? []).some((one) => /^VSERVER_INIT_PID=\d+$/.test(one));
      assert.equal(hasInit, i === 2 || i === 3, stage);
    }
  });

  test('refuse a start that they fail, which leaves nothing', async () => {
    const undone = join(v.scratch, 'undone');
    await v.ok(['create', 'bad', '--', 'sleep', '1000']);
    await v.ok([
      'set',
      'bad',
      `hooks.postpostStop=${script('undo.sh', `echo "$VSERVER_CAUSE" >>${undone}`)}`,
    ]);
    for (const [stage, word] of [
      ['initialize', 'initialize'],
      ['prepreStart', 'prepre-start'],
      ['preStart', 'pre-start'],
    ] as const) {
      await v.ok(['set', 'bad', `hooks.${stage}=${script('fail.sh', 'echo no; exit 3')}`]);
      const { code, stderr } = await v.run(['start', 'bad']);
      assert.equal(code, 1);
      assert.match(
        stderr,
        new RegExp(`cannot run hook ${word} of guest "bad": found exit code 3; need exit code 0`),
      );
      await v.ok(['set', 'bad', '--unset', `hooks.${stage}`]);
    }
    assert.equal(readFileSync(undone, 'utf8'), 'start-failed\n'.repeat(3));
    const all = (await events('bad')).filter(({ type }) => type === 'start.failed');
    assert.deepEqual(
      all.map(({ details }) => details['code']),
      ['hook-failed', 'hook-failed', 'hook-failed'],
    );
    await v.ok(['set', 'bad', 'hooks.preStart=/no/such/file']);
    assert.match((await v.run(['start', 'bad'])).stderr, /found that "\/no\/such\/file" cannot be run/);
    await v.ok(['set', 'bad', '--unset', 'hooks.preStart']);
    await v.ok(['start', 'bad']);
  });

  test('that take too long are killed with what they started, and hold nobody else up', async () => {
    const [pid, go] = [join(v.scratch, 'pid'), join(v.scratch, 'go')];
    await v.ok(['create', 'slow', '--', 'sleep', '1000']);
    const hook = script('slow.sh', `sleep 1000 & echo $! >${pid}; wait`);
    await v.ok(['set', 'slow', `hooks.preStart=${hook}`, 'hooks.timeout=1s']);
    const { code, stderr } = await v.run(['start', 'slow']);
    assert.deepEqual([code, /found no end within 1s/.test(stderr)], [1, true], stderr);
    const child = Number(readFileSync(pid, 'utf8'));
    assert.ok(child > 1);
    await eventually('the end of its child', () => (existsSync(`/proc/${child}`) ? undefined : true));

    const waits = script('waits.sh', `while [ ! -e ${go} ]; do sleep 0.05; done`);
    await v.ok(['set', 'slow', `hooks.preStart=${waits}`, 'hooks.timeout=1h']);
    const start = v.ok(['start', 'slow']);
    await eventually('vserverd serves meanwhile', async () =>
      /^slow .* starting /m.test(await v.ok(['list', '-a'])) ? true : undefined,
    );
    writeFileSync(go, '');
    await start;
    await v.ok(['stop', '-t', '0', 'slow']);
    // Whoever wants it stopped meanwhile is heard when the hook is over, which may have been over first.
    let told = '';
    for (let napS = 0.5; !told.includes('told to stop before it had started') && napS < 20; napS *= 2) {
      await v.ok(['set', 'slow', `hooks.initialize=${script('nap.sh', `sleep ${napS}`)}`]);
      const again = v.run(['start', 'slow']);
      await eventually('the start', async () =>
        /^slow .* (starting|running) /m.test(await v.ok(['list', '-a'])) ? true : undefined,
      );
      await v.ok(['stop', 'slow', '-t', '0']);
      told = (await again).stderr;
    }
    assert.match(told, /told to stop before it had started/);
    assert.equal((await v.run(['status', 'slow'])).code, 3);
  });

  test('of the end run also when vserverd was not there to see it', async () => {
    const seen = join(v.scratch, 'end');
    await v.ok(['create', 'gone', '--', 'sleep', '1000']);
    await v.ok(['set', 'gone', `hooks.postStop=${script('end.sh', `echo $VSERVER_CAUSE >>${seen}`)}`]);
    await v.ok(['start', 'gone']);
    const [{ initPid }] = JSON.parse(await v.ok(['inspect', 'gone'])) as [{ initPid: number }];
    const { vserverdPid } = JSON.parse(await v.ok(['daemon', 'status', '--json'])) as { vserverdPid: number };
    process.kill(vserverdPid, 'SIGKILL');
    process.kill(initPid, 'SIGKILL');
    await eventually('the hook', () => (existsSync(seen) ? true : undefined));
    await eventually('its end', async () =>
      (await v.run(['status', 'gone'])).code === 3 ? true : undefined,
    );
    assert.equal(readFileSync(seen, 'utf8'), 'exited\n');
  });
});
