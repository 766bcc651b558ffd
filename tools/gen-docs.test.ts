import assert from 'node:assert/strict';
import { test } from 'node:test';
import { withLayerTable } from './gen-docs.ts';
import { LAYERS } from './layers.ts';

const BEGIN = '<!-- layers: made by tools/gen-docs.ts from tools/layers.ts; edits here are lost -->\n';
const END = '<!-- /layers -->';

test('the table comes between its markers, and nothing else changes', () => {
  const page = withLayerTable(`before\n${BEGIN}stale\n${END}\nafter\n`);
  assert.ok(page.startsWith(`before\n${BEGIN}`));
  assert.ok(page.endsWith(`${END}\nafter\n`));
  assert.ok(!page.includes('stale'));
  for (const { name, why } of LAYERS) assert.ok(page.includes(`| \`${name}\` |`) && page.includes(why), name);
  assert.equal(withLayerTable(page), page);
});

test('a page without the markers, or with more than one pair, is refused', () => {
  const pair = `${BEGIN}${END}`;
  for (const page of ['', BEGIN, END, `${pair}${pair}`, `${BEGIN}${pair}`]) {
    assert.throws(() => withLayerTable(page), /need each of them once/);
  }
});
