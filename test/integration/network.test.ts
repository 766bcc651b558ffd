/** Guests with addresses of their own on the host's network, in a network namespace that stands for the host's. */
import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, existsSync, mkdirSync, readdirSync, readFileSync, watch, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, afterEach, before, beforeEach, describe, test } from 'node:test';
import { isDeepStrictEqual } from 'node:util';
import { cgroupsOf, eventually, type OpenInstance, openInstance } from '../lib/instance.ts';
import { openNetwork, type TestNetwork } from '../lib/network.ts';
import { buildProbe, parseFindings } from '../lib/probe.ts';
import { unmet } from '../lib/requires.ts';

const PYTHON = '/usr/bin/python3';

/** Answers each connection, or datagram, with where it came to and from, and what it got. */
const SERVER = `
import socket, sys
family = socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET
kind = socket.SOCK_DGRAM if sys.argv[3] == 'udp' else socket.SOCK_STREAM
s = socket.socket(family, kind)
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind((sys.argv[1], int(sys.argv[2])))
if kind == socket.SOCK_STREAM: s.listen()
print('ready', flush=True)
while True:
    if kind == socket.SOCK_STREAM:
        c, peer = s.accept()
        c.sendall(f'{sys.argv[4]} {c.getsockname()[0]} {peer[0]} '.encode() + c.recv(100))
        c.close()
    else:
        data, peer = s.recvfrom(100)
        s.sendto(f'{sys.argv[4]} {s.getsockname()[0]} {peer[0]} '.encode() + data, peer)
`;
const CLIENT = `
import socket, sys
family = socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET
s = socket.socket(family, socket.SOCK_DGRAM if sys.argv[3] == 'udp' else socket.SOCK_STREAM)
s.settimeout(20)
if len(sys.argv) > 4: s.bind((sys.argv[4], 0))
at = (sys.argv[1], int(sys.argv[2]))
if sys.argv[3] == 'udp':
    s.sendto(b'hello', at) # answers may come from another of its addresses, as on the host
    print(s.recvfrom(200)[0].decode())
else:
    s.connect(at)
    s.sendall(b'hello')
    print(s.recv(200).decode())
`;
/** A name server that knows one name. */
const NAMES = `
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('10.9.0.1', 53)); print('ready', flush=True)
while True:
    q, peer = s.recvfrom(512)
    end = q.index(b'\\0', 12) + 5
    known = q[12:end] == b'\\2db\\7example\\3org\\0\\0\\1\\0\\1'
    answer = b'\\xc0\\x0c\\0\\1\\0\\1\\0\\0\\0\\x3c\\0\\4' + socket.inet_aton('10.9.0.77') if known else b''
    code = b'\\x81\\x80' if q[12:end - 4] == b'\\2db\\7example\\3org\\0' else b'\\x81\\x83'
    s.sendto(q[:2] + code + b'\\0\\1' + (b'\\0\\1' if known else b'\\0\\0') + bytes(4) + q[12:end] + answer, peer)
`;
/** Pings by a raw socket, as ping and traceroute do. */
const RAW = `
import errno, socket, struct
def ping(to, source=None, kind=None):
    v6 = ':' in to
    s = socket.socket(10 if v6 else 2, 3, 58 if v6 else 1); s.settimeout(20)
    if source: s.bind((source, 0))
    kind = kind or (128 if v6 else 8)
    packet = struct.pack('!BBHHH', kind, 0, 0, 77, 1)
    total = sum(struct.unpack('!4H', packet)); total = (total & 0xffff) + (total >> 16)
    s.sendto(packet[:2] + struct.pack('!H', ~total & 0xffff) + packet[4:], (to, 0))
    while True:
        data, peer = s.recvfrom(200)
        if data[0 if v6 else 20] == (129 if v6 else 0): return peer[0]
def code(f, *args):
    try: f(*args); return 'ok'
    except OSError as e: return errno.errorcode.get(e.errno, type(e).__name__)
`;
const PING = `
import socket, struct, sys
v6 = ':' in sys.argv[1]
s = socket.socket(socket.AF_INET6 if v6 else socket.AF_INET, socket.SOCK_DGRAM, 58 if v6 else 1)
s.settimeout(20)
s.sendto(struct.pack('!BBHHH', 128 if v6 else 8, 0, 0, 0, 7) + b'echo', (sys.argv[1], 0))
answer, peer = s.recvfrom(200)
print(peer[0], answer[8:].decode())
`;

describe('network', { skip: unmet('root', 'overlay', 'network') }, () => {
  let host: TestNetwork;
  let v: OpenInstance;
  before(async () => {
    host = await openNetwork();
  });
  after(() => host.close());
  beforeEach(async () => {
    v = await openInstance({ under: host.under });
  });
  afterEach(async () => {
    await v.close();
    assert.deepEqual(hostAddresses(), ['10.9.0.1/24', 'fd09::1/64'], 'no address is left on the host');
  });

  const hostAddresses = (): readonly string[] =>
    host
      .run('ip', '-o', 'addr', 'show', 'dev', 'h0', 'scope', 'global')
      .split('\n')
      .filter((line) => line !== '')
      .map((line) => /inet6? (\S+)/.exec(line)?.[1] ?? line)
      .sort();
  const running: ChildProcess[] = [];
  afterEach(() => {
    for (const child of running.splice(0)) child.kill('SIGKILL');
  });
  /** Starts a server, by a command of a guest that runs, and waits until it listens. */
  const serve = async (name: string, address: string, port: number, kind = 'tcp'): Promise<void> => {
    const child = v.spawn(['exec', name, PYTHON, '-c', SERVER, address, String(port), kind, name]);
    running.push(child);
    const said = once(child.stdout!, 'data');
    const failed = once(child.stderr!, 'data').then(([text]) => assert.fail(String(text)));
    assert.match(String((await Promise.race([said, failed]))[0]), /^ready/);
    failed.catch(() => {}); // when it is killed
  };
  const guest = async (name: string, ...options: readonly string[]): Promise<void> => {
    await v.ok(['run', '-d', '--name', name, '--network-interface', 'h0', ...options, '--', 'sleep', '1000']);
  };
  const python = (name: string, script: string, ...words: readonly string[]): Promise<string> =>
    v.ok(['exec', name, PYTHON, '-c', script, ...words]);

  const daemons = async (): Promise<{ vserverdPid: number; syscalldPid: number }> =>
    JSON.parse(await v.ok(['daemon', 'status', '--json'])) as { vserverdPid: number; syscalldPid: number };

  /** The same server on the host. */
  const serveOnHost = async (address: string, port: number, kind = 'tcp'): Promise<void> => {
    const [program = '', ...rest] = [
      ...host.under,
      PYTHON,
      '-c',
      SERVER,
      address,
      String(port),
      kind,
      'host',
    ];
    const child = spawn(program, rest, { stdio: ['ignore', 'pipe', 'inherit'] });
    running.push(child);
    assert.match(String((await once(child.stdout, 'data'))[0]), /^ready/);
  };
  const ask = (address: string, port: number, kind = 'tcp'): string =>
    host.run(PYTHON, '-c', CLIENT, address, String(port), kind).split(' ').slice(0, 2).join(' ');

  test('a guest that runs into its limit of sockets gets ENOBUFS, and the limit changes while it runs', async () => {
    await guest('few', '--ip', '10.9.0.5', '-v', `${buildProbe()}:/probe:ro`);
    await v.ok(['stop', '-t', '0', 'few']);
    await v.ok(['set', 'few', 'limits.sockets=12']);
    await v.ok(['start', 'few']);
    const take = async (): Promise<unknown> => {
      const found = parseFindings(await v.ok(['exec', 'few', '/probe', 'limits', 'SOCK']));
      return [found['SOCK'], found['SOCK taken']];
    };
    const row = async (): Promise<unknown> => {
      const rows = JSON.parse(await v.ok(['limit', 'few', '--json'])) as readonly Record<string, unknown>[];
      const { current, max, hard, hits, scope, errno } = rows.find(({ row }) => row === 'SOCK') ?? {};
      return { current, max, hard, hits, scope, errno };
    };
    assert.deepEqual(await take(), ['ENOBUFS', 12]);
    const whose = { scope: 'guest', errno: 'ENOBUFS' };
    assert.deepEqual(await row(), { current: 0, max: 12, hard: 12, hits: 1, ...whose });
    const { stderr } = await v.run(['limit', '-c', 'few', '--nsock', '7']);
    assert.equal(stderr, '', 'nothing is unenforced');
    assert.deepEqual(await take(), ['ENOBUFS', 7]);
    await v.ok(['limit', 'few', '--reset']);
    assert.deepEqual(await row(), { current: 0, max: 0, hard: 7, hits: 0, ...whose });
    // The next look at what guests use tells of it.
    await v.ok(['stat', '--since', '1m', 'few']);
    const events = await v.ok(['events', '--json', '--type', 'limit.hit', '--guest', 'few']);
    assert.match(events, /"details":\{"resource":"sockets","hits":2,"total":2\}/);
    await v.ok(['delete', '--force', 'few']);
  });

  test('the guest sees its addresses and no other, and names are found', async () => {
    await guest('web', '--ip', '10.9.0.5/24', '--ip', '10.9.0.6/24', '--ip', 'fd09::5/64');
    const lines = (await v.ok(['exec', 'web', 'ip', '-o', 'addr'])).trim().split('\n');
    const shown = lines.map((line) => /^\d+: (\S+) +inet6? (\S+)/.exec(line)?.slice(1, 3).join(' '));
    assert.deepEqual(shown, [
      'lo 127.0.0.1/8',
      'lo ::1/128',
      'eth0 10.9.0.5/24',
      'eth0 10.9.0.6/24',
      'eth0 fd09::5/64',
    ]);
    assert.equal((await v.ok(['exec', 'web', 'hostname', '-I'])).trim(), '10.9.0.5 10.9.0.6 fd09::5');
    assert.deepEqual(hostAddresses(), [
      '10.9.0.1/24',
      '10.9.0.5/32',
      '10.9.0.6/32',
      'fd09::1/64',
      'fd09::5/128',
    ]);
    assert.match(await v.ok(['exec', 'web', 'cat', '/etc/hosts']), /^10\.9\.0\.5 web$/m);
    const resolve = 'import socket; print(socket.gethostbyname("web"), socket.gethostbyname("localhost"))';
    assert.equal(await python('web', resolve), '10.9.0.5 127.0.0.1\n');
    for (const [path, own] of [
      ['/proc/net/dev', /^ *(lo|eth0):/],
      ['/proc/net/route', /^eth0/],
    ] as const) {
      const rows = (await v.ok(['exec', 'web', 'cat', path]))
        .split('\n')
        .filter((row) => /^ *\w+:|^\w+\d\s/.test(row));
      for (const row of rows) assert.match(row, own, path);
    }
    const [view] = JSON.parse(await v.ok(['inspect', 'web', '--json'])) as { network: unknown }[];
    assert.deepEqual(view?.network, {
      mode: 'isolated',
      addresses: ['10.9.0.5/24', '10.9.0.6/24', 'fd09::5/64'],
      interface: 'h0',
    });
  });

  test('who asks about interfaces in the old way is told the same, and keeps its other sockets', async () => {
    await guest('web', '--ip', '10.9.0.5/24', '--ip', '10.9.0.6/24');
    const asks = `
import array, fcntl, socket, struct, termios
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
buf = array.array('B', bytes(4096))
length, = struct.unpack('iL', fcntl.ioctl(s.fileno(), 0x8912, struct.pack('iL', 4096, buf.buffer_info()[0])))[:1]
for at in range(0, length, 40):
    name = bytes(buf[at:at + 16]).split(b'\\0')[0].decode()
    print(name, socket.inet_ntoa(bytes(buf[at + 20:at + 24])))
t = socket.socket()
print(socket.if_indextoname(2), struct.unpack('i', fcntl.ioctl(t.fileno(), termios.FIONREAD, bytes(4)))[0])
t.settimeout(20); t.connect(('10.9.0.1', 8000)); t.sendall(b'hello'); print(t.recv(50).decode())
try: fcntl.ioctl(t.fileno(), 0x8927, struct.pack('16s24x', b'h0')); print('h0')
except OSError as e: print(e.errno)
`;
    await serveOnHost('10.9.0.1', 8000);
    assert.deepEqual((await python('web', asks)).trim().split('\n'), [
      'lo 127.0.0.1',
      'eth0 10.9.0.5',
      'eth0 10.9.0.6',
      'eth0 0',
      'host 10.9.0.1 10.9.0.5 hello',
      '19', // ENODEV
    ]);
  });

  describe('who lists sockets', { skip: unmet('fuse', 'netstat', 'lsof', 'busybox') }, () => {
    const sh = async (name: string, script: string): Promise<string> =>
      await v.ok(['exec', name, 'sh', '-c', script]);
    /** Own addresses of what is listed, ports behind them. */
    const locals = (text: string, pattern: RegExp): readonly string[] =>
      [...new Set([...text.matchAll(pattern)].map(([, one = '']) => one))].toSorted();

    test('finds those of the guest, by whatever program, and no others', async () => {
      await serveOnHost('0.0.0.0', 8080);
      await serveOnHost('127.0.0.1', 8081);
      for (const [name, ip] of [
        ['one', 5],
        ['two', 6],
      ] as const) {
        await guest(name, '--ip', `10.9.0.${ip}/24`, '--ip', `fd09::${ip}/64`);
        await serve(name, '0.0.0.0', 8080);
        await serve(name, '::', 8082);
        await serve(name, '0.0.0.0', 8053, 'udp');
      }
      await serve('two', '127.0.0.1', 8083);
      for (const [name, own] of [
        ['one', []],
        ['two', ['127.0.0.1:8083']],
      ] as const) {
        const tcp = ['0.0.0.0:8080', ...own];
        const netstat = await sh(name, 'netstat -tlnup');
        assert.deepEqual(locals(netstat, /^tcp +\d+ +\d+ (\S+)/gm), tcp, netstat);
        assert.deepEqual(locals(netstat, /^tcp6 +\d+ +\d+ (\S+)/gm), [':::8082']);
        assert.deepEqual(locals(netstat, /^udp +\d+ +\d+ (\S+)/gm), ['0.0.0.0:8053']);
        assert.equal(netstat.match(/ \d+\/python3 *$/gm)?.length, 3 + own.length, 'processes are found');
        const ss = await sh(name, 'ss -tlnp');
        assert.deepEqual(locals(ss, /^LISTEN +\d+ +\d+ +(\S+)/gm), ['*:8082', ...tcp].toSorted());
        assert.equal(ss.match(/users:\(\("python3",pid=\d+,fd=\d+\)\)/g)?.length, 2 + own.length);
        assert.deepEqual(
          locals(await sh(name, 'lsof -i -n -P'), / (?:TCP|UDP) (\S+)/g),
          ['*:8053', '*:8080', '*:8082', ...own].toSorted(),
        );
        const busybox = await sh(name, 'busybox netstat -tln');
        assert.deepEqual(locals(busybox, /^tcp +\d+ +\d+ (\S+)/gm), [...tcp, ':::8082'].toSorted());
      }
    });

    test('finds connections by the addresses the guest knows, and counts what they sent', async () => {
      await guest('one', '--ip', '10.9.0.5/24');
      await serveOnHost('10.9.0.1', 8080);
      const [, connections = '', dev = '', sums = '', unix = '', head = ''] = (
        await python(
          'one',
          `
import socket
a = socket.create_connection(('10.9.0.1', 8080)); l = socket.socket(); l.bind(('127.0.0.1', 80)); l.listen()
b = socket.create_connection(('127.0.0.1', 80)); c = l.accept()[0]; b.sendall(bytes(5000)); c.recv(5000, socket.MSG_WAITALL)
u = socket.socket(socket.AF_UNIX); u.bind('\\0mine'); u.listen()
for path in ['tcp', 'dev', 'sockstat', 'unix', 'netlink']: print('=', open('/proc/net/' + path).read())
`,
        )
      ).split('= ');
      assert.equal(connections.match(/ 01 \w{8}:\w{8} /g)?.length, 3, connections);
      assert.match(connections, /: 0500090A:\w{4} 0100090A:1F90 01 /);
      assert.match(connections, /: 0100007F:0050 0100007F:\w{4} 01 /);
      assert.match(connections, /: 0100007F:\w{4} 0100007F:0050 01 /);
      const [, received, sent] = /eth0: *(\d+)(?: +\d+){7} +(\d+)/.exec(dev) ?? [];
      assert.ok(Number(received) > 5000 && Number(sent) > 5000, dev);
      assert.match(sums, /^TCP: inuse 4 orphan 0 tw \d+ alloc 4 /m); // another test's may be among the ended ones
      assert.match(unix, / @mine$/m);
      assert.match(head, /^sk /);
    });

    test('finds them again after the process that has the views was killed, and not if they are off', async () => {
      await guest('one', '--ip', '10.9.0.5/24');
      const options = ['--ip', '10.9.0.6/24', '--network-interface', 'h0', '--command', 'sleep 1000'];
      await v.ok(['create', 'off', ...options]);
      await v.ok(['set', 'off', 'views.network=false']);
      await v.ok(['start', 'off']);
      await serve('one', '0.0.0.0', 8080);
      await serve('off', '0.0.0.0', 8080);
      const relay = (): number =>
        (JSON.parse(readFileSync(join(v.root, 'run/views.json'), 'utf8')) as { relay: { pid: number } }).relay
          .pid;
      const before = relay();
      process.kill(before, 'SIGKILL');
      await eventually('another relay', () => (relay() === before ? undefined : true));
      await eventually('the listener', async () => {
        const { stdout } = await v.run(['exec', 'one', 'cat', '/proc/net/tcp']);
        return / 00000000:1F90 00000000:0000 0A /.test(stdout) ? true : undefined;
      });
      assert.equal(await sh('off', 'readlink /proc/net; tail -n +2 /proc/net/tcp'), 'self/net\n');
    });
  });

  for (const kind of ['tcp', 'udp']) {
    test(`${kind} works between the host and guests, both ways`, async () => {
      await guest('one', '--ip', '10.9.0.5/24', '--ip', 'fd09::5/64');
      for (const [own, other] of [
        ['10.9.0.5', '10.9.0.1'],
        ['fd09::5', 'fd09::1'],
      ] as const) {
        await serve('one', own, 8000, kind);
        assert.equal(host.run(PYTHON, '-c', CLIENT, own, '8000', kind, other), `one ${own} ${other} hello\n`);
      }
    });
  }

  for (const [kind, any, addresses] of [
    ['tcp', '0.0.0.0', ['10.9.0.5', '10.9.0.6', '10.9.0.7', '10.9.0.1']],
    ['tcp', '::', ['fd09::5', 'fd09::6', 'fd09::7', 'fd09::1']],
    ['udp', '0.0.0.0', ['10.9.0.5', '10.9.0.6', '10.9.0.7', '10.9.0.1']],
    ['udp', '::', ['fd09::5', 'fd09::6', 'fd09::7', 'fd09::1']],
  ] as const) {
    test(`${kind}: two guests and the host listen at ${any} on one port, each is reached at its own`, async () => {
      const [one, two, three, own] = addresses;
      const length = any === '::' ? '64' : '24';
      await guest('one', '--ip', `${one}/${length}`, '--ip', `${two}/${length}`);
      await guest('two', '--ip', `${three}/${length}`);
      await serveOnHost(any, 80, kind);
      await serve('one', any, 80, kind);
      await serve('two', any, 80, kind);
      const said = [one, two, three, own].map((address) => ask(address, 80, kind).split(' ')[0]);
      assert.deepEqual(said, ['one', 'one', 'two', 'host']);
      if (kind === 'tcp') assert.equal(ask(one, 80), `one ${one}`);
    });
  }

  const CODE = `
import errno, socket, sys
s = socket.socket(socket.AF_INET6 if ':' in sys.argv[2] else socket.AF_INET)
s.settimeout(5)
try: getattr(s, sys.argv[1])((sys.argv[2], int(sys.argv[3])))
except OSError as e: print(errno.errorcode.get(e.errno, type(e).__name__))
else: print('ok')
`;
  test('a guest has its own loopback, and neither the host nor other guests at its mercy', async () => {
    await guest('one', '--ip', '10.9.0.5/24', '--ip', 'fd09::5/64');
    await guest('two', '--ip', '10.9.0.6/24');
    await serve('one', '127.0.0.1', 9000);
    assert.equal(await python('one', CLIENT, '127.0.0.1', '9000', 'tcp'), 'one 127.0.0.1 127.0.0.1 hello\n');
    const code = async (name: string, ...words: readonly string[]): Promise<string> =>
      (await python(name, CODE, ...words)).trim();
    assert.equal(await code('two', 'connect', '127.0.0.1', '9000'), 'ECONNREFUSED');
    await serveOnHost('127.0.0.1', 9001);
    assert.equal(await code('one', 'connect', '127.0.0.1', '9001'), 'ECONNREFUSED');
    assert.equal(await code('one', 'bind', '10.9.0.5', '443'), 'ok');
    assert.equal(await code('one', 'bind', 'fd09::5', '443'), 'ok');
    for (const address of ['10.9.0.1', '10.9.0.6', 'fd09::1', '192.0.2.1'])
      assert.equal(await code('one', 'bind', address, '8000'), 'EADDRNOTAVAIL', address);
    await serve('two', '10.9.0.6', 8000);
    assert.notEqual(await code('one', 'connect', '10.9.0.6', '8000'), 'ok');
    await serveOnHost('10.9.0.1', 8000);
    assert.equal(await code('one', 'connect', '10.9.0.1', '8000'), 'ok');
    assert.equal(ask('10.9.0.6', 8000), 'two 10.9.0.6');
  });

  test('policy is as configured and changes at once; what is refused is listed, what passes is counted', async () => {
    await v.ok(['create', 'one', '--ip', '10.9.0.5/24', '--network-interface', 'h0', '--', 'sleep', '1000']);
    await v.ok(['create', 'two', '--ip', '10.9.0.6/24', '--network-interface', 'h0', '--', 'sleep', '1000']);
    await v.ok(['set', 'one', 'network.policy.otherwise=deny']);
    await v.ok(['start', 'one', 'two']);
    await serveOnHost('10.9.0.1', 8000);
    await serveOnHost('10.9.0.1', 8001);
    await serve('two', '10.9.0.6', 8000);
    const connect = async (address: string, port: string): Promise<string> =>
      (await python('one', CODE, 'connect', address, port)).trim();
    assert.notEqual(await connect('10.9.0.1', '8000'), 'ok');
    await v.ok([
      'set',
      'one',
      'network.policy.egress=[{action: allow, to: 10.9.0.0/24, protocol: tcp, ports: 8000}]',
    ]);
    assert.equal(await connect('10.9.0.1', '8000'), 'ok');
    assert.notEqual(await connect('10.9.0.1', '8001'), 'ok');
    assert.notEqual(await connect('10.9.0.6', '8000'), 'ok');
    const [first] = JSON.parse(await v.ok(['denied', 'one', '--json'])) as Record<string, unknown>[];
    assert.deepEqual(
      [first?.['guest'], first?.['reason'], first?.['address'], first?.['port']],
      ['one', 'guest', '10.9.0.6', 8000],
    );
    assert.match(await v.ok(['denied', 'one']), /^one +\d+ +\S+ +out +tcp +10\.9\.0\.1 +8001 +policy$/m);
    await v.ok(['set', 'one', 'network.policy.peers=[two]']);
    assert.equal(await connect('10.9.0.6', '8000'), 'ok');
    const traffic = async (): Promise<number> => {
      const [view] = JSON.parse(await v.ok(['traffic', 'one', '--json'])) as {
        traffic: { tcp4: { sent: { packets: number } } };
      }[];
      return view!.traffic.tcp4.sent.packets;
    };
    const before = await traffic();
    assert.ok(before > 0);
    await python('one', CLIENT, '10.9.0.1', '8000', 'tcp');
    assert.ok((await traffic()) >= before + 3);
    const [{ xid }] = JSON.parse(await v.ok(['inspect', 'one'])) as [{ xid: number }];
    assert.match(
      await v.ok(['procfs', `virtnet/${xid}/info`]),
      /^ID:\t\d+\n.*\nBcast:\t10\.9\.0\.255\nLback:\t127\.\d+\.\d+\.1\n0:\t\[10\.9\.0\.\d+-0\.0\.0\.0\/255\.255\.255\.0:0011\]\n/,
    );
    assert.match(await v.ok(['procfs', `virtual/${xid}/cacct`]), /^INET:\t +[1-9]\d*\/\d+ +\t +[1-9]/m);
    const [account] = JSON.parse(await v.ok(['stat', 'one', '--json'])) as {
      network: { tcp4: { sent: { packets: number } } };
    }[];
    const counted = account!.network.tcp4.sent.packets;
    assert.ok(counted >= before + 3 && counted <= (await traffic()), 'stat reads all contexts at once');
    await v.ok(['restart', '-t', '0', 'one']);
    assert.notEqual(await connect('10.9.0.1', '8001'), 'ok');
    assert.equal(await connect('10.9.0.6', '8000'), 'ok');
    assert.match(
      (await v.run(['set', 'one', 'network.policy.peers=[nobody]'])).stderr,
      /cannot find guest "nobody"/,
    );
  });

  test('a start with more rules than the fence holds is refused, leaves nothing, and is one with fewer', async () => {
    await v.ok(['create', 'one', '--ip', '10.9.0.5/24', '--network-interface', 'h0', '--', 'sleep', '1000']);
    const rules = Array.from({ length: 100 }, (_, i) => `{action: deny, ports: ${1000 + i}}`);
    await v.ok(['set', 'one', `network.policy.egress=[${rules.join(', ')}]`]);
    const { code, stderr } = await v.run(['start', 'one']);
    assert.equal(code, 2);
    assert.match(
      stderr,
      /^vserver: cannot use the egress rules: found 101 that apply .*; need at most \d+$/m,
    );
    await v.ok(['set', 'one', `network.policy.egress=[${rules.slice(0, 9).join(', ')}]`]);
    await v.ok(['start', 'one']);
  });

  test('what a guest is refused is an event, one for many, also after vserverd was killed', async () => {
    await v.ok(['create', 'one', '--ip', '10.9.0.5/24', '--network-interface', 'h0', '--', 'sleep', '1000']);
    await v.ok(['set', 'one', 'network.policy.otherwise=deny']);
    await v.ok(['start', 'one']);
    const denied = async (): Promise<readonly unknown[]> =>
      (await v.ok(['events', '--json', '--guest', 'one']))
        .split('\n')
        .filter((line) => line.includes('"network.denied"'))
        .map((line) => (JSON.parse(line) as { details: unknown }).details);
    const many = `
import socket, sys
for i in range(int(sys.argv[1])):
    for call in (lambda s: s.sendto(b'x', ('10.9.0.1', 9)), lambda s: s.bind(('10.9.0.1', 0))):
        try: call(socket.socket(2, 2)); print('not refused')
        except OSError: pass
`;
    assert.equal(await python('one', many, '50'), '');
    const [first] = await eventually('the event', async () => {
      const all = await denied();
      return all.length > 0 ? all : undefined;
    });
    assert.deepEqual(first, { count: 100, reasons: { policy: 50, 'foreign-address': 50 } });
    const { vserverdPid } = await daemons();
    process.kill(vserverdPid, 'SIGKILL');
    await eventually('the next vserverd', async () =>
      (await v.run(['status', 'one'])).code === 0 ? true : undefined,
    );
    assert.equal(await python('one', many, '3'), '');
    await eventually('another event', async () => ((await denied()).length === 2 ? true : undefined));
    assert.deepEqual((await denied())[1], { count: 6, reasons: { policy: 3, 'foreign-address': 3 } });
  });

  test('the fence holds while both daemons are dead, and after', async () => {
    chmodSync(v.scratch, 0o755);
    const binds = `
import errno, os, socket, time
n = 0
while True:
    n += 1
    while not os.path.exists(f'/srv/{n}'): time.sleep(0.02)
    s = socket.socket()
    try: s.bind(('10.9.0.1', 7001)); print(n, 'bound', flush=True)
    except OSError as e: print(n, errno.errorcode[e.errno], flush=True)
    s = socket.socket(); s.bind(('10.9.0.5', 7001)); s.close()
`;
    await v.ok([
      ...['run', '-d', '--name', 'one', '--network-interface', 'h0', '--ip', '10.9.0.5/24'],
      ...['-v', `${v.scratch}:/srv`, '--', PYTHON, '-c', binds],
    ]);
    const before = await daemons();
    process.kill(before.syscalldPid, 'SIGKILL');
    await eventually('its end', () => (existsSync(`/proc/${before.syscalldPid}`) ? undefined : true));
    writeFileSync(join(v.scratch, '1'), '');
    await new Promise((done) => setTimeout(done, 300));
    writeFileSync(join(v.scratch, '2'), '');
    const said = await eventually('two answers', async () => {
      const text = await v.ok(['logs', 'one']);
      return text.split('\n').length > 2 ? text : undefined;
    });
    assert.equal(said, '1 EADDRNOTAVAIL\n2 EADDRNOTAVAIL\n');
    writeFileSync(join(v.scratch, '3'), '');
    await eventually('a third', async () =>
      /^3 EADDRNOTAVAIL$/m.test(await v.ok(['logs', 'one'])) ? true : undefined,
    );
  });

  test('ping works', async () => {
    await guest('one', '--ip', '10.9.0.5/24', '--ip', 'fd09::5/64');
    assert.equal(await python('one', PING, '10.9.0.1'), '10.9.0.1 echo\n');
    assert.equal(await python('one', PING, 'fd09::1'), 'fd09::1 echo\n');
  });

  test('a fence of another version is left to the guests behind it, until they have ended', async () => {
    const options = ['--network-interface', 'h0', '--', 'sleep', '1000'];
    await v.ok(['create', 'one', '--ip', '10.9.0.5/24', ...options]);
    await v.ok(['create', 'two', '--ip', '10.9.0.6/24', ...options]);
    await v.ok(['start', 'one']);
    await serve('one', '0.0.0.0', 80);
    const { vserverdPid } = await daemons();
    const file = join(v.root, 'run/fence.json');
    const handles = JSON.parse(readFileSync(file, 'utf8')) as { version: number };
    writeFileSync(file, JSON.stringify({ ...handles, version: handles.version + 1 }));
    process.kill(vserverdPid, 'SIGKILL');
    await eventually('its end', () => (existsSync(`/proc/${vserverdPid}`) ? undefined : true));
    assert.match((await v.run(['start', 'two'])).stderr, /network fence: found one of another version/);
    assert.equal(ask('10.9.0.5', 80), 'one 10.9.0.5');
    assert.equal((await python('one', CODE, 'bind', '10.9.0.1', '8000')).trim(), 'EADDRNOTAVAIL');
    await v.ok(['stat']);
    await v.ok(['stop', '-t', '0', 'one']);
    await v.ok(['start', 'one', 'two']);
    await serve('two', '0.0.0.0', 80);
    assert.equal(ask('10.9.0.6', 80), 'two 10.9.0.6');
    assert.equal((await python('two', CODE, 'bind', '10.9.0.1', '8000')).trim(), 'EADDRNOTAVAIL');
  });

  describe('a quota of traffic', () => {
    /** Sends datagrams of 1,000 bytes, headers included, and says how many were let go. */
    const send = async (count: number): Promise<number> => {
      const script = `
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); n = 0
for i in range(${count}):
    try: s.sendto(bytes(972), ('10.9.0.1', 9)); n += 1
    except PermissionError: pass
print(n)`;
      return Number(await python('one', script));
    };
    const create = (): Promise<string> =>
      v.ok([
        ...['create', 'one', '--ip', '10.9.0.5/24', '--network-interface', 'h0'],
        ...['--traffic-quota', '20k/month', '--', 'sleep', '1000'],
      ]);
    const LIMIT = 20 * 1024;
    const view = async (): Promise<{ usedBytes: number; limitBytes: number; until: string } | null> => {
      const [found] = JSON.parse(await v.ok(['traffic', 'one', '--json'])) as {
        quota: { usedBytes: number; limitBytes: number; until: string } | null;
      }[];
      return found!.quota;
    };
    const events = async (): Promise<readonly string[]> =>
      (await v.ok(['events', '--json', '--type', 'quota.reached,quota.renewed']))
        .split('\n')
        .filter((line) => line !== '')
        .map((line) => (JSON.parse(line) as { type: string; guest: string }).type);

    test('holds over restarts of the guest, and is told once', async () => {
      await create();
      await v.ok(['start', 'one']);
      // Nobody answers at that port: what comes back counts too.
      await serveOnHost('10.9.0.1', 9, 'udp');
      assert.equal(await send(4), 4);
      const first = (await view())!;
      assert.ok(first.usedBytes >= 4000 && first.usedBytes < 9000, JSON.stringify(first));
      assert.equal(first.limitBytes, LIMIT);
      const until = new Date(first.until);
      assert.deepEqual([until.getDate(), until.getHours(), until.getMinutes()], [1, 0, 0]);
      await v.ok(['restart', '-t', '0', 'one']);
      assert.ok((await view())!.usedBytes >= first.usedBytes);
      assert.ok((await send(100)) < 20);
      assert.equal(await send(1), 0);
      assert.match(await v.ok(['denied', 'one']), / quota$/m);
      await eventually('the event', async () => ((await events()).length > 0 ? true : undefined), 20_000);
      await v.ok(['stop', '-t', '0', 'one']);
      const stopped = (await view())!.usedBytes;
      assert.ok(stopped >= LIMIT && stopped < LIMIT + 2000, String(stopped));
      await v.ok(['start', 'one']);
      assert.equal(await send(1), 0);
      assert.deepEqual(await events(), ['quota.reached']);
      assert.match(
        await v.ok(['traffic', 'one']),
        /^GUEST +BYTES +QUOTA[\s\S]*^one +\d+ +20480 +month +both +deny /m,
      );
      await v.ok(['set', 'one', 'network.quota.bytes=40k']);
      assert.ok((await send(5)) === 5, 'at once');
      await v.ok(['set', 'one', '--unset', 'network.quota']);
      assert.equal(await send(100), 100);
      assert.equal(await view(), null);
    });

    test('holds while the control plane is dead, and is not forgotten by the next', async () => {
      chmodSync(v.scratch, 0o755);
      await create();
      await v.ok(['set', 'one', `mounts=[{source: ${v.scratch}, target: /srv}]`]);
      const sends = `
import os, socket, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
while not os.path.exists('/srv/go'): time.sleep(0.02)
n = 0
for i in range(100):
    try: s.sendto(bytes(972), ('10.9.0.1', 9)); n += 1
    except PermissionError: pass
print(n, flush=True)
time.sleep(1000)`;
      await v.ok(['set', 'one', `command=[${PYTHON}, -c, ${JSON.stringify(sends)}]`]);
      await serveOnHost('10.9.0.1', 9, 'udp');
      await v.ok(['start', 'one']);
      const { syscalldPid } = await daemons();
      process.kill(syscalldPid, 'SIGKILL');
      await eventually('its end', () => (existsSync(`/proc/${syscalldPid}`) ? undefined : true));
      writeFileSync(join(v.scratch, 'go'), '');
      await new Promise((done) => setTimeout(done, 500));
      const said = await eventually(
        'its answer',
        async () => (await v.ok(['logs', 'one'])).trim() || undefined,
      );
      assert.ok(Number(said) > 5 && Number(said) <= 21, said);
      assert.ok((await view())!.usedBytes >= LIMIT);
      await eventually('the event', async () => ((await events()).length > 0 ? true : undefined), 20_000);
    });
  });

  describe('names', () => {
    const resolve = (name: string, wanted: string): Promise<string> =>
      python(name, 'import socket, sys; print(socket.gethostbyname(sys.argv[1]))', wanted).then((text) =>
        text.trim(),
      );
    const serveNames = async (): Promise<void> => {
      const [program = '', ...rest] = [...host.under, PYTHON, '-c', NAMES];
      const child = spawn(program, rest, { stdio: ['ignore', 'pipe', 'inherit'] });
      running.push(child);
      assert.match(String((await once(child.stdout, 'data'))[0]), /^ready/);
    };

    for (const [mode, options] of [
      ['isolated', ['--ip', '10.9.0.5/24', '--network-interface', 'h0']],
      ['private', ['--ip', '10.7.0.5/24', '--gateway', '10.7.0.1']],
      ['host', []],
    ] as const) {
      test(`mode ${mode}: are asked for at the server that is configured, and found in the domain`, async () => {
        await serveNames();
        const dns = ['--dns', '10.9.0.1', '--dns-search', 'example.org', '--add-host', 'near:10.9.0.66'];
        await v.ok([
          'run',
          '-d',
          '--name',
          'one',
          '--network',
          mode,
          ...options,
          ...dns,
          '--',
          'sleep',
          '1000',
        ]);
        assert.equal(await resolve('one', 'db.example.org'), '10.9.0.77');
        assert.equal(await resolve('one', 'db'), '10.9.0.77');
        assert.equal(await resolve('one', 'near'), '10.9.0.66');
        assert.equal(await resolve('one', 'localhost'), '127.0.0.1');
        assert.equal(await resolve('one', 'one'), /[\d.]+/.exec(options[1] ?? '127.0.1.1')?.[0]);
      });
    }

    test('mode none: a guest finds itself, and leaves the rest as it is', async () => {
      for (const template of ['host', 'busybox'])
        assert.equal(
          await v.ok([
            ...['run', '--template', template, '--hostname', 'alone', '--network', 'none', '--'],
            ...['sh', '-c', 'hostname -i; cat /etc/resolv.conf'],
          ]),
          '127.0.1.1\n',
          template,
        );
    });

    test('a file of its own stays as it is, a link to nowhere does not', async () => {
      await v.ok(['create', 'one', '--ip', '10.9.0.5/24', '--dns', '10.9.0.1', '--', 'sleep', '1000']);
      const after = async (script: string): Promise<string> => {
        await v.ok(['start', 'one']);
        await v.ok(['exec', 'one', 'sh', '-ec', script]);
        await v.ok(['restart', '-t', '0', 'one']);
        const found = await v.ok([
          'exec',
          'one',
          'sh',
          '-c',
          'readlink /etc/resolv.conf; cat /etc/resolv.conf || true',
        ]);
        await v.ok(['stop', '-t', '0', 'one']);
        return found;
      };
      const ours = /^# filled when the guest starts\nnameserver 10\.9\.0\.1\n/;
      const filled = await after('true');
      assert.match(filled, ours);
      assert.equal(await after('echo more >> /etc/resolv.conf'), filled);
      const written = 'stat -c %y%z /etc/hosts /etc/resolv.conf >> /etc/written';
      await after(written);
      await after(written);
      await v.ok(['start', 'one']);
      const times = (await v.ok(['exec', 'one', 'cat', '/etc/written'])).trim().split('\n');
      assert.deepEqual(times.slice(2), times.slice(0, 2), 'what has not changed is not written');
      await v.ok(['stop', '-t', '0', 'one']);
      assert.match(await after('ln -sf ../run/nowhere/stub.conf /etc/resolv.conf'), ours);
      assert.equal(await after('rm /etc/resolv.conf; echo mine > /etc/resolv.conf'), 'mine\n');
      assert.equal(
        await after('mv /etc/resolv.conf /etc/own; ln -s own /etc/resolv.conf'),
        'own\nmine\n',
        'a link that leads somewhere',
      );
      await v.ok(['set', 'one', 'init=own']);
      assert.equal(
        await after('ln -sf ../run/nowhere/stub.conf /etc/resolv.conf'),
        '../run/nowhere/stub.conf\n',
      );
    });
  });

  describe('raw sockets', () => {
    before(() => void host.run('sh', '-c', "echo '1 0' > /proc/sys/net/ipv4/ping_group_range"));
    after(() => void host.run('sh', '-c', "echo '0 2147483647' > /proc/sys/net/ipv4/ping_group_range"));
    const said = async (name: string, script: string, ...words: readonly string[]): Promise<string> =>
      (await v.run(['exec', ...words, name, PYTHON, '-c', RAW + script])).stdout.trim();

    test('raw_icmp lets the root of a guest ping, and do nothing else', async () => {
      await guest(
        'one',
        '--ip',
        '10.9.0.5/24',
        '--ip',
        '10.9.0.6/24',
        '--ip',
        'fd09::5/64',
        '--ccaps',
        'raw_icmp',
      );
      await guest('two', '--ip', '10.9.0.7/24');
      assert.notEqual((await v.run(['exec', 'one', PYTHON, '-c', PING, '10.9.0.1'])).code, 0, 'ping sockets');
      assert.equal(await said('two', 'print(code(ping, "10.9.0.1"))'), 'EPERM');
      assert.equal(
        await said('one', 'print(ping("10.9.0.1"), ping("fd09::1"), ping("127.0.0.1"))'),
        '10.9.0.1 fd09::1 127.0.0.1',
      );
      assert.equal(await said('one', 'print(ping("10.9.0.1", "10.9.0.6"))'), '10.9.0.1');
      assert.equal(
        await said('one', 'print(code(ping, "10.9.0.1"))', '-u', '1000'),
        'EPERM',
        'of another user',
      );
      assert.equal(await said('one', 'print(code(ping, "10.9.0.7"))'), 'EPERM', 'another guest');
      assert.equal(
        await said('one', 'print(code(ping, "10.9.0.1", "10.9.0.1"))'),
        'EPERM',
        "the host's address",
      );
      assert.equal(await said('one', 'print(code(ping, "10.9.0.1", None, 5))'), 'EPERM', 'a redirect');
      assert.equal(await said('one', 'print(code(ping, "fd09::1", None, 136))'), 'EPERM', 'an advertisement');
      for (const protocol of [6, 17, 255])
        assert.equal(
          await said('one', `print(code(socket.socket, 2, 3, ${protocol}))`),
          'EPERM',
          String(protocol),
        );
      assert.equal(
        await said('one', 'print(code(socket.socket(2, 3, 1).setsockopt, 0, 3, 1))'),
        'EPERM',
        'IP_HDRINCL',
      );
      // It hears what is sent to it, not what is sent to others.
      await guest('three', '--ip', '10.9.0.8/24', '--ccaps', 'raw_icmp');
      const deaf = `
s = socket.socket(2, 3, 1); s.bind(('0.0.0.0', 0)); s.settimeout(1)
ping('10.9.0.1')
heard = set()
try:
    while True: heard.add(socket.inet_ntoa(s.recv(200)[16:20]))
except OSError: print(heard)
`;
      const listening = said('three', deaf);
      await said('one', 'for i in range(20): ping("10.9.0.1")');
      assert.equal(await listening, "{'10.9.0.8'}");
    });

    test('NET_RAW in the bound gives all of them, with own addresses as source', async () => {
      await guest('one', '--ip', '10.9.0.5/24', '--cap-add', 'NET_RAW');
      assert.equal(await said('one', 'print(ping("10.9.0.1"))'), '10.9.0.1');
      assert.equal(await said('one', 'print(code(socket.socket, 2, 3, 6))'), 'ok');
      assert.equal(await said('one', 'print(code(socket.socket, 2, 3, 6))', '-u', '1000'), 'EPERM');
      const header = `
def send(source):
    s = socket.socket(2, 3, 255)
    head = struct.pack('!BBHHHBBH4s4s', 69, 0, 20, 1, 0, 9, 253, 0, socket.inet_aton(source), socket.inet_aton('10.9.0.1'))
    s.sendto(head, ('10.9.0.1', 0))
print(code(send, '10.9.0.5'), code(send, '10.9.0.1'))
`;
      assert.equal(await said('one', header), 'ok EPERM');
    });

    test('a guest goes on having them after the death of the control plane', async () => {
      await guest('one', '--ip', '10.9.0.5/24', '--ccaps', 'raw_icmp');
      const { syscalldPid } = await daemons();
      process.kill(syscalldPid, 'SIGKILL');
      await eventually('its end', () => (existsSync(`/proc/${syscalldPid}`) ? undefined : true));
      assert.equal(await said('one', 'print(ping("10.9.0.1"))'), '10.9.0.1');
    });
  });

  test('only sockets of the IP families are made on the host, whatever started the process', async () => {
    const hostCookie = parseFindings(host.run(buildProbe(), 'inet'))['tcp'];
    const options = ['--ip', '10.9.0.5/24', '-v', `${buildProbe()}:/probe:ro`];
    for (const more of [[], ['--init=none'], ['--init=own'], ['--security-opt', 'seccomp=unconfined']]) {
      const own = parseFindings(await v.ok(['run', ...options, ...more, '--', '/probe', 'inet']));
      await guest('one', ...options, ...more);
      const executed = parseFindings(await v.ok(['exec', 'one', '/probe', 'inet']));
      const asUser = parseFindings(await v.ok(['exec', '-u', '1000', 'one', '/probe', 'inet']));
      await v.ok(['delete', '--force', 'one']);
      for (const found of [own, executed, asUser]) {
        assert.deepEqual([found['tcp'], found['udp6'], found['ping']], [hostCookie, hostCookie, hostCookie]);
        assert.notEqual(found['unix'], hostCookie);
        for (const [name, cookie] of Object.entries(found))
          if (['raw', 'packet', 'netlink'].includes(name)) assert.notEqual(cookie, hostCookie, name);
        assert.equal(found['mptcp'], 'EPROTONOSUPPORT');
      }
    }
    const dark = parseFindings(
      await v.ok(['run', '-v', `${buildProbe()}:/probe:ro`, '--', '/probe', 'inet']),
    );
    assert.notEqual(dark['tcp'], hostCookie, 'a guest without a network has none');
  });

  test('calls of a guest are as those of the host', async () => {
    const { ns: _, ...native } = parseFindings(host.run(buildProbe(), 'inet-call'));
    const { ns: __, ...own } = parseFindings(
      await v.ok(['run', '--ip', '10.9.0.5', '-v', `${buildProbe()}:/probe:ro`, '--', '/probe', 'inet-call']),
    );
    assert.deepEqual(own, native);
  });

  /** Process of a guest's broker. */
  const brokerOf = (xid: number): string => {
    const own = cgroupsOf(v.root)
      .map((path) => join(path, String(xid)))
      .find((path) => existsSync(join(path, 'g')));
    const at = own ?? assert.fail('no cgroup of the guest');
    // On cgroup v2 in a leaf of its own.
    return readFileSync(join(at, existsSync(join(at, 'b')) ? 'b' : '', 'cgroup.procs'), 'utf8').trim();
  };

  test('a broker that is killed while vserverd is away is replaced too', async () => {
    await guest('one', '--ip', '10.9.0.5/24');
    const { syscalldPid, vserverdPid } = await daemons();
    const broker = host.run('pgrep', '-P', String(syscalldPid), '-x', 'broker').trim();
    for (const pid of [vserverdPid, Number(broker)]) process.kill(pid, 'SIGKILL');
    await eventually('their end', () => (existsSync(`/proc/${vserverdPid}`) ? undefined : true));
    assert.equal((await python('one', CODE, 'bind', '10.9.0.5', '8000')).trim(), 'ok');
  });

  test('a broker that is killed is replaced for the commands to come', async () => {
    await guest('one', '--ip', '10.9.0.5/24');
    const [view] = JSON.parse(await v.ok(['inspect', 'one', '--json'])) as { xid: number }[];
    const first = brokerOf(view!.xid);
    await serve('one', '0.0.0.0', 8000);
    process.kill(Number(first), 'SIGKILL');
    await eventually('another broker', () => {
      const now = brokerOf(view!.xid);
      return now !== '' && now !== first ? true : undefined;
    });
    assert.match(ask('10.9.0.5', 8000), /^one /, 'sockets that are there stay');
    await serve('one', '0.0.0.0', 8001);
    assert.match(ask('10.9.0.5', 8001), /^one /);
  });

  test('the broker is not of the guest: not listed, not counted, not frozen, and gone with it', async () => {
    await guest('one', '--ip', '10.9.0.5/24');
    const [view] = JSON.parse(await v.ok(['inspect', 'one', '--json'])) as {
      xid: number;
      limits: { usage: { pids: number } };
    }[];
    const broker = brokerOf(view!.xid);
    assert.equal(readFileSync(`/proc/${broker}/comm`, 'utf8'), 'broker\n');
    assert.equal(view?.limits.usage.pids, 2);
    assert.doesNotMatch(await v.ok(['ps', 'one']), /broker/);
    await v.ok(['pause', 'one']);
    assert.doesNotMatch(readFileSync(`/proc/${broker}/stat`, 'utf8'), /\) [TD] /);
    await v.ok(['resume', 'one']);
    await v.ok(['stop', '-t', '0', 'one']);
    await eventually('its end', () => (existsSync(`/proc/${broker}`) ? undefined : true));
  });

  /** Makes a new socket each time it is asked to, by a file. */
  const CONNECTS = `
import os, socket, time
n = 0
while True:
    n += 1
    while not os.path.exists(f'/srv/{n}'): time.sleep(0.02)
    s = socket.socket(); s.settimeout(20); s.connect(('10.9.0.1', 7000)); print(n, s.recv(10).decode(), flush=True)
`;

  for (const who of ['vserverd', 'syscalld'] as const) {
    test(`the death of ${who} takes no socket from anybody, nor the next one`, async () => {
      chmodSync(v.scratch, 0o755);
      await v.ok([
        ...['run', '-d', '--name', 'one', '--network-interface', 'h0', '--ip', '10.9.0.5/24'],
        ...['-v', `${v.scratch}:/srv`, '--', PYTHON, '-c', CONNECTS],
      ]);
      const [program = '', ...rest] = host.under;
      const listener = spawn(program, [
        ...rest,
        PYTHON,
        '-c',
        `import socket
s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); s.bind(('10.9.0.1', 7000)); s.listen()
while True:
    c, peer = s.accept(); c.sendall(b'hi'); c.close()`,
      ]);
      running.push(listener);
      const go = async (n: number): Promise<void> => {
        writeFileSync(join(v.scratch, String(n)), '');
        await eventually(`connection ${n}`, async () =>
          new RegExp(`^${n} hi$`, 'm').test(await v.ok(['logs', 'one'])) ? true : undefined,
        );
      };
      await eventually('the server', () => {
        try {
          return host.run(PYTHON, '-c', CLIENT, '10.9.0.1', '7000', 'tcp') === 'hi\n' ? true : undefined;
        } catch {
          return undefined;
        }
      });
      await go(1);
      await serve('one', '0.0.0.0', 80);
      const before = await daemons();
      process.kill(who === 'vserverd' ? before.vserverdPid : before.syscalldPid, 'SIGKILL');
      await eventually('its end', () =>
        existsSync(`/proc/${who === 'vserverd' ? before.vserverdPid : before.syscalldPid}`)
          ? undefined
          : true,
      );
      await eventually('its successor', async () =>
        (await v.run(['daemon', 'status'])).code === 0 ? true : undefined,
      );
      await go(2);
      assert.match(ask('10.9.0.5', 80), /^one /, 'a listener of before');
      assert.equal(await python('one', CLIENT, '10.9.0.1', '7000', 'tcp'), 'hi\n');
      await go(3);
      assert.equal(await python('one', CLIENT, '10.9.0.1', '7000', 'tcp'), 'hi\n');
      assert.ok(hostAddresses().includes('10.9.0.5/32'));
    });
  }

  test('addresses come and go while it runs, here and on the interface', async () => {
    host.run('ip', 'addr', 'add', '10.9.0.9/24', 'dev', 'h0');
    await v.ok(['create', 'one', '--ip', '10.9.0.5/24', '--network-interface', 'h0', '--', 'sleep', '1000']);
    await v.ok(['start', 'one']);
    assert.equal(
      await v.ok(['set', 'one', '--ip-add', '10.9.0.9/24', '--ip-add', 'fd09::9/64', '--ip-rm', '10.9.0.5']),
      'one\n',
    );
    assert.equal((await v.ok(['exec', 'one', 'hostname', '-I'])).trim(), '10.9.0.9 fd09::9');
    assert.deepEqual(hostAddresses(), ['10.9.0.1/24', '10.9.0.9/24', 'fd09::1/64', 'fd09::9/128']);
    await serve('one', '10.9.0.9', 8000);
    assert.equal(host.run(PYTHON, '-c', CLIENT, '10.9.0.9', '8000', 'tcp').slice(0, 12), 'one 10.9.0.9');
    const refused = await v.run(['set', 'one', '--ip-rm', '10.9.0.77']);
    assert.equal(refused.code, 2);
    await v.ok(['restart', '-t', '0', 'one']);
    assert.equal((await v.ok(['exec', 'one', 'hostname', '-I'])).trim(), '10.9.0.9 fd09::9');
    await v.ok(['delete', '--force', 'one']);
    // What had been there before is left there.
    assert.deepEqual(hostAddresses(), ['10.9.0.1/24', '10.9.0.9/24', 'fd09::1/64']);
    host.run('ip', 'addr', 'del', '10.9.0.9/24', 'dev', 'h0');
  });

  test('an address that the guest cannot be shown is not left on the interface', async () => {
    await guest('one', '--ip', '10.9.0.5/24', '--network-interface', 'h0', '--cap-add', 'NET_ADMIN');
    await v.ok(['exec', 'one', 'ip', 'link', 'del', 'eth0']);
    const before = hostAddresses();
    assert.equal((await v.run(['set', 'one', '--ip-add', '10.9.0.30/24', '--ip-rm', '10.9.0.5'])).code, 1);
    assert.deepEqual(hostAddresses(), before);
    assert.equal((await python('one', CODE, 'bind', '10.9.0.30', '8000')).trim(), 'EADDRNOTAVAIL');
    assert.equal((await python('one', CODE, 'bind', '10.9.0.5', '8000')).trim(), 'ok');
  });

  test("a range is a guest's as a whole, and nobody else's", async () => {
    const routes = [
      ['-4', '10.9.1.0/24'],
      ['-6', 'fd09:1::/64'],
    ] as const;
    for (const [family, range] of routes) host.run('ip', family, 'route', 'add', 'local', range, 'dev', 'lo');
    try {
      const own = ['--ip', '10.9.0.5/24', '--ip', 'fd09::5/64', '--network-interface', 'h0'];
      await v.ok(['create', 'one', ...own, '--command', 'sleep 1000']);
      await v.ok(['set', 'one', 'network.ranges=[10.9.1.9/24, "fd09:1::/64"]']);
      await v.ok(['start', 'one']);
      await serve('one', '::', 8000);
      assert.equal(ask('10.9.1.77', 8000), 'one ::ffff:10.9.1.77');
      assert.equal(ask('fd09:1::1:2', 8000), 'one fd09:1::1:2');
      assert.match(await v.ok(['exec', 'one', 'ss', '-tanH']), /10\.9\.1\.77|TIME-WAIT/);
      for (const ip of ['10.9.1.5/24', 'fd09:1::5']) {
        const { code, stderr } = await v.run(['create', 'two', '--ip', ip, '--command', 'true']);
        assert.deepEqual([code === 0, /found it taken by guest "one"/.test(stderr)], [false, true], stderr);
      }
      await v.ok(['create', 'two', '--ip', '10.9.2.5', '--command', 'true']);
      const overlapping = await v.run(['set', 'two', 'network.ranges=[10.8.0.0/15]']);
      assert.match(overlapping.stderr, /found it taken by guest "one"/);
      await v.ok(['set', 'one', 'network.ranges=["fd09:1::/64"]']);
      assert.equal(
        host.run(PYTHON, '-c', "import socket; print(socket.socket().connect_ex(('10.9.1.77', 8000)))"),
        '111\n', // ECONNREFUSED
        'no more',
      );
      assert.equal(ask('fd09:1::1:3', 8000), 'one fd09:1::1:3');
    } finally {
      for (const [family, range] of routes)
        host.run('ip', family, 'route', 'del', 'local', range, 'dev', 'lo');
    }
  });

  test("an address is one guest's, unless it is shared on purpose", async () => {
    await v.ok(['create', 'db', '--ip', '10.9.0.5/24', '--network-interface', 'h0', '--', 'sleep', '1000']);
    for (const args of [
      ['create', 'other', '--ip', '10.9.0.5/16', '--', 'true'],
      ['run', '--ip', '10.9.0.5', '--', 'true'],
    ]) {
      const { code, stderr } = await v.run(args);
      assert.equal(code, args[0] === 'run' ? 125 : 1);
      assert.match(
        stderr,
        /cannot use address 10\.9\.0\.5 for guest ".*": found it taken by guest "db"; need another one/,
      );
    }
    await v.ok(['start', 'db']);
    assert.equal((await v.ok(['run', '--network-of', 'db', '--', 'hostname', '-I'])).trim(), '10.9.0.5');
    await v.ok(['run', '-d', '--name', 'with', '--network-of', 'db', '--', 'sleep', '1000']);
    await serve('with', '127.0.0.1', 8000);
    assert.equal(await python('db', CLIENT, '127.0.0.1', '8000', 'tcp'), 'with 127.0.0.1 127.0.0.1 hello\n');
    await v.ok(['set', 'db', '--ip-add', '10.9.0.6/24']);
    assert.equal((await v.ok(['exec', 'with', 'hostname', '-I'])).trim(), '10.9.0.5 10.9.0.6');
    // Who is left has the addresses, and they go with the last.
    await v.ok(['stop', '-t', '0', 'db']);
    assert.deepEqual(hostAddresses().slice(0, 3), ['10.9.0.1/24', '10.9.0.5/32', '10.9.0.6/32']);
    await serve('with', '10.9.0.5', 8001);
    assert.equal(ask('10.9.0.5', 8001), 'with 10.9.0.5');
    assert.match((await v.run(['delete', 'db'])).stderr, /found that guest "with" shares its network/);
    await v.ok(['start', 'db']);
    await v.ok(['stop', '-t', '0', 'with']);
    await serve('db', '10.9.0.5', 8002);
    assert.equal(ask('10.9.0.5', 8002), 'db 10.9.0.5');
    for (const [name, reason] of [
      ['nobody', /cannot find guest "nobody"/],
      ['dark', /has no addresses of its own; need a guest with network.addresses/],
    ] as const) {
      if (name === 'dark') await v.ok(['create', 'dark', '--', 'true']);
      assert.match((await v.run(['run', '--network-of', name, '--', 'true'])).stderr, reason);
    }
  });

  test('who shares a network and who has it are deleted by one command', async () => {
    // More than are worked on at a time, and who shares last.
    const names = Array.from({ length: 18 }, (_, i) => `g${i}`);
    await v.ok(['create', 'one', '--ip', '10.9.0.5/24', '--network-interface', 'h0', '--', 'sleep', '1000']);
    for (const name of names) await v.ok(['create', name, '--network-of', 'one', '--', 'sleep', '1000']);
    await v.ok(['start', 'one', ...names]);
    const { code, stderr } = await v.run(['delete', '--force', 'one']);
    assert.match(stderr, /cannot delete guest "one": found that guest "g0" shares its network/);
    assert.equal(code, 1);
    await v.ok(['start', 'one']);
    assert.equal((await v.ok(['delete', '--force', '--all'])).split('\n').filter(Boolean).length, 19);
  });

  test('guests in a network of their own, where the host has no address', async () => {
    const routes = (): string =>
      host.run('ip', 'route', 'show', '10.60.0.0/16') + host.run('ip', '-6', 'route', 'show', 'fd60::/64');
    await guest('one', '--ip', '10.60.0.1/16', '--ip', 'fd60::1/64');
    await guest('two', '--ip', '10.60.0.2/16', '--ip', 'fd60::2/64');
    for (const name of ['one', 'two']) await serve(name, '::', 8000);
    for (const [address, name] of [
      ['10.60.0.1', 'one'],
      ['10.60.0.2', 'two'],
      ['fd60::1', 'one'],
      ['fd60::2', 'two'],
    ] as const) {
      assert.equal(ask(address, 8000).replace('::ffff:', ''), `${name} ${address}`);
    }
    assert.match(routes(), /^10\.60\.0\.0\/16 dev h0 .*\n.*dev h0/);
    // Nothing of the host's comes from an address of a guest.
    assert.doesNotMatch(host.run('ip', 'route', 'get', '10.60.9.9'), /src 10\.60\./);
    await v.ok(['stop', '-t', '0', 'one']);
    assert.equal(ask('10.60.0.2', 8000), 'two ::ffff:10.60.0.2');
    assert.notEqual(routes(), '');
    await v.ok(['stop', '-t', '0', 'two']);
    assert.equal(routes(), '');
  });

  test('a sudden end before the record of a run is written leaves no address', async () => {
    await v.ok(['create', 'one', '--ip', '10.9.0.5/24', '--network-interface', 'h0', '--', 'sleep', '1000']);
    const { syscalldPid, vserverdPid } = await daemons();
    const directory = join(v.root, 'run/addresses');
    mkdirSync(directory);
    const watcher = watch(directory);
    const started = v.run(['start', 'one']);
    await once(watcher, 'change');
    watcher.close();
    for (const pid of [syscalldPid, vserverdPid]) process.kill(pid, 'SIGKILL');
    await started;
    await eventually('their end', () => (existsSync(`/proc/${vserverdPid}`) ? undefined : true));
    writeFileSync(join(directory, 'one.json.new'), '{"bootId":'); // or it came in the middle of a write
    await v.ok(['delete', '--force', 'one']);
    assert.equal(hostAddresses().length, 2);
    assert.deepEqual(readdirSync(directory), []);
  });

  test('a sudden end after an address was taken away, and before that is written, gives it back', async () => {
    await guest('one', '--ip', '10.9.0.5/24', '--ip', '10.9.0.30/24', '--network-interface', 'h0');
    const before = hostAddresses();
    const taken = before.find((one) => one.startsWith('10.9.0.30/')) ?? '';
    host.run('ip', 'address', 'del', taken, 'dev', 'h0');
    process.kill((await daemons()).vserverdPid, 'SIGKILL');
    await eventually('it', () => (isDeepStrictEqual(hostAddresses(), before) ? true : undefined));
  });

  test('a start that fails leaves no address', async () => {
    for (const args of [
      ['run', '--ip', '10.9.0.5/24', '--network-interface', 'h0', '--', '/missing'],
      ['run', '--ip', '10.9.0.5/24', '--network-interface', 'nope', '--', 'true'],
    ]) {
      assert.notEqual((await v.run(args)).code, 0);
      assert.equal(hostAddresses().length, 2);
    }
    const { stderr } = await v.run(['run', '--ip', '10.9.0.5', '--network-interface', 'nope', '--', 'true']);
    assert.match(stderr, /cannot start guest ".*": ioctl interface "nope": ENODEV/);
    assert.deepEqual(readdirSync(join(v.root, 'run/guests')), []);
  });
});
