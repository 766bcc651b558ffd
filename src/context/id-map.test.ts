import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { toXid } from '../base/ids.ts';
import { formatIdMap, idRangeOf, toGuestId, toHostId, xidOfHostId } from './id-map.ts';

test('ranges', () => {
  const cases: readonly (readonly [number, string])[] = [
    [2, '0 131072 65536\n'],
    [40000, '0 2621440000 65536\n'],
    [65534, '0 4294836224 65536\n'],
    // One more id would be (uid_t)-1.
    [65535, '0 4294901760 65535\n'],
  ];
  for (const [xid, text] of cases) assert.equal(formatIdMap(idRangeOf(toXid(xid))), text);
});

test('translation', () => {
  const range = idRangeOf(toXid(2));
  assert.equal(toHostId(range, 0), 131072);
  assert.equal(toHostId(range, 65535), 196607);
  for (const id of [-1, 65536, 0.5, Number.NaN])
    assert.throws(() => toHostId(range, id), { code: 'id-not-mapped' });
  assert.equal(toGuestId(range, 131072), 0);
  assert.equal(toGuestId(range, 196607), 65535);
  for (const id of [0, 131071, 196608, 131072.5]) assert.equal(toGuestId(range, id), undefined);
  const last = idRangeOf(toXid(65535));
  assert.equal(toHostId(last, 65534), 0xfffffffe);
  assert.throws(() => toHostId(last, 65535), { code: 'id-not-mapped' });
});

test('whose an id is', () => {
  const cases: readonly (readonly [number, number | undefined])[] = [
    [0, undefined],
    [65534, undefined],
    [131071, undefined],
    [131072, 2],
    [196607, 2],
    [196608, 3],
    [0xfffffffe, 65535],
    [0xffffffff, undefined],
    [2 ** 32, undefined],
    [-1, undefined],
    [131072.5, undefined],
    [Number.NaN, undefined],
  ];
  for (const [id, xid] of cases) assert.equal(xidOfHostId(id), xid, String(id));
});

test('there and back', () => {
  fc.assert(
    fc.property(fc.integer({ min: 2, max: 65535 }), fc.nat(65534), (number, id) => {
      const xid = toXid(number);
      const host = toHostId(idRangeOf(xid), id);
      assert.equal(toGuestId(idRangeOf(xid), host), id);
      assert.equal(xidOfHostId(host), xid);
    }),
  );
});
