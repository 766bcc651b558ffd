/** Group D: what a guest with addresses of its own reaches in the host's network, whose stack it shares. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { eventually, type Instance, openInstance } from '../lib/instance.ts';
import { openNetwork, type TestNetwork } from '../lib/network.ts';

const PYTHON = '/usr/bin/python3';

/** What hostile code has: `tried` says how a try ended, which must not be well, `needed` how something ordinary did. */
const TOOLS = `
import atexit, ctypes, errno, fcntl, json, mmap, os, socket, struct, sys, threading, time
found = []
def tried(name, result): found.append([name, str(result), str(result).startswith(('ok', 'answer'))])
def needed(name, result): found.append([name, str(result), not str(result).startswith(('ok', 'answer'))])
atexit.register(lambda: print('\\n' + json.dumps(found)))
def error(e): return 'silence' if isinstance(e, TimeoutError) else errno.errorcode.get(e.errno, str(e))
def code(f, *a):
    try: f(*a)
    except OSError as e: return error(e)
    return 'ok'
def make(kind, at, *options):
    s = socket.socket(socket.AF_INET6 if ':' in at else socket.AF_INET, socket.SOCK_STREAM if kind == 'tcp' else socket.SOCK_DGRAM)
    s.settimeout(0.3)
    for level, option in options: code(s.setsockopt, level, option, 1)
    return s
def asked(s, send=None):
    try:
        send() if send else s.send(b'?')
        return 'answer ' + s.recv(99).decode()
    except OSError as e: return error(e)
def sockaddr(at, port):
    if ':' in at: return struct.pack('=H', 10) + struct.pack('!HI', port, 0) + socket.inet_pton(10, at) + bytes(4)
    return struct.pack('=H', 2) + struct.pack('!H', port) + socket.inet_aton(at) + bytes(8)
libc = ctypes.CDLL(None, use_errno=True)
def uring(opcode, fd=-1, data=b'', off=0, length=0):
    # One operation, with the system calls alone (io_uring(7)).
    buffer, params = ctypes.create_string_buffer(data), ctypes.create_string_buffer(120)
    ring = libc.syscall(425, 4, params)
    if ring < 0: return errno.errorcode[ctypes.get_errno()]
    u32 = lambda at: struct.unpack_from('=I', params, at)[0]
    sq, cq = [u32(40 + 4 * i) for i in range(8)], [u32(80 + 4 * i) for i in range(8)]
    rings = mmap.mmap(ring, max(sq[6] + 16, cq[5] + 16 * u32(4)), offset=0)
    entries = mmap.mmap(ring, 4 * 64, offset=0x10000000)
    struct.pack_into('=BBHiQQIIQ', entries, 0, opcode, 0, 0, fd, off, ctypes.addressof(buffer), length, 0, 1)
    struct.pack_into('=I', rings, sq[6], 0)
    struct.pack_into('=I', rings, sq[1], 1)
    if libc.syscall(426, ring, 1, 1, 1, None, 0) < 0: return errno.errorcode[ctypes.get_errno()]
    result = struct.unpack_from('=i', rings, cq[5] + 8)[0]
    os.close(ring)
    return errno.errorcode[-result] if result < 0 else f'ok {result}'
`;

/** Answers TCP and UDP with its name and who asked. Words: NAME PORT ADDRESS … */
const SERVER = `
import selectors, socket, sys
name, port = sys.argv[1], int(sys.argv[2])
wait = selectors.DefaultSelector()
for at in sys.argv[3:]:
    for kind in socket.SOCK_STREAM, socket.SOCK_DGRAM:
        s = socket.socket(socket.AF_INET6 if ':' in at else socket.AF_INET, kind)
        for option in 2, 15: s.setsockopt(1, option, 1) # who wants to share the port may
        if ':' in at: s.setsockopt(41, 26, 1)
        try: s.bind((at, port))
        except OSError as e:
            if name == 'thief': continue
            raise
        if kind == socket.SOCK_STREAM: s.listen()
        wait.register(s, selectors.EVENT_READ)
print('ready', flush=True)
while True:
    for key, _ in wait.select():
        s = key.fileobj
        if s.type == socket.SOCK_STREAM:
            c, peer = s.accept()
            c.sendall(f'{name} {peer[0]}'.encode())
            c.close()
        else:
            _, peer = s.recvfrom(99)
            s.sendto(f'{name} {peer[0]}'.encode(), peer)
`;
/** Asks with TCP and UDP, all before the first answer: silence of many takes no longer than that of one. Words: PORT ADDRESS … */
const CLIENT = `
import socket, sys, time
asked = []
for at in sys.argv[2:]:
    for kind in socket.SOCK_STREAM, socket.SOCK_DGRAM:
        s = socket.socket(socket.AF_INET6 if ':' in at else socket.AF_INET, kind)
        s.settimeout(20)
        try:
            s.connect((at, int(sys.argv[1])))
            s.send(b'?')
            asked.append((at, s))
        except OSError as e: print(at, type(e).__name__)
end = time.monotonic() + 20
for at, s in asked:
    s.settimeout(max(0.001, end - time.monotonic()))
    try: print(at, s.recv(99).decode().split()[0])
    except OSError as e: print(at, type(e).__name__)
`;

/** Where the servers are that are to be attacked. */
const PORT = '7000';
const SHARED_PORT = '7002';
const LINK = ['10.9.0.1', 'fd09::1'];
const METADATA = ['169.254.169.254', 'fd00:ec2::254'];
const LOOPBACK = ['127.0.0.1', '127.0.0.53', '::1'];
/** Addresses of the guests. */
const OWN = ['10.9.0.5', 'fd09::5'];
const OTHER = ['10.9.0.6', 'fd09::6'];
const mapped = (addresses: readonly string[]): readonly string[] => [
  ...addresses,
  ...addresses.filter((address) => !address.includes(':')).map((address) => `::ffff:${address}`),
];

/** A host, a hostile guest on it, another guest, and servers of both others. */
export interface NetworkWorld {
  readonly v: Instance;
  readonly host: TestNetwork;
  /** Runs Python in the hostile guest, with the default filter and without one; what got through, a line each. */
  attack(code: string): Promise<readonly string[]>;
  /** Starts Python that says `ready` and goes on: on the host, or in a guest. */
  start(where: 'host' | 'one' | 'two', code: string, ...words: readonly string[]): Promise<void>;
}

/** A security test: what got through, one line each; nothing when all is well. */
export type NetworkCheck = (world: NetworkWorld) => Promise<readonly string[]>;

/** Runs a check in a world of its own, of this checkout or another one. */
export async function inNetworkWorld(check: NetworkCheck, checkout?: string): Promise<readonly string[]> {
  const host = await openNetwork();
  const children: ChildProcess[] = [];
  const v = await openInstance({ under: host.under, ...(checkout === undefined ? {} : { checkout }) });
  const start: NetworkWorld['start'] = async (where, code, ...words) => {
    const [program = '', ...rest] = [...host.under, PYTHON, '-c', code, ...words];
    const child =
      where === 'host'
        ? spawn(program, rest, { stdio: ['ignore', 'pipe', 'inherit'] })
        : v.spawn(['exec', where, PYTHON, '-c', code, ...words]);
    children.push(child);
    const said = child.stdout ? await Promise.race([once(child.stdout, 'data'), once(child, 'exit')]) : [];
    if (!String(said[0]).startsWith('ready')) throw new Error(`${where} did not start: ${said[0]}`);
  };
  const attack = async (code: string): Promise<readonly string[]> => {
    const breaches: string[] = [];
    for (const name of ['one', 'unfiltered']) {
      const said = await v.ok(['exec', name, PYTHON, '-c', TOOLS + code]);
      const found = told(JSON.parse(said.trim().split('\n').at(-1) ?? ''));
      breaches.push(...found.map((breach) => `${name}: ${breach}`));
    }
    return breaches;
  };
  try {
    chmodSync(v.scratch, 0o777);
    host.run('ip', 'addr', 'add', `${METADATA[0]}/32`, 'dev', 'h0');
    host.run('ip', 'addr', 'add', `${METADATA[1]}/128`, 'dev', 'h0', 'nodad');
    await start('host', SERVER, 'host', PORT, ...LINK, ...METADATA, ...LOOPBACK);
    const on = (addresses: readonly string[]): readonly string[] => [
      '--network-interface',
      'h0',
      ...addresses.flatMap((one) => ['--ip', `${one}/${one.includes(':') ? 64 : 24}`]),
    ];
    for (const [name, options] of [
      ['one', on(OWN)],
      ['two', on(OTHER)],
      ['unfiltered', ['--network-of', 'one', '--security-opt', 'seccomp=unconfined']],
    ] as const)
      await v.ok(['run', '-d', '--name', name, ...options, '-v', `${v.scratch}:/srv`, '--', 'sleep', '1000']);
    await start('two', SERVER, 'two', PORT, ...OTHER, '127.0.0.1', '::1');
    return await check({ v, host, attack, start });
  } finally {
    for (const child of children) child.kill('SIGKILL');
    try {
      await v.close();
    } finally {
      await host.close();
    }
  }
}

/** D1: abstract sockets of the host and of other guests. */
export const d1: NetworkCheck = async ({ attack, start }) => {
  const listens = `
import socket, time
s = socket.socket(socket.AF_UNIX); s.bind('\\0hidden'); s.listen()
d = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); d.bind('\\0hidden-datagrams')
print('ready', flush=True); time.sleep(1000)`;
  await start('host', listens);
  await start('two', listens);
  // And whatever there is on this machine itself.
  const names = readFileSync('/proc/net/unix', 'utf8')
    .split('\n')
    .flatMap((line) => / (@\S+)$/.exec(line)?.[1] ?? []);
  return await attack(`
names = json.loads(${JSON.stringify(JSON.stringify(['@hidden', '@hidden-datagrams', ...names]))})
text = open('/proc/net/unix').read()
for name in names:
    for kind in socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET:
        tried(f'connect {name} {kind}', code(socket.socket(socket.AF_UNIX, kind).connect, '\\0' + name[1:]))
    tried(f'send to {name}', code(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto, b'x', '\\0' + name[1:]))
    tried(f'see {name}', 'ok' if name in text else 'absent')
s = socket.socket(socket.AF_UNIX)
needed('the same name', code(s.bind, '\\0hidden')); s.listen()
needed('the same name', code(socket.socket(socket.AF_UNIX).connect, '\\0hidden'))`);
};

/** Addresses that are not the hostile guest's to bind; every guest has 127.0.0.1 and ::1. */
const FOREIGN = JSON.stringify(mapped([...LINK, ...METADATA, '127.0.0.53', ...OTHER]));

/** D2: addresses of others by bind(2), with all that could lift the check, and kinds of sockets that nobody checks. */
export const d2Bind: NetworkCheck = async ({ attack }) =>
  await attack(`
options = {
    'nothing': [], 'IP_FREEBIND': [(0, 15), (41, 78)], 'IP_TRANSPARENT': [(0, 19), (41, 75)], 'SO_REUSEADDR': [(1, 2)],
    'SO_REUSEPORT': [(1, 15)], 'both': [(1, 2), (1, 15)], 'IP_BIND_ADDRESS_NO_PORT': [(0, 24)],
}
for at in ${FOREIGN}:
    for kind in 'tcp', 'udp':
        for name, list in options.items():
            for port in 0, ${PORT}: tried(f'{kind} {at} port {port} with {name}', code(make(kind, at, *list).bind, (at, port)))
        s = make(kind, at)
        tried(f'{kind} {at} by io_uring', uring(56, s.fileno(), sockaddr(at, 0), 28)) # IORING_OP_BIND, Linux 6.11
for device in b'lo', b'h0', b'eth0': tried(f'SO_BINDTODEVICE {device}', code(make('tcp', '').setsockopt, 1, 25, device))
for index in 1, 2, 3: tried(f'SO_BINDTOIFINDEX {index}', code(make('udp', '').setsockopt, 1, 62, index))
for name, protocol in ('SCTP', 132), ('UDP-Lite', 136), ('MPTCP', 262), ('DCCP', 33):
    for kind in 1, 2, 5, 6:
        for family in 2, 10: tried(f'socket {name} {kind} {family}', code(socket.socket, family, kind, protocol))
for at in ${JSON.stringify(mapped(OWN))}:
    for kind in 'tcp', 'udp': needed(f'{kind} {at}', code(make(kind, at).bind, (at, 6999)))`);

/** D2: what is sent to others' servers, at a port that both sides are willing to share. */
export const d2Steal: NetworkCheck = async ({ v, host, start }) => {
  await start('host', SERVER, 'host', SHARED_PORT, '0.0.0.0', '::');
  await start('two', SERVER, 'two', SHARED_PORT, '0.0.0.0', '::');
  const everywhere = ['0.0.0.0', '::', '127.0.0.1', '::1', ...OWN, ...LINK, ...OTHER];
  await start('one', SERVER, 'thief', SHARED_PORT, ...everywhere);
  const breaches: string[] = [];
  const hear = (said: string, owner: (at: string) => string): void => {
    for (const line of said.trim().split('\n')) {
      const [at = '', name = ''] = line.split(' ');
      if (name !== owner(at)) breaches.push(`${line}, expected ${owner(at)}`);
    }
  };
  const ofHost = (at: string): string => (OTHER.includes(at) ? 'two' : OWN.includes(at) ? 'thief' : 'host');
  for (let round = 0; round < 4 && breaches.length === 0; round++) {
    hear(host.run(PYTHON, '-c', CLIENT, SHARED_PORT, ...LINK, '127.0.0.1', '::1', ...OWN, ...OTHER), ofHost);
    if (breaches.length > 0) break; // silence takes its time
    hear(
      await v.ok(['exec', 'two', PYTHON, '-c', CLIENT, SHARED_PORT, ...OTHER, '127.0.0.1', '::1']),
      () => 'two',
    );
  }
  return breaches;
};

/** D2 D6 D8: packets whose source is somebody else, or that take a way of their own. */
export const d2Source: NetworkCheck = async ({ attack, start }) => {
  // A socket of another guest's that is passed on stays the other's.
  await start(
    'two',
    `
import os, socket, threading
l = socket.socket(socket.AF_UNIX); l.bind('/srv/passed'); os.chmod('/srv/passed', 0o777); l.listen()
def give():
    while True:
        c = l.accept()[0]
        s, u = socket.socket(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        socket.send_fds(c, [b'x'], [s.fileno(), u.fileno()]); c.close()
threading.Thread(target=give).start()
print('ready', flush=True)`,
  );
  return await attack(`
to, to6 = ('${LINK[0]}', ${PORT}), ('${LINK[1]}', ${PORT})
def who(s, send):
    # The server says who asked: own addresses are right.
    answer = asked(s, send)
    return answer if not answer.endswith((' ${OWN[0]}', ' ${OWN[1]}')) else 'own address'
for at in ${JSON.stringify([LINK[0], OTHER[0], '127.0.0.1', '8.8.8.8'])}:
    info = [(0, 8, struct.pack('=I4s4s', 0, socket.inet_aton(at), bytes(4)))]
    s = make('udp', ''); tried(f'IP_PKTINFO {at}', code(s.sendmsg, [b'x'], info, 0, to))
    s.connect(to); tried(f'IP_PKTINFO {at}, connected', code(s.sendmsg, [b'x'], info))
for at in ${JSON.stringify([LINK[1], OTHER[1], '::1', '2001:db8::1'])}:
    info = socket.inet_pton(10, at) + bytes(4)
    s = make('udp', '::'); tried(f'IPV6_PKTINFO {at}', code(s.sendmsg, [b'x'], [(41, 50, info)], 0, to6))
    s.connect(to6); tried(f'IPV6_PKTINFO {at}, connected', code(s.sendmsg, [b'x'], [(41, 50, info)]))
    s = make('udp', '::'); code(s.setsockopt, 41, 50, info); tried(f'IPV6_PKTINFO {at}, sticky', who(s, lambda: s.sendto(b'x', to6)))
    s = make('tcp', '::'); code(s.setsockopt, 41, 50, info); code(s.connect, to6); tried(f'TCP, IPV6_PKTINFO {at}', who(s, None))
# Options in the header by a control message, which no program of the socket sees.
for name, option in ('record route', bytes([7, 7, 4]) + bytes(5)), ('source route', bytes([0x83, 7, 4]) + socket.inet_aton('${OTHER[0]}') + b'\\0'), ('timestamp', bytes([68, 12, 5, 0]) + bytes(8)):
    s = make('udp', ''); tried(f'IP_RETOPTS {name}', code(s.sendmsg, [b'x'], [(0, 7, option)], 0, to))
    s = make('udp', ''); tried(f'IP_OPTIONS {name}', code(s.setsockopt, 0, 4, option))
for kind in 0, 2, 3, 4:
    header = bytes([0, 2, kind, 1]) + bytes(4) + socket.inet_pton(10, '${OTHER[1]}')
    s = make('udp', '::'); tried(f'IPV6_RTHDR {kind}', code(s.sendmsg, [b'x'], [(41, 57, header)], 0, to6))
    tried(f'IPV6_RTHDR {kind}, sticky', code(s.setsockopt, 41, 57, header))
for name, option in ('SO_MARK', 36), ('SO_PRIORITY 7', 12): tried(name, code(make('udp', '').setsockopt, 1, option, 7))
s = make('udp', ''); tried('SO_MARK by message', code(s.sendmsg, [b'x'], [(1, 36, struct.pack('=I', 7))], 0, to))
tried('TCP_REPAIR', code(make('tcp', '').setsockopt, 6, 19, 1))
c = socket.socket(socket.AF_UNIX); c.connect('/srv/passed')
passed = [socket.socket(fileno=fd) for fd in socket.recv_fds(c, 1, 2)[1]]
for s in passed:
    s.settimeout(20)
    tried(f'bind a passed socket {s.type}', code(s.bind, ('${OWN[0]}', 0)))
    s.connect(to)
    answer = asked(s)
    needed(f'a passed socket {s.type}', 'ok' if answer == 'answer host ${OTHER[0]}' else answer)
# Sockets for packets are of the guest's own namespace, where nobody is.
for family in 2, 10:
    for protocol in 1, 6, 17, 58, 255:
        try: s = socket.socket(family, 3, protocol)
        except OSError: continue
        s.settimeout(0.3)
        tried(f'raw {family} {protocol}', code(s.sendto, b'x' * 40, (to if family == 2 else to6)[:1] + (0,)))
s = make('udp', ''); s.settimeout(20); needed('an ordinary datagram', who(s, lambda: s.sendto(b'x', to)).replace('own address', 'ok'))`);
};

/** Tries all addresses at once: most of a try that gets through is a wait for an answer. */
const CONNECTS = (targets: readonly string[]): string => `
from concurrent.futures import ThreadPoolExecutor
def connects(at):
    to = (at, ${PORT})
    for kind in 'tcp', 'udp':
        s = make(kind, at); tried(f'{kind} {at}', code(s.connect, to) if kind == 'tcp' else asked(s, lambda: s.sendto(b'?', to)))
        s = make(kind, at); answer = uring(16, s.fileno(), sockaddr(at, ${PORT}), 28 if ':' in at else 16) # IORING_OP_CONNECT
        tried(f'{kind} {at} by io_uring', asked(s) if answer == 'ok 0' else answer)
    s = make('udp', at); code(s.connect, to); tried(f'udp {at}, connected', asked(s))
    s = make('udp', at); code(s.connect, ('${LINK[0]}', ${PORT})); tried(f'udp {at}, from a connected one', asked(s, lambda: s.sendto(b'?', to)))
    s = make('tcp', at); tried(f'tcp {at}, MSG_FASTOPEN', asked(s, lambda: s.sendto(b'?', 0x20000000, to)))
    s = make('tcp', at); s.setsockopt(6, 30, 1); tried(f'tcp {at}, TCP_FASTOPEN_CONNECT', asked(s) if code(s.connect, to) == 'ok' else 'refused')
with ThreadPoolExecutor(16) as pool: list(pool.map(connects, ${JSON.stringify(targets)}))
`;

/** D3: loopback of the host and of other guests. */
export const d3: NetworkCheck = async ({ attack, v }) => {
  const xids = JSON.parse(await v.ok(['inspect', 'two', '--json'])) as readonly { xid: number }[];
  const xid = xids[0]?.xid ?? 0;
  const others = [`127.${xid >> 8}.${xid & 255}.1`, `fd76:7365:7276:6572::${xid.toString(16)}`];
  return await attack(`${CONNECTS(mapped([...LOOPBACK, '0.0.0.0', '127.0.0.2', ...others]))}
tried('tcp ::', code(make('tcp', '::').connect, ('::', ${PORT})))
s = uring(45, fd=2, off=1) # IORING_OP_SOCKET: of the guest's own namespace
if s.startswith('ok'):
    for at in ${JSON.stringify([...LINK, ...METADATA, ...OTHER].filter((one) => !one.includes(':')))}:
        tried(f'a socket of io_uring, {at}', code(socket.socket(fileno=os.dup(int(s[3:]))).connect, (at, ${PORT})))
    with make('tcp', '') as s, make('tcp', '') as c:
        s.bind(('127.0.0.1', 6998)); s.listen()
        needed('127.0.0.1 by io_uring', uring(16, c.fileno(), sockaddr('127.0.0.1', 6998), 16))
def loopback(at):
    s = make('tcp', at); s.bind((at, 0)); s.listen()
    return code(make('tcp', at).connect, s.getsockname()[:2])
needed('own 127.0.0.1', loopback('127.0.0.1')); needed('own ::1', loopback('::1'))`);
};

/** D4: the metadata service of the host's cloud; and other guests, where no policy opens them. */
export const d4: NetworkCheck = async ({ attack }) =>
  await attack(`${CONNECTS(mapped([...METADATA, ...OTHER]))}
for at in ${JSON.stringify(LINK)}:
    for kind in 'tcp', 'udp':
        s = make(kind, at); s.settimeout(20); needed(f'{kind} {at}', asked(s) if code(s.connect, (at, ${PORT})) == 'ok' else 'refused')`);

/** D5: interfaces, addresses, routes and neighbours of the host, to be seen or changed. */
export const d5: NetworkCheck = async ({ attack }) =>
  await attack(`
import re, subprocess
seen = ''
for words in ['addr'], ['link'], ['route', 'show', 'table', 'all'], ['-6', 'route', 'show', 'table', 'all'], ['neigh'], ['rule'], ['maddr']:
    seen += subprocess.run(['ip', *words], capture_output=True, text=True).stdout
for path in 'dev', 'route', 'arp', 'tcp', 'tcp6', 'udp', 'udp6', 'if_inet6', 'ipv6_route', 'igmp', 'fib_trie', 'packet', 'netlink', 'raw':
    try: seen += open('/proc/net/' + path).read()
    except OSError: pass
seen += ' '.join(os.listdir('/sys/class/net'))
for name in 'h0', 'h1', '${LINK[0]}', '${LINK[1]}', '${OTHER[0]}', '0100090A', '0600090A': tried(f'see {name}', 'ok' if re.search(r'\\b' + name + r'\\b', seen) else 'absent')
needed('see own', 'ok' if '${OWN[0]}' in seen and '${OWN[1]}' in seen else seen)
for request in range(0x8900, 0x8a00):
    for name in b'h0', b'lo':
        value = bytearray(name + bytes(254))
        try: fcntl.ioctl(make('udp', ''), request, value)
        except OSError: continue
        # What is true of every socket, and of the guest's own loopback and interface.
        shows = b'h0' in bytes(value).replace(b'h0', b'', 1 if name == b'h0' else 0) or socket.inet_aton('${LINK[0]}') in value
        tried(f'ioctl {request:#x} {name}', 'ok' if shows or (name == b'h0' and request in (0x8913, 0x8915, 0x891b, 0x8927, 0x8933)) else 'own')
for words in ['addr', 'add', '${LINK[0]}/24', 'dev', 'lo'], ['link', 'set', 'lo', 'down'], ['route', 'add', 'default', 'dev', 'lo'], ['link', 'add', 'x', 'type', 'dummy'], ['rule', 'add', 'from', 'all', 'lookup', '5']:
    tried(' '.join(words), 'ok' if subprocess.run(['ip', *words], capture_output=True).returncode == 0 else 'refused')
s = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 15) if code(socket.socket, socket.AF_NETLINK, socket.SOCK_RAW, 15) == 'ok' else None
if s: s.settimeout(0.3); code(s.bind, (0, -1)); tried('uevents', code(s.recv, 9000))`);

/** Says what it hears, to each for itself. Words: PORT ADDRESS … */
const ECHO = `
import socket, sys, threading
def echo(c):
    try:
        while data := c.recv(99): c.sendall(data)
    except OSError: pass
def datagrams(s):
    while True:
        data, peer = s.recvfrom(99)
        try: s.sendto(data, peer)
        except OSError: pass
def connections(s):
    while True: threading.Thread(target=echo, args=[s.accept()[0]]).start()
for at in sys.argv[2:]:
    for kind, serve in (socket.SOCK_STREAM, connections), (socket.SOCK_DGRAM, datagrams):
        s = socket.socket(socket.AF_INET6 if ':' in at else socket.AF_INET, kind)
        s.bind((at, int(sys.argv[1])))
        if kind == socket.SOCK_STREAM: s.listen()
        threading.Thread(target=serve, args=[s]).start()
print('ready', flush=True)
`;

/** D7: what was opened while policy allowed it. */
export const d7: NetworkCheck = async ({ v, start }) => {
  await start('host', ECHO, '7001', ...LINK);
  await start('two', ECHO, '7001', ...OTHER);
  await v.ok(['set', 'one', 'network.policy.peers=[two]']);
  const result = join(v.scratch, 'result');
  await start(
    'one',
    `${TOOLS}
held = []
for at in ${JSON.stringify([...OTHER, ...LINK])}:
    for kind in 'tcp', 'udp':
        s = make(kind, at); s.settimeout(20); s.connect((at, 7001)); needed(f'{kind} {at}', asked(s)); s.settimeout(0.3); held.append((kind, at, s))
print('ready', flush=True)
while not os.path.exists('/srv/changed'): time.sleep(0.02)
for kind, at, s in held: tried(f'{kind} {at}, opened before', asked(s))
with open('/srv/result.new', 'w') as file: json.dump(found, file)
os.rename('/srv/result.new', '/srv/result')`,
  );
  await v.ok(['set', 'one', 'network.policy.peers=[]', 'network.policy.otherwise=deny']);
  writeFileSync(join(v.scratch, 'changed'), '');
  await eventually('the result', () => existsSync(result) || undefined);
  return told(JSON.parse(readFileSync(result, 'utf8')));
};

/** What a raw socket of ICMP may send is a question with a source of its own; and only the root of the guest has one. */
const RAW = `
def packet(kind):
    body = struct.pack('!BBHHH', kind, 0, 0, 1, 1)
    total = sum(struct.unpack('!4H', body)); total = (total & 0xffff) + (total >> 16)
    return body[:2] + struct.pack('!H', ~total & 0xffff) + body[4:]
def send(family, at, kind, source=None):
    s = socket.socket(family, 3, 1 if family == 2 else 58); s.settimeout(20)
    if source: s.bind((source, 0))
    s.sendto(packet(kind), (at, 0))
if os.getuid() == 0:
    needed('an echo', code(send, 2, '10.9.0.1', 8)); needed('an echo of IPv6', code(send, 10, 'fd09::1', 128))
    for kind in 0, 3, 5, 9, 11: tried(f'ICMP {kind}', code(send, 2, '10.9.0.1', kind))
    for kind in 1, 129, 133, 134, 135, 136, 137: tried(f'ICMPv6 {kind}', code(send, 10, 'fd09::1', kind))
    tried("the host's address", code(send, 2, '10.9.0.1', 8, '10.9.0.1'))
    tried("another guest's address", code(send, 2, '10.9.0.1', 8, '10.9.0.6'))
    tried('another guest', code(send, 2, '10.9.0.6', 8))
    tried('headers of its own', code(socket.socket(2, 3, 1).setsockopt, 0, 3, 1))
else:
    needed('a socket', code(socket.socket))
    for family, protocol in (2, 1), (10, 58): tried(f'raw socket {protocol}', code(socket.socket, family, 3, protocol))
for protocol in 2, 6, 17, 255: tried(f'raw socket {protocol}', code(socket.socket, 2, 3, protocol))
`;

/** D9: raw sockets of a guest that is given those of ICMP. */
export const d9: NetworkCheck = async ({ v }) => {
  const options = [
    '--ip',
    '10.9.0.8/24',
    '--ip',
    'fd09::8/64',
    '--network-interface',
    'h0',
    '--ccaps',
    'raw_icmp',
  ];
  await v.ok(['run', '-d', '--name', 'pinger', ...options, '--', 'sleep', '1000']);
  const breaches: string[] = [];
  for (const user of ['0', '1000']) {
    const said = await v.ok(['exec', '-u', user, 'pinger', PYTHON, '-c', TOOLS + RAW]);
    breaches.push(
      ...told(JSON.parse(said.trim().split('\n').at(-1) ?? '')).map((one) => `user ${user}: ${one}`),
    );
  }
  return breaches;
};

/** Tells who sent to it, until somebody sends the word. */
const HEARS = `
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('10.9.0.1', 7003))
print('ready', flush=True)
with open(sys.argv[1], 'w') as file:
    while True:
        word, peer = s.recvfrom(99)
        print(word.decode(), peer[0], file=file, flush=True)
`;

/** D10: packets of a guest with a network stack of its own whose source is not the guest's. */
export const d10: NetworkCheck = async ({ v, start }) => {
  const heard = join(v.scratch, 'heard');
  await start('host', HEARS, heard);
  const options = [
    '--network',
    'private',
    '--ip',
    '10.7.0.2/24',
    '--gateway',
    '10.7.0.1',
    '--cap-add',
    'NET_ADMIN',
  ];
  await v.ok(['run', '-d', '--name', 'apart', ...options, '--', 'sleep', '1000']);
  const spoof = `
import os, socket
for word, source in ('other', '10.9.0.6'), ('host', '10.9.0.1'), ('none', '10.66.0.1'), ('own', '10.7.0.2'):
    if word != 'own': os.system(f'ip addr add {source}/32 dev lo')
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind((source, 0))
    if word == 'host': os.system('ip route del local 10.9.0.1 table local')
    s.sendto(word.encode(), ('10.9.0.1', 7003))`;
  await v.ok(['exec', 'apart', PYTHON, '-c', spoof]);
  const lines = await eventually('the last word', () => {
    const text = existsSync(heard) ? readFileSync(heard, 'utf8') : '';
    return text.includes('own 10.7.0.2\n') ? text.trim().split('\n') : undefined;
  });
  return lines.filter((line) => !line.startsWith('own '));
};

/** Breaches among what `TOOLS` found. */
function told(
  found: readonly (readonly [what: string, result: string, isBreach: boolean])[],
): readonly string[] {
  if (found.length === 0) return ['nothing was tried'];
  return found.filter(([, , isBreach]) => isBreach).map(([what, result]) => `${what}: ${result}`);
}
