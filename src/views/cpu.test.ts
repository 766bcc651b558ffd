import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { formatCpuinfo, formatCpuList, formatLoadavg, formatStat, formatUptime, visibleCpus } from './cpu.ts';

const SAMPLE = { cpus: [0, 2], userUs: 3_000_000, systemUs: 1_000_000, uptimeSeconds: 10 };

test('a guest sees the CPUs it may run on, and no more than it gets the time of', () => {
  assert.deepEqual(visibleCpus([0, 1, 2, 3], undefined), [0, 1, 2, 3]);
  assert.deepEqual(visibleCpus([0, 1, 2, 3], 1.5), [0, 1]);
  assert.deepEqual(visibleCpus([2, 3], 0.1), [2]);
  assert.deepEqual(visibleCpus([2, 3], 64), [2, 3]);
});

test('lists of CPUs have ranges', () => {
  assert.equal(formatCpuList([0]), '0\n');
  assert.equal(formatCpuList([0, 1, 2, 5, 7, 8]), '0-2,5,7-8\n');
});

describe('cpuinfo', () => {
  const block = (n: number): string =>
    `processor\t: ${n}\nsiblings\t: 4\ncpu cores\t: 4\nmodel name\t: x: y\n\n`;

  test('has the blocks of what is seen', () => {
    const text = formatCpuinfo([0, 1, 2, 3].map(block).join(''), SAMPLE);
    assert.deepEqual(
      [...text.matchAll(/^processor\t: (\d)$/gm)].map(([, n]) => n),
      ['0', '2'],
    );
    assert.match(text, /^siblings\t: 2$/m);
    assert.match(text, /^model name\t: x: y\n\n$/m);
  });

  test('keeps what is said of the whole machine', () => {
    assert.match(
      formatCpuinfo(`vendor\t: IBM\n\n${block(1)}Hardware\t: z\n`, SAMPLE),
      /^vendor\t: IBM\n\nHardware\t: z\n$/,
    );
  });
});

test('uptime counts what the CPUs did not do', () => {
  assert.equal(formatUptime(SAMPLE, 0.25), '10.25 16.50\n');
  assert.equal(formatUptime({ ...SAMPLE, userUs: 1e9 }, 0), '10.00 0.00\n');
});

test('stat shares time among the CPUs, and tells nothing of devices', () => {
  assert.equal(
    formatStat(SAMPLE, { running: 2, blocked: 1, total: 5 }, 1234, 42),
    'cpu  300 0 100 1600 0 0 0 0 0 0\n' +
      'cpu0 150 0 50 800 0 0 0 0 0 0\n' +
      'cpu2 150 0 50 800 0 0 0 0 0 0\n' +
      'intr 0\nctxt 0\nbtime 1234\nprocesses 42\nprocs_running 2\nprocs_blocked 1\n' +
      'softirq 0 0 0 0 0 0 0 0 0 0 0\n',
  );
});

test('loadavg has two decimals', () => {
  assert.equal(
    formatLoadavg({ averages: [0.004, 1, 12.345], running: 1, blocked: 0, total: 7 }),
    '0.00 1.00 12.35 1/7 7\n',
  );
});
