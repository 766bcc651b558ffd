/** Steps on eBPF maps, on this host's kernel. */
import assert from 'node:assert/strict';
import { existsSync, mkdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs';
import { describe, type TestContext, test } from 'node:test';
import { discoverCgroups } from '../../src/resources/cgroup-layout.ts';
import { possibleCpus } from '../../src/sys/bpf/cpus.ts';
import { planCreateMap, planEnterPerCpu, planLookup, planUpdate } from '../../src/sys/bpf/map.ts';
import { type Import, Program } from '../../src/sys/program.ts';
import { StepError, type Syscalld } from '../../src/sys/syscalld.ts';
import { withMachine } from '../lib/machine.ts';
import { unmet } from '../lib/requires.ts';

const SPEC = { type: 'perCpuHash', keyBytes: 4, valueBytes: 256, entries: 65_536 } as const;
/** Of elements, in one program. */
const MANY = 400;
/** All waits together. */
const WAITS_MS = 341;

describe('eBPF maps', { skip: unmet('root') }, () => {
  test('an element per CPU is tried again while the kernel has no memory at hand, for a while', async (context) => {
    const group = memoryGroup(context);
    if (group === undefined) return;
    try {
      await withMachine(async ({ syscalld }) => {
        const map = syscalld.newObject();
        const run: Run = async (plan) => {
          const p = new Program(syscalld.abi);
          plan(p, p.import(map));
          return (await syscalld.run('try', p)).out;
        };
        await makeIn(syscalld, map, group.procs);
        const value = new Uint8Array(SPEC.valueBytes * possibleCpus()).fill(7);
        await run((p, it) => planEnterPerCpu(p, it, key(0), value, 'one'));
        group.limit(group.usage());
        // What is freed elsewhere may be had after a moment: then there is room for some more.
        let number = 1;
        let waitedMs = 0;
        for (let isFull = false; !isFull; number++) {
          assert.ok(number < SPEC.entries, 'there is a limit');
          const startedAt = performance.now();
          isFull = await isRefused(run((p, it) => planEnterPerCpu(p, it, key(number), value, 'late')));
          waitedMs = performance.now() - startedAt;
          if (!isFull) number = await fillUp(run, number + 1, value);
        }
        assert.ok(waitedMs >= WAITS_MS, `${waitedMs} ms`);
        group.limit('-1');
        await run((p, it) => planEnterPerCpu(p, it, key(number), value, 'late'));
        // What is there stays.
        await run((p, it) => planEnterPerCpu(p, it, key(number), new Uint8Array(value.length), 'late'));
        const found = await run((p, it) => p.returns(planLookup(p, it, key(number), value.length, 'late')));
        assert.deepEqual(new Uint8Array(found), value);
        syscalld.drop(map);
      });
    } finally {
      group.remove();
    }
  });
});

type Run = (plan: (p: Program, map: Import) => void) => Promise<Buffer>;

/** Whether a program ended since there was no memory. */
async function isRefused(ran: Promise<unknown>): Promise<boolean> {
  try {
    await ran;
    return false;
  } catch (error) {
    if (error instanceof StepError && error.errnoName === 'ENOMEM') return true;
    throw error;
  }
}

function key(number: number): Uint8Array {
  return new Uint8Array(Uint32Array.of(number).buffer);
}

/** Enters elements until the kernel has no memory at hand; returns a number after theirs. */
async function fillUp(run: Run, from: number, value: Uint8Array): Promise<number> {
  let next = from;
  const plan = (p: Program, map: Import): void => {
    const same = p.data(value);
    for (let i = 0; i < MANY; i++) planUpdate(p, map, key(next + i), same, { about: 'fill' });
  };
  while (next < SPEC.entries && !(await isRefused(run(plan)))) next += MANY;
  return next + MANY;
}

/** Makes the map by a worker in a cgroup, which its memory is then charged to. */
async function makeIn(syscalld: Syscalld, map: number, procs: string): Promise<void> {
  const p = new Program(syscalld.abi);
  const fd = p.sys('openat', [p.flags('AT_FDCWD'), procs, p.flags('O_WRONLY', 'O_CLOEXEC'), 0]);
  p.sys('write', [fd, '0', 1]);
  p.keep(planCreateMap(p, 'test', SPEC), map);
  await syscalld.run('make a map', p);
}

/** A cgroup whose memory can be limited. */
function memoryGroup(context: TestContext) {
  const read = (path: string): string => readFileSync(path, 'utf8');
  const { unified, v1 } = discoverCgroups(read('/proc/self/mountinfo'), read('/proc/self/cgroup'));
  const own = v1.get('memory');
  const directory = `${own ?? unified}/vserver-test-${process.pid}`;
  const [limit, usage] =
    own === undefined ? ['memory.max', 'memory.current'] : ['memory.limit_in_bytes', 'memory.usage_in_bytes'];
  mkdirSync(directory);
  if (!existsSync(`${directory}/${limit}`)) {
    rmdirSync(directory);
    context.skip('needs memory: found no controller of that name');
    return undefined;
  }
  return {
    procs: `${directory}/cgroup.procs`,
    usage: () => read(`${directory}/${usage}`).trim(),
    limit: (bytes: string) => writeFileSync(`${directory}/${limit}`, bytes === '-1' && !own ? 'max' : bytes),
    remove: () => rmdirSync(directory),
  };
}
