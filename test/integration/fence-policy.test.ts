/** The fence on this host's kernel: whom a socket may reach, and what it may be. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { type Agent, guest, only, withWorld } from '../lib/fence-world.ts';
import { eventually } from '../lib/instance.ts';
import { unmet } from '../lib/requires.ts';

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

describe('fence and policy', { skip: unmet('root', 'cgroup2') }, () => {
  test('a context has no more sockets than it may, whatever becomes of them', async () => {
    await withWorld(async (world) => {
      const { fence } = world;
      const two = await guest(world, 2, only(2, { sockets: 5 }));
      const usage = async (): Promise<unknown> => (await fence.readSockets()).get(2);
      await two.run(
        [
          'kinds = [(2, 1), (10, 1), (2, 2), (10, 2), (2, 1)]',
          'def make(n): return [socket.socket(*kinds[i]) for i in range(n)]',
          's = make(5)',
        ].join('\n'),
      );
      assert.deepEqual(
        await two.get(
          '[code(socket.socket, 2, 1), code(socket.socket, 10, 2), code(socket.socket, socket.AF_UNIX)]',
        ),
        ['ENOBUFS', 'ENOBUFS', 'ok'],
      );
      assert.deepEqual(await usage(), { current: 5, peak: 5, refused: 2 });
      // What is accepted is a copy of the listener's, and nobody's when it is closed.
      await two.run(
        [
          '[x.close() for x in s[1:]]; l = s[0]; l.listen()',
          'for i in range(20):',
          "    c = socket.socket(); c.connect(('127.0.0.1', l.getsockname()[1])); a, _p = l.accept(); a.close(); c.close()",
          'l.close()',
        ].join('\n'),
      );
      assert.deepEqual(await usage(), { current: 0, peak: 5, refused: 2 });
      await fence.setNetwork(2, only(2, { sockets: 2 }));
      assert.equal(await two.get('code(make, 3)'), 'ENOBUFS');
      await fence.setNetwork(2, only(2));
      await two.run('s = make(5) + make(5)');
      assert.deepEqual(await usage(), { current: 10, peak: 10, refused: 3 });
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
      assert.equal(await outside.get('p.settimeout(60) or p.recv(9).decode()'), '2'); // TCP has tried again
      await fence.removeNetwork(2);
      await two.run("code(c.send, b'3')");
      assert.equal(await outside.get('p.settimeout(0.7) or code(p.recv, 9)'), 'TimeoutError');
      assert.equal(await two.get("ask(('10.7.0.100', 90))"), 'EPERM');
    });
  });

  test('a packet that was right speaks for those from and to the same alone, until an edit', async () => {
    await withWorld(async ({ outside, fence, ...world }) => {
      const peers = { policy: { peers: [3] } };
      const two = await guest({ outside, fence, ...world }, 2);
      const three = await guest({ outside, fence, ...world }, 3);
      for (const [family, prefix, port] of [
        [2, '10.7.0.', 61],
        [10, 'fd07::', 62],
      ] as const) {
        const at = (host: number, port: number): string => `('${prefix}${host}', ${port})`;
        const receives = 'sum(1 for _ in iter(lambda: code(v.recv, 9), "TimeoutError"))';
        const send = async (from: Agent, times: number): Promise<void> => {
          await from.run(`for _ in range(${times}): code(w.sendto, b'x', ${at(2, 60)})`);
        };
        await fence.setNetwork(2, only(2));
        await two.run(`v = udp(${at(2, 60)}, ${family}); v.settimeout(1)`);
        for (const [agent, host] of [
          [outside, 100],
          [three, 3],
        ] as const)
          await agent.run(`w = udp(${at(host, port)}, ${family})`);
        for (const turn of [1, 2]) {
          await send(outside, 3);
          await send(three, 3);
          assert.equal(await two.get(receives), 3, `from outside alone, turn ${turn}`);
        }
        await fence.setNetwork(2, only(2, peers));
        await send(three, 3);
        await send(outside, 3);
        assert.equal(await two.get(receives), 6);
        await send(three, 1);
        await fence.setNetwork(2, only(2));
        await send(three, 3);
        assert.equal(await two.get(receives), 1, 'from a guest that is no peer any more');
        // A connected socket asks nobody but the program for packets.
        await two.run(`c = udp(None, ${family}); c.connect(${at(100, port)})`);
        assert.deepEqual(await two.get("[code(c.send, b'x') for _ in range(3)]"), ['ok', 'ok', 'ok']);
        await fence.setNetwork(2, only(2, { policy: { otherwise: 'deny' } }));
        assert.equal(await two.get("code(c.send, b'x')"), 'EPERM');
      }
    });
  });

  test('a listener that was right for one port of a peer is not for all, if it has connected before', async () => {
    await withWorld(async (world) => {
      const { outside, fence } = world;
      const allow = { action: 'allow', to: '10.7.0.100', protocol: 'tcp', ports: [5001, 5001] } as const;
      const two = await guest(world, 2, only(2, { policy: { otherwise: 'deny', egress: [allow] } }));
      await two.run(`
l = socket.socket(); code(l.connect, ('10.7.0.100', 5001)); l.listen()
names.update(l=l, port=l.getsockname()[1])`);
      const port = Number(await two.get('port'));
      const connect = (from: number): string =>
        `s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); s.bind(('10.7.0.100', ${from})); s.settimeout(0.5); r = code(s.connect, ('10.7.0.2', ${port})); names.update(r=r)`;
      await outside.run(connect(5001).replace('0.5', '60'));
      assert.equal(await outside.get('r'), 'ok');
      await outside.run(connect(5002));
      assert.equal(await outside.get('r'), 'TimeoutError');
      const denied = (await fence.readDenials(2)).filter((d) => d.reason === 'policy');
      assert.deepEqual([...new Set(denied.map((d) => [d.direction, d.port].join()))], ['out,5002']);
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

  test('so are those of other clouds, also by a translator; Azure gives names at one of them', async () => {
    await withWorld(async (world) => {
      const two = await guest(world, 2);
      const four = ['169.254.170.2', '169.254.170.23', '169.254.0.23', '169.254.42.42', '100.100.100.200'];
      const six = ['fd00:ec2::23', 'fd20:ce::254', 'fd00:c1::a9fe:a9fe', 'fd00:42::42'];
      const translated = ['64:ff9b::169.254.169.254', '64:ff9b::168.63.129.16'];
      for (const at of [...four, '168.63.129.16']) {
        assert.equal(await two.get(`ask(('${at}', 80))`), 'EPERM', at);
        assert.equal(await two.get(`ask(('::ffff:${at}', 80), socket.AF_INET6)`), 'EPERM', at);
        assert.equal(await two.get(`code(udp().sendto, b'x', ('${at}', 80))`), 'EPERM', at);
      }
      for (const at of [...six, ...translated])
        assert.equal(await two.get(`ask(('${at}', 80), socket.AF_INET6)`), 'EPERM', at);
      assert.equal(await two.get("ask(('fe80::a9fe:a9fe', 80, 0, 2), socket.AF_INET6)"), 'EPERM');
      for (const at of ['168.63.129.17', '100.100.100.201', '169.254.169.253'])
        assert.notEqual(await two.get(`code(udp().sendto, b'x', ('${at}', 80))`), 'EPERM', at);
      assert.notEqual(await two.get("code(udp().sendto, b'x', ('168.63.129.16', 53))"), 'EPERM');
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
      await world.fence.setNetwork(2, only(2, { policy: { multicast: true, raw: 'all' } }));
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
      // Nor does a first good packet speak for those after it.
      await two.run('t = socket.socket(2, 3, 6); t.setsockopt(0, 3, 1)'); // IP_HDRINCL
      assert.equal(await two.get("code(t.sendto, h('10.7.0.2', '10.7.0.100'), ('10.7.0.100', 0))"), 'ok');
      assert.equal(await two.get("code(t.sendto, h('10.7.0.1', '10.7.0.100'), ('10.7.0.100', 0))"), 'EPERM');
      // Nor may it choose the way: options of IPv4, a routing header of IPv6.
      await two.run(
        "o = lambda head: bytes([head]) + struct.pack('!BHHHBBH4s4s', 0, 24, 1, 0, 9, 253, 0, socket.inet_aton('10.7.0.2'), socket.inet_aton('10.7.0.100')) + bytes(4)",
      );
      assert.equal(await two.get("code(r.sendto, o(0x45), ('10.7.0.100', 0))"), 'ok');
      assert.equal(await two.get("code(r.sendto, o(0x46), ('10.7.0.100', 0))"), 'EPERM');
      await two.run(
        "q = socket.socket(10, 3, 255); q.setsockopt(41, 36, 1); w = lambda next: struct.pack('!IHBB', 0x60000000, 24, next, 9) + socket.inet_pton(10, 'fd07::2') + socket.inet_pton(10, 'fd07::100') + bytes([59, 2, 2, 1]) + bytes(4) + socket.inet_pton(10, 'fd07::100')",
      );
      assert.equal(await two.get("code(q.sendto, w(59), ('fd07::100', 0))"), 'ok');
      assert.equal(await two.get("code(q.sendto, w(43), ('fd07::100', 0))"), 'EPERM');
      assert.ok(
        (await world.fence.readDenials(2)).some(
          (d) => d.reason === 'socket-option' && d.address === '10.7.0.100',
        ),
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
      assert.equal(await outside.get('u.settimeout(0.5) or code(u.recvfrom, 9)'), 'TimeoutError');
      await fence.unbindGuest(world.cgroup(2));
      assert.equal(await two.get("code(socket.socket().bind, ('10.7.0.1', 0))"), 'ok');
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
      assert.equal(
        await two.get('u.settimeout(0.5) or code(u.recv, 9)'),
        'TimeoutError',
        'what is for others',
      );
      assert.equal(await three.get("code(udp().sendto, b'x', ('224.0.0.251', 5353))"), 'EPERM');
      assert.equal(await three.get("code(udp, ('10.7.0.255', 67))"), 'EADDRNOTAVAIL');
      await outside.run("w = udp(('10.7.0.100', 5353))");
      await two.run("s = udp(); s.sendto(b'y', ('224.0.0.251', 5353)); s.sendto(b'z', ('10.7.0.100', 5353))");
      assert.deepEqual(await outside.get('w.recvfrom(9)[1][0]'), '10.7.0.2');
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
    c = l.accept()[0]; c.settimeout(60); n = 0
    while d := c.recv(65536): n += len(d)
    return n
def source():
    c = l.accept()[0]; c.settimeout(60); c.sendall(bytes(2000000)); c.close()
l = tcp(('0.0.0.0', 90)); l.settimeout(60)
names.update(sink=sink, source=source, l=l)`);
      await two.run(`
def timed(send):
    c = socket.create_connection(('10.7.0.100', 90)); c.settimeout(60); t = time.monotonic()
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
      await fence.setNetwork(2, only(2));
      // A busy machine is slow without a limit, too, but not each time.
      for (const isSent of [true, false])
        await eventually('a fast one', async () => ((await timed(isSent)) < 0.6 ? true : undefined), 120_000);
    });
  });

  test('no context takes the ports of all', async () => {
    await withWorld(async (world) => {
      const [two, three] = [await guest(world, 2), await guest(world, 3)];
      await two.run(`
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (9000, 9000))
held = []
for port in range(20000, 28300):
    s = socket.socket(); held.append(s)
    answer = code(s.bind, ('0.0.0.0', port))
    if answer != 'ok': break
names.update(held=held, answer=answer)`);
      assert.deepEqual(await two.get('[len(held), answer]'), [8193, 'ENOBUFS']);
      assert.equal(await three.get("code(tcp, ('0.0.0.0', 20000))"), 'ok');
      await two.run("u = socket.socket(); u.listen(); serve(u, 'two')");
      assert.notEqual(await two.get("ask(('127.0.0.1', u.getsockname()[1]))"), 'two 127.0.0.1 127.0.0.1');
      await two.run('for s in held[:10]: s.close()');
      assert.equal(await two.get("code(tcp, ('0.0.0.0', 80))"), 'ok');
    });
  });

  test('no context takes the UDP sockets of all', async () => {
    await withWorld(async (world) => {
      const [two, three] = [await guest(world, 2), await guest(world, 3)];
      await two.run(`
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (9000, 9000))
held = []
def more():
    held.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
while len(held) < 8300:
    answer = code(more)
    if answer != 'ok': break
names.update(held=held, more=more, answer=answer)`);
      assert.deepEqual(await two.get('[len(held), answer]'), [8192, 'ENOBUFS']);
      assert.equal(await three.get('code(socket.socket, socket.AF_INET, socket.SOCK_DGRAM)'), 'ok');
      await two.run('for s in held[:10]: s.close()');
      assert.equal(await two.get('code(more)'), 'ok', 'a closed one makes room');
      assert.equal(await two.get('code(socket.socket)'), 'ok', 'TCP sockets are not counted');
    });
  });
});
