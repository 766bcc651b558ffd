import assert from 'node:assert/strict';
import { test } from 'node:test';
import { fencePeriod, periodsAt } from './quota-period.ts';

test('a day ends at midnight, a month with its last day', () => {
  const now = new Date(2026, 11, 31, 23, 59, 59);
  const day = periodsAt('day', now);
  assert.deepEqual(day.starts, [new Date(2027, 0, 1), new Date(2027, 0, 2)]);
  const month = periodsAt('month', now);
  assert.deepEqual(month.starts, [new Date(2027, 0, 1), new Date(2027, 1, 1)]);
  assert.deepEqual(periodsAt('month', new Date(2028, 1, 29)).starts, [
    new Date(2028, 2, 1),
    new Date(2028, 3, 1),
  ]);
  assert.deepEqual(month.numbers[1], day.numbers[1], 'the first day of a month begins both');
});

test('numbers rise, through all of a year and from one kind to the other', () => {
  for (const unit of ['day', 'month'] as const) {
    let before = periodsAt(unit, new Date(2026, 0, 1, 12));
    for (let day = 2; day < 400; day++) {
      const now = periodsAt(unit, new Date(2026, 0, day, 12));
      const isSame = now.numbers[0] === before.numbers[0];
      assert.deepEqual(
        now.numbers.slice(0, 2),
        isSame ? before.numbers.slice(0, 2) : before.numbers.slice(1),
      );
      assert.ok(now.numbers[0] < now.numbers[1] && now.numbers[1] < now.numbers[2]);
      assert.ok(
        periodsAt('month', new Date(2026, 0, day)).numbers[0] <=
          periodsAt('day', new Date(2026, 0, day)).numbers[0],
      );
      before = now;
    }
  }
});

test('the fence has the ends by its own clock', () => {
  const now = new Date(2026, 5, 15, 23, 59, 58, 500);
  const { ends, numbers } = fencePeriod(periodsAt('day', now), now, 10);
  assert.equal(ends[0], 11_500_000_000n);
  assert.ok(ends[1] > ends[0]);
  assert.equal(numbers.length, 3);
});
