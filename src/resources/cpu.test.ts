import assert from 'node:assert/strict';
import { test } from 'node:test';
import { sharesFromWeight, weightFromShares } from './cpu.ts';

test('converts the default, both ends and every weight back to itself', () => {
  assert.deepEqual([1, 100, 10_000].map(sharesFromWeight), [10, 1024, 102_400]);
  for (let weight = 1; weight <= 10_000; weight++)
    assert.equal(weightFromShares(sharesFromWeight(weight)), weight);
});

test('clamps shares no weight stands for', () => {
  assert.deepEqual([2, 262_144].map(weightFromShares), [1, 10_000]);
});
