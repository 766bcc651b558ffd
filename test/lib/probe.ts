/** The program of hostile attempts, test/probe/probe.c: built when it is older than its source, and its answers read. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, renameSync, statSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';

const ROOT = resolve(import.meta.dirname, '../..');
const SOURCE = join(ROOT, 'test/probe/probe.c');
const PROGRAM = join(ROOT, 'build/probe');

/** What a verb found: "ok", an errno, "signal N" or another word for each attempt; numbers for counts. */
export type Findings = Readonly<Record<string, string | number>>;

/** Returns the path of the static program. @throws AssertionError with the compiler's words */
export function buildProbe(): string {
  if (existsSync(PROGRAM) && statSync(PROGRAM).mtimeMs >= statSync(SOURCE).mtimeMs) return PROGRAM;
  mkdirSync(dirname(PROGRAM), { recursive: true });
  const partial = `${PROGRAM}.${process.pid}`;
  const flags = ['-std=gnu17', '-Wall', '-Wextra', '-Werror', '-O1', '-static'];
  const { status, stderr } = spawnSync('gcc', [...flags, '-o', partial, SOURCE], { encoding: 'utf8' });
  assert.equal(status, 0, stderr);
  renameSync(partial, PROGRAM);
  return PROGRAM;
}

/** Reads what a verb printed: the last line that is an object. */
export function parseFindings(stdout: string): Findings {
  const line = stdout
    .split(/\r?\n/)
    .filter((text) => text.startsWith('{'))
    .at(-1);
  assert.ok(line !== undefined, `the probe said ${JSON.stringify(stdout)}`);
  return JSON.parse(line) as Findings; // our own program
}
