/** The token bucket: what the kernel is told, while a guest runs too. Shares are measured by bench/scheduler.ts. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { after, before, describe, test } from 'node:test';
import { eventually, type OpenInstance, openInstance } from '../lib/instance.ts';
import { unmet } from '../lib/requires.ts';

interface Shown {
  readonly scheduler: Readonly<Record<string, unknown>>;
  readonly effective: Readonly<Record<string, number | string | null>>;
}

describe('scheduler', { skip: unmet('root', 'cgroup2', 'overlay', 'userns', 'busybox') }, () => {
  let v: OpenInstance;
  before(async () => {
    v = await openInstance();
    // The first command compiles the sources: under emulation that takes its time.
    await v.ok(['list'], { timeoutMs: 120_000 });
  });
  after(async () => {
    await v.close();
  });

  const show = async (name: string): Promise<Shown> =>
    JSON.parse(await v.ok(['sched', name, '--json'])) as Shown;
  const start = async (name: string, ...settings: readonly string[]): Promise<void> => {
    await v.ok(['create', name, '--template', 'busybox', '--', 'sh', '-c', 'while :; do :; done']);
    if (settings.length > 0) await v.ok(['set', name, ...settings.map((one) => `scheduler.${one}`)]);
    await v.ok(['start', name]);
  };

  test('a hard bucket is held when it is empty, and changes while the guest runs', async (t) => {
    await start('hog', 'hard=true', 'fillRate=2', 'interval=100', 'tokensMin=2', 'tokensMax=3', 'cpus=0');
    const { effective } = await show('hog');
    if (effective['cpuQuotaUs'] === null) return t.skip('no cpu controller');
    assert.equal(effective['cpuPeriodUs'], 100_000);
    assert.equal(effective['cpuQuotaUs'], 2000, 'of the one CPU it may use');
    if (effective['cpuBurstUs'] !== null) assert.equal(effective['cpuBurstUs'], 1000);
    await eventually('it is held', async () => {
      const [{ cpu }] = JSON.parse(await v.ok(['stat', 'hog', '--json'])) as [
        { cpu: { throttledPeriods: number } },
      ];
      return cpu.throttledPeriods > 2 ? true : undefined;
    });
    await v.ok(['sched', 'hog', '--fill-rate', '5', '--prio-bias', '-2', '--tokens-max', '500']);
    const changed = await show('hog');
    assert.equal(changed.effective['cpuQuotaUs'], 5000);
    assert.equal(changed.effective['cpuWeight'], 31, '5 of 100 is 20 by weight, two steps up');
    assert.deepEqual(changed.scheduler, {
      hard: true,
      idleTime: false,
      fillRate: 5,
      interval: 100,
      tokensMin: 2,
      tokensMax: 500,
      prioBias: -2,
      cpus: '0',
    });
    await v.ok(['sched', 'hog', '--idle-time']);
    assert.equal((await show('hog')).effective['cpuQuotaUs'], 'max', 'who gets idle time has no quota');
    await v.ok(['delete', '--force', 'hog']);
  });

  test('a guest has the CPUs it is given, from its start or later', async (t) => {
    await start('bound', 'cpus=0');
    const { effective } = await show('bound');
    if (effective['cpuset'] === null) return t.skip('no cpuset controller');
    assert.equal(effective['cpuset'], '0');
    const allowed = async (): Promise<string> =>
      (await v.ok(['exec', 'bound', 'grep', 'Cpus_allowed_list', '/proc/self/status']))
        .trim()
        .split('\t')[1] ?? '';
    assert.equal(await allowed(), '0');
    assert.equal((await v.ok(['exec', 'bound', 'grep', '-c', '^processor', '/proc/cpuinfo'])).trim(), '1');
    await v.ok(['set', 'bound', '--unset', 'scheduler.cpus']);
    const all = /Cpus_allowed_list:\t(.*)/.exec(readFileSync('/proc/1/status', 'utf8'))?.[1];
    assert.equal(await allowed(), all);
    await v.ok(['set', 'bound', 'scheduler.cpus=0']);
    assert.equal(await allowed(), '0');
    const [{ initPid }] = JSON.parse(await v.ok(['inspect', 'bound'])) as [{ initPid: number }];
    assert.match(readFileSync(`/proc/${initPid}/status`, 'utf8'), /^Cpus_allowed_list:\t0$/m);
    await v.ok(['delete', '--force', 'bound']);
  });

  test('what CFS has not is said, what contradicts itself is refused', async () => {
    await v.ok(['create', 'odd', '--template', 'busybox', '--', 'sleep', '1']);
    const { stderr } = await v.run(['sched', 'odd', '--fill-rate2', '1']);
    assert.match(stderr, /nothing on this host enforces scheduler\.fillRate2/);
    for (const setting of [
      ['scheduler.hard=true', 'limits.cpus=1'],
      ['scheduler.hard=true', 'scheduler.fillRate=0'],
      ['scheduler.cpus=2-1'],
    ]) {
      const { code, stderr: refusal } = await v.run(['set', 'odd', ...setting]);
      assert.equal(code, 2, refusal);
      assert.match(refusal, /odd\.yaml:\d+:\d+/);
    }
    await v.ok(['delete', 'odd']);
  });

  test('a paused guest uses nothing', async () => {
    await start('still');
    await v.ok(['pause', 'still']);
    const used = async (): Promise<number> => {
      const [{ cpu }] = JSON.parse(await v.ok(['stat', 'still', '--json'])) as [
        { cpu: { userUs: number; systemUs: number } },
      ];
      return cpu.userUs + cpu.systemUs;
    };
    const before = await used();
    await v.ok(['stat']);
    await v.ok(['top', '--once', '--interval', '0.3s']);
    assert.equal(await used(), before);
    await v.ok(['delete', '--force', 'still']);
  });
});
