import assert from 'node:assert/strict';
import { test } from 'node:test';
import { formatSignal, parseSignal } from './signals.ts';

test('signals by name and number', () => {
  const good: [string, number][] = [
    ['TERM', 15],
    ['SIGTERM', 15],
    ['sigkill', 9],
    ['15', 15],
    ['64', 64],
    ['CLD', 17],
    ['SIGRTMIN', 34],
    ['SIGRTMIN+3', 37],
    ['RTMAX-1', 63],
    ['rtmax', 64],
  ];
  for (const [text, number] of good) assert.equal(parseSignal(text), number, text);
  for (const text of [
    '',
    'SIG',
    '0',
    '65',
    '-1',
    '1.5',
    'TERMX',
    'SIGSIGTERM',
    'RTMIN-1',
    'RTMAX+1',
    'RTMIN+31',
    'RTMIN+',
    'constructor',
  ]) {
    assert.throws(() => parseSignal(text), { name: 'UserError', code: 'invalid-signal' }, text);
  }
  for (let number = 1; number <= 64; number++) {
    if (number === 32 || number === 33) continue;
    assert.equal(parseSignal(formatSignal(number)), number);
  }
});
