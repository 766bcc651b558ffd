import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { readWriteLog, replayWrites } from './write-log.ts';

const SECTOR = 512;

/** A sector that begins with numbers of 8 bytes. */
function sector(...fields: readonly bigint[]): Buffer {
  const bytes = Buffer.alloc(SECTOR);
  for (const [index, field] of fields.entries()) bytes.writeBigUInt64LE(field, index * 8);
  return bytes;
}

test('a log of writes is read, and replayed up to a moment', () => {
  const directory = mkdtempSync(join(tmpdir(), 'write-log-'));
  try {
    const [log, disk] = [join(directory, 'log'), join(directory, 'disk')];
    const mark = sector(0n, 0n, 8n, 4n);
    mark.write('done', 32);
    writeFileSync(
      log,
      Buffer.concat([
        sector(0x6a_7366_7773_6872n, 1n, 4n, BigInt(SECTOR)),
        ...[sector(2n, 2n, 0n, 0n), Buffer.alloc(2 * SECTOR, 'a')],
        ...[sector(1n, 1n, 2n, 0n), Buffer.alloc(SECTOR, 'b')],
        mark,
        sector(2n, 1n, 4n, 0n),
      ]),
    );
    writeFileSync(disk, Buffer.alloc(4 * SECTOR, '.'));
    const entries = readWriteLog(log);
    assert.deepEqual(
      entries.map(({ isBarrier, isDiscard, mark }) => [isBarrier, isDiscard, mark]),
      [
        [false, false, undefined],
        [true, false, undefined],
        [false, false, 'done'],
        [false, true, undefined],
      ],
    );
    const shown = (): string =>
      [0, 1, 2, 3].map((index) => String.fromCharCode(readFileSync(disk)[index * SECTOR] ?? 0)).join('');
    replayWrites(log, entries.slice(0, 2), disk);
    assert.equal(shown(), '.baa');
    replayWrites(log, entries.slice(2), disk);
    assert.equal(shown(), '.b\0a');
  } finally {
    rmSync(directory, { recursive: true });
  }
});
