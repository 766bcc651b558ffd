import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { test } from 'node:test';
import { TAR_END, type TarMember, tarHeader, tarPadding } from './tar-writer.ts';

const PLAIN = { mode: 0o644, uid: 0, gid: 5, mtimeSeconds: 1, mtimeNanoseconds: 0, xattrs: [] } as const;

/** What GNU tar says of an archive, one member on a line. */
function listed(members: readonly (TarMember & { readonly content?: string })[]): readonly string[] {
  const parts = members.flatMap(({ content = '', ...member }) => [
    tarHeader(member),
    Buffer.from(content),
    tarPadding(content.length),
  ]);
  const { stdout, stderr } = spawnSync(
    'tar',
    ['-tvv', '-f', '-', '--numeric-owner', '--utc', '--full-time', '--quoting-style=escape'],
    { input: Buffer.concat([...parts, TAR_END]), env: { PATH: process.env['PATH'], LC_ALL: 'C' } },
  );
  assert.equal(stderr.toString(), '');
  return stdout
    .toString('latin1')
    .trimEnd()
    .split('\n')
    .map((line) => line.replace(/ +/g, ' '));
}

test('writes what does not fit into a header beside it', () => {
  const long = 'd/'.repeat(90);
  assert.deepEqual(
    listed([
      { ...PLAIN, path: `${long}f`, kind: 'file', size: 3, content: 'abc' },
      { ...PLAIN, path: 'l', kind: 'symlink', target: `${long}f`, mode: 0o777 },
      { ...PLAIN, path: '\xff\n', kind: 'fifo', mtimeSeconds: -2, mtimeNanoseconds: 250_000_000 },
      { ...PLAIN, path: 'dir', kind: 'directory', mode: 0o1777, uid: 65_535 },
      { ...PLAIN, path: 'node', kind: 'block', major: 259, minor: 70_000 },
      { ...PLAIN, path: 'again', kind: 'hardlink', target: 'node' },
    ]),
    [
      `-rw-r--r-- 0/5 3 1970-01-01 00:00:01 ${long}f`,
      `lrwxrwxrwx 0/5 0 1970-01-01 00:00:01 l -> ${long}f`,
      // It is -1.75 s, of which GNU tar shows the fraction as that of a positive time.
      'prw-r--r-- 0/5 0 1969-12-31 23:59:59.75 \\377\\n',
      'drwxrwxrwt 65535/5 0 1970-01-01 00:00:01 dir/',
      'brw-r--r-- 0/5 259,70000 1970-01-01 00:00:01 node',
      'hrw-r--r-- 0/5 0 1970-01-01 00:00:01 again link to node',
    ],
  );
});

test('writes holes as such', () => {
  const pieces = [
    { offset: 4096, length: 3 },
    { offset: 1_000_000, length: 0 },
  ];
  const file = { ...PLAIN, path: 'sparse', kind: 'file', size: 1_000_000, pieces, content: 'abc' } as const;
  assert.deepEqual(listed([file, { ...PLAIN, path: 'next', kind: 'fifo' }]), [
    '-rw-r--r-- 0/5 1000000 1970-01-01 00:00:01 sparse',
    'prw-r--r-- 0/5 0 1970-01-01 00:00:01 next',
  ]);
});
