import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ALL_FILES } from './files.ts';

test('every file has a number of its own that fits a byte', () => {
  const files = ALL_FILES.flatMap((one) =>
    'files' in one ? [one, ...one.files, ...(one.links ?? [])] : [one],
  );
  const numbers = files.map(({ number }) => number);
  assert.equal(new Set(numbers).size, numbers.length);
  assert.ok(numbers.every((number) => number > 0 && number < 256));
});
