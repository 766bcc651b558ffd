/** The life of guests that stay, verb by verb, and what each verb answers to nonsense. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, rmdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { setTimeout } from 'node:timers/promises';
import { cgroupsOf, eventually, type OpenInstance, openInstance, withInstance } from '../lib/instance.ts';
import { unmet } from '../lib/requires.ts';

const LOOP = 'i=0; while :; do i=$((i+1)); done';

describe('guests that stay', { skip: unmet('root', 'overlay') }, () => {
  let v: OpenInstance;
  before(async () => {
    v = await openInstance();
  });
  after(() => v.close());

  const json = async (...args: readonly string[]): Promise<Record<string, unknown>[]> =>
    JSON.parse(await v.ok([...args, '--json'])) as Record<string, unknown>[];
  const inspect = async (name: string): Promise<Record<string, unknown>> => (await json('inspect', name))[0]!;
  const code = async (...args: readonly string[]): Promise<number> => (await v.run(args)).code;
  /** Resolves when a guest has said that it is ready: its traps are set. */
  const ready = async (name: string): Promise<true> =>
    await eventually(`${name} is ready`, async () => (await v.ok(['logs', name])) === 'ready\n' || undefined);
  const withGuest = async (
    name: string,
    command: readonly string[],
    body: () => Promise<void>,
  ): Promise<void> => {
    await v.ok(['run', '-d', '--name', name, '--', ...command]);
    await body();
    await v.ok(['delete', '--force', name]);
  };

  test('processes of a guest are shown as a tree, and signalled by their pids there', async () => {
    await withGuest('tree', ['sh', '-c', 'sleep 1234 & sleep 5678; sleep 1'], async () => {
      const pidOf = async (what: string): Promise<string | undefined> =>
        new RegExp(`─(\\d+) sleep ${what}$`, 'm').exec(await v.ok(['ps', '--tree', 'tree']))?.[1];
      const pid = await eventually('both sleep', async () =>
        (await pidOf('5678')) === undefined ? undefined : await pidOf('1234'),
      );
      assert.match(await v.ok(['ps', '--tree', 'tree']), /^tree \(\d+\)\n(.*\n)*.*─\d+ sh -c sleep/);
      assert.equal(await v.ok(['kill', '-s', 'KILL', '-p', pid, 'tree']), 'tree\n');
      await eventually('it has ended', async () => ((await pidOf('1234')) === undefined ? true : undefined));
      assert.notEqual(await pidOf('5678'), undefined, 'and no other');
      const { code: exit, stderr } = await v.run(['kill', '-p', '31999', 'tree']);
      assert.equal(exit, 1);
      assert.match(stderr, /found no process 31999/);
    });
  });

  test('are stopped, and end, also when no record can be written; what is refused has changed nothing', async () => {
    const name = 'full';
    // What a full disk does to a file that is to be written anew, and to no other.
    const blocked = [
      'etc/guests/full.yaml.new',
      'run/guests/full.json.new',
      'lib/guests/full/wanted.new',
    ].map((path) => join(v.root, path));
    const block = (): void => {
      for (const path of blocked) mkdirSync(path);
    };
    const free = (): void => {
      for (const path of blocked) rmdirSync(path);
    };
    const state = async (): Promise<unknown> => (await inspect(name))['state'];
    await v.ok(['create', '--restart', 'always', name, '--', 'sleep', '1000']);
    for (const end of [['stop'], ['kill', '-s', 'KILL'], ['kill', '-s', 'TERM']]) {
      await v.ok(['start', name]);
      block();
      assert.notEqual(await code('set', name, 'limits.pids=77'), 0);
      assert.doesNotMatch(await v.ok(['limit', name]), /^PROC .* 77 /m, 'the kernel was not told either');
      await v.ok([...end, name]);
      await eventually('it has ended', async () => ((await state()) === 'running' ? undefined : true));
      await v.run(['stop', name]);
      await eventually('it is stopped', async () => ((await state()) === 'stopped' ? true : undefined));
      free();
    }
    assert.ok(!existsSync(blocked[0]!));
    await v.ok(['delete', name]);
  });

  test('a start that syscalld has too few open files for is refused, and leaves nothing', async (context) => {
    if (statSync('/proc/self/fd').size === 0)
      return context.skip('needs kernel: Linux 6.2 counts open files');
    // Of its own: the limit is read when the open files come close to what it was at an earlier start.
    await withInstance(async (own) => {
      await own.ok(['create', 'late', '--', 'sleep', '1000']);
      const { syscalldPid } = JSON.parse(await own.ok(['daemon', 'status', '--json'])) as {
        syscalldPid: number;
      };
      const limits = readFileSync(`/proc/${syscalldPid}/limits`, 'latin1');
      const limitFiles = (soft: number): void => {
        const { status } = spawnSync('prlimit', ['--pid', `${syscalldPid}`, `--nofile=${soft}:`]);
        assert.equal(status, 0);
      };
      limitFiles(200);
      try {
        for (const args of [
          ['start', 'late'],
          ['run', '--rm', '--', 'true'],
        ]) {
          const { code: exit, stderr } = await own.run(args);
          assert.equal(exit, args[0] === 'run' ? 125 : 1);
          assert.match(stderr, /found \d+ of 200 files open in syscalld; need fewer guests/);
        }
        assert.match(
          (await own.run(['check'])).stdout,
          /^open files +.* of 200, enough for \d+ more guests/m,
        );
      } finally {
        limitFiles(Number(/^Max open files +(\d+)/m.exec(limits)?.[1]));
      }
      await own.ok(['start', 'late']);
      await own.ok(['delete', '--force', 'late']);
    });
  });

  test('processes of whatever guests are signalled by their pids on the host, and no other of the host', async () => {
    await v.ok(['run', '-d', '--name', 'one', '--', 'sh', '-c', 'sleep 1000 & wait; exec sleep 1001']);
    await v.ok(['run', '-d', '--name', 'two', '--', 'sleep', '2000']);
    const found = async (what: string): Promise<number> =>
      await eventually(what, async () => {
        const processes = await json('ps');
        const one = processes.find(({ argv }) => (argv as string[]).join(' ') === what);
        return one === undefined ? undefined : Number(one['pid']);
      });
    const pids = [await found('sleep 1000'), await found('sleep 2000')].map(String);
    assert.deepEqual(
      (await json('kill', '-s', 'TERM', '-p', pids[0]!, '-p', pids[1]!)).map(({ name }) => name),
      ['one', 'two'],
    );
    await found('sleep 1001');
    await eventually('the end of the other', async () =>
      (await v.ok(['list', '-q'])) === 'one\n' ? true : undefined,
    );
    for (const pid of [process.pid, 1, Number(pids[1])]) {
      const { code: exit, stderr } = await v.run(['kill', '-p', String(pid), '-s', 'CONT']);
      assert.equal(exit, 1, stderr);
      assert.match(stderr, /need a process of a guest by its pid on the host/);
    }
    assert.equal(await code('kill'), 2);
    const { initPid } = await inspect('one');
    await v.ok(['kill', '-p', String(initPid)]);
    await eventually('the end of the guest', async () =>
      (await v.ok(['list', '-q'])) === '' ? true : undefined,
    );
    await v.ok(['delete', 'one', 'two']);
  });

  test('from creation to deletion', async () => {
    assert.equal(
      await v.ok([
        'create',
        'web',
        '--label',
        'team=a',
        '--',
        'sh',
        '-c',
        'echo out; echo err >&2; sleep 1000',
      ]),
      'web\n',
    );
    assert.equal(await code('status', 'web'), 3);
    assert.equal(await v.ok(['list', '-q']), '');
    assert.equal(await v.ok(['list', '-a', '-q']), 'web\n');
    assert.equal((await inspect('web'))['state'], 'stopped');
    assert.equal(await v.ok(['start', 'web']), 'web\n');
    assert.match(
      await v.ok(['status', 'web']),
      /^Vserver 'web' is running at context '1000'\nNumber of processes: \d+\nUptime: /,
    );
    const again = await v.run(['start', 'web']);
    assert.deepEqual([again.code, again.stderr], [0, 'vserver: guest "web" is running already\n']);
    await eventually('its log', async () => {
      const { stdout, stderr } = await v.run(['logs', 'web']);
      return stdout === 'out\n' && stderr === 'err\n' ? true : undefined;
    });
    assert.match((await v.run(['logs', '-t', '--tail', '1', 'web'])).stderr, /^\d{4}-\d\d-\d\dT\S+ err\n$/);
    const before = (await inspect('web'))['initPid'];
    await v.ok(['restart', '-t', '0', 'web']);
    assert.notEqual((await inspect('web'))['initPid'], before);
    assert.equal(await v.ok(['stop', 'web']), 'web\n');
    assert.equal(await code('status', 'web'), 3);
    const stopped = await v.run(['stop', 'web']);
    assert.deepEqual([stopped.code, stopped.stderr], [0, 'vserver: guest "web" is stopped already\n']);
    assert.equal(await code('exec', 'web', 'true'), 125);
    assert.equal(await v.ok(['delete', 'web']), 'web\n');
    assert.equal(await code('status', 'web'), 5);
    assert.equal(await v.ok(['list', '-a', '-q']), '');
  });

  test('inspect tells all that programs ask for', async () => {
    await v.ok([
      'create',
      'told',
      '--template',
      'host',
      '--memory',
      '64m',
      '--xid',
      '4321',
      '-e',
      'A=b',
      '--',
      'sleep',
      '1000',
    ]);
    const stopped = await inspect('told');
    assert.deepEqual(
      [stopped['name'], stopped['xid'], stopped['state'], stopped['initPid'], stopped['startedAt']],
      ['told', 4321, 'stopped', null, null],
    );
    const started = Date.now();
    await v.ok(['start', 'told']);
    const guest = await inspect('told');
    assert.deepEqual(
      [guest['name'], guest['xid'], guest['state'], guest['template'], guest['network']],
      ['told', 4321, 'running', 'host', { mode: 'none', addresses: [] }],
    );
    assert.match(readFileSync(`/proc/${guest['initPid']}/status`, 'utf8'), /^NSpid:\s+\d+\s+1$/m);
    const startedAt = Date.parse(String(guest['startedAt']));
    assert.ok(started <= startedAt && startedAt <= Date.now(), String(guest['startedAt']));
    assert.equal(
      (guest['limits'] as { effective: { memoryBytes: number } }).effective.memoryBytes,
      64 * 1024 ** 2,
    );
    const [status] = await json('status', 'told');
    assert.deepEqual([status?.['state'], status?.['xid']], ['running', 4321]);
    assert.ok((await json('list')).some(({ name }) => name === 'told'));
    assert.ok((await json('ps', 'told')).some(({ guestPid }) => guestPid === 1));
    const daemon = JSON.parse(await v.ok(['daemon', 'status', '--json'])) as Record<string, unknown>;
    for (const key of ['vserverdPid', 'syscalldPid'])
      assert.match(readFileSync(`/proc/${daemon[key]}/cmdline`, 'utf8'), /vserver|syscalld/);
    assert.match(String(daemon['version']), /^\d+\.\d+\.\d+/);
    assert.deepEqual(JSON.parse(await v.ok(['stop', '-t', '0', 'told', '--json'])), [
      { name: 'told', error: null },
    ]);
    assert.equal(((await inspect('told'))['exit'] as { code: number }).code, 137);
    await v.ok(['delete', 'told']);
  });

  test('names and xids, both orders of words, several at once', async () => {
    for (const name of ['one', 'two']) await v.ok(['create', name, '--', 'sleep', '1000']);
    const { xid } = await inspect('one');
    assert.equal(await v.ok(['start', String(xid)]), 'one\n');
    assert.equal(await v.ok(['two', 'start']), 'two\n');
    assert.match(await v.ok(['one', 'status']), /^Vserver 'one' is running/);
    assert.equal(await v.ok(['two', 'exec', 'hostname']), 'two\n');
    assert.equal(await v.ok(['stop', '-t', '0', 'one', 'two']), 'one\ntwo\n');
    const some = await v.run(['start', 'one', 'no-such', 'two']);
    assert.deepEqual([some.code, some.stdout], [5, 'one\ntwo\n'], 'the others are worked on all the same');
    assert.match(some.stderr, /^vserver: cannot find guest "no-such"/);
    assert.equal(await v.ok(['stop', '-t', '0', '--all']), 'one\ntwo\n');
    assert.equal(await v.ok(['delete', '--all']), 'one\ntwo\n');
  });

  test('files stay over stop and start, and go with the guest', async () => {
    await v.ok(['create', 'files', '--', 'sleep', '1000']);
    await v.ok(['start', 'files']);
    await v.ok([
      'exec',
      'files',
      'sh',
      '-c',
      'echo kept >/root/kept; rm /etc/passwd; mkdir -p /srv/a; chown 5:6 /srv/a; touch /tmp/t',
    ]);
    await v.ok(['restart', '-t', '0', 'files']);
    assert.equal(
      await v
        .ok(['exec', 'files', 'sh', '-c', 'cat /root/kept; stat -c %u:%g /srv/a; ls /etc/passwd 2>&1'])
        .catch((error: Error) => error.message.includes('kept\n5:6\n')),
      true,
    );
    await v.ok(['delete', '-f', 'files']);
    await v.ok(['create', 'files', '--', 'sleep', '1000']);
    await v.ok(['start', 'files']);
    assert.equal(await code('exec', 'files', 'ls', '/root/kept'), 2);
    await v.ok(['delete', '-f', 'files']);
  });

  test('set changes limits of a running guest at once, and its file', async () => {
    await withGuest('set', ['sleep', '1000'], async () => {
      await v.ok(['set', 'set', 'limits.memory=100m', 'limits.pids=20', 'limits.cpus=0.5']);
      const { limits, xid } = (await inspect('set')) as {
        limits: { effective: Record<string, number> };
        xid: number;
      };
      assert.deepEqual([limits.effective['memoryBytes'], limits.effective['pids']], [100 * 1024 ** 2, 20]);
      const read = (files: readonly string[]): readonly string[] =>
        cgroupsOf(v.root).flatMap((path) =>
          files.flatMap((file) => {
            try {
              return [readFileSync(join(path, String(xid), file), 'utf8').trim()];
            } catch {
              return []; // of another hierarchy
            }
          }),
        );
      assert.deepEqual(read(['memory.max', 'memory.limit_in_bytes']), [String(100 * 1024 ** 2)]);
      // On v2 they are the leaf's, where what serves the guest is not.
      const tasks = (): readonly string[] =>
        read(['pids.max', 'g/pids.max']).filter((text) => text !== 'max');
      assert.deepEqual(tasks(), ['20']);
      const forks = await v.run([
        'exec',
        'set',
        'sh',
        '-c',
        'for i in $(seq 30); do sleep 1000 >/dev/null 2>&1 & done; :',
      ]);
      assert.match(forks.stderr, /fork/i);
      await v.ok(['set', 'set', 'limits.pids=100']);
      assert.equal(
        await v.ok(['exec', 'set', 'sh', '-c', 'for i in $(seq 30); do sleep 0.1 & done; wait; echo ok']),
        'ok\n',
      );
      assert.match(await v.ok(['set', 'set']), /memory: 100m/);
      await v.ok(['restart', '-t', '0', 'set']);
      assert.deepEqual(tasks(), ['100'], 'what was set holds in the next run');
      await v.ok(['set', 'set', '--unset', 'limits.memory']);
      assert.equal(
        ((await inspect('set')) as unknown as { limits: { effective: Record<string, unknown> } }).limits
          .effective['memoryBytes'],
        'max',
      );
      for (const [bad, message] of [
        ['limits.memory=lots', /lots/],
        ['limits.pids=0', /limits\.pids/],
        ['limits.cpus=-1', /limits\.cpus/],
        ['nonsense=1', /nonsense/],
        ['limits.nonsense=1', /nonsense/],
        ['xid=7', /xid/],
        ['=1', /=1/],
        ['limits.memory', /limits\.memory/],
      ] as const) {
        const outcome = await v.run(['set', 'set', bad]);
        assert.notEqual(outcome.code, 0, bad);
        assert.match(outcome.stderr, message);
      }
    });
  });

  test('pause takes a guest off the CPUs, resume brings it back', async () => {
    await withGuest('cold', ['sh', '-c', LOOP], async () => {
      const usage = async (): Promise<number> =>
        ((await inspect('cold')) as unknown as { limits: { usage: { cpuUsageUs: number } } }).limits.usage
          .cpuUsageUs;
      await v.ok(['pause', 'cold']);
      await v.ok(['pause', 'cold']);
      assert.equal((await inspect('cold'))['state'], 'paused');
      assert.match(await v.ok(['status', 'cold']), /is paused/);
      const before = await usage();
      await setTimeout(200);
      assert.ok((await usage()) - before < 5000, 'microseconds of 200,000');
      const exec = await v.run(['exec', 'cold', 'true']);
      assert.equal(exec.code, 125);
      assert.match(exec.stderr, /found it paused; need `vserver resume cold`/);
      await v.ok(['resume', 'cold']);
      await v.ok(['resume', 'cold']);
      await eventually('some work', async () => ((await usage()) - before > 50_000 ? true : undefined));
      await v.ok(['pause', 'cold']);
      await v.ok(['stop', 'cold', '-t', '1000']); // one that is paused stops at once
      assert.equal(await code('pause', 'cold'), 1);
    });
  });

  test('stop asks first and kills then', async () => {
    const trapping = (trap: string): readonly string[] => [
      'sh',
      '-c',
      `trap ${trap}; echo ready; while :; do sleep 0.01; done`,
    ];
    await withGuest('polite', trapping('"exit 4" TERM'), async () => {
      await ready('polite');
      await v.ok(['stop', 'polite']);
      assert.equal(((await inspect('polite'))['exit'] as { code: number }).code, 4);
    });
    await withGuest('deaf', trapping('"" TERM'), async () => {
      await ready('deaf');
      const started = performance.now();
      await v.ok(['stop', '-t', '300ms', 'deaf']);
      assert.ok(performance.now() - started >= 300);
      assert.equal(((await inspect('deaf'))['exit'] as { code: number }).code, 137);
    });
    await v.ok(['run', '-d', '--name', 'own', '--stop-signal', 'USR1', '--', ...trapping('"exit 6" USR1')]);
    await ready('own');
    await v.ok(['stop', 'own']);
    assert.equal(((await inspect('own'))['exit'] as { code: number }).code, 6);
    await v.ok(['delete', 'own']);
  });

  test('who waited for a command has its guest at once again', async () => {
    for (let i = 1; i <= 10; i++) {
      const script = `sleep 1000 & exit ${i}`;
      assert.equal(await code('run', '--rm', '--name', 'brief', '--', 'sh', '-c', script), i);
    }
    assert.equal(await code('run', '--name', 'stays', '--', 'sh', '-c', 'sleep 1000 & exit 3'), 3);
    for (let i = 0; i < 5; i++) assert.equal(await v.ok(['start', 'stays']), 'stays\n');
    assert.equal(await v.ok(['delete', '--force', 'stays']), 'stays\n');
    for (let i = 0; i < 3; i++) {
      await v.ok(['run', '--', 'true']);
      await v.ok(['daemon', 'stop']);
    }
  });

  test('kill and wait', async () => {
    const script = 'trap "exit 5" USR1; echo ready; while :; do sleep 0.01; done';
    await withGuest('job', ['sh', '-c', script], async () => {
      await ready('job');
      const waiting = [v.run(['wait', 'job']), v.run(['wait', 'job', '--json'])];
      await setTimeout(50); // they wait by now, or are told of the last run
      await v.ok(['kill', '-s', 'USR1', 'job']);
      const [text, structured] = await Promise.all(waiting);
      assert.deepEqual([text?.code, text?.stdout], [0, '5\n']);
      assert.equal((JSON.parse(structured?.stdout ?? '') as { exitCode: number }[])[0]?.exitCode, 5);
      assert.equal(await v.ok(['wait', 'job']), '5\n', 'of the last run');
      assert.equal(await code('kill', 'job'), 1);
      assert.equal(await code('kill', '-s', 'NONSENSE', 'job'), 2);
      await v.ok(['start', 'job']);
      await v.ok(['kill', 'job']);
      assert.equal(await code('status', 'job'), 3);
    });
  });

  test('exec: user, directory, environment, streams, exit codes', async () => {
    await withGuest('host', ['sleep', '1000'], async () => {
      const sh = ['sh', '-c', 'echo $(id -u) $(pwd) $A; cat; echo err >&2; exit 9'];
      const outcome = await v.run(['exec', '-u', 'nobody', '-w', '/usr', '-e', 'A=b', 'host', ...sh], {
        input: 'in\n',
      });
      assert.deepEqual(outcome, { code: 9, stdout: '65534 /usr b\nin\n', stderr: 'err\n' });
      assert.equal(await code('exec', 'host', 'no-such'), 127);
      assert.equal(await code('exec', 'host', '/etc'), 126);
      assert.equal(await code('exec', 'host', 'sh', '-c', 'kill -9 $$'), 137);
      assert.equal(await code('exec', 'no-such', 'true'), 125);
      assert.equal(await code('exec', '-u', 'no-such', 'host', 'true'), 125);
      assert.equal(await code('exec', '-w', '/no/such', 'host', 'true'), 125);
      assert.equal(await code('exec', '--no-such', 'host', 'true'), 125);
      assert.equal(await code('exec', 'host'), 125);
      await v.ok(['exec', '-d', 'host', 'sh', '-c', 'sleep 0.1; touch /root/done']);
      await eventually('its work', async () =>
        (await code('exec', 'host', 'test', '-e', '/root/done')) === 0 ? true : undefined,
      );
      const many = await Promise.all(
        Array.from({ length: 30 }, (_, i) => v.ok(['exec', 'host', 'echo', String(i)])),
      );
      assert.deepEqual(
        many,
        Array.from({ length: 30 }, (_, i) => `${i}\n`),
      );
      const last = v.run(['exec', 'host', 'sh', '-c', 'touch /root/begun; exec sleep 1000']);
      await eventually('it runs', async () =>
        (await code('exec', 'host', 'test', '-e', '/root/begun')) === 0 ? true : undefined,
      );
      await v.ok(['stop', '-t', '0', 'host']);
      assert.equal((await last).code, 137, 'it ends with its guest');
    });
  });

  test('logs: follow, tail, a guest that has ended', async () => {
    await v.ok([
      'create',
      'chat',
      '--',
      'sh',
      '-c',
      'for i in 1 2 3 4 5; do echo $i; sleep 0.05; done; printf rest',
    ]);
    await v.ok(['start', 'chat']);
    assert.equal(await v.ok(['logs', '-f', 'chat']), '1\n2\n3\n4\n5\nrest', 'follows to the end of the run');
    assert.equal(await v.ok(['logs', '-n', '2', 'chat']), '5\nrest');
    assert.equal(await v.ok(['logs', '-n', '0', 'chat']), '');
    await v.ok(['delete', 'chat']);
    assert.equal(await code('logs', 'chat'), 5);
  });

  test('--explain prints the system calls of an operation, and does none of them', async () => {
    await v.ok(['create', 'shown', '--', 'sleep', '1000']);
    const context = /clone3\(CLONE_NEWUSER\|/;
    assert.match(await v.ok(['start', '--explain', 'shown']), context);
    assert.equal((await v.run(['status', 'shown'])).code, 3);
    await v.ok(['start', 'shown']);
    const processes = async (): Promise<number> => (await v.ok(['ps', 'shown'])).split('\n').length;
    const before = await processes();
    const ways: readonly (readonly [args: readonly string[], calls: RegExp])[] = [
      [['run', '--explain', '--', 'uname', '-a'], context],
      [['exec', '--explain', 'shown', 'uname', '-a'], /execve\(.*# execve "uname"/s],
      [['enter', '--explain', 'shown'], /setns\(.*# namespaces of the guest.*"\/bin\/sh"/s],
    ];
    for (const [args, calls] of ways) assert.match(await v.ok(args), calls, args.join(' '));
    assert.equal(await processes(), before);
    assert.equal((await v.ok(['list', '--quiet'])).includes('guest-'), false);
    await v.ok(['delete', '--force', 'shown']);
  });

  test('nonsense is refused, with the right exit code and a reason', async () => {
    await v.ok(['create', 'there', '--', 'sleep', '1000']);
    const problems: string[] = [];
    for (const [exitCode, ...args] of [
      [2, 'bogus'],
      [2, 'create'],
      [2, 'create', 'a b', '--', 'true'],
      [2, 'create', '-', '--', 'true'],
      [2, 'create', '7', '--', 'true'],
      [2, 'create', 'x'.repeat(300), '--', 'true'],
      [2, 'create', '../x', '--', 'true'],
      [2, 'create', 'new'],
      [2, 'create', 'new', '--memory', 'lots', '--', 'true'],
      [2, 'create', 'new', '--template', 'nope', '--', 'true'],
      [1, 'create', 'there', '--', 'true'],
      [2, 'start'],
      [5, 'start', 'no-such'],
      [2, 'start', '--bogus', 'there'],
      [2, 'start', 'a b'],
      [2, 'stop'],
      [5, 'stop', 'no-such'],
      [2, 'stop', '-t', 'x', 'there'],
      [2, 'restart'],
      [5, 'restart', 'no-such'],
      [125, 'exec'],
      [125, 'enter', 'no-such'],
      [125, 'enter', 'there'],
      [2, 'kill'],
      [5, 'kill', 'no-such'],
      [1, 'kill', 'there'],
      [2, 'pause'],
      [1, 'pause', 'there'],
      [1, 'resume', 'there'],
      [5, 'ps', 'no-such'],
      [2, 'list', 'extra'],
      [5, 'status', 'no-such'],
      [5, 'status', '9999'],
      [2, 'status'],
      [2, 'inspect'],
      [5, 'inspect', 'no-such'],
      [5, 'set', 'no-such', 'limits.pids=5'],
      [2, 'set'],
      [2, 'logs'],
      [2, 'logs', '-n', 'x', 'there'],
      [5, 'logs', 'no-such'],
      [2, 'wait'],
      [5, 'wait', 'no-such'],
      [2, 'delete'],
      [5, 'delete', 'no-such'],
      [5, 'check', 'no-such'],
      [2, 'completion', 'tcsh'],
      [2, 'daemon'],
      [2, 'daemon', 'bogus'],
      [2, 'help', 'bogus'],
    ] as const) {
      const { code: found, stderr } = await v.run(args);
      const isFine = found === exitCode && stderr.startsWith('vserver: cannot ') && !/\n {4}at /.test(stderr);
      if (!isFine) problems.push(`vserver ${args.join(' ')}: ${found}, not ${exitCode}: ${stderr}`);
    }
    assert.deepEqual(problems, []);
    assert.equal(await v.ok(['list', '-a', '-q']), 'there\n');
    await v.ok(['start', 'there']);
    assert.equal(await code('delete', 'there'), 1, 'it runs');
    assert.equal(await code('daemon', 'stop'), 1);
    await v.ok(['delete', '-f', 'there']);
  });
});
