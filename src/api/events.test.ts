import assert from 'node:assert/strict';
import { globSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { EVENT_TYPE_NAMES, EVENT_TYPES } from './events.ts';

const ROOT = join(import.meta.dirname, '../..');

test('every kind of event is published somewhere', () => {
  const sources = globSync('src/guest/**/*.ts', { cwd: ROOT })
    .filter((file) => !file.endsWith('.test.ts'))
    .map((file) => readFileSync(join(ROOT, file), 'utf8'))
    .join('\n');
  const published = [...sources.matchAll(/\.publish\(\s*[\w.]+,\s*'([^']+)'/g)].map(([, type]) => type);
  assert.deepEqual(
    EVENT_TYPE_NAMES.filter((type) => !published.includes(type)),
    [],
  );
});

test('names are words joined by dots; each has one line of meaning', () => {
  assert.ok(EVENT_TYPE_NAMES.length >= 8);
  for (const type of EVENT_TYPE_NAMES) {
    assert.match(type, /^[a-z]+(\.[a-z]+)*$/);
    for (const text of [EVENT_TYPES[type].meaning, ...Object.values(EVENT_TYPES[type].details)]) {
      assert.match(text, /^[^\n]+[^.\n]$/, type);
    }
  }
});
