import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  cpuSharesToWeight,
  formatCpus,
  formatDuration,
  formatSize,
  formatSizeRounded,
  parseCount,
  parseCpus,
  parseDuration,
  parsePercent,
  parseSize,
} from './units.ts';

const INVALID = { name: 'UserError', code: 'invalid-value' };

test('sizes', () => {
  const good: [string, number][] = [
    ['0', 0],
    ['42', 42],
    ['42b', 42],
    ['100k', 102_400],
    ['512m', 536_870_912],
    ['512MB', 536_870_912],
    ['2g', 2_147_483_648],
    ['1.5GiB', 1_610_612_736],
    ['1 t', 1_099_511_627_776],
  ];
  for (const [text, bytes] of good) assert.equal(parseSize(text), bytes, text);
  for (const text of [
    '',
    'b',
    'm',
    '-1',
    '1x',
    '1ib',
    '1bb',
    '1.m',
    '.5m',
    '1e3',
    '0x10',
    ' 1',
    '1 ',
    '9p',
    '1,5m',
    'max',
  ]) {
    assert.throws(() => parseSize(text), INVALID, text);
  }
  for (const bytes of [0, 1, 1023, 1024, 1536, 536_870_912, Number.MAX_SAFE_INTEGER]) {
    assert.equal(parseSize(formatSize(bytes)), bytes);
  }
  assert.equal(formatSize(536_870_912), '512m');
  assert.equal(formatSizeRounded(1_610_612_736), '1.5GiB');
  assert.equal(formatSizeRounded(0), '0B');
});

test('durations', () => {
  const good: [string, number][] = [
    ['0', 0],
    ['30s', 30_000],
    ['1m30s', 90_000],
    ['250ms', 250],
    ['1.5s', 1_500],
    ['1h', 3_600_000],
    ['2d3h', 183_600_000],
    ['1m250ms', 60_250],
  ];
  for (const [text, ms] of good) assert.equal(parseDuration(text), ms, text);
  for (const text of [
    '',
    '10',
    's',
    '1s1m',
    '1s1s',
    '-1s',
    '1 s',
    '1w',
    '1m30',
    '1.2345s',
    '99999999999999d',
  ]) {
    assert.throws(() => parseDuration(text), INVALID, text);
  }
  for (const ms of [0, 1, 999, 1000, 90_000, 86_461_001]) assert.equal(parseDuration(formatDuration(ms)), ms);
});

test('CPUs, percentages, counts', () => {
  assert.deepEqual(parseCpus('1.5'), { quotaUs: 150_000, periodUs: 100_000 });
  assert.equal(formatCpus(parseCpus('.25')), '0.25');
  for (const text of ['', '0', '0.001', '-1', '1e3', '1.', 'x', '99999'])
    assert.throws(() => parseCpus(text), INVALID, text);
  assert.equal(parsePercent('12.5%'), 0.125);
  for (const text of ['', '5', '101%', '-1%', '%']) assert.throws(() => parsePercent(text), INVALID, text);
  assert.equal(parseCount('7', 'number', 1, 7), 7);
  for (const text of ['', '0', '8', '1.0', '-1', '0x1', ' 1'])
    assert.throws(() => parseCount(text, 'number', 1, 7), INVALID, text);
  assert.throws(() => parseCount('x', 'process limit', 1), {
    message: 'cannot read process limit "x"; need a whole number 1 or more',
  });
});

test('CPU shares keep the ends and the middle of the scale', () => {
  assert.deepEqual([2, 1024, 262_144].map(cpuSharesToWeight), [1, 100, 10_000]);
  assert.ok(cpuSharesToWeight(512) < 100 && cpuSharesToWeight(2048) > 100);
});
