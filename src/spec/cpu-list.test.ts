import assert from 'node:assert/strict';
import { test } from 'node:test';
import { parseCpuList } from './cpu-list.ts';

test('lists of CPUs', () => {
  assert.deepEqual(parseCpuList('0\n'), [0]);
  assert.deepEqual(parseCpuList('5,0,2-4,3'), [0, 2, 3, 4, 5]);
  for (const text of ['', ',', '1,', 'a', '3-1', '-1', '1-', '9000', '0-99999', '1 2'])
    assert.throws(() => parseCpuList(text), { code: 'invalid-value' }, text);
});
