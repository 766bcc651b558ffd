/** Group B of the escapes, and what deletion leaves alone. */
import assert from 'node:assert/strict';
import { after, before, suite, test } from 'node:test';
import { type OpenInstance, openInstance } from '../lib/instance.ts';
import { unmet } from '../lib/requires.ts';
import {
  b8,
  b9,
  b10,
  b11,
  b12,
  b13,
  deletion,
  deletionOfLink,
  hostileRoots,
  namesOfProcesses,
  swappedComponents,
  terminalSwap,
  userDatabase,
} from './paths.ts';
import { type Check, type Place, places } from './places.ts';

const CHECKS: readonly (readonly [string, Check])[] = [
  ['B1 CVE-2019-16884 B3 CVE-2025-31133 B5 CVE-2026-41579 a hostile root file system', hostileRoots],
  ['B2 CVE-2021-30465 B6 CVE-2024-45310 components are swapped while guests start', swappedComponents],
  ['B4 CVE-2025-52565 a terminal is opened on a devpts or not at all', terminalSwap],
  ['B7 CVE-2018-15664 CVE-2024-9676 the user database is a link, a FIFO, a device', userDatabase],
  ["B7 CVE-2019-14271 names of a guest's processes are harmless to print", namesOfProcesses],
  ['B8 CVE-2023-25809 nothing below /sys may be written', b8],
  ['B9 masked and read-only paths', b9],
  ['B10 mounts do not propagate, to the host or from it', b10],
  ['B11 CVE-2024-1753 targets of mounts stay in the root', b11],
  ["B12 CVE-2025-64507 CVE-2021-41091 the host's users reach no file of a guest", b12],
  ["B13 no way back to the host's root", b13],
  ['deletion follows no link, enters no mount, and refuses while one is there', deletion],
  ['deletion of a guest whose directory is a link', deletionOfLink],
];

suite('paths', { skip: unmet('root', 'overlay', 'userns', 'busybox', 'gcc') }, () => {
  let v: OpenInstance;
  let everywhere: readonly Place[];
  before(async () => {
    v = await openInstance();
    everywhere = await places(v);
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
