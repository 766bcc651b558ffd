/** What a sudden end of any of our processes leaves: guests that go on, a true list, and nothing that nobody owns. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import {
  existsSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, test } from 'node:test';
import { setTimeout } from 'node:timers/promises';
import { loadAbi } from '../../src/sys/abi.ts';
import { cgroupsOf, eventually, type OpenInstance, type Outcome, openInstance } from '../lib/instance.ts';
import { unmet } from '../lib/requires.ts';

const STARTS = process.env['VSERVER_TEST_VM'] === '1' ? 10 : 50;

interface Daemons {
  readonly vserverdPid: number;
  readonly syscalldPid: number;
}

/** Children of a process that are process 1 of a pid namespace. */
function inits(parent: number): readonly number[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .filter((pid) => {
      try {
        const status = readFileSync(`/proc/${pid}/status`, 'latin1');
        return status.includes(`\nPPid:\t${parent}\n`) && /^NSpid:\t\d+\t1$/m.test(status);
      } catch {
        return false; // it has ended
      }
    })
    .map(Number);
}

describe('crashes', { skip: unmet('root', 'overlay') }, () => {
  let v: OpenInstance;
  beforeEach(async () => {
    v = await openInstance();
  });
  // Fails when a process, a cgroup or a mount is left.
  afterEach(() => v.close());

  const daemons = async (): Promise<Daemons> =>
    JSON.parse(await v.ok(['daemon', 'status', '--json'])) as Daemons;
  const inspect = async (name: string): Promise<Record<string, unknown>> => {
    const [guest] = JSON.parse(await v.ok(['inspect', name, '--json'])) as Record<string, unknown>[];
    return guest!;
  };
  /** Kills vserverd, and waits until its successor serves. */
  const killVserverd = async (): Promise<Daemons> => {
    const { vserverdPid } = await daemons();
    process.kill(vserverdPid, 'SIGKILL');
    return await eventually('another vserverd', async () => {
      const outcome = await v.run(['daemon', 'status', '--json']);
      if (outcome.code !== 0) return undefined; // it had taken this one on
      const now = JSON.parse(outcome.stdout) as Daemons;
      return now.vserverdPid === vserverdPid ? undefined : now;
    });
  };
  const killSyscalld = async (known?: Daemons): Promise<void> => {
    const { syscalldPid, vserverdPid } = known ?? (await daemons());
    process.kill(syscalldPid, 'SIGKILL');
    await eventually('the end of both', () =>
      existsSync(`/proc/${syscalldPid}`) || existsSync(`/proc/${vserverdPid}`) ? undefined : true,
    );
  };
  /** Kills syscalld while it waits for events: what it has read of a log and not yet written goes with it. */
  const killSyscalldAtRest = async (): Promise<void> => {
    const both = await daemons();
    const { syscalldPid } = both;
    const { syscalls } = loadAbi();
    const told = (file: string): string => readFileSync(`/proc/${syscalldPid}/${file}`, 'latin1');
    await eventually('a moment of rest', async () => {
      process.kill(syscalldPid, 'SIGSTOP');
      await eventually('it is stopped', () => (/^State:\tT/m.test(told('status')) ? true : undefined));
      const call = Number(told('syscall').split(' ')[0]);
      if (call === syscalls['epoll_wait'] || call === syscalls['epoll_pwait']) return true;
      process.kill(syscalldPid, 'SIGCONT');
      return undefined;
    });
    await killSyscalld(both);
  };
  const usable = async (name: string): Promise<void> => {
    // Its command may write before the end of its start is known.
    const isRunning = new RegExp(`^${name} .* running `, 'm');
    await eventually(`${name} runs`, async () => isRunning.test(await v.ok(['list'])) || undefined);
    assert.equal(await v.ok(['exec', name, 'echo', 'hi']), 'hi\n');
    assert.equal((await v.run(['status', name])).code, 0);
  };
  /** Starts a client, and resolves when its command has written something. */
  const begin = async (args: readonly string[]): Promise<{ readonly ended: Promise<Outcome> }> => {
    const client = v.spawn(args);
    let [stdout, stderr] = ['', ''];
    client.stdout?.setEncoding('utf8').on('data', (text: string) => (stdout += text));
    client.stderr?.setEncoding('utf8').on('data', (text: string) => (stderr += text));
    const ended = once(client, 'close').then(([code]) => ({ code: Number(code), stdout, stderr }));
    await eventually('its first words', () => (stdout === '' ? undefined : true));
    return { ended };
  };
  /** Directories of guests, on disk and in the cgroup hierarchies; what is prepared for guests to come aside. */
  const guestDirectories = (): readonly string[] => readdirSync(join(v.root, 'lib/guests'));

  test('of both while a guest is frozen to be read: it goes on', async () => {
    await v.ok(['run', '-d', '--name', 'read', '--', 'sleep', '1000']);
    const { xid } = await inspect('read');
    const file = cgroupsOf(v.root)
      .map((path) => join(path, String(xid), 'g/cgroup.freeze'))
      .find((path) => existsSync(path));
    writeFileSync(file!, '1'); // as a snapshot or a clone does it
    await killSyscalld();
    await usable('read');
    assert.equal(readFileSync(file!, 'utf8'), '0\n');
    await v.ok(['kill', 'read']);
  });

  test('of the client: the command goes on, and its guest goes with it', async () => {
    const client = v.spawn(['run', '--name', 'lonely', '--rm', '--', 'sh', '-c', 'echo ready; sleep 1000']);
    await once(client.stdout!, 'data');
    client.kill('SIGKILL');
    await once(client, 'exit');
    await usable('lonely');
    await v.ok(['kill', 'lonely']);
    assert.equal((await v.run(['status', 'lonely'])).code, 5);
  });

  test('of clients that have just begun: what they asked for happens or does not', async () => {
    await v.ok(['daemon', 'start']);
    for (let i = 0; i < STARTS; i++) {
      const client = v.spawn(['run', '-d', '--', 'sleep', '1000']);
      await setTimeout(i % 10);
      client.kill('SIGKILL');
    }
    const look = async (): Promise<readonly { readonly name: string; readonly state: string }[]> =>
      JSON.parse(await v.ok(['list', '-a', '--json'])) as { name: string; state: string }[];
    const [one] = await eventually('the end of all starts', async () => {
      const guests = await look();
      return guests.some(({ state }) => state === 'starting') ? undefined : guests;
    });
    if (one) await usable(one.name);
    // A request that was read before its client was killed may still be on its way to a guest.
    await eventually('no guest', async () => {
      await v.run(['delete', '--all', '--force']);
      await setTimeout(100);
      return (await look()).length === 0 ? true : undefined;
    });
  });

  test('of vserverd: the next one serves though the disk takes nothing new, so that room can be made', async () => {
    await v.ok(['create', 'web', '--', 'sleep', '1000']);
    // Directories for a try cannot be made, as on a full disk.
    const probe = join(v.root, 'lib/.probe');
    symlinkSync('/nowhere/at/all', probe);
    await killVserverd();
    await v.ok(['start', 'web']);
    await v.ok(['delete', '--force', 'web']);
    rmSync(probe);
  });

  test('of vserverd: guests go on, and everything can be done with them', async () => {
    await v.ok([
      'run',
      '-d',
      '--name',
      'stays',
      '--',
      'sh',
      '-c',
      'i=0; while :; do echo $i; i=$((i+1)); sleep 0.01; done',
    ]);
    await v.ok(['run', '-d', '--', 'sleep', '1000']);
    await v.ok(['run', '-d', '--name', 'cold', '--', 'sleep', '1000']);
    await v.ok(['pause', 'cold']);
    await v.ok(['create', 'stopped', '--', 'true']);
    const before = JSON.parse(await v.ok(['list', '-a', '--json'])) as {
      name: string;
      state: string;
      initPid: number;
    }[];
    await killVserverd();
    const after = JSON.parse(await v.ok(['list', '-a', '--json'])) as typeof before;
    const shape = (guests: typeof before): unknown =>
      guests.map(({ name, state, initPid }) => [name, state, initPid]);
    assert.deepEqual(shape(after), shape(before));
    await usable('stays');
    const lines = (await v.ok(['logs', 'stays'])).trim().split('\n').map(Number);
    assert.deepEqual(
      lines,
      lines.map((_, i) => i),
      'no line is lost',
    );
    await v.ok(['resume', 'cold']);
    await usable('cold');
    await v.ok(['set', 'cold', 'limits.pids=77']);
    const waiting = v.run(['wait', 'cold']);
    await v.ok(['stop', '-t', '0', 'cold']);
    assert.equal((await waiting).stdout, '137\n');
    await v.ok(['start', 'cold']);
    await v.ok(['delete', '--all', '--force']);
    assert.deepEqual(guestDirectories(), []);
  });

  test('of vserverd, again and again: commands that run in guests go on', async () => {
    await v.ok(['run', '-d', '--name', 'busy', '--', 'sleep', '1000']);
    const count = 'i=0; while [ $i -lt 150 ]; do echo $i; i=$((i+1)); sleep 0.01; done; exit 9';
    const flow = await begin(['exec', 'busy', 'sh', '-c', count]);
    const own = await begin(['run', '--', 'sh', '-c', 'echo begun; sleep 1.5; echo end; exit 8']);
    for (let i = 0; i < 3; i++) await killVserverd();
    const { code, stdout } = await flow.ended;
    assert.deepEqual([code, stdout.split('\n').length], [9, 151]);
    assert.deepEqual(await own.ended, { code: 8, stdout: 'begun\nend\n', stderr: '' });
    assert.equal(await v.ok(['list', '-a', '-q']), 'busy\n');
  });

  test(`of vserverd with ${STARTS} starts under way: each guest runs, or is not there`, async () => {
    const { vserverdPid } = await daemons();
    const names = Array.from({ length: STARTS }, (_, i) => `g${i}`);
    const starts = names.map((name, i) =>
      v.run(['run', '-d', ...(i % 2 ? ['--name', name] : []), '--', 'sleep', '1000']),
    );
    await Promise.race(starts);
    process.kill(vserverdPid, 'SIGKILL');
    for (const { code, stderr } of await Promise.all(starts)) {
      if (code !== 0)
        assert.match(stderr, /^vserver: cannot finish the command: found the control plane restarting/);
    }
    const guests = JSON.parse(await v.ok(['list', '-a', '--json'])) as {
      name: string;
      xid: number;
      state: string;
      initPid: number | null;
    }[];
    for (const { name, state, initPid } of guests) {
      assert.ok(state === 'running' || state === 'stopped', `${name} is ${state}`);
      assert.equal(initPid !== null && existsSync(`/proc/${initPid}`), state === 'running');
    }
    // No process 1 but theirs: a start that did not come to its end left none.
    const inits = (await v.ok(['ps', '--json'])).matchAll(/"guestPid": 1,/g);
    assert.equal([...inits].length, guests.filter(({ state }) => state === 'running').length);
    for (const { name } of guests)
      assert.ok(guestDirectories().includes(name) || name.startsWith('guest-'), name);
    await v.ok(['delete', '--all', '--force']);
    assert.deepEqual(guestDirectories(), []);
    for (const name of names.slice(0, 5)) await v.ok(['run', '--name', name, '--rm', '--', 'true']);
  });

  test('of vserverd while guests are deleted: each is whole or gone', async () => {
    const names = Array.from({ length: 20 }, (_, i) => `d${i}`);
    for (const name of names) await v.ok(['create', name, '--', 'sleep', '1000']);
    await v.ok(['start', ...names.slice(0, 10)]);
    const { vserverdPid } = await daemons();
    const deletion = v.run(['delete', '--force', ...names]);
    await setTimeout(30);
    process.kill(vserverdPid, 'SIGKILL');
    await deletion;
    const left = (await v.ok(['list', '-a', '-q'])).split('\n').filter(Boolean);
    assert.deepEqual(
      [...guestDirectories()].sort(),
      left.toSorted(),
      'files of those that are left, and no others',
    );
    for (const name of left) {
      await v.run(['start', name]);
      await usable(name);
    }
    if (left.length > 0) await v.ok(['delete', '--force', ...left]);
    assert.deepEqual(guestDirectories(), []);
  });

  test("of a guest's process 1 and of its command: the guest has ended, with what it had", async () => {
    for (const init of ['fake', 'none'] as const) {
      await v.ok([
        'run',
        '-d',
        '--name',
        init,
        `--init=${init}`,
        '--',
        'sh',
        '-c',
        'sleep 1000 & sleep 1000 & wait',
      ]);
      const { initPid } = await inspect(init);
      const waiting = v.run(['wait', init]);
      process.kill(Number(initPid), 'SIGKILL');
      assert.equal((await waiting).stdout, '137\n');
      assert.equal((await v.run(['status', init])).code, 3);
      assert.equal(await v.ok(['ps', '--json', init]), '[]\n');
      await v.ok(['start', init]);
      await usable(init);
    }
  });

  /** What `check` says of guests whose parent is no more. */
  const takenOver = async (): Promise<string> => {
    const { stdout } = await v.run(['check', '--json']);
    const findings = JSON.parse(stdout) as { name: string; detail: string }[];
    return findings.find(({ name }) => name === 'guests taken over')?.detail ?? '';
  };

  test('of syscalld: guests go on, and the next client has it all again', async () => {
    await v.ok(['run', '-d', '--name', 'stays', '--', 'sleep', '1000']);
    await v.ok(['run', '-d', '--name', 'ends', '--', 'sleep', '1000']);
    await v.ok(['run', '-d', '--name', 'goes', '--rm', '--', 'sleep', '1000']);
    const pids = {
      stays: (await inspect('stays'))['initPid'],
      ends: (await inspect('ends'))['initPid'],
      goes: (await inspect('goes'))['initPid'],
    };
    const client = v.spawn(['exec', 'stays', 'sh', '-c', 'echo ready; exec sleep 1000']);
    await once(client.stdout!, 'data');
    const ended = once(client, 'exit');
    const told = once(client.stderr!, 'data');
    await killSyscalld();
    assert.deepEqual(await ended, [125, null]);
    assert.equal(String(await told), 'vserver: cannot finish the command: found the control plane gone\n');
    process.kill(Number(pids.ends), 'SIGKILL');
    await eventually('its end', () => (existsSync(`/proc/${pids.ends}`) ? undefined : true));
    await usable('stays');
    assert.equal((await inspect('stays'))['initPid'], pids.stays);
    await usable('goes');
    assert.match(
      await takenOver(),
      /^goes, stays, from a syscalld that died: how they end will not be known/,
    );
    assert.equal((await v.run(['status', 'ends'])).code, 3);
    assert.equal(((await inspect('ends'))['exit'] as { code: unknown }).code, null, 'nobody saw it');
    await v.ok(['start', 'ends']);
    await usable('ends');
    // The objects of now must not be taken for those of then.
    await usable('stays');
    await v.ok(['stop', '-t', '0', 'stays']);
    assert.equal((await v.run(['status', 'stays'])).code, 3);
    await usable('ends');
    await usable('goes');
    await v.ok(['kill', 'goes']);
    assert.equal((await v.run(['status', 'goes'])).code, 5);
    await killVserverd();
    await usable('ends');
    assert.equal(await takenOver(), 'none from a syscalld that died');
  });

  test('of syscalld: a guest that writes goes on, and not a line of its log is lost', async () => {
    const count = (to: string): string => `i=0; while :; do echo $i ${to}; i=$((i+1)); sleep 0.005; done`;
    await v.ok(['run', '-d', '--name', 'writes', '--', 'sh', '-c', `(${count('>&2')}) & ${count('')}`]);
    await v.ok(['run', '-d', '--name', 'floods', '--init=none', '--', 'yes']);
    const numbers = async (): Promise<readonly (readonly number[])[]> => {
      const { stdout, stderr } = await v.run(['logs', 'writes']);
      return [stdout, stderr].map((text) => text.split('\n').slice(0, -1).map(Number));
    };
    /** Resolves when both have written on. */
    const writesOn = async (): Promise<void> => {
      const before = await numbers();
      await eventually('more lines of both', async () =>
        (await numbers()).every((lines, i) => lines.length > before[i]!.length + 10) ? true : undefined,
      );
    };
    await writesOn();
    for (let i = 0; i < 2; i++) {
      await killSyscalldAtRest();
      await setTimeout(300); // nobody is there to write it down
      await usable('floods');
      await writesOn();
    }
    for (const lines of await numbers())
      assert.deepEqual(
        lines,
        lines.map((_, i) => i),
      );
    await v.ok(['stop', '-t', '0', 'writes', 'floods']);
  });

  test('of syscalld with starts under way', async () => {
    await v.ok(['daemon', 'start']);
    const starts = Array.from({ length: 10 }, () => v.run(['run', '-d', '--', 'sleep', '1000']));
    await Promise.race(starts);
    await killSyscalld();
    await Promise.all(starts);
    for (const name of (await v.ok(['list', '-q'])).split('\n').filter(Boolean)) await usable(name);
    await v.run(['delete', '--all', '--force']);
    assert.equal(await v.ok(['list', '-a', '-q']), '');
    assert.equal(await v.ok(['ps', '--json']), '[]\n');
  });

  test('of starts that hang: who stops or deletes the guest, or all of them, ends them', async () => {
    const { syscalldPid } = await daemons();
    const hang = async (): Promise<void> => {
      await v.ok(['run', '--', 'true']);
      // Process 1 of each context that waits for a guest.
      for (const pid of await eventually('contexts', () => {
        const waiting = inits(syscalldPid);
        return waiting.length >= 6 ? waiting : undefined;
      }))
        process.kill(pid, 'SIGSTOP');
    };
    const start = async (name: string): Promise<ReturnType<typeof v.run>[]> => {
      const running = v.run(['run', '-d', '--rm', '--name', name, '--', 'sleep', '1000']);
      await eventually('the start', async () =>
        new RegExp(`^${name} .* starting`, 'm').test(await v.ok(['list', '-a'])) ? true : undefined,
      );
      return [running]; // not the promise itself, which await would wait for
    };
    const cancelled = async (running: Promise<Awaited<ReturnType<typeof v.run>>>): Promise<void> => {
      const { code, stderr } = await running;
      assert.equal(code, 125);
      assert.match(stderr, /found it told to stop before it had started/);
    };
    await hang();
    for (const verb of [['stop'], ['delete', '--force']]) {
      const [running] = await start('slow');
      await v.ok([...verb, 'slow']);
      await cancelled(running!);
    }
    const all = [...(await start('one')), ...(await start('two'))];
    await v.ok(['daemon', 'stop', '--guests']);
    for (const running of all) await cancelled(running);
    await v.ok(['run', '--', 'true']);
  });

  test('of the control plane while clients come: each is served in the end', async () => {
    await v.ok(['run', '-d', '--name', 'stays', '--', 'sleep', '1000']);
    await v.ok(['delete', '--force', 'stays']);
    let isOver = false;
    const stops = (async () => {
      for (let i = 0; i < 5; i++) {
        await v.ok(['daemon', 'stop']);
        await setTimeout(50);
      }
      isOver = true;
    })();
    // So many at once: more would be what the stops wait for.
    const clients = Array.from({ length: 5 }, async () => {
      while (!isOver) {
        assert.match(await v.ok(['version']), /^vserver /);
        await setTimeout(50);
      }
    });
    await Promise.all([stops, ...clients]);
  });

  test('of the control plane by its own verb: who is slow to read is served to the end', async () => {
    await v.ok(['run', '-d', '--name', 'wrote', '--', 'sh', '-c', 'seq 40000']);
    await v.ok(['wait', 'wrote']).catch(() => ''); // or it has ended already
    const slow = ['sh', '-c', '"$0" "$@" | { sleep 0.7; cat; }'];
    const reading = v.run(['logs', 'wrote'], { under: slow });
    await setTimeout(200);
    await v.ok(['daemon', 'stop']);
    const { stdout, stderr } = await reading;
    assert.equal(stderr, '');
    assert.equal(stdout.split('\n').at(-2), '40000');
  });

  test('with the run directory gone the next client makes it anew', async () => {
    await v.ok(['create', 'stays', '--', 'sleep', '1000']);
    await v.ok(['daemon', 'stop']);
    rmSync(join(v.root, 'run'), { recursive: true });
    await v.ok(['start', 'stays']);
    await usable('stays');
  });

  test('a file that is not whole is told of or repaired, and harms nobody else', async () => {
    await v.ok(['run', '-d', '--name', 'config', '--', 'sleep', '1000']);
    await v.ok(['run', '-d', '--name', 'live', '--', 'sleep', '1000']);
    await v.ok(['run', '-d', '--name', 'junk', '--', 'sleep', '1000']);
    await v.ok(['run', '-d', '--name', 'fine', '--', 'sleep', '1000']);
    await v.ok(['create', 'cut', '--', 'true']);
    truncateSync(join(v.root, 'etc/guests/config.yaml'), 10);
    truncateSync(join(v.root, 'etc/guests/cut.yaml'), 10);
    truncateSync(join(v.root, 'run/guests/live.json'), 10);
    writeFileSync(join(v.root, 'run/guests/junk.json'), 'null');
    writeFileSync(join(v.root, 'etc/guests/empty.yaml'), '');
    writeFileSync(join(v.root, 'etc/guests/config.yaml.new'), 'half');
    await killVserverd();
    await usable('fine');
    await usable('config');
    const { stderr } = await v.run(['list', '-a']);
    assert.match(stderr, /cut\.yaml:1:/);
    const cut = await v.run(['start', 'cut']);
    assert.notEqual(cut.code, 0);
    assert.match(cut.stderr, /cut\.yaml:1:/);
    for (const name of ['live', 'junk']) {
      assert.equal(
        (await v.run(['status', name])).code,
        3,
        'its process 1 was not known any more, and is gone',
      );
      await v.ok(['start', name]);
      await usable(name);
    }
    await v.ok(['stop', '-t', '0', 'config']);
    // What is left of a guest whose file the operator removes is swept by the next vserverd.
    for (const name of ['config', 'cut', 'empty']) rmSync(join(v.root, `etc/guests/${name}.yaml`));
    await killVserverd();
    assert.deepEqual([...guestDirectories()].sort(), ['fine', 'junk', 'live']);
  });

  test('leaves nothing', async () => {
    await v.ok(['run', '-d', '--', 'sleep', '1000']);
    await killSyscalld();
    await killVserverd();
    await v.ok(['daemon', 'stop', '--guests']);
    assert.deepEqual(cgroupsOf(v.root), []);
    assert.deepEqual(readdirSync(join(v.root, 'run/guests')), []);
    assert.ok(
      !/"level":(50|60)/.test(
        readFileSync(join(v.root, 'run/vserverd.log'), 'utf8').replace(/.*found syscalld gone.*/g, ''),
      ),
    );
  });
});
