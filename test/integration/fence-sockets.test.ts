/** The sockets of network contexts as they are listed: by the addresses and ports they were asked for, and nobody else's. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { formatIpAddress } from '../../src/base/ip.ts';
import type { KernelSocket } from '../../src/sys/sock-diag.ts';
import { guest, only, type World, withWorld } from '../lib/fence-world.ts';
import { unmet } from '../lib/requires.ts';

const STATE = { established: 1, timeWait: 6, unconnected: 7, listen: 10 } as const;

const ALL = { isUser: (): boolean => false, most: 1e6 };

describe('sockets of a context', { skip: unmet('root', 'cgroup2', 'network') }, () => {
  const list = async (
    world: World,
    nid: number,
    family: 4 | 6,
    protocol: 6 | 17,
  ): Promise<readonly string[]> => {
    const end = ({ address, port }: KernelSocket['local']): string => `${formatIpAddress(address)} ${port}`;
    const sockets = await world.fence.listSockets(nid, family, protocol, ALL);
    return sockets.map(({ state, local, peer }) => `${state} ${end(local)} ${end(peer)}`).toSorted();
  };

  test('are listed as they were asked for, in both families, and those of nobody else', async () => {
    await withWorld(async (world) => {
      const two = await guest(world, 2);
      const three = await guest(world, 3);
      for (const agent of [two, three, world.host]) {
        await agent.run(
          "a = tcp(('0.0.0.0', 80)); b = tcp(('::', 80), 10, only=1); c = tcp(('127.0.0.1', 81))",
        );
        await agent.run("d = tcp(('::', 82), 10); e = tcp(('::ffff:0.0.0.0', 83), 10)");
      }
      const expected4 = ['10 0.0.0.0 80 0.0.0.0 0', '10 127.0.0.1 81 0.0.0.0 0'];
      const expected6 = ['10 :: 80 :: 0', '10 :: 82 :: 0', '10 ::ffff:0:0 83 :: 0'];
      for (const nid of [2, 3]) {
        assert.deepEqual(await list(world, nid, 4, 6), expected4);
        assert.deepEqual(await list(world, nid, 6, 6), expected6);
        assert.deepEqual(await list(world, nid, 4, 17), []);
      }
      await world.fence.setNetwork(4, only(4));
      assert.deepEqual(await list(world, 4, 4, 6), []);
    });
  });

  test('of both ends of a connection have the addresses each has', async () => {
    await withWorld(async (world) => {
      const two = await guest(world, 2);
      await two.run("s = tcp(('0.0.0.0', 80)); l = tcp(('127.0.0.1', 81))");
      await two.run(
        "k = socket.create_connection(('127.0.0.1', 81)); q, at = l.accept(); n = k.getsockname()[1]",
      );
      await world.outside.run("k = socket.create_connection(('10.7.0.2', 80)); n = k.getsockname()[1]");
      await two.run('p, _ = s.accept()');
      const [own, far] = [await two.get('n'), await world.outside.get('n')];
      assert.deepEqual(
        await list(world, 2, 4, 6),
        [
          `${STATE.established} 10.7.0.2 80 10.7.0.100 ${far}`,
          `${STATE.established} 127.0.0.1 81 127.0.0.1 ${own}`,
          `${STATE.established} 127.0.0.1 ${own} 127.0.0.1 81`,
          `${STATE.listen} 0.0.0.0 80 0.0.0.0 0`,
          `${STATE.listen} 127.0.0.1 81 0.0.0.0 0`,
        ].toSorted(),
      );
      // Who closes first keeps the connection in mind for a minute.
      await two.run('p.close()');
      await world.outside.run('k.recv(1); k.close()');
      const rows = await list(world, 2, 4, 6);
      assert.ok(rows.includes(`${STATE.timeWait} 10.7.0.2 80 10.7.0.100 ${far}`), rows.join('\n'));
    });
  });

  test('of UDP are listed at the wildcard and at an address', async () => {
    await withWorld(async (world) => {
      const two = await guest(world, 2);
      await two.run('a = udp(); b = udp(); c = udp(family=10); d = udp()');
      for (const name of ['a', 'b', 'c', 'd']) await world.prepare(two, name);
      await two.run(
        "a.bind(('0.0.0.0', 53)); b.bind(('127.0.0.1', 54)); c.bind(('::', 55)); d.connect(('10.7.0.100', 9))",
      );
      const port = await two.get('d.getsockname()[1]');
      assert.deepEqual(
        await list(world, 2, 4, 17),
        [
          `${STATE.established} 10.7.0.2 ${port} 10.7.0.100 9`,
          `${STATE.unconnected} 0.0.0.0 53 0.0.0.0 0`,
          `${STATE.unconnected} 127.0.0.1 54 0.0.0.0 0`,
        ].toSorted(),
      );
      assert.deepEqual(await list(world, 2, 6, 17), [`${STATE.unconnected} :: 55 :: 0`]);
    });
  });

  test('are all listed, however many there are', async () => {
    await withWorld(async (world) => {
      const two = await guest(world, 2);
      await two.run('import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))');
      await two.run("many = [tcp(('0.0.0.0', 1000 + i)) for i in range(1200)]");
      const sockets = await world.fence.listSockets(2, 4, 6, ALL);
      assert.equal(sockets.length, 1200);
      assert.equal(new Set(sockets.map(({ inode }) => inode)).size, 1200);
      assert.deepEqual(
        sockets.map(({ local }) => local.port).toSorted((a, b) => a - b),
        Array.from({ length: 1200 }, (_, i) => 1000 + i),
      );
    });
  });
});
