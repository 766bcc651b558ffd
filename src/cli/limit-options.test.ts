import assert from 'node:assert/strict';
import { test } from 'node:test';
import { limitSettings, parseLimitValue } from './limit-options.ts';
import { parseCommandLine } from './parse.ts';

function settings(line: string): ReturnType<typeof limitSettings> {
  const parsed = parseCommandLine(line.split(' '));
  assert.equal(parsed.verb, 'limit');
  return parsed.verb === 'limit' ? limitSettings(parsed.options) : [];
}

test('values in the units of the row', () => {
  const texts = ['0', '200', '100K', '100k', '2M', '2m', '0x80', 'inf', 'max'];
  assert.deepEqual(texts.map(parseLimitValue), [
    0,
    200,
    102_400,
    100_000,
    2_097_152,
    2_000_000,
    128,
    'max',
    'max',
  ]);
  for (const text of ['', '-2', '1.5', '5T', 'x', '9e9'])
    assert.throws(() => parseLimitValue(text), { code: 'invalid-value' });
});

test('-S and -H are about the next value, and none means -H', () => {
  assert.deepEqual(settings('limit -c 42 --nproc 200 --rss 5 -S --rss 4 -SH --rss 3 -H --semary 2'), [
    { row: 'PROC', hard: 200 },
    { row: 'RSS', hard: 5 },
    { row: 'RSS', soft: 4 },
    { row: 'RSS', soft: 3, hard: 3 },
    { row: 'SEMA', hard: 2 },
  ]);
  assert.deepEqual(settings('limit web'), []);
  assert.throws(() => settings('limit web -S --nproc 5'), { code: 'usage' });
  assert.throws(() => settings('limit web -M --rss 5'), { code: 'usage' });
});
