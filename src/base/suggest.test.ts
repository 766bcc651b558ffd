import assert from 'node:assert/strict';
import { test } from 'node:test';
import { didYouMean, suggest } from './suggest.ts';

test('suggests near words only', () => {
  const verbs = ['start', 'stop', 'status', 'restart'];
  assert.equal(suggest('strat', verbs), 'start');
  assert.equal(suggest('STOP', verbs), 'stop');
  assert.equal(suggest('xyzzy', verbs), undefined);
  assert.equal(suggest('start', []), undefined);
  assert.equal(didYouMean('memroy', ['memory'], '--'), 'did you mean "--memory"?');
});
