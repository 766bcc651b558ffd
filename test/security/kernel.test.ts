/** Group C of the escapes. */
import assert from 'node:assert/strict';
import { after, before, suite, test } from 'node:test';
import { type OpenInstance, openInstance } from '../lib/instance.ts';
import { unmet } from '../lib/requires.ts';
import {
  c1,
  c1Compat,
  c2,
  c4,
  c5,
  c5c,
  c6,
  c7Forks,
  c7Log,
  c7Memory,
  c7Tables,
  c7Users,
  c8,
  c9,
  otherContexts,
} from './kernel.ts';
import { type Check, type Place, places } from './places.ts';

const CHECKS: readonly (readonly [string, Check])[] = [
  ['C1 CVE-2022-0185 CVE-2022-0492 system calls that exploits begin with', c1],
  ['C1 by 32-bit and x32 numbers', c1Compat],
  ['C2 CVE-2022-0847 CVE-2026-31431 socket families, by both ABIs', c2],
  ['C4 CVE-2018-18955 CVE-2021-4197 one range of ids, no control group', c4],
  ['C5 C5b CVE-2026-23405 helpers the kernel runs, switches of the host', c5],
  ['C5c read-only is read-only', c5c],
  ['C6 keys of the host', c6],
  ['C7 a fork bomb', c7Forks],
  ['C7 memory and files in memory', c7Memory],
  ['C7 terminals, watches, descriptors', c7Tables],
  ['C7 what the kernel counts for each user', c7Users],
  ['C7 a flood of the log', c7Log],
  ['C8 device nodes', c8],
  ['C9 CVE-2024-0132 the environment of a guest or a caller', c9],
  ['the Proc-FS of other contexts', otherContexts],
];

suite('kernel', { skip: unmet('root', 'overlay', 'userns', 'busybox', 'gcc') }, () => {
  let v: OpenInstance;
  let everywhere: readonly Place[];
  before(async () => {
    v = await openInstance();
    everywhere = await places(v);
    await v.ok(['run', '--detach', '--name', 'neighbour', '--', 'sleep', '3600']);
  });
  after(async () => {
    await v.close();
  });
  for (const [name, check] of CHECKS) {
    test(name, async () => {
      assert.deepEqual(await check(v, everywhere), []);
    });
  }
});
