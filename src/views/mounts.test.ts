import assert from 'node:assert/strict';
import { test } from 'node:test';
import { formatMounts } from './mounts.ts';

const REST = [
  'none /proc proc rw,nosuid,nodev,noexec,relatime 0 0',
  'dev /dev tmpfs rw,nosuid,size=65536k,nr_inodes=16384,uid=65536,gid=65536,inode64 0 0',
  '',
].join('\n');

test('the root is shown as what quota tools look for, and all else as it is', () => {
  const root =
    'overlay / overlay ro,nosuid,relatime,lowerdir=/proc/self/fd/1,upperdir=/a,workdir=/b,index=on 0 0\n';
  assert.equal(
    formatMounts(`${root}${REST}`, '/dev/x', ['usrquota', 'grpquota']),
    `/dev/x / ext4 ro,nosuid,relatime,usrquota,grpquota 0 0\n${REST}`,
  );
});

test('a table without a root stays as it is', () => {
  assert.equal(formatMounts(REST, '/dev/x', ['usrquota']), REST);
});
