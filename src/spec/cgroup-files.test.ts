import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  flatKeyedValue,
  formatLimitV1,
  parseCount,
  parseCpuMax,
  parseEvents,
  parseFlatKeyed,
  parseLimit,
  parseNestedKeyed,
  parsePids,
  parsePressure,
  parseWords,
} from './cgroup-files.ts';

const MALFORMED = { code: 'malformed-kernel-text' };

test('reads every spelling of no limit as max', () => {
  for (const text of ['max\n', '-1\n', '9223372036854771712\n', '18446744073709551615\n']) {
    assert.equal(parseLimit(text), 'max', text);
  }
  assert.equal(parseLimit('9007199254740991\n'), Number.MAX_SAFE_INTEGER);
  assert.equal(parseLimit('0\n'), 0);
  assert.throws(() => parseLimit('maximum'), MALFORMED);
  assert.throws(() => parseLimit(''), MALFORMED);
});

test('writes no limit as -1 for version 1', () => {
  assert.deepEqual(['max' as const, 42].map(formatLimitV1), ['-1', '42']);
});

test('reads counters', () => {
  assert.equal(parseCount('123\n'), 123);
  for (const text of ['', '-1', '1.5', '0x10', '1 2']) assert.throws(() => parseCount(text), MALFORMED, text);
});

test('reads flat keyed files', () => {
  assert.deepEqual(
    [...parseFlatKeyed('usage_usec 7\nuser_usec 5\n')],
    [
      ['usage_usec', 7],
      ['user_usec', 5],
    ],
  );
  assert.throws(() => parseFlatKeyed('usage_usec\n'), MALFORMED);
});

test('reads nested keyed files, with devices that have no values', () => {
  const stat = parseNestedKeyed('8:0 rbytes=12 wbytes=3\n7:1 \n');
  assert.deepEqual(
    [...stat].map(([key, values]) => [key, Object.fromEntries(values)]),
    [
      ['8:0', { rbytes: '12', wbytes: '3' }],
      ['7:1', {}],
    ],
  );
  assert.throws(() => parseNestedKeyed('8:0 rbytes\n'), MALFORMED);
});

test('reads lists of words and pids', () => {
  assert.deepEqual(parseWords('cpu memory pids\n'), ['cpu', 'memory', 'pids']);
  assert.deepEqual(parseWords('\n'), []);
  assert.deepEqual(parsePids('17\n0\n4\n'), [17, 4]);
  assert.deepEqual(parsePids(''), []);
});

test('reads cgroup.events and cpu.max', () => {
  assert.deepEqual(parseEvents('populated 1\nfrozen 0\n'), { populated: true, frozen: false });
  assert.deepEqual(parseEvents('populated 0\n'), { populated: false, frozen: false });
  assert.deepEqual(parseCpuMax('max 100000\n'), { quotaUs: 'max', periodUs: 100_000 });
  assert.deepEqual(parseCpuMax('50000 20000\n'), { quotaUs: 50_000, periodUs: 20_000 });
  assert.throws(() => parseCpuMax('50000\n'), MALFORMED);
});

test('finds one number in a flat keyed file', () => {
  const text = 'usage_usec 30\nuser_usec 10\nsystem_usec 20\n';
  assert.deepEqual(
    ['usage_usec', 'user_usec', 'system_usec', 'usec', 'user'].map((key) => flatKeyedValue(text, key)),
    [30, 10, 20, 0, 0],
  );
  assert.equal(flatKeyedValue('a 1\nb 2', 'b'), 2);
  assert.throws(() => flatKeyedValue('a x\n', 'a'), { code: 'malformed-kernel-text' });
});

test('pressure', () => {
  const text =
    'some avg10=1.50 avg60=0.00 avg300=90.01 total=2796478667\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=7\n';
  assert.deepEqual(parsePressure(text), {
    some: { avg10: 1.5, avg60: 0, avg300: 90.01, totalUs: 2_796_478_667 },
    full: { avg10: 0, avg60: 0, avg300: 0, totalUs: 7 },
  });
  assert.equal(parsePressure('some avg10=0.00 avg60=0.00 avg300=0.00 total=0\n').full, undefined);
  for (const bad of ['some avg10=x avg60=0 avg300=0 total=0\n', 'some avg10=1\n', 'some\n'])
    assert.throws(() => parsePressure(bad), MALFORMED, bad);
});
