import assert from 'node:assert/strict';
import { test } from 'node:test';
import { parseMountInfo, visibleMounts } from './mountinfo.ts';

test('parses every field, with and without propagation', () => {
  const text =
    '36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 shared:7 - ext3 /dev/root rw,errors=continue\n' +
    '22 27 0:21 / /proc rw,relatime - proc proc rw\n';
  assert.deepEqual(parseMountInfo(text), [
    {
      id: 36,
      parentId: 35,
      major: 98,
      minor: 0,
      root: '/mnt1',
      mountPoint: '/mnt2',
      options: ['rw', 'noatime'],
      propagation: ['master:1', 'shared:7'],
      fsType: 'ext3',
      source: '/dev/root',
      superOptions: ['rw', 'errors=continue'],
    },
    {
      id: 22,
      parentId: 27,
      major: 0,
      minor: 21,
      root: '/',
      mountPoint: '/proc',
      options: ['rw', 'relatime'],
      propagation: [],
      fsType: 'proc',
      source: 'proc',
      superOptions: ['rw'],
    },
  ]);
});

test('decodes octal escapes, and a backslash only once', () => {
  const [mount] = parseMountInfo('1 0 0:1 /a\\040b /c\\134040d\\011e rw - tmpfs \\043x rw\n');
  assert.equal(mount?.root, '/a b');
  assert.equal(mount?.mountPoint, '/c\\040d\te');
  assert.equal(mount?.source, '#x');
});

test('keeps a mount point named "-"', () => {
  const [mount] = parseMountInfo('1 0 0:1 - - rw - tmpfs - rw\n');
  assert.deepEqual([mount?.mountPoint, mount?.source], ['-', '-']);
});

test('takes an empty source as an empty word', () => {
  const [mount] = parseMountInfo('1 0 0:1 / /m rw - tmpfs  rw,size=4k\n');
  assert.deepEqual([mount?.source, mount?.superOptions], ['', ['rw', 'size=4k']]);
});

test('refuses a line that is not mountinfo', () => {
  for (const line of ['x', '1 0 0:1 / /m rw', 'a b c / /m rw - tmpfs x rw', '1 0 0:1 / /m rw - tmpfs']) {
    assert.throws(() => parseMountInfo(line), { code: 'malformed-kernel-text' }, line);
  }
});

test('leaves out mounts covered at their point or above it', () => {
  const mounts = parseMountInfo(
    [
      '1 0 8:1 / / rw - ext4 root rw',
      '2 1 0:2 / /sys rw - sysfs s rw',
      '3 2 0:3 / /sys/fs/cgroup rw - tmpfs t rw',
      '4 3 0:4 / /sys/fs/cgroup/memory rw - cgroup c rw,memory',
      '5 3 0:5 / /sys/fs/cgroup rw - tmpfs cover rw',
      '6 5 0:6 / /sys/fs/cgroup/unified rw - cgroup2 c rw',
      '7 6 0:6 /a /sys/fs/cgroup/unified rw - cgroup2 c rw',
      '8 1 0:8 / /sysfoo rw - tmpfs t rw',
    ].join('\n'),
  );
  assert.deepEqual(
    visibleMounts(mounts).map(({ id }) => id),
    [1, 2, 5, 7, 8],
  );
});
