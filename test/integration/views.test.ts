/** What a guest reads of itself in /proc and /sys: its own limits and numbers, whoever dies meanwhile. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { existsSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, test } from 'node:test';
import { setTimeout } from 'node:timers/promises';
import { UPTIME_AHEAD_SECONDS } from '../../src/views/files.ts';
import { eventually, type OpenInstance, openInstance } from '../lib/instance.ts';
import { unmet } from '../lib/requires.ts';

const GUESTS = 20;
const READS = 170;
const HOST_CPUS = (readFileSync('/proc/cpuinfo', 'latin1').match(/^processor\s*:/gm) ?? []).length;

describe('views', { skip: unmet('root', 'overlay', 'fuse') }, () => {
  let v: OpenInstance;
  beforeEach(async () => {
    v = await openInstance();
  });
  // Fails when a process, a cgroup or a mount is left.
  afterEach(() => v.close());

  const inGuest = async (options: readonly string[], script: string): Promise<string> =>
    await v.ok(['run', ...options, '--', 'sh', '-c', script]);

  /** Creates and starts a guest that only waits. */
  const start = async (name: string, ...options: readonly string[]): Promise<void> => {
    await v.ok(['run', '-d', '--name', name, ...options, '--', 'sleep', '1000']);
  };

  const daemons = async (): Promise<{ readonly vserverdPid: number; readonly syscalldPid: number }> =>
    JSON.parse(await v.ok(['daemon', 'status', '--json'])) as {
      readonly vserverdPid: number;
      readonly syscalldPid: number;
    };

  const relayPid = (): number =>
    (JSON.parse(readFileSync(join(v.root, 'run/views.json'), 'utf8')) as { relay: { pid: number } }).relay
      .pid;

  /** How long ago a moment of `performance.now()` is. */
  const secondsSince = (ms: number): number => (performance.now() - ms) / 1000;

  test('put no page of the cache on the account of a guest: its memory cgroup would stay for as long', async () => {
    // What the first ones read of the host's files stays on theirs.
    for (const name of ['first', 'second', 'third', 'fourth']) await start(name, '--network', 'none', '--rm');
    const [...guests] = JSON.parse(
      await v.ok(['inspect', '--json', 'second', 'third', 'fourth']),
    ) as readonly {
      readonly limits: { readonly usage: { memoryFileBytes: number; memorySharedBytes: number } };
    }[];
    const bytes = guests.map(({ limits: { usage } }) => usage.memoryFileBytes - usage.memorySharedBytes);
    assert.equal(Math.min(...bytes), 0, `page cache of guests that read nothing: ${bytes.join(' ')}`);
  });

  test('tell the limits of the guest, and agree with each other', async () => {
    const askedMs = performance.now();
    const out = await inGuest(
      ['-m', '300m', '--cpus', '1'],
      'head -1 /proc/meminfo; grep -c ^processor /proc/cpuinfo; cat /sys/devices/system/cpu/online; ' +
        'grep -c "^cpu[0-9]" /proc/stat; tail -n +2 /proc/swaps | wc -l; cut -d. -f1 /proc/uptime; ' +
        'echo $(($(date +%s) - $(sed -n "s/^btime //p" /proc/stat)))',
    );
    const [memory, cpuinfo, online, stat, swaps, uptime, age] = out.trim().split('\n');
    assert.match(memory ?? '', /^MemTotal: +307200 kB$/);
    assert.deepEqual([cpuinfo, online, stat, swaps], ['1', '0', '1', '0']);
    const boundS = secondsSince(askedMs) + 1;
    assert.ok(Number(uptime) < boundS, `uptime ${uptime}`);
    assert.ok(Number(age) <= boundS, `booted ${age} s ago`);
  });

  test('are what procps and the C library go by', async () => {
    const askedMs = performance.now();
    const out = await inGuest(
      ['-m', '300m', '--cpus', '1'],
      'free -k | sed -n 2p; vmstat -s -S k | head -1; getconf _NPROCESSORS_ONLN; top -bn1 | sed -n 3,4p; uptime; ps -o etimes= -p $$',
    );
    const [free, vmstat, online, cpu, mem, uptime, age] = out.trim().split('\n');
    assert.match(free ?? '', /^Mem: +307200 /);
    assert.match(vmstat ?? '', /^ *314572 k total memory$/); // in thousands
    assert.equal(online, '1');
    assert.match(cpu ?? '', /^%Cpu\(s\):/);
    assert.match(mem ?? '', /^MiB Mem : +300\.0 total/);
    assert.match(uptime ?? '', / up \d+ min,.* load average: [0-2]\.\d\d, 0\.\d\d, 0\.\d\d$/);
    assert.ok(Number(age) <= secondsSince(askedMs) + 1, `the shell is ${age} s old`);
  });

  test('follow a limit that is changed, and count what is used', async () => {
    await v.ok(['create', 'web', '--memory', '300m', '--command', 'sleep 1000']);
    await v.ok(['start', 'web']);
    const total = async (): Promise<string> => await v.ok(['exec', 'web', 'head', '-1', '/proc/meminfo']);
    assert.match(await total(), / 307200 kB/);
    await v.ok(['set', 'web', 'limits.memory=200m']);
    await eventually('the new limit', async () => (/ 204800 kB/.test(await total()) ? true : undefined));
    await v.ok(['exec', 'web', 'sh', '-c', 'head -c 50m /dev/zero > /dev/shm/x']);
    const used = await eventually('what is used', async () => {
      const shared = await v.ok([
        'exec',
        'web',
        'sed',
        '-n',
        's/^Shmem: *\\([0-9]*\\) kB/\\1/p',
        '/proc/meminfo',
      ]);
      return Number(shared) >= 51_200 ? Number(shared) : undefined;
    });
    assert.ok(used < 56_000, `${used} kB of shared memory`);
  });

  test('are those of a guest without limits too', async () => {
    const out = await inGuest(
      [],
      'grep -c ^processor /proc/cpuinfo; head -2 /proc/meminfo; cat /proc/loadavg',
    );
    const [cpus, total, free, load] = out.split('\n');
    assert.equal(cpus, String(HOST_CPUS));
    assert.equal(total, readFileSync('/proc/meminfo', 'latin1').split('\n')[0]);
    assert.notEqual(free, readFileSync('/proc/meminfo', 'latin1').split('\n')[1]);
    assert.match(load ?? '', /^0\.\d\d 0\.\d\d 0\.\d\d \d+\/\d+ \d+$/);
  });

  test("count the guest's own tasks for its load, and no other's", async () => {
    await v.ok(['run', '-d', '--name', 'busy', '--', 'sh', '-c', 'while :; do :; done']);
    await v.ok(['run', '-d', '--name', 'idle', '--', 'sh', '-c', 'sleep 1000 & sleep 1000 & wait']);
    const load = async (name: string): Promise<readonly string[]> =>
      (await v.ok(['exec', name, 'cat', '/proc/loadavg'])).trim().split(' ');
    // The built-in init, the shell, two sleepers and the reader, which waits for us.
    await eventually(
      'the sleepers',
      async () => /^[01]\/5$/.test((await load('idle'))[3] ?? '') || undefined,
    );
    await eventually(
      'the loop',
      async () => /^[1-3]\/[23]$/.test((await load('busy'))[3] ?? '') || undefined,
    );
    await eventually('a load of the one and not of the other', async () => {
      const [busy, idle] = [await load('busy'), await load('idle')].map(([average]) => Number(average));
      return busy! > 0 && idle! < busy! + 0.1 && idle! < 0.2 ? true : undefined;
    });
  });

  test('tell how often its processes have forked', async () => {
    await start('web');
    let looks = 0;
    const forks = async (): Promise<number> => {
      looks++;
      return Number(await v.ok(['exec', 'web', 'sed', '-n', 's/^processes //p', '/proc/stat']));
    };
    const before = await forks();
    await v.ok(['exec', 'web', 'sh', '-c', 'for i in $(seq 50); do /bin/true; done']);
    // Counted exactly, and read again after half a second.
    const after = await eventually('the forks', async () => {
      const seen = await forks();
      return seen - before >= 51 ? seen : undefined;
    });
    assert.ok(after - before <= 51 + 2 * looks, `${after - before} forks, ${looks} looks`);
  });

  test('count what a guest reads from disks, and no other guest, whoever dies', async (t) => {
    if (statSync('/usr/bin/dd').dev < 256) {
      t.skip('needs /usr on a disk');
      return;
    }
    for (const name of ['reader', 'other']) await start(name);
    const sectors = async (name: string): Promise<number> => {
      const lines = (await v.ok(['exec', name, 'cat', '/proc/diskstats'])).split('\n').filter(Boolean);
      return lines.reduce((sum, line) => sum + Number(line.trim().split(/\s+/)[5]), 0);
    };
    // Whoever looks first begins to count, where the kernel does not.
    for (const name of ['reader', 'other']) await sectors(name);
    const before = await sectors('other');
    const wanted = (await sectors('reader')) + 2048;
    const read =
      'for i in $(seq 16); do dd if=/usr/bin/dd of=/dev/null iflag=direct bs=64k count=1 2>&1; done';
    await v.ok(['exec', 'reader', 'sh', '-c', read]);
    const seen = await eventually('its reads', async () => {
      const now = await sectors('reader');
      return now >= wanted ? now : undefined;
    });
    process.kill((await daemons()).vserverdPid, 'SIGKILL');
    await eventually('the next vserverd', async () =>
      (await v.run(['list'])).code === 0 ? true : undefined,
    );
    assert.ok((await sectors('reader')) >= seen, 'counts go on');
    await v.ok(['exec', 'reader', 'sh', '-c', read]);
    await eventually('more reads', async () => ((await sectors('reader')) >= seen + 2048 ? true : undefined));
    assert.ok((await sectors('other')) - before < 2048, "not the other's");
  });

  test('are there for a command from its first moment', async () => {
    for (let i = 0; i < 20; i++)
      assert.match(
        await v.ok(['run', '-m', '64m', '--init=none', '--', 'head', '-1', '/proc/meminfo']),
        / 65536 kB/,
      );
  });

  test('are off where the configuration says so', async () => {
    await v.ok(['create', 'web', '--memory', '300m', '--command', 'sleep 1000']);
    await v.ok(['set', 'web', 'views.memory=false']);
    const startedMs = performance.now();
    await v.ok(['start', 'web']);
    const host = readFileSync('/proc/meminfo', 'latin1').split('\n')[0];
    assert.equal(await v.ok(['exec', 'web', 'head', '-1', '/proc/meminfo']), `${host}\n`);
    const uptime = Number(await v.ok(['exec', 'web', 'cut', '-d.', '-f1', '/proc/uptime']));
    assert.ok(uptime <= secondsSince(startedMs) + UPTIME_AHEAD_SECONDS, String(uptime));
  });

  test('are turned off and on while the guest runs', async () => {
    await v.ok(['create', 'web', '--memory', '300m', '--cpus', '1', '--command', 'sleep 1000']);
    await v.ok(['set', 'web', 'views.memory=false']);
    const startedMs = performance.now();
    await v.ok(['start', 'web']);
    const host = readFileSync('/proc/meminfo', 'latin1').split('\n')[0];
    const total = (): Promise<string> => v.ok(['exec', 'web', 'head', '-1', '/proc/meminfo']);
    const cpus = (): Promise<string> => v.ok(['exec', 'web', 'grep', '-c', '^processor', '/proc/cpuinfo']);
    const mounts = (): Promise<string> => v.ok(['exec', 'web', 'grep', '-c', '', '/proc/self/mountinfo']);
    assert.equal(await total(), `${host}\n`);
    assert.equal(await cpus(), '1\n');
    const before = Number(await mounts());
    await v.ok(['set', 'web', 'views.memory=true', 'views.cpu=false']);
    assert.match(await total(), /^MemTotal: +307200 kB\n$/);
    await eventually('the CPUs of the host', async () =>
      (await cpus()) === `${HOST_CPUS}\n` ? true : undefined,
    );
    // What is there already is not mounted again.
    const more = Number(await mounts()) - before;
    assert.equal(more, 4, 'meminfo, swaps, vmstat and slabinfo');
    for (const value of [false, true, false, true]) await v.ok(['set', 'web', `views.memory=${value}`]);
    assert.equal(Number(await mounts()) - before, more);
    assert.match(await total(), / 307200 kB/);
    await v.ok(['set', 'web', 'views.uptime=false']);
    const uptime = Number(await v.ok(['exec', 'web', 'cut', '-d.', '-f1', '/proc/uptime']));
    assert.ok(uptime <= secondsSince(startedMs) + UPTIME_AHEAD_SECONDS, String(uptime));
    assert.match((await v.run(['set', 'web', 'views.vinfo=false'])).stderr, /with its next start/);
    assert.equal((await v.run(['exec', 'web', 'test', '-e', '/proc/driver/virtual'])).code, 0);
  });

  test('come whole however they are read', async () => {
    const out = await inGuest(
      ['-m', '300m'],
      // By sendfile(2), byte by byte as the shell does, and once more on the same open file.
      'busybox cat /proc/meminfo | wc -l; n=0; while read -r line; do n=$((n + 1)); done < /proc/meminfo; echo $n; ' +
        'cat /proc/meminfo | wc -l; exec 3< /proc/uptime; cat <&3; sleep 0.1; cat <&3 | wc -c; dd if=/proc/uptime bs=1 skip=2 2>/dev/null | wc -l',
    );
    const [sent, byBytes, whole, uptime, again, part] = out.trim().split('\n');
    assert.ok(Number(sent) > 20);
    assert.equal(byBytes, sent);
    assert.equal(whole, sent);
    assert.match(uptime ?? '', /^\d+\.\d\d \d+\.\d\d$/);
    assert.equal(again, '0', 'at its end a file stays there');
    assert.equal(part, '1');
  });

  test('can neither be written nor lead to those of another guest', async () => {
    const out = await inGuest(
      [],
      'for f in meminfo stat uptime pressure/cpu; do { echo x > /proc/$f; } 2>&1 | grep -c "Read-only"; done; ' +
        'chmod 666 /proc/meminfo 2>&1 | grep -c "Read-only"; ls /proc/pressure; ls /proc/pressure/.. | grep -c meminfo; ' +
        'sed -n "s/^[^ ]* [^ ]* [^ ]* \\([^ ]*\\) \\/proc\\/meminfo .* - fuse .*/\\1/p" /proc/self/mountinfo',
    );
    assert.deepEqual(out.trim().split('\n').slice(0, 8), ['1', '1', '1', '1', '1', 'cpu', 'io', 'memory']);
  });

  test(`of ${GUESTS} guests go on without an error when vserverd is killed`, async () => {
    const names = Array.from({ length: GUESTS }, (_, i) => `g${i}`);
    for (const name of names) await start(name, '-m', '64m');
    const { vserverdPid } = await daemons();
    // A file that nobody has read before has to wait for the next vserverd, however long that takes to come.
    const script =
      'for f in meminfo stat loadavg; do read -r line < /proc/$f; done; ' +
      `echo go; i=0; while [ $i -lt ${READS} ]; do for f in meminfo stat loadavg; do ` +
      'read -r line < /proc/$f || echo "cannot read $f" >&2; done; i=$((i + 1)); done; head -1 /proc/meminfo';
    const readers = names.map((name) => v.spawn(['exec', name, 'sh', '-c', script]));
    const outputs = readers.map((reader) => {
      let text = '';
      for (const stream of [reader.stdout, reader.stderr])
        stream?.on('data', (chunk: Buffer) => (text += chunk.toString()));
      return () => text;
    });
    const ended = readers.map(async (reader) => ((await once(reader, 'close')) as [number])[0]);
    await eventually('all to read', () =>
      outputs.every((text) => text().startsWith('go\n')) ? true : undefined,
    );
    process.kill(vserverdPid, 'SIGKILL');
    const codes = await Promise.all(ended);
    assert.deepEqual(
      codes,
      names.map(() => 0),
    );
    for (const text of outputs) assert.match(text(), /^go\nMemTotal: +65536 kB\n$/);
    await eventually('the next vserverd', async () => {
      const { code, stdout } = await v.run(['daemon', 'status', '--json']);
      if (code !== 0) return undefined; // it had taken this one on
      return (JSON.parse(stdout) as { vserverdPid: number }).vserverdPid === vserverdPid ? undefined : true;
    });
  });

  test('are old after a while, or an error, when vserverd does not answer', async () => {
    await start('old', '-m', '100m');
    const script =
      'head -1 /proc/meminfo; echo go; read -r _; head -1 /proc/meminfo; head -1 /proc/vmstat; echo $?';
    const reader = v.spawn(['exec', 'old', 'sh', '-c', script]);
    const closed = once(reader, 'close');
    let text = '';
    for (const stream of [reader.stdout, reader.stderr])
      stream?.on('data', (chunk: Buffer) => (text += chunk.toString()));
    await eventually('the reader', () => (text.includes('go\n') ? true : undefined));
    const { vserverdPid } = await daemons();
    process.kill(vserverdPid, 'SIGSTOP');
    try {
      reader.stdin?.write('\n');
      await eventually('both answers', () => (text.endsWith('\n1\n') ? true : undefined), 60_000);
    } finally {
      process.kill(vserverdPid, 'SIGCONT');
    }
    assert.match(text, /go\nMemTotal: +102400 kB\n/);
    assert.match(text, /vmstat.*: Input\/output error\n1\n$/);
    await closed;
  });

  test('cost nothing while nobody reads', async () => {
    await start('quiet', '-m', '100m');
    assert.match(await v.ok(['exec', 'quiet', 'cat', '/proc/uptime', '/proc/meminfo']), / 102400 kB/);
    const wakeUps = (): number =>
      Number(
        /^voluntary_ctxt_switches:\t(\d+)$/m.exec(readFileSync(`/proc/${relayPid()}/status`, 'utf8'))?.[1],
      );
    // The next texts are asked for ahead, and on a busy machine come late; an absence can only be waited for.
    await eventually('a while without a wake-up', async () => {
      const before = wakeUps();
      await setTimeout(1500);
      return wakeUps() === before ? true : undefined;
    });
  });

  test('outlive syscalld, and are there for guests of the next one', async () => {
    await start('old', '-m', '100m');
    const pid = relayPid();
    const { syscalldPid, vserverdPid } = await daemons();
    process.kill(syscalldPid, 'SIGKILL');
    await eventually('the end of both', () =>
      existsSync(`/proc/${syscalldPid}`) || existsSync(`/proc/${vserverdPid}`) ? undefined : true,
    );
    assert.match(await v.ok(['exec', 'old', 'head', '-1', '/proc/meminfo']), / 102400 kB/);
    assert.equal(relayPid(), pid);
    assert.match(await inGuest(['-m', '200m'], 'head -1 /proc/meminfo'), / 204800 kB/);
  });

  test('come back in guests that run when the process that has them is killed', async () => {
    await start('old', '-m', '100m');
    const pid = relayPid();
    process.kill(pid, 'SIGKILL');
    await eventually('another relay', () => (relayPid() === pid ? undefined : true));
    await eventually('views in the guest that runs', async () => {
      const { stdout } = await v.run([
        'exec',
        'old',
        'sh',
        '-c',
        'head -1 /proc/meminfo; cat /proc/pressure/cpu',
      ]);
      return / 102400 kB\nsome/.test(stdout) ? true : undefined;
    });
    assert.match(await inGuest(['-m', '200m'], 'head -1 /proc/meminfo'), / 204800 kB/);
  });
});
