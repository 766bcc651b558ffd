import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setImmediate } from 'node:timers/promises';
import { inLanes } from './lanes.ts';

/** Runs that end when they are told to; what has happened so far. */
function told(): {
  readonly log: string[];
  start(item: string): ReturnType<typeof run>;
  end(item: string): void;
} {
  const log: string[] = [];
  const ends = new Map<string, () => void>();
  const run = (item: string): { readonly events: AsyncIterable<string>; readonly ended: Promise<void> } => {
    log.push(`start ${item}`);
    const ended = new Promise<void>((done) => ends.set(item, done));
    return {
      ended,
      events: (async function* () {
        yield `${item}1`;
        await ended;
        yield `${item}2`;
      })(),
    };
  };
  return { log, start: run, end: (item) => ends.get(item)?.() };
}

async function collect(runs: readonly AsyncIterable<string>[], log: string[]): Promise<void> {
  for (const one of runs) for await (const event of one) log.push(event);
}

test('nothing starts before it is read, and no more than there are lanes', async () => {
  const { log, start, end } = told();
  const runs = inLanes(['a', 'b', 'c'], 2, start);
  await setImmediate();
  assert.deepEqual(log, []);
  const over = collect(runs, log);
  await setImmediate();
  assert.deepEqual(log, ['start a', 'start b', 'a1']);
  end('b');
  await setImmediate();
  assert.deepEqual(log.slice(3), ['start c'], 'what b has to say waits for a');
  end('c');
  end('a');
  await over;
  assert.deepEqual(log.slice(4), ['a2', 'b1', 'b2', 'c1', 'c2']);
});

test('one lane is one after the other, whole', async () => {
  const { log, start, end } = told();
  const over = collect(inLanes(['a', 'b'], 1, start), log);
  await setImmediate();
  assert.deepEqual(log, ['start a', 'a1']);
  end('a');
  await setImmediate();
  end('b');
  await over;
  const read = log.filter((word) => !word.startsWith('start'));
  assert.deepEqual(read, ['a1', 'a2', 'b1', 'b2']);
  assert.ok(log.indexOf('start b') > log.indexOf('a1'));
});
