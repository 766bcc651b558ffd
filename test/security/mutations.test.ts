/**
 * Shows of every escape test that it can fail: takes the defence out of a copy of this project and asks the test's check
 * whether it then finds a breach.
 */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, relative, resolve } from 'node:path';
import { before, suite, test } from 'node:test';
import { withInstance } from '../lib/instance.ts';
import { unmet } from '../lib/requires.ts';
import { type Edit, holderOf, MUTATIONS } from './mutations.ts';
import { inNetworkWorld } from './network.ts';
import { places } from './places.ts';

const CHECKOUT = resolve(import.meta.dirname, '../..');

/** Makes a copy of this project, compiled, with other words in it, and returns its path. */
function mutate(home: string, edits: readonly Edit[]): string {
  const copy = join(home, 'copy');
  for (const name of [
    'bin',
    'dist',
    'src',
    'native',
    'tools/node',
    'tools/compile.mk',
    'package.json',
    'package-lock.json',
    'build/syscalld',
    'build/abi.json',
  ])
    cpSync(join(CHECKOUT, name), join(copy, name), {
      recursive: true,
      verbatimSymlinks: true,
      preserveTimestamps: true,
    });
  symlinkSync(join(CHECKOUT, 'node_modules'), join(copy, 'node_modules'));
  const texts = new Map<string, string>();
  for (const [find, put] of edits) {
    const file = holderOf(find, CHECKOUT);
    texts.set(
      file,
      (texts.get(file) ?? readFileSync(file, 'utf8')).replace(find, () => put),
    );
  }
  for (const [file, text] of texts) writeFileSync(join(copy, relative(CHECKOUT, file)), text);
  make('-C', copy, '-f', 'tools/compile.mk');
  if ([...texts.keys()].some((file) => file.endsWith('.c'))) {
    // Quick to compile rather than to run; abi.json is there already.
    const flags = ['CFLAGS=-O0', 'WARN=-std=gnu17 -D_GNU_SOURCE -w'];
    make('-C', join(copy, 'native'), ...flags, '../build/syscalld');
  }
  return copy;
}

function make(...args: readonly string[]): void {
  const made = spawnSync('make', ['-s', ...args], { cwd: CHECKOUT, encoding: 'utf8' });
  assert.equal(made.status, 0, made.stderr);
}

const isInVm = process.env['VSERVER_TEST_VM'] === '1';
const skip = isInVm
  ? 'the defences are the same there, and it would take minutes'
  : unmet('root', 'overlay', 'userns', 'busybox', 'gcc');

// Two at a time: each has a control plane of its own, and one waits a minute for what hangs without the defence.
suite('with a defence taken out, its test fails', { skip, concurrency: 2 }, () => {
  before(() => make('-f', 'tools/compile.mk'));
  for (const { name, check, edits, breach } of MUTATIONS) {
    test(name, async () => {
      const home = mkdtempSync(join(tmpdir(), 'vserver-mutation-'));
      try {
        mkdirSync(join(home, 'copy/build'), { recursive: true });
        const checkout = mutate(home, edits);
        let breaches: readonly string[] = [];
        if (typeof check !== 'function') {
          breaches = await inNetworkWorld(check.inNetwork, checkout);
        } else
          await withInstance(
            async (v) => {
              breaches = await check(v, await places(v, ['host']));
            },
            { checkout },
          ).catch((error: unknown) => {
            if (breaches.length === 0) throw error; // otherwise it is told, and what it hangs on is ended by now
          });
        assert.notDeepEqual(breaches, [], 'the check found nothing');
        if (breach) assert.match(breaches.join('\n'), breach);
      } finally {
        rmSync(home, { recursive: true, force: true });
      }
    });
  }
});
