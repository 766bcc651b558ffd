import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { PassThrough } from 'node:stream';
import { text } from 'node:stream/consumers';
import { run, type TestContext, test } from 'node:test';
import { report } from './reporter.ts';

const PASSING = "import { test } from 'node:test';\ntest('passes', () => {});\n";
const FAILING = "import { test } from 'node:test';\ntest('fails', () => { throw new Error('as told'); });\n";
/** In a suite, between tests that pass; with more than is shown of a failure. */
const BURIED = `
import { describe, test } from 'node:test';
describe('suite', () => {
  test('before', () => {});
  describe('inner', () => {
    test('fails', () => { throw new Error('as told\\n' + 'line\\n'.repeat(500) + 'last'); });
    test('throws nothing of worth', () => { throw undefined; });
  });
  test('after', () => {});
});
`;
const SKIPPING =
  "import { test } from 'node:test';\ntest('skips', { skip: 'needs qemu: no qemu' }, () => {});\n";
const UNNAMED = "import { test } from 'node:test';\ntest('hides', { skip: true }, () => {});\n";

// One run for each source. node:test refuses a run inside a test process unless the child context is taken away.
async function reported(
  t: TestContext,
  sources: readonly string[],
  mustRun: readonly string[],
): Promise<{ readonly ok: boolean; readonly printed: string }> {
  const dir = mkdtempSync(join(tmpdir(), 'reporter-'));
  t.after(() => rmSync(dir, { recursive: true }));
  const context = process.env['NODE_TEST_CONTEXT'];
  delete process.env['NODE_TEST_CONTEXT'];
  t.after(() => {
    if (context !== undefined) process.env['NODE_TEST_CONTEXT'] = context;
  });
  const runs = sources.map((source, index) => {
    const file = join(dir, `${index}.test.mjs`);
    writeFileSync(file, source);
    return run({ files: [file] });
  });
  const out = new PassThrough();
  const ok = await report(runs, mustRun, out);
  out.end();
  return { ok, printed: await text(out) };
}

test('runs share one closing summary', async (t) => {
  const { ok, printed } = await reported(t, [PASSING, PASSING], []);
  assert.equal(ok, true);
  assert.match(
    printed,
    /\n# tests 2\n# suites 0\n# pass 2\n# fail 0\n# cancelled 0\n# skipped 0\n# todo 0\n# duration_ms [\d.]+\n$/,
  );
  assert.equal(printed.match(/tests \d/g)?.length, 1);
});

test('a failure in any run fails the report', async (t) => {
  const { ok, printed } = await reported(t, [FAILING, PASSING], []);
  assert.equal(ok, false);
  assert.match(printed, /as told/);
  assert.match(printed, /\n# pass 1\n# fail 1\n/);
});

test('what failed is said last, with what it found', async (t) => {
  const { printed } = await reported(t, [BURIED, PASSING], []);
  const end = printed.slice(printed.indexOf('\nfailed: '));
  assert.match(end, /^\nfailed: \S*0\.test\.mjs: suite > inner > fails\n {2}Error: as told\n {2}line\n/);
  assert.match(end, /… \d+ more lines\n\nfailed: \S*0\.test\.mjs: suite > inner > throws nothing of worth\n/);
  assert.equal(end.match(/failed: /g)?.length, 2, 'their suites failed of nothing else');
  assert.ok(end.length < 3000 && /\n# tests 5\n/.test(end), end);
});

test('skips are grouped by reason and allowed outside the list', async (t) => {
  const { ok, printed } = await reported(t, [SKIPPING, SKIPPING], ['root']);
  assert.equal(ok, true);
  assert.match(printed, /\nskipped: needs qemu: no qemu\n {2}skips\n {2}skips\n/);
  assert.match(printed, /\n# skipped 2\n/);
});

test('a skip of what must run, or without a stated requirement, is forbidden', async (t) => {
  const listed = await reported(t, [SKIPPING], ['qemu']);
  assert.equal(listed.ok, false);
  assert.match(listed.printed, /\nforbidden skip: needs qemu: no qemu\n {2}skips\n/);
  const unnamed = await reported(t, [UNNAMED], ['root']);
  assert.equal(unnamed.ok, false);
  assert.equal((await reported(t, [UNNAMED], [])).ok, true);
});
