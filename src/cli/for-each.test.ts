import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { StateError } from '../base/errors.ts';
import { instancePaths } from '../guest/paths.ts';
import { Registry } from '../guest/registry.ts';
import { eachGuest, forEachGuest, type GuestsCommand } from './for-each.ts';
import type { Io, Services } from './io.ts';

class TestIo implements Io {
  stdout = '';
  stderr = '';
  readonly tty = [false, false, false] as const;
  readonly columns = 80;
  readonly rows = 24;
  readonly cwd = '/';
  readonly env = {};
  readonly signal = new AbortController().signal;
  readonly client = undefined;
  async out(text: string | Uint8Array): Promise<void> {
    this.stdout += String(text);
  }
  async err(text: string | Uint8Array): Promise<void> {
    this.stderr += String(text);
  }
}

function services(names: readonly string[]): Services {
  const root = mkdtempSync(join(tmpdir(), 'vserver-each-'));
  after(() => {
    rmSync(root, { recursive: true });
  });
  const paths = instancePaths(root);
  mkdirSync(join(paths.etc, 'guests'), { recursive: true });
  for (const name of names) writeFileSync(join(paths.etc, 'guests', `${name}.yaml`), 'command: x\n');
  const registry = new Registry(paths);
  registry.rescan();
  // The verbs below use nothing else of it.
  return { manager: { registry } } as unknown as Services;
}

function command(operands: readonly string[], options: object = {}, json = false): GuestsCommand {
  return { verb: 'start', operands, options, global: { root: undefined, json, quiet: false } };
}

test('goes on after a failure and keeps the first exit code', async () => {
  const io = new TestIo();
  const tried: string[] = [];
  const code = await forEachGuest(
    command(['a', 'none', 'b', 'c']),
    io,
    services(['a', 'b', 'c']),
    async (guest) => {
      tried.push(guest.name);
      if (guest.name === 'b') throw new StateError('guest-running', 'cannot x');
    },
  );
  assert.equal(code, 5);
  assert.deepEqual(tried, ['a', 'b', 'c']);
  assert.equal(io.stdout, 'a\nc\n');
  assert.match(io.stderr, /^vserver: cannot find guest "none".*\nvserver: cannot x\n$/);
});

test('--all means those that are meant, and --json tells each', async () => {
  const io = new TestIo();
  const all = command([], { all: true }, true);
  const options = { isMeant: (guest: { readonly name: string }): boolean => guest.name !== 'b' };
  const code = await forEachGuest(all, io, services(['a', 'b', 'c']), async () => {}, options);
  assert.equal(code, 0);
  assert.deepEqual(JSON.parse(io.stdout), [
    { name: 'a', error: null },
    { name: 'c', error: null },
  ]);
});

test('works on no more at a time than it may, and yields in order', async () => {
  let now = 0;
  let most = 0;
  const names = Array.from({ length: 20 }, (_, index) => `g${index}`);
  const order: string[] = [];
  const each = eachGuest(
    command(names),
    services(names),
    async (guest) => {
      most = Math.max(most, ++now);
      await new Promise((resolve) => setTimeout(resolve, guest.xid % 3));
      now--;
    },
    { parallel: 4 },
  );
  for await (const { name } of each) order.push(name);
  assert.equal(most, 4);
  assert.deepEqual(order, names);
});
