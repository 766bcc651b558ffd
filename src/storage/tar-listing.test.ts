import assert from 'node:assert/strict';
import { test } from 'node:test';
import { TarListing } from './tar-listing.ts';

const LINES = [
  'drwxr-xr-x  0/0               0 2026-11-23 12:46 ./',
  '-rw-r--r--  33/65535       1234 2026-11-23 12:46 ./etc/a b',
  'crw-rw-rw-  0/0             1,3 2026-11-23 12:46 ./dev/null',
  '-rwxr-xr-x* 0/0              10 2026-11-23 12:46 ./bin/ping',
  'lrwxrwxrwx  0/0               0 2026-11-23 12:46 ./bin -> usr/bin',
  'drwxr-xr-x                  Creating directory: srv',
  '-rw-r--r--  0/0               6 292277026596 ./far',
];

test('counts members and bytes however the output is cut', () => {
  const text = Buffer.from(`${LINES.join('\n')}\n`);
  for (const cut of [1, 7, 64, text.length]) {
    const listing = new TarListing();
    for (let at = 0; at < text.length; at += cut) listing.push(text.subarray(at, at + cut));
    assert.deepEqual(listing.totals, { entries: LINES.length, bytes: 1250, foreignOwner: undefined });
  }
});

test('names the first owner that no guest can have', () => {
  for (const [line, shown] of [
    ['-rw-r--r-- 65536/0   0 2026-11-23 12:46 a', 'a (65536:0)'],
    ['-rw-r--r-- 0/4294967294   0 2026-11-23 12:46 b c', 'b c (0:4294967294)'],
    ['-rw-r--r-- -1/0   0 2026-11-23 12:46 d', 'd (-1:0)'],
  ] as const) {
    const listing = new TarListing();
    listing.push(Buffer.from(`${LINES[0]}\n${line}\n-rw-r--r-- 70000/0 0 2026-11-23 12:46 later\n`));
    assert.equal(listing.totals.foreignOwner, shown);
  }
});

test('a line that is no listing is a foreign owner: nothing passes unseen', () => {
  const listing = new TarListing();
  listing.push(Buffer.from('what is this\n'));
  assert.match(listing.totals.foreignOwner ?? '', /what is this/);
});

test('a name without end takes bounded memory', () => {
  const listing = new TarListing();
  for (let i = 0; i < 100; i++) listing.push(Buffer.alloc(100_000, 'x'));
  listing.push(Buffer.from('\n'));
  assert.equal(listing.totals.entries, 1);
});
