import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { listProcesses } from './process-list.ts';

test('a process that runs', async () => {
  const child = spawn('sleep', ['60']);
  try {
    const [found] = await listProcesses([child.pid ?? 0]);
    assert.deepEqual([found?.pid, found?.argv, found?.ppid], [child.pid, ['sleep', '60'], process.pid]);
    assert.equal(found?.uid, process.geteuid?.());
  } finally {
    child.kill();
  }
});

test('processes that have ended are left out, long arguments are cut', async () => {
  const root = mkdtempSync(join(tmpdir(), 'vserver-proc-'));
  try {
    mkdirSync(join(root, '7'));
    const status = 'Name:\tx\nState:\tR (running)\nPPid:\t0\nUid:\t0\t0\t0\t0\nNSpid:\t7\t1\nThreads:\t1\n';
    writeFileSync(join(root, '7/status'), status);
    writeFileSync(join(root, '7/stat'), `7 (x) ${'1 '.repeat(50)}`);
    writeFileSync(join(root, '7/cmdline'), `x\0${'y'.repeat(10_000)}\0`);
    const found = await listProcesses([6, 7, 8], root);
    assert.deepEqual(
      found.map((one) => [one.pid, one.nsPids, one.cpuMs, one.argv.length, one.argv[1]?.length]),
      [[7, [7, 1], 20, 2, 4095]],
    );
  } finally {
    rmSync(root, { recursive: true });
  }
});
