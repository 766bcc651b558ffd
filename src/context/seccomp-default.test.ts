import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
import { test } from 'node:test';
import fc from 'fast-check';
import { checkBpf, runBpf } from '../../test/lib/bpf-vm.ts';
import { judgeSeccomp, type RawRule, rulesFor, SUBCALLS } from '../../test/lib/seccomp-oracle.ts';
import { type ResolvedSeccompProfile, resolveSeccompProfile } from '../spec/seccomp-profile.ts';
import { compileSeccomp, type SeccompAbi } from './seccomp.ts';
import rawDefault from './seccomp-default.json' with { type: 'json' };
import { defaultSeccompProfile } from './seccomp-default.ts';

const HEADERS = '/usr/include/x86_64-linux-gnu/asm';
const hasHeaders = existsSync(`${HEADERS}/unistd_64.h`) && existsSync(`${HEADERS}/unistd_32.h`);
const needsHeaders = { skip: hasHeaders ? false : `no ${HEADERS}/unistd_{64,32}.h` };

const RULES: readonly RawRule[] = rawDefault.syscalls;
const X86_64 = 0xc000003e;
const I386 = 0x40000003;
const ALLOW = 0x7fff0000;
const ENOSYS = errno(38);
const EPERM = errno(1);
const GUEST_CAPS = [
  'CAP_SYS_PTRACE',
  'CAP_SYS_CHROOT',
  'CAP_SYS_BOOT',
  'CAP_SYS_TTY_CONFIG',
  'CAP_DAC_READ_SEARCH',
];

function errno(number: number): number {
  return 0x00050000 + number;
}

function table(name: string): Readonly<Record<string, number>> {
  const text = readFileSync(`${HEADERS}/${name}`, 'utf8');
  return Object.fromEntries(
    [...text.matchAll(/^#define __NR_(\w+) (\d+)$/gm)].map((m) => [m[1], Number(m[2])]),
  );
}

function hostAbi(): SeccompAbi {
  return {
    auditArch: X86_64,
    syscalls: table('unistd_64.h'),
    compat: { auditArch: I386, syscalls: table('unistd_32.h') },
    littleEndian: true,
  };
}

function resolveDefault(caps: readonly string[] = GUEST_CAPS): ResolvedSeccompProfile {
  return resolveSeccompProfile(defaultSeccompProfile(), {
    caps: new Set(caps),
    auditArch: X86_64,
    kernel: { major: 6, minor: 12 },
  });
}

function compile(profile: ResolvedSeccompProfile, abi: SeccompAbi): Uint8Array {
  const { program } = compileSeccomp(profile, abi);
  checkBpf(program, abi.littleEndian);
  return program;
}

function call(
  program: Uint8Array,
  abi: SeccompAbi,
  name: string,
  args: readonly (number | bigint)[] = [],
  is32Bit = false,
): number {
  const side = is32Bit ? abi.compat : abi;
  const nr = side?.syscalls[name];
  assert.ok(side !== null && nr !== undefined, `no number for ${name}`);
  const wide = [0, 1, 2, 3, 4, 5].map((index) => BigInt.asUintN(64, BigInt(args[index] ?? 0)));
  return runBpf(program, { nr, arch: side.auditArch, args: wide }, abi.littleEndian).value;
}

const edges = (values: readonly bigint[]): fc.Arbitrary<bigint> =>
  fc.oneof(
    fc.constantFrom(
      ...values,
      ...values.map((v) => v + 1n),
      ...values.map((v) => BigInt.asUintN(64, v - 1n)),
    ),
    fc.constantFrom(...values).map((v) => BigInt.asUintN(64, v + (1n << 32n))),
    fc.bigInt(0n, 60n),
    fc.bigInt(0n, 0xffffffffffffffffn),
  );

test('default profile: every syscall of both ABIs gets what the JSON says', needsHeaders, () => {
  const abi = hostAbi();
  const interesting = RULES.flatMap((rule) => rule.args ?? []);
  const values = [...new Set(interesting.flatMap((arg) => [BigInt(arg.value), BigInt(arg.valueTwo ?? 0)]))];
  for (const caps of [[], GUEST_CAPS, [...GUEST_CAPS, 'CAP_SYS_ADMIN', 'CCAP_TIOCSTI']]) {
    const program = compile(resolveDefault(caps), abi);
    for (const side of [abi, abi.compat!]) {
      for (const [name, nr] of Object.entries(side.syscalls)) {
        const hasArguments =
          name in SUBCALLS || rulesFor(RULES, name, caps).some((rule) => rule.args !== undefined);
        const args = fc.array(edges(values), { minLength: 6, maxLength: 6 });
        fc.assert(
          fc.property(args, (list) => {
            const run = runBpf(program, { nr, arch: side.auditArch, args: list }, true);
            assert.equal(
              run.value,
              judgeSeccomp({ ...rawDefault, syscalls: RULES }, name, list, caps),
              `${name}(${list.join(', ')})`,
            );
            if (!hasArguments) assert.equal(run.hasReadArguments, false);
          }),
          { numRuns: hasArguments ? 300 : 1 },
        );
      }
    }
  }
});

/** What a server does for each request. */
const HOT = [
  ...[
    'read',
    'readv',
    'write',
    'writev',
    'sendto',
    'sendmsg',
    'recvfrom',
    'recvmsg',
    'accept4',
    'connect',
    'close',
  ],
  ...[
    'epoll_wait',
    'epoll_pwait',
    'epoll_ctl',
    'poll',
    'select',
    'futex',
    'sendfile',
    'getsockopt',
    'setsockopt',
    'shutdown',
  ],
];

test(
  'default profile: the kernel keeps the verdict on what servers do all the time, of both ABIs',
  needsHeaders,
  () => {
    const abi = hostAbi();
    const program = compile(resolveDefault(), abi);
    for (const side of [abi, abi.compat!]) {
      for (const name of HOT) {
        const nr = side.syscalls[name];
        if (nr === undefined) continue;
        const run = runBpf(program, { nr, arch: side.auditArch, args: [0n, 0n, 0n, 0n, 0n, 0n] }, true);
        assert.deepEqual([run.value, run.hasReadArguments], [ALLOW, false], name);
      }
    }
  },
);

test('default profile: allowed calls take fewer than 20 instructions on average', needsHeaders, (context) => {
  const abi = hostAbi();
  const program = compile(resolveDefault(), abi);
  for (const [side, label] of [[abi, 'x86-64'] as const, [abi.compat!, 'i386'] as const]) {
    const runs = Object.values(side.syscalls)
      .map((nr) => runBpf(program, { nr, arch: side.auditArch, args: [0n, 0n, 0n, 0n, 0n, 0n] }, true))
      .filter((run) => run.value === ALLOW);
    const average = runs.reduce((sum, run) => sum + run.steps, 0) / runs.length;
    const most = Math.max(...runs.map((run) => run.steps));
    context.diagnostic(
      `${label}: ${runs.length} allowed, ${average.toFixed(1)} instructions on average, at most ${most}; program ${program.length / 8}`,
    );
    assert.ok(average < 20);
  }
});

test('default profile: what must be refused is', needsHeaders, () => {
  const abi = hostAbi();
  const program = compile(resolveDefault(), abi);
  const refused: readonly (readonly [string, readonly (number | bigint)[], number])[] = [
    ['unshare', [0x10000000], EPERM],
    ['unshare', [0], EPERM],
    ['setns', [], EPERM],
    ['clone', [0x10000011], EPERM],
    ['clone', [0x40000011], EPERM],
    ['clone', [0x00020011], EPERM],
    ['clone3', [], ENOSYS],
    ['statmount', [], ENOSYS],
    ...[
      ...[
        'mount',
        'umount2',
        'fsopen',
        'fsconfig',
        'fsmount',
        'fspick',
        'open_tree',
        'move_mount',
        'mount_setattr',
      ],
      ...[
        'pivot_root',
        'add_key',
        'keyctl',
        'request_key',
        'bpf',
        'perf_event_open',
        'userfaultfd',
        'quotactl',
      ],
      ...[
        'quotactl_fd',
        'io_uring_setup',
        'io_uring_enter',
        'io_uring_register',
        'kexec_load',
        'kexec_file_load',
      ],
      ...['init_module', 'finit_module', 'delete_module', 'open_by_handle_at', 'swapon', 'swapoff', 'iopl'],
      ...[
        'ioperm',
        'acct',
        'settimeofday',
        'clock_settime',
        'nfsservctl',
        'syslog',
        'lookup_dcookie',
        'uselib',
      ],
    ].map((name) => [name, [], EPERM] as const),
    ...[0, 3, 9, 11, 15, 17, 21, 29, 30, 31, 33, 38, 40, 44].flatMap((family) => [
      ['socket', [family, 1, 0], errno(97)] as const,
      ['socketpair', [family, 1, 0], errno(97)] as const,
    ]),
    // The kernel uses the lower 32 bits of an int argument only.
    ['socket', [0x1_0000_0026n, 5, 0], errno(97)],
    ['socket', [16, 3, 6], errno(93)],
    ['socket', [16, 3, 0x1_0000_0006n], errno(93)],
    ['ioctl', [0, 0x5412], EPERM],
    ['ioctl', [0, 0x541c], EPERM],
    ['ioctl', [0, 0xdeadbeef_00005412n], EPERM],
    ['ioctl', [0, 0x401c5820], errno(95)],
    ['ioctl', [0, 0x40086602], errno(95)],
    ['ioctl', [0, 0x40046602], errno(95)],
    ['file_setattr', [], errno(38)],
    ['personality', [0x40000], EPERM],
  ];
  for (const [name, args, expected] of refused) {
    const shown = `${name}(${args.join(', ')})`;
    if (Object.hasOwn(abi.syscalls, name)) assert.equal(call(program, abi, name, args), expected, shown);
    const isWide = args.some((arg) => BigInt(arg) > 0xffffffffn);
    if (Object.hasOwn(abi.compat!.syscalls, name) && !isWide) {
      assert.equal(call(program, abi, name, args, true), expected, `32-bit ${shown}`);
    }
  }
});

test('default profile: what servers need is allowed', needsHeaders, () => {
  const abi = hostAbi();
  const program = compile(resolveDefault(), abi);
  const allowed: readonly (readonly [string, readonly (number | bigint)[]])[] = [
    ['clone', [0x3d0f00]],
    ['clone', [17]],
    ['socket', [1, 1, 0]],
    ['socket', [2, 1, 0]],
    ['socket', [10, 2, 0]],
    ['socket', [16, 3, 0]],
    ['socketpair', [1, 1, 0]],
    ['ioctl', [0, 0x5401]],
    ['personality', [0xffffffff]],
    ['ptrace', []],
    ['chroot', []],
    ['reboot', []],
    ['seccomp', []],
    ['memfd_create', []],
    ['io_submit', []],
    ['shmget', []],
    ['sethostname', []],
  ];
  for (const [name, args] of allowed) {
    const expected = name === 'sethostname' ? EPERM : ALLOW;
    assert.equal(call(program, abi, name, args), expected, `${name}(${args.join(', ')})`);
  }
});

test('32-bit ABI: socketcall reaches no family that socket refuses', needsHeaders, () => {
  const abi = hostAbi();
  const program = compile(resolveDefault(), abi);
  assert.equal(call(program, abi, 'socketcall', [1], true), ENOSYS);
  assert.equal(call(program, abi, 'socketcall', [8], true), ENOSYS);
  assert.equal(call(program, abi, 'socketcall', [2], true), ALLOW);
  assert.equal(call(program, abi, 'ipc', [23], true), ALLOW);
  assert.equal(call(program, abi, 'ipc', [0x10017], true), ALLOW);
});
