import assert from 'node:assert/strict';
import { test } from 'node:test';
import { isXid, parseGuestName, parseGuestRef, parseXid, toXid } from './ids.ts';

test('xids are 2 to 65535', () => {
  assert.equal(parseXid('2'), 2);
  assert.equal(toXid(65_535), 65_535);
  assert.equal(isXid(1.5), false);
  for (const text of ['0', '1', '65536', '02', '-2', '2.0', '', 'x', '1e3', ' 2']) {
    assert.throws(() => parseXid(text), { name: 'UserError', code: 'invalid-xid' }, text);
  }
});

test('guest names are safe as file names and never numbers', () => {
  for (const name of ['a', 'web-1', 'A_b.c', '1a', 'a'.repeat(63)]) assert.equal(parseGuestName(name), name);
  for (const name of ['', '.', '..', '-a', '_a', 'a/b', 'a b', 'ä', 'a\n', 'a\0', '42', 'a'.repeat(64)]) {
    assert.throws(
      () => parseGuestName(name),
      { name: 'UserError', code: 'invalid-name' },
      JSON.stringify(name),
    );
  }
});

test('a number where a guest is wanted is an xid', () => {
  assert.deepEqual(parseGuestRef('42'), { kind: 'xid', xid: 42 });
  assert.deepEqual(parseGuestRef('web'), { kind: 'name', name: 'web' });
  assert.throws(() => parseGuestRef('1'), { code: 'invalid-xid' });
});
