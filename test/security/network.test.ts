/** Group D of the escapes. */
import assert from 'node:assert/strict';
import { suite, test } from 'node:test';
import { unmet } from '../lib/requires.ts';
import {
  d1,
  d2Bind,
  d2Source,
  d2Steal,
  d3,
  d4,
  d5,
  d7,
  d9,
  d10,
  inNetworkWorld,
  type NetworkCheck,
} from './network.ts';

const CHECKS: readonly (readonly [string, NetworkCheck])[] = [
  ['D1 CVE-2020-15257 abstract sockets of the host and of other guests', d1],
  ['D2 addresses of others, by all that could lift the check, and sockets that nobody checks', d2Bind],
  ['D2 ports that others are willing to share', d2Steal],
  ["D2 D6 D8 sources of others', by messages, options, raw and passed sockets", d2Source],
  ['D3 loopback of the host and of other guests', d3],
  ['D4 the metadata service of clouds, and other guests', d4],
  ['D5 interfaces, routes and neighbours of the host', d5],
  ['D7 what was opened before a change of policy', d7],
  ['D9 raw sockets of a guest that is given those of ICMP', d9],
  ['D10 sources that are not those of a guest with a network stack of its own', d10],
];

suite('network', { skip: unmet('root', 'overlay', 'userns', 'network') }, () => {
  for (const [name, check] of CHECKS) {
    test(name, async () => {
      assert.deepEqual(await inNetworkWorld(check), []);
    });
  }
});
