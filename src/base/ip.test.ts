import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { UserError } from './errors.ts';
import { formatIpAddress, formatIpPrefix, isUnicast, overlaps, parseIpAddress, parseIpPrefix } from './ip.ts';

test('addresses are read in every form and written in one', () => {
  for (const [text, canonical] of [
    ['10.0.0.5/24', '10.0.0.5/24'],
    ['10.0.0.5', '10.0.0.5/32'],
    ['0.0.0.0/0', '0.0.0.0/0'],
    ['2001:DB8:0:0:0:0:0:5/64', '2001:db8::5/64'],
    ['2001:db8::1:0:0:5', '2001:db8::1:0:0:5/128'],
    ['1:0:0:2:0:0:0:3', '1:0:0:2::3/128'],
    ['1:2:3:4:5:6:7:0', '1:2:3:4:5:6:7:0/128'],
    ['::', '::/128'],
    ['::1', '::1/128'],
    ['fe80::', 'fe80::/128'],
    ['::ffff:10.0.0.5', '::ffff:a00:5/128'],
  ] as const) {
    assert.equal(formatIpPrefix(parseIpPrefix(text)), canonical);
  }
});

test('anything else is refused', () => {
  for (const text of [
    ...[
      '',
      '10',
      '10.0.0',
      '10.0.0.256',
      '10.0.0.05',
      '10.0.0.1.2',
      '10.0.0.5/33',
      '10.0.0.5/',
      '10.0.0.5/-1',
    ],
    ...[
      ' 10.0.0.5',
      '10.0.0.5/2x',
      ':',
      ':::',
      '1::2::3',
      '1:2:3:4:5:6:7',
      '1:2:3:4:5:6:7:8:9',
      '12345::',
      'g::',
    ],
    ...['::1/129', '1:2:3:4:5:6:7:8::', '::10.0.0.1:1', 'fe80::1%eth0', '0x7f000001'],
  ]) {
    assert.throws(() => parseIpPrefix(text), UserError, text);
  }
});

test('any bytes are read back', () => {
  for (const length of [4, 16]) {
    fc.assert(
      fc.property(fc.uint8Array({ minLength: length, maxLength: length }), (bytes) => {
        assert.deepEqual(parseIpAddress(formatIpAddress(bytes)), bytes);
      }),
    );
  }
});

test('what only the kernel may use is no address of a host', () => {
  const is = (text: string): boolean => isUnicast(parseIpPrefix(text));
  for (const text of ['10.0.0.5', '223.255.255.1', '2001:db8::1', 'fe80::1', '::2', 'fd00::'])
    assert.equal(is(text), true, text);
  for (const text of [
    '0.0.0.0',
    '127.0.0.1',
    '127.9.9.9',
    '224.0.0.1',
    '255.255.255.255',
    '::',
    '::1',
    'ff02::1',
  ])
    assert.equal(is(text), false, text);
});

test('networks overlap if one is in the other', () => {
  const cases: readonly (readonly [string, string, boolean])[] = [
    ['10.0.0.0/8', '10.9.1.7', true],
    ['10.9.1.7', '10.0.0.0/8', true],
    ['10.9.1.7', '10.9.1.7', true],
    ['10.9.1.6/31', '10.9.1.8/31', false],
    ['2001:db8::/33', '2001:db8:8000::/33', false],
    ['2001:db8::/32', '2001:db8:8000::1', true],
    ['32.1.13.184', '2001:db8::/32', false],
  ];
  for (const [one, other, expected] of cases)
    assert.equal(overlaps(parseIpPrefix(one), parseIpPrefix(other)), expected, `${one} ${other}`);
});
