import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type DebianSource, debianSources } from './debian-archive.ts';

const SOURCE: DebianSource = {
  suite: 'bookworm',
  mirror: undefined,
  variant: 'minbase',
  include: [],
  components: ['main', 'contrib'],
  keyring: '/k.gpg',
};

test('the archive is the one of the host, with updates, unless one is named', () => {
  const host = `# deb http://old.example/debian bookworm main
Types: deb
URIs: http://ftp.example.org/debian/
Suites: bookworm
deb [arch=amd64] https://sec.example.org/debian-security bookworm-security main
`;
  assert.deepEqual(debianSources(SOURCE, host), [
    'deb [signed-by=/k.gpg] http://ftp.example.org/debian/ bookworm main contrib',
    'deb [signed-by=/k.gpg] http://ftp.example.org/debian/ bookworm-updates main contrib',
    'deb [signed-by=/k.gpg] https://sec.example.org/debian-security bookworm-security main contrib',
  ]);
  assert.match(
    debianSources(SOURCE, '').join(' '),
    /http:\/\/deb\.debian\.org\/debian bookworm .*deb\.debian\.org\/debian-security/,
  );
  assert.deepEqual(debianSources({ ...SOURCE, mirror: 'http://m/d' }, host), [
    'deb [signed-by=/k.gpg] http://m/d bookworm main contrib',
  ]);
  assert.deepEqual(debianSources({ ...SOURCE, suite: 'sid' }, host), [
    'deb [signed-by=/k.gpg] http://ftp.example.org/debian/ sid main contrib',
  ]);
});
