import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, test } from 'node:test';
import { findPipe } from './log-pipes.ts';

describe('findPipe', () => {
  let proc: string;
  beforeEach(() => {
    proc = mkdtempSync(join(tmpdir(), 'vserver-proc-'));
  });
  afterEach(() => {
    rmSync(proc, { recursive: true });
  });
  const process = (pid: number, links: Readonly<Record<number, string>>): void => {
    mkdirSync(join(proc, String(pid), 'fd'), { recursive: true });
    for (const [fd, link] of Object.entries(links)) symlinkSync(link, join(proc, String(pid), 'fd', fd));
  };
  const find = (pids: readonly number[], inode: number): readonly string[] =>
    [...findPipe(pids, inode, proc)].map((path) => path.slice(proc.length));

  test('looks at standard output and error of all first', () => {
    process(5, { 0: '/dev/null', 1: 'pipe:[70]', 7: 'pipe:[71]' });
    process(6, { 2: 'pipe:[71]' });
    assert.deepEqual(find([5, 6], 71), ['/6/fd/2', '/5/fd/7']);
  });

  test('takes nothing that is only alike', () => {
    process(5, { 1: '/pipe:[7]', 2: 'pipe:[77]', 3: 'socket:[7]', 4: '/tmp/pipe:[7]' });
    assert.deepEqual(find([5], 7), []);
  });

  test('finds nothing in a process that has ended', () => {
    assert.deepEqual(find([5], 7), []);
  });

  test('ends, however many descriptors there are', () => {
    process(5, Object.fromEntries(Array.from({ length: 4200 }, (_, i) => [i + 3, '/dev/null'])));
    process(6, { 3: 'pipe:[7]' });
    assert.deepEqual(find([5, 6], 7), []);
    process(7, Object.fromEntries(Array.from({ length: 10 }, (_, i) => [i + 3, 'pipe:[7]'])));
    assert.equal(find([7], 7).length, 4);
  });
});
