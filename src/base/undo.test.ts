import assert from 'node:assert/strict';
import { test } from 'node:test';
import { primaryError } from './errors.ts';
import { UndoError, UndoStack } from './undo.ts';

test('undoes in reverse order when the block throws', async () => {
  const done: string[] = [];
  await assert.rejects(async () => {
    await using undo = new UndoStack();
    undo.defer('one', () => void done.push('one'));
    undo.defer('two', async () => void done.push('two'));
    throw new Error('no');
  }, /^Error: no$/);
  assert.deepEqual(done, ['two', 'one']);
});

test('a committed stack undoes nothing, a moved one undoes elsewhere', async () => {
  const done: string[] = [];
  const undone = (): readonly string[] => done;
  {
    await using undo = new UndoStack();
    undo.defer('one', () => void done.push('one'));
    undo.commit();
    assert.throws(() => undo.defer('late', () => undefined), ReferenceError);
  }
  assert.deepEqual(undone(), []);
  const first = new UndoStack();
  first.defer('one', () => void done.push('one'));
  const moved = first.move();
  await first[Symbol.asyncDispose]();
  assert.deepEqual(undone(), []);
  await moved[Symbol.asyncDispose]();
  await moved[Symbol.asyncDispose]();
  assert.deepEqual([...done], ['one']);
});

test('a failing step does not stop the rest and does not hide what the block threw', async () => {
  const done: string[] = [];
  const failure = new Error('block');
  const thrown = await (async () => {
    await using undo = new UndoStack();
    undo.defer('one', () => void done.push('one'));
    undo.defer('two', () => {
      throw new Error('stuck');
    });
    throw failure;
  })().catch((error: unknown) => error);
  assert.deepEqual([...done], ['one']);
  assert.equal(primaryError(thrown), failure);
  assert.ok(thrown instanceof SuppressedError && thrown.error instanceof AggregateError);
  const [undoError] = thrown.error.errors;
  assert.ok(undoError instanceof UndoError);
  assert.equal(undoError.message, 'cannot undo "two": stuck');
});
