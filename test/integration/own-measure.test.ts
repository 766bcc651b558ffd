/** What a guest is told of memory, load and CPUs by system calls: the same as by its views. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { chmodSync, readdirSync, readFileSync, readlinkSync, writeFileSync } from 'node:fs';
import { release } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, test } from 'node:test';
import { setImmediate } from 'node:timers/promises';
import type { LiveRecord } from '../../src/guest/guest.ts';
import { instanceCgroupName } from '../../src/resources/cgroup-layout.ts';
import { eventually, type OpenInstance, openInstance } from '../lib/instance.ts';
import { openNetwork, type TestNetwork } from '../lib/network.ts';
import { buildProbe, type Findings, parseFindings } from '../lib/probe.ts';
import { unmet } from '../lib/requires.ts';

const LIMITS = ['--memory', '300m', '--cpus', '1'] as const;
const WITH_PROBE = ['--volume', `${join(buildProbe(), '..')}:/probe:ro`] as const;
const PROBE = '/probe/probe';
/** Of `measure`, what differs between guest and host; the rest is how the calls fail. */
const NUMBERS = /^(unit|total|free|shared|swap|uptime|load|procs|.*CPUs.*|of itself by number|.*written)$/;

const [MAJOR = 0, MINOR = 0] = release().split('.').map(Number);
/** Whether a broker finds another process of its guest (NS_GET_PID_FROM_PIDNS, Linux 6.11). */
const findsByNumber = MAJOR > 6 || (MAJOR === 6 && MINOR >= 11);

const native = (abi: string): Findings =>
  parseFindings(spawnSync(buildProbe(), ['measure', abi], { encoding: 'utf8' }).stdout);
const errors = (found: Findings): Findings =>
  Object.fromEntries(Object.entries(found).filter(([key]) => !NUMBERS.test(key)));

describe('system calls', { skip: unmet('root', 'overlay', 'fuse', 'busybox', 'network') }, () => {
  let v: OpenInstance;
  let host: TestNetwork;
  beforeEach(async () => {
    host = await openNetwork();
    v = await openInstance({ under: host.under });
  });
  // Fails when a process, a cgroup or a mount is left.
  afterEach(async () => {
    try {
      await v.close();
    } finally {
      await host.close();
    }
  });

  const NETWORKS = {
    none: [],
    host: ['--network', 'host'],
    private: ['--network', 'private'],
    isolated: ['--network-interface', 'h0', '--ip', '10.9.0.5/24'],
    raw: ['--network-interface', 'h0', '--ip', '10.9.0.5/24', '--ccaps', 'raw_icmp'],
  } as const;

  const measure = async (abi: string, ...options: readonly string[]): Promise<Findings> =>
    parseFindings(await v.ok(['run', ...WITH_PROBE, ...options, '--', PROBE, 'measure', abi]));

  const daemons = async (): Promise<{ readonly vserverdPid: number; readonly syscalldPid: number }> =>
    JSON.parse(await v.ok(['daemon', 'status', '--json'])) as { vserverdPid: number; syscalldPid: number };

  const recordOf = (name: string): LiveRecord =>
    JSON.parse(readFileSync(join(v.root, `run/guests/${name}.json`), 'utf8')) as LiveRecord;

  /** Starts a guest that measures as soon as there is `open` in the scratch directory. */
  const startGated = async (name: string): Promise<LiveRecord> => {
    chmodSync(v.scratch, 0o755);
    const gate = ['--volume', `${v.scratch}:/gate:ro`];
    const script = `until [ -e /gate/open ]; do sleep 0.05; done; exec ${PROBE} measure native`;
    await v.ok(['run', '-d', '--name', name, ...WITH_PROBE, ...gate, ...LIMITS, '--', 'sh', '-c', script]);
    return recordOf(name);
  };

  const relayPid = (): number =>
    (JSON.parse(readFileSync(join(v.root, 'run/views.json'), 'utf8')) as { relay: { pid: number } }).relay
      .pid;

  /** Numbers of the processes that answer calls of a guest that runs. */
  const brokersOf = async (name: string): Promise<readonly number[]> => {
    const [{ xid = 0 } = {}] = JSON.parse(await v.ok(['inspect', name, '--json'])) as { xid?: number }[];
    const cgroup = new RegExp(`/${instanceCgroupName(v.root)}/${xid}(/.*)?$`, 'm');
    return readdirSync('/proc')
      .filter((pid) => /^\d+$/.test(pid))
      .filter((pid) => {
        try {
          // One that is just dying was of a guest that had the number before.
          const place = readFileSync(`/proc/${pid}/cgroup`, 'utf8').replace(/^.* \(deleted\)$/gm, '');
          return readFileSync(`/proc/${pid}/comm`, 'utf8') === 'broker\n' && cgroup.test(place);
        } catch {
          return false; // it has just ended
        }
      })
      .map(Number);
  };

  for (const abi of ['native', 'i386'] as const) {
    test(`tell the limits of the guest, and fail as the kernel's (${abi})`, async () => {
      const expected = native(abi);
      for (const [mode, options] of Object.entries(NETWORKS)) {
        const found = await measure(abi, ...LIMITS, ...options);
        assert.deepEqual(errors(found), errors(expected), mode);
        const { total, unit, uptime, load, procs } = found;
        assert.deepEqual([total, unit], [307_200, 1], mode);
        assert.ok(Number(found['free']) > 250_000 && Number(found['free']) < 307_200, mode);
        assert.ok(Number(uptime) < 30 && Number(load) < 100 && Number(procs) <= 4, mode);
        assert.equal(found['128 bytes: CPUs'], 1, mode);
        assert.equal(found['128 bytes: written'], expected['128 bytes: written'], mode);
        for (const call of ['CPUs of 1', 'of itself by number', 'pinned'])
          assert.equal(
            found[call],
            findsByNumber || call === 'pinned' ? 1 : expected[call],
            `${mode}: ${call}`,
          );
      }
    });
  }

  test('are what programs go by', async () => {
    const script =
      'nproc; busybox nproc; busybox free -k | sed -n "s/^Mem: *\\([0-9]*\\) .*/\\1/p"; ' +
      'sed -n "s/^MemTotal: *\\([0-9]*\\) kB/\\1/p" /proc/meminfo; busybox uptime; cat /proc/loadavg; ' +
      'command -v node >/dev/null && node -p "[os.totalmem() / 1024, os.availableParallelism()]" || echo "[ 307200, 1 ]"';
    // Of another user, too, whose memory the broker may not open as its own.
    for (const user of ['0', '1000:1000']) {
      const out = await v.ok(['run', ...LIMITS, '--user', user, '--', 'sh', '-c', script]);
      const [cpus, busyboxCpus, free, meminfo, uptime, load, node] = out.trim().split('\n');
      assert.deepEqual(
        [cpus, busyboxCpus, free, meminfo, node],
        ['1', '1', '307200', '307200', '[ 307200, 1 ]'],
      );
      assert.match(uptime ?? '', / up \d+ min, .* load average: [0-2]\.\d\d, 0\.\d\d, 0\.\d\d$/);
      assert.match(load ?? '', /^[0-2]\.\d\d 0\.\d\d 0\.\d\d /);
    }
  });

  test('follow a limit that is changed', async () => {
    const flags = ['run', '-d', '--name', 'web', '--cpus', '1', ...WITH_PROBE, ...NETWORKS.isolated];
    await v.ok([...flags, '--', 'sleep', '1000']);
    const total = async (): Promise<unknown> =>
      parseFindings(await v.ok(['exec', 'web', PROBE, 'measure', 'native']))['total'];
    assert.equal(await total(), native('native')['total']);
    await v.ok(['set', 'web', 'limits.memory=200m']);
    await eventually('the new limit', async () => ((await total()) === 204_800 ? true : undefined));
  });

  test('have nobody to answer them where the kernel says the same', async () => {
    await v.ok(['run', '-d', '--name', 'plain', ...WITH_PROBE, '--', 'sleep', '1000']);
    await v.ok(['run', '-d', '--name', 'limited', ...LIMITS, '--', 'sleep', '1000']);
    assert.equal((await brokersOf('limited')).length, 1);
    assert.equal((await brokersOf('plain')).length, 0);
    await v.ok(['create', 'off', ...LIMITS, '--command', 'sleep 1000']);
    for (const group of ['memory', 'cpu', 'load']) await v.ok(['set', 'off', `views.${group}=false`]);
    await v.ok(['start', 'off']);
    assert.equal((await brokersOf('off')).length, 0);
  });

  test('are answered by one that may do so in its guest alone', async () => {
    await v.ok(['run', '-d', '--name', 'web', ...LIMITS, ...NETWORKS.isolated, '--', 'sleep', '1000']);
    const [pid] = await brokersOf('web');
    const status = readFileSync(`/proc/${pid}/status`, 'utf8');
    const of = (key: string): string | undefined => new RegExp(`^${key}:\\s*(.*)$`, 'm').exec(status)?.[1];
    // CAP_DAC_OVERRIDE and CAP_SYS_PTRACE, in the guest's user namespace.
    for (const set of ['CapPrm', 'CapEff']) assert.equal(of(set), '0000000000080002');
    for (const set of ['CapInh', 'CapAmb']) assert.equal(of(set), '0000000000000000');
    assert.equal(of('NoNewPrivs'), '1');
    const namespaceOf = (process: number | 'self', kind: string): string =>
      readlinkSync(`/proc/${process}/ns/${kind}`);
    const [{ initPid = 0 } = {}] = JSON.parse(await v.ok(['inspect', 'web', '--json'])) as {
      initPid?: number;
    }[];
    assert.equal(namespaceOf(Number(pid), 'user'), namespaceOf(initPid, 'user'));
    assert.notEqual(namespaceOf(Number(pid), 'user'), namespaceOf('self', 'user'));
    // The guest does not see it.
    assert.doesNotMatch(await v.ok(['exec', 'web', 'sh', '-c', 'cat /proc/[0-9]*/comm']), /broker/);
  });

  test('leave raw sockets to another process, which may make those and nothing else', async () => {
    await v.ok(['run', '-d', '--name', 'web', ...LIMITS, ...NETWORKS.raw, '--', 'sleep', '1000']);
    const makeRaw = 'import socket; socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)';
    const raw = async (): Promise<number> =>
      (await v.run(['exec', 'web', '/usr/bin/python3', '-c', makeRaw])).code;
    const heldBy = (pid: number): readonly (string | undefined)[] => {
      const status = readFileSync(`/proc/${pid}/status`, 'utf8');
      const of = (key: string): string | undefined => new RegExp(`^${key}:\\s*(\\S+)`, 'm').exec(status)?.[1];
      return [of('CapEff'), of('CapPrm'), of('CapInh'), of('CapAmb'), of('NoNewPrivs')];
    };
    const none = '0000000000000000';
    const NET_RAW = '0000000000002000';
    const brokers = await brokersOf('web');
    assert.deepEqual(brokers.map(heldBy).toSorted(), [
      [NET_RAW, NET_RAW, none, none, '1'],
      ['0000000000080002', '0000000000080002', none, none, '1'],
    ]);
    assert.equal(await raw(), 0);
    // A text that was asked for ahead was made when there was no reader.
    await eventually('process 1, the command, a reader or none, and neither broker', async () =>
      / \d\/([23]) \1\n$/.test(await v.ok(['exec', 'web', 'cat', '/proc/loadavg'])) ? true : undefined,
    );
    // Commands to come have another one.
    const maker = brokers.find((pid) => heldBy(pid)[0] === NET_RAW) ?? 0;
    process.kill(maker, 'SIGKILL');
    await eventually('raw sockets', async () => ((await raw()) === 0 ? true : undefined));
    await eventually('its end', async () => ((await brokersOf('web')).includes(maker) ? undefined : true));
  });

  test('are right from the first one on, also when vserverd does not answer for a while', async () => {
    await v.ok(['run', '--rm', '--', 'cat', '/proc/loadavg']); // not the first guest of a vserverd
    await startGated('web');
    const { vserverdPid } = await daemons();
    process.kill(vserverdPid, 'SIGSTOP');
    writeFileSync(join(v.scratch, 'open'), '');
    setTimeout(() => process.kill(vserverdPid, 'SIGCONT'), 2000);
    await v.ok(['wait', 'web']);
    assert.equal(parseFindings(await v.ok(['logs', 'web']))['total'], 307_200);
  });

  test('tell a guest that has just begun of no load, without a look at tasks', async () => {
    const { syscalldPid } = await daemons();
    const { initPid, startedAt } = await startGated('web');
    process.kill(syscalldPid, 'SIGSTOP'); // who looks at tasks
    try {
      writeFileSync(join(v.scratch, 'open'), '');
      // An older one is told its load, and waits for it.
      if (Date.now() - Date.parse(startedAt) > 2500) return;
      const isOver = (): boolean => /^State:\tZ/m.test(readFileSync(`/proc/${initPid}/status`, 'utf8'));
      await eventually('its end', () => isOver() || undefined);
    } finally {
      process.kill(syscalldPid, 'SIGCONT');
    }
    await v.ok(['wait', 'web']);
    const { total, load } = parseFindings(await v.ok(['logs', 'web']));
    assert.deepEqual([total, load], [307_200, 0]);
  });

  test('leave no command without who answers while others take over', async () => {
    const guests = ['a', 'b', 'c', 'd', 'e', 'f', 'g', 'h'];
    const brokerOf = (name: string): unknown => recordOf(name).broker?.control;
    for (const name of guests) await v.ok(['run', '-d', '--name', name, ...LIMITS, '--', 'sleep', '1000']);
    const before = guests.map(brokerOf);
    const renewed = (): number => guests.filter((name, i) => brokerOf(name) !== before[i]).length;
    process.kill(relayPid(), 'SIGKILL');
    while (renewed() === 0) await setImmediate();
    // With one of the others it is in the middle now, and stays there: a broker opens the answers.
    const relay = relayPid();
    process.kill(relay, 'SIGSTOP');
    try {
      for (const name of guests) await v.ok(['exec', name, 'true']);
    } finally {
      process.kill(relay, 'SIGCONT');
    }
    await eventually('the others', () => (renewed() === guests.length ? true : undefined));
  });

  test('do not fail when vserverd is killed or does not answer, nor when nobody has the answers any more', async () => {
    await v.ok(['run', '-d', '--name', 'web', ...WITH_PROBE, ...LIMITS, '--', 'sleep', '1000']);
    const calling = async (during: () => Promise<void>): Promise<Findings> => {
      const called = v.ok(['exec', 'web', PROBE, 'measure-on', '2500']);
      await during();
      return parseFindings(await called);
    };
    const started = async (): Promise<void> => {
      await eventually('the calls', async () => {
        const { stdout } = await v.run(['exec', 'web', 'sh', '-c', 'cat /proc/[0-9]*/cmdline']);
        return stdout.includes('measure-on') ? true : undefined;
      });
    };
    const killed = await calling(async () => {
      await started();
      process.kill((await daemons()).vserverdPid, 'SIGKILL');
    });
    assert.equal(killed['failures'], 0);
    const { vserverdPid } = await eventually('the next vserverd', async () => {
      const { code, stdout } = await v.run(['daemon', 'status', '--json']);
      return code === 0 ? (JSON.parse(stdout) as { readonly vserverdPid: number }) : undefined;
    });
    const stopped = await calling(async () => {
      await started();
      process.kill(vserverdPid, 'SIGSTOP');
      setTimeout(() => process.kill(vserverdPid, 'SIGCONT'), 2000);
    });
    assert.equal(stopped['failures'], 0);
    // One waits for a moment, and no other: who reads a view waits for 8 s. Some 30 calls are all that an emulated machine makes.
    assert.ok(Number(stopped['calls']) > 4 && Number(stopped['longest ms']) < 7000, JSON.stringify(stopped));
    const alone = await calling(async () => {
      await started();
      process.kill(relayPid(), 'SIGKILL');
    });
    assert.equal(alone['failures'], 0);
    await eventually('answers from the next one', async () => {
      const { code, stdout } = await v.run(['exec', 'web', PROBE, 'measure', 'native']);
      return code === 0 && parseFindings(stdout)['total'] === 307_200 ? true : undefined;
    });
  });
});
