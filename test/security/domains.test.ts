/** Trust domains against who measures. */
import assert from 'node:assert/strict';
import { suite, test } from 'node:test';
import { withInstance } from '../lib/instance.ts';
import { unmet } from '../lib/requires.ts';
import { otherDomains } from './domains.ts';

suite('trust domains', { skip: unmet('root', 'overlay', 'userns', 'busybox') }, () => {
  test('F1: a guest learns nothing of the files of another domain by what is in memory', async () => {
    await withInstance(async (v) => {
      assert.deepEqual(await otherDomains(v, []), []);
    });
  });
});
