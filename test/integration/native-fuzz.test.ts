/** The decoder of programs and the parsers of messages against the corpus, and against what libFuzzer makes of it. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { test } from 'node:test';
import { makeNative } from '../lib/native.ts';
import { requires } from '../lib/requires.ts';

const ROOT = resolve(import.meta.dirname, '../..');
const CORPUS = join(ROOT, 'test/fuzz/corpus');
const SECONDS = 10;

/** Runs a command; what it said is the message when it fails. */
function succeed(command: string, args: readonly string[]): string {
  const { status, signal, stdout, stderr } = spawnSync(command, args, { encoding: 'utf8', timeout: 120_000 });
  assert.equal(status ?? signal, 0, `${command}: ${stdout}${stderr}`);
  return stderr;
}

test('the corpus passes the sanitizers', (t) => {
  if (!requires(t, 'sanitizer')) return;
  makeNative('replay');
  const files = readdirSync(CORPUS).map((name) => join(CORPUS, name));
  assert.ok(files.length >= 7, `${files.length} files`);
  succeed(join(ROOT, 'build/replay'), files);
  assert.equal(spawnSync(join(ROOT, 'build/replay'), ['-r', join(CORPUS, 'frames-run')]).status, 1);
});

test('the fuzzer finds nothing', (t) => {
  if (!requires(t, 'clang')) return;
  const directory = mkdtempSync(join(tmpdir(), 'vserver-fuzz-'));
  try {
    makeNative('fuzz');
    const found = succeed(join(ROOT, 'build/fuzz'), [
      `-max_total_time=${SECONDS}`,
      '-max_len=8192',
      '-timeout=5',
      `-artifact_prefix=${directory}/`,
      directory,
      CORPUS,
    ]);
    const runs = Number(/Done (\d+) runs/.exec(found)?.[1]);
    assert.ok(runs > 10_000, `${runs} runs`);
  } finally {
    rmSync(directory, { recursive: true });
  }
});
