import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ImageStore } from './image-store.ts';
import type { StorageMachine } from './machine.ts';

/** Nothing here comes to use it. */
const NO_MACHINE = {} as StorageMachine;

test('who adds does not wait for one who only waits to delete', { timeout: 60_000 }, async () => {
  const store = new ImageStore('/nowhere', NO_MACHINE);
  const order: string[] = [];
  const isLetGo = Promise.withResolvers<void>();
  const first = store.withoutDeleting(async () => {
    await isLetGo.promise;
    order.push('first');
  });
  const collecting = store.collect(() => {
    order.push('deleting');
    return Promise.reject(new Error('enough'));
  }, true);
  // The first one goes on when this one is done, as one who waits for a guest that this one has.
  await store.withoutDeleting(() => {
    order.push('second');
    isLetGo.resolve();
    return Promise.resolve();
  });
  await first;
  await assert.rejects(collecting, { message: 'enough' });
  assert.deepEqual(order, ['second', 'first', 'deleting']);
});

test('who adds waits for one who deletes', { timeout: 60_000 }, async () => {
  const store = new ImageStore('/nowhere', NO_MACHINE);
  const order: string[] = [];
  const isAsked = Promise.withResolvers<void>();
  const answer = Promise.withResolvers<undefined>();
  const collecting = store.collect(async () => {
    isAsked.resolve();
    await answer.promise;
    order.push('deleted');
    throw new Error('enough');
  }, true);
  await isAsked.promise;
  const adding = store.withoutDeleting(() => {
    order.push('added');
    return Promise.resolve();
  });
  answer.resolve(undefined);
  await assert.rejects(collecting, { message: 'enough' });
  await adding;
  assert.deepEqual(order, ['deleted', 'added']);
});
