import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
import { test } from 'node:test';
import {
  ALL_CAPABILITIES,
  applyCapabilityFlags,
  DEFAULT_CAPABILITIES,
  formatCapabilities,
  OWN_INIT_CAPABILITIES,
  parseCapability,
  parseCapabilityExpression,
} from './capabilities.ts';

const HEADER = '/usr/include/linux/capability.h';

function names(set: bigint): string {
  return formatCapabilities(set).join(' ');
}

test('the table is the kernel header', { skip: existsSync(HEADER) ? false : `no ${HEADER}` }, () => {
  const text = readFileSync(HEADER, 'utf8');
  const defined = [...text.matchAll(/^#define (CAP_\w+)\s+(\d+)$/gm)];
  assert.ok(defined.length >= 41);
  for (const [, name, number] of defined.slice(0, 41)) {
    assert.equal(parseCapability(name!), 1n << BigInt(number!), name);
  }
});

test('the default is the secure set of the original', () => {
  assert.equal(
    names(DEFAULT_CAPABILITIES),
    'AUDIT_WRITE CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL LEASE NET_BIND_SERVICE SETFCAP SETGID SETUID ' +
      'SYS_BOOT SYS_CHROOT SYS_PTRACE SYS_TTY_CONFIG',
  );
  assert.equal(DEFAULT_CAPABILITIES, 0xb44c04ffn);
  assert.equal(ALL_CAPABILITIES, 0x1ffffffffffn);
});

test('an init of its own may take capabilities from its services', () => {
  assert.deepEqual(names(OWN_INIT_CAPABILITIES & ~DEFAULT_CAPABILITIES), names(1n << 8n));
  assert.equal(parseCapabilityExpression('-CHOWN', OWN_INIT_CAPABILITIES), OWN_INIT_CAPABILITIES & ~1n);
  assert.equal(parseCapabilityExpression('CHOWN', OWN_INIT_CAPABILITIES), 1n);
});

test('expressions', () => {
  const sets: readonly (readonly [string, bigint])[] = [
    ['', DEFAULT_CAPABILITIES],
    [' \n', DEFAULT_CAPABILITIES],
    ['CHOWN', 1n],
    ['cap_chown, Cap_Kill\nBPF', 1n | (1n << 5n) | (1n << 39n)],
    ['ALL', ALL_CAPABILITIES],
    ['none', 0n],
    ['+NET_ADMIN', DEFAULT_CAPABILITIES | (1n << 12n)],
    ['-CHOWN', DEFAULT_CAPABILITIES & ~1n],
    ['~cap_chown', DEFAULT_CAPABILITIES & ~1n],
    ['+CHOWN -CHOWN', DEFAULT_CAPABILITIES & ~1n],
    ['-CHOWN +CHOWN', DEFAULT_CAPABILITIES],
    ['-ALL +KILL', 1n << 5n],
    ['~all', 0n],
    ['+ALL', ALL_CAPABILITIES],
    ['-NONE', DEFAULT_CAPABILITIES],
    ['ALL -SYS_ADMIN', ALL_CAPABILITIES & ~(1n << 21n)],
    ['NONE +KILL', 1n << 5n],
  ];
  for (const [text, set] of sets) assert.equal(parseCapabilityExpression(text), set, JSON.stringify(text));
});

test('bad expressions', () => {
  for (const text of [
    'CHOWN +KILL',
    '+KILL CHOWN',
    'ALL CHOWN',
    'CHOWN ALL',
    '+',
    '-',
    '++KILL',
    'CAP_CAP_KILL',
  ]) {
    assert.throws(() => parseCapabilityExpression(text), { code: 'invalid-capability' }, text);
  }
  for (const text of ['CAP_', '', '0', 'CONTEXT', 'ſETUID', 'SYS ADMIN', '__proto__']) {
    assert.throws(() => parseCapability(text), { code: 'invalid-capability' }, text);
  }
  assert.throws(() => parseCapabilityExpression('+CAP_NET_ADIMN'), {
    message: 'cannot use "CAP_NET_ADIMN" as a capability; need a name such as "NET_ADMIN"',
    hint: 'did you mean "NET_ADMIN"?',
  });
});

test("Docker's flags", () => {
  const base = parseCapabilityExpression('CHOWN KILL');
  const cases: readonly (readonly [readonly string[], readonly string[], string])[] = [
    [[], [], 'CHOWN KILL'],
    [['SETUID'], [], 'CHOWN KILL SETUID'],
    [[], ['CAP_KILL'], 'CHOWN'],
    [['KILL'], ['KILL'], 'CHOWN KILL'],
    [['setuid'], ['all'], 'SETUID'],
    [[], ['CAP_ALL'], ''],
    [['ALL'], ['SYS_ADMIN'], names(ALL_CAPABILITIES & ~(1n << 21n))],
  ];
  for (const [add, drop, expected] of cases) {
    assert.equal(names(applyCapabilityFlags(base, add, drop)), expected, `+${add.join()} -${drop.join()}`);
  }
  assert.throws(() => applyCapabilityFlags(base, ['ALL', 'X'], []), { code: 'invalid-capability' });
  assert.throws(() => applyCapabilityFlags(base, [], ['ALL', 'X']), { code: 'invalid-capability' });
});

test('formatting leaves unknown bits out', () => {
  assert.deepEqual(formatCapabilities(1n << 60n), []);
});
