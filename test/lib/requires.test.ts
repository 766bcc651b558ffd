import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { test } from 'node:test';

const REQUIRES = join(import.meta.dirname, 'requires.ts');

// A process each, since a probe's answer is kept. With an empty PATH no program is found, so gcc is missing.
function unmetGcc(mustRun: string, names: readonly string[] = ['gcc']): string {
  const script = `import { unmet } from ${JSON.stringify(REQUIRES)};\nconsole.log(unmet(...${JSON.stringify(names)}));\n`;
  const { stderr, stdout } = spawnSync(process.execPath, ['--input-type=module', '-e', script], {
    env: { PATH: '/nonexistent', MUST_RUN: mustRun },
    encoding: 'utf8',
  });
  return stdout + stderr;
}

test('a missing requirement is a named skip', () => {
  assert.equal(unmetGcc(''), 'needs gcc: no gcc\n');
  assert.equal(unmetGcc('root,qemu'), 'needs gcc: no gcc\n');
});

test('a missing requirement that must run is a failure', () => {
  assert.match(unmetGcc('root,gcc'), /cannot run test: found no gcc; need "gcc", which MUST_RUN lists/);
});

test('a requirement that may be missing does not hide one that must run', () => {
  assert.equal(unmetGcc('', ['clang', 'gcc']), 'needs clang: no clang\n');
  assert.match(unmetGcc('gcc', ['clang', 'gcc']), /need "gcc", which MUST_RUN lists/);
});

test('a name in MUST_RUN that is no requirement is a failure', () => {
  assert.match(unmetGcc('gc'), /cannot read MUST_RUN: found "gc"; need one of: root, /);
});
