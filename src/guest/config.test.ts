import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { UserError } from '../base/errors.ts';
import { parseGuestConfig } from './config.ts';
import { guestConfigJsonSchema } from './config-schema.ts';

const EXCLUDED = [
  ...[
    'conffiles',
    '/etc/*',
    '/home',
    '/root/*',
    '/mnt',
    '/tmp',
    '/var/tmp',
    '/var/log',
    '/var/mail',
    '/var/spool',
  ],
  '/*/ls-R',
];

const BASE = 'template: busybox\ncommand: [sh]\n';

function refusal(text: string): string {
  try {
    parseGuestConfig(text, 'web.yaml');
  } catch (error) {
    assert.ok(error instanceof UserError, String(error));
    assert.equal(error.code, 'invalid-config');
    return error.message.replace('cannot use guest configuration: ', '');
  }
  assert.fail(`accepted: ${text}`);
}

test('defaults', () => {
  assert.deepEqual(parseGuestConfig(BASE, 'web.yaml'), {
    template: 'busybox',
    trustDomain: 'default',
    command: ['sh'],
    env: {},
    user: 'root',
    cwd: '/',
    init: 'fake',
    stop: { signal: 15, timeoutMs: 10_000 },
    boot: { marks: [], depends: [] },
    restart: { policy: 'no', delayMs: 100, maxDelayMs: 60_000, onReboot: true },
    hooks: { timeoutMs: 30_000 },
    limits: {
      memoryBytes: 'max',
      memorySwapBytes: 'max',
      pids: 4096,
      cpus: 'max',
      cpuWeight: 100,
      context: {},
      shmBytes: 67_108_864,
    },
    network: { mode: 'none', addresses: [] },
    ccaps: [],
    bcaps: [],
    seccomp: 'default',
    noNewPrivileges: true,
    rlimits: {},
    scheduler: { hard: false, idleTime: false },
    readonlyRoot: false,
    mounts: [],
    sysctls: {},
    views: ['memory', 'cpu', 'load', 'uptime', 'disk', 'pressure', 'vinfo', 'network'],
    unify: { exclude: EXCLUDED },
    log: { maxBytes: 10_485_760 },
    labels: {},
  });
});

test('a network stack of its own', () => {
  const text = `${BASE}network:
  mode: private
  addresses: [10.0.0.5/24, "fd00::5/64"]
  bridge: br0
  gateways: [10.0.0.1, "FE80::0:1"]
`;
  assert.deepEqual(parseGuestConfig(text, 'web.yaml').network, {
    mode: 'private',
    addresses: ['10.0.0.5/24', 'fd00::5/64'],
    bridge: 'br0',
    gateways: ['10.0.0.1', 'fe80::1'],
  });
});

test('a network with a policy', () => {
  const text = `${BASE}network:
  addresses: [10.0.0.5/24, "2001:DB8::5"]
  interface: eth0
  policy:
    egress:
      - {action: allow, to: 192.0.2.0/24, protocol: tcp, ports: 443}
      - {action: deny, ports: 8000-8999}
    otherwise: deny
    peers: [db]
  bandwidth: {send: 10m}
`;
  assert.deepEqual(parseGuestConfig(text, 'web.yaml').network, {
    mode: 'isolated',
    addresses: ['10.0.0.5/24', '2001:db8::5/128'],
    interface: 'eth0',
    policy: {
      egress: [
        { action: 'allow', to: '192.0.2.0/24', protocol: 'tcp', ports: [443, 443] },
        { action: 'deny', ports: [8000, 8999] },
      ],
      otherwise: 'deny',
      peers: ['db'],
    },
    bandwidth: { sendBytesPerSecond: 10 * 1024 ** 2 },
  });
});

test('a guest with an init of its own has other defaults', () => {
  const config = parseGuestConfig('init: own\n', 'x');
  assert.equal(config.template, 'host');
  assert.deepEqual([config.command, config.stop.signal, config.noNewPrivileges], [['/sbin/init'], 37, false]);
});

test('every key', () => {
  const config = parseGuestConfig(
    `
xid: 42
template: busybox
trustDomain: tenant-a
command: httpd -f "a b"
env: {A: x, N: 8080, Y: yes, T: true}
user: www:33
cwd: /srv
hostname: web-1
domainname: example.org
init: none
stop: {signal: hup, timeout: 1m30s}
scheduler:
  hard: true
  idleTime: true
  fillRate: 3
  interval: 10
  tokensMin: 5
  tokensMax: 50
  prioBias: -3
  fillRate2: 1
  interval2: 7
  cpus: 0,2-3
limits:
  memory: 512m
  memorySwap: max
  pids: max
  cpus: 1.5
  cpuWeight: 7
  shm: 8192
  addressSpace: 4g
  lockedMemory: 0
  anonymousMemory: 1g
  openFiles: 100
  fileDescriptors: 200
  fileLocks: 3
  sockets: max
  messageQueues: 1m
  sharedMemory: 2m
  semaphoreSets: max
  semaphores: max
  dentries: 6
boot: {marks: [default, x.y], depends: [db, cache:healthy]}
restart: {policy: on-failure, maxRetries: 4, delay: 1s, maxDelay: 1h, onReboot: false}
health: {test: "true x", interval: 10s, timeout: 1s, retries: 2, startPeriod: 1m, onFailure: restart}
hooks: {preStart: /bin/a b, postpostStop: [/bin/c, d e], timeout: 1m}
network: {mode: host}
bcaps: [+NET_RAW, -CAP_MKNOD, ~kill]
seccomp: {profile: /etc/p.json}
noNewPrivileges: false
rlimits: {nofile: {soft: 10, hard: unlimited}, core: 0, nproc: unlimited}
readonlyRoot: true
mounts:
  - {source: /a, target: /b, readonly: true, idmap: true}
  - {type: tmpfs, target: /tmp, size: 1m}
sysctls: {kernel.shmmax: 1000, kernel.sem: 1 2 3 4}
views: {load: false, pressure: false}
unify: {exclude: [+/a, /b*, conffiles]}
log: {maxBytes: 1m}
labels: {team: web, ok/x: "1"}
`,
    'x',
  );
  assert.deepEqual(config, {
    xid: 42,
    template: 'busybox',
    trustDomain: 'tenant-a',
    command: ['httpd', '-f', 'a b'],
    env: { A: 'x', N: '8080', Y: 'yes', T: 'true' },
    user: 'www:33',
    cwd: '/srv',
    hostname: 'web-1',
    domainname: 'example.org',
    init: 'none',
    stop: { signal: 1, timeoutMs: 90_000 },
    boot: {
      marks: ['default', 'x.y'],
      depends: [
        { name: 'db', condition: 'started' },
        { name: 'cache', condition: 'healthy' },
      ],
    },
    restart: { policy: 'on-failure', maxRetries: 4, delayMs: 1000, maxDelayMs: 3_600_000, onReboot: false },
    scheduler: {
      hard: true,
      idleTime: true,
      fillRate: 3,
      interval: 10,
      tokensMin: 5,
      tokensMax: 50,
      prioBias: -3,
      fillRate2: 1,
      interval2: 7,
      cpus: '0,2-3',
    },
    health: {
      test: ['true', 'x'],
      intervalMs: 10_000,
      timeoutMs: 1000,
      retries: 2,
      startPeriodMs: 60_000,
      onFailure: 'restart',
    },
    hooks: { preStart: ['/bin/a', 'b'], postpostStop: ['/bin/c', 'd e'], timeoutMs: 60_000 },
    limits: {
      memoryBytes: 536_870_912,
      memorySwapBytes: 'max',
      pids: 'max',
      cpus: { quotaUs: 150_000, periodUs: 100_000 },
      cpuWeight: 7,
      context: {
        addressSpaceBytes: 4 * 1024 ** 3,
        lockedMemoryBytes: 0,
        anonymousBytes: 1024 ** 3,
        openFiles: 100,
        fileDescriptors: 200,
        fileLocks: 3,
        messageQueueBytes: 1024 ** 2,
        sharedMemoryBytes: 2 * 1024 ** 2,
        dentries: 6,
      },
      shmBytes: 8192,
    },
    network: { mode: 'host', addresses: [] },
    ccaps: [],
    bcaps: ['+NET_RAW', '-CAP_MKNOD', '~kill'],
    seccomp: { profile: '/etc/p.json' },
    noNewPrivileges: false,
    rlimits: {
      nofile: { soft: 10, hard: 'unlimited' },
      core: { soft: 0, hard: 0 },
      nproc: { soft: 'unlimited', hard: 'unlimited' },
    },
    readonlyRoot: true,
    mounts: [
      { type: 'bind', source: '/a', target: '/b', readonly: true, noexec: false, diskXid: 0 },
      { type: 'tmpfs', target: '/tmp', readonly: false, sizeBytes: 1_048_576 },
    ],
    sysctls: { 'kernel.shmmax': '1000', 'kernel.sem': '1 2 3 4' },
    views: ['memory', 'cpu', 'uptime', 'disk', 'vinfo', 'network'],
    unify: { exclude: ['+/a', '/b*', 'conffiles'] },
    log: { maxBytes: 1_048_576 },
    labels: { team: 'web', 'ok/x': '1' },
  });
});

test('a key with nothing behind it has its default', () => {
  assert.equal(parseGuestConfig(`${BASE}limits:\nenv:\n`, 'x').limits.pids, 4096);
});

test('there is no swap unless it is allowed', () => {
  assert.equal(parseGuestConfig(`${BASE}limits: {memory: 1m}`, 'x').limits.memorySwapBytes, 1_048_576);
});

describe('errors', () => {
  test('say where and what', () => {
    const cases: [string, string][] = [
      [
        `${BASE}limits:\n  memroy: 1g\n`,
        'web.yaml:4:3: unknown key "memroy" in "limits"; did you mean "memory"?',
      ],
      [`${BASE}xyzzy: 1\n`, 'web.yaml:3:1: unknown key "xyzzy"'],
      [`${BASE}xid: 1\n`, 'web.yaml:3:6: cannot use 1 as "xid"; need a whole number from 2 to 65535'],
      [
        `${BASE}init: systemd\n`,
        'web.yaml:3:7: cannot use "systemd" as "init"; need "fake" or "none" or "own"',
      ],
      [
        'template: debian\ncommand: [sh]\n',
        'web.yaml:1:11: cannot use "debian" as "template"; need "host", "busybox", "skeleton", "directory:/PATH", "tarball:/PATH" or the absolute path of a directory or archive',
      ],
      ['template: busybox\n', 'web.yaml:1:1: missing key "command"; need a command with init: fake'],
      [
        `${BASE}env:\n  A=: x\n`,
        'web.yaml:4:3: cannot use "A=" as a key of "env"; need a variable name without "="',
      ],
      [
        `${BASE}mounts:\n  - source: /a\n    target: ../b\n`,
        'web.yaml:5:13: cannot use "../b" as "mounts[0].target"; need an absolute path below the guest\'s root without "." and ".."',
      ],
      ['- a\n', 'web.yaml:1:1: cannot use ["a"] as a configuration; need a mapping of keys to values'],
      [`${BASE}xid: 3\nxid: 4\n`, 'web.yaml:4:1: map keys must be unique'],
      [
        `${BASE}xid: 1\ncwd: x\n`,
        'web.yaml:3:6: cannot use 1 as "xid"; need a whole number from 2 to 65535 (and 1 more)',
      ],
    ];
    for (const [text, message] of cases) assert.equal(refusal(text), message);
  });

  test('carry every problem in order of position', () => {
    assert.throws(
      () => parseGuestConfig(`${BASE}xid: 1\nfoo: 1\n`, 'web.yaml'),
      (error) => {
        assert.ok(error instanceof UserError);
        assert.deepEqual(error.details, {
          file: 'web.yaml',
          issues: [
            { line: 3, column: 6, message: 'cannot use 1 as "xid"; need a whole number from 2 to 65535' },
            { line: 4, column: 1, message: 'unknown key "foo"' },
          ],
        });
        return true;
      },
    );
  });
});

describe('refuses bad values of every key', () => {
  const CASES: Readonly<Record<string, readonly string[]>> = {
    xid: ['1', '65536', '2.5', '"42"', 'web', '[2]'],
    template: ['""', '../x', 'a/b', 'debian', 'directory:x', 'tarball:/x', '5', '[a]', '{a: b}'],
    trustDomain: ['""', '..', '.a', 'a/b', 'A', '5', `${'a'.repeat(64)}`, '"a\\n"'],
    command: ['""', '[]', '[""]', '[sh, 5]', '"sh \'x"', '5', '{a: b}', '"a\\0b"'],
    env: [
      '[A=1]',
      'A=1',
      '{"": x}',
      '{A=B: x}',
      '{A: 1.10}',
      '{A: [x]}',
      '{A: {b: c}}',
      '{A: "x\\0"}',
      '{A: }',
    ],
    user: ['""', '0', '"a b"', '"a:"', '"a:b:c"', '":b"', '"../x"'],
    cwd: ['srv', '/a/../b', '/a//b', '/a/', '""', '"/a\\0"', '5'],
    hostname: ['""', '-a', 'a-', 'a_b', 'a b', `${'a'.repeat(65)}`, '5', '"a\\n"'],
    domainname: ['""', '.org', 'a/b', '[a]'],
    init: ['systemd', 'true', '[fake]'],
    stop: [
      'TERM',
      '{signal: NOPE}',
      '{signal: 65}',
      '{timeout: 10}',
      '{timeout: soon}',
      '{timeout: -1s}',
      '{wait: 1s}',
    ],
    boot: [
      'default',
      '{marks: default}',
      '{marks: ["a b"]}',
      '{depends: [42]}',
      '{depends: ["a/b"]}',
      '{depends: ["a:well"]}',
    ],
    restart: [
      'always',
      '{policy: never}',
      '{policy: false}',
      '{maxRetries: 2}',
      '{policy: always, maxRetries: 2}',
      '{policy: on-failure, maxRetries: 0}',
      '{delay: 1}',
      '{maxDelay: long}',
      '{onReboot: stop}',
    ],
    health: [
      'true',
      '{test: []}',
      '{interval: 0}',
      '{timeout: 0s}',
      '{retries: 0}',
      '{startPeriod: 1}',
      '{onFailure: reboot}',
    ],
    hooks: ['/bin/a', '{preStart: relative}', '{preStart: []}', '{prestart: /bin/a}', '{timeout: 5}'],
    limits: [
      '512m',
      '[memory]',
      '{memory: 5x}',
      '{memory: 1k}',
      '{memory: -1}',
      '{memory: 1.5}',
      '{memory: 99999999999999999999}',
      '{memory: true}',
      '{memorySwap: 1g}',
      '{memory: 2g, memorySwap: 1g}',
      '{pids: 0}',
      '{pids: 4194305}',
      '{pids: many}',
      '{pids: 1.5}',
      '{cpus: 0}',
      '{cpus: -1}',
      '{cpus: 1e9}',
      '{cpus: max}',
      '{cpuWeight: 0}',
      '{cpuWeight: 10001}',
      '{cpuWeight: "100"}',
      '{addressSpace: 1k}',
      '{openFiles: 0}',
      '{semaphores: -1}',
      '{sharedMemory: some}',
      '{dentries: 1.5}',
      '{shm: 0}',
      '{shm: max}',
      '{swap: 1g}',
    ],
    scheduler: [
      '1',
      '{hard: 1}',
      '{fillRate: -1}',
      '{fillRate: 1.5}',
      '{interval: 0}',
      '{tokensMin: many}',
      '{tokensMax: 0}',
      '{tokensMin: 5, tokensMax: 4}',
      '{prioBias: 20}',
      '{cpus: all}',
      '{cpus: 3-1}',
      '{hard: true, fillRate: 0}',
      '{fill: 3}',
    ],
    disk: [
      '2g',
      '{inodes: 100}',
      '{space: 1m}',
      '{space: max}',
      '{space: 1g, inodes: 5}',
      '{space: 1g, reserved: 51}',
      '{space: 1g, size: 1}',
    ],
    network: [
      'none',
      '{mode: bridge}',
      '{addresses: [10.0.0.5], bridge: br0}',
      '{mode: none, gateways: [10.0.0.1]}',
      '{mode: private, interface: eth0}',
      '{mode: private, shareWith: db}',
      '{mode: private, policy: {otherwise: deny}}',
      '{mode: private, bandwidth: {send: 1m}}',
      '{mode: private, bridge: a/b}',
      '{mode: private, gateways: 10.0.0.1}',
      '{mode: private, gateways: [10.0.0.1]}',
      '{mode: private, addresses: [10.0.0.5/24], gateways: [10.0.0.1/24]}',
      '{mode: private, addresses: [10.0.0.5/24], gateways: [10.0.0.5]}',
      '{mode: private, addresses: [10.0.0.5/24], gateways: [10.0.0.1, 10.0.0.2]}',
      '{ip: 1.2.3.4}',
      '{mode: none, addresses: [10.0.0.5]}',
      '{mode: host, addresses: [10.0.0.5]}',
      '{addresses: 10.0.0.5}',
      '{addresses: [10.0.0]}',
      '{addresses: [127.0.0.1]}',
      '{addresses: ["::1"]}',
      '{addresses: [10.0.0.5/33]}',
      '{addresses: [10.0.0.5/24, 10.0.0.5]}',
      '{addresses: [10.0.0.5], interface: a/b}',
      '{addresses: [10.0.0.5], ranges: 10.1.0.0/16}',
      '{addresses: [10.0.0.5], ranges: [0.0.0.0/0]}',
      '{addresses: [10.0.0.5], ranges: [127.0.0.0/8]}',
      '{mode: private, addresses: [10.0.0.5], ranges: [10.1.0.0/16]}',
      '{mode: isolated, ranges: [10.1.0.0/16]}',
      '{addresses: [10.0.0.5], shareWith: db}',
      '{shareWith: ..}',
      '{mode: none, shareWith: db}',
      '{mode: host, policy: {otherwise: deny}}',
      '{shareWith: db, policy: {otherwise: deny}}',
      '{addresses: [10.0.0.5], policy: deny}',
      '{addresses: [10.0.0.5], policy: {otherwise: drop}}',
      '{addresses: [10.0.0.5], policy: {egress: [{to: 10.0.0.0/8}]}}',
      '{addresses: [10.0.0.5], policy: {egress: [{action: allow, to: example.org}]}}',
      '{addresses: [10.0.0.5], policy: {egress: [{action: allow, ports: 0}]}}',
      '{addresses: [10.0.0.5], policy: {egress: [{action: allow, ports: 9-8}]}}',
      '{addresses: [10.0.0.5], policy: {groups: [64]}}',
      '{addresses: [10.0.0.5], policy: {peers: db}}',
      '{addresses: [10.0.0.5], bandwidth: 5m}',
      '{addresses: [10.0.0.5], quota: 10g}',
      '{addresses: [10.0.0.5], quota: {per: day}}',
      '{addresses: [10.0.0.5], quota: {bytes: 0}}',
      '{addresses: [10.0.0.5], quota: {bytes: 1g, per: week}}',
      '{addresses: [10.0.0.5], quota: {bytes: 1g, above: slow}}',
      '{addresses: [10.0.0.5], quota: {bytes: 1g, slow: 64k}}',
      '{mode: private, quota: {bytes: 1g}}',
      '{shareWith: db, quota: {bytes: 1g}}',
      '{addresses: [10.0.0.5], dns: 10.0.0.1}',
      '{addresses: [10.0.0.5], dns: []}',
      '{addresses: [10.0.0.5], dns: [10.0.0.1/24]}',
      '{addresses: [10.0.0.5], dns: [dns.example.org]}',
      '{addresses: [10.0.0.5], dns: [10.0.0.1, 10.0.0.2, 10.0.0.3, 10.0.0.4]}',
      '{addresses: [10.0.0.5], search: ["a b"]}',
      '{addresses: [10.0.0.5], hosts: {db: nowhere}}',
      '{addresses: [10.0.0.5], hosts: {"a\\nb": 10.0.0.1}}',
      '{mode: none, dns: [10.0.0.1]}',
      '{addresses: [10.0.0.5], bandwidth: {send: 0}}',
    ],
    ccaps: ['raw_icmp', '[raw]', '[RAW_ICMP]', '[raw_icmp]'],
    bcaps: ['NET_RAW', '[FLY]', '[5]', '["-"]', '[NET_RAW, -KILL]', '{NET_RAW: true}', '[--NET_RAW]'],
    seccomp: ['off', 'true', '{profile: p.json}', '{profile: /a, x: 1}', '{}', '[default]'],
    noNewPrivileges: ['1', '"true"', 'yes', '[]'],
    rlimits: [
      '[nofile]',
      '{files: 5}',
      '{nofile: -1}',
      '{nofile: 1.5}',
      '{nofile: lots}',
      '{nofile: {soft: 5}}',
      '{nofile: {soft: 5, hard: 4}}',
      '{nofile: {soft: unlimited, hard: 4}}',
      '{nofile: {soft: 1, hard: 2, x: 3}}',
    ],
    readonlyRoot: ['1', 'ro', '{}'],
    mounts: [
      '{source: /a, target: /b}',
      '[/a:/b]',
      '[{target: /b}]',
      '[{source: /a}]',
      '[{source: a, target: /b}]',
      '[{source: /a, target: b}]',
      '[{source: /a, target: /}]',
      '[{source: /a, target: /b/../c}]',
      '[{source: /a, target: /b, size: 1m}]',
      '[{source: /a, target: /b, readonly: ro}]',
      '[{type: tmpfs, source: /a, target: /b}]',
      '[{type: tmpfs, target: /b, idmap: true}]',
      '[{type: tmpfs, target: /b, size: 0}]',
      '[{type: proc, target: /b}]',
      '[{source: /a, target: /b, options: noexec}]',
      '[{source: /a, target: /b}, {type: tmpfs, target: /b}]',
    ],
    sysctls: [
      '[net.x=1]',
      '{kernel.panic: 1}',
      '{vm.swappiness: 1}',
      '{kernel.core_pattern: x}',
      '{kernel.shm_foo: 1}',
      '{net/../kernel/panic: 1}',
      '{net..x: 1}',
      '{fs.mqueue.: 1}',
      '{net.x: [1]}',
      '{kernel.sem: "1\\0"}',
    ],
    views: ['[load]', 'false', '{load: 0}', '{load: "no"}', '{virt_mem: true}'],
    log: ['10m', '{maxBytes: 1k}', '{maxBytes: max}', '{files: 2}', '{size: 1m}'],
    unify: ['[a]', '{exclude: a}', '{exclude: [a]}', '{exclude: [""]}', '{other: []}'],
    labels: ['{a: 99999999999999999999}', '[a]', '{"a b": c}', '{"": c}', '{a: [b]}', '{a: 1.5}'],
  };

  test('the table has every key', () => {
    const { properties } = guestConfigJsonSchema();
    assert.ok(typeof properties === 'object' && properties !== null);
    assert.deepEqual(Object.keys(CASES), Object.keys(properties));
  });

  for (const [key, values] of Object.entries(CASES)) {
    test(key, () => {
      for (const value of values) {
        const base = BASE.split('\n').filter((line) => !line.startsWith(`${key}:`));
        const line = base.length;
        const message = refusal(`${base.join('\n')}${key}: ${value}\n`);
        assert.match(message, new RegExp(`^web\\.yaml:${line}:\\d+: `), `${key}: ${value}`);
        assert.ok(message.includes(key), message);
        assert.doesNotMatch(message, /need $|Invalid|expected/, message);
      }
    });
  }

  test('keys of another mode of the network, by line', () => {
    const text = `${BASE}network:\n  mode: private\n  policy: {otherwise: deny}\n`;
    assert.match(
      refusal(text),
      /^web\.yaml:5:\d+: .*network\.mode: isolated, since with private it has no effect/,
    );
    const bridge = `${BASE}network:\n  addresses: [10.0.0.5]\n  bridge: br0\n`;
    assert.match(
      refusal(bridge),
      /^web\.yaml:5:\d+: .*network\.mode: private, since without it has no effect/,
    );
  });

  test('net sysctls with the network of the host', () => {
    const text = `${BASE}network: {mode: host}\nsysctls: {net.ipv4.ip_forward: 1}\n`;
    assert.match(refusal(text), /^web\.yaml:4:\d+: .*network\.mode: none/);
  });
});

test('refuses YAML that a configuration does not need', () => {
  const cases: [string, RegExp][] = [
    ['a: &x 1\nb: *x\n', /:1:\d+: cannot use an anchor/],
    ['template: *x\n', /alias/],
    [`${BASE}env: !foo {}\n`, /:3:6: unresolved tag/],
    [`${BASE}---\n${BASE}`, /:3:\d+: cannot use a second document; need one$/],
    [`${BASE}? [a]\n: b\n`, /:3:\d+: .*keys must be strings/],
    [`${BASE}"__proto__": {}\n`, /unknown key "__proto__"/],
    [`${BASE}<<: {xid: 2}\n`, /unknown key "<<"/],
    [`${BASE}limits: {pids: .nan}\n`, /cannot use NaN/],
    [`${BASE}env:\n\tA: b\n`, /:4:1: tabs/],
    [`${BASE}env: {A: b\n`, /:4:1: /],
    ['['.repeat(10_000), /web\.yaml:/],
    ['a: '.repeat(10_000), /web\.yaml:/],
    ['', /:1:1: missing key "command"/],
    ['# nothing\n', /missing key "command"/],
    ['x'.repeat(300_000), /longer than/],
  ];
  for (const [text, message] of cases) assert.match(refusal(text), message);
});
