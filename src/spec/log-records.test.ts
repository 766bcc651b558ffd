import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { formatLogTime, type LogRecord, LogRecordReader } from './log-records.ts';

const record = fc.record(
  {
    timeNs: fc.bigInt({ min: 0n, max: 4_000_000_000_000_000_000n }),
    stream: fc.constantFrom(1 as const, 2 as const),
    bytes: fc.uint8Array({ maxLength: 40 }),
  },
  { noNullPrototype: true },
);

function encode({ timeNs, stream, bytes }: LogRecord, littleEndian: boolean): Uint8Array {
  const all = new Uint8Array(16 + bytes.length);
  const view = new DataView(all.buffer);
  view.setBigUint64(0, timeNs, littleEndian);
  view.setUint32(8, bytes.length, littleEndian);
  view.setUint32(12, stream, littleEndian);
  all.set(bytes, 16);
  return all;
}

test('records come out as they went in, in whatever pieces the bytes come', () => {
  fc.assert(
    fc.property(fc.array(record), fc.boolean(), fc.array(fc.nat(30)), (records, littleEndian, sizes) => {
      const bytes = Buffer.concat(records.map((one) => encode(one, littleEndian)));
      const reader = new LogRecordReader(littleEndian);
      const found: LogRecord[] = [];
      const buffer = Buffer.alloc(bytes.length);
      const cuts = [...sizes, bytes.length];
      for (let at = 0, index = 0; at < bytes.length; index++) {
        const length = Math.min(bytes.length - at, cuts[index % cuts.length] ?? 0);
        // One buffer for all reads, as a file reader has it: what the reader keeps must be its own.
        bytes.copy(buffer, 0, at, at + length);
        for (const one of reader.push(buffer.subarray(0, length))) {
          found.push({ ...one, bytes: Uint8Array.from(one.bytes) });
        }
        at += length;
      }
      assert.deepEqual(found, records);
    }),
  );
});

test('what is no record is refused', () => {
  const bad = [
    encode({ timeNs: 0n, stream: 3 as 1, bytes: new Uint8Array() }, true),
    Buffer.from('no record at all, but text'),
    Uint8Array.from([0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1, 0, 1, 0, 0, 0]),
  ];
  for (const bytes of bad) {
    assert.throws(() => [...new LogRecordReader(true).push(bytes)], { code: 'malformed-log' });
  }
});

test('times', () => {
  assert.equal(formatLogTime(0n), '1970-01-01T00:00:00.000000000Z');
  assert.equal(formatLogTime(1_795_439_849_803_535_938n), '2026-11-23T13:17:29.803535938Z');
});
