import assert from 'node:assert/strict';
import { test } from 'node:test';
import { nextLoad } from './load.ts';

const rounded = (values: readonly number[]): readonly number[] =>
  values.map((one) => Math.round(one * 100) / 100);

test('load rises from nothing and falls as the kernel has it', () => {
  assert.deepEqual(rounded(nextLoad(undefined, 1, 5)), [0.08, 0.02, 0.01]);
  assert.deepEqual(rounded(nextLoad([4, 4, 4], 0, 60)), [1.47, 3.27, 3.74]);
  assert.deepEqual(rounded(nextLoad(undefined, 3, 86_400)), [3, 3, 3]);
});

test('many small steps are one large one', () => {
  let small = nextLoad(undefined, 2, 5);
  for (let i = 1; i < 12; i++) small = nextLoad(small, 2, 5);
  assert.deepEqual(rounded(small), rounded(nextLoad(undefined, 2, 60)));
});
