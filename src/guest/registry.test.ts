import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { parseGuestName, parseXid } from '../base/ids.ts';
import { completeConfig } from './config.ts';
import { instancePaths } from './paths.ts';
import { Registry } from './registry.ts';

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
