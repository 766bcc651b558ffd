import assert from 'node:assert/strict';
import { test } from 'node:test';
import { excluder, packageFilesOf } from './exclusions.ts';

test('takes the first pattern that matches a path or a directory above it', () => {
  const isExcluded = excluder(['+/etc/termcap', '/etc/*', '~/root/.ssh/id*', '/home', '/*/ls-R'], new Set());
  for (const [path, expected] of [
    ['/etc/termcap', false],
    ['/etc/passwd', true],
    ['/etc/ssl/certs/a.pem', true],
    ['/home/a/b', true],
    ['/homes', false],
    ['/root/.ssh/id_rsa', true],
    ['/usr/share/ls-R', true],
    ['/usr/bin/ls', false],
  ] as const)
    assert.equal(isExcluded(path), expected, path);
});

test('knows the configuration files of packages', () => {
  const status = [
    'Package: a',
    'Conffiles:',
    ' /etc/a.conf 0123456789abcdef0123456789abcdef',
    ' /opt/with space 0123456789abcdef0123456789abcdef obsolete',
    'Description: x',
    ' /no 0123456789abcdef0123456789abcdef',
    '',
  ].join('\n');
  const files = packageFilesOf(status);
  assert.deepEqual([...files], ['/etc/a.conf', '/opt/with space']);
  assert.equal(excluder(['conffiles'], files)('/etc/a.conf'), true);
  assert.equal(excluder([], files)('/etc/a.conf'), false);
});
