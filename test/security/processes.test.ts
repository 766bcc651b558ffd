/** Group A of the escapes: each in a run and in an exec, on the host's programs and on busybox. */
import assert from 'node:assert/strict';
import { after, before, suite, test } from 'node:test';
import { type OpenInstance, openInstance } from '../lib/instance.ts';
import { unmet } from '../lib/requires.ts';
import { type Check, type Place, places } from './places.ts';
import { a1, a2, a3, a4, a5, a7, a8, a9, a10 } from './processes.ts';

const CHECKS: readonly (readonly [string, Check])[] = [
  ["A1 CVE-2019-5736 the runtime's program cannot be written by way of /proc/PID/exe", a1],
  ['A2 CVE-2024-21626 no descriptor of the host, and no working directory by way of one', a2],
  ['A3 CVE-2016-9962 a process on its way in cannot be opened or traced', a3],
  ['A4 CVE-2022-29162 capabilities are the allowed ones, none inheritable', a4],
  ['A5 CVE-2026-30892 A6 CVE-2024-40635 users are exact or refused', a5],
  ["A7 CVE-2017-5226 the caller's terminal is out of reach", a7],
  ['A8 CVE-2023-25173 CVE-2022-36109 groups are exact', a8],
  ['A9 a recycled pid is not signalled', a9],
  ['A10 a recycled pid is not written to, by a broker that may do nothing to the host', a10],
];

suite('processes', { skip: unmet('root', 'overlay', 'userns', 'busybox', 'gcc') }, () => {
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
