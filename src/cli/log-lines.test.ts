import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { formatLogTime, type LogRecord } from '../spec/log-records.ts';
import { LineCounter, LineFormatter } from './log-lines.ts';

const pieces = fc.array(
  fc.tuple(fc.constantFrom(1 as const, 2 as const), fc.stringMatching(/^[ab\n]{0,5}$/)),
);

function toRecords(texts: readonly (readonly [stream: 1 | 2, text: string])[]): readonly LogRecord[] {
  return texts.map(([stream, text], index) => ({ stream, bytes: Buffer.from(text), timeNs: BigInt(index) }));
}

/** The lines in the order they begin, each with its stream and the time of its beginning. */
function linesOf(records: readonly LogRecord[]): readonly { stream: number; text: string; timeNs: bigint }[] {
  const lines: { stream: number; text: string; timeNs: bigint }[] = [];
  const open = new Map<number, { text: string }>();
  for (const { stream, bytes, timeNs } of records) {
    for (const char of Buffer.from(bytes).toString()) {
      let line = open.get(stream);
      if (line === undefined) {
        const fresh = { stream, text: '', timeNs };
        lines.push(fresh);
        line = fresh;
        open.set(stream, line);
      }
      line.text += char;
      if (char === '\n') open.delete(stream);
    }
  }
  return lines;
}

function show(records: readonly LogRecord[], formatter: LineFormatter, stream: number): string {
  return records
    .map((record) => {
      const bytes = formatter.format(record);
      return record.stream === stream ? Buffer.from(bytes).toString() : '';
    })
    .join('');
}

describe('lines of two streams', () => {
  test('are counted where they begin', () => {
    fc.assert(
      fc.property(pieces, (texts) => {
        const counter = new LineCounter();
        const records = toRecords(texts);
        for (const record of records) counter.push(record);
        assert.equal(counter.count, linesOf(records).length);
      }),
    );
  });

  test('are left out at the beginning and get their times', () => {
    fc.assert(
      fc.property(pieces, fc.nat(6), fc.boolean(), (texts, skip, withTimes) => {
        const records = toRecords(texts);
        for (const stream of [1, 2]) {
          const wanted = linesOf(records)
            .filter((line, index) => index >= skip && line.stream === stream)
            .map(({ text, timeNs }) => (withTimes ? `${formatLogTime(timeNs)} ${text}` : text));
          // An unfinished line may be followed by later ones of the other stream only, so pieces join in order.
          assert.equal(show(records, new LineFormatter({ skip, withTimes }), stream), wanted.join(''));
        }
      }),
    );
  });
});
