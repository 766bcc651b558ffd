import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { suite, test } from 'node:test';
import { withInstance } from '../lib/instance.ts';
import { unmet } from '../lib/requires.ts';

const CHECKOUT = resolve(import.meta.dirname, '../..');

function command(program: string, ...args: readonly string[]): string {
  const { status, stdout, stderr } = spawnSync(program, args, { cwd: CHECKOUT, encoding: 'utf8' });
  assert.equal(status, 0, `${program} ${args.join(' ')}: ${stderr}`);
  return stdout;
}

suite('the package', { skip: unmet('root', 'overlay', 'userns', 'npm') }, () => {
  test('has what guests need, and no sources, when another one depends on it', async (t) => {
    const home = mkdtempSync(join(tmpdir(), 'vserver-package-'));
    t.after(() => rmSync(home, { recursive: true }));
    const target = join(home, 'node_modules/vserver');
    mkdirSync(target, { recursive: true });
    const archive = command('npm', 'pack', '--ignore-scripts', '--silent', '--pack-destination', home).trim();
    command('tar', '-x', '-f', join(home, archive), '-C', target, '--strip-components=1');
    assert.deepEqual(
      readdirSync(target).filter((name) => ['src', 'test', 'bench', 'node_modules'].includes(name)),
      [],
    );
    // As npm would: the pinned Node among the programs of whoever depends on it, the client where its own name is.
    mkdirSync(join(home, 'node_modules/.bin'));
    symlinkSync(process.execPath, join(home, 'node_modules/.bin/node'));
    const manifest = command('npm', 'pkg', 'get', 'bin.vserver').trim();
    symlinkSync(resolve(target, JSON.parse(manifest) as string), join(target, 'bin/vserver'));
    await withInstance(
      async (v) => {
        assert.equal(await v.ok(['run', '--', 'echo', 'packed']), 'packed\n');
        const { vserverdPid } = JSON.parse(await v.ok(['daemon', 'status', '--json'])) as {
          vserverdPid: number;
        };
        const main = readFileSync(`/proc/${vserverdPid}/cmdline`, 'utf8');
        assert.ok(main.includes(target), main);
      },
      { checkout: target },
    );
  });
});
