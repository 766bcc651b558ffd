import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { checkBpf, runBpf } from '../../test/lib/bpf-vm.ts';
import { judgeSeccomp } from '../../test/lib/seccomp-oracle.ts';
import {
  parseSeccompProfile,
  type ResolvedSeccompProfile,
  resolveSeccompProfile,
} from '../spec/seccomp-profile.ts';
import { compileSeccomp, type SeccompAbi } from './seccomp.ts';

const X86_64 = 0xc000003e;
const I386 = 0x40000003;
const ALLOW = 0x7fff0000;
const KILL_PROCESS = 0x80000000;
const NOTIFY = 0x7fc00000;
const ENOSYS = errno(38);
const EPERM = errno(1);

function errno(number: number): number {
  return 0x00050000 + number;
}

/** A machine small enough to read, whose numbers fit the tests below. */
const SMALL: SeccompAbi = {
  auditArch: X86_64,
  syscalls: { read: 0, write: 1, socket: 41, ioctl: 16, newest: 50 },
  compat: {
    auditArch: I386,
    syscalls: { read: 3, write: 4, socket: 359, socketcall: 102, ipc: 117, semop: 999, bind: 361 },
  },
  littleEndian: true,
};

function resolveText(json: unknown, caps: readonly string[] = []): ResolvedSeccompProfile {
  return resolveSeccompProfile(parseSeccompProfile(JSON.stringify(json)), {
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

test('a multiplexer gets the verdict of the direct call, and ENOSYS where that looks at arguments', () => {
  const program = compile(
    resolveText({
      defaultAction: 'SCMP_ACT_ALLOW',
      syscalls: [
        {
          names: ['socket'],
          action: 'SCMP_ACT_ERRNO',
          errnoRet: 97,
          args: [{ index: 0, value: 38, op: 'SCMP_CMP_EQ' }],
        },
        { names: ['bind'], action: 'SCMP_ACT_ERRNO', errnoRet: 13 },
        { names: ['semop'], action: 'SCMP_ACT_KILL_PROCESS' },
        { names: ['listen'], action: 'SCMP_ACT_NOTIFY' },
        { names: ['connect'], action: 'SCMP_ACT_LOG' },
      ],
    }),
    SMALL,
  );
  assert.equal(call(program, SMALL, 'socketcall', [1], true), ENOSYS);
  assert.equal(call(program, SMALL, 'socketcall', [2], true), errno(13));
  assert.equal(call(program, SMALL, 'socketcall', [3], true), 0x7ffc0000);
  assert.equal(call(program, SMALL, 'socketcall', [4], true), ENOSYS);
  assert.equal(call(program, SMALL, 'socketcall', [16], true), ALLOW);
  assert.equal(call(program, SMALL, 'ipc', [0x20001], true), KILL_PROCESS);
  assert.equal(call(program, SMALL, 'ipc', [2], true), ALLOW);
});

test('a supervisor may be asked about socketcall, since it can copy the arguments', () => {
  const { program, hasNotify } = compileSeccomp(
    resolveText({
      defaultAction: 'SCMP_ACT_ERRNO',
      syscalls: [
        { names: ['socketcall'], action: 'SCMP_ACT_ALLOW' },
        {
          names: ['socketcall'],
          action: 'SCMP_ACT_NOTIFY',
          args: [{ index: 0, value: 1, op: 'SCMP_CMP_EQ' }],
        },
        { names: ['bind', 'connect'], action: 'SCMP_ACT_ALLOW' },
      ],
    }),
    SMALL,
  );
  assert.equal(hasNotify, true);
  assert.equal(call(program, SMALL, 'socketcall', [1], true), NOTIFY);
  assert.equal(call(program, SMALL, 'socketcall', [2], true), ALLOW);
  assert.equal(call(program, SMALL, 'socketcall', [4], true), EPERM);
});

test('numbers and architectures nobody knows', () => {
  const zero = [0n, 0n, 0n, 0n, 0n, 0n];
  const strict = compile(
    resolveText({
      defaultAction: 'SCMP_ACT_ERRNO',
      syscalls: [{ names: ['read'], action: 'SCMP_ACT_ALLOW' }],
    }),
    SMALL,
  );
  const lax = compile(resolveText({ defaultAction: 'SCMP_ACT_ALLOW' }), SMALL);
  const cases: readonly (readonly [number, number, number, number])[] = [
    [0, X86_64, ALLOW, ALLOW],
    [50, X86_64, EPERM, ALLOW],
    [51, X86_64, ENOSYS, ALLOW],
    [20, X86_64, ENOSYS, ALLOW],
    [0x3fffffff, X86_64, ENOSYS, ALLOW],
    [0x40000000, X86_64, ENOSYS, ENOSYS],
    [0x40000029, X86_64, ENOSYS, ENOSYS],
    [0xffffffff, X86_64, ENOSYS, ENOSYS],
    [3, I386, ALLOW, ALLOW],
    [4, I386, EPERM, ALLOW],
    [2000, I386, ENOSYS, ALLOW],
    [0x40000003, I386, ENOSYS, ALLOW],
    [0, 0xc00000b7, KILL_PROCESS, KILL_PROCESS],
    [0, 0, KILL_PROCESS, KILL_PROCESS],
  ];
  for (const [nr, arch, whenStrict, whenLax] of cases) {
    assert.equal(runBpf(strict, { nr, arch, args: zero }, true).value, whenStrict, `strict ${nr} ${arch}`);
    assert.equal(runBpf(lax, { nr, arch, args: zero }, true).value, whenLax, `lax ${nr} ${arch}`);
  }
});

test('a profile that does not list the 32-bit architecture kills its calls', () => {
  const only64 = compile(
    resolveText({ defaultAction: 'SCMP_ACT_ALLOW', architectures: ['SCMP_ARCH_X86_64'] }),
    SMALL,
  );
  assert.equal(call(only64, SMALL, 'read'), ALLOW);
  assert.equal(call(only64, SMALL, 'read', [], true), KILL_PROCESS);
  const no32 = compile(resolveText({ defaultAction: 'SCMP_ACT_ALLOW' }), { ...SMALL, compat: null });
  assert.equal(runBpf(no32, { nr: 3, arch: I386, args: [0n, 0n, 0n, 0n, 0n, 0n] }, true).value, KILL_PROCESS);
});

test('the most restrictive of the matching rules wins, whatever their order', () => {
  const rules = [
    { names: ['ioctl'], action: 'SCMP_ACT_ALLOW' },
    { names: ['ioctl'], action: 'SCMP_ACT_TRAP', args: [{ index: 1, value: 3, op: 'SCMP_CMP_GE' }] },
    {
      names: ['ioctl'],
      action: 'SCMP_ACT_ERRNO',
      errnoRet: 5,
      args: [{ index: 1, value: 2, op: 'SCMP_CMP_GE' }],
    },
    {
      names: ['ioctl'],
      action: 'SCMP_ACT_ERRNO',
      errnoRet: 6,
      args: [{ index: 1, value: 2, op: 'SCMP_CMP_EQ' }],
    },
  ];
  const ordered = compile(resolveText({ defaultAction: 'SCMP_ACT_LOG', syscalls: rules }), SMALL);
  const turned = compile(resolveText({ defaultAction: 'SCMP_ACT_LOG', syscalls: rules.toReversed() }), SMALL);
  for (const [value, expected, turnedExpected] of [
    [1, ALLOW, ALLOW],
    [2, errno(5), errno(6)],
    [3, 0x30000, 0x30000],
  ] as const) {
    assert.equal(call(ordered, SMALL, 'ioctl', [0, value]), expected);
    assert.equal(call(turned, SMALL, 'ioctl', [0, value]), turnedExpected);
  }
});

test('random profiles, both byte orders: the program says what the rules say', () => {
  const value = fc.oneof(
    fc.bigInt(0n, 5n),
    fc.constantFrom(0xffffffffn, 0x1_0000_0000n, 0x1_0000_0002n, (1n << 64n) - 1n),
  );
  const condition = fc
    .record({
      index: fc.nat(2),
      value,
      valueTwo: value,
      op: fc.constantFrom('NE', 'LT', 'LE', 'EQ', 'GE', 'GT', 'MASKED_EQ').map((op) => `SCMP_CMP_${op}`),
    })
    .map((c) => ({ ...c, valueTwo: c.op === 'SCMP_CMP_MASKED_EQ' ? c.valueTwo & c.value : c.valueTwo }));
  const rule = fc
    .record({
      names: fc.constant(['ioctl']),
      action: fc
        .constantFrom('KILL_PROCESS', 'ERRNO', 'NOTIFY', 'TRACE', 'LOG', 'ALLOW')
        .map((a) => `SCMP_ACT_${a}`),
      args: fc.array(condition, { maxLength: 4 }),
      errnoRet: fc.nat(3),
    })
    .map(({ errnoRet, ...rest }) => (/ERRNO|TRACE/.test(rest.action) ? { ...rest, errnoRet } : rest));
  const profile = fc.record({
    defaultAction: fc.constantFrom('SCMP_ACT_ERRNO', 'SCMP_ACT_ALLOW', 'SCMP_ACT_KILL'),
    syscalls: fc.array(rule, { maxLength: 8 }),
  });
  const args = fc.array(value, { minLength: 6, maxLength: 6 });
  fc.assert(
    fc.property(
      profile,
      fc.array(args, { minLength: 5, maxLength: 5 }),
      fc.boolean(),
      (raw, calls, littleEndian) => {
        const text = JSON.stringify(raw, (_key, v: unknown) =>
          typeof v === 'bigint' ? `${v}n` : v,
        ).replaceAll(/"(\d+)n"/g, '$1');
        const resolved = resolveSeccompProfile(parseSeccompProfile(text), {
          caps: new Set(),
          auditArch: X86_64,
          kernel: { major: 6, minor: 1 },
        });
        const abi = { ...SMALL, littleEndian };
        const program = compile(resolved, abi);
        for (const list of calls)
          assert.equal(call(program, abi, 'ioctl', list), judgeSeccomp(raw, 'ioctl', list, []));
      },
    ),
    { numRuns: 400 },
  );
});

test('targets further than a conditional jump reaches', () => {
  const args = [0, 1, 2, 3, 4, 5].map((index) => ({
    index,
    value: 0x1_0000_0000 + index,
    op: 'SCMP_CMP_GE',
  }));
  const names = Array.from({ length: 60 }, (_, number) => `call_${number}`);
  const syscalls = Object.fromEntries(names.map((name, number) => [name, number * 2]));
  const rules = names.map((name, number) => ({
    names: [name],
    action: 'SCMP_ACT_ERRNO',
    errnoRet: number,
    args,
  }));
  const abi = { ...SMALL, syscalls, compat: null };
  const program = compile(resolveText({ defaultAction: 'SCMP_ACT_ALLOW', syscalls: rules }), abi);
  assert.ok(program.length / 8 > 1000);
  const matching = [0, 1, 2, 3, 4, 5].map((index) => 0x1_0000_0000 + index);
  for (const [number, name] of names.entries()) {
    assert.equal(call(program, abi, name, matching), errno(number));
    assert.equal(call(program, abi, name, [...matching.slice(0, 5), 0]), ALLOW);
  }
});

test('a program longer than the kernel takes is refused', () => {
  const names = Array.from({ length: 300 }, (_, number) => `call_${number}`);
  const syscalls = Object.fromEntries(names.map((name, number) => [name, number]));
  const args = [0, 1, 2, 3].map((index) => ({ index, value: 7, op: 'SCMP_CMP_GE' }));
  const rules = names.map((name, number) => ({
    names: [name],
    action: 'SCMP_ACT_ERRNO',
    errnoRet: number,
    args,
  }));
  const profile = resolveText({ defaultAction: 'SCMP_ACT_ALLOW', syscalls: rules });
  assert.throws(() => compileSeccomp(profile, { ...SMALL, syscalls, compat: null }), {
    code: 'seccomp-filter-too-long',
    message: /^cannot compile seccomp profile: found \d{4} BPF instructions; need at most 4096$/,
  });
});

test('names no ABI has are reported', () => {
  const profile = resolveText({
    defaultAction: 'SCMP_ACT_ALLOW',
    syscalls: [{ names: ['read', 'raed', 'socketcall'], action: 'SCMP_ACT_ERRNO' }],
  });
  assert.deepEqual(compileSeccomp(profile, SMALL).unknownNames, ['raed']);
});
