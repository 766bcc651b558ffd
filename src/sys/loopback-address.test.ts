import assert from 'node:assert/strict';
import { endianness } from 'node:os';
import { test } from 'node:test';
import { encodeLoopbackAddress } from './loopback-address.ts';

test('the message names the address, the loopback device, and is never preferred', () => {
  const address = Uint8Array.from({ length: 16 }, (_, i) => i + 1);
  const bytes = encodeLoopbackAddress('add', address);
  const view = new DataView(bytes.buffer);
  const le = endianness() === 'LE';
  assert.deepEqual([view.getUint32(0, le), view.getUint16(4, le)], [bytes.length, 20]);
  assert.deepEqual([...bytes.subarray(16, 20)], [10, 128, 0, 254]);
  assert.equal(view.getUint32(20, le), 1);
  assert.deepEqual([view.getUint16(24, le), view.getUint16(26, le)], [20, 2]);
  assert.deepEqual(bytes.subarray(28, 44), address);
  assert.equal(view.getUint32(bytes.length - 16, le), 0); // preferred for no time
  assert.equal(
    view.getUint16(4, le) + 1,
    new DataView(encodeLoopbackAddress('remove', address).buffer).getUint16(4, le),
  );
});
