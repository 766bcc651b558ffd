/** What a guest of one trust domain could learn of another's files: by time, what is in memory already is read sooner. */
import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import type { Instance } from '../lib/instance.ts';
import type { Check } from './places.ts';

/** Of the file that both have. */
const BYTES = 1_234_567;

/** Objects of that size in all stores, and of each how much is in memory. */
function resident(v: Instance): readonly (readonly [path: string, bytes: number])[] {
  const store = join(v.root, 'lib/store');
  return readdirSync(store, { recursive: true, encoding: 'utf8' })
    .map((name) => join(store, name))
    .filter((path) => statSync(path).size === BYTES)
    .map((path) => {
      const { stdout } = spawnSync('fincore', ['-n', '-b', '-o', 'RES', path], { encoding: 'utf8' });
      return [path, Number(stdout)] as const;
    });
}

/** Guests of two domains have the same file: one reads it, and no page the other would read comes to memory. */
export const otherDomains: Check = async (v) => {
  const breaches: string[] = [];
  for (const name of ['victim', 'spy']) {
    await v.ok([
      'create',
      name,
      '--template',
      'busybox',
      '--trust-domain',
      `of-${name}`,
      '--',
      'sleep',
      '1000',
    ]);
    await v.ok(['start', name]);
    await v.ok(['exec', name, 'sh', '-c', `head -c ${BYTES} /bin/busybox > /srv/file`]);
    await v.ok(['stop', '-t', '0', name]);
    await v.ok(['unify', name]);
  }
  for (const [path] of resident(v))
    spawnSync('dd', [`if=${path}`, 'iflag=nocache', 'count=0', 'status=none']);
  await v.ok(['start', 'victim']);
  await v.ok(['exec', 'victim', 'cat', '/srv/file']);
  const after = resident(v);
  if (after.length !== 2) breaches.push(`${after.length} files on disk`);
  for (const [path, bytes] of after)
    if (!path.includes('/of-victim/') && bytes > 0) breaches.push(`${bytes} bytes in memory of ${path}`);
  await v.run(['clone', 'victim', 'copy', 'trustDomain=of-spy']);
  if (existsSync(join(v.root, 'lib/guests/copy'))) breaches.push('a clone in another domain');
  await v.ok(['delete', '--force', 'victim', 'spy']);
  return breaches;
};
