import assert from 'node:assert/strict';
import { test } from 'node:test';
import { parseUser, type ResolvedUser, resolveUser, type UserDatabase } from './user.ts';

const PASSWD = `root:x:0:0:root:/root:/bin/bash
web:x:33:34:Web:/var/www:/usr/sbin/nologin
twin:x:33:99::/twin:/bin/sh
web:x:0:0:again:/root:/bin/bash
far:x:70000:5::/:/bin/sh
fargroup:x:40:70000::/:/bin/sh
nohome:x:50:50:::
relative:x:51:51::var/x:bin/sh
broken:x::0::/:/bin/sh
`;
const GROUP = `root:x:0:
adm:x:4:root,web
web:x:34:
audio:x:29:web,twin
again:x:4:web
far:x:70001:nohome
`;

const GUEST: UserDatabase = {
  passwd: new TextEncoder().encode(PASSWD),
  group: new TextEncoder().encode(GROUP),
};
const EMPTY: UserDatabase = { passwd: undefined, group: undefined };

function resolve(text: string, database: UserDatabase = GUEST): ResolvedUser {
  return resolveUser(parseUser(text), database, 65_536);
}

test('forms that have exactly one meaning', () => {
  const plain = { home: '/', shell: undefined };
  const web = { uid: 33, home: '/var/www', shell: '/usr/sbin/nologin' };
  const cases: readonly (readonly [string, UserDatabase, ResolvedUser])[] = [
    ['0', GUEST, { uid: 0, gid: 0, groups: [0, 4], home: '/root', shell: '/bin/bash' }],
    ['root', GUEST, { uid: 0, gid: 0, groups: [0, 4], home: '/root', shell: '/bin/bash' }],
    ['0', EMPTY, { uid: 0, gid: 0, groups: [0], ...plain }],
    ['1:2', GUEST, { uid: 1, gid: 2, groups: [2], ...plain }],
    ['0:5', GUEST, { uid: 0, gid: 5, groups: [5], home: '/root', shell: '/bin/bash' }],
    ['web', GUEST, { ...web, gid: 34, groups: [4, 29, 34] }],
    ['33', GUEST, { ...web, gid: 34, groups: [4, 29, 34] }],
    ['web:adm', GUEST, { ...web, gid: 4, groups: [4] }],
    ['web:7', GUEST, { ...web, gid: 7, groups: [7] }],
    ['1000', GUEST, { uid: 1000, gid: 1000, groups: [1000], ...plain }],
    ['1000', EMPTY, { uid: 1000, gid: 1000, groups: [1000], ...plain }],
    ['65535', EMPTY, { uid: 65535, gid: 65535, groups: [65535], ...plain }],
    ['nohome:9', GUEST, { uid: 50, gid: 9, groups: [9], ...plain }],
    ['relative', GUEST, { uid: 51, gid: 51, groups: [51], ...plain }],
  ];
  for (const [text, database, expected] of cases) assert.deepEqual(resolve(text, database), expected, text);
});

test('forms that have none', () => {
  const malformed = [
    ...[
      '',
      ':',
      ':5',
      '1:',
      'web:',
      ':adm',
      '1:2:3',
      '+5',
      '-1',
      '1:-1',
      '1:+2',
      ' 1',
      '1 ',
      '1 :2',
      '1: 2',
      'web ',
    ],
    ...[
      '4294967295',
      '4294967296',
      '18446744073709551616',
      '1:4294967296',
      '0x0',
      '00',
      '01',
      '1e3',
      '1.0',
      '1,2',
    ],
    ...['٣', '０', '1:２', 'ｒｏｏｔ', 'wéb', 'web\n', 'web\0', '/etc', '-u', '$', '..'],
  ];
  for (const text of malformed) {
    assert.throws(() => parseUser(text), { code: 'invalid-user' }, JSON.stringify(text));
  }
});

test('what the guest does not have is an error, never root', () => {
  const cases: readonly (readonly [string, UserDatabase, string])[] = [
    ['nobody', GUEST, 'user-not-found'],
    ['root', EMPTY, 'user-not-found'],
    ['broken', GUEST, 'user-not-found'],
    ['web:nogroup', GUEST, 'user-not-found'],
    ['1:adm', EMPTY, 'user-not-found'],
    ['2147483648', GUEST, 'invalid-user'],
    ['4294967294', GUEST, 'invalid-user'],
    ['65536', GUEST, 'invalid-user'],
    ['1:65536', GUEST, 'invalid-user'],
    ['far', GUEST, 'invalid-user'],
    ['fargroup', GUEST, 'invalid-user'],
    ['nohome', GUEST, 'invalid-user'],
  ];
  for (const [text, database, code] of cases) assert.throws(() => resolve(text, database), { code }, text);
});

test('messages', () => {
  assert.throws(() => resolve('nobody'), {
    message:
      'cannot find user "nobody": found no such line in the guest\'s /etc/passwd; need a name it has, or a number',
  });
  assert.throws(() => resolve('65536'), {
    message: "cannot use uid 65536: found it outside the guest's range; need 0 to 65535",
  });
  assert.throws(() => resolve(':5'), {
    message: 'cannot use ":5" as a user: found no user; need USER or USER:GROUP, each a name or a number',
  });
});

test('the last context has one id less', () => {
  assert.throws(() => resolveUser(parseUser('65535'), EMPTY, 65_535), { code: 'invalid-user' });
});
