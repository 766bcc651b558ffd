import assert from 'node:assert/strict';
import { test } from 'node:test';
import { formatDeb822, parseDeb822, parseOneLine, sourcesOfRelease } from './apt-sources.ts';

const DEB822 = `Types: deb deb-src
# a mirror of the house
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .

Enabled: no
Types: deb
URIs: http://off.example/debian
Suites: bookworm
Components: main

Types: deb
URIs: https://deb.example/node_20.x
Suites: nodistro
Components: main
`;

const ONE_LINE = `# deb http://off.example/debian bookworm main
deb-src http://mirror.example/debian bookworm main
deb [arch=amd64 signed-by=/k.gpg] http://mirror.example/debian-security bookworm-security main non-free # a remark
deb http://apt.example/pub/repos/apt bookworm-pgdg main
`;

test('a deb822 file gives its enabled binary sources, an embedded key with its lines', () => {
  assert.deepEqual(parseDeb822(DEB822), [
    {
      uris: ['http://mirror.example/debian'],
      suites: ['bookworm', 'bookworm-updates'],
      components: ['main', 'contrib'],
      signedBy: '\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .',
    },
    {
      uris: ['https://deb.example/node_20.x'],
      suites: ['nodistro'],
      components: ['main'],
      signedBy: undefined,
    },
  ]);
});

test('a one-line file gives its binary sources', () => {
  assert.deepEqual(parseOneLine(ONE_LINE), [
    {
      uris: ['http://mirror.example/debian-security'],
      suites: ['bookworm-security'],
      components: ['main', 'non-free'],
      signedBy: '/k.gpg',
    },
    {
      uris: ['http://apt.example/pub/repos/apt'],
      suites: ['bookworm-pgdg'],
      components: ['main'],
      signedBy: undefined,
    },
  ]);
});

test('another release is asked of the same Debian mirrors and of no one else', () => {
  const sources = [...parseDeb822(DEB822), ...parseOneLine(ONE_LINE)];
  assert.deepEqual(
    sourcesOfRelease(sources, 'bookworm', 'trixie').map(({ uris, suites }) => [uris, suites]),
    [
      [['http://mirror.example/debian'], ['trixie']],
      [['http://mirror.example/debian-security'], ['trixie-security']],
    ],
  );
});

test('what is formatted parses back', () => {
  const sources = parseDeb822(DEB822);
  assert.deepEqual(parseDeb822(formatDeb822(sources)), sources);
});
