import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { describe, test } from 'node:test';
import {
  establishedOf,
  formatCounterTable,
  formatNetDev,
  formatSocketTable,
  formatSockstat,
  formatSockstat6,
  parseSocketTable,
  type SocketSample,
  type SocketTable,
} from './sockets.ts';

const LISTENER: SocketSample = {
  state: 10,
  timer: 0,
  expiresMs: 0,
  retransmits: 0,
  local: { address: Uint8Array.of(127, 0, 0, 1), port: 80 },
  peer: { address: new Uint8Array(4), port: 0 },
  received: 1,
  sent: 128,
  uid: 33,
  inode: 4711,
};
const CONNECTION: SocketSample = {
  ...LISTENER,
  state: 1,
  timer: 1,
  expiresMs: 1001,
  retransmits: 2,
  peer: { address: Uint8Array.of(10, 9, 0, 1), port: 65_535 },
  received: 0,
  sent: 16,
  inode: 0,
};
const V6: SocketSample = {
  ...LISTENER,
  local: { address: Uint8Array.of(0xfd, 9, ...Array.from({ length: 13 }, () => 0), 5), port: 81 },
  peer: { address: new Uint8Array(16), port: 0 },
};
const none = { tcp: [], tcp6: [], udp: [], udp6: [], raw: [], raw6: [], icmp: [], icmp6: [] };
const tables = Object.keys(none) as readonly SocketTable[]; // its own
const isLittleEndian = new Uint8Array(Uint32Array.of(1).buffer)[0] === 1;

describe('a table of sockets', () => {
  test('begins as that of the kernel', () => {
    for (const table of tables) {
      const [head] = readFileSync(`/proc/net/${table}`, 'latin1').split('\n');
      // Its width is that of what follows there.
      assert.equal(formatSocketTable(table, []).trimEnd(), head?.trimEnd(), table);
    }
  });

  test('has the addresses and states in the words of the machine', { skip: !isLittleEndian }, () => {
    const [, first, second, ...rest] = formatSocketTable('tcp', [LISTENER, CONNECTION]).split('\n');
    assert.equal(
      first?.trimEnd(),
      '   0: 0100007F:0050 00000000:0000 0A 00000000:00000001 00:00000000 00000000    33        0 4711 1 0000000000000000 100 0 0 10 0',
    );
    assert.equal(
      second?.trimEnd(),
      '   1: 0100007F:0050 0100090A:FFFF 01 00000010:00000000 01:00000065 00000002    33        0 0 1 0000000000000000 20 4 0 10 -1',
    );
    assert.deepEqual([first?.length, second?.length, rest], [149, 149, ['']]);
    assert.match(
      formatSocketTable('udp6', [V6]),
      /\n {4}0: 000009FD000000000000000005000000:0051 0{32}:0000 0A /,
    );
  });

  test('is read as it is written', () => {
    for (const table of ['raw', 'icmp'] as const)
      assert.deepEqual(parseSocketTable(formatSocketTable(table, [LISTENER])), [LISTENER]);
    assert.deepEqual(parseSocketTable(formatSocketTable('raw6', [V6, V6])), [V6, V6]);
    assert.deepEqual(parseSocketTable(formatSocketTable('icmp', [])), []);
  });
});

test('sums are of what there is', () => {
  const all = {
    ...none,
    tcp: [LISTENER, CONNECTION, { ...CONNECTION, state: 6 }],
    tcp6: [V6],
    udp: [LISTENER],
  };
  assert.equal(establishedOf(all), 1);
  assert.equal(
    formatSockstat('sockets: used 2\nTCP: inuse 0 orphan 0 tw 0 alloc 0 mem 0\n', all),
    'sockets: used 6\nTCP: inuse 2 orphan 1 tw 1 alloc 3 mem 0\nUDP: inuse 1 mem 0\nUDPLITE: inuse 0\n' +
      'RAW: inuse 0\nFRAG: inuse 0 memory 0\n',
  );
  assert.match(formatSockstat6(all), /^TCP6: inuse 1\nUDP6: inuse 0\n/);
});

test("traffic is that of the guest's interface, and counted where the kernel counts it", () => {
  const dev = '    lo: 1 2\n  eth0:       0       0    0    0    0     0          0         0        0\n';
  assert.equal(
    formatNetDev(dev, 'eth0', {
      received: { packets: 3, bytes: 200 },
      sent: { packets: 4, bytes: 12345678 },
    }),
    '    lo: 1 2\n' +
      '  eth0:     200       3    0    0    0     0          0         0 12345678       4    0    0    0     0       0          0\n',
  );
  assert.equal(
    formatCounterTable('Ip: Forwarding InReceives\nIp: 2 0\nTcp: MaxConn InSegs\nTcp: -1 0\n', {
      Ip: { InReceives: 7 },
      Tcp: { InSegs: 8, Unknown: 9 },
    }),
    'Ip: Forwarding InReceives\nIp: 2 7\nTcp: MaxConn InSegs\nTcp: -1 8\n',
  );
});
