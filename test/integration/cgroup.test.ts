/** The cgroup driver against this host's kernel. Only directories named vserver-test-<pid> and own children are touched. */
import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { after, before, describe, test } from 'node:test';
import { setTimeout } from 'node:timers/promises';
import { toXid, type Xid } from '../../src/base/ids.ts';
import type { CgroupDriver, CgroupPlan } from '../../src/resources/cgroup-driver.ts';
import { cgroupFiles, ensureDirectory } from '../../src/resources/cgroup-fs.ts';
import { type CgroupLayout, discoverCgroups } from '../../src/resources/cgroup-layout.ts';
import { createCgroupDriver } from '../../src/resources/cgroup-tree.ts';
import type { LimitKind, Limits } from '../../src/resources/limits.ts';
import { PATIENCE } from '../lib/patience.ts';
import { unmet } from '../lib/requires.ts';

const MIB = 1024 ** 2;
const DEADLINE_MS = 10_000 * PATIENCE;
const PARENT = `vserver-test-${process.pid}`;

let layout: CgroupLayout;
let driver: CgroupDriver;
const children = new Set<ChildProcess>();

function makeDirectories(plan: CgroupPlan): void {
  for (const directory of plan.directories) cgroupFiles.mkdir(directory);
  for (const { path, text } of plan.handDown) cgroupFiles.write(path, text);
  for (const { path, text } of plan.writes) cgroupFiles.write(path, text);
}

/** Starts a shell script in a guest's cgroups: it joins, as a worker does, before it runs anything else. */
function run(plan: CgroupPlan, script: string): ChildProcess {
  const joins = [...plan.joins, `${plan.leaf}/cgroup.procs`].map((path) => `echo 0 >'${path}'`);
  const child = spawn('/bin/sh', ['-c', [...joins, 'echo joined', `{ ${script}; }`].join(' && ')], {
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  children.add(child);
  child.once('exit', () => children.delete(child));
  return child;
}

async function joined(child: ChildProcess): Promise<void> {
  const [first] = await once(child.stdout!, 'data', { signal: AbortSignal.timeout(DEADLINE_MS) });
  assert.match(String(first), /^joined/);
}

async function exited(child: ChildProcess): Promise<{ code: number | null; signal: string | null }> {
  if (child.exitCode === null && child.signalCode === null) {
    await once(child, 'exit', { signal: AbortSignal.timeout(DEADLINE_MS) });
  }
  return { code: child.exitCode, signal: child.signalCode };
}

async function waitUntil(isReached: () => boolean): Promise<void> {
  const deadlineMs = performance.now() + DEADLINE_MS;
  while (!isReached()) {
    assert.ok(performance.now() < deadlineMs, `not reached in ${DEADLINE_MS} ms: ${isReached}`);
    await setTimeout(10);
  }
}

/** Runs a test in a guest of its own and removes the guest, whatever happens. */
async function inGuest(
  number: number,
  limits: Limits,
  body: (xid: Xid, plan: CgroupPlan) => Promise<void>,
): Promise<void> {
  const xid = toXid(number);
  const plan = driver.plan(xid, limits);
  try {
    makeDirectories(plan);
    await body(xid, plan);
  } finally {
    if (driver.isPopulated(xid)) driver.kill(xid);
    assert.ok(await driver.waitEmpty(xid, DEADLINE_MS));
    driver.remove(xid);
  }
}

const enforces = (...kinds: readonly LimitKind[]): boolean =>
  kinds.every((kind) => driver.capabilities().enforced.includes(kind));

describe('cgroup driver', { skip: unmet('root', 'cgroup2') }, () => {
  before(() => {
    layout = discoverCgroups(
      readFileSync('/proc/self/mountinfo', 'utf8'),
      readFileSync('/proc/self/cgroup', 'utf8'),
    );
    driver = createCgroupDriver(cgroupFiles, layout, PARENT);
    driver.prepareInstance();
  });

  after(() => {
    for (const child of children) child.kill('SIGKILL');
    for (const xid of driver.list()) driver.remove(xid);
    for (const mount of new Set([layout.unified, ...layout.v1.values()])) {
      cgroupFiles.rmdir(`${mount}/${PARENT}`);
    }
  });

  test('sets limits that read back', async () => {
    await inGuest(2, { memoryBytes: 64 * MIB, pids: 30, cpuQuotaUs: 50_000, cpuWeight: 300 }, async (xid) => {
      const { limits, unenforced } = driver.apply(xid, { pids: 31 });
      assert.deepEqual(unenforced, []);
      const expected = {
        memoryBytes: 64 * MIB,
        memorySwapBytes: 64 * MIB,
        pids: 31,
        cpuQuotaUs: 50_000,
        cpuPeriodUs: 100_000,
        cpuWeight: 300,
        cpuBurstUs: 0,
        cpuIdle: 0,
        cpuset: 'all',
      };
      for (const kind of driver.capabilities().enforced) assert.equal(limits[kind], expected[kind], kind);
      assert.deepEqual(driver.list(), [2]);
    });
  });

  test('pressure is measured at the directory of a guest alone', { skip: unmet('psi') }, async () => {
    await inGuest(12, {}, async (xid, plan) => {
      const [guest = ''] = plan.directories;
      const isOn = [driver.directory, guest, plan.leaf].map((path) =>
        cgroupFiles.read(`${path}/cgroup.pressure`).trim(),
      );
      assert.deepEqual(isOn, ['0', '1', '0'], `guest ${xid}`);
      assert.match(cgroupFiles.read(`${guest}/cpu.pressure`), /^some /);
    });
  });

  test('binds a guest to CPUs from its start or later, and lets it go', async (t) => {
    if (!enforces('cpuset')) return t.skip('no cpuset controller');
    const allowed = (pid: number): string =>
      /^Cpus_allowed_list:\t(.*)$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1] ?? '';
    for (const limits of [{ cpuset: '0' }, {}]) {
      await inGuest(5, limits, async (xid, plan) => {
        const child = run(plan, 'sleep 1000');
        await joined(child);
        await waitUntil(() => driver.pids(xid).length > 0);
        if (limits.cpuset === undefined) {
          assert.equal(driver.apply(xid, {}).limits.cpuset, 'all');
          driver.apply(xid, { cpuset: '0' });
        }
        assert.deepEqual(
          driver.pids(xid).map(allowed),
          driver.pids(xid).map(() => '0'),
        );
        assert.equal(driver.apply(xid, {}).limits.cpuset, '0');
        assert.equal(driver.apply(xid, { cpuset: 'all' }).unenforced.length, 0);
        assert.deepEqual(
          driver.pids(xid).map(allowed),
          driver.pids(xid).map(() => allowed(process.pid)),
        );
      });
    }
  });

  test('takes bursts and idle time, in any order of changes', async (t) => {
    if (!enforces('cpuBurstUs', 'cpuIdle')) return t.skip('no burst or idle of the cpu controller');
    await inGuest(6, { cpuQuotaUs: 50_000, cpuBurstUs: 50_000 }, async (xid) => {
      assert.equal(driver.apply(xid, {}).limits.cpuBurstUs, 50_000);
      // A quota below the burst that is there is refused by the kernel.
      const { limits } = driver.apply(xid, { cpuQuotaUs: 20_000, cpuBurstUs: 10_000 });
      assert.deepEqual([limits.cpuQuotaUs, limits.cpuBurstUs], [20_000, 10_000]);
      assert.equal(driver.apply(xid, { cpuQuotaUs: 'max', cpuBurstUs: 0 }).limits.cpuQuotaUs, 'max');
      assert.equal(driver.apply(xid, { cpuIdle: 1, cpuWeight: 50 }).limits.cpuIdle, 1);
      // No weight can be set then, and none is tried.
      driver.apply(xid, { cpuWeight: 70 });
      const { cpuIdle, cpuWeight } = driver.apply(xid, { cpuIdle: 0, cpuWeight: 70 }).limits;
      assert.deepEqual([cpuIdle, cpuWeight], [0, 70]);
    });
  });

  test('kills a process that takes more memory than the guest has', async (t) => {
    if (!enforces('memoryBytes')) return t.skip('no memory controller');
    await inGuest(3, { memoryBytes: 24 * MIB, memorySwapBytes: 32 * MIB, pids: 20 }, async (xid, plan) => {
      // tail keeps a line whole in memory; there is no newline in zeros.
      const child = run(plan, 'exec tail -n 1 /dev/zero');
      assert.deepEqual(await exited(child), { code: null, signal: 'SIGKILL' });
      const usage = driver.read(xid);
      assert.ok(usage.oomKills! >= 1);
      assert.ok(usage.memoryLimitHits! >= 1);
      assert.ok(usage.memoryPeakBytes! <= 24 * MIB);
      assert.ok(usage.memoryPeakBytes! > 16 * MIB);
    });
  });

  test('refuses a fork above the task limit', async (t) => {
    if (!enforces('pids')) return t.skip('no pids controller');
    await inGuest(4, { memoryBytes: 64 * MIB, pids: 4 }, async (xid, plan) => {
      const child = run(plan, 'for i in 1 2 3 4 5 6; do sleep 60 & done; wait');
      let message = '';
      child.stderr!.on('data', (chunk) => {
        message += chunk;
      });
      await waitUntil(() => /fork/i.test(message));
      const usage = driver.read(xid);
      assert.ok(usage.pidsLimitHits! >= 1);
      assert.equal(usage.pidsPeak ?? 4, 4);
    });
  });

  test('neither counts nor freezes what serves the guest', async (t) => {
    if (!enforces('pids')) return t.skip('no pids controller');
    await inGuest(8, { memoryBytes: 64 * MIB, pids: 3 }, async (xid, plan) => {
      const { leaf, joins } = plan.service;
      ensureDirectory(cgroupFiles, leaf);
      const service = run({ ...plan, leaf, joins }, 'while :; do sleep 0.01; done');
      await joined(service);
      const guest = run(plan, 'sleep 60 & sleep 60 & wait');
      await joined(guest);
      await waitUntil(() => driver.pids(xid).length === 3);
      assert.equal(driver.read(xid).pids, 3);
      assert.ok(!driver.pids(xid).includes(service.pid!));
      await driver.freeze(xid, DEADLINE_MS);
      const startedOf = (): string =>
        readFileSync(`/proc/${service.pid}/stat`, 'utf8').split(' ').slice(13, 17).join();
      const before = startedOf();
      await waitUntil(() => startedOf() !== before);
      await driver.thaw(xid, DEADLINE_MS);
    });
  });

  test('throttles a guest that uses up its CPU quota, and counts its time', async (t) => {
    if (!enforces('cpuQuotaUs')) return t.skip('no CPU bandwidth');
    await inGuest(5, { cpuQuotaUs: 5_000, pids: 10, memoryBytes: 64 * MIB }, async (xid, plan) => {
      await joined(run(plan, 'while :; do :; done'));
      await waitUntil(() => driver.read(xid).cpuThrottledPeriods! >= 2);
      const usage = driver.read(xid);
      assert.ok(usage.cpuThrottledUs! > 0);
      assert.ok(usage.cpuUsageUs! > 0);
      assert.ok(usage.cpuUsageUs! >= usage.cpuUserUs!);
    });
  });

  test('freezes, thaws and kills every process, those in cgroups of the guest included', async () => {
    await inGuest(6, { pids: 10 }, async (xid, plan) => {
      const children = [run(plan, 'while :; do :; done'), run(plan, 'sleep 60 & wait')];
      await Promise.all(children.map(joined));
      cgroupFiles.mkdir(`${plan.leaf}/nested`);
      cgroupFiles.write(`${plan.leaf}/nested/cgroup.procs`, String(children[0]!.pid));
      await waitUntil(() => driver.pids(xid).length === 3);
      assert.ok(children.every(({ pid }) => driver.pids(xid).includes(pid!)));
      assert.ok(driver.isPopulated(xid));

      await driver.freeze(xid, DEADLINE_MS);
      // A process that ran would move the count at every read; one just stopped may be accounted a little later.
      let cpuUsageUs = -1;
      await waitUntil(() => {
        const earlierUs = cpuUsageUs;
        cpuUsageUs = driver.read(xid).cpuUsageUs!;
        return earlierUs === cpuUsageUs;
      });
      await driver.thaw(xid, DEADLINE_MS);
      await waitUntil(() => driver.read(xid).cpuUsageUs! > cpuUsageUs);

      assert.throws(() => driver.remove(xid), { code: 'cgroup-busy' });
      await driver.freeze(xid, DEADLINE_MS);
      driver.kill(xid);
      assert.ok(await driver.waitEmpty(xid, DEADLINE_MS));
      assert.deepEqual(driver.pids(xid), []);
      for (const child of children) assert.equal((await exited(child)).signal, 'SIGKILL');
    });
    assert.deepEqual(driver.list(), []);
  });

  test('changes memory limits up and down, and refuses one below what is in use', async (t) => {
    if (!enforces('memoryBytes')) return t.skip('no memory controller');
    await inGuest(7, { memoryBytes: 64 * MIB, pids: 10 }, async (xid, plan) => {
      const hog = `s=$(head -c ${12 * MIB} /dev/zero | tr '\\0' x); echo full; while :; do sleep 60; done`;
      const child = run(plan, hog);
      let output = '';
      child.stdout!.on('data', (chunk) => {
        output += chunk;
      });
      await waitUntil(() => output.includes('full'));
      assert.equal(driver.apply(xid, { memoryBytes: 128 * MIB }).limits.memoryBytes, 128 * MIB);
      assert.equal(driver.apply(xid, { memoryBytes: 48 * MIB }).limits.memoryBytes, 48 * MIB);
      // The total equals the limit, so no host's swap can make room.
      assert.throws(() => driver.apply(xid, { memoryBytes: 4 * MIB }), { code: 'limit-below-usage' });
      assert.equal(driver.apply(xid, {}).limits.memoryBytes, 48 * MIB);
      assert.equal(driver.read(xid).oomKills, 0);
    });
  });
});
