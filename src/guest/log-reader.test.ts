import assert from 'node:assert/strict';
import { appendFileSync, mkdtempSync, renameSync, rmSync } from 'node:fs';
import { endianness, tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, test } from 'node:test';
import type { LogRecord } from '../spec/log-records.ts';
import { GuestLog } from './log-reader.ts';

const NEVER = new AbortController().signal;
let directory = '';
let path = '';

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'vserver-log-'));
  path = join(directory, 'log');
});
afterEach(() => {
  rmSync(directory, { recursive: true });
});

function write(text: string): void {
  const bytes = Buffer.alloc(16 + text.length);
  const view = new DataView(bytes.buffer, bytes.byteOffset);
  view.setUint32(8, text.length, endianness() === 'LE');
  view.setUint32(12, 1, endianness() === 'LE');
  bytes.write(text, 16);
  appendFileSync(path, bytes);
}

function rotate(): void {
  renameSync(path, `${path}.1`);
}

async function collect(records: AsyncIterable<readonly LogRecord[]>): Promise<string> {
  let text = '';
  for await (const some of records) for (const { bytes } of some) text += Buffer.from(bytes).toString();
  return text;
}

test('a guest that never wrote has an empty log', async () => {
  await using log = await GuestLog.open(path);
  assert.equal(await collect(log.stored()), '');
  assert.equal(await collect(log.follow(Promise.resolve(), NEVER)), '');
});

test('the older file comes first, and reading again gives the same', async () => {
  write('a');
  rotate();
  write('b');
  await using log = await GuestLog.open(path);
  write('c');
  assert.equal(await collect(log.stored()), 'ab');
  assert.equal(await collect(log.stored()), 'ab');
  assert.equal(await collect(log.follow(Promise.resolve(), NEVER)), 'c');
});

test('nothing is lost when the log is rotated while it is followed', async () => {
  write('0 ');
  await using log = await GuestLog.open(path);
  const ended = Promise.withResolvers<void>();
  assert.equal(await collect(log.stored()), '0 ');
  let seen = '';
  const following = (async () => {
    for await (const some of log.follow(ended.promise, NEVER))
      for (const { bytes } of some) seen += Buffer.from(bytes).toString();
  })();
  let wanted = '';
  let rotated = '';
  for (let count = 1; count <= 60; count++) {
    write(`${count} `);
    wanted += `${count} `;
    if (count % 7 !== 0) continue;
    // It keeps pace: it has read, when the log is rotated, what was rotated the time before.
    while (seen.length < rotated.length) await new Promise((resolve) => setTimeout(resolve, 1));
    rotate();
    rotated = wanted;
  }
  ended.resolve();
  await following;
  assert.equal(seen, wanted);
});

test('the first file may come later, and the files may be deleted before the end', async () => {
  await using log = await GuestLog.open(path);
  const ended = Promise.withResolvers<void>();
  const records = log.follow(ended.promise, NEVER);
  write('late');
  const first = await records.next();
  assert.equal(Buffer.from(first.value?.[0]?.bytes ?? []).toString(), 'late');
  write(' last');
  rmSync(path);
  ended.resolve();
  assert.equal(await collect(records), ' last');
});

test('an interrupted reader ends', async () => {
  write('x');
  await using log = await GuestLog.open(path);
  const interrupt = new AbortController();
  const following = collect(log.follow(new Promise(() => {}), interrupt.signal));
  interrupt.abort();
  await following;
});
