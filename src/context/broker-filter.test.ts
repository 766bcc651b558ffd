import assert from 'node:assert/strict';
import { test } from 'node:test';
import { checkBpf, runBpf } from '../../test/lib/bpf-vm.ts';
import { compileBrokerFilter } from './broker-filter.ts';
import type { SeccompAbi } from './seccomp.ts';

const NATIVE = 0xc000_003e;
const COMPAT = 0x4000_0003;
const [ALLOW, NOTIFY] = [0x7fff_0000, 0x7fc0_0000];
const NO_ARGUMENTS = [0n, 0n, 0n, 0n, 0n, 0n];
const [ENOSYS, EPROTONOSUPPORT] = [0x0005_0026, 0x0005_005d];

const abi = (littleEndian: boolean): SeccompAbi => ({
  auditArch: NATIVE,
  syscalls: {
    read: 0,
    ioctl: 16,
    socket: 41,
    socketpair: 53,
    sysinfo: 99,
    quotactl: 179,
    sched_getaffinity: 204,
    quotactl_fd: 443,
  },
  compat: {
    auditArch: COMPAT,
    syscalls: {
      ioctl: 54,
      socket: 359,
      socketcall: 102,
      sysinfo: 116,
      quotactl: 131,
      sched_getaffinity: 242,
      quotactl_fd: 443,
    },
  },
  littleEndian,
});

for (const littleEndian of [true, false]) {
  const program = compileBrokerFilter(abi(littleEndian), {
    sockets: { raw: undefined },
    sysinfo: false,
    affinity: false,
    quota: false,
  });
  const verdict = (arch: number, nr: number, ...args: readonly (number | bigint)[]): number => {
    const all = Array.from({ length: 6 }, (_, i) => BigInt(args[i] ?? 0));
    return runBpf(program, { nr, arch, args: all }, littleEndian).value;
  };

  test(`the filter is one the kernel takes (${littleEndian ? 'little' : 'big'} endian)`, () => {
    checkBpf(program, littleEndian);
  });

  test(`sockets of the IP families are asked for (${littleEndian ? 'little' : 'big'} endian)`, () => {
    for (const [arch, nr] of [
      [NATIVE, 41],
      [COMPAT, 359],
    ] as const) {
      for (const family of [2, 10, 0x5_0000_0002n]) {
        for (const type of [1, 2, 0x80801, 0x802]) {
          for (const protocol of [0, 1, 6, 17, 58, 0x1_0000_0006n])
            assert.equal(verdict(arch, nr, family, type, protocol), NOTIFY);
          for (const protocol of [132, 136, 262, 255])
            assert.equal(verdict(arch, nr, family, type, protocol), EPROTONOSUPPORT);
        }
        for (const type of [3, 4, 5, 15, 0x80803]) assert.equal(verdict(arch, nr, family, type, 0), ALLOW);
      }
      for (const family of [0, 1, 16, 17, 38, 0x2_0000_0000n])
        assert.equal(verdict(arch, nr, family, 1, 0), ALLOW);
      for (const type of [2, 3, 0x80003]) {
        assert.equal(verdict(arch, nr, 16, type, 4), EPROTONOSUPPORT); // sock_diag
        for (const protocol of [0, 9, 15, 16]) assert.equal(verdict(arch, nr, 16, type, protocol), ALLOW);
      }
    }
  });

  test(`raw sockets are asked for as far as they are given (${littleEndian ? 'little' : 'big'} endian)`, () => {
    for (const raw of ['icmp', 'all'] as const) {
      const other = compileBrokerFilter(abi(littleEndian), {
        sockets: { raw },
        sysinfo: false,
        affinity: false,
        quota: false,
      });
      checkBpf(other, littleEndian);
      const verdictOf = (...args: readonly number[]): number =>
        runBpf(other, { nr: 41, arch: NATIVE, args: [...args, 0, 0, 0].map(BigInt) }, littleEndian).value;
      for (const family of [2, 10])
        for (const protocol of [1, 58]) assert.equal(verdictOf(family, 0x80003, protocol), NOTIFY);
      for (const protocol of [0, 6, 255])
        assert.equal(verdictOf(2, 3, protocol), raw === 'all' ? NOTIFY : ALLOW);
      assert.equal(verdictOf(2, 4, 1), ALLOW);
      assert.equal(verdictOf(17, 3, 1), ALLOW);
      assert.equal(verdictOf(2, 1, 262), EPROTONOSUPPORT);
    }
  });

  test(`questions about interfaces are asked for (${littleEndian ? 'little' : 'big'} endian)`, () => {
    for (const [arch, nr] of [
      [NATIVE, 16],
      [COMPAT, 54],
    ] as const) {
      for (const request of [0x8910, 0x8912, 0x8927, 0x8933, 0x8946, 0x8954, 0x89a2, 0x8b01, 0x1_0000_8912n])
        assert.equal(verdict(arch, nr, 3, request), NOTIFY, String(request));
      for (const request of [
        0, 0x5401, 0x541b, 0x5413, 0x8902, 0x8905, 0x894b, 0x894c, 0x89e0, 0x8c00, 0xffff_ffff,
      ])
        assert.equal(verdict(arch, nr, 3, request), ALLOW, String(request));
    }
  });

  test(`a guest's own measure is asked for where it is shown (${littleEndian ? 'little' : 'big'} endian)`, () => {
    for (const [sysinfo, affinity, quota] of [
      [true, false, false],
      [false, true, true],
      [true, true, false],
      [false, false, true],
    ] as const) {
      const other = compileBrokerFilter(abi(littleEndian), { sockets: undefined, sysinfo, affinity, quota });
      checkBpf(other, littleEndian);
      const verdictOf = (arch: number, nr: number): number =>
        runBpf(other, { nr, arch, args: [2n, 1n, 0n, 0n, 0n, 0n] }, littleEndian).value;
      for (const [arch, info, mask, control, controlFd] of [
        [NATIVE, 99, 204, 179, 443],
        [COMPAT, 116, 242, 131, 443],
      ] as const) {
        for (const nr of [control, controlFd]) assert.equal(verdictOf(arch, nr), quota ? NOTIFY : ALLOW);
        assert.equal(verdictOf(arch, info), sysinfo ? NOTIFY : ALLOW);
        assert.equal(verdictOf(arch, mask), affinity ? NOTIFY : ALLOW);
      }
      for (const nr of [0, 16, 41, 116, 242]) assert.equal(verdictOf(NATIVE, nr), ALLOW);
      for (const nr of [54, 99, 102, 204, 359]) assert.equal(verdictOf(COMPAT, nr), ALLOW);
    }
    for (const nr of [99, 204]) assert.equal(verdict(NATIVE, nr), ALLOW);
  });

  test(`the kernel keeps the verdict on what is not asked for: no argument is looked at (${littleEndian ? 'little' : 'big'} endian)`, () => {
    const asked = { [NATIVE]: [16, 41], [COMPAT]: [54, 102, 359] };
    for (const arch of [NATIVE, COMPAT] as const) {
      for (let nr = 0; nr < 512; nr++) {
        const { value, hasReadArguments } = runBpf(program, { nr, arch, args: NO_ARGUMENTS }, littleEndian);
        assert.equal(hasReadArguments, asked[arch].includes(nr), String(nr));
        if (!hasReadArguments) assert.equal(value, ALLOW, String(nr));
      }
    }
  });

  test(`of other calls only a hidden socket is refused (${littleEndian ? 'little' : 'big'} endian)`, () => {
    assert.equal(verdict(COMPAT, 102, 1, 0xffff_0000), ENOSYS);
    for (const call of [2, 3, 8, 9]) assert.equal(verdict(COMPAT, 102, call), ALLOW);
    for (const [arch, nr] of [
      [NATIVE, 0],
      [NATIVE, 53],
      [NATIVE, 102],
      [NATIVE, 359],
      [NATIVE, 41 | 0x4000_0000],
      [COMPAT, 41],
      [0x8000_0016, 41],
    ] as const) {
      assert.equal(verdict(arch, nr, 2, 1, 0), ALLOW);
    }
  });
}
