import assert from 'node:assert/strict';
import { test } from 'node:test';
import { contains, formatAddress, isIpv4, lastAddress, parseAddress, parseNetwork } from './address.ts';

test('addresses are read and written in both families', () => {
  for (const text of [
    '192.0.2.1',
    '0.0.0.0',
    '255.255.255.255',
    '::',
    '::1',
    '2001:db8::1',
    '2001:db8:0:1:1:1:1:1',
    'fe80::',
    '1:2:3:4:5:6:7:8',
    '1::4:0:0:7:8',
  ])
    assert.equal(formatAddress(parseAddress(text)), text);
  assert.equal(formatAddress(parseAddress('::ffff:192.0.2.1')), '192.0.2.1');
  assert.equal(formatAddress(parseAddress('64:ff9b::192.0.2.33')), '64:ff9b::c000:221');
  assert.equal(formatAddress(parseAddress('2001:DB8:0:0:1:0:0:1')), '2001:db8::1:0:0:1');
  assert.ok(isIpv4(parseAddress('10.0.0.1')) && !isIpv4(parseAddress('::1')));
});

test('what is no address is refused', () => {
  for (const text of [
    '',
    '1.2.3',
    '1.2.3.256',
    '01.2.3.4',
    '1:2',
    ':::',
    '1::2::3',
    '1:2:3:4:5:6:7:8:9',
    'g::',
    '1.2.3.4:80',
    '::1%lo',
    '1:2:3:4:5:6:7::8:9',
    '::1.2.3',
  ])
    assert.throws(() => parseAddress(text), { code: 'invalid-address' }, text);
});

test('networks have a prefix that fits their family, and no bits behind it', () => {
  const shown = (text: string): readonly [string, number] => {
    const { address, prefix } = parseNetwork(text);
    return [formatAddress(address), prefix];
  };
  assert.deepEqual(shown('192.0.2.77/24'), ['192.0.2.0', 120]);
  assert.deepEqual(shown('192.0.2.77'), ['192.0.2.77', 128]);
  assert.deepEqual(shown('2001:db8::ff/125'), ['2001:db8::f8', 125]);
  assert.deepEqual(shown('::/0'), ['::', 0]);
  for (const text of ['192.0.2.0/33', '::/129', '::/-1', '::/1/2', '192.0.2.0/']) {
    assert.throws(() => parseNetwork(text), { code: 'invalid-network' }, text);
  }
});

test('the last address of a network', () => {
  assert.equal(formatAddress(lastAddress(parseNetwork('192.0.2.0/25'))), '192.0.2.127');
});

test('a network contains what has its prefix', () => {
  const inside = (outer: string, inner: string): boolean =>
    contains(parseNetwork(outer), parseNetwork(inner));
  assert.ok(inside('10.0.0.0/8', '10.255.0.0/16') && inside('10.0.0.0/8', '10.0.0.0/8'));
  assert.ok(!inside('10.0.0.0/8', '11.0.0.0/16') && !inside('10.0.0.0/16', '10.0.0.0/8'));
  assert.ok(inside('2001:db8::/33', '2001:db8:7fff::1') && !inside('2001:db8::/33', '2001:db8:8000::1'));
});
