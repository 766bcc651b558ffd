import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import { IdleCollector } from './idle-collector.ts';

/** Timers that go off when told; those of node:test begin no second time by `refresh`. */
function fakeTimers(t: TestContext): (untilMs: number) => void {
  let nowMs = 0;
  const timers: { atMs: number; readonly body: () => void }[] = [];
  t.mock.method(globalThis, 'setTimeout', (body: () => void, afterMs: number) => {
    const timer = {
      atMs: nowMs + afterMs,
      body,
      unref: () => timer,
      refresh: () => {
        timer.atMs = nowMs + afterMs;
        return timer;
      },
    };
    timers.push(timer);
    return timer;
  });
  return (untilMs) => {
    for (; nowMs < untilMs; nowMs++) {
      for (const timer of timers) {
        if (timer.atMs !== nowMs) continue;
        timer.atMs = Number.POSITIVE_INFINITY;
        timer.body();
      }
    }
  };
}

test('collects all garbage when nobody is served, and not while guests start', (t) => {
  const kinds: unknown[] = [];
  const gc = globalThis.gc;
  t.after(() => {
    globalThis.gc = gc;
  });
  globalThis.gc = ((options?: { readonly type?: string }) => void kinds.push(options?.type)) as typeof gc;
  const until = fakeTimers(t);
  let isBusy = true;
  const collector = new IdleCollector(() => isBusy);
  collector.served();
  until(2500);
  assert.deepEqual(kinds, ['minor']);
  isBusy = false;
  until(20_000);
  assert.deepEqual(kinds, ['minor', 'major', 'major']);
  collector.served();
  until(20_500);
  assert.deepEqual(kinds, ['minor', 'major', 'major', 'minor']);
});
