import assert from 'node:assert/strict';
import { test } from 'node:test';
import { encodeStorageBtf } from './btf.ts';
import { possibleCpus } from './cpus.ts';
import { batchLayout } from './map.ts';

test('possible CPUs are counted over ranges', () => {
  assert.deepEqual(['0\n', '0-3\n', '0,2-5\n'].map(possibleCpus), [1, 4, 5]);
});

test('a batch has its count, its position, its keys and its values', () => {
  assert.deepEqual(batchLayout(32, 16, 4), { count: 0, position: 8, keys: 16, values: 144, bytes: 208 });
});

test('types for socket storage: an int, and an array of them of the right size', () => {
  const bytes = encodeStorageBtf(48);
  const words = new Uint32Array(bytes.buffer, 24, 10);
  assert.deepEqual([...words], [1, 0x0100_0000, 4, 0x0100_0020, 0, 0x0300_0000, 0, 1, 1, 12]);
  assert.equal(Buffer.from(bytes.subarray(64)).toString(), '\0int\0');
});
