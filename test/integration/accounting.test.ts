/** What guests use, as `stat` and `top` show it. */
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { eventually, type OpenInstance, openInstance } from '../lib/instance.ts';
import { unmet } from '../lib/requires.ts';
import { openTerminal } from '../lib/terminal.ts';

const MIB = 1024 ** 2;
/** Emulation on a busy machine takes its time. */
const READY_MS = 60_000;

interface Account {
  readonly name: string;
  readonly processes: number;
  readonly cpu: { readonly userUs: number; readonly systemUs: number };
  readonly memory: Readonly<Record<string, number | null>>;
  readonly io: { readonly writeBytes: number };
  readonly openFiles: number;
  readonly forks: number | null;
}

describe('accounting', { skip: unmet('root', 'cgroup2', 'overlay', 'userns', 'busybox') }, () => {
  let v: OpenInstance;
  before(async () => {
    v = await openInstance();
    // The first command compiles the sources: under emulation that takes its time.
    await v.ok(['list'], { timeoutMs: 120_000 });
  });
  after(async () => {
    await v.close();
  });

  const start = async (name: string, script: string, ...options: readonly string[]): Promise<void> => {
    await v.ok(['run', '-d', '--name', name, '--template', 'busybox', ...options, '--', 'sh', '-c', script]);
    await eventually(
      `${name} is ready`,
      async () => ((await v.ok(['logs', name])).includes('ready') ? true : undefined),
      READY_MS,
    );
  };
  const accountOf = async (name: string): Promise<Account> => {
    const [account] = JSON.parse(await v.ok(['stat', '--json', name])) as [Account];
    return account;
  };
  const xidOf = async (name: string): Promise<number> => {
    const [{ xid }] = JSON.parse(await v.ok(['inspect', name])) as [{ xid: number }];
    return xid;
  };

  test('has the columns of vserver-stat, the host first', async () => {
    await start('idle', 'echo ready; exec sleep 1000');
    const [titles, host, ...rest] = (await v.ok(['stat'])).trimEnd().split('\n');
    assert.equal(titles, 'CTX   PROC    VSZ    RSS  userTIME   sysTIME    UPTIME NAME');
    assert.match(host ?? '', /^0 +\d+ +[\d.]+[KMGT] +[\d.]+[KMGT] +\d\S+ +\d\S+ +\d\S+ root server$/);
    assert.ok(
      rest.some((line) => /^\d+ +2 +[\d.]+[KM] .* idle$/.test(line)),
      rest.join('\n'),
    );
    await v.ok(['stop', '-t', '0', 'idle']);
    const stopped = await v.run(['stat', 'idle']);
    assert.match(stopped.stderr, /found it stopped|no guest/);
  });

  test('counts CPU time, memory by kind, I/O and open files', async () => {
    // 20 MiB in a variable, 8 MiB in a tmpfs, a file written through to its device, three files open.
    const script = [
      'a=$(dd if=/dev/zero bs=1M count=20 2>/dev/null | tr "\\0" x)',
      'dd if=/dev/zero of=/dev/shm/f bs=1M count=8 2>/dev/null',
      'i=0; while [ $i -lt 30000 ]; do i=$((i+1)); done',
      'exec 5</dev/null 6</dev/null 7</dev/null; echo ready; sleep 1000; echo $a',
    ];
    await start('busy', script.join('\n'));
    const { cpu, memory, openFiles } = await eventually('process 1, the shell, and sleep', async () => {
      const account = await accountOf('busy');
      return account.processes === 3 ? account : undefined;
    });
    assert.ok(cpu.userUs > 10_000, `user time ${cpu.userUs}`);
    assert.ok((memory['anonBytes'] ?? 0) >= 20 * MIB, JSON.stringify(memory));
    assert.ok((memory['sharedBytes'] ?? 0) >= 8 * MIB, JSON.stringify(memory));
    assert.ok((memory['virtualBytes'] ?? 0) >= 20 * MIB, JSON.stringify(memory));
    assert.ok((memory['usedBytes'] ?? 0) >= 28 * MIB, JSON.stringify(memory));
    // Of the shell three more than of a process with three; sleep has them too.
    assert.ok(openFiles >= 2 * 6, `${openFiles} open files`);
    await v.ok(['stop', '-t', '0', 'busy']);
  });

  test('counts forks exactly, also those while vserverd is dead', async () => {
    await start('forking', 'echo ready; exec sleep 1000');
    const forks = async (): Promise<number> => {
      const { forks } = await accountOf('forking');
      assert.ok(forks !== null, 'this kernel counts them');
      return forks;
    };
    // The shell, which process 1 made.
    assert.equal(await forks(), 1);
    const fork = async (count: number): Promise<void> => {
      const script = `i=0; while [ $i -lt ${count} ]; do (:); i=$((i+1)); done`;
      await v.ok(['exec', 'forking', 'sh', '-c', script]);
    };
    await fork(137);
    assert.equal(await forks(), 138);
    const { vserverdPid } = JSON.parse(await v.ok(['daemon', 'status', '--json'])) as { vserverdPid: number };
    process.kill(vserverdPid, 'SIGKILL');
    await eventually('the next vserverd', async () =>
      (await v.run(['list'])).code === 0 ? true : undefined,
    );
    await fork(5);
    assert.equal(await forks(), 143);
    assert.match(await v.ok(['procfs', `virtual/${await xidOf('forking')}/cvirt`]), /^total_forks:\t143$/m);
    const [history] = JSON.parse(await v.ok(['stat', '--since', '1h', '--json', 'forking'])) as [
      { readonly samples: readonly { readonly forks: number }[] },
    ];
    assert.equal(history.samples.at(-1)?.forks, 143);
    await v.ok(['stop', '-t', '0', 'forking']);
  });

  test('what was used is remembered, also of guests that are gone and by the next vserverd', async () => {
    interface History {
      readonly name: string;
      readonly cpuUserUs: number;
      readonly samples: readonly { readonly at: number; readonly tasks: number }[];
    }
    const since = async (...words: readonly string[]): Promise<readonly History[]> =>
      JSON.parse(await v.ok(['stat', '--since', '1h', '--json', ...words])) as readonly History[];
    await start('worker', 'echo ready; while :; do :; done', '--cpus', '0.2');
    const [first] = await since('worker');
    assert.equal(first?.samples[0]?.tasks, 2);
    const [second] = await eventually('it has used time', async () => {
      const found = await since('worker');
      return (found[0]?.cpuUserUs ?? 0) > 0 ? found : undefined;
    });
    assert.ok(second && second.samples.length >= 2);
    await v.ok(['stop', '-t', '0', 'worker']);
    const { vserverdPid } = JSON.parse(await v.ok(['daemon', 'status', '--json'])) as { vserverdPid: number };
    process.kill(vserverdPid, 'SIGKILL');
    // A client that comes while the old one is just dying ends with it.
    await eventually('the next vserverd', async () =>
      (await v.run(['list'])).code === 0 ? true : undefined,
    );
    const [later] = await since('worker');
    assert.ok(later && later.samples.length >= second.samples.length && later.cpuUserUs >= second.cpuUserUs);
    assert.match(await v.ok(['stat', '--since', '1h']), /^NAME +SEEN .*\n(.*\n)*worker +\d/);
    assert.deepEqual(await since('nobody'), []);
  });

  test('top tells the share of CPU time, and is a table in place on a terminal', async () => {
    await start('hog', 'echo ready; while :; do :; done', '--cpus', '0.2');
    const percent = await eventually('its share', async () => {
      const rows = JSON.parse(await v.ok(['top', '--once', '--interval', '1s', '--json'])) as readonly {
        readonly name: string;
        readonly cpuPercent: number;
      }[];
      const found = rows.find(({ name }) => name === 'hog')?.cpuPercent ?? 0;
      return found > 2 ? found : undefined; // others may take the processors for a second
    });
    assert.ok(percent < 40, `${percent} %, of which it may have 20`);
    const plain = await v.ok(['top', '--once', '--interval', '0.1s', '--sort', 'name']);
    assert.match(plain, /^ *CTX .*\n +0 .* root server\n(.*\n)* *\d+ .* hog\n/);

    const terminal = await openTerminal(v, '"$V" top --interval 10m; echo "end $?"');
    try {
      await terminal.see(/by cpu/);
      await terminal.see(/ hog/);
      terminal.type('m');
      await terminal.see(/by memory/);
      terminal.type(' ');
      await terminal.see(/ hog/);
      terminal.type('q');
      await terminal.see(/1049l\s*end 0/);
      assert.equal(await terminal.ended, 0);
    } finally {
      await terminal.close();
    }
    await v.ok(['stop', '-t', '0', 'hog']);
  });
});
