/** How the control plane comes up again, and how long clients wait for it. Both take their time, and no CPU time. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  copyFileSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { describe, test } from 'node:test';
import { setTimeout } from 'node:timers/promises';
import { type Machine, waitUntil, withMachine } from '../lib/machine.ts';
import { unmet } from '../lib/requires.ts';

const SYSCALLD = resolve(import.meta.dirname, '../../build/syscalld');
/** native/daemon.c */
const BACKOFF_MAX_MS = 5000;
const LIVED_MS = 10_000;
/** native/client.c */
const START_TIMEOUT_MS = 30_000;

/** Ends the process in vserverd's place; how long it was until its successor came, at least and at most. */
async function restart(machine: Machine): Promise<readonly [ms: number, mostMs: number]> {
  const beganMs = performance.now();
  let endedMs = 0;
  await machine.restart(() => {
    endedMs = performance.now();
  });
  return [performance.now() - endedMs, performance.now() - beganMs];
}

/** Processes that name a directory in their arguments. */
function processesOf(directory: string): readonly number[] {
  return readdirSync('/proc')
    .map(Number)
    .filter((pid) => {
      try {
        return pid > 0 && readFileSync(`/proc/${pid}/cmdline`, 'latin1').includes(directory);
      } catch {
        return false; // it has ended
      }
    });
}

describe('the control plane', { skip: unmet('root'), concurrency: true }, () => {
  test('is restarted later and later, 5 s at most, and soon again when it has lived for a while', async () => {
    await withMachine(async (machine) => {
      let delayMs = 50;
      for (; delayMs < BACKOFF_MAX_MS; delayMs *= 2) {
        const [, mostMs] = await restart(machine);
        assert.ok(mostMs >= delayMs, `restarted after ${mostMs} ms; need ${delayMs}`);
      }
      // A busy machine restarts it late, but not each time.
      let leastMs = Number.POSITIVE_INFINITY;
      for (let i = 0; leastMs >= delayMs && i < 5; i++) {
        const [ms, mostMs] = await restart(machine);
        assert.ok(mostMs >= BACKOFF_MAX_MS, `restarted after ${mostMs} ms; need ${BACKOFF_MAX_MS}`);
        leastMs = ms;
      }
      assert.ok(leastMs < delayMs, `restarted after ${leastMs} ms; need ${BACKOFF_MAX_MS}`);
      leastMs = Number.POSITIVE_INFINITY;
      for (let i = 0; leastMs >= BACKOFF_MAX_MS && i < 3; i++) {
        await setTimeout(LIVED_MS + 100);
        [leastMs] = await restart(machine);
      }
      assert.ok(leastMs < BACKOFF_MAX_MS, `restarted after ${leastMs} ms; need it at once`);
    });
  });

  test('is waited for by clients, 30 s', async () => {
    const root = mkdtempSync(join(tmpdir(), 'vserver-late-'));
    const bin = join(root, 'bin');
    mkdirSync(bin);
    copyFileSync(SYSCALLD, join(bin, 'vserver'));
    // It never says that it is ready.
    writeFileSync(join(bin, 'vserverd'), '#!/bin/sh\nexec sleep 1000\n', { mode: 0o755 });
    const beganMs = performance.now();
    const client = spawn(join(bin, 'vserver'), ['list'], {
      argv0: 'vserver',
      env: { PATH: process.env['PATH'] ?? '', VSERVER_ROOT: root },
      stdio: ['ignore', 'ignore', 'pipe'],
    });
    let said = '';
    client.stderr.setEncoding('utf8').on('data', (text: string) => (said += text));
    try {
      assert.deepEqual(await once(client, 'exit'), [125, null]);
      assert.ok(performance.now() - beganMs >= START_TIMEOUT_MS);
      await waitUntil(() => said.endsWith('\n'));
      const refusal =
        'cannot start the control plane: found no answer in 30 s; see vserverd.log in the run directory';
      assert.equal(said, `vserver: ${refusal}\n`);
    } finally {
      client.kill('SIGKILL');
      client.stderr.destroy(); // whoever comes up has it too
      await waitUntil(() => {
        const left = processesOf(root);
        for (const pid of left) process.kill(pid, 'SIGKILL');
        return left.length === 0;
      });
      rmSync(root, { recursive: true });
    }
  });
});
