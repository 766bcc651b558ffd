import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { UserError } from '../base/errors.ts';
import { formatTemplateSpec, parseTemplateSpec, type TemplateSpec } from './template-spec.ts';

describe('parseTemplateSpec', () => {
  const good: readonly (readonly [string, TemplateSpec])[] = [
    ['host', { kind: 'host' }],
    ['busybox', { kind: 'busybox' }],
    [
      'tarball-0123456789abcdef0123456789abcdef',
      { kind: 'prepared', key: 'tarball-0123456789abcdef0123456789abcdef' },
    ],
    ['directory:/srv/root', { kind: 'directory', path: '/srv/root' }],
    ['directory:/srv/odd.tar', { kind: 'directory', path: '/srv/odd.tar' }],
    ['tarball:/srv/a.tar', { kind: 'tarball', path: '/srv/a.tar' }],
    ['tarball:/srv/a.tar.zst', { kind: 'tarball', path: '/srv/a.tar.zst' }],
    ['/srv/debian.tar.xz', { kind: 'tarball', path: '/srv/debian.tar.xz' }],
    ['/srv/debian.tgz', { kind: 'tarball', path: '/srv/debian.tgz' }],
    ['/srv/root/', { kind: 'directory', path: '/srv/root' }],
    ['/srv/x/../root', { kind: 'directory', path: '/srv/root' }],
    ['/', { kind: 'directory', path: '/' }],
    ['/srv/with space:colon', { kind: 'directory', path: '/srv/with space:colon' }],
  ];
  for (const [text, spec] of good) {
    test(`reads ${text}`, () => {
      assert.deepEqual(parseTemplateSpec(text), spec);
      assert.deepEqual(parseTemplateSpec(formatTemplateSpec(spec)), spec);
    });
  }

  const bad = [
    '',
    'Host',
    'host ',
    'debian',
    'tarball-0123',
    'tarball-0123456789abcdef0123456789abcdeg',
    'directory:',
    'directory:srv',
    './root',
    '../a.tar',
    'tarball:/a',
    'tarball:/a.zip',
    'oci:/a.tar',
    '/a\0b',
    'tarball:a.tar',
    'http://x/a.tar',
  ];
  for (const text of bad) {
    test(`refuses ${JSON.stringify(text)}`, () => {
      assert.throws(
        () => parseTemplateSpec(text),
        (error) =>
          error instanceof UserError && error.code === 'invalid-template' && error.message.includes('need'),
      );
    });
  }
});
