import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { allPids, lockedBytesOf, locksOf, totalsOf, virtualPagesOf } from './process-totals.ts';

test('sums over processes, of which one has ended', () => {
  const proc = mkdtempSync(join(tmpdir(), 'proc-'));
  try {
    for (const pid of [7, 8]) {
      mkdirSync(join(proc, `${pid}/fd`), { recursive: true });
      writeFileSync(join(proc, `${pid}/statm`), '625 24 12 1 0 30 0\n');
      writeFileSync(
        join(proc, `${pid}/io`),
        'rchar: 9\nwchar: 9\nsyscr: 1\nsyscw: 1\nread_bytes: 4096\nwrite_bytes: 512\ncancelled_write_bytes: 1\n',
      );
    }
    writeFileSync(join(proc, '7/status'), 'Name:\tVmLck\nVmLck:\t      64 kB\nThreads:\t1\n');
    writeFileSync(
      join(proc, 'locks'),
      '1: POSIX  ADVISORY  WRITE 7 00:1a:22 0 EOF\n1: -> POSIX  ADVISORY  WRITE 8 00:1a:22 0 EOF\n' +
        '2: FLOCK  ADVISORY  READ 8 00:1a:23 0 EOF\n3: FLOCK  ADVISORY  READ 1 00:1a:24 0 EOF\n',
    );
    assert.equal(lockedBytesOf([7, 8], proc), 65_536);
    assert.equal(locksOf([7, 8], proc), 2, 'who waits for a lock has none');
    mkdirSync(join(proc, 'sys'));
    assert.deepEqual([...allPids(proc)].sort(), [7, 8]);
    assert.equal(virtualPagesOf([7, 8, 9], proc), 1250);
    const { ioReadBytes, ioWriteBytes } = totalsOf([7, 8, 9], proc);
    assert.deepEqual([ioReadBytes, ioWriteBytes], [8192, 1024]);
  } finally {
    rmSync(proc, { recursive: true });
  }
});
