import assert from 'node:assert/strict';
import { test } from 'node:test';
import { formatMemory, formatStat, formatTime } from './vserver-stat.ts';

const MIB = 1024 ** 2;
const MINUTE_MS = 60_000;
const HOUR_MS = 60 * MINUTE_MS;
const DAY_MS = 24 * HOUR_MS;

test('the columns of vserver-stat', () => {
  const host = {
    xid: 0,
    processes: 82,
    virtualBytes: 450 * MIB + 300 * 1024,
    residentBytes: 120 * MIB + 400 * 1024,
    userMs: MINUTE_MS + 12_330,
    systemMs: 45_120,
    uptimeMs: 12 * DAY_MS + 4 * HOUR_MS + 11 * MINUTE_MS,
    name: 'root server',
  };
  const guest = {
    xid: 40_000,
    processes: 14,
    virtualBytes: 121 * MIB + 600 * 1024,
    residentBytes: 33 * MIB + 200 * 1024,
    userMs: 3100,
    systemMs: 1220,
    uptimeMs: HOUR_MS + 23 * MINUTE_MS + 45_000,
    name: 'a-name-longer-than-twenty',
  };
  assert.equal(
    formatStat([host, guest]),
    [
      'CTX   PROC    VSZ    RSS  userTIME   sysTIME    UPTIME NAME',
      '0       82 450.2M 120.3M   1m12s33   0m45s12  12d04h11 root server',
      '40000   14 121.5M  33.1M   0m03s10   0m01s22   1h23m45 a-name-longer-than-t',
      '',
    ].join('\n'),
  );
});

test('memory is cut off, not rounded, and stays below 1000', () => {
  const sizes = [0, 999, 1000, 1024, 1536, 999 * 1024, 1000 * 1024, 4 * 1024 ** 2, 1024 ** 4, 2 ** 60];
  assert.deepEqual(sizes.map(formatMemory), [
    '0 ',
    '999 ',
    '0.9K',
    '1K',
    '1.5K',
    '999K',
    '0.9M',
    '4M',
    '1T',
    '1024+',
  ]);
});

test('times have three units at most', () => {
  const times = [0, 50, 990, HOUR_MS - 1, HOUR_MS, DAY_MS - 1, DAY_MS, 999 * DAY_MS, 1000 * DAY_MS, 1e15];
  assert.deepEqual(times.map(formatTime), [
    '0m00s00',
    '0m00s05',
    '0m00s99',
    '59m59s99',
    '1h00m00',
    '23h59m59',
    '1d00h00',
    '999d00h00',
    '2y270d00',
    'INVALID',
  ]);
});
