/** The fence on this host's kernel: real sockets of real processes, in cgroups and network namespaces of the test's own. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import type { NetworkRules } from '../../src/network/rules.ts';
import { type Agent, type World, withWorld } from '../lib/fence-world.ts';
import { unmet } from '../lib/requires.ts';

const only = (host: number, more: Partial<NetworkRules> = {}): NetworkRules => ({
  addresses4: [{ address: `10.7.0.${host}`, prefix: 24 }],
  addresses6: [{ address: `fd07::${host}`, prefix: 64 }],
  ...more,
});

/** A guest whose addresses end in its number. */
async function guest(world: World, nid: number, rules: NetworkRules = only(nid)): Promise<Agent> {
  await world.fence.setNetwork(nid, rules);
  await world.fence.bindGuest(world.cgroup(nid), nid);
  return await world.agent(nid);
}

describe('fence', { skip: unmet('root', 'cgroup2') }, () => {
  test('two guests and the host listen at the wildcard of one port, each is reached at its own addresses', async () => {
    await withWorld(async (world) => {
      const { host, outside } = world;
      const [two, three] = [await guest(world, 2), await guest(world, 3)];
      await host.run("a = serve(tcp(('0.0.0.0', 80)), 'host')");
      await two.run("a = serve(tcp(('0.0.0.0', 80)), 'two')");
      await three.run("a = serve(tcp(('0.0.0.0', 80)), 'three')");
      assert.deepEqual(await two.get('a.getsockname()'), ['0.0.0.0', 80]);
      assert.equal(await outside.get("ask(('10.7.0.1', 80))"), 'host 10.7.0.1 10.7.0.100');
      assert.equal(await outside.get("ask(('10.7.0.2', 80))"), 'two 10.7.0.2 10.7.0.100');
      assert.equal(await outside.get("ask(('10.7.0.3', 80))"), 'three 10.7.0.3 10.7.0.100');
      assert.equal(await host.get("ask(('10.7.0.2', 80))"), 'two 10.7.0.2 10.7.0.1');
      assert.equal(await host.get("ask(('127.0.0.1', 80))"), 'host 127.0.0.1 127.0.0.1');
      assert.equal(await two.get("ask(('127.0.0.1', 80))"), 'two 127.0.0.1 127.0.0.1');
      assert.equal(await two.get("ask(('10.7.0.2', 80))"), 'two 10.7.0.2 10.7.0.2');
      assert.equal(await two.get("ask(('10.7.0.1', 80))"), 'host 10.7.0.1 10.7.0.2');
      // Nobody else is reached at a guest's address.
      await three.run('a.shutdown(2)');
      assert.equal(await outside.get("ask(('10.7.0.3', 80))"), 'ECONNREFUSED');
    });
  });
});
