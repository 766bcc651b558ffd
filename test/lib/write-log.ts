/**
 * What was written to a block device, in order, as dm-log-writes keeps it (Documentation/admin-guide/device-mapper/
 * log-writes.rst, Linux 4.1): from it comes the disk as a power cut would have left it at any moment.
 *
 *     sector 0     magic, version, number of entries (8 bytes each), sector size (4)
 *     entries      sector, number of sectors, flags, length of data (8 bytes each), padded to a sector; then the data
 */
import { closeSync, openSync, readSync, writeSync } from 'node:fs';

/** One write, or a mark of the tester's. */
export interface WriteLogEntry {
  /** Where on the disk, in bytes, and how many. */
  readonly offset: number;
  readonly length: number;
  /** A flush or a write that is on the disk when it is done: what the writer waited for. */
  readonly isBarrier: boolean;
  readonly isDiscard: boolean;
  /** Text of a mark. */
  readonly mark: string | undefined;
  /** Where the data is in the log, in bytes. */
  readonly dataAt: number;
}

const MAGIC = 0x6a_7366_7773_6872n;
const SECTOR_BYTES = 512;
const FLAG = { flush: 1, fua: 2, discard: 4, mark: 8 } as const;
const CHUNK_BYTES = 1 << 20;

/** Reads the entries of a log. @throws Error if it is none */
export function readWriteLog(path: string): readonly WriteLogEntry[] {
  const fd = openSync(path, 'r');
  try {
    const head = Buffer.alloc(SECTOR_BYTES);
    readSync(fd, head, 0, SECTOR_BYTES, 0);
    if (head.readBigUInt64LE(0) !== MAGIC) throw new Error(`cannot read "${path}": found no log of writes`);
    const count = Number(head.readBigUInt64LE(16));
    const sectorBytes = head.readUInt32LE(24);
    const entries: WriteLogEntry[] = [];
    for (let at = sectorBytes; entries.length < count; ) {
      readSync(fd, head, 0, SECTOR_BYTES, at);
      const [sector = 0, sectors = 0, flags = 0, dataBytes = 0] = [0, 8, 16, 24].map((field) =>
        Number(head.readBigUInt64LE(field)),
      );
      const has = (flag: number): boolean => (flags & flag) !== 0;
      const dataAt = at + sectorBytes;
      entries.push({
        offset: sector * SECTOR_BYTES,
        length: sectors * SECTOR_BYTES,
        isBarrier: has(FLAG.flush) || has(FLAG.fua),
        isDiscard: has(FLAG.discard),
        // A mark's text follows its head in the same sector.
        mark: has(FLAG.mark) ? head.toString('utf8', 32, 32 + dataBytes).replace(/\0+$/, '') : undefined,
        dataAt,
      });
      at = dataAt + (has(FLAG.mark) || has(FLAG.discard) ? 0 : sectors * SECTOR_BYTES);
    }
    return entries;
  } finally {
    closeSync(fd);
  }
}

/** Does some of a log's writes on a disk. */
export function replayWrites(log: string, entries: readonly WriteLogEntry[], disk: string): void {
  const from = openSync(log, 'r');
  const to = openSync(disk, 'r+');
  try {
    const chunk = Buffer.alloc(CHUNK_BYTES);
    const zeros = Buffer.alloc(CHUNK_BYTES);
    for (const { offset, length, isDiscard, mark, dataAt } of entries) {
      if (mark !== undefined) continue;
      for (let done = 0; done < length; done += CHUNK_BYTES) {
        const bytes = Math.min(CHUNK_BYTES, length - done);
        if (!isDiscard) readSync(from, chunk, 0, bytes, dataAt + done);
        writeSync(to, isDiscard ? zeros : chunk, 0, bytes, offset + done);
      }
    }
  } finally {
    closeSync(from);
    closeSync(to);
  }
}
