import assert from 'node:assert/strict';
import { test } from 'node:test';
import { isLocalAddress } from './local-address.ts';

test('loopback is ours, documentation is not', async () => {
  assert.equal(await isLocalAddress(4, '127.0.0.1'), true);
  assert.equal(await isLocalAddress(4, '192.0.2.1'), false);
  assert.equal(await isLocalAddress(6, '2001:db8::1'), false);
});
