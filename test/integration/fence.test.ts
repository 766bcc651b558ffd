/** The fence on this host's kernel: whose addresses a socket has, and who is found there. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { setTimeout } from 'node:timers/promises';
import { createFence, openFence, recoverFence } from '../../src/network/fence.ts';
import type { NetworkRules } from '../../src/network/rules.ts';
import { guest, only, withWorld } from '../lib/fence-world.ts';
import { unmet } from '../lib/requires.ts';

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
      await two.run('stop(s)');
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
      await two.run('stop(a)');
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

  for (const [where, address, family] of [
    ['a wildcard', '0.0.0.0', 4],
    ['an address', '10.7.0.2', 4],
    ['an IPv6 address', 'fd07::2', 6],
  ] as const) {
    test(`UDP at ${where} that has a peer hears nobody else, and neither does the host at that port`, async () => {
      await withWorld(async (world) => {
        const { host, outside } = world;
        const two = await guest(world, 2);
        const [ofHost, ofGuest, ofOutside] =
          family === 4 ? ['10.7.0.1', '10.7.0.2', '10.7.0.100'] : ['fd07::1', 'fd07::2', 'fd07::100'];
        const [every, socket] = family === 4 ? ['0.0.0.0', 'socket.AF_INET'] : ['::', 'socket.AF_INET6'];
        const make = `udp(family=${socket}, reuse=socket.SO_REUSEADDR)`;
        await two.run(`u = ${make}`);
        await world.prepare(two, 'u');
        await host.run(`h = udp(('${every}', 5300), ${socket}, socket.SO_REUSEADDR)`);
        await two.run(`u.bind(('${address}', 5300))`);
        await outside.run(`o = ${make}; p = udp(('${ofOutside}', 9), ${socket})`);
        const hears = async (from: 'o' | 'p', word: string): Promise<void> => {
          await outside.run(`${from}.sendto(b'${word}', ('${ofGuest}', 5300))`);
          assert.equal(await two.get('u.recv(9).decode()'), word);
        };
        await hears('o', 'before');
        await two.run(`u.connect(('${ofOutside}', 9))`);
        await outside.run(`o.sendto(b'stray', ('${ofGuest}', 5300)); o.sendto(b'host', ('${ofHost}', 5300))`);
        assert.equal(await host.get('h.recv(9).decode()'), 'host');
        await hears('p', 'peer');
        // Another socket at the port takes what is not from the peer, as a server does that has one for each client.
        await two.run(`v = u; u = ${make}`);
        await world.prepare(two, 'u');
        await two.run(`u.bind(('${address}', 5300))`);
        await hears('o', 'new');
        await two.run(
          `u.close(); u = v; import ctypes; ctypes.CDLL(None).connect(u.fileno(), bytes(16), 16)`,
        );
        await hears('o', 'after');
      });
    });
  }

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
      // A source that is not its own, with an address to send to and without.
      await two.run(
        "spoof = lambda s, ip, to: code(s.sendmsg, [b'x'], [(0, 8, struct.pack('=I4s4s', 0, socket.inet_aton(ip), bytes(4)))], 0, *to)",
      );
      await two.run(
        "spoof6 = lambda s, ip, to: code(s.sendmsg, [b'x'], [(41, 50, socket.inet_pton(10, ip) + bytes(4))], 0, *to)",
      );
      await two.run(
        "c = udp(); c.connect(('10.7.0.100', 9)); e = udp(family=10); e.connect(('fd07::100', 9)); f = udp(family=10)",
      );
      await two.run("to, to6 = [('10.7.0.100', 9)], [('fd07::100', 9)]");
      for (const [call, own, foreign] of [
        ["spoof(u, '#', to)", '10.7.0.4', '10.7.0.1'],
        ["spoof(c, '#', [])", '10.7.0.4', '10.7.0.1'],
        ["spoof6(w, '#', to6)", 'fd07::2', 'fd07::1'],
        ["spoof6(e, '#', [])", 'fd07::2', 'fd07::1'],
        ["spoof6(f, '#', to6)", 'fd07::2', 'fd07::1'],
      ] as const) {
        assert.equal(await two.get(call.replace('#', own)), 'ok', call);
        assert.equal(await two.get(call.replace('#', foreign)), 'EADDRNOTAVAIL', call);
      }
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
      assert.equal(await outside.get(`ask(('10.7.0.1', ${port}), within=1)`), 'TimeoutError');
    });
  });

  test('UDP answers from the asked address also where another is nearer, and without being told', async () => {
    await withWorld(async (world) => {
      const { outside } = world;
      world.ip('route', 'add', 'default', 'dev', 'wire'); // the broker's way to a port ends otherwise then
      const two = await guest(world, 2, {
        addresses4: [
          { address: '10.7.0.2', prefix: 24 },
          { address: '10.8.0.2', prefix: 24 },
        ],
        addresses6: [
          { address: 'fd07::2', prefix: 64 },
          { address: 'fd07::4', prefix: 64 },
        ],
      });
      for (const [name, any, family] of [
        ['u', '0.0.0.0', 'AF_INET'],
        ['w', '::', 'AF_INET6'],
        ['x', '::', 'AF_INET6'],
      ]) {
        await two.run(`${name} = udp(family=socket.${family})`);
        await world.prepare(two, String(name));
        if (name === 'x') await two.run('x.setsockopt(41, 26, 1)'); // IPV6_V6ONLY
        await two.run(`${name}.bind(('${any}', ${{ u: 53, w: 54, x: 55 }[String(name)]}))`);
      }
      const cases: readonly (readonly [string, string, string, number])[] = [
        ['u', '10.7.0.100', '10.7.0.2', 53],
        ['u', '10.7.0.100', '10.8.0.2', 53],
        ['u', '10.8.0.100', '10.7.0.2', 53],
        ['w', '10.8.0.100', '10.7.0.2', 54],
        ['w', 'fd07::100', 'fd07::4', 54],
        ['x', 'fd07::100', 'fd07::4', 55],
        ['x', 'fd07::100', 'fd07::2', 55],
      ];
      for (const [name, from, to, port] of cases) {
        const family = from.includes(':') ? 'AF_INET6' : 'AF_INET';
        await outside.run(`c = udp(('${from}', 0), socket.${family}); c.sendto(b'q', ('${to}', ${port}))`);
        await two.run(`d, p = ${name}.recvfrom(9); ${name}.sendto(d, p)`);
        assert.deepEqual(await outside.get('c.recvfrom(9)[1][:2]'), [to, port], `${from} asked ${to}`);
      }
      await two.run("c = udp(family=10); c.sendto(b'q', ('::1', 55)); d, p = x.recvfrom(9); x.sendto(d, p)");
      assert.deepEqual(await two.get('c.recvfrom(9)[1][:2]'), ['::1', 55]);
    });
  });

  test('ICMP echo goes out from an own address, and comes back', async () => {
    await withWorld(async (world) => {
      const two = await guest(world, 2);
      await two.run('s = socket.socket(2, 2, 1); s.settimeout(20)');
      await world.prepare(two, 's', 1);
      await two.run(
        "s.sendto(bytes([8, 0, 0, 0, 0, 0, 0, 1]) + b'hello', ('10.7.0.100', 0)); r, p = s.recvfrom(99)",
      );
      assert.deepEqual(await two.get('[s.getsockname()[0], p[0], r[0]]'), ['10.7.0.2', '10.7.0.100', 0]);
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
        uncountedMemory: '/nowhere/cgroup.procs', // then it is counted where we are
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
      assert.equal(await world.outside.get(`ask(('10.7.0.1', ${port}), within=1)`), 'TimeoutError');
      assert.equal(await two.get(`code(tcp, ('0.0.0.0', ${port}))`), 'EADDRINUSE', 'it is taken');
      await two.run('stop(s)');
      assert.equal(await two.get(`code(tcp, ('0.0.0.0', ${port}))`), 'ok', 'it is free again');
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
});
