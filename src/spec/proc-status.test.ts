import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { parseCmdline, parseProcStat, parseProcStatus } from './proc-status.ts';

const STATUS = `Name:\tsh\nUmask:\t0022\nState:\tS (sleeping)\nTgid:\t5255\nPid:\t5255\nPPid:\t12
Uid:\t65536000\t65536033\t65536000\t65536000\nGid:\t0\t0\t0\t0\nNSpid:\t5255\t7\t1\nVmRSS:\t     636 kB\nThreads:\t3\n`;

test('status', () => {
  assert.deepEqual(parseProcStatus(STATUS), {
    name: 'sh',
    state: 'S',
    ppid: 12,
    uid: 65_536_033,
    nsPids: [5255, 7, 1],
    threads: 3,
    residentBytes: 651_264,
  });
  assert.equal(parseProcStatus(STATUS.replace(/VmRSS.*\n/, '')).residentBytes, undefined);
});

test('a name cannot pass for another field', () => {
  // The kernel writes a line feed in a name as "\n" and a backslash as "\\".
  const status = parseProcStatus(STATUS.replace('Name:\tsh', 'Name:\tx\\nUid:\t0\t0\t0'));
  assert.equal(status.uid, 65_536_033);
  assert.equal(status.name, 'x\\nUid:\t0\t0\t0');
});

test('status without its fields is refused', () => {
  for (const field of ['State', 'PPid', 'Uid', 'NSpid', 'Threads']) {
    const text = STATUS.replace(new RegExp(`^${field}:.*\n`, 'm'), '');
    assert.throws(() => parseProcStatus(text), { code: 'malformed-kernel-text' }, field);
  }
});

test('stat, with any name', () => {
  const rest = Array.from({ length: 50 }, (_, index) => String(index + 3)).join(' ');
  fc.assert(
    fc.property(fc.string({ maxLength: 15 }), (name) => {
      const times = parseProcStat(`42 (${name}) ${rest}\n`);
      assert.deepEqual(times, { userTicks: 14, systemTicks: 15, startTicks: 22 });
    }),
  );
  assert.throws(() => parseProcStat('42 (x) S 1'), { code: 'malformed-kernel-text' });
});

test('arguments', () => {
  assert.deepEqual(parseCmdline('sh\0-c\0a b\0'), ['sh', '-c', 'a b']);
  assert.deepEqual(parseCmdline('a\0\0b\0'), ['a', '', 'b']);
  assert.deepEqual(parseCmdline(''), []);
  assert.deepEqual(parseCmdline('nginx: worker process   \0\0'), ['nginx: worker process']);
  assert.deepEqual(parseCmdline('sh\0long', true), ['sh', 'long…']);
});
