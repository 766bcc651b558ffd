/** Programs of the native part that tests need beside those that are there, as native/Makefile makes them. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { join, resolve } from 'node:path';

const ROOT = resolve(import.meta.dirname, '../..');

/** Makes a target unless it is there; test files that run at the same time wait for each other. @throws AssertionError with the compiler's words */
export function makeNative(target: string): void {
  const make = ['make', '-s', '-C', join(ROOT, 'native'), target];
  const { status, stdout, stderr } = spawnSync('flock', [join(ROOT, 'build'), ...make], { encoding: 'utf8' });
  assert.equal(status, 0, `make ${target}: ${stdout}${stderr}`);
}
