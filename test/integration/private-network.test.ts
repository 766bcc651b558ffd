/** Guests with a network stack of their own, in a network namespace that stands for the host's. */
import assert from 'node:assert/strict';
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { after, afterEach, before, beforeEach, describe, test } from 'node:test';
import { eventually, type OpenInstance, openInstance } from '../lib/instance.ts';
import { openNetwork, type TestNetwork } from '../lib/network.ts';
import { unmet } from '../lib/requires.ts';

const PYTHON = '/usr/bin/python3';
/** Answers each connection with who it is and whom it sees. */
const SERVER = `
import socket, sys
s = socket.create_server(('::', 80), family=socket.AF_INET6, dualstack_ipv6=True)
print('ready', flush=True)
while True:
    c, peer = s.accept()
    c.sendall(f'{sys.argv[1]} {peer[0]}'.encode()); c.close()
`;
const CLIENT = `
import socket, sys
s = socket.create_connection((sys.argv[1], 80), 3)
print(s.recv(100).decode())
`;
const RECEIVER = `
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('10.9.0.1', 5353))
print('ready', flush=True)
while True: print(s.recvfrom(10)[1][0], flush=True)
`;
const SENDER = `
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind((sys.argv[1], 0)); s.sendto(b'x', ('10.9.0.1', 5353))
`;

describe('network: private', { skip: unmet('root', 'overlay', 'network') }, () => {
  let host: TestNetwork;
  let v: OpenInstance;
  before(async () => {
    host = await openNetwork();
    host.run('ip', 'link', 'add', 'br0', 'type', 'bridge');
    host.run('ip', 'link', 'set', 'br0', 'up');
    host.run('ip', 'addr', 'add', '10.8.0.1/24', 'dev', 'br0');
    host.run('ip', 'addr', 'add', 'fd08::1/64', 'dev', 'br0', 'nodad');
  });
  after(() => host.close());
  beforeEach(async () => {
    v = await openInstance({ under: host.under });
  });
  afterEach(async () => {
    for (const child of running.splice(0)) child.kill('SIGKILL');
    await v.close();
    assert.deepEqual(hostEnds(), [], 'no interface is left on the host');
  });

  const running: ChildProcess[] = [];
  /** Waits until a program says that it is ready; returns a function that waits for its next line. */
  const listening = async (child: ChildProcess): Promise<() => Promise<string | undefined>> => {
    running.push(child);
    const lines = createInterface({ input: child.stdout! })[Symbol.asyncIterator]();
    const next = async (): Promise<string | undefined> => (await lines.next()).value;
    const failed = once(child.stderr!, 'data').then(([text]) => assert.fail(String(text)));
    failed.catch(() => {}); // when it is killed
    assert.equal(await Promise.race([next(), failed]), 'ready');
    return next;
  };
  const serve = (name: string): Promise<unknown> =>
    listening(v.spawn(['exec', name, PYTHON, '-c', SERVER, name]));
  const onHost = (...words: readonly string[]): Promise<() => Promise<string | undefined>> => {
    const [program = '', ...rest] = [...host.under, PYTHON, '-c', ...words];
    return listening(spawn(program, rest, { stdio: ['ignore', 'pipe', 'pipe'] }));
  };
  const serveOnHost = (): Promise<unknown> => onHost(SERVER, 'host');
  const ask = (address: string): string => host.run(PYTHON, '-c', CLIENT, address).trim();
  const askFrom = async (name: string, address: string): Promise<string> =>
    (await v.ok(['exec', name, PYTHON, '-c', CLIENT, address])).trim();
  const hostEnds = (): readonly string[] =>
    [...host.run('ip', '-o', 'link').matchAll(/^\d+: (vs-[^@:]+)/gm)].map(([, name]) => name ?? '').sort();
  const guest = (name: string, ...options: readonly string[]): Promise<string> =>
    v.ok(['run', '-d', '--name', name, '--network', 'private', ...options, '--', 'sleep', '1000']);
  const routed = ['--gateway', '10.7.0.1', '--gateway', 'fe80::1'];

  test('is found possible by check', async () => {
    const findings = JSON.parse((await v.run(['check', '--json'])).stdout) as readonly {
      readonly name: string;
      readonly ok: boolean;
    }[];
    assert.equal(findings.find(({ name }) => name === 'veth')?.ok, true);
  });

  test('without a bridge the host has a route, and the gateway; connections go both ways', async () => {
    await guest('one', '--ip', '10.7.0.2/24', '--ip', 'fd07::2/64', ...routed);
    assert.deepEqual(hostEnds(), ['vs-one']);
    assert.match(host.run('ip', '-o', 'link', 'show', 'vs-one'), /alias vserver guest one/);
    const shown = (await v.ok(['exec', 'one', 'ip', '-o', 'addr', 'show', 'scope', 'global'])).trim();
    assert.deepEqual(
      shown.split('\n').map((line) => /^\d+: (\S+) +inet6? (\S+)/.exec(line)?.slice(1, 3).join(' ')),
      ['eth0 10.7.0.2/24', 'eth0 fd07::2/64'],
    );
    assert.match(await v.ok(['exec', 'one', 'ip', 'route']), /^default via 10\.7\.0\.1 dev eth0/m);
    assert.equal((await v.ok(['exec', 'one', 'ls', '/sys/class/net'])).trim(), 'eth0\nlo');
    assert.match(await v.ok(['exec', 'one', 'cat', '/etc/hosts']), /^10\.7\.0\.2 one$/m);
    await serve('one');
    await serveOnHost();
    assert.equal(ask('10.7.0.2'), 'one ::ffff:10.7.0.1');
    assert.match(ask('fd07::2'), /^one /);
    // An address of the host's that is in no network of the guest's.
    assert.equal(await askFrom('one', '10.9.0.1'), 'host ::ffff:10.7.0.2');
    assert.equal(await askFrom('one', 'fd09::1'), 'host fd07::2');
    assert.equal(await askFrom('one', '127.0.0.2'), 'one ::ffff:127.0.0.1', "its loopback is not the host's");
  });

  test('in a bridge guests reach each other and what else is there', async () => {
    await guest(
      'one',
      '--bridge',
      'br0',
      '--ip',
      '10.8.0.2/24',
      '--ip',
      'fd08::2/64',
      '--gateway',
      '10.8.0.1',
    );
    await guest('two', '--bridge', 'br0', '--ip', '10.8.0.3/24', '--ip', 'fd08::3/64');
    assert.match(host.run('ip', '-o', 'link', 'show', 'master', 'br0'), /vs-one[\s\S]*vs-two/);
    await serve('one');
    await serve('two');
    assert.equal(await askFrom('two', '10.8.0.2'), 'one ::ffff:10.8.0.3');
    assert.equal(await askFrom('one', 'fd08::3'), 'two fd08::2');
    assert.equal(ask('10.8.0.2'), 'one ::ffff:10.8.0.1');
    const address = (): string =>
      /link\/ether (\S+)/.exec(host.run('ip', '-o', 'link', 'show', 'vs-two'))?.[1] ?? '';
    const before = address();
    await v.ok(['delete', '--force', 'two']);
    assert.deepEqual(hostEnds(), ['vs-one'], 'gone when stop returns');
    await guest('two', '--bridge', 'br0', '--ip', '10.8.0.3/24');
    assert.equal(address(), before);
    assert.match(before, /^fe:/);
  });

  test('the guest is its own master there with the capability, and cannot fool the host', async () => {
    await guest(
      'one',
      '--ip',
      '10.7.0.2/24',
      ...routed.slice(0, 2),
      '--cap-add',
      'NET_ADMIN',
      '--cap-add',
      'NET_RAW',
    );
    await v.ok(['exec', 'one', 'ip', 'addr', 'add', '10.9.0.9/32', 'dev', 'eth0']);
    await v.ok(['exec', 'one', 'ip', 'link', 'add', 'inner', 'type', 'bridge']);
    const heard = await onHost(RECEIVER);
    for (const source of ['10.9.0.9', '10.7.0.2']) await v.ok(['exec', 'one', PYTHON, '-c', SENDER, source]);
    assert.equal(await heard(), '10.7.0.2', 'what seems to come from somewhere else does not arrive');
    for (const [path, value] of [
      ['ipv4/conf/vs-one/rp_filter', '1'],
      ['ipv6/conf/vs-one/accept_ra', '0'],
    ])
      assert.equal(host.run('cat', `/proc/sys/net/${path}`).trim(), value, path);
    await v.ok(['exec', 'one', 'ip', 'link', 'del', 'eth0']);
    assert.deepEqual(hostEnds(), []);
    await v.ok(['stop', '-t', '0', 'one']);
  });

  test('without capabilities it changes nothing', async () => {
    await guest('one', '--ip', '10.7.0.2/24');
    for (const words of [
      ['ip', 'addr', 'add', '10.7.0.3/24', 'dev', 'eth0'],
      ['ip', 'link', 'set', 'eth0', 'down'],
      [PYTHON, '-c', 'import socket; socket.socket(socket.AF_PACKET, socket.SOCK_RAW)'],
    ])
      assert.notEqual((await v.run(['exec', 'one', ...words])).code, 0, words.join(' '));
  });

  test('addresses change while it runs', async () => {
    const options = ['--network', 'private', '--ip', '10.7.0.2/24', '--gateway', '10.7.0.1'];
    await v.ok(['create', 'one', ...options, '--', 'sleep', '1000']);
    await v.ok(['start', 'one']);
    await serve('one');
    assert.equal((await v.run(['set', 'one', '--ip-add', '10.7.0.3/24', '--ip-rm', '10.7.0.2'])).stderr, '');
    assert.equal(ask('10.7.0.3'), 'one ::ffff:10.7.0.1');
    assert.doesNotMatch(host.run('ip', 'route'), /10\.7\.0\.2/);
    assert.doesNotMatch(await v.ok(['exec', 'one', 'ip', '-o', 'addr']), /10\.7\.0\.2\//);
    assert.match((await v.run(['set', 'one', 'network.gateways=[10.7.0.9]'])).stderr, /with its next start/);
    await v.ok(['restart', '-t', '0', 'one']);
    assert.match(await v.ok(['exec', 'one', 'ip', 'route']), /^default via 10\.7\.0\.9 /m);
  });

  test('what goes over it is counted', async () => {
    await guest('one', '--ip', '10.7.0.2/24', '--gateway', '10.7.0.1');
    await serve('one');
    ask('10.7.0.2');
    const [view] = JSON.parse(await v.ok(['traffic', 'one', '--json'])) as {
      traffic: { all: { received: { packets: number }; sent: { packets: number; bytes: number } } };
    }[];
    const { received, sent } = view!.traffic.all;
    assert.ok(received.packets >= 4 && sent.packets >= 3 && sent.bytes > 200, JSON.stringify(view));
    assert.match(await v.ok(['traffic', 'one']), /^one +all +\d+/m);
  });

  for (const who of ['vserverd', 'syscalld'] as const) {
    test(`the death of ${who} changes nothing, and the end is as ever`, async () => {
      await guest('one', '--ip', '10.7.0.2/24', '--gateway', '10.7.0.1');
      await serve('one');
      const { [`${who}Pid` as const]: pid } = JSON.parse(await v.ok(['daemon', 'status', '--json'])) as {
        vserverdPid: number;
        syscalldPid: number;
      };
      process.kill(pid, 'SIGKILL');
      await eventually('its end', () => (existsSync(`/proc/${pid}`) ? undefined : true));
      assert.equal(ask('10.7.0.2'), 'one ::ffff:10.7.0.1');
      await eventually('its successor', async () =>
        (await v.run(['daemon', 'status'])).code === 0 ? true : undefined,
      );
      assert.equal(ask('10.7.0.2'), 'one ::ffff:10.7.0.1');
      await v.ok(['stop', '-t', '0', 'one']);
      assert.deepEqual(hostEnds(), []);
      await v.ok(['start', 'one']);
      assert.deepEqual(hostEnds(), ['vs-one']);
    });
  }

  test('what cannot be is said, and leaves nothing', async () => {
    const run = (...options: readonly string[]): Promise<{ code: number; stderr: string }> =>
      v.run(['run', '--network', 'private', ...options, '--', 'true']);
    assert.match((await run('--bridge', 'nope')).stderr, /interface "nope": ENODEV/);
    assert.match((await run('--bridge', 'h0')).stderr, /cannot start guest .*: .*vs-/);
    assert.match(
      (await run('--gateway', '10.7.0.1')).stderr,
      /network\.gateways\[0\].*an address of its family in network\.addresses/,
    );
    assert.match((await run('--network-interface', 'h0')).stderr, /network\.mode: isolated/);
    await guest('one', '--ip', '10.7.0.2/24');
    assert.match(
      (await run('--ip', '10.7.0.2/24')).stderr,
      /found it taken by guest "one"; need another one$/m,
    );
    await run('--ip', '10.7.0.2/24', '--bridge', 'br0');
    assert.notEqual((await v.run(['run', '--network', 'private', '--', '/missing'])).code, 0);
    await eventually('the end of what failed', () => (hostEnds().length === 1 ? true : undefined));
  });

  test('a real init has a network of its own as well', async () => {
    await v.ok([
      ...['run', '-d', '--name', 'box', '--init=own', '--network', 'private', '--ip', '10.7.0.2/24'],
      ...['--gateway', '10.7.0.1', '--', PYTHON, '-c', SERVER, 'box'],
    ]);
    await eventually('the server', async () =>
      /ready/.test(await v.ok(['logs', 'box'])) ? true : undefined,
    );
    assert.equal(ask('10.7.0.2'), 'box ::ffff:10.7.0.1');
  });

  test('a name too long for an interface gives way to the number', async () => {
    await guest('a-rather-long-name', '--ip', '10.7.0.2/24');
    const [view] = JSON.parse(await v.ok(['inspect', 'a-rather-long-name', '--json'])) as { xid: number }[];
    assert.deepEqual(hostEnds(), [`vs-${view?.xid}`]);
  });

  test('the host this runs on has none of it', () => {
    assert.doesNotMatch(spawnSync('ip', ['-o', 'link'], { encoding: 'utf8' }).stdout, /: vs-/);
  });
});
