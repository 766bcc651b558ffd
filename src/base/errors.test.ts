import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import {
  BugError,
  deserializeError,
  primaryError,
  StateError,
  SysError,
  serializeError,
  UserError,
} from './errors.ts';

function roundTrip(error: unknown): Error {
  return deserializeError(JSON.parse(JSON.stringify(serializeError(error))));
}

describe('errors', () => {
  test('carry code, hint, details and the name of their class', () => {
    const error = new UserError('usage', 'cannot read "x"', { hint: 'try "y"', details: { at: 1 } });
    assert.deepEqual(
      [error.name, error.code, error.hint, error.details],
      ['UserError', 'usage', 'try "y"', { at: 1 }],
    );
  });

  test('SysError completes its message once', () => {
    const options = { syscall: 'mount', errno: 1, errnoName: 'EPERM', step: 'mount-proc' };
    const error = new SysError('mount-failed', 'cannot mount "/proc"', options);
    assert.equal(error.message, 'cannot mount "/proc": EPERM (mount, step mount-proc)');
    assert.equal(new SysError('mount-failed', error.message, options).message, error.message);
  });

  test('keep class and fields through JSON, with the chain of causes', () => {
    const cause = new SysError('mount-failed', 'cannot mount', {
      syscall: 'mount',
      errno: 22,
      errnoName: 'EINVAL',
      path: '/proc',
    });
    const rebuilt = roundTrip(new StateError('bad-state', 'cannot start "web"', { cause, hint: 'stop it' }));
    assert.ok(rebuilt instanceof StateError);
    assert.equal(rebuilt.hint, 'stop it');
    assert.ok(rebuilt.cause instanceof SysError);
    assert.deepEqual(
      [rebuilt.cause.errno, rebuilt.cause.errnoName, rebuilt.cause.path],
      [22, 'EINVAL', '/proc'],
    );
    assert.ok(roundTrip(new BugError('bug', 'no')) instanceof BugError);
  });

  test('of others become plain errors', () => {
    assert.deepEqual(serializeError('text'), { kind: 'other', code: 'unknown', message: 'text' });
    const rebuilt = roundTrip(Object.assign(new Error('gone'), { code: 'ENOENT' }));
    assert.equal(rebuilt.constructor, Error);
    assert.equal(rebuilt.message, 'gone');
  });

  test('the first failure stays the main one when undo failed too', () => {
    const first = new UserError('usage', 'first');
    const suppressed = new SuppressedError(new Error('undo'), first, 'both');
    assert.equal(primaryError(suppressed), first);
    const json = serializeError(suppressed);
    assert.deepEqual([json.code, json.errors?.[0]?.message], ['usage', 'undo']);
    assert.ok(primaryError(roundTrip(suppressed)) instanceof UserError);
  });

  test('a ring of causes and hostile JSON end', () => {
    const error = new Error('ring');
    error.cause = error;
    assert.ok(JSON.stringify(serializeError(error)).length < 4096);
    for (const value of [
      null,
      1,
      'x',
      [],
      { kind: 'sys' },
      { kind: 'user', code: 1, message: {}, cause: 7, errors: 3 },
    ]) {
      assert.ok(deserializeError(value) instanceof Error);
    }
  });
});
