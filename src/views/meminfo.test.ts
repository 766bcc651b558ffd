import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { formatMeminfo, formatSwaps, formatVmstat, memoryTotals, parseMeminfo } from './meminfo.ts';
import type { MemorySample } from './sample.ts';

const HOST = `MemTotal:       24684084 kB
MemFree:        21386032 kB
MemAvailable:   23143112 kB
Buffers:           55608 kB
Cached:          1651952 kB
Active(anon):      22704 kB
SwapTotal:       2000000 kB
SwapFree:        1000000 kB
Committed_AS:    1522060 kB
VmallocTotal:   34359738367 kB
HugePages_Total:       3
Hugepagesize:       2048 kB
DirectMap4k:      223232 kB
`;
const KIB = 1024;
const SAMPLE: MemorySample = {
  limitBytes: 300 * KIB * KIB,
  usageBytes: 100 * KIB * KIB,
  swapLimitBytes: 50 * KIB * KIB,
  swapBytes: 10 * KIB * KIB,
  stat: new Map([
    ['active_file', 20 * KIB * KIB],
    ['inactive_file', 10 * KIB * KIB],
    ['active_anon', 7 * KIB],
    ['file', 31 * KIB * KIB],
    ['anon', 4 * KIB],
    ['pgfault', 77],
  ]),
};
const UNLIMITED: MemorySample = { ...SAMPLE, limitBytes: undefined, swapLimitBytes: undefined };

describe('meminfo', () => {
  test("has the host's lines and widths with the guest's numbers", () => {
    assert.equal(
      formatMeminfo(HOST, SAMPLE),
      `MemTotal:         307200 kB
MemFree:          204800 kB
MemAvailable:     235520 kB
Buffers:               0 kB
Cached:            31744 kB
Active(anon):          7 kB
SwapTotal:         51200 kB
SwapFree:          40960 kB
Committed_AS:      10244 kB
VmallocTotal:   34359738367 kB
HugePages_Total:       0
Hugepagesize:       2048 kB
`,
    );
  });

  test('tells no more than the host has, and none of it as available that others use', () => {
    const host = parseMeminfo(HOST.replace('23143112', '100'));
    assert.deepEqual(memoryTotals(host, UNLIMITED), {
      totalBytes: 24_684_084 * KIB,
      freeBytes: (24_684_084 - 102_400) * KIB,
      availableBytes: 100 * KIB,
      swapTotalBytes: 2_000_000 * KIB,
      swapFreeBytes: (2_000_000 - 10_240) * KIB,
    });
    assert.equal(memoryTotals(host, { ...SAMPLE, limitBytes: 2 ** 50 }).totalBytes, 24_684_084 * KIB);
  });

  test('is never negative', () => {
    const { freeBytes, swapFreeBytes } = memoryTotals(parseMeminfo(HOST), {
      ...SAMPLE,
      usageBytes: 2 ** 40,
      swapBytes: 2 ** 40,
    });
    assert.deepEqual([freeBytes, swapFreeBytes], [0, 0]);
  });
});

test('swaps is one virtual device, or none', () => {
  const header = 'Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n';
  assert.equal(formatSwaps(HOST, SAMPLE), `${header}${'none'.padEnd(40)}virtual\t\t51200\t10240\t0\n`);
  assert.equal(formatSwaps(HOST, { ...SAMPLE, swapLimitBytes: 0 }), header);
});

test("vmstat has the host's names, in pages and counts", () => {
  const host = 'nr_free_pages 5\nnr_active_file 1\npgfault 9\npgpgin 12\n';
  assert.equal(
    formatVmstat(host, HOST, SAMPLE),
    'nr_free_pages 51200\nnr_active_file 5120\npgfault 77\npgpgin 0\n',
  );
});
