import assert from 'node:assert/strict';
import { endianness } from 'node:os';
import { describe, test } from 'node:test';
import {
  attrBody,
  entryBody,
  FUSE,
  fuseAnswer,
  fuseError,
  fuseLength,
  initBody,
  lookupName,
  moveNodes,
  parseFuseRequest,
  readdirBody,
  readdirRange,
  statfsBody,
} from './fuse-wire.ts';

const LE = endianness() === 'LE';
const u32 = (bytes: Buffer, at: number): number => (LE ? bytes.readUInt32LE(at) : bytes.readUInt32BE(at));
const u64 = (bytes: Buffer, at: number): bigint =>
  LE ? bytes.readBigUInt64LE(at) : bytes.readBigUInt64BE(at);
const words = (...values: readonly number[]): Buffer => Buffer.from(Uint32Array.from(values).buffer);
const longs = (...values: readonly bigint[]): Buffer => Buffer.from(BigUint64Array.from(values).buffer);

test('a request is taken apart', () => {
  const bytes = Buffer.concat([
    words(46, FUSE.lookup),
    longs(7n, 512n),
    words(0, 0, 9, 0),
    Buffer.from('stat\0x'),
  ]);
  assert.equal(fuseLength(bytes), 46);
  const request = parseFuseRequest(bytes);
  assert.deepEqual(
    [request?.opcode, request?.unique, request?.node, lookupName(request?.body ?? Buffer.alloc(0))],
    [FUSE.lookup, 7n, 512, 'stat'],
  );
});

test('too little is no request, and no name', () => {
  assert.equal(fuseLength(Buffer.alloc(3)), undefined);
  assert.equal(parseFuseRequest(Buffer.alloc(39)), undefined);
  assert.equal(lookupName(Buffer.from('abc')), '');
  assert.deepEqual(readdirRange(Buffer.alloc(19)), { offset: 0, size: 0 });
});

test('answers begin with length, errno and number', () => {
  const answer = fuseAnswer(5n, Buffer.from('ab'), Buffer.from('c'));
  assert.deepEqual(
    [u32(answer, 0), u32(answer, 4), u64(answer, 8), answer.toString('latin1', 16)],
    [19, 0, 5n, 'abc'],
  );
  const error = fuseError(6n, 38);
  assert.deepEqual([u32(error, 0), u32(error, 4) | 0, u64(error, 8)], [16, -38, 6n]);
});

describe('init', () => {
  test('takes of the flags what the kernel offers', () => {
    const body = initBody(Buffer.concat([words(7, 45, 4096, 0xffffffff), Buffer.alloc(48)]));
    assert.ok(body);
    assert.deepEqual([body.length, u32(body, 0), u32(body, 4)], [64, 7, 31]);
    assert.equal(u32(body, 12), (1 << 12) | (1 << 13) | (1 << 18) | (1 << 24));
    assert.equal(initBody(words(7, 31, 0, 0))?.readUInt32LE(12), 0);
  });

  test('refuses an older protocol', () => {
    assert.equal(initBody(words(7, 30, 0, 0)), undefined);
    assert.equal(initBody(words(8, 40, 0, 0)), undefined);
  });
});

test('attributes are those of a file of sysfs, or of a directory', () => {
  const file = attrBody({ node: 513, isDirectory: false });
  assert.equal(file.length, 104);
  assert.deepEqual([u64(file, 16), u64(file, 24), u32(file, 16 + 60)], [513n, 4096n, 0o100444]);
  const directory = entryBody({ node: 512, isDirectory: true });
  assert.equal(directory.length, 128);
  assert.deepEqual([u64(directory, 0), u64(directory, 40), u32(directory, 40 + 60)], [512n, 512n, 0o040555]);
  assert.equal(statfsBody().length, 80);
  const link = attrBody({ node: 514, isDirectory: false, target: '1/net' });
  assert.deepEqual([u64(link, 24), u32(link, 16 + 60)], [5n, 0o120777]);
});

test('what may go or change is asked for each time, all else once', () => {
  const [name, attributes] = [16, 24];
  const stays = entryBody({ node: 512, isDirectory: true });
  assert.deepEqual([u64(stays, name), u64(stays, attributes)], [10n ** 9n, 10n ** 9n]);
  const goes = entryBody({ node: 512, isDirectory: true, mayGo: true });
  assert.deepEqual([u64(goes, name), u64(goes, attributes)], [0n, 10n ** 9n]);
  const changes = attrBody({ node: 512, isDirectory: true, changedAtMs: 1234 });
  const [time, nanoseconds] = [16 + 32, 16 + 52];
  assert.deepEqual([u64(changes, 0), u64(changes, time), u32(changes, nanoseconds)], [0n, 1n, 234_000_000]);
});

test('a list is that of another directory with other numbers', () => {
  const list = (first: number): Buffer =>
    readdirBody(
      ['a', 'longer-name', 'c'].map((name, i) => ({ name, node: first + i, isDirectory: i === 1 })),
      { offset: 0, size: 4096 },
      true,
    );
  assert.deepEqual(moveNodes(list(513), 256), list(769));
  assert.deepEqual(moveNodes(list(2 ** 32 - 1), 2), list(2 ** 32 + 1));
});

test('as many entries are listed as fit, from where the kernel is', () => {
  const entries = ['a', 'longer-name', 'c'].map((name, i) => ({ name, node: 513 + i, isDirectory: i === 2 }));
  const plain = readdirBody(entries, { offset: 0, size: 4096 }, false);
  assert.equal(plain.length, 32 + 40 + 32);
  assert.deepEqual([u64(plain, 0), u64(plain, 8), u32(plain, 16), u32(plain, 20)], [513n, 1n, 1, 8]);
  assert.equal(plain.toString('latin1', 24, 25), 'a');
  assert.equal(readdirBody(entries, { offset: 1, size: 4096 }, true).length, 128 + 40 + 128 + 32);
  assert.equal(readdirBody(entries, { offset: 0, size: 32 + 39 }, false).length, 32);
  assert.equal(readdirBody(entries, { offset: 3, size: 4096 }, false).length, 0);
});
