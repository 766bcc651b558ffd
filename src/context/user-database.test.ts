import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { isUserName, parseGroup, parseId, parsePasswd } from './user-database.ts';

function bytes(text: string): Uint8Array {
  return new TextEncoder().encode(text);
}

test('lines that count and lines that do not', () => {
  const good = { name: 'web', uid: 33, gid: 44, home: '/var/www', shell: '/bin/sh' };
  const cases: readonly (readonly [string, readonly object[]])[] = [
    ['web:x:33:44:Web,,,:/var/www:/bin/sh\n', [good]],
    ['web:x:33:44::/var/www:/bin/sh', [good]],
    ['web::33:44::/var/www:', [{ ...good, shell: '' }]],
    ['\n\n#web:x:1:1::/:\nweb:x:33:44::/var/www:/bin/sh\n', [good]],
    ['web:x:33:44::/var/www', []],
    ['web:x:33:44::/var/www:/bin/sh:', []],
    ['web:x::44::/:', []],
    ['web:x:33:::/:', []],
    ['web:x:-1:44::/:', []],
    ['web:x:+1:44::/:', []],
    ['web:x: 1:44::/:', []],
    ['web:x:033:44::/:', []],
    ['web:x:0x0:44::/:', []],
    ['web:x:٣:44::/:', []],
    ['web:x:4294967295:44::/:', []],
    ['web:x:4294967296:44::/:', []],
    ['web:x:33:44::/\0:', []],
    [':x:0:0::/:', []],
    ['0:x:0:0::/:', []],
    ['+::::::', []],
    ['+web:x:0:0::/:', []],
    ['\uFEFFweb:x:0:0::/:', []],
    ['web:x:33:44::/var/www:/bin/sh\r\n', [{ ...good, shell: '/bin/sh\r' }]],
  ];
  for (const [text, entries] of cases)
    assert.deepEqual(parsePasswd(bytes(text)), entries, JSON.stringify(text));
});

test('a line that is not UTF-8 is absent, its neighbours are not', () => {
  const text = [...bytes('a:x:1:1::/'), 0xff, ...bytes(':\nb:x:2:2::/ü:\n')];
  assert.deepEqual(parsePasswd(new Uint8Array(text)), [{ name: 'b', uid: 2, gid: 2, home: '/ü', shell: '' }]);
});

test('groups', () => {
  const cases: readonly (readonly [string, readonly object[]])[] = [
    ['adm:x:4:a,b\n', [{ name: 'adm', gid: 4, members: ['a', 'b'] }]],
    ['adm:x:4:', [{ name: 'adm', gid: 4, members: [] }]],
    ['adm:x:4:a,,b ,0', [{ name: 'adm', gid: 4, members: ['a'] }]],
    ['adm:x:4', []],
    ['adm:x::a', []],
    ['adm:x:4:a:b', []],
  ];
  for (const [text, entries] of cases)
    assert.deepEqual(parseGroup(bytes(text)), entries, JSON.stringify(text));
});

test('limits', () => {
  const code = { code: 'invalid-user-database' };
  assert.throws(() => parsePasswd(new Uint8Array(1_048_577)), code);
  assert.throws(() => parsePasswd(bytes(`${'x'.repeat(4097)}\n`)), code);
  assert.throws(() => parseGroup(bytes(`a:x:1:\n${'x'.repeat(4097)}`)), code);
  assert.deepEqual(parsePasswd(new Uint8Array(1_048_576).fill(0x0a)), []);
  assert.deepEqual(parsePasswd(bytes(`${'x'.repeat(4096)}\n`)), []);
});

test('any bytes give entries or an error of ours', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 300 }), (input) => {
      for (const entry of parsePasswd(input)) assert.ok(isUserName(entry.name));
      for (const entry of parseGroup(input)) assert.ok(isUserName(entry.name));
    }),
  );
});

test('ids and names', () => {
  for (const text of [
    '',
    '-1',
    '+5',
    ' 5',
    '5 ',
    '05',
    '00',
    '1e3',
    '0x1',
    '1.0',
    '٥',
    '４',
    '4294967295',
    '99999999999',
  ]) {
    assert.equal(parseId(text), undefined, text);
  }
  assert.equal(parseId('0'), 0);
  assert.equal(parseId('4294967294'), 4294967294);
  for (const text of ['web', '_apt', 'a.b-c_d', 'host$', 'A']) assert.ok(isUserName(text), text);
  for (const text of [
    '',
    '1',
    '007',
    '-a',
    '.a',
    'a b',
    'a:b',
    'a/b',
    'a$b',
    '$',
    'ä',
    'a\n',
    'a'.repeat(257),
  ]) {
    assert.ok(!isUserName(text), JSON.stringify(text));
  }
});
