import assert from 'node:assert/strict';
import { test } from 'node:test';
import { parseIpPrefix } from '../base/ip.ts';
import { type KernelSocket, parseSocketParts, queryBytes } from './sock-diag.ts';

const isLittleEndian = new Uint8Array(Uint32Array.of(1).buffer)[0] === 1;
const only = { skip: !isLittleEndian };
const HEADER = 16;
const REQUEST = 56;

test('a query asks for own addresses, and for what a map has', only, () => {
  const local = ['10.0.0.0/8', 'fd00::1', '0.0.0.0/32'].map(parseIpPrefix);
  const bytes = Buffer.from(queryBytes({ family: 4, protocol: 6, local }));
  assert.equal(bytes.readUInt32LE(0), bytes.length);
  assert.deepEqual([bytes.readUInt16LE(4), bytes.readUInt16LE(6)], [20, 0x301]);
  assert.deepEqual([...bytes.subarray(HEADER, HEADER + 8)], [2, 6, 0, 0, 0xfe, 0x1f, 0, 0]);
  // Two conditions, of IPv4, each with a jump behind the end.
  const code = bytes.subarray(HEADER + REQUEST + 4, -12);
  assert.equal(bytes.readUInt16LE(HEADER + REQUEST), 4 + code.length);
  assert.deepEqual(
    [...code],
    [
      ...[7, 16, 20, 0, 2, 8, 0, 0, 255, 255, 255, 255, 10, 0, 0, 0],
      ...[1, 4, 24, 0],
      ...[7, 16, 24, 0, 2, 32, 0, 0, 255, 255, 255, 255, 0, 0, 0, 0],
      ...[1, 4, 4, 0],
    ],
  );
  assert.deepEqual([...bytes.subarray(-12, -4)], [12, 0, 2, 0x80, 8, 0, 1, 0]);
  const six = queryBytes({ family: 6, protocol: 6, local });
  assert.equal(six.length - bytes.length, 4 + 8 + 16 + 4);
});

/** One part of an answer: its length, and messages of 72 bytes with an attribute. */
function answer(...messages: readonly Buffer[]): Buffer {
  const all = Buffer.concat(messages);
  const out = Buffer.alloc(8 + 1024);
  out.writeInt32LE(all.length);
  all.copy(out, 8);
  return out;
}

function message(type: number, body: Buffer): Buffer {
  const out = Buffer.alloc(HEADER + body.length);
  out.writeUInt32LE(out.length);
  out.writeUInt16LE(type, 4);
  body.copy(out, HEADER);
  return out;
}

test('an answer is read, with what the map has, to its end', only, () => {
  const body = Buffer.alloc(72 + 16 + 8);
  Buffer.from([2, 10, 3, 1, 0, 80, 0, 81, 10, 9, 0, 5]).copy(body);
  body.writeUInt32LE(7, 44);
  body.writeUInt32LE(1, 48);
  for (const [i, value] of [1500, 2, 3, 65_536_033, 4711].entries()) body.writeUInt32LE(value, 52 + 4 * i);
  // SHUTDOWN before, then storages, one storage, its value.
  Buffer.from([5, 0, 8, 0, 3, 0, 0, 0]).copy(body, 72);
  Buffer.from([16, 0, 20, 0, 12, 0, 1, 0, 8, 0, 3, 0, 1, 2, 3, 4]).copy(body, 80);
  const found: KernelSocket[] = [];
  const layout = { count: 1, bytes: 1024 };
  assert.equal(parseSocketParts(answer(message(20, body)), layout, found), false);
  assert.equal(parseSocketParts(answer(message(20, body), message(3, Buffer.alloc(4))), layout, found), true);
  assert.equal(found.length, 2);
  assert.deepEqual(
    {
      ...found[0],
      local: found[0]?.local.port,
      peer: found[0]?.peer.port,
      storage: [...(found[0]?.storage ?? [])],
    },
    {
      state: 10,
      timer: 3,
      expiresMs: 1500,
      retransmits: 1,
      local: 80,
      peer: 81,
      cookie: (1n << 32n) | 7n,
      received: 2,
      sent: 3,
      uid: 65_536_033,
      inode: 4711,
      storage: [1, 2, 3, 4],
    },
  );
  assert.deepEqual([...(found[0]?.local.address ?? [])], [10, 9, 0, 5]);
});

test('a part without anything is no end, and a refusal is told', only, () => {
  const layout = { count: 1, bytes: 1024 };
  const nothing = Buffer.alloc(8 + 1024);
  nothing.writeInt32LE(-11);
  assert.equal(parseSocketParts(nothing, layout, []), false);
  const refused = Buffer.alloc(4);
  refused.writeInt32LE(-2);
  assert.throws(
    () => parseSocketParts(answer(message(2, refused)), layout, []),
    /found error 2 of sock_diag/,
  );
});
