import assert from 'node:assert/strict';
import { globSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { ERROR_CODES, type ErrorCodeInfo } from './error-codes.ts';

const ROOT = join(import.meta.dirname, '../..');
const CODES: Readonly<Record<string, ErrorCodeInfo>> = ERROR_CODES;

function usedCodes(): ReadonlyMap<string, string> {
  const used = new Map<string, string>();
  for (const file of globSync('src/**/*.ts', { cwd: ROOT })) {
    if (file.endsWith('.test.ts')) continue;
    const source = readFileSync(join(ROOT, file), 'utf8');
    for (const [, code = ''] of source.matchAll(/new (?:User|State|Sys|Bug)Error\(\s*'([^']*)'/g))
      used.set(code, file);
  }
  return used;
}

test('every code used in the source is in the table', () => {
  const used = usedCodes();
  assert.ok(used.size >= 5, `found only ${used.size} codes, so the search is broken`);
  const missing = [...used]
    .filter(([code]) => !Object.hasOwn(CODES, code))
    .map(([code, file]) => `${code} (${file})`);
  assert.deepEqual(missing, []);
});

test('every code in the table is used in the source', () => {
  const sources = globSync('src/**/*.ts', { cwd: ROOT })
    .filter((file) => !file.endsWith('.test.ts') && !file.endsWith('api/error-codes.ts'))
    .map((file) => readFileSync(join(ROOT, file), 'utf8'))
    .join('\n');
  assert.deepEqual(
    Object.keys(CODES).filter((code) => !sources.includes(`'${code}'`)),
    [],
  );
});

test('codes are kebab-case and sorted, with a status, an exit code and one line of meaning', () => {
  assert.deepEqual(Object.keys(CODES), Object.keys(CODES).toSorted());
  for (const [code, info] of Object.entries(CODES)) {
    assert.match(code, /^[a-z][a-z0-9]*(-[a-z0-9]+)*$/);
    assert.ok(info.status >= 400 && info.status < 600, code);
    assert.ok(info.exit > 0 && info.exit < 128, code);
    assert.match(info.meaning, /^[^\n]+[^.\n]$/, code);
  }
});

test('the reference lists exactly the codes of the table', () => {
  const page = readFileSync(join(ROOT, 'docs/reference/errors.md'), 'utf8');
  const listed = [...page.matchAll(/^\| `([^`]+)` \|/gm)].map(([, code]) => code);
  assert.deepEqual(listed, Object.keys(CODES));
});
