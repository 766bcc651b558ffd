import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { resolve } from 'node:path';
import { createInterface } from 'node:readline';
import { suite, test } from 'node:test';
import { unmet } from '../lib/requires.ts';

const CHECKOUT = resolve(import.meta.dirname, '../..');

suite('demo', { skip: unmet('root', 'overlay', 'userns') }, () => {
  test('has cleaned up when it is back from an interrupt', async () => {
    const demo = spawn(resolve(CHECKOUT, 'tools/node'), [resolve(CHECKOUT, 'tools/demo.ts')], {
      stdio: ['ignore', 'pipe', 'inherit'],
      detached: true, // a process group, as a terminal interrupts one
    });
    const ended = once(demo, 'exit');
    let directory: string | undefined;
    for await (const line of createInterface(demo.stdout)) {
      directory ??= /^State: (\S+)\/state$/.exec(line)?.[1];
      if (line === 'web') {
        process.kill(-(demo.pid ?? 0), 'SIGINT');
        break;
      }
    }
    demo.stdout.resume();
    const [code, signal] = await ended;
    assert.deepEqual([code, signal], [1, null]);
    assert.ok(directory !== undefined);
    assert.equal(existsSync(directory), false, directory);
  });
});
