import assert from 'node:assert/strict';
import { endianness } from 'node:os';
import { test } from 'node:test';
import { formatAddress, parseAddress } from './address.ts';
import { type Element, networkElements } from './fence-elements.ts';
import { NETWORK, NETWORK_FLAG } from './fence-maps.ts';
import type { EgressRule, NetworkRules } from './rules.ts';

const LE = endianness() === 'LE';
const u32 = (bytes: Uint8Array, at = 0): number =>
  new DataView(bytes.buffer, bytes.byteOffset).getUint32(at, LE);
const u16 = (bytes: Uint8Array, at: number): number =>
  new DataView(bytes.buffer, bytes.byteOffset).getUint16(at, LE);

const of = (map: Element['map'], rules: NetworkRules, nid = 2): readonly Element[] =>
  networkElements(nid, rules).filter((element) => element.map === map);
const EMPTY: NetworkRules = { addresses4: [], addresses6: [] };

test('a context owns its addresses and a loopback of each family', () => {
  const owned = of(
    'addresses',
    {
      addresses4: [{ address: '192.0.2.1', prefix: 24 }],
      addresses6: [{ address: '2001:db8::1', shared: true }],
    },
    40_000,
  );
  assert.deepEqual(
    owned.map(({ key, value }) => [formatAddress(key), u32(value), u32(value, 4)]),
    [
      ['192.0.2.1', 40_000, 0],
      ['2001:db8::1', 40_000, 1],
      ['127.156.64.1', 40_000, 2],
      ['fd76:7365:7276:6572::9c40', 40_000, 2],
    ],
  );
});

test('the first address of a family goes out where no network decides', () => {
  const rules: NetworkRules = {
    addresses4: [
      { address: '192.0.2.1', prefix: 24 },
      { address: '198.51.100.1', prefix: 24 },
      { address: '192.0.2.9', prefix: 24 },
    ],
    addresses6: [],
  };
  const [network] = of('networks', rules);
  assert.ok(network);
  assert.equal(formatAddress(network.value.slice(NETWORK.primary4, NETWORK.primary4 + 16)), '192.0.2.1');
  assert.ok(network.value.slice(NETWORK.primary6, NETWORK.primary6 + 16).every((byte) => byte === 0));
  assert.equal(u32(network.value), NETWORK_FLAG.metadataDenied | NETWORK_FLAG.sources4);
  assert.deepEqual(
    of('sources', rules).map(({ key, value }) => [
      u32(key),
      u32(key, 4),
      formatAddress(key.slice(8)),
      formatAddress(value),
    ]),
    [
      [32 + 96 + 24, 2, '192.0.2.0', '192.0.2.1'],
      [32 + 96 + 24, 2, '198.51.100.0', '198.51.100.1'],
    ],
  );
});

/** What the kernel does with the elements: the longest match, then the first rule of it. */
function verdict(
  egress: readonly EgressRule[],
  otherwise: 'allow' | 'deny',
  to: string,
  protocol: number,
  port: number,
): string {
  const elements = of('policy', { ...EMPTY, policy: { egress, otherwise } });
  const address = parseAddress(to);
  const bit = (bytes: Uint8Array, i: number): number => ((bytes[i >> 3] ?? 0) >> (7 - (i & 7))) & 1;
  const matching = elements
    .filter(({ key }) =>
      Array.from({ length: u32(key) - 32 }, (_, i) => bit(key.subarray(8), i) === bit(address, i)).every(
        Boolean,
      ),
    )
    .sort((a, b) => u32(b.key) - u32(a.key));
  const list = matching[0]?.value ?? new Uint8Array(128);
  for (let at = 0; at < list.length; at += 8) {
    if (list[at] === 0) break;
    if (list[at + 1] !== 0 && list[at + 1] !== protocol) continue;
    if (port >= u16(list, at + 4) && port <= u16(list, at + 6)) return list[at] === 1 ? 'allow' : 'deny';
  }
  return 'deny';
}

test('the first rule that fits decides, however networks nest', () => {
  const rules: readonly EgressRule[] = [
    { action: 'allow', to: '10.1.0.0/16', protocol: 'tcp', ports: [80, 90] },
    { action: 'deny', to: '10.0.0.0/8' },
    { action: 'allow', to: '10.1.2.3' },
    { action: 'deny', protocol: 'udp', ports: [53, 53] },
    { action: 'deny', to: '2001:db8::/32', protocol: 'icmp' },
  ];
  const cases: readonly (readonly [string, number, number, string])[] = [
    ['10.1.2.3', 6, 80, 'allow'],
    ['10.1.2.3', 6, 91, 'deny'],
    ['10.1.2.3', 17, 80, 'deny'],
    ['10.9.9.9', 6, 80, 'deny'],
    ['192.0.2.1', 6, 53, 'allow'],
    ['192.0.2.1', 17, 53, 'deny'],
    ['2001:db8::1', 58, 0, 'deny'],
    ['2001:db8::1', 6, 80, 'allow'],
    ['2001:db9::1', 17, 53, 'deny'],
  ];
  for (const [to, protocol, port, expected] of cases)
    assert.equal(verdict(rules, 'allow', to, protocol, port), expected, `${to} ${protocol} ${port}`);
  assert.equal(verdict([{ action: 'allow', to: '::/0' }], 'deny', '192.0.2.1', 6, 80), 'deny');
  assert.equal(verdict([{ action: 'allow', to: '0.0.0.0/0' }], 'deny', '192.0.2.1', 6, 80), 'allow');
  assert.deepEqual(of('policy', EMPTY), []);
});

test('rules that cannot be are refused', () => {
  const rule: EgressRule = { action: 'deny', to: '10.0.0.1', protocol: 'tcp', ports: [1, 1] };
  const bad = (rules: Partial<NetworkRules>, code: string): void => {
    assert.throws(() => networkElements(2, { ...EMPTY, ...rules }), { code });
  };
  bad({ policy: { egress: new Array<EgressRule>(16).fill(rule) } }, 'too-many-rules');
  bad({ policy: { egress: [{ ...rule, ports: [2, 1] }] } }, 'invalid-rule');
  bad({ policy: { groups: [64] } }, 'invalid-rule');
  bad({ addresses4: [{ address: '::1' }] }, 'invalid-address');
  bad({ addresses6: [{ address: '192.0.2.1' }] }, 'invalid-address');
  bad({ addresses4: [{ address: '192.0.2.1', prefix: 33 }] }, 'invalid-address');
  bad({ ranges: ['x'] }, 'invalid-address');
  bad({ bandwidth: { sendBytesPerSecond: 0 } }, 'invalid-rule');
});

test('bandwidth is time per byte, and a burst is time too', () => {
  const [send, ...rest] = of('rates', { ...EMPTY, bandwidth: { sendBytesPerSecond: 1e6, burstBytes: 1e6 } });
  assert.ok(send);
  assert.deepEqual(rest, []);
  assert.deepEqual([u32(send.key), u32(send.key, 4)], [2, 0]);
  const view = new DataView(send.value.buffer);
  assert.deepEqual(
    [8, 16].map((at) => view.getBigUint64(at, LE)),
    [1_024_000n, 1_000_000_000n],
  );
});

test('groups are bits, peers are pairs', () => {
  const rules = { ...EMPTY, policy: { groups: [0, 63], peers: [7] } };
  const [network] = of('networks', rules);
  assert.ok(network);
  const groups = new DataView(network.value.buffer).getBigUint64(NETWORK.groups, LE);
  assert.equal(groups, (1n << 63n) | 1n);
  assert.deepEqual(
    of('peers', rules).map(({ key }) => [u32(key), u32(key, 4)]),
    [[2, 7]],
  );
});
