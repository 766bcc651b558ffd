import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';

const ROOT = join(import.meta.dirname, '..');

interface LockedPackage {
  readonly version?: string;
  readonly integrity?: string;
  readonly resolved?: string;
  readonly dev?: boolean;
  readonly link?: boolean;
  readonly hasInstallScript?: boolean;
}

const read = (name: string): string => readFileSync(join(ROOT, name), 'utf8');
const manifest = JSON.parse(read('package.json')) as Record<string, Readonly<Record<string, string>>>;
const { packages } = JSON.parse(read('package-lock.json')) as {
  packages: Readonly<Record<string, LockedPackage>>;
};
const locked = Object.entries(packages).filter(([path]) => path !== '');

describe('E9: packages of others', () => {
  test('vserverd has three, and what they bring is little', () => {
    assert.deepEqual(Object.keys(manifest['dependencies'] ?? {}), ['pino', 'yaml', 'zod']);
    const running = locked.filter(([, { dev }]) => dev !== true).map(([path]) => path);
    // Node itself, for two processors, and pino's twelve.
    assert.ok(running.length <= 17, running.join(' '));
  });

  test('every version is written down, exactly', () => {
    for (const kind of ['dependencies', 'devDependencies', 'optionalDependencies'])
      for (const [name, version] of Object.entries(manifest[kind] ?? {}))
        assert.match(version, /^\d+\.\d+\.\d+$/, name);
  });

  test('what is installed is what was locked: known by its hash, from the registry', () => {
    for (const [path, { integrity, link, resolved }] of locked) {
      assert.match(integrity ?? '', /^sha512-/, path);
      assert.equal(link, undefined, path);
      assert.equal(resolved, undefined, path); // no place of its own
    }
  });

  test('no script of theirs runs while it is installed', () => {
    for (const [path, { dev, hasInstallScript }] of locked)
      assert.ok(dev === true || hasInstallScript !== true, path);
    assert.match(read('.npmrc'), /^ignore-scripts=true$/m);
  });
});
