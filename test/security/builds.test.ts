/** What builds run of the host's programs, and what those could do. */
import assert from 'node:assert/strict';
import { suite, test } from 'node:test';
import { withInstance } from '../lib/instance.ts';
import { unmet } from '../lib/requires.ts';
import { fetching } from './builds.ts';

suite('builds', { skip: unmet('root', 'overlay', 'userns', 'rsync') }, () => {
  test('a program that fetches sees the host read-only, and none of its sockets', async () => {
    await withInstance(async (v) => {
      assert.deepEqual(await fetching(v, []), []);
    });
  });
});
