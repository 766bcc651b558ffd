import assert from 'node:assert/strict';
import { appendFileSync, mkdtempSync, readdirSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, test } from 'node:test';
import type { EventGap, GuestEvent } from '../api/events.ts';
import type { GuestName, Xid } from '../base/ids.ts';
import { EventJournal } from './event-journal.ts';

const WEB = { name: 'web' as GuestName, xid: 1000 as Xid };
let directory = '';

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'vserver-events-'));
});
afterEach(() => {
  rmSync(directory, { recursive: true });
});

function opened(segmentBytes?: number): EventJournal {
  const journal = new EventJournal(directory, segmentBytes);
  journal.onFailure = (error) => {
    throw error;
  };
  journal.open();
  return journal;
}

async function collect(journal: EventJournal, cursor = 0): Promise<(GuestEvent | EventGap)[]> {
  const found: (GuestEvent | EventGap)[] = [];
  for await (const some of journal.read(cursor)) found.push(...some);
  return found;
}

function started(journal: EventJournal, initPid: number): number {
  journal.publish(WEB, 'started', { initPid, ephemeral: false });
  return journal.last;
}

function pids(events: readonly (GuestEvent | EventGap)[]): readonly (number | 'gap')[] {
  return events.map((event) => {
    if (event.type === 'gap') return 'gap';
    assert.equal(event.type, 'started');
    return event.details.initPid;
  });
}

function files(): readonly string[] {
  return readdirSync(directory)
    .toSorted()
    .map((name) => join(directory, name));
}

test('events have rising numbers, and are read from a cursor on', async () => {
  const journal = opened();
  const [first, second] = [started(journal, 1), started(journal, 2)];
  assert.ok(first < second);
  assert.deepEqual(pids(await collect(journal)), [1, 2]);
  assert.deepEqual(pids(await collect(journal, first)), [2]);
  assert.deepEqual(await collect(journal, second), []);
  const [event] = await collect(journal, first);
  assert.deepEqual(
    { ...event, time: '' },
    {
      seq: second,
      time: '',
      type: 'started',
      guest: 'web',
      xid: 1000,
      details: { initPid: 2, ephemeral: false },
    },
  );
});

test('what was published is there for the next one that opens the journal, which gives higher numbers', async () => {
  const cursor = started(opened(), 1);
  const journal = opened();
  assert.ok(started(journal, 2) > cursor);
  assert.deepEqual(pids(await collect(journal)), [1, 2]);
  assert.deepEqual(pids(await collect(journal, cursor)), [2]);
});

test('what a power cut leaves of a line is cut off', async () => {
  for (const torn of ['{"seq":17', '\0\0\0\0', '\0\0\0\n\0\n', '{"seq":"x"}\n']) {
    started(opened(), 1);
    appendFileSync(files().at(-1)!, torn);
    const journal = opened();
    started(journal, 2);
    assert.deepEqual(pids(await collect(journal)).slice(-2), [1, 2], JSON.stringify(torn));
  }
});

test('numbers are not given twice when the last events are lost', () => {
  const lost = started(opened(), 1);
  for (const file of files()) rmSync(file);
  while (Date.now() <= lost); // no host is up again within the same millisecond
  assert.ok(started(opened(), 2) > lost);
});

test('it is bounded, and tells who comes too late what is missing', async () => {
  const journal = opened(1000);
  const first = started(journal, 0);
  for (let i = 1; i < 200; i++) started(journal, i);
  assert.equal(files().length, 8);
  assert.ok(files().every((file) => statSync(file).size < 1200));
  const kept = pids(await collect(journal));
  assert.equal(kept.at(-1), 199);
  assert.ok(kept.length > 20 && kept.length < 100);
  assert.deepEqual(pids(await collect(journal, first)), ['gap', ...kept]);
  const [gap] = await collect(journal, first);
  assert.deepEqual(pids(await collect(journal, gap!.seq)), kept, 'goes on from the gap');
});

test('who follows gets all, in order, whatever is rotated meanwhile', async () => {
  const journal = opened(4000);
  const end = new AbortController();
  const seen: (number | 'gap')[] = [];
  const follows = (async () => {
    for await (const some of journal.read(journal.last, end.signal)) {
      seen.push(...pids(some));
      if (seen.includes(99)) end.abort();
    }
  })();
  for (let i = 0; i < 100; i++) {
    started(journal, i);
    if (i % 3 === 0) await new Promise(setImmediate);
  }
  await follows;
  assert.deepEqual(
    seen,
    Array.from({ length: 100 }, (_, i) => i),
  );
});

test('who follows slowly is told that he missed something, and goes on', async () => {
  const journal = opened(1000);
  started(journal, -1);
  const end = new AbortController();
  const seen: (number | 'gap')[] = [];
  for await (const some of journal.read(0, end.signal)) {
    seen.push(...pids(some));
    // The first time it is away for longer than the journal lasts.
    if (seen.length === 1) for (let i = 0; i < 200; i++) started(journal, i);
    if (seen.includes(199)) end.abort();
  }
  assert.deepEqual(seen.slice(0, 2), [-1, 'gap']);
  assert.equal(seen.filter((one) => one === 'gap').length, 1);
  const rest = seen.slice(2).map(Number);
  assert.ok(rest.every((one, index) => index === 0 || one === rest[index - 1]! + 1));
});

test('who follows ends when nobody wants more', async () => {
  const journal = opened();
  const end = new AbortController();
  const follows = journal.read(0, end.signal).next();
  end.abort();
  assert.equal((await follows).done, true);
});

test('a journal that cannot be written to holds nobody up', () => {
  const journal = new EventJournal(directory, 1);
  const failures: unknown[] = [];
  journal.onFailure = (error) => failures.push(error);
  journal.open();
  started(journal, 1);
  rmSync(directory, { recursive: true });
  started(journal, 2);
  assert.equal(failures.length, 1);
  started(opened(), 3);
});
