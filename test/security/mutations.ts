/**
 * The defences whose tests are shown to fail without them: of each the words in the source that make it, and what is put in
 * their place.
 */
import { globSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fetching } from './builds.ts';
import { otherDomains } from './domains.ts';
import {
  c1,
  c1Compat,
  c2,
  c4,
  c5,
  c5c,
  c6,
  c7Forks,
  c7Log,
  c7Memory,
  c7Tables,
  c7Users,
  c8,
  c9,
  otherContexts,
} from './kernel.ts';
import { d2Bind, d2Source, d2Steal, d3, d4, d5, d7, d9, d10, type NetworkCheck } from './network.ts';
import {
  b8,
  b9,
  b10,
  b11,
  b12,
  b13,
  deletion,
  deletionOfLink,
  hostileRoots,
  namesOfProcesses,
  swappedComponents,
  terminalSwap,
  userDatabase,
} from './paths.ts';
import type { Check } from './places.ts';
import { a1, a2, a3, a4, a5, a7, a8, a9, a10 } from './processes.ts';

/** A text that stands in one file of `src` or `native`, and what is put in its place. */
export type Edit = readonly [find: string, put: string];

interface Mutation {
  /** The test's id and the defence that is taken away. */
  readonly name: string;
  readonly check: Check | { readonly inNetwork: NetworkCheck };
  readonly edits: readonly Edit[];
  /** What has to be among the breaches; any will do if absent. */
  readonly breach?: RegExp;
}

const FOLLOW_LINKS: readonly Edit[] = [
  [
    "p.flags('O_PATH', 'O_NOFOLLOW', 'O_CLOEXEC', ...(isDirectory",
    "p.flags('O_PATH', 'O_CLOEXEC', ...(isDirectory",
  ],
  ["resolve: p.flags('RESOLVE_BENEATH', 'RESOLVE_NO_SYMLINKS', 'RESOLVE_NO_MAGICLINKS'),", 'resolve: 0,'],
];
const NO_MASKS: readonly Edit[] = [[' kind } of masks)', ' kind } of masks.slice(0, 0))']];
const NO_FILTER: readonly Edit[] = [
  ['if (command.seccomp) planSeccomp(p, command.seccomp);', ''],
  ['if (seccomp && command.noNewPrivileges) planSeccomp(p, seccomp);', ''],
  ['if (seccomp && !command.noNewPrivileges) planSeccomp(p, seccomp);', ''],
];
const HOST_IDS: readonly Edit[] = [['const hostBase = xid * IDS_PER_CONTEXT;', 'const hostBase = 0 * xid;']];

export const MUTATIONS: readonly Mutation[] = [
  {
    name: 'builds: the host can be written',
    check: fetching,
    edits: [
      [
        "p.flags('MOUNT_ATTR_RDONLY', 'MOUNT_ATTR_NOSUID', 'MOUNT_ATTR_NODEV');\n  setAttributes",
        "p.flags('MOUNT_ATTR_NOSUID', 'MOUNT_ATTR_NODEV');\n  setAttributes",
      ],
    ],
    breach: /wrote a file/,
  },
  {
    name: 'builds: sockets of the host are to be seen',
    check: fetching,
    edits: [['for (const path of hidden) {', 'for (const path of hidden.slice(0, 0)) {']],
    breach: /SOCKET/,
  },
  {
    name: 'builds: capabilities are kept',
    check: fetching,
    edits: [['if (kept.includes(number)) continue;', 'if (number >= 0) continue;']],
    breach: /capability 21/,
  },
  {
    name: 'A1: the runtime is not sealed',
    check: a1,
    edits: [
      ['if (fcntl(STDIN_FILENO, F_GET_SEALS) == SEALS)', 'if (fcntl(STDIN_FILENO, F_GET_SEALS) >= 0)'],
      ['fcntl(copy, F_ADD_SEALS, SEALS) || dup2', 'dup2'],
    ],
  },
  {
    name: 'A2: the working directory is opened by any path',
    check: a2,
    edits: [
      [
        "flags: p.flags('O_PATH', 'O_DIRECTORY', 'O_CLOEXEC'),\n    resolve: p.flags('RESOLVE_IN_ROOT', 'RESOLVE_NO_MAGICLINKS'),",
        "flags: p.flags('O_PATH', 'O_DIRECTORY', 'O_CLOEXEC'),\n    resolve: 0,",
      ],
    ],
    breach: /working directory/,
  },
  {
    name: 'A2: descriptors are not closed',
    check: a2,
    edits: [
      ["p.sys('close_range', [3, 0xffffffff, p.flags('CLOSE_RANGE_CLOEXEC')]);", ''],
      // Each is closed by execve by itself, too.
      [
        "p.flags('SOCK_SEQPACKET', 'SOCK_CLOEXEC'), 0, pair], { about });",
        "p.flags('SOCK_SEQPACKET'), 0, pair], { about });",
      ],
    ],
    breach: /descriptors/,
  },
  {
    name: 'A3: processes are dumpable on their way in',
    check: a3,
    // And take their time, so that one look is enough.
    edits: [
      [
        "p.sys('setsid', [], { ignore: ['EPERM'] });\n  // A session",
        "p.sys('setsid', [], { ignore: ['EPERM'] });\n  p.sys('prctl', [4, 1, 0, 0, 0]);\n  p.sys('poll', [0, 0, 20]);\n  // A session",
      ],
    ],
    breach: /(memory of|traced) [1-9]/,
  },
  {
    name: 'A4: inheritable capabilities are kept',
    check: a4,
    edits: [
      [
        'p.put(data.at(12 * i + 4), half);',
        'p.put(data.at(12 * i + 4), half); p.put(data.at(12 * i + 8), half);',
      ],
    ],
    breach: /inheritable/,
  },
  {
    name: 'A4: the bounding set is not narrowed',
    check: a4,
    edits: [['if (((command.bcaps.value >> BigInt(capability)) & 1n) === 1n) continue;', 'continue;']],
    breach: /bound/,
  },
  {
    name: 'A5: a bad user is root',
    check: a5,
    edits: [
      [
        "if (isUserName(part)) return { kind: 'name', name: part };",
        "return isUserName(part) ? { kind: 'name', name: part } : { kind: 'number', id: 0 };",
      ],
    ],
  },
  {
    name: 'A6: ids are not checked',
    check: a5,
    edits: [
      ['if (id < idCount) return;', 'return;'],
      ['return id <= MAX_ID ? id : undefined;', 'return id;'],
    ],
    breach: /"4294967296": 0 0:0/,
  },
  {
    name: "A7: the guest gets the caller's terminal",
    check: a7,
    edits: [
      [
        "p.sys('dup3', [slave, fd, 0]",
        "p.sys('dup3', [p.import(command.terminal?.master.kind === 'client' ? command.terminal.master.client : 0, fd), fd, 0]",
      ],
      // Its end would be a hang-up for the session it controls.
      ["p.sys('ioctl', [slave, p.flags('TIOCSCTTY'), 0]", "p.sys('getpid', []"],
    ],
    breach: /foreign/,
  },
  {
    name: 'A7: the filter lets TIOCSTI pass',
    check: a7,
    edits: [['"valueTwo": 21522', '"valueTwo": 1']],
    breach: /tiocsti/i,
  },
  {
    name: 'A8: groups are not set',
    check: a8,
    edits: [["p.sys('setgroups', [command.groups.length, groups]);", '']],
  },
  {
    name: 'A9: signals go to a pid',
    check: a9,
    edits: [
      [
        "stopAsked: 'operator' });\n    }\n    this.#host.syscalld.signal(live.initObject, signal);",
        "stopAsked: 'operator' });\n    }\n    process.kill(live.initPid, signal);",
      ],
    ],
    breach: /dead/,
  },
  {
    name: 'A10: the call that is answered may be over',
    check: a10,
    edits: [
      [
        "about: 'still there',\n    otherwise: { on: [], to: gone },",
        "about: 'still there',\n    ignore: [],",
      ],
    ],
    breach: /"written":[1-9]/,
  },
  {
    name: 'A10: the broker keeps what it may',
    check: a10,
    edits: [['  if (capabilities !== 0n) planCapset(p, capabilities);\n', '']],
    breach: /broker has 0*[1-9a-f]{3}/,
  },
  {
    name: 'B1: places of mounts are found through links',
    check: hostileRoots,
    edits: FOLLOW_LINKS,
    breach: /started/,
  },
  {
    name: 'B2: as B1, while they are swapped',
    check: swappedComponents,
    edits: FOLLOW_LINKS,
    breach: /mounted/,
  },
  {
    name: 'B3: nothing is masked',
    check: hostileRoots,
    edits: NO_MASKS,
    breach: /core_pattern.*(sees|mounted)/,
  },
  {
    name: 'B4: nobody looks what /dev/pts/ptmx is',
    check: terminalSwap,
    edits: [
      ["p.expect(magic, '==', p.flags('DEVPTS_SUPER_MAGIC')", "p.expect(magic, '!=', 0"],
      [
        "{ about: 'unlock the terminal' });\n  const slave",
        "{ about: 'unlock the terminal', ignore: ['ENOTTY'] });\n  const slave",
      ],
      [
        "p.sys('ioctl', [master, p.flags('TIOCGPTPEER'), p.flags('O_RDWR', 'O_NOCTTY', 'O_CLOEXEC')]",
        "p.sys('dup', [master]",
      ],
      ["{ about: 'controlling terminal' }", "{ about: 'controlling terminal', ignore: ['ENOTTY'] }"],
    ],
  },
  {
    name: 'B7: the user database is read through links',
    check: userDatabase,
    edits: [
      ["resolve: p.flags('RESOLVE_IN_ROOT', 'RESOLVE_NO_MAGICLINKS', 'RESOLVE_NO_XDEV'),", 'resolve: 0,'],
    ],
    breach: /4242/,
  },
  {
    name: 'B7: a FIFO is waited for',
    check: userDatabase,
    edits: [
      [
        "p.flags('O_RDONLY', 'O_NONBLOCK', 'O_CLOEXEC', 'O_NOCTTY')",
        "p.flags('O_RDONLY', 'O_CLOEXEC', 'O_NOCTTY')",
      ],
    ],
    breach: /hangs/,
  },
  {
    name: 'B7: names are printed as they are',
    check: namesOfProcesses,
    edits: [['return formatTable(COLUMNS, rows);', "return rows.map((row) => row.join(' ')).join('\\n');"]],
  },
  {
    name: "B8: the ids are the host's and /sys is writable",
    check: b8,
    edits: [
      ...HOST_IDS,
      ["const SYS_MOUNT = [...API_MOUNT, 'MOUNT_ATTR_RDONLY'];", 'const SYS_MOUNT = API_MOUNT;'],
    ],
    breach: /writable \/sys/,
  },
  { name: 'B9: nothing is masked', check: b9, edits: NO_MASKS },
  {
    name: 'B10: copies of mounts stay peers',
    check: b10,
    edits: [[", propagation: p.flags('MS_PRIVATE')", '']],
  },
  { name: 'B11: targets are found through links', check: b11, edits: FOLLOW_LINKS },
  {
    name: 'B12: directories of guests are open to all',
    check: b12,
    edits: [
      ['\tumask(077);', '\tumask(022);'],
      ['mkdirSync(path, { mode: 0o700 });\n    undo', 'mkdirSync(path, { mode: 0o755 });\n    undo'],
      [
        'mkdirSync(path, { recursive: true, mode: 0o700 });\n    }\n    this.rescan',
        'mkdirSync(path, { recursive: true, mode: 0o755 });\n    }\n    this.rescan',
      ],
      [
        'mkdirSync(this.#directory, { recursive: true, mode: 0o700 });\n    this.#segments',
        'mkdirSync(this.#directory, { recursive: true });\n    this.#segments',
      ],
      [
        'mkdirSync(join(base, name), { recursive: true, mode: 0o700 });',
        'mkdirSync(join(base, name), { recursive: true });',
      ],
    ],
    breach: /setuid program/,
  },
  {
    name: "B13: the host's root is below a guest's own",
    check: b13,
    edits: [
      [
        "p.sys('umount2', ['.', p.flags('MNT_DETACH')], { about: 'all other mounts' });",
        "planMoveTo(p, others, root, 'dev');",
      ],
    ],
    breach: /uncover host: ok/,
  },
  { name: 'C1: the filter is not installed', check: c1, edits: NO_FILTER, breach: /unshare user: ok/ },
  { name: 'C1: the filter is not installed, other ABIs', check: c1Compat, edits: NO_FILTER },
  {
    name: 'C2: the filter allows every family',
    check: c2,
    edits: [
      [
        '"names": ["socket", "socketpair"],\n      "action": "SCMP_ACT_ERRNO",\n      "errnoRet": 97,',
        '"names": ["socket", "socketpair"],\n      "action": "SCMP_ACT_ALLOW",',
      ],
    ],
    breach: /sockets vsock: ok|sockets alg: ok|sockets packet: ok/,
  },
  {
    name: 'C2: the filter does not look into socketcall',
    check: c2,
    edits: [['if (multiplexer === undefined) return [];', 'if (multiplexer !== null) return [];']],
  },
  { name: "C4: the ids are the host's", check: c4, edits: HOST_IDS },
  { name: "C5: the ids are the host's and nothing is covered", check: c5, edits: [...HOST_IDS, ...NO_MASKS] },
  {
    name: 'C5c: read-only mounts are not',
    check: c5c,
    edits: [["...(mount.readonly ? ['MOUNT_ATTR_RDONLY'] : []),", '']],
  },
  {
    name: 'C5c: who may mount has mere attributes between it and the host',
    check: c5c,
    edits: [['if (!mayMount(spec.command.bcaps.value)) return tree;', 'return tree;']],
  },
  {
    name: 'C6: the session keyring stays',
    check: c6,
    edits: [
      [
        "p.sys('keyctl', [KEYCTL_JOIN_SESSION_KEYRING, 0], { about: 'new session keyring', ignore: [] });",
        '',
      ],
    ],
  },
  {
    name: 'C7: processes are not limited',
    check: c7Forks,
    edits: [
      [
        '    memorySwapBytes,\n    pids,\n    cpuWeight',
        "    memorySwapBytes,\n    pids: 'max',\n    cpuWeight",
      ],
    ],
  },
  {
    name: 'C7: memory is not limited',
    check: c7Memory,
    edits: [
      [
        '    memoryBytes,\n    memorySwapBytes,\n    pids',
        "    memoryBytes: 'max',\n    memorySwapBytes: 'max',\n    pids",
      ],
    ],
  },
  {
    name: 'C7: terminals are not limited',
    check: c7Tables,
    edits: [['ptmxmode=0666,max=1024,', 'ptmxmode=0666,']],
    breach: /terminals/,
  },
  {
    name: 'C7: user namespaces are made by the host root',
    check: c7Users,
    edits: [['planAsRootOf(p, spec.owner.hostBase, () =>', 'planAsRootOf(p, 0, () =>']],
    breach: /the host has no.*a neighbour has no/s,
  },
  {
    name: 'C7: logs are not limited',
    check: c7Log,
    edits: [['log, guest.config.log.maxBytes, stdout', 'log, 2 ** 30, stdout']],
  },
  {
    name: 'C8: the root has devices',
    check: c8,
    edits: [
      ["['MOUNT_ATTR_NODEV', 'MOUNT_ATTR_RDONLY'] : ['MOUNT_ATTR_NODEV'];", "['MOUNT_ATTR_RDONLY'] : [];"],
    ],
    breach: /template/,
  },
  {
    name: 'C8: volumes have devices',
    check: c8,
    edits: [["    'MOUNT_ATTR_NODEV',\n    ...(mount.readonly", '    ...(mount.readonly']],
    breach: /volume/,
  },
  {
    name: 'C8: the device filter is not attached',
    check: c8,
    edits: [['    await this.#fenceDevices();', '']],
    breach: /\/dev\/kmsg: ok/,
  },
  {
    name: "C9: the caller's environment is kept",
    check: c9,
    edits: [
      ['char *env[] = { NULL };\n\tfexecve', 'extern char **environ;\n\tchar **env = environ;\n\tfexecve'],
    ],
  },
  {
    name: 'D2: any address may be bound',
    check: { inNetwork: d2Bind },
    edits: [
      [
        '  f.ifMine(false, foreign);\n  f.copyAddress(10, FRAME.own, 10, FRAME.remote);',
        "  a.jumpIf(9, '==', 0x7fffffff, foreign);\n  f.copyAddress(10, FRAME.own, 10, FRAME.remote);",
      ],
    ],
    breach: /tcp 10\.9\.0\.1 port 7000 with nothing: ok/,
  },
  {
    name: 'D2: options that reach past the fence are allowed',
    check: { inNetwork: d2Bind },
    edits: [['  [LEVEL.socket, 25], // SO_BINDTODEVICE\n', '']],
    breach: /SO_BINDTODEVICE b'lo': ok/,
  },
  {
    name: 'D2: packets may choose their way',
    check: { inNetwork: d2Source },
    edits: [["    if (direction === 'out') checkHeader(f, ip);\n", '']],
    breach: /IP_RETOPTS/,
  },
  {
    name: 'D2: sources are not checked, neither by the socket nor in the packet',
    check: { inNetwork: d2Source },
    edits: [
      ["  f.ifMine(false, 'foreign source');\n", "  a.jumpIf(9, '==', 0x7fffffff, 'foreign source');\n"],
      ['  f.ifMine(false, spoofed);\n', "  a.jumpIf(9, '==', 0x7fffffff, spoofed);\n"],
    ],
    breach: /PKTINFO/,
  },
  {
    name: 'D2: datagram sockets are at the wildcard of the host, and nobody looks for whom a packet is',
    check: { inNetwork: d2Steal },
    edits: [
      [
        '  f.ifNetworkFlag(NETWORK_FLAG.multicast, false, native);\n',
        "  a.jumpIf(1, '==', 0x7fffffff, native);\n",
      ],
      [
        '  f.ifMine(true, mine);\n  if (ip === 4) {',
        "  a.jumpIf(9, '!=', 0x7fffffff, mine);\n  if (ip === 4) {",
      ],
    ],
    breach: /expected host/,
  },
  {
    name: 'D3: the loopback of others is not refused',
    check: { inNetwork: d3 },
    edits: [
      [
        "ip === 4 ? PROTOCOL.icmp : PROTOCOL.icmp6, allowed);\n  f.refuse('loopback', 'EPERM');",
        'ip === 4 ? PROTOCOL.icmp : PROTOCOL.icmp6, allowed).goto(allowed);',
      ],
    ],
    breach: /127\.0\.0\.53/,
  },
  {
    name: 'D4: the metadata service is not refused',
    check: { inNetwork: d4 },
    edits: [
      [
        '  f.ifNetworkFlag(NETWORK_FLAG.metadataDenied, false, noMetadata);\n',
        "  a.jumpIf(9, '!=', 0x7fffffff, noMetadata);\n",
      ],
    ],
    breach: /169\.254\.169\.254/,
  },
  {
    name: 'D5: questions about interfaces are answered by the socket they are asked on',
    check: { inNetwork: d5 },
    edits: [['  [0x890b, 0x894a],\n', '']],
    breach: /ioctl 0x89/,
  },
  {
    name: 'D5: /proc/net has the sockets of everybody',
    check: { inNetwork: d5 },
    edits: [
      ['conditions.length > CONDITIONS_MAX ? []', 'conditions.length >= 0 ? []'],
      [' !== nid || (flags & STATE_FLAG.pass) !== 0) return [];', ' === 0) return [];'],
    ],
    breach: /see .*0600090A/,
  },
  {
    name: 'D7: a peer that was found right stays so',
    check: { inNetwork: d7 },
    edits: [["load(2, 2, GLOBALS.generation, 8).jumpIf(1, '==', reg(2), target)", 'goto(target)']],
    breach: /tcp .*opened before/,
  },
  {
    name: 'D9: sockets of ICMP send what they like',
    check: { inNetwork: d9 },
    edits: [['      checkEcho(f, ip);\n', '']],
    breach: /user 0: ICMP/,
  },
  {
    name: 'D9: raw sockets are for all users of the guest',
    check: { inNetwork: d9 },
    edits: [['  if (has?.raw) planRootOnly(h, call, type, has.raw.uid);\n', '']],
    breach: /user 1000: raw socket/,
  },
  {
    name: 'D10: the host believes any source',
    check: { inNetwork: d10 },
    edits: [["  ['ipv4/conf/NAME/rp_filter', '1'],\n", "  ['ipv4/conf/NAME/rp_filter', '0'],\n"]],
    breach: /none 10\.66\.0\.1/,
  },
  {
    name: 'deletion: goes on when something is mounted, and into it',
    check: deletion,
    edits: [
      ['if (mounted === undefined) return;', 'if (mounted !== null) return;'],
      ['RESOLVE_BENEATH | RESOLVE_NO_XDEV | RESOLVE_NO_SYMLINKS', 'RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS'],
      [
        'return errno == EBUSY ? EXDEV : errno; /* a mount',
        'return errno == EBUSY ? ENOTEMPTY : errno; /* a mount',
      ],
    ],
    breach: /canary changed/,
  },
  {
    name: 'the Proc-FS: a guest is shown what the host is',
    check: otherContexts,
    edits: [["(viewer === 'host' ? manager.registry.list() : [viewer])", 'manager.registry.list()']],
    breach: /counts other contexts/,
  },
  {
    name: 'F1: all trust domains have one store',
    check: otherDomains,
    edits: [['join(this.#directory, domain)', "join(this.#directory, 'default')"]],
    breach: /1 files on disk/,
  },
  {
    name: 'F1: a clone may be of another trust domain',
    check: otherDomains,
    edits: [['      storage.checkDomain(source.name, config);\n', '']],
    breach: /a clone in another domain/,
  },
  {
    name: 'deletion: begins before it has looked for mounts',
    check: deletion,
    edits: [['      refuseMounted(paths);\n', '']],
  },
  {
    name: "deletion: the guest's directory may be a link",
    check: deletionOfLink,
    edits: [
      [
        "program.flags('O_RDONLY', 'O_DIRECTORY', 'O_NOFOLLOW', 'O_CLOEXEC')",
        "program.flags('O_RDONLY', 'O_DIRECTORY', 'O_CLOEXEC')",
      ],
      ["program.flags('RESOLVE_BENEATH', 'RESOLVE_NO_SYMLINKS', 'RESOLVE_NO_XDEV')", '0'],
    ],
  },
];

/** The file below `checkout` in which `find` stands; throws if none does, or several: then the mutation is stale. */
export function holderOf(find: string, checkout: string): string {
  const holders = globSync(['src/**/*.ts', 'src/**/*.json', 'native/*.c'], { cwd: checkout })
    .filter((file) => !file.endsWith('.test.ts'))
    .map((file) => join(checkout, file))
    .filter((file) => readFileSync(file, 'utf8').includes(find));
  const [holder] = holders;
  if (holder === undefined || holders.length > 1)
    throw new Error(`a stale mutation: ${JSON.stringify(find)} stands in ${holders.join(' ') || 'no file'}`);
  return holder;
}
