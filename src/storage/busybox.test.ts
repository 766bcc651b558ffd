import assert from 'node:assert/strict';
import { test } from 'node:test';
import { StateError, UserError } from '../base/errors.ts';
import { findBusybox, parseApplets } from './busybox.ts';

test('applets outside the usual directories, and busybox itself, are left out', () => {
  const text = 'bin/busybox\nbin/sh\nusr/bin/[\nsbin/init\nlinuxrc\n../etc/x\nusr/bin/a/b\n/bin/ls\nbin/sh\n';
  assert.deepEqual(parseApplets(text), ['bin/sh', 'usr/bin/[', 'sbin/init']);
});

test('a busybox without a shell is refused', () => {
  assert.throws(
    () => parseApplets('bin/ls\n'),
    (error) => error instanceof StateError && error.code === 'busybox-broken',
  );
});

test('a missing or dynamic busybox names the package', () => {
  assert.throws(
    () => findBusybox(['/nonexistent/busybox', import.meta.filename]),
    (error) =>
      error instanceof UserError &&
      error.message ===
        'cannot prepare template "busybox": found no static busybox; need: apt-get install busybox-static',
  );
});
