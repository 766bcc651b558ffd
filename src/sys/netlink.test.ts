import assert from 'node:assert/strict';
import { endianness } from 'node:os';
import { test } from 'node:test';
import { parseIpPrefix } from '../base/ip.ts';
import {
  deleteAddress,
  deleteLink,
  deleteNeighbourRoute,
  linkUp,
  linkWithoutOwnAddress,
  newAddress,
  newDefaultRoute,
  newLink,
  newNeighbourRoute,
  newPair,
} from './netlink.ts';

/** Takes a message apart as the kernel does, one level of attributes. */
function decode(bytes: Uint8Array, bodyBytes: number): readonly (number | readonly [number, number[]])[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const le = endianness() === 'LE';
  assert.equal(view.getUint32(0, le), bytes.length);
  const found: (number | readonly [number, number[]])[] = [view.getUint16(4, le), view.getUint16(6, le)];
  let at = 16 + bodyBytes;
  while (at < bytes.length) {
    const length = view.getUint16(at, le);
    assert.ok(length >= 4 && at + length <= bytes.length);
    found.push([view.getUint16(at + 2, le), [...bytes.subarray(at + 4, at + length)]]);
    at += (length + 3) & ~3;
  }
  assert.equal(at, bytes.length);
  return found;
}

const IFADDR = 8;
const IFINFO = 16;
const [REQUEST_ACK, CREATE_EXCL] = [0x5, 0x605];

test('addresses', () => {
  const v4 = newAddress(2, parseIpPrefix('10.0.0.5/20'), 'x').bytes;
  assert.deepEqual(decode(v4, IFADDR), [
    20,
    CREATE_EXCL,
    [2, [10, 0, 0, 5]],
    [1, [10, 0, 0, 5]],
    [4, [10, 0, 15, 255]],
  ]);
  assert.deepEqual([...v4.subarray(16, 20)], [2, 20, 2, 0]);
  const v6 = deleteAddress(2, parseIpPrefix('fd00::5/64'), 'x').bytes;
  const bytes = [...parseIpPrefix('fd00::5').bytes];
  assert.deepEqual(decode(v6, IFADDR), [21, REQUEST_ACK, [2, bytes], [1, bytes]]);
  assert.deepEqual([...v6.subarray(16, 18)], [10, 64]);
  // A network of two addresses, or one, has no broadcast address.
  for (const text of ['10.0.0.5', '10.0.0.5/31'])
    assert.equal(decode(newAddress(2, parseIpPrefix(text), 'x').bytes, IFADDR).length, 4);
});

test('interfaces', () => {
  const name = [...Buffer.from('eth0\0')];
  const [type, flags, own, info] = decode(newLink('dummy', 'eth0', 2).bytes, IFINFO);
  assert.deepEqual([type, flags, own], [16, CREATE_EXCL, [3, name]]);
  assert.equal(Array.isArray(info) ? info[0] : 0, 18);
  assert.deepEqual(decode(linkUp(2).bytes, IFINFO), [16, REQUEST_ACK]);
  assert.deepEqual(decode(linkUp(2, 'a').bytes, IFINFO), [16, REQUEST_ACK, [20, [0x61, 0]]]);
  assert.equal(decode(linkWithoutOwnAddress(2).bytes, IFINFO).length, 3);
});

const RTMSG = 12;

test('routes to the neighbours of an address', () => {
  const added = newNeighbourRoute(parseIpPrefix('10.1.2.3/20'), 'x').bytes;
  assert.deepEqual(decode(added, RTMSG), [24, CREATE_EXCL, [4, [0, 0, 0, 0]], [1, [10, 1, 0, 0]]]);
  assert.deepEqual([...added.subarray(16, 24)], [2, 20, 0, 0, 254, 197, 253, 1]);
  const removed = deleteNeighbourRoute(parseIpPrefix('fd00::5/64'), 'x').bytes;
  assert.deepEqual(decode(removed, RTMSG).slice(0, 2), [25, REQUEST_ACK]);
  assert.equal(removed[17], 64);
});

test('a pair of interfaces has holes where its namespace and its bridge go', () => {
  const peer = { name: 'eth0', index: 2, hardwareAddress: Uint8Array.of(2, 0, 0, 0, 0, 1) };
  const pair = { name: 'vs-a', hardwareAddress: Uint8Array.of(0xfe, 0, 0, 0, 0, 1), peer };
  for (const hasBridge of [false, true]) {
    const { bytes, holes = [] } = newPair({ ...pair, hasBridge });
    assert.equal(holes.length, hasBridge ? 2 : 1);
    const view = new DataView(bytes.buffer);
    for (const [i, at] of holes.entries()) {
      const head = [
        view.getUint16(at - 4, endianness() === 'LE'),
        view.getUint16(at - 2, endianness() === 'LE'),
      ];
      assert.deepEqual(head, [8, i === 0 ? 28 : 10]);
    }
    const found = decode(bytes, IFINFO).map((one) => (Array.isArray(one) ? one[0] : one));
    assert.deepEqual(found, [16, CREATE_EXCL, ...(hasBridge ? [10] : []), 3, 1, 18]);
  }
  const gone = deleteLink(7, 'x').bytes;
  assert.deepEqual([decode(gone, IFINFO), gone[20]], [[17, REQUEST_ACK], 7]);
});

test('a default route leads to a gateway wherever that is', () => {
  const v4 = newDefaultRoute(2, parseIpPrefix('10.0.0.1').bytes, 'x').bytes;
  assert.deepEqual(decode(v4, RTMSG), [24, CREATE_EXCL, [4, [2, 0, 0, 0]], [5, [10, 0, 0, 1]]]);
  assert.deepEqual([...v4.subarray(16, 29)], [2, 0, 0, 0, 254, 197, 0, 1, 4, 0, 0, 0, 8]);
  assert.equal(newDefaultRoute(2, parseIpPrefix('fd00::1').bytes, 'x').bytes[16], 10);
});
