import assert from 'node:assert/strict';
import { test } from 'node:test';
import { formatInitStat } from './init-stat.ts';

// As proc_pid_stat(5) numbers them: 1 pid, 2 name, 3 state …; here each of the others is its number.
const hostText = (name: string, ...first: readonly (number | string)[]): string =>
  `4711 (${name}) ${[...first, ...Array.from({ length: 44 }, (_, i) => i + 9)].join(' ')}\n`;

test('process 1 is number 1, began with the clock, and tells no address', () => {
  const text = formatInitStat(hostText('a) b (', 'S', 1, 4711, 4711, 0, -1), 4711);
  assert.match(text, /^1 \(a\) b \(\) S 0 1 1 0 -1 9 10 /);
  const fields = text
    .trimEnd()
    .slice(text.lastIndexOf(')') + 2)
    .split(' ');
  const field = (number: number): string | undefined => fields[number - 3];
  assert.equal(fields.length, 50);
  assert.deepEqual([field(21), field(22), field(23)], ['21', '0', '23']);
  assert.deepEqual([26, 27, 28, 29, 30, 31, 35, 36].map(field), ['1', '1', '0', '0', '0', '31', '0', '36']);
  assert.deepEqual([44, 45, 51, 52].map(field), ['44', '0', '0', '0']);
});

test('groups of processes of the host have no number there', () => {
  assert.match(
    formatInitStat(hostText('init', 'S', 1, 99, 98, 34816, 99), 4711),
    /^1 \(init\) S 0 0 0 34816 -1 9 /,
  );
});
