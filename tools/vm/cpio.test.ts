import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { test } from 'node:test';
import { DIRECTORY, EXECUTABLE, formatCpio, PLAIN_FILE } from './cpio.ts';

const MEMBERS = [
  { path: 'bin', mode: DIRECTORY },
  { path: 'bin/five', mode: EXECUTABLE, data: Buffer.from('12345') },
  { path: 'empty', mode: PLAIN_FILE },
];

test('a member is a header, a name and data, each padded to four bytes', () => {
  const archive = Buffer.from(formatCpio([{ path: 'five', mode: PLAIN_FILE, data: Buffer.from('12345') }]));
  const trailer = archive.indexOf('070701', 6);
  assert.equal(
    archive.subarray(0, 110).toString(),
    `070701${'00000001'}${'000081a4'}${'00000000'.repeat(2)}${'00000001'}${'00000000'}${'00000005'}${'00000000'.repeat(4)}${'00000005'}${'00000000'}`,
  );
  assert.equal(archive.subarray(110, trailer).toString(), 'five\0\0' + '12345\0\0\0');
  assert.equal(archive.length % 4, 0);
  assert.match(archive.subarray(trailer).toString(), /TRAILER!!!\0+$/);
});

test('cpio lists what was written', (t) => {
  const listed = spawnSync('busybox', ['cpio', '-tv'], { input: formatCpio(MEMBERS), encoding: 'utf8' });
  if (listed.error) {
    t.skip('needs busybox (busybox-static)');
    return;
  }
  const members = listed.stdout
    .trim()
    .split('\n')
    .map((line) => line.split(/\s+/));
  assert.deepEqual(
    members.map((words) => [words[0], words[2], words.at(-1)]),
    [
      ['drwxr-xr-x', '0', 'bin'],
      ['-rwxr-xr-x', '5', 'bin/five'],
      ['-rw-r--r--', '0', 'empty'],
    ],
  );
});
