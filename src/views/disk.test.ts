import assert from 'node:assert/strict';
import { test } from 'node:test';
import { formatDiskstats } from './disk.ts';

test("diskstats has the devices a guest used, by the host's names", () => {
  const host = '   7       0 loop0 1 2 3 4 5 6 7 8 9 10 11\n 254       0 vda 1 2 3 4 5 6 7 8 9 10 11\n';
  const devices = new Map([
    ['254:0', { readBytes: 1024, writeBytes: 513, reads: 4, writes: 5 }],
    ['8:0', { readBytes: 1, writeBytes: 1, reads: 1, writes: 1 }],
  ]);
  assert.equal(formatDiskstats(host, devices), ' 254       0 vda 4 0 2 0 5 0 1 0 0 0 0 0 0 0 0 0 0\n');
  assert.equal(formatDiskstats(host, new Map()), '');
});
