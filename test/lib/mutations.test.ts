import { resolve } from 'node:path';
import { test } from 'node:test';
import { holderOf, MUTATIONS } from '../security/mutations.ts';

// Told here at once, rather than minutes into the root tier.
test('the words of each mutation stand in one file', () => {
  const checkout = resolve(import.meta.dirname, '../..');
  for (const { edits } of MUTATIONS) for (const [find] of edits) holderOf(find, checkout);
});
