/** The fence on this host's kernel: real sockets of real processes, in cgroups and network namespaces of the test's own. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { setTimeout } from 'node:timers/promises';
import { createFence, openFence, recoverFence } from '../../src/network/fence.ts';
import type { NetworkRules } from '../../src/network/rules.ts';
import { type Agent, type World, withWorld } from '../lib/fence-world.ts';
import { unmet } from '../lib/requires.ts';

const only = (host: number, more: Partial<NetworkRules> = {}): NetworkRules => ({
  addresses4: [{ address: `10.7.0.${host}`, prefix: 24 }],
  addresses6: [{ address: `fd07::${host}`, prefix: 64 }],
  ...more,
});

/** One operation of io_uring, with the system calls alone (io_uring(7)): its result, or the name of its error. */
const URING = `
import ctypes, mmap
libc = ctypes.CDLL(None, use_errno=True)
def address(host, port):
    return ctypes.create_string_buffer(struct.pack('=H', 2) + struct.pack('!H', port) + socket.inet_aton(host) + bytes(8))
def uring(opcode, fd=-1, buffer=None, off=0, length=0):
    params = ctypes.create_string_buffer(120)
    ring = libc.syscall(425, 4, params)
    if ring < 0: return errno.errorcode[ctypes.get_errno()]
    u32 = lambda bytes, at: struct.unpack_from('=I', bytes, at)[0]
    sq, cq = [u32(params, 40 + 4 * i) for i in range(8)], [u32(params, 80 + 4 * i) for i in range(8)]
    rings = mmap.mmap(ring, max(sq[6] + 16, cq[5] + 16 * u32(params, 4)), offset=0)
    sqes = mmap.mmap(ring, 4 * 64, offset=0x10000000)
    struct.pack_into('=BBHiQQIIQ', sqes, 0, opcode, 0, 0, fd, off, ctypes.addressof(buffer) if buffer else 0, length, 0, 1)
    struct.pack_into('=I', rings, sq[6], 0)
    struct.pack_into('=I', rings, sq[1], 1)
    if libc.syscall(426, ring, 1, 1, 1, None, 0) < 0: return errno.errorcode[ctypes.get_errno()]
    result = struct.unpack_from('=i', rings, cq[5] + 8)[0]
    os.close(ring)
    return errno.errorcode[-result] if result < 0 else result
names.update(address=address, uring=uring)
`;

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

  test('bind: foreign addresses are refused, own ones and loopback are not', async () => {
    await withWorld(async (world) => {
      const two = await guest(world, 2, {
        addresses4: [{ address: '10.7.0.2', prefix: 24 }, { address: '10.7.0.4' }],
        addresses6: [{ address: 'fd07::2', prefix: 64 }],
      });
      const bind = async (address: string, type = 'STREAM', family = 'AF_INET'): Promise<unknown> =>
        await two.get(`code(socket.socket(socket.${family}, socket.SOCK_${type}).bind, ('${address}', 0))`);
      for (const type of ['STREAM', 'DGRAM']) {
        for (const own of ['0.0.0.0', '127.0.0.1', '10.7.0.2', '10.7.0.4'])
          assert.equal(await bind(own, type), 'ok', `${type} ${own}`);
        for (const foreign of ['10.7.0.1', '10.7.0.3', '127.0.0.2', '127.0.3.1', '224.0.0.1', '10.7.0.255'])
          assert.equal(await bind(foreign, type), 'EADDRNOTAVAIL', `${type} ${foreign}`);
        for (const own of ['::', '::1', 'fd07::2', '::ffff:10.7.0.2', '::ffff:127.0.0.1', '::ffff:0.0.0.0'])
          assert.equal(await bind(own, type, 'AF_INET6'), 'ok', `${type} ${own}`);
        for (const foreign of [
          'fd07::1',
          '::ffff:10.7.0.1',
          'ff02::1',
          '::ffff:127.0.0.2',
          'fd76:7365:7276:6572::3',
        ])
          assert.equal(await bind(foreign, type, 'AF_INET6'), 'EADDRNOTAVAIL', `${type} ${foreign}`);
      }
      const shown = async (address: string, family = 'AF_INET'): Promise<unknown> => {
        await two.run(
          `s = socket.socket(socket.${family}); s.bind(('${address}', 7000)); n = s.getsockname()[:2]; s.close()`,
        );
        return await two.get('n');
      };
      for (const address of ['0.0.0.0', '127.0.0.1', '10.7.0.2', '10.7.0.4'])
        assert.deepEqual(await shown(address), [address, 7000]);
      for (const address of ['::', '::1', 'fd07::2', '::ffff:10.7.0.2', '::ffff:127.0.0.1'])
        assert.deepEqual(await shown(address, 'AF_INET6'), [address, 7000]);
      const denials = await world.fence.readDenials(2);
      assert.ok(
        denials.some((d) => d.reason === 'foreign-address' && d.address === '10.7.0.1' && d.count === 2),
      );
    });
  });

  test('a port is taken once in a guest, and is free again when its socket is closed', async () => {
    await withWorld(async (world) => {
      const two = await guest(world, 2);
      const again = 'code(tcp, ("0.0.0.0", 8080))';
      await two.run('s = tcp(("0.0.0.0", 8080))');
      assert.equal(await two.get(again), 'EADDRINUSE');
      assert.equal(await two.get('code(tcp, ("127.0.0.1", 8080))'), 'ok');
      await two.run('s.close()');
      assert.equal(await two.get(again), 'ok');
      // SO_REUSEADDR does not let two listen at once.
      await two.run('s = tcp(("0.0.0.0", 8080), reuse=socket.SO_REUSEADDR)');
      assert.equal(
        await two.get('code(tcp, ("0.0.0.0", 8080), socket.AF_INET, socket.SO_REUSEADDR)'),
        'EADDRINUSE',
      );
      // A connection that is left from it does not hold the port.
      await two.run("serve(s, 'x')");
      assert.equal(await world.outside.get("ask(('10.7.0.2', 8080))"), 'x 10.7.0.2 10.7.0.100');
      await two.run('s.shutdown(2); s.close(); time.sleep(0.1)');
      assert.equal(await two.get(again), 'ok');
    });
  });

  test('SO_REUSEPORT shares a port within a guest and steals none of another', async () => {
    await withWorld(async (world) => {
      const [two, three] = [await guest(world, 2), await guest(world, 3)];
      await two.run('a = tcp(("0.0.0.0", 81), reuse=socket.SO_REUSEPORT)');
      await two.run('b = tcp(("0.0.0.0", 81), reuse=socket.SO_REUSEPORT)');
      await three.run('a = serve(tcp(("0.0.0.0", 81), reuse=socket.SO_REUSEPORT), "three")');
      assert.equal(
        await three.get('code(tcp, ("10.7.0.2", 81), socket.AF_INET, socket.SO_REUSEPORT)'),
        'EADDRNOTAVAIL',
      );
      await two.run('serve(a, "a"); serve(b, "b")');
      const answers = new Set<unknown>();
      for (let i = 0; i < 30; i++)
        answers.add(String(await world.outside.get("ask(('10.7.0.2', 81))")).split(' ')[0]);
      assert.deepEqual([...answers].sort(), ['a', 'b']);
      await two.run('a.shutdown(2); a.close(); time.sleep(0.1)');
      for (let i = 0; i < 10; i++)
        assert.match(String(await world.outside.get("ask(('10.7.0.2', 81))")), /^b /);
    });
  });

  test("loopback is each context's own, in both families", async () => {
    await withWorld(async (world) => {
      const { host } = world;
      const [two, three] = [await guest(world, 2), await guest(world, 3)];
      await host.run(
        "a = serve(tcp(('127.0.0.1', 5000)), 'host'); b = serve(tcp(('::1', 5001), socket.AF_INET6), 'host')",
      );
      assert.equal(await two.get("ask(('127.0.0.1', 5000))"), 'ECONNREFUSED');
      assert.equal(await two.get("ask(('::1', 5001), socket.AF_INET6)"), 'ECONNREFUSED');
      await two.run(
        "a = serve(tcp(('127.0.0.1', 5000)), 'two'); b = serve(tcp(('::1', 5001), socket.AF_INET6, only=1), 'two')",
      );
      await two.run("c = serve(tcp(('127.0.0.1', 5001)), 'two4')"); // beside ::1, as PostgreSQL does it
      assert.equal(await two.get("ask(('127.0.0.1', 5000))"), 'two 127.0.0.1 127.0.0.1');
      assert.equal(await two.get("ask(('::1', 5001), socket.AF_INET6)"), 'two ::1 ::1');
      assert.equal(await two.get("ask(('127.0.0.1', 5001))"), 'two4 127.0.0.1 127.0.0.1');
      assert.equal(
        await two.get("ask(('::ffff:127.0.0.1', 5000), socket.AF_INET6)"),
        'two 127.0.0.1 127.0.0.1',
      );
      assert.equal(await host.get("ask(('127.0.0.1', 5000))"), 'host 127.0.0.1 127.0.0.1');
      assert.equal(await host.get("ask(('127.0.2.1', 5000))"), 'ECONNREFUSED');
      assert.equal(await three.get("ask(('127.0.2.1', 5000))"), 'EPERM');
      assert.equal(await three.get("ask(('127.0.0.53', 53))"), 'EPERM');
      assert.equal(await three.get("ask(('fd76:7365:7276:6572::2', 5001), socket.AF_INET6)"), 'EPERM');
      await two.run(
        "c = socket.create_connection(('127.0.0.1', 5000)); n = [c.getsockname()[0], c.getpeername()]",
      );
      assert.deepEqual(await two.get('n'), ['127.0.0.1', ['127.0.0.1', 5000]]);
      await two.run(
        "u = udp(('127.0.0.1', 5300)); v = udp(); v.sendto(b'hi', ('127.0.0.1', 5300)); d, p = u.recvfrom(9); u.sendto(d, p); e, q = v.recvfrom(9)",
      );
      assert.deepEqual(await two.get('[p[0], q, u.getsockname()]'), [
        '127.0.0.1',
        ['127.0.0.1', 5300],
        ['127.0.0.1', 5300],
      ]);
      await two.run(
        "u = udp(('::1', 5300), socket.AF_INET6); v = udp(family=socket.AF_INET6); v.sendto(b'hi', ('::1', 5300)); d, p = u.recvfrom(9); u.sendto(d, p); e, q = v.recvfrom(9)",
      );
      assert.deepEqual(await two.get('[p[0], q[:2]]'), ['::1', ['::1', 5300]]);
    });
  });

  test('connections come from own addresses, from the network the peer is in', async () => {
    await withWorld(async (world) => {
      const { outside } = world;
      const two = await guest(world, 2, {
        addresses4: [
          { address: '10.7.0.2', prefix: 24 },
          { address: '10.8.0.2', prefix: 24 },
        ],
        addresses6: [{ address: 'fd07::2', prefix: 64 }],
      });
      await outside.run(
        "a = serve(tcp(('0.0.0.0', 90)), 'out'); b = serve(tcp(('::', 91), socket.AF_INET6), 'out')",
      );
      assert.equal(await two.get("ask(('10.7.0.100', 90))"), 'out 10.7.0.100 10.7.0.2');
      assert.equal(await two.get("ask(('10.8.0.100', 90))"), 'out 10.8.0.100 10.8.0.2');
      assert.equal(
        await two.get("ask(('10.7.0.100', 90), source=('10.8.0.2', 0))"),
        'out 10.7.0.100 10.8.0.2',
      );
      assert.equal(
        await two.get("ask(('10.7.0.100', 90), source=('0.0.0.0', 0))"),
        'out 10.7.0.100 10.7.0.2',
      );
      assert.equal(await two.get("ask(('10.7.0.100', 90), source=('10.7.0.1', 0))"), 'EADDRNOTAVAIL');
      assert.equal(await two.get("ask(('fd07::100', 91), socket.AF_INET6)"), 'out fd07::100 fd07::2');
      assert.equal(
        await two.get("ask(('::ffff:10.8.0.100', 90), socket.AF_INET6)"),
        'out 10.8.0.100 10.8.0.2',
      );
      await outside.run("u = udp(('0.0.0.0', 92))");
      await two.run("v = udp(); v.sendto(b'1', ('10.8.0.100', 92)); v.sendto(b'2', ('10.7.0.100', 92))");
      assert.deepEqual(await outside.get('[u.recvfrom(9)[1][0], u.recvfrom(9)[1][0]]'), [
        '10.8.0.2',
        '10.7.0.2',
      ]);
      await two.run("v = udp(); v.connect(('10.8.0.100', 92)); v.send(b'3')");
      assert.deepEqual(await outside.get('u.recvfrom(9)[1][0]'), '10.8.0.2');
    });
  });

  test('a family without an address is unreachable', async () => {
    await withWorld(async (world) => {
      const none = await guest(world, 5, { addresses4: [], addresses6: [] });
      const four = await guest(world, 4, { addresses4: [{ address: '10.7.0.4' }], addresses6: [] });
      assert.equal(await none.get("ask(('10.7.0.100', 90))"), 'ENETUNREACH');
      assert.equal(await none.get("ask(('fd07::100', 90), socket.AF_INET6)"), 'ENETUNREACH');
      assert.equal(await none.get("code(udp().sendto, b'x', ('10.7.0.100', 90))"), 'ENETUNREACH');
      assert.equal(await four.get("ask(('fd07::100', 90), socket.AF_INET6)"), 'ENETUNREACH');
      assert.equal(
        await four.get("code(udp(family=socket.AF_INET6).sendto, b'x', ('fd07::100', 90))"),
        'ENETUNREACH',
      );
      await none.run("a = serve(tcp(('0.0.0.0', 80)), 'none')");
      assert.equal(await none.get("ask(('127.0.0.1', 80))"), 'none 127.0.0.1 127.0.0.1');
    });
  });

  test('a [::] listener takes both families unless it asks for one', async () => {
    await withWorld(async (world) => {
      const { outside } = world;
      const [two, three] = [
        await guest(world, 2),
        await guest(world, 3, { addresses4: [{ address: '10.7.0.3' }], addresses6: [] }),
      ];
      await two.run(
        "a = serve(tcp(('::', 80), socket.AF_INET6), 'two'); b = serve(tcp(('::', 81), socket.AF_INET6, only=1), 'two6')",
      );
      await three.run("a = serve(tcp(('::', 80), socket.AF_INET6), 'three')");
      await world.host.run("a = serve(tcp(('::', 80), socket.AF_INET6), 'host')");
      assert.equal(await outside.get("ask(('10.7.0.2', 80))"), 'two ::ffff:10.7.0.2 ::ffff:10.7.0.100');
      assert.equal(await outside.get("ask(('fd07::2', 80), socket.AF_INET6)"), 'two fd07::2 fd07::100');
      assert.equal(await outside.get("ask(('10.7.0.3', 80))"), 'three ::ffff:10.7.0.3 ::ffff:10.7.0.100');
      assert.equal(await outside.get("ask(('10.7.0.1', 80))"), 'host ::ffff:10.7.0.1 ::ffff:10.7.0.100');
      assert.equal(await outside.get("ask(('fd07::2', 81), socket.AF_INET6)"), 'two6 fd07::2 fd07::100');
      assert.equal(await outside.get("ask(('10.7.0.2', 81))"), 'ECONNREFUSED');
      assert.equal(await two.get("ask(('127.0.0.1', 80))"), 'two ::ffff:127.0.0.1 ::ffff:127.0.0.1');
      assert.equal(await two.get("ask(('::1', 80), socket.AF_INET6)"), 'two ::1 ::1');
      assert.deepEqual(await two.get('a.getsockname()[:2]'), ['::', 80]);
      await two.run(
        "c = serve(tcp(('0.0.0.0', 82)), 'four'); d = serve(tcp(('::', 82), socket.AF_INET6, only=1), 'six')",
      );
      assert.equal(await outside.get("ask(('10.7.0.2', 82))"), 'four 10.7.0.2 10.7.0.100');
      assert.equal(await outside.get("ask(('fd07::2', 82), socket.AF_INET6)"), 'six fd07::2 fd07::100');
    });
  });

  test('UDP at a wildcard gets what is sent to any of the addresses, and answers from the asked one', async () => {
    await withWorld(async (world) => {
      const { outside } = world;
      const rules: NetworkRules = {
        addresses4: [{ address: '10.7.0.2', prefix: 24 }, { address: '10.7.0.4' }],
        addresses6: [{ address: 'fd07::2', prefix: 64 }],
      };
      const [two, three] = [await guest(world, 2, rules), await guest(world, 3)];
      await two.run('u = udp(); u.setsockopt(0, 8, 1)'); // IP_PKTINFO
      await world.prepare(two, 'u');
      await two.run("u.bind(('0.0.0.0', 53))");
      await three.run("u = udp(('0.0.0.0', 53))");
      assert.deepEqual(await two.get('u.getsockname()'), ['0.0.0.0', 53]);
      await outside.run(
        "def query(at, family=socket.AF_INET):\n  c = udp(family=family); c.sendto(b'q', at); return c\nnames.update(query=query)",
      );
      await two.run(`
def answer():
    d, control, _, peer = u.recvmsg(9, 64)
    u.sendmsg([d], [(0, 8, control[0][2])] if control else [], 0, peer)
    return peer[0]
names.update(answer=answer)`);
      for (const asked of ['10.7.0.2', '10.7.0.4']) {
        await outside.run(`c = query(('${asked}', 53))`);
        assert.equal(await two.get('answer()'), '10.7.0.100');
        assert.deepEqual(await outside.get('c.recvfrom(9)[1]'), [asked, 53]);
      }
      await two.run("c = udp(); c.sendto(b'q', ('127.0.0.1', 53))");
      assert.equal(await two.get('answer()'), '127.0.0.1');
      assert.deepEqual(await two.get('c.recvfrom(9)[1]'), ['127.0.0.1', 53]);
      await outside.run("c = query(('10.7.0.3', 53))");
      await three.run('d, p = u.recvfrom(9); u.sendto(d, p)');
      assert.deepEqual(await outside.get('c.recvfrom(9)[1]'), ['10.7.0.3', 53]);

      await two.run('w = udp(family=socket.AF_INET6)');
      await world.prepare(two, 'w');
      await two.run("w.bind(('::', 54))");
      assert.deepEqual(await two.get('w.getsockname()[:2]'), ['::', 54]);
      for (const [asked, family] of [
        ['10.7.0.2', 'AF_INET'],
        ['fd07::2', 'AF_INET6'],
      ]) {
        await outside.run(`c = query(('${asked}', 54), socket.${family})`);
        await two.run('d, p = w.recvfrom(9); w.sendto(d, p)');
        assert.deepEqual(await outside.get('c.recvfrom(9)[1][:2]'), [asked, 54]);
      }
      // The host asks over IPv6 from the very address.
      await world.host.run("c = udp(family=socket.AF_INET6); c.sendto(b'q', ('fd07::2', 54))");
      await two.run('d, p = w.recvfrom(9); w.sendto(d, p)');
      assert.deepEqual(await world.host.get('c.recvfrom(9)[1][:2]'), ['fd07::2', 54]);
      // What is bound to one address is found by the kernel alone.
      await two.run('x = udp(family=socket.AF_INET6)');
      await world.prepare(two, 'x');
      await two.run("x.bind(('fd07::2', 55))");
      await outside.run("c = query(('fd07::2', 55), socket.AF_INET6)");
      await two.run('d, p = x.recvfrom(9); x.sendto(d, p)');
      assert.deepEqual(await outside.get('c.recvfrom(9)[1][:2]'), ['fd07::2', 55]);
      // A client that was made ready is as any other.
      for (const [peer, family] of [
        ['10.7.0.100', 'AF_INET'],
        ['fd07::100', 'AF_INET6'],
        ['::ffff:10.7.0.100', 'AF_INET6'],
      ]) {
        await two.run(`y = udp(family=socket.${family})`);
        await world.prepare(two, 'y');
        const code = `z = udp(('${peer?.replace('::ffff:', '')}', 56), socket.${peer?.startsWith('fd') ? 'AF_INET6' : 'AF_INET'})`;
        await outside.run(code);
        await two.run(`y.connect(('${peer}', 56)); y.send(b'1')`);
        await outside.run('d, p = z.recvfrom(9); z.sendto(d, p); z.close()');
        assert.equal(await two.get('y.recv(9).decode()'), '1');
      }
      // A source that is not its own.
      const spoof =
        "code(u.sendmsg, [b'x'], [(0, 8, struct.pack('=I4s4s', 0, socket.inet_aton('10.7.0.1'), bytes(4)))], 0, ('10.7.0.100', 9))";
      assert.equal(await two.get(spoof), 'EADDRNOTAVAIL');
    });
  });

  test('policy: egress rules by network, port and protocol, live; denials are counted', async () => {
    await withWorld(async (world) => {
      const { outside, fence } = world;
      await outside.run(
        "a = serve(tcp(('0.0.0.0', 90)), 'x'); b = serve(tcp(('0.0.0.0', 91)), 'y'); c = serve(tcp(('::', 90), socket.AF_INET6, only=1), 'z'); u = udp(('0.0.0.0', 92))",
      );
      const two = await guest(
        world,
        2,
        only(2, {
          policy: { egress: [{ action: 'deny', to: '10.7.0.100', protocol: 'tcp', ports: [91, 95] }] },
        }),
      );
      const tries = async (): Promise<unknown> =>
        await two.get(
          "[ask(('10.7.0.100', 90))[:1], ask(('10.7.0.100', 91))[:5], ask(('10.8.0.100', 91))[:5], ask(('fd07::100', 90), socket.AF_INET6)[:5], code(udp().sendto, b'x', ('10.7.0.100', 92))]",
        );
      assert.deepEqual(await tries(), ['x', 'EPERM', 'y 10.', 'z fd0', 'ok']);
      // What was accepted answers, whatever the rules; and so does UDP.
      await two.run(
        "s = serve(tcp(('0.0.0.0', 80)), 'two'); v = udp(('0.0.0.0', 53)); keep = socket.create_connection(('10.7.0.100', 90)); keep.settimeout(1)",
      );
      await outside.run(
        "k = socket.create_connection(('10.7.0.2', 80)); c = udp(); c.sendto(b'q', ('10.7.0.2', 53))",
      );
      await fence.setNetwork(2, only(2, { policy: { otherwise: 'deny' } }));
      assert.deepEqual(await tries(), ['E', 'EPERM', 'EPERM', 'EPERM', 'EPERM']);
      assert.equal(await outside.get("ask(('10.7.0.2', 80))"), 'two 10.7.0.2 10.7.0.100');
      await outside.run("c = udp(); c.sendto(b'q', ('10.7.0.2', 53))");
      await two.run('for i in range(2): d, p = v.recvfrom(9)\nv.sendto(d, p)');
      assert.deepEqual(await outside.get('c.recvfrom(9)[1]'), ['10.7.0.2', 53]);
      // The most specific network does not matter, the order does.
      await fence.setNetwork(
        2,
        only(2, {
          policy: {
            egress: [
              { action: 'allow', to: '10.7.0.0/16', ports: [90, 90] },
              { action: 'deny', to: '10.7.0.100/32' },
            ],
          },
        }),
      );
      assert.deepEqual(await tries(), ['x', 'EPERM', 'y 10.', 'z fd0', 'EPERM']);
      await fence.setNetwork(2, only(2));
      assert.deepEqual(await tries(), ['x', 'y 10.', 'y 10.', 'z fd0', 'ok']);
      const denied = (await fence.readDenials(2)).filter(
        (d) => d.reason === 'policy' && d.address === '10.7.0.100' && d.port === 91,
      );
      assert.deepEqual(
        denied.map((d) => [d.direction, d.protocol, d.count]),
        [['out', 6, 3]],
      );
    });
  });

  test('a change of policy cuts connections that are there', async () => {
    await withWorld(async (world) => {
      const { outside, fence } = world;
      const two = await guest(world, 2);
      await outside.run("l = tcp(('0.0.0.0', 90))");
      await two.run("c = socket.create_connection(('10.7.0.100', 90)); c.settimeout(0.5)");
      await outside.run('p = l.accept()[0]; p.settimeout(0.7)');
      await two.run("c.send(b'1')");
      assert.equal(await outside.get('p.recv(9).decode()'), '1');
      await fence.setNetwork(2, only(2, { policy: { egress: [{ action: 'deny', to: '10.7.0.100' }] } }));
      await two.run("code(c.send, b'2')");
      assert.equal(await outside.get('code(p.recv, 9)'), 'TimeoutError');
      await fence.setNetwork(2, only(2));
      assert.equal(await outside.get('p.settimeout(5) or p.recv(9).decode()'), '2'); // TCP has tried again
      await fence.removeNetwork(2);
      await two.run("code(c.send, b'3')");
      assert.equal(await outside.get('p.settimeout(0.7) or code(p.recv, 9)'), 'TimeoutError');
      assert.equal(await two.get("ask(('10.7.0.100', 90))"), 'EPERM');
    });
  });

  test('the cloud metadata address is out of reach unless it is allowed', async () => {
    await withWorld(async (world) => {
      await world.outside.run(
        "a = serve(tcp(('169.254.169.254', 80)), 'secret'); u = udp(('169.254.169.254', 80))",
      );
      const two = await guest(world, 2);
      const ask = "ask(('169.254.169.254', 80))";
      assert.equal(await two.get(ask), 'EPERM');
      assert.equal(await two.get("ask(('::ffff:169.254.169.254', 80), socket.AF_INET6)"), 'EPERM');
      assert.equal(await two.get("ask(('fd00:ec2::254', 80), socket.AF_INET6)"), 'EPERM');
      assert.equal(await two.get("code(udp().sendto, b'x', ('169.254.169.254', 80))"), 'EPERM');
      assert.equal((await world.fence.readDenials(2)).filter((d) => d.reason === 'metadata').length, 3);
      await world.fence.setNetwork(2, only(2, { policy: { metadata: 'allow' } }));
      assert.equal(await two.get(ask), 'secret 169.254.169.254 10.7.0.2');
    });
  });

  test('guests reach each other by pair or group alone, in both directions of a connection', async () => {
    await withWorld(async (world) => {
      const { fence } = world;
      const [two, three] = [await guest(world, 2), await guest(world, 3)];
      await two.run("a = serve(tcp(('0.0.0.0', 80)), 'two'); u = udp(('10.7.0.2', 53))");
      await three.run("a = serve(tcp(('0.0.0.0', 80)), 'three')");
      const both = async (): Promise<unknown> => [
        await two.get("ask(('10.7.0.3', 80))"),
        await three.get("ask(('10.7.0.2', 80))"),
        await three.get("ask(('fd07::2', 80), socket.AF_INET6)"),
        await three.get("code(udp().sendto, b'x', ('10.7.0.2', 53))"),
      ];
      const [closed, open] = [
        ['EPERM', 'EPERM', 'EPERM', 'EPERM'],
        ['three 10.7.0.3 10.7.0.2', 'two 10.7.0.2 10.7.0.3', 'ECONNREFUSED', 'ok'],
      ];
      assert.deepEqual(await both(), closed);
      await fence.setNetwork(2, only(2, { policy: { peers: [3] } }));
      assert.deepEqual(await both(), open);
      await fence.setNetwork(2, only(2));
      assert.deepEqual(await both(), closed);
      await fence.setNetwork(2, only(2, { policy: { groups: [7, 63] } }));
      await fence.setNetwork(3, only(3, { policy: { groups: [8] } }));
      assert.deepEqual(await both(), closed);
      await fence.setNetwork(3, only(3, { policy: { groups: [8, 63] } }));
      assert.deepEqual(await both(), open);
      assert.ok((await fence.readDenials(3)).every((d) => d.reason === 'guest' && d.address.endsWith('2')));
    });
  });

  test('addresses come and go under running sockets', async () => {
    await withWorld(async (world) => {
      const { outside, fence } = world;
      const two = await guest(world, 2);
      await two.run("a = serve(tcp(('0.0.0.0', 80)), 'two')");
      const at = async (address: string): Promise<unknown> => await outside.get(`ask(('${address}', 80))`);
      assert.equal(await at('10.7.0.4'), 'ECONNREFUSED');
      const more = only(2, { addresses4: [{ address: '10.7.0.2', prefix: 24 }, { address: '10.7.0.4' }] });
      await fence.setNetwork(2, more);
      assert.equal(await at('10.7.0.4'), 'two 10.7.0.4 10.7.0.100');
      await two.run("c = tcp(('10.7.0.4', 81))");
      await fence.setNetwork(2, only(2, { addresses4: [{ address: '10.7.0.4' }] }));
      assert.equal(await at('10.7.0.2'), 'ECONNREFUSED');
      assert.equal(await at('10.7.0.4'), 'two 10.7.0.4 10.7.0.100');
      await outside.run("serve(tcp(('0.0.0.0', 90)), 'out')");
      assert.equal(await two.get("ask(('10.7.0.100', 90))"), 'out 10.7.0.100 10.7.0.4');
      assert.equal(await two.get("code(tcp, ('10.7.0.2', 82))"), 'EADDRNOTAVAIL');
      await assert.rejects(
        fence.setNetwork(3, only(3, { addresses4: [{ address: '10.7.0.4' }] })),
        /address-in-use|found it in network 2/,
      );
      await fence.setNetwork(2, { addresses4: [], addresses6: [], ranges: ['10.7.0.8/30', 'fd07::8/125'] });
      assert.equal(await at('10.7.0.9'), 'two 10.7.0.9 10.7.0.100');
      assert.equal(await two.get("code(tcp, ('10.7.0.8', 82))"), 'ok');
      assert.equal(await two.get("code(tcp, ('10.7.0.7', 82))"), 'EADDRNOTAVAIL');
    });
  });

  test('an address the host shares goes to the context first, then to the host', async () => {
    await withWorld(async (world) => {
      const { outside } = world;
      const two = await guest(world, 2, {
        addresses4: [{ address: '10.7.0.1', shared: true }],
        addresses6: [],
      });
      await world.host.run(
        "a = serve(tcp(('0.0.0.0', 80)), 'host'); b = serve(tcp(('0.0.0.0', 81)), 'host')",
      );
      await two.run("a = serve(tcp(('0.0.0.0', 80)), 'two')");
      assert.equal(await outside.get("ask(('10.7.0.1', 80))"), 'two 10.7.0.1 10.7.0.100');
      assert.equal(await outside.get("ask(('10.7.0.1', 81))"), 'host 10.7.0.1 10.7.0.100');
      assert.equal(await outside.get("ask(('10.7.0.4', 80))"), 'host 10.7.0.4 10.7.0.100');
      // Not by the port that the kernel gave the listener.
      const real =
        "[int(w[1][9:], 16) for l in open('/proc/self/net/tcp') if (w := l.split())[3] == '0A' and w[1].startswith('0100070A')]";
      const [port] = (await world.host.get(real)) as readonly number[];
      assert.ok(port !== undefined && port > 1024);
      assert.equal(await outside.get(`ask(('10.7.0.1', ${port}))`), 'TimeoutError');
    });
  });

  test('socket options and kinds that reach past the fence are refused', async () => {
    await withWorld(async (world) => {
      const two = await guest(world, 2);
      const options: readonly (readonly [string, number, number, string])[] = [
        ['SO_MARK', 1, 36, '7'],
        ['SO_BINDTODEVICE', 1, 25, "b'lo'"],
        ['SO_BINDTOIFINDEX', 1, 62, '1'],
        ['IP_FREEBIND', 0, 15, '1'],
        ['IP_TRANSPARENT', 0, 19, '1'],
        ['IP_UNICAST_IF', 0, 50, '1'],
        ['IP_OPTIONS', 0, 4, "b'\\x07\\x03\\x04\\x00'"],
        ['IP_ADD_MEMBERSHIP', 0, 35, "socket.inet_aton('224.1.1.1') + bytes(4)"],
      ];
      for (const [name, level, number, value] of options)
        assert.equal(await two.get(`code(udp().setsockopt, ${level}, ${number}, ${value})`), 'EPERM', name);
      for (const [name, number, value] of [
        ['IPV6_TRANSPARENT', 75, '1'],
        ['IPV6_FREEBIND', 78, '1'],
        ['IPV6_UNICAST_IF', 76, '1'],
        ['IPV6_ADD_MEMBERSHIP', 20, "socket.inet_pton(10, 'ff02::5') + bytes(4)"],
      ])
        assert.equal(
          await two.get(`code(udp(family=10).setsockopt, 41, ${number}, ${value})`),
          'EPERM',
          String(name),
        );
      for (const [level, number, value] of [
        [1, 2, '1'],
        [1, 9, '1'],
        [6, 1, '1'],
        [0, 1, '16'],
      ])
        assert.equal(await two.get(`code(socket.socket().setsockopt, ${level}, ${number}, ${value})`), 'ok');
      assert.equal(await two.get('code(udp().setsockopt, 1, 26, bytes(6000))'), 'EINVAL'); // as without the fence
      assert.equal(await two.get('code(socket.socket, 2, 1, 262)'), 'EPROTONOSUPPORT', 'MPTCP');
      assert.equal(await two.get('code(socket.socket, 10, 1, 262)'), 'EPROTONOSUPPORT', 'MPTCP');
      assert.equal(await two.get('code(socket.socket, 2, 2, 136)'), 'EPROTONOSUPPORT', 'UDP-Lite');
      assert.equal(await two.get('code(socket.socket, 2, 3, 1)'), 'EPERM', 'raw');
      assert.ok(
        (await world.fence.readDenials(2)).some((d) => d.reason === 'socket-option' && d.port === 36),
      );
      await world.fence.setNetwork(2, only(2, { policy: { multicast: true, raw: true } }));
      assert.equal(
        await two.get(
          "code(udp().setsockopt, 0, 35, socket.inet_aton('224.1.1.1') + socket.inet_aton('10.7.0.2'))",
        ),
        'ok',
      );
      // A raw socket with headers of its own still sends from the context's addresses alone.
      await two.run(
        "r = socket.socket(2, 3, 255); h = lambda src: struct.pack('!BBHHHBBH4s4s', 69, 0, 20, 1, 0, 9, 253, 0, socket.inet_aton(src), socket.inet_aton('10.7.0.100'))",
      );
      assert.equal(await two.get("code(r.sendto, h('10.7.0.1'), ('10.7.0.100', 0))"), 'EPERM');
      assert.equal(await two.get("code(r.sendto, h('10.7.0.2'), ('10.7.0.100', 0))"), 'ok');
      // Nor does it help to look like an answer of TCP.
      const tcp =
        "h = lambda src, to: struct.pack('!BBHHHBBH4s4sHHIIHHHH', 69, 0, 40, 1, 0, 9, 6, 0, socket.inet_aton(src), socket.inet_aton(to), 80, 80, 0, 0, 0x5010, 0, 0, 0)";
      await two.run(tcp);
      assert.equal(await two.get("code(r.sendto, h('10.7.0.2', '10.7.0.100'), ('10.7.0.100', 0))"), 'ok');
      assert.equal(await two.get("code(r.sendto, h('10.7.0.1', '10.7.0.100'), ('10.7.0.100', 0))"), 'EPERM');
      assert.equal(
        await two.get("code(r.sendto, h('10.7.0.2', '169.254.169.254'), ('169.254.169.254', 0))"),
        'EPERM',
      );
    });
  });

  test('ports below 1024 are for the root of the context', async () => {
    await withWorld(async (world) => {
      await guest(world, 2);
      const [user, root] = [await world.agent(2), await world.agent(2)];
      await user.run('os.setuid(131073)');
      await root.run('os.setuid(131072)');
      assert.equal(await user.get("code(tcp, ('0.0.0.0', 80))"), 'EACCES');
      assert.equal(await user.get("code(udp, ('10.7.0.2', 53))"), 'EACCES');
      assert.equal(await user.get("code(tcp, ('0.0.0.0', 1024))"), 'ok');
      assert.equal(await root.get("code(tcp, ('0.0.0.0', 80))"), 'ok');
      assert.equal(await root.get("code(udp, ('10.7.0.2', 53))"), 'ok');
      await world.fence.setNetwork(2, only(2, { policy: { lowPorts: 'any' } }));
      assert.equal(await user.get("code(tcp, ('0.0.0.0', 80))"), 'ok');
    });
  });

  test('sockets stay under the fence of who made them, whoever holds them', async () => {
    await withWorld(async (world) => {
      const { host, outside } = world;
      const [two, three] = [await guest(world, 2), await guest(world, 3)];
      await outside.run("serve(tcp(('0.0.0.0', 90)), 'out')");
      const path = `${world.machine.root}/passed`;
      const pass = async (from: Agent, to: Agent, make: string): Promise<void> => {
        await to.run(
          `l = socket.socket(socket.AF_UNIX); l.bind('${path}'); l.listen(); os.chmod('${path}', 0o777)`,
        );
        await from.run(
          `m = ${make}; c = socket.socket(socket.AF_UNIX); c.connect('${path}'); socket.send_fds(c, [b'x'], [m.fileno()])`,
        );
        await to.run(
          `d = socket.recv_fds(l.accept()[0], 1, 1)[1][0]; g = socket.socket(fileno=d); l.close(); os.unlink('${path}')`,
        );
      };
      await pass(two, three, 'socket.socket()');
      assert.equal(await three.get("code(g.bind, ('10.7.0.3', 0))"), 'EADDRNOTAVAIL');
      assert.equal(await three.get("code(g.connect, ('10.7.0.100', 90))"), 'ok');
      assert.equal(await three.get('g.recv(99).decode()'), 'out 10.7.0.100 10.7.0.2');
      await pass(two, host, 'socket.socket()');
      assert.equal(await host.get("code(g.bind, ('10.7.0.1', 0))"), 'EADDRNOTAVAIL');
      assert.equal(await host.get("code(g.connect, ('169.254.169.254', 80))"), 'EPERM');
    });
  });

  test('a socket made before its cgroup was bound is fenced from then on', async () => {
    await withWorld(async (world) => {
      const { outside, fence } = world;
      await outside.run("serve(tcp(('0.0.0.0', 90)), 'out'); u = udp(('0.0.0.0', 92))");
      const two = await world.agent(2);
      await two.run(
        "s = socket.socket(); c = socket.create_connection(('10.7.0.100', 90)); v = udp(('10.7.0.1', 0)); v.sendto(b'1', ('10.7.0.100', 92))",
      );
      assert.equal(await outside.get('u.recvfrom(9)[1][0]'), '10.7.0.1');
      await fence.setNetwork(2, only(2));
      await fence.bindGuest(world.cgroup(2), 2);
      assert.equal(await two.get("code(s.bind, ('10.7.0.1', 0))"), 'EADDRNOTAVAIL');
      assert.notEqual(await two.get("code(v.sendto, b'2', ('10.7.0.100', 92))"), 'ok');
      assert.equal(await outside.get('code(u.recvfrom, 9)'), 'TimeoutError');
      await fence.unbindGuest(world.cgroup(2));
      assert.equal(await two.get("code(socket.socket().bind, ('10.7.0.1', 0))"), 'ok');
    });
  });

  test('ICMP echo goes out from an own address, and comes back', async () => {
    await withWorld(async (world) => {
      const two = await guest(world, 2);
      await two.run('s = socket.socket(2, 2, 1); s.settimeout(1)');
      await world.prepare(two, 's', 1);
      await two.run(
        "s.sendto(bytes([8, 0, 0, 0, 0, 0, 0, 1]) + b'hello', ('10.7.0.100', 0)); r, p = s.recvfrom(99)",
      );
      assert.deepEqual(await two.get('[s.getsockname()[0], p[0], r[0]]'), ['10.7.0.2', '10.7.0.100', 0]);
    });
  });

  test('packets and bytes are counted by family and protocol', async () => {
    await withWorld(async (world) => {
      const two = await guest(world, 2);
      await world.outside.run("l = tcp(('0.0.0.0', 90)); u = udp(('::', 92), socket.AF_INET6)");
      await two.run(
        "c = socket.create_connection(('10.7.0.100', 90)); c.sendall(bytes(100000)); v = udp(family=10); v.sendto(bytes(100), ('fd07::100', 92))",
      );
      await world.outside.run('p = l.accept()[0]\nn = 0\nwhile n < 100000: n += len(p.recv(65536))');
      const { tcp4, udp6, udp4 } = await world.fence.readCounters(2);
      assert.ok(tcp4.sent.bytes > 100_000 && tcp4.sent.bytes < 110_000, String(tcp4.sent.bytes));
      assert.ok(tcp4.received.packets > 1 && tcp4.received.bytes < 100_000);
      assert.deepEqual(
        [udp6.sent, udp4.sent],
        [
          { packets: 1, bytes: 148 },
          { packets: 0, bytes: 0 },
        ],
      );
    });
  });

  test('holds while nobody is there, and a new vserverd goes on with it', async () => {
    await withWorld(async (world) => {
      const { machine, outside } = world;
      const two = await guest(world, 2);
      await two.run("a = serve(tcp(('0.0.0.0', 80)), 'two')");
      const objects = await machine.restart(async () => {
        assert.equal(await outside.get("ask(('10.7.0.2', 80))"), 'two 10.7.0.2 10.7.0.100');
        assert.equal(await two.get("code(tcp, ('10.7.0.1', 80))"), 'EADDRNOTAVAIL');
      });
      const held = new Set(objects.map((object) => object.id));
      assert.ok(Object.values(world.fence.handles.objects).every((id) => held.has(id)));
      const again = openFence(machine.syscalld, JSON.parse(JSON.stringify(world.fence.handles)));
      again.adopt(2, only(2));
      await again.setNetwork(2, only(2, { addresses4: [{ address: '10.7.0.4' }] }));
      assert.equal(await outside.get("ask(('10.7.0.4', 80))"), 'two 10.7.0.4 10.7.0.100');
      assert.equal(await outside.get("ask(('10.7.0.2', 80))"), 'ECONNREFUSED');
      // syscalld's death takes the descriptors, but not what the programs hold.
      again.close();
      await setTimeout(100);
      assert.equal(await two.get("code(tcp, ('10.7.0.1', 80))"), 'EADDRNOTAVAIL');
      assert.equal(await outside.get("ask(('10.7.0.4', 80))"), 'ECONNREFUSED');
      const third = await recoverFence(machine.syscalld, again.handles);
      third.adopt(2, only(2, { addresses4: [{ address: '10.7.0.4' }] }));
      assert.equal(await outside.get("ask(('10.7.0.4', 80))"), 'two 10.7.0.4 10.7.0.100');
      await third.setNetwork(2, only(2));
      assert.equal(await outside.get("ask(('10.7.0.2', 80))"), 'two 10.7.0.2 10.7.0.100');
      // One that nobody has handles of any more is replaced; listeners begin anew.
      third.close();
      const fourth = await createFence(machine.syscalld, {
        cgroup: third.handles.cgroup,
        guestLevel: 2,
        netns: String(third.handles.netns),
      });
      await fourth.setNetwork(2, only(2));
      await fourth.bindGuest(world.cgroup(2), 2);
      await two.run("b = serve(tcp(('0.0.0.0', 81)), 'two')");
      assert.equal(await outside.get("ask(('10.7.0.2', 81))"), 'two 10.7.0.2 10.7.0.100');
      assert.equal(await two.get("code(tcp, ('10.7.0.1', 80))"), 'EADDRNOTAVAIL');
      await assert.rejects(
        recoverFence(machine.syscalld, {
          ...fourth.handles,
          maps: { ...fourth.handles.maps, guests: fourth.handles.maps.networks },
        }),
        { code: 'program-failed' },
      );
      fourth.close();
    });
  });

  test('multicast and broadcast are received where policy has them', async () => {
    await withWorld(async (world) => {
      const { outside } = world;
      const [two, three] = [
        await guest(world, 2, only(2, { policy: { multicast: true } })),
        await guest(world, 3),
      ];
      await two.run(
        "u = udp(('0.0.0.0', 5353), reuse=2); u.setsockopt(0, 35, socket.inet_aton('224.0.0.251') + socket.inet_aton('10.7.0.2'))",
      );
      await two.run("b = udp(('10.7.0.255', 67))");
      await outside.run(
        "c = udp(); c.setsockopt(0, 32, socket.inet_aton('10.7.0.100')); c.setsockopt(1, 6, 1)",
      );
      await outside.run(
        "c.sendto(b'm', ('224.0.0.251', 5353)); c.sendto(b'b', ('10.7.0.255', 67)); c.sendto(b'u', ('10.7.0.2', 5353))",
      );
      assert.deepEqual(
        await two.get('sorted([u.recv(9).decode(), u.recv(9).decode(), b.recv(9).decode()])'),
        ['b', 'm', 'u'],
      );
      await outside.run("c.sendto(b'x', ('10.7.0.1', 5353)); c.sendto(b'x', ('10.7.0.3', 5353))");
      assert.equal(await two.get('code(u.recv, 9)'), 'TimeoutError', 'what is for others');
      assert.equal(await three.get("code(udp().sendto, b'x', ('224.0.0.251', 5353))"), 'EPERM');
      assert.equal(await three.get("code(udp, ('10.7.0.255', 67))"), 'EADDRNOTAVAIL');
      await outside.run("w = udp(('10.7.0.100', 5353))");
      await two.run("s = udp(); s.sendto(b'y', ('224.0.0.251', 5353)); s.sendto(b'z', ('10.7.0.100', 5353))");
      assert.deepEqual(await outside.get('w.recvfrom(9)[1][0]'), '10.7.0.2');
    });
  });

  test('two cgroups may be one network context', async () => {
    await withWorld(async (world) => {
      const two = await guest(world, 2);
      await world.fence.bindGuest(world.cgroup(9), 2);
      const nine = await world.agent(9);
      await two.run("a = serve(tcp(('127.0.0.1', 80)), 'two'); b = serve(tcp(('0.0.0.0', 81)), 'two')");
      assert.equal(await nine.get("ask(('127.0.0.1', 80))"), 'two 127.0.0.1 127.0.0.1');
      assert.equal(await nine.get("code(tcp, ('0.0.0.0', 81))"), 'EADDRINUSE');
      await nine.run("c = serve(tcp(('0.0.0.0', 82)), 'nine')");
      assert.equal(await world.outside.get("ask(('10.7.0.2', 82))"), 'nine 10.7.0.2 10.7.0.100');
    });
  });

  test("listen() without bind() is at the own addresses, at a port of the kernel's", async () => {
    await withWorld(async (world) => {
      const two = await guest(world, 2);
      await two.run("s = socket.socket(); s.listen(); n = s.getsockname(); serve(s, 'two')");
      const [address, port] = (await two.get('n')) as readonly [string, number];
      assert.equal(address, '0.0.0.0');
      assert.equal(await world.outside.get(`ask(('10.7.0.2', ${port}))`), 'two 10.7.0.2 10.7.0.100');
      assert.equal(await world.outside.get(`ask(('10.7.0.1', ${port}))`), 'TimeoutError');
      await two.run("t = tcp(('0.0.0.0', 0)); m = t.getsockname(); serve(t, 'two')");
      const [, chosen] = (await two.get('m')) as readonly [string, number];
      assert.ok(chosen > 0);
      assert.equal(await world.outside.get(`ask(('10.7.0.2', ${chosen}))`), 'two 10.7.0.2 10.7.0.100');
      assert.equal(await two.get(`ask(('127.0.0.1', ${chosen}))`), 'two 127.0.0.1 127.0.0.1');
      assert.equal(await world.outside.get(`ask(('10.7.0.1', ${chosen}))`), 'ECONNREFUSED');
    });
  });

  test('sockets of another namespace, and cgroups of no context, are left alone', async () => {
    await withWorld(async (world) => {
      const two = await guest(world, 2);
      await two.run('import ctypes; ctypes.CDLL(None).unshare(0x40000000)');
      await two.run(
        "r = socket.socket(2, 3, 1); m = socket.socket(2, 1, 262); s = socket.socket(); s.bind(('0.0.0.0', 80)); s.listen()",
      );
      assert.deepEqual(await two.get('s.getsockname()'), ['0.0.0.0', 80]);
      assert.equal(await two.get('code(udp().setsockopt, 1, 36, 7)'), 'ok');
      const free = await world.agent(8);
      assert.equal(await free.get("code(socket.socket().bind, ('10.7.0.1', 0))"), 'ok');
      assert.equal(await free.get('code(udp().setsockopt, 1, 36, 7)'), 'ok');
      assert.deepEqual(await world.fence.readDenials(), []);
    });
  });

  test('io_uring makes, connects and binds sockets inside the fence', async (t) => {
    await withWorld(async (world) => {
      const two = await guest(world, 2);
      await world.outside.run("a = serve(tcp(('0.0.0.0', 90)), 'out')");
      await two.run(URING);
      if ((await two.get('uring(0)')) === 'EPERM') {
        t.skip('needs io_uring');
        return;
      }
      await two.run('s = socket.socket(fileno=uring(45, fd=2, off=1, length=0))'); // IORING_OP_SOCKET
      assert.equal(await two.get("uring(16, s.fileno(), address('169.254.169.254', 80), 16)"), 'EPERM');
      assert.equal(await two.get("uring(16, s.fileno(), address('10.7.0.100', 90), 16)"), 0);
      assert.equal(await two.get('s.recv(99).decode()'), 'out 10.7.0.100 10.7.0.2');
      assert.equal(await two.get('uring(45, fd=2, off=3, length=1)'), 'EPERM'); // raw
      await two.run('b = socket.socket()');
      const bound = await two.get("uring(56, b.fileno(), address('10.7.0.1', 80), 16)"); // IORING_OP_BIND, 6.11
      assert.ok(bound === 'EADDRNOTAVAIL' || bound === 'EINVAL', String(bound));
    });
  });

  test('bandwidth is limited in both directions, live', async () => {
    await withWorld(async (world) => {
      const { fence, outside } = world;
      const limited = only(2, { bandwidth: { sendBytesPerSecond: 2e6, receiveBytesPerSecond: 1e6 } });
      const two = await guest(world, 2, limited);
      await outside.run(`
def sink():
    c = l.accept()[0]; c.settimeout(20); n = 0
    while d := c.recv(65536): n += len(d)
    return n
def source():
    c = l.accept()[0]; c.settimeout(20); c.sendall(bytes(2000000)); c.close()
l = tcp(('0.0.0.0', 90)); l.settimeout(20)
names.update(sink=sink, source=source, l=l)`);
      await two.run(`
def timed(send):
    c = socket.create_connection(('10.7.0.100', 90)); c.settimeout(20); t = time.monotonic()
    if send: c.sendall(bytes(2000000)); c.shutdown(1)
    while c.recv(65536): pass
    return time.monotonic() - t
names.update(timed=timed)`);
      const timed = async (isSent: boolean): Promise<number> => {
        await outside.run(`threading.Thread(target=${isSent ? 'sink' : 'source'}, daemon=True).start()`);
        return Number(await two.get(`timed(${isSent ? 1 : 0})`));
      };
      const [sent, received] = [await timed(true), await timed(false)];
      assert.ok(sent > 0.6, `2 MB at 2 MB/s in ${sent} s`);
      assert.ok(received > 1.2, `2 MB at 1 MB/s in ${received} s`);
      assert.ok(sent < 10 && received < 15, `${sent} s, ${received} s`);
      await fence.setNetwork(2, only(2));
      assert.ok((await timed(true)) < 0.6 && (await timed(false)) < 0.6);
    });
  });
});
