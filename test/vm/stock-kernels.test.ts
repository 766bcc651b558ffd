/**
 * The root tier on Debian's stock kernels, where cgroup v2 owns the controllers, /tmp is an ext4 with quotas, and the
 * kernel is older than the newest features. Every test of the inner runs is a test here.
 *
 * VM_TEST_FILES, a space-separated list of files, runs these instead, and with VM_TEST_NAMES, a regular expression, of them
 * only the tests with such names.
 */
import assert from 'node:assert/strict';
import { existsSync, globSync, readFileSync, rmSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { describe, type TestContext, test } from 'node:test';
import { identifyProcess } from '../../src/sys/process.ts';
import { type BootResult, boot } from '../../tools/vm/boot.ts';
import { fetchKernel, KernelUnavailableError, type StockKernel } from '../../tools/vm/fetch-kernel.ts';
import { type InnerTest, parseResults } from '../../tools/vm/results.ts';
import { COMPILE_CACHE } from '../../tools/vm/scripts.ts';
import { buildProbe } from '../lib/probe.ts';
import { mustRun, requires } from '../lib/requires.ts';

const ROOT = resolve(import.meta.dirname, '../..');
const CACHE = join(ROOT, 'build/vm');

// Emulation is some ten times slower than the machine it runs on.
const MACHINE_TIMEOUT_MS = 1_500_000;

// What a stock kernel is known to have: there a skip would hide a broken machine.
const ENVIRONMENT = {
  VSERVER_TEST_VM: '1',
  MUST_RUN: 'root,cgroup2,overlay,userns,fuse,busybox',
  NODE_COMPILE_CACHE: COMPILE_CACHE,
};

// A mirror of the one release may lack the next one; MUST_RUN=qemu insists on the first.
const KERNELS = [
  { name: '6.1', codename: 'bookworm', isOptional: false },
  { name: '6.12', codename: 'trixie', isOptional: true },
] as const;

type KernelName = (typeof KERNELS)[number]['name'];

/**
 * What runs on both kernels, in this order: what their versions answer differently. That is files of cgroup v2 and what they
 * count, limits by user namespace, quotas; and what is said of the machine. Layers of an overlay and where an image is
 * mounted from differ too, and every guest has those.
 *
 * What is about compilers, our sources or our own processes runs on no other kernel than the host's. The rest of the root
 * tier (crash, load, own-init, network) counts too much on time under emulation, or on a package mirror: run it by
 * VM_TEST_FILES.
 */
const ON_BOTH = ['test/vm/inside/*.test.ts', 'test/integration/{cgroup,limit-table,oom}.test.ts'];

/**
 * What runs on one of them: it asks the same of both, and every guest that a test starts on the other uses it there. Half
 * each, by the time they take; with the older one what does without its successors' ways to mount (templates, paths) or to
 * find a process that calls (own-measure: before Linux 6.11), which the host's kernel has; with the newer one what its system
 * calls might let through.
 */
const ON_ONE: Readonly<Record<KernelName, readonly string[]>> = {
  '6.1': [
    'test/vm/inside/disk-quota.test.ts',
    'test/integration/{own-measure,templates}.test.ts',
    'test/security/paths.test.ts',
  ],
  '6.12': [
    'test/vm/inside/power-cut.test.ts',
    'test/integration/{accounting,lifecycle,run,scheduler,tty}.test.ts',
    'test/security/kernel.test.ts',
  ],
};

// One emulated processor each keeps a processor busy: the machines run side by side.
describe('stock kernels', { concurrency: KERNELS.length }, () => {
  for (const { name, codename, isOptional } of KERNELS) {
    test(`root tier on Linux ${name} of Debian ${codename}`, async (t) => {
      if (!requires(t, 'qemu', 'busybox')) return;
      if (process.arch !== 'x64') {
        t.skip(`needs an x86-64 host, whose programs the machine runs: this is ${process.arch}`);
        return;
      }
      let kernel: StockKernel;
      try {
        kernel = fetchKernel(codename, join(CACHE, 'kernels'));
      } catch (error) {
        if (!(error instanceof KernelUnavailableError) || (!isOptional && mustRun().includes('qemu')))
          throw error;
        t.skip(`needs Linux ${name}: ${error.message}`);
        return;
      }
      buildProbe(); // the machine has the checkout read-only
      const result = await boot({
        kernel,
        checkout: ROOT,
        command: [process.execPath, 'tools/vm/run-tests.ts', '/out', ...testFiles(name)],
        env: { ...ENVIRONMENT, VM_TEST_NAMES: process.env['VM_TEST_NAMES'] ?? '' },
        workDir: ownDirectory(codename),
        timeoutMs: MACHINE_TIMEOUT_MS,
      });
      t.diagnostic(`Linux ${kernel.release}: ${result.seconds.toFixed(1)} s`);
      await surface(t, result);
    });
  }
});

/** A directory that is nobody else's: several runs of one checkout may go on at once. That of an earlier run goes. */
function ownDirectory(codename: string): string {
  const runs = join(CACHE, 'runs');
  for (const former of globSync(`${codename}.*`, { cwd: runs })) {
    const isOver = identifyProcess(Number(former.split('.').at(-1))) === undefined;
    if (isOver) rmSync(join(runs, former), { recursive: true, force: true });
  }
  return join(runs, `${codename}.${process.pid}`);
}

function testFiles(kernel: KernelName): readonly string[] {
  const named = (process.env['VM_TEST_FILES'] ?? '').split(' ').filter((file) => file !== '');
  if (named.length > 0) return named;
  const list = (patterns: readonly string[]): readonly string[] =>
    patterns.flatMap((pattern) => globSync(pattern, { cwd: ROOT }).sort());
  const single = list(Object.values(ON_ONE).flat());
  return [...list(ON_BOTH).filter((file) => !single.includes(file)), ...list(ON_ONE[kernel])];
}

/** Makes the inner results tests of `t`, and fails it when the machine ended another way than its tests say. */
async function surface(t: TestContext, result: BootResult): Promise<void> {
  const resultsPath = join(result.outDir, 'results.jsonl');
  const files = parseResults(existsSync(resultsPath) ? readFileSync(resultsPath, 'utf8') : '');
  for (const [file, tests] of files) {
    await t.test(file, async (t) => {
      const seconds = tests.reduce((sum, { durationMs }) => sum + durationMs, 0) / 1000;
      t.diagnostic(`${seconds.toFixed(0)} s there`);
      for (const inner of tests) await repeat(t, inner);
    });
  }
  if (result.exitCode === undefined) {
    const found = result.timedOut
      ? `no end after ${MACHINE_TIMEOUT_MS / 1000} s`
      : 'a machine that stopped by itself';
    assert.fail(`cannot finish the tests: found ${found}\n${lastLines(result.consolePath)}`);
  }
  const outcomes = [...files.values()].flat().map(({ outcome }) => outcome);
  assert.notEqual(outcomes.length, 0, `no test ran\n${lastLines(join(result.outDir, 'output.log'))}`);
  const expected = outcomes.includes('fail') ? 1 : 0;
  assert.equal(result.exitCode, expected, `exit status\n${lastLines(join(result.outDir, 'output.log'))}`);
}

async function repeat(t: TestContext, inner: InnerTest): Promise<void> {
  await t.test(inner.name, async (t) => {
    for (const child of inner.children) await repeat(t, child);
    if (inner.outcome === 'skip') t.skip(inner.reason);
    if (inner.outcome === 'todo') t.todo(inner.reason);
    // A parent of a failed test fails by itself, and says less.
    if (inner.outcome !== 'fail' || inner.children.some(({ outcome }) => outcome === 'fail')) return;
    const error = new Error(inner.error?.message);
    error.stack = inner.error?.stack ?? '';
    throw error;
  });
}

/** A log's path and its last lines; the logs of a run are kept until the next one. */
function lastLines(path: string): string {
  const text = existsSync(path) ? readFileSync(path, 'utf8') : '';
  return [`${path}:`, ...text.trimEnd().split('\n').slice(-30)].join('\n');
}
