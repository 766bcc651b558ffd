import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ipcSysctlsBetween, ipcSysctlsOf, LIMIT_ROW_SPECS, LIMIT_ROWS, rlimitsOf } from './limit-rows.ts';

const PAGE = 4096;

test('each row has its name, and no two an option, a number or a key', () => {
  const specs = LIMIT_ROWS.map((row) => LIMIT_ROW_SPECS[row]);
  assert.deepEqual(
    specs.map(({ row }) => row),
    LIMIT_ROWS,
  );
  for (const field of ['option', 'number', 'key'] as const)
    assert.equal(new Set(specs.map((spec) => spec[field])).size, LIMIT_ROWS.length, field);
});

test('resource limits that stand for limits of the guest', () => {
  assert.deepEqual(rlimitsOf({}), {});
  assert.deepEqual(rlimitsOf({ addressSpaceBytes: 5, openFiles: 9, fileDescriptors: 7, dentries: 1 }), {
    as: 5,
    nofile: 7,
  });
});

test('sysctls that stand for limits of the guest', () => {
  assert.deepEqual(ipcSysctlsOf({ openFiles: 3 }, PAGE), {});
  assert.deepEqual(ipcSysctlsOf({ sharedMemoryBytes: 10 * PAGE + 1, semaphores: 60 }, PAGE), {
    'kernel.shmall': '10',
    'kernel.sem': '32000 60 500 32000',
  });
  for (const bytes of [0, 1, 100, 16_383, 16_384, 16_385, 50_000, 2 ** 40]) {
    const sysctls = ipcSysctlsOf({ messageQueueBytes: bytes }, PAGE);
    const [queues, each] = [Number(sysctls['kernel.msgmni']), Number(sysctls['kernel.msgmnb'])];
    assert.ok(queues * each <= bytes && queues <= 32_768, `${queues} × ${each} of ${bytes}`);
    assert.ok(
      queues * each > bytes / 2 || bytes === 0 || queues === 32_768,
      `${queues} × ${each} of ${bytes}`,
    );
  }
});

test('what a changed limit does to sysctls, and one that is gone', () => {
  assert.deepEqual(ipcSysctlsBetween({ semaphoreSets: 3 }, { semaphoreSets: 3, openFiles: 2 }, PAGE), {});
  assert.deepEqual(ipcSysctlsBetween({ semaphoreSets: 3 }, { sharedMemoryBytes: PAGE }, PAGE), {
    'kernel.sem': '32000 1024000000 500 32000',
    'kernel.shmall': '1',
  });
});
