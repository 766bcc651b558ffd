import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { RestartPolicy } from './config-types.ts';
import { type EndedRun, startAfter, startAfterFailure } from './restart-policy.ts';

const POLICY: RestartPolicy = {
  policy: 'always',
  delayMs: 100,
  maxDelayMs: 60_000,
  onReboot: true,
};
const RUN: EndedRun = { cause: 'exited', exitCode: 0, ranMs: 5, restarts: 0, isRestartAsked: false };

test('each policy answers to each end', () => {
  const ends = {
    success: RUN,
    failure: { ...RUN, exitCode: 1 },
    unseen: { ...RUN, cause: 'unknown', exitCode: null },
    stopped: { ...RUN, cause: 'stopped', exitCode: 143 },
    halted: { ...RUN, cause: 'halted' },
    rebooted: { ...RUN, cause: 'rebooted' },
    killed: { ...RUN, cause: 'unhealthy', exitCode: 137 },
    unhealthy: { ...RUN, cause: 'unhealthy', isRestartAsked: true },
  } as const satisfies Record<string, EndedRun>;
  const restarting = (policy: RestartPolicy['policy']): readonly string[] =>
    Object.entries(ends)
      .filter(([, run]) => startAfter({ ...POLICY, policy }, run) !== undefined)
      .map(([name]) => name);
  assert.deepEqual(restarting('no'), ['rebooted', 'unhealthy']);
  assert.deepEqual(restarting('on-failure'), ['failure', 'unseen', 'rebooted', 'killed', 'unhealthy']);
  assert.deepEqual(restarting('always'), ['success', 'failure', 'unseen', 'rebooted', 'killed', 'unhealthy']);
  assert.deepEqual(restarting('unless-stopped'), restarting('always'));
  assert.equal(startAfter({ ...POLICY, onReboot: false }, ends.rebooted), undefined);
});

test('delays double up to the longest, and begin anew for who has settled', () => {
  const delays: number[] = [];
  let restarts = 0;
  for (let i = 0; i < 12; i++) {
    const next = startAfter(POLICY, { ...RUN, restarts });
    assert.ok(typeof next === 'object');
    delays.push(next.delayMs);
    ({ restarts } = next);
  }
  assert.deepEqual(delays, [100, 200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 51_200, 60_000, 60_000]);
  assert.deepEqual(startAfter(POLICY, { ...RUN, restarts, ranMs: 10_000 }), { delayMs: 100, restarts: 1 });
  assert.deepEqual(startAfter(POLICY, { ...RUN, restarts: 5000 }), { delayMs: 60_000, restarts: 5001 });
});

test('tries are counted, those that did not even start too', () => {
  const policy: RestartPolicy = { ...POLICY, policy: 'on-failure', maxRetries: 2 };
  const failed = { ...RUN, exitCode: 1 };
  assert.deepEqual(startAfter(policy, { ...failed, restarts: 1 }), { delayMs: 200, restarts: 2 });
  assert.equal(startAfter(policy, { ...failed, restarts: 2 }), 'exhausted');
  assert.equal(startAfterFailure(policy, 2), 'exhausted');
  assert.deepEqual(startAfter(policy, { ...failed, restarts: 2, ranMs: 20_000 }), {
    delayMs: 100,
    restarts: 1,
  });
  assert.equal(
    startAfterFailure({ ...POLICY, policy: 'no' }, 1),
    undefined,
    'a failed reboot of a guest without policy',
  );
});
