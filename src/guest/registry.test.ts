import assert from 'node:assert/strict';
import {
  mkdirSync,
  mkdtempSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { test } from 'node:test';
import type { UserError } from '../base/errors.ts';
import { parseGuestName, parseXid } from '../base/ids.ts';
import { completeConfig } from './config.ts';
import { instancePaths } from './paths.ts';
import { Registry } from './registry.ts';

const NAME = parseGuestName('web');
const text = (hostname: string): string => `command: [sleep]\nhostname: ${hostname}\n`;

/** A registry with one guest, whose configuration file is at `path`. */
function makeRegistry(
  clock?: () => number,
): { readonly registry: Registry; readonly path: string } & Disposable {
  const root = mkdtempSync(join(tmpdir(), 'vserver-registry-'));
  const paths = instancePaths(root);
  mkdirSync(join(paths.etc, 'guests'), { recursive: true });
  const path = join(paths.etc, 'guests/web.yaml');
  writeFileSync(path, text('a'));
  const registry = new Registry(paths, clock);
  return { registry, path, [Symbol.dispose]: () => rmSync(root, { recursive: true }) };
}

test('a guest that is being made keeps its name and its xid while others look for files', (t) => {
  const root = mkdtempSync(join(tmpdir(), 'registry-'));
  t.after(() => rmSync(root, { recursive: true }));
  const registry = new Registry(instancePaths(root));
  registry.load('boot');
  const guest = registry.add(
    parseGuestName('web'),
    parseXid('1000'),
    completeConfig({ command: ['true'] }),
    false,
  );
  guest.isBeingMade = true;
  assert.throws(() => registry.find('nobody'), { code: 'guest-not-found' });
  assert.equal(registry.named('web'), guest);
  assert.throws(() => registry.checkXid(guest.xid), { code: 'xid-in-use' });
  // One that was made, and whose file somebody took away, is forgotten.
  guest.isBeingMade = false;
  assert.throws(() => registry.find('nobody'), { code: 'guest-not-found' });
  assert.equal(registry.named('web'), undefined);
});

test('a configuration file that was changed is read, also in the same breath', () => {
  using made = makeRegistry();
  for (const name of ['a', 'b', 'c', 'd']) {
    writeFileSync(made.path, text(name));
    assert.equal(made.registry.readConfig(NAME).hostname, name);
  }
});

test('what is no file, or has no end, is refused and keeps nobody from the other guests', () => {
  using made = makeRegistry();
  const directory = dirname(made.path);
  symlinkSync('/dev/zero', join(directory, 'endless.yaml'));
  symlinkSync('/no/such', join(directory, 'lost.yaml'));
  mkdirSync(join(directory, 'directory.yaml'));
  writeFileSync(join(directory, 'large.yaml'), '');
  truncateSync(join(directory, 'large.yaml'), 2 ** 33);
  made.registry.load('boot');
  assert.equal(made.registry.named('web')?.name, 'web');
  for (const [name, found] of [
    ['endless', /invalid-config.*no file/],
    ['directory', /invalid-config.*no file/],
    ['large', /invalid-config.*more than 1048576 bytes/],
    ['lost', /guest-not-found/],
  ] as const) {
    assert.throws(
      () => made.registry.readConfig(parseGuestName(name)),
      (error: UserError) => found.test(`${error.code} ${error.message}`),
    );
  }
});

test('a configuration file of long ago is read once, and when it was changed, whatever its time says', () => {
  using made = makeRegistry(() => Date.now() + 60_000);
  const { registry, path } = made;
  const first = registry.readConfig(NAME);
  assert.equal(registry.readConfig(NAME), first);
  const { atime, mtime, ctimeMs } = statSync(path);
  while (statSync(path).ctimeMs === ctimeMs) {
    writeFileSync(path, text('b'));
    utimesSync(path, atime, mtime);
  }
  assert.equal(registry.readConfig(NAME).hostname, 'b');
  rmSync(path);
  assert.throws(() => registry.readConfig(NAME), { code: 'guest-not-found' });
});

test('a configuration file that was just written is not parsed again, unless somebody else changed it', () => {
  using made = makeRegistry();
  const { registry, path } = made;
  const config = completeConfig({ command: ['sleep'], hostname: 'a' });
  const written = registry.wrote(NAME, { text: text('a'), config });
  assert.deepEqual(written, config);
  assert.equal(registry.readConfig(NAME), written);
  writeFileSync(path, text('b'));
  assert.equal(registry.readConfig(NAME).hostname, 'b');
});
