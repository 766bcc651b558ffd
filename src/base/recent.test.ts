import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Recent } from './recent.ts';

test('who asks at the same time shares a look, and who asks later has another one when it is too old', async () => {
  let looks = 0;
  const open = Promise.withResolvers<void>();
  const young = new Recent(Number.POSITIVE_INFINITY, async () => {
    await open.promise;
    return ++looks;
  });
  assert.equal(young.last, undefined);
  const both = Promise.all([young.refresh(), young.refresh()]);
  open.resolve();
  await both;
  await young.refresh();
  assert.deepEqual([young.last, looks], [1, 1]);
  const old = new Recent(-1, () => Promise.resolve(++looks));
  await old.refresh();
  await old.refresh();
  assert.equal(old.last, 3);
});

test('a look that fails is none', async () => {
  let fails = true;
  const recent = new Recent(Number.POSITIVE_INFINITY, () =>
    fails ? Promise.reject(new Error('no')) : Promise.resolve('seen'),
  );
  await assert.rejects(recent.refresh(), /no/);
  assert.equal(recent.last, undefined);
  fails = false;
  await recent.refresh();
  assert.equal(recent.last, 'seen');
});
