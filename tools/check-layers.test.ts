import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { checkLayers, listSources } from './check-layers.ts';
import { LAYERS } from './layers.ts';

function tree(t: TestContext, files: Readonly<Record<string, string>>): string {
  const root = mkdtempSync(join(tmpdir(), 'layers-'));
  t.after(() => rmSync(root, { recursive: true }));
  for (const [path, source] of Object.entries(files)) {
    mkdirSync(dirname(join(root, path)), { recursive: true });
    writeFileSync(join(root, path), source);
  }
  return root;
}

function violationsOf(t: TestContext, files: Readonly<Record<string, string>>): readonly string[] {
  const sources = Object.keys(files).filter((path) => path.startsWith('src/'));
  return checkLayers(tree(t, files), sources).violations;
}

test('an allowed direction passes', (t) => {
  const files = {
    'src/base/errors.ts': "import { inspect } from 'node:util';\n",
    'src/spec/mounts.ts': "import { Oops } from '../base/errors.ts';\n",
    'src/sys/client.ts': "import net from 'node:net';\nimport '../spec/mounts.ts';\n",
    'src/guest/plan.ts': "export { x } from '../sys/client.ts';\nimport { open } from 'node:fs/promises';\n",
  };
  assert.deepEqual(checkLayers(tree(t, files), Object.keys(files)), { scanned: 4, violations: [] });
});

test('each way of importing a sibling is found, with the reason', (t) => {
  const target = { 'src/storage/unify.ts': '' };
  const found =
    'imports "src/storage/unify.ts": network stays ignorant of its siblings, so that guest alone knows the order';
  for (const source of [
    "import { unify } from '../storage/unify.ts';",
    "import type { Unify } from '../storage/unify.ts';",
    "import {\n  type Unify,\n  unify,\n} from '../storage/unify.ts';",
    "export * from '../storage/unify.ts';",
    "import '../storage/unify.ts';",
    "const unify = await import('../storage/unify.ts');",
    "type Unify = import('../storage/unify.ts').Unify;",
  ]) {
    const violations = violationsOf(t, { ...target, 'src/network/plan.ts': `${source}\n` });
    assert.deepEqual(violations, [`src/network/plan.ts: ${found}`], source);
  }
});

test('an import quoted in a comment is not one', (t) => {
  const source = "// see: import x from '../guest/plan.ts'\n/**\n * import y from '../guest/plan.ts'\n */\n";
  assert.deepEqual(violationsOf(t, { 'src/base/units.ts': source, 'src/guest/plan.ts': '' }), []);
});

test('Node modules are kept to their folders, except in tests', (t) => {
  const violations = violationsOf(t, {
    'src/base/a.ts': "import { readFileSync } from 'node:fs';\n",
    'src/base/a.test.ts': "import { readFileSync } from 'node:fs';\n",
    'src/views/b.ts': "import { open } from 'node:fs/promises';\n",
    'src/daemon/c.ts': "import { spawn } from 'child_process';\nimport http from 'node:http';\n",
  });
  assert.deepEqual(
    violations.map((violation) => violation.split(': ').slice(0, 2).join(': ')),
    [
      'src/base/a.ts: imports "node:fs"',
      'src/views/b.ts: imports "node:fs/promises"',
      'src/daemon/c.ts: imports "child_process"',
    ],
  );
});

test('a cycle between folders is found', (t) => {
  const violations = violationsOf(t, {
    'src/guest/plan.ts': "import '../sys/probe.ts';\n",
    'src/sys/probe.ts': "import '../guest/plan.ts';\n",
  });
  assert.ok(
    violations.includes('src: folders import each other: guest -> sys -> guest'),
    violations.join('\n'),
  );
});

test('a path outside the table is found', (t) => {
  assert.deepEqual(
    violationsOf(t, {
      'src/utils/x.ts': '',
      'src/main.ts': '',
      'src/base/a.ts': "import '../../tools/x.ts';\nimport './gone.ts';\n",
      'src/base/a.test.ts': "import '../../tools/x.ts';\n",
      'tools/x.ts': '',
    }),
    [
      'src/utils/x.ts: lies in no known folder of src; add the folder to tools/layers.ts',
      'src/main.ts: lies in no known folder of src; add the folder to tools/layers.ts',
      'src/base/a.ts: imports "tools/x.ts": only src is shipped',
      'src/base/a.ts: imports "./gone.ts", which does not exist',
    ],
  );
});

test('scanning too little fails', (t) => {
  const root = tree(t, { 'src/base/a.ts': '', 'src/base/b.ts': '' });
  assert.deepEqual(checkLayers(root, ['src/base/a.ts']).violations, [
    'src/base/b.ts: was not scanned; is it ignored by git?',
  ]);
  assert.deepEqual(checkLayers(tree(t, {}), []).violations, ['src: no source file was scanned']);
});

test('sources are the tracked and the untracked files that exist', (t) => {
  const root = tree(t, {
    'src/base/a.ts': '',
    'src/base/gone.ts': '',
    'src/base/ignored.ts': '',
    '.gitignore': 'ignored.ts\n',
  });
  const git = (...args: readonly string[]): void =>
    assert.equal(spawnSync('git', ['-C', root, ...args]).status, 0, `git ${args.join(' ')}`);
  git('init', '-q');
  git('add', '.');
  rmSync(join(root, 'src/base/gone.ts'));
  writeFileSync(join(root, 'src/base/new.ts'), '');
  assert.deepEqual([...listSources(root)].sort(), ['src/base/a.ts', 'src/base/new.ts']);
  assert.deepEqual(checkLayers(root, listSources(root)).violations, [
    'src/base/ignored.ts: was not scanned; is it ignored by git?',
  ]);
});

test('the table itself has no cycle', () => {
  const seen = new Set<string>();
  let left = [...LAYERS];
  while (left.length > 0) {
    const ready = left.filter((layer) => layer.mayImport.every((name) => seen.has(name)));
    assert.notEqual(ready.length, 0, left.map((layer) => layer.name).join(' '));
    for (const layer of ready) seen.add(layer.name);
    left = left.filter((layer) => !seen.has(layer.name));
  }
});
