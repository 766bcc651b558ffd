import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { History, type HistoryRow, kindOfPass } from './history.ts';

const HOUR = 3600;
const START = 1_764_000_000 - (1_764_000_000 % HOUR);

async function withPath(body: (path: string) => Promise<void>): Promise<void> {
  const directory = mkdtempSync(join(tmpdir(), 'history-'));
  try {
    await body(join(directory, 'accounting.db'));
  } finally {
    rmSync(directory, { recursive: true });
  }
}

function row(guest: string, cpuUserUs = 1): HistoryRow {
  return {
    guest,
    uptimeSeconds: 5,
    cpuUserUs,
    cpuSystemUs: 2,
    residentBytes: 2 ** 40,
    tasks: 3,
    receivedBytes: null,
    sentBytes: 7,
    forks: 3,
  };
}

test('gives back what was written, by guest and time, also to the next one', async () => {
  await withPath(async (path) => {
    const history = new History(path);
    await history.write(START, [row('web'), row('db')]);
    await history.write(START + 10, [row('web', 2)]);
    history.close();
    assert.equal(statSync(path).mode & 0o777, 0o600);
    const next = new History(path);
    await next.write(START + 20, [row('db', 3)]);
    assert.deepEqual(
      (await next.read(0)).map(({ guest, at, cpuUserUs }) => [guest, at - START, cpuUserUs]),
      [
        ['db', 0, 1],
        ['db', 20, 3],
        ['web', 0, 1],
        ['web', 10, 2],
      ],
    );
    assert.deepEqual(await next.read(START + 10, ['web', 'nobody']), [{ ...row('web', 2), at: START + 10 }]);
    next.close();
  });
});

test('leaves out what comes from before the last pass', async () => {
  await withPath(async (path) => {
    const history = new History(path);
    await history.write(START, [row('web')]);
    await history.write(START - 5, [row('web')]);
    assert.equal((await history.read(0)).length, 1);
    history.close();
  });
});

test('of two passes in a second the later one counts for who is in both', async () => {
  await withPath(async (path) => {
    const history = new History(path);
    await history.write(START, [row('gone'), row('web')]);
    await history.write(START, [{ ...row('web'), tasks: 77 }, row('new')]);
    const samples = await history.read(0);
    assert.deepEqual(samples.map(({ guest, tasks }) => [guest, tasks === 77]).sort(), [
      ['gone', false],
      ['new', false],
      ['web', true],
    ]);
    history.close();
  });
});

test('the first pass of five minutes and of an hour is kept longer', () => {
  assert.deepEqual(
    [0, 10, 299, 300, 310, 600, 3599, 3600].map((at, i, all) =>
      kindOfPass(START + at, START + (all[i - 1] ?? -1)),
    ),
    [3, 1, 1, 2, 1, 2, 2, 3],
  );
});

test('old passes are thinned out', async () => {
  await withPath(async (path) => {
    const history = new History(path);
    const end = START + 30 * HOUR;
    for (let at = START; at <= end; at += 60) await history.write(at, [row('web')]);
    // A few go with each pass: by now all that are due have.
    for (let i = 1; i <= 5; i++) await history.write(end + i, [row('web')]);
    const ages = (await history.read(0)).map(({ at }) => end - at);
    const count = (from: number, to: number): number => ages.filter((age) => age >= from && age < to).length;
    assert.equal(count(0, 2 * HOUR), 120);
    assert.equal(count(2 * HOUR + 60, 24 * HOUR - 60), 22 * 12 - 1);
    assert.equal(count(24 * HOUR + 60, 31 * HOUR), 6);
    history.close();
  });
});

test('has no more rows than it may', async () => {
  await withPath(async (path) => {
    const history = new History(path, 50);
    for (let i = 0; i < 40; i++) await history.write(START + i, [row('web'), row('db'), row('mail')]);
    const samples = await history.read(0);
    assert.ok(samples.length <= 53 && samples.length >= 48, `${samples.length}`);
    assert.equal(samples.at(-1)?.at, START + 39);
    history.close();
    assert.ok(statSync(path).size < 100_000);
  });
});

test('a damaged file is begun anew', async () => {
  await withPath(async (path) => {
    writeFileSync(path, 'this is not a database, and long enough to say so '.repeat(100));
    const history = new History(path);
    await history.write(START, [row('web')]);
    assert.equal((await history.read(0)).length, 1);
    history.close();
  });
});
