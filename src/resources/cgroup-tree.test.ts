import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  CgroupTree,
  CPU_V1,
  MEMORY_V1,
  PIDS_V1,
  refusal,
  UNIFIED,
  UNIFIED_FULL,
} from '../../test/lib/cgroup-tree.ts';
import { toXid } from '../base/ids.ts';
import type { CgroupDriver } from './cgroup-driver.ts';
import { createCgroupDriver } from './cgroup-tree.ts';
import type { Limits } from './limits.ts';

const XID = toXid(7);
const MIB = 1024 ** 2;
const LIMITS: Limits = {
  memoryBytes: 64 * MIB,
  memorySwapBytes: 96 * MIB,
  pids: 50,
  cpuQuotaUs: 20_000,
  cpuWeight: 200,
};

function hybrid(memory: Readonly<Record<string, string>> = MEMORY_V1): [CgroupTree, CgroupDriver] {
  const tree = new CgroupTree({ unified: UNIFIED, memory, cpu: { ...CPU_V1, ...PIDS_V1 } });
  const v1 = new Map([
    ['memory', `${tree.root}/memory`],
    ['cpu', `${tree.root}/cpu`],
    ['pids', `${tree.root}/cpu`],
  ] as const);
  return [
    tree,
    createCgroupDriver(tree.files, { unified: `${tree.root}/unified`, v1, unmounted: [] }, 'vserver'),
  ];
}

function version2(): [CgroupTree, CgroupDriver] {
  const tree = new CgroupTree({ unified: UNIFIED_FULL });
  // The kernel lists what was enabled, without the sign.
  const enabled = new Map<string, string[]>();
  tree.onWrite = (path, text) => {
    if (!path.endsWith('cgroup.subtree_control')) return;
    enabled.set(path, [...(enabled.get(path) ?? []), text.slice(1)]);
  };
  const layout = { unified: `${tree.root}/unified`, v1: new Map(), unmounted: [] };
  const files = {
    ...tree.files,
    read: (path: string) => enabled.get(path)?.join(' ') ?? tree.files.read(path),
  };
  return [tree, createCgroupDriver(files, layout, 'vserver')];
}

/** Does what the worker does with a plan. */
function start(tree: CgroupTree, driver: CgroupDriver, limits: Limits): void {
  driver.prepareInstance();
  const plan = driver.plan(XID, limits);
  for (const directory of plan.directories) tree.files.mkdir(directory);
  for (const { path, text } of plan.handDown) tree.files.write(path, text);
  for (const { path, text } of plan.writes) tree.files.write(path, text);
  tree.writes.length = 0;
}

test('plans a guest on hybrid cgroups', () => {
  const [tree, driver] = hybrid();
  using _ = tree;
  driver.prepareInstance();
  const { root } = tree;
  assert.equal(driver.kind, 'hybrid');
  assert.equal(driver.uncountedMemory, `${root}/memory/cgroup.procs`);
  assert.deepEqual(driver.plan(XID, LIMITS), {
    directories: [
      `${root}/unified/vserver/7`,
      `${root}/unified/vserver/7/g`,
      `${root}/memory/vserver/7`,
      `${root}/cpu/vserver/7`,
    ],
    handDown: [],
    writes: [
      { path: `${root}/memory/vserver/7/memory.limit_in_bytes`, text: '67108864' },
      { path: `${root}/memory/vserver/7/memory.memsw.limit_in_bytes`, text: '100663296' },
      { path: `${root}/cpu/vserver/7/cpu.cfs_quota_us`, text: '20000' },
      { path: `${root}/cpu/vserver/7/cpu.shares`, text: '2048' },
      { path: `${root}/cpu/vserver/7/pids.max`, text: '50' },
    ],
    leaf: `${root}/unified/vserver/7/g`,
    joins: [`${root}/memory/vserver/7/tasks`, `${root}/cpu/vserver/7/tasks`],
    exits: [`${root}/memory/tasks`, `${root}/cpu/tasks`],
    // The hierarchy that counts tasks, here together with cpu.
    service: {
      leaf: `${root}/unified/vserver/7`,
      joins: [`${root}/memory/vserver/7/tasks`, `${root}/cpu/vserver/tasks`],
    },
    unenforced: [],
  });
});

test('plans a guest on cgroup2, with controllers handed down to it', () => {
  const [tree, driver] = version2();
  using _ = tree;
  driver.prepareInstance();
  const guest = `${tree.root}/unified/vserver/7`;
  assert.equal(driver.kind, 'v2');
  assert.equal(driver.uncountedMemory, `${tree.root}/unified/cgroup.procs`);
  const names = ['memory', 'cpu', 'pids', 'io', 'cpuset'];
  assert.deepEqual(tree.writes, [
    ...names.map((name) => `unified/cgroup.subtree_control +${name}`),
    ...names.map((name) => `unified/vserver/cgroup.subtree_control +${name}`),
    'unified/vserver/cgroup.max.depth 12',
  ]);
  assert.deepEqual(driver.plan(XID, LIMITS), {
    directories: [guest, `${guest}/g`],
    // The broker's leaf has none of its own: there tasks are not limited.
    handDown: [{ path: `${guest}/cgroup.subtree_control`, text: '+pids' }],
    writes: [
      { path: `${guest}/memory.max`, text: '67108864' },
      { path: `${guest}/memory.swap.max`, text: '33554432' },
      { path: `${guest}/cpu.max`, text: '20000 100000' },
      { path: `${guest}/cpu.weight`, text: '200' },
      { path: `${guest}/g/pids.max`, text: '50' },
    ],
    leaf: `${guest}/g`,
    joins: [],
    exits: [],
    service: { leaf: `${guest}/b`, joins: [] },
    unenforced: [],
  });
});

test('gives no swap unless a total says so, and plans no write for what a new cgroup has', () => {
  for (const [make, swap] of [
    [hybrid, 'memory.memsw.limit_in_bytes 1048576'],
    [version2, 'memory.swap.max 0'],
  ] as const) {
    const [tree, driver] = make();
    using _ = tree;
    driver.prepareInstance();
    const texts = (limits: Limits): readonly string[] =>
      driver.plan(XID, limits).writes.map(({ path, text }) => `${path.split('/').at(-1)} ${text}`);
    assert.ok(texts({ memoryBytes: MIB }).includes(swap));
    assert.deepEqual(texts({}), []);
    assert.deepEqual(texts({ memoryBytes: 'max', pids: 'max', cpuQuotaUs: 'max', cpuWeight: 100 }), []);
  }
});

test('names limits nothing enforces, and plans no write for them', () => {
  const { 'memory.memsw.limit_in_bytes': _memsw, ...withoutSwap } = MEMORY_V1;
  const [tree, driver] = hybrid(withoutSwap);
  using _ = tree;
  driver.prepareInstance();
  const plan = driver.plan(XID, LIMITS);
  assert.deepEqual(plan.unenforced, ['memorySwapBytes']);
  assert.ok(!plan.writes.some(({ path }) => path.includes('memsw')));
  assert.deepEqual(driver.plan(XID, { memoryBytes: MIB, memorySwapBytes: 'max' }).unenforced, []);
  assert.deepEqual(driver.capabilities(), {
    controllers: { memory: 'v1', cpu: 'v1', pids: 'v1', cpuset: 'none' },
    enforced: ['memoryBytes', 'cpuQuotaUs', 'cpuPeriodUs', 'cpuWeight', 'pids'],
    reasons: [],
  });
});

test('reports a controller the kernel does not hand down, and keeps the others', () => {
  const [tree, driver] = version2();
  using _ = tree;
  const listed = tree.onWrite;
  tree.onWrite = (path, text) => {
    if (text === '+memory') throw refusal('EBUSY', path);
    listed(path, text);
  };
  driver.prepareInstance();
  assert.deepEqual(driver.capabilities().controllers, {
    memory: 'none',
    cpu: 'v2',
    pids: 'v2',
    cpuset: 'none',
  });
  assert.match(driver.capabilities().reasons.join(), /memory cannot be enabled in .*EBUSY/);
  assert.deepEqual(driver.plan(XID, LIMITS).unenforced, ['memoryBytes', 'memorySwapBytes']);
});

test('refuses limits the kernel cannot take', () => {
  const [tree, driver] = hybrid();
  using _ = tree;
  driver.prepareInstance();
  const wrong: readonly Limits[] = [
    { memoryBytes: 0 },
    { memoryBytes: 1.5 },
    { memoryBytes: 2 ** 60 },
    { memoryBytes: 2 * MIB, memorySwapBytes: MIB },
    { memorySwapBytes: MIB },
    { pids: 0 },
    { pids: 5_000_000 },
    { cpuQuotaUs: 999 },
    { cpuPeriodUs: 1_000_001 },
    { cpuWeight: 0 },
    { cpuWeight: 10_001 },
  ];
  for (const limits of wrong) {
    assert.throws(() => driver.plan(XID, limits), { name: 'UserError', code: 'invalid-value' });
  }
});

test('plans nothing before the instance is prepared', () => {
  const [tree, driver] = hybrid();
  using _ = tree;
  assert.throws(() => driver.plan(XID, {}), { code: 'cgroup-not-prepared' });
});

test('prepares an instance twice', () => {
  const [tree, driver] = version2();
  using _ = tree;
  driver.prepareInstance();
  tree.writes.length = 0;
  driver.prepareInstance();
  assert.deepEqual(tree.writes, []);
});

test('orders the two v1 memory writes by direction', () => {
  const [tree, driver] = hybrid();
  using _ = tree;
  start(tree, driver, { memoryBytes: 64 * MIB });
  const limit = 'memory/vserver/7/memory.limit_in_bytes';
  const total = 'memory/vserver/7/memory.memsw.limit_in_bytes';
  assert.deepEqual(driver.apply(XID, { memoryBytes: 128 * MIB }).limits.memoryBytes, 128 * MIB);
  assert.deepEqual(tree.writes.splice(0), [`${total} ${128 * MIB}`, `${limit} ${128 * MIB}`]);
  driver.apply(XID, { memoryBytes: 32 * MIB });
  assert.deepEqual(tree.writes.splice(0), [`${limit} ${32 * MIB}`, `${total} ${32 * MIB}`]);
  driver.apply(XID, { memorySwapBytes: 'max' });
  assert.deepEqual(tree.writes.splice(0), [`${total} -1`, `${limit} ${32 * MIB}`]);
});

test('leaves the v1 memory pair as it was when the guest does not fit', () => {
  const [tree, driver] = hybrid();
  using _ = tree;
  start(tree, driver, { memoryBytes: 64 * MIB });
  tree.onWrite = (path, text) => {
    if (path.endsWith('memory.limit_in_bytes') && Number(text) < 64 * MIB) throw refusal('EBUSY', path);
  };
  const expected = { name: 'StateError', code: 'limit-below-usage', details: { usageBytes: 8192 } };
  assert.throws(() => driver.apply(XID, { memoryBytes: MIB }), expected);
  assert.throws(() => driver.apply(XID, { memoryBytes: MIB, memorySwapBytes: 128 * MIB }), expected);
  tree.onWrite = () => undefined;
  const { limits } = driver.apply(XID, {});
  assert.deepEqual([limits.memoryBytes, limits.memorySwapBytes], [64 * MIB, 64 * MIB]);
});

test('refuses a cgroup2 memory limit below what reclaim leaves', () => {
  const [tree, driver] = version2();
  using _ = tree;
  start(tree, driver, { memoryBytes: MIB });
  assert.throws(() => driver.apply(XID, { memoryBytes: 4096 }), { code: 'limit-below-usage' });
  assert.deepEqual(tree.writes, ['unified/vserver/7/memory.reclaim 4096']);
  tree.onWrite = (path) => {
    if (path.endsWith('memory.reclaim')) tree.set('unified/vserver/7/memory.current', '4096\n');
  };
  assert.equal(driver.apply(XID, { memoryBytes: 4096 }).limits.memoryBytes, 4096);
});

test('changes single limits and reads all back', () => {
  for (const make of [hybrid, version2]) {
    const [tree, driver] = make();
    using _ = tree;
    start(tree, driver, LIMITS);
    const { limits, unenforced } = driver.apply(XID, { cpuPeriodUs: 50_000, pids: 'max', cpuWeight: 1 });
    assert.deepEqual(unenforced, []);
    assert.deepEqual(limits, {
      memoryBytes: 64 * MIB,
      memorySwapBytes: 96 * MIB,
      pids: 'max',
      cpuQuotaUs: 20_000,
      cpuPeriodUs: 50_000,
      cpuWeight: 1,
      cpuBurstUs: undefined,
      cpuIdle: undefined,
      cpuset: undefined,
    });
  }
});

test('gives a guest a cpuset of its own on version 1 only if it asks for one', () => {
  const cpuset = { 'cgroup.clone_children': '0\n', 'cpuset.cpus': '', 'cpuset.mems': '', 'cgroup.procs': '' };
  const tree = new CgroupTree({ unified: UNIFIED, cpuset });
  using _ = tree;
  tree.set('cpuset/cpuset.cpus', '0-3\n');
  tree.set('cpuset/cpuset.mems', '0\n');
  const layout = {
    unified: `${tree.root}/unified`,
    v1: new Map([['cpuset', `${tree.root}/cpuset`] as const]),
    unmounted: [],
  };
  const driver = createCgroupDriver(tree.files, layout, 'vserver');
  driver.prepareInstance();
  const instance = 'cpuset/vserver';
  assert.deepEqual(
    tree.writes.splice(0).filter((line) => line.startsWith(instance)),
    [`${instance}/cpuset.cpus 0-3`, `${instance}/cpuset.mems 0`, `${instance}/cgroup.clone_children 1`],
  );
  assert.deepEqual(driver.plan(XID, {}).joins, []);
  const plan = driver.plan(XID, { cpuset: '0,2' });
  const own = `${tree.root}/${instance}/7`;
  assert.deepEqual(plan.directories.at(-1), own);
  assert.deepEqual(plan.joins, [`${own}/tasks`]);
  assert.deepEqual(plan.writes, [{ path: `${own}/cpuset.cpus`, text: '0,2' }]);

  start(tree, driver, {});
  assert.equal(driver.apply(XID, { cpuset: 'all' }).limits.cpuset, 'all');
  tree.set('unified/vserver/7/g/cgroup.procs', '41\n42\n');
  assert.equal(driver.apply(XID, { cpuset: '1' }).limits.cpuset, '1');
  assert.equal(driver.apply(XID, { cpuset: 'all' }).limits.cpuset, 'all');
  driver.apply(XID, { cpuset: '1' });
  assert.deepEqual(tree.writes.splice(0), [
    ...['1', '0-3', '1'].flatMap((cpus) => [
      `${instance}/7/cpuset.cpus ${cpus}`,
      `${instance}/7/cgroup.procs 41`,
      `${instance}/7/cgroup.procs 42`,
    ]),
  ]);
  assert.throws(() => driver.apply(XID, { cpuset: '3-1' }), { code: 'invalid-value' });
  for (const missing of ['4', '0,99'])
    for (const take of [
      () => driver.apply(XID, { cpuset: missing }),
      () => driver.plan(XID, { cpuset: missing }),
    ])
      assert.throws(take, { code: 'cpu-missing', message: /found CPUs 0-3;/u });
  driver.remove(XID);
  driver.removeInstance();
  assert.equal(driver.list().length, 0);
});

test('reads the same usage from both versions', () => {
  const common = {
    memoryBytes: 8192,
    memoryPeakBytes: 16_384,
    memoryAnonBytes: 4096,
    memoryFileBytes: 2048,
    memoryMappedBytes: 1024,
    memorySharedBytes: 512,
    memoryKernelBytes: 2048,
    swapBytes: 0,
    memoryLimitHits: 3,
    oomKills: 1,
    pids: 2,
    pidsPeak: 5,
    pidsLimitHits: 1,
    cpuUsageUs: 900,
    cpuUserUs: 600,
    cpuSystemUs: 300,
    cpuPeriods: 4,
    cpuThrottledPeriods: 2,
    cpuThrottledUs: 50,
  };
  for (const [make, io] of [
    [hybrid, { ioReadBytes: undefined, ioWriteBytes: undefined }],
    [version2, { ioReadBytes: 4100, ioWriteBytes: 512 }],
  ] as const) {
    const [tree, driver] = make();
    using _ = tree;
    start(tree, driver, {});
    assert.deepEqual(driver.read(XID), { ...common, ...io });
    assert.deepEqual(driver.sample(XID), { cpuUserUs: 600, cpuSystemUs: 300, residentBytes: 5120, pids: 2 });
  }
});

test('leaves to the host what is in no guest', () => {
  const [tree, driver] = hybrid();
  using _ = tree;
  driver.prepareInstance();
  tree.set('unified/cpu.stat', 'usage_usec 5000\nuser_usec 3000\nsystem_usec 2000\n');
  assert.deepEqual(driver.readHostCpu(), { userUs: 2400, systemUs: 1700 });
});

test('does not call hits 0 that version 1 may not count', () => {
  const [tree, driver] = hybrid({ ...MEMORY_V1, 'memory.failcnt': '0\n', 'memory.memsw.failcnt': '0\n' });
  using _ = tree;
  start(tree, driver, { memoryBytes: MIB });
  assert.equal(driver.read(XID).memoryLimitHits, undefined);
  driver.apply(XID, { memorySwapBytes: 'max' });
  assert.equal(driver.read(XID).memoryLimitHits, 0);
});

test('says that a guest has no cgroup', async () => {
  const [tree, driver] = hybrid();
  using _ = tree;
  driver.prepareInstance();
  const missing = { name: 'StateError', code: 'cgroup-missing' };
  assert.throws(() => driver.read(XID), missing);
  assert.throws(() => driver.apply(XID, { pids: 1 }), missing);
  assert.throws(() => driver.kill(XID), missing);
  await assert.rejects(driver.freeze(XID, 0), missing);
  assert.deepEqual(driver.pids(XID), []);
  assert.equal(driver.isPopulated(XID), false);
  driver.remove(XID);
});

test('thaws a guest that does not freeze in time', async () => {
  const [tree, driver] = hybrid();
  using _ = tree;
  start(tree, driver, {});
  await assert.rejects(driver.freeze(XID, 5), { code: 'freeze-timeout' });
  const file = 'unified/vserver/7/g/cgroup.freeze';
  assert.deepEqual(tree.writes.splice(0), [`${file} 1`, `${file} 0`]);
  tree.set('unified/vserver/7/g/cgroup.events', 'populated 1\nfrozen 1\n');
  await driver.freeze(XID, 0);
  await assert.rejects(driver.thaw(XID, 5), { code: 'freeze-timeout' });
});

test('counts processes in cgroups the guest made, and removes those first', () => {
  const [tree, driver] = hybrid();
  using _ = tree;
  start(tree, driver, {});
  const leaf = `${tree.root}/unified/vserver/7/g`;
  for (const path of [`${leaf}/a`, `${leaf}/a/b`, `${leaf}/c d`]) tree.files.mkdir(path);
  tree.set('unified/vserver/7/g/cgroup.procs', '10\n');
  tree.set('unified/vserver/7/g/a/b/cgroup.procs', '11\n12\n');
  assert.deepEqual([...driver.pids(XID)].sort(), [10, 11, 12]);
  assert.deepEqual(driver.list(), [7]);
  driver.remove(XID);
  assert.deepEqual(driver.list(), []);
});

test('lists guests left over in one hierarchy, and nothing that is no guest', () => {
  const [tree, driver] = hybrid();
  using _ = tree;
  driver.prepareInstance();
  for (const name of ['memory/vserver/300', 'cpu/vserver/9', 'cpu/vserver/1', 'unified/vserver/x']) {
    tree.files.mkdir(`${tree.root}/${name}`);
  }
  assert.deepEqual(driver.list(), [9, 300]);
});

test('reports processes that keep a cgroup', () => {
  const [tree, driver] = hybrid();
  using _ = tree;
  driver.prepareInstance();
  const files = {
    ...tree.files,
    rmdir: (path: string) => {
      throw refusal('EBUSY', path);
    },
  };
  tree.files.mkdir(`${tree.root}/unified/vserver/7`);
  tree.set('unified/vserver/7/cgroup.procs', '10\n');
  const layout = { unified: `${tree.root}/unified`, v1: new Map(), unmounted: [] };
  const busy = createCgroupDriver(files, layout, 'vserver');
  assert.throws(() => busy.remove(XID), { code: 'cgroup-busy', details: { pids: [10] } });
});
