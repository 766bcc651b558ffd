import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  formatAccounting,
  formatContextInfo,
  formatContextStatus,
  formatContextsStatus,
  formatInterfaceInfo,
  formatLimits,
  formatNetworkInfo,
  formatNetworkStatus,
  formatNetworksStatus,
  formatScheduler,
  formatVirtualization,
} from './virtual-files.ts';

test('info and status of all contexts', () => {
  assert.equal(
    formatInterfaceInfo({ version: 0x00020301, syscall: 236, features: 0x03000f16 }),
    'VCIVersion:\t0002:0301\nVCISyscall:\t236\nVCIKernel:\t03000f16\n',
  );
  assert.equal(
    formatContextsStatus({ total: 3, active: 3, spaceSets: 9, spaces: [4, 5, 5, 5, 1, 1], initTasks: 1 }),
    '#CTotal:\t3\n#CActive:\t3\n#NSProxy:\t9\t 4 5 5 5 1 1\n#InitTask:\t1\t 1\n',
  );
  assert.equal(formatNetworksStatus({ total: 2, active: 1 }), '#CTotal:\t2\n#CActive:\t1\n');
});

test('info and status of a context', () => {
  assert.equal(
    formatContextInfo({ xid: 42, initPid: 2711 }),
    'ID:\t42\nInfo:\t0000000000000000\nInit:\t2711\nOOM:\t0\n',
  );
  assert.equal(
    formatContextStatus({
      references: 23,
      tasks: 21,
      flags: 0x1402020010n,
      bcaps: 0xd46c04ffn,
      ccaps: 0x101n,
      spaces: 0x0c020200,
    }),
    [
      'UseCnt:\t23',
      'Tasks:\t21',
      'Flags:\t0000001402020010',
      'BCaps:\t00000000d46c04ff',
      'CCaps:\t0000000000000101',
      'Umask:\t00000000',
      'Wmask:\t00000000',
      'Spaces:\t0c020200 00000000',
      '',
    ].join('\n'),
  );
});

test('limit', () => {
  const rows = [
    { row: 'PROC', current: 21, min: 0, max: 42, soft: 'max', hard: 'max', hits: 0 },
    { row: 'RSS', current: 9812, min: 0, max: 30_113, soft: 50_000, hard: 100_000, hits: 7 },
    { row: 'DENT', current: null, min: null, max: null, soft: 'max', hard: 5, hits: null },
  ] as const;
  assert.equal(
    formatLimits(rows),
    [
      'Limit\t current\t     min/max\t\t    soft/hard\t\thits',
      'PROC:\t      21\t       0/      42\t      -1/      -1\t     0',
      'RSS:\t    9812\t       0/   30113\t   50000/  100000\t     7',
      'DENT:\t       0\t       0/       0\t      -1/       5\t     0',
      '',
    ].join('\n'),
  );
});

test('sched', () => {
  assert.equal(
    formatScheduler({
      fillRate: 1,
      interval: 4,
      fillRate2: 1,
      interval2: 8,
      tokensMin: 6,
      tokensMax: 50,
      prioBias: -5,
      isHeld: false,
      idleTime: true,
      cpus: [{ cpu: 0, userTicks: 123, systemTicks: 456, heldTicks: 7 }],
    }),
    [
      'FillRate:\t       1,1',
      'Interval:\t       4,8',
      'TokensMin:\t       6',
      'TokensMax:\t      50',
      'PrioBias:\t      -5',
      'cpu 0: 123 456 7 0 0 RI 50 6 50 1/4 1/8 -5 0',
      '',
    ].join('\n'),
  );
});

test('cvirt', () => {
  assert.equal(
    formatVirtualization({
      biasUptimeSeconds: 7623.11,
      threads: 21,
      running: 1,
      uninterruptible: 0,
      held: 0,
      loadUpdates: 312,
      load: [0.03, 0.02, 0],
      totalForks: 341,
    }),
    [
      'BiasUptime:\t7623.11',
      'nr_threads:\t21',
      'nr_running:\t1',
      'nr_unintr:\t0',
      'nr_onhold:\t0',
      'load_updates:\t312',
      'loadavg:\t0.03 0.02 0.00',
      'total_forks:\t341',
      '',
    ].join('\n'),
  );
});

test('cacct', () => {
  const text = formatAccounting({
    INET: {
      received: { count: 12_221, bytes: 902_210 },
      sent: { count: 1, bytes: 2 },
      failed: { count: 0, bytes: 0 },
    },
  });
  const lines = text.split('\n');
  assert.equal(lines[0], 'Type\t    recv #/bytes\t\t   send #/bytes\t\t    fail #/bytes');
  assert.equal(lines[1], 'UNSPEC:\t         0/0         \t         0/0         \t         0/0         ');
  assert.equal(lines[3], 'INET:\t     12221/902210    \t         1/2         \t         0/0         ');
  assert.equal(lines[7], '');
  assert.equal(lines[8], 'slab:\t        0        0        0        0');
  assert.equal(
    lines[10],
    'page[0]:        0        0        0        0\t        0        0        0        0',
  );
  assert.equal(lines.length, 16);
});

test('info and status of a network context', () => {
  assert.equal(
    formatNetworkInfo({
      nid: 42,
      broadcast: '10.0.0.255',
      loopback: '127.0.42.1',
      addresses: [
        { address: '10.0.0.5', mask: '255.255.255.0', isIpv6: false },
        { address: '2001:db8::5', mask: 'ffff:ffff:ffff:ffff::/64', isIpv6: true },
      ],
    }),
    [
      'ID:\t42',
      'Info:\t0000000000000000',
      'Bcast:\t10.0.0.255',
      'Lback:\t127.0.42.1',
      '0:\t[10.0.0.5-0.0.0.0/255.255.255.0:0011]',
      '1:\t[2001:db8::5/ffff:ffff:ffff:ffff::/64:0012]',
      '',
    ].join('\n'),
  );
  assert.equal(
    formatNetworkStatus({ references: 2, tasks: 3, flags: 0x402000200n, ncaps: 0x100n }),
    'UseCnt:\t2\nTasks:\t3\nFlags:\t0000000402000200\nNCaps:\t0000000000000100\n',
  );
});
