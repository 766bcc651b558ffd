import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
import { test } from 'node:test';
import { parseRlimits, parseUlimit, RLIMITS, rlimitNumber } from './rlimits.ts';

const HEADER = '/usr/include/asm-generic/resource.h';

test('the table is the kernel header', { skip: existsSync(HEADER) ? false : `no ${HEADER}` }, () => {
  const defined = [...readFileSync(HEADER, 'utf8').matchAll(/define RLIMIT_(\w+)\s+(\d+)/g)];
  assert.deepEqual(
    Object.fromEntries(defined.map(([, name, number]) => [name!.toLowerCase(), Number(number)])),
    Object.fromEntries(Object.entries(RLIMITS).map(([name, info]) => [name, info.number])),
  );
});

test('--ulimit', () => {
  const cases: readonly (readonly [string, string, bigint | 'unlimited', bigint | 'unlimited'])[] = [
    ['nofile=1024', 'nofile', 1024n, 1024n],
    ['nofile=1024:2048', 'nofile', 1024n, 2048n],
    ['core=0', 'core', 0n, 0n],
    ['core=-1', 'core', 'unlimited', 'unlimited'],
    ['memlock=65536:unlimited', 'memlock', 65536n, 'unlimited'],
    ['RLIMIT_NPROC=7:7', 'nproc', 7n, 7n],
    ['as=18446744073709551614', 'as', 18446744073709551614n, 18446744073709551614n],
  ];
  for (const [text, name, soft, hard] of cases)
    assert.deepEqual(parseUlimit(text), { name, soft, hard }, text);
});

test('bad limits', () => {
  const cases: readonly (readonly [string, RegExp])[] = [
    ['nofile', /found no "="/],
    ['', /found no "="/],
    ['nofiles=1', /found unknown limit "nofiles"/],
    ['=1', /found unknown limit ""/],
    ['__proto__=1', /found unknown limit/],
    ['nofile=', /found ""/],
    ['nofile=1:', /found ""/],
    ['nofile=:1', /found ""/],
    ['nofile=1:2:3', /found more than one ":"/],
    ['nofile=2:1', /found soft limit 2 above hard limit 1; need soft at most hard/],
    ['nofile=unlimited:1', /found soft limit unlimited above hard limit 1/],
    ['nofile=-2', /found "-2"/],
    ['nofile=1k', /found "1k"/],
    ['nofile=1.5', /found "1.5"/],
    ['nofile= 1', /found " 1"/],
    ['nofile=１', /found "１"/],
    ['nofile=18446744073709551615', /need a number from 0 to 2\^64 - 2/],
  ];
  for (const [text, message] of cases) {
    assert.throws(() => parseUlimit(text), { code: 'invalid-rlimit', message }, text);
  }
  assert.throws(() => parseUlimit('nofiles=1'), { hint: 'did you mean "nofile"?' });
});

test('a map of limits', () => {
  assert.deepEqual(parseRlimits({ nproc: 5, core: 'unlimited', nofile: '1:2' }), [
    { name: 'core', soft: 'unlimited', hard: 'unlimited' },
    { name: 'nofile', soft: 1n, hard: 2n },
    { name: 'nproc', soft: 5n, hard: 5n },
  ]);
  assert.throws(() => parseRlimits({ nproc: 5, NPROC: 6 }), {
    code: 'invalid-rlimit',
    message: /"nproc" twice/,
  });
  assert.throws(() => parseRlimits({ nproc: 1e21 }), { code: 'invalid-rlimit' });
});

test('what the kernel takes', () => {
  assert.equal(rlimitNumber('unlimited'), 0xffff_ffff_ffff_ffffn);
  assert.equal(rlimitNumber(3n), 3n);
});
