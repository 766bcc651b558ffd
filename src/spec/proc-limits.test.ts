import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { parseProcLimits } from './proc-limits.ts';

test('limits of a process', () => {
  const text = `Limit                     Soft Limit           Hard Limit           Units     
Max cpu time              unlimited            unlimited            seconds   
Max open files            1024                 524288               files     
`;
  assert.deepEqual(
    [...parseProcLimits(text)],
    [
      ['cpu', { soft: 'unlimited', hard: 'unlimited' }],
      ['nofile', { soft: 1024, hard: 524_288 }],
    ],
  );
  assert.equal(parseProcLimits(readFileSync('/proc/self/limits', 'utf8')).size, 16);
  assert.throws(() => parseProcLimits('Limit\nMax wishes  1  2  wishes\n'), {
    code: 'malformed-kernel-text',
  });
  assert.throws(() => parseProcLimits('Limit\nMax open files  few  2\n'), { code: 'malformed-kernel-text' });
});
