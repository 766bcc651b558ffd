/** The native part built for other machines: their abi.json, and programs encoded with it read by their own decoder. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { test } from 'node:test';
import { type Abi, loadAbi, offsetOf, sizeOf } from '../../src/sys/abi.ts';
import { Program } from '../../src/sys/program.ts';
import { type Requirement, requires } from '../lib/requires.ts';

const ROOT = resolve(import.meta.dirname, '../..');

const MACHINES: readonly {
  readonly arch: string;
  readonly needs: Requirement;
  readonly littleEndian: boolean;
  readonly auditArch: number;
  readonly openat: number;
  readonly compat: string | undefined;
}[] = [
  {
    arch: 'aarch64',
    needs: 'cross-arm64',
    littleEndian: true,
    auditArch: 0xc00000b7,
    openat: 56,
    compat: undefined,
  },
  {
    arch: 'riscv64',
    needs: 'cross-riscv64',
    littleEndian: true,
    auditArch: 0xc00000f3,
    openat: 56,
    compat: undefined,
  },
  {
    arch: 's390x',
    needs: 'cross-s390x',
    littleEndian: false,
    auditArch: 0x80000016,
    openat: 288,
    compat: 's390',
  },
];

function succeed(command: string, args: readonly string[]): string {
  const { status, signal, stdout, stderr } = spawnSync(command, args, { encoding: 'utf8', timeout: 120_000 });
  assert.equal(status ?? signal, 0, `${command} ${args.join(' ')}: ${stdout}${stderr}`);
  return stdout;
}

/** A program of data steps: it reaches its end only if every field is read as it was meant. */
function selfTest(abi: Abi): Program {
  const p = new Program(abi);
  const end = p.label();
  const digits = p.data(24);
  const place = p.data(8);
  p.store(place, 0x0102_0304_0506_0708n, 8);
  const whole = p.load(place, 8);
  p.expect(p.itoa(digits, whole), '==', 17, 'EPROTO', 'count of digits');
  p.expectBytes(digits, Buffer.from('72623859790382856\0'), 'EPROTO', 'digits');
  const bytes = [1, 2, 3, 4, 5, 6, 7, 8];
  p.expectBytes(place, Buffer.from(abi.littleEndian ? bytes.reverse() : bytes), 'EPROTO', 'byte order');
  p.store(place, -2, 4);
  p.expect(p.load(place), '==', -2, 'EPROTO', 'sign');
  const filter = p.struct('sock_fprog', { len: 0x1234, filter: digits });
  p.expectBytes(
    filter,
    Buffer.from(abi.littleEndian ? [0x34, 0x12] : [0x12, 0x34]),
    'EPROTO',
    'a 16-bit field',
  );
  p.jump(end);
  p.sys('openat', [-100, '/', p.flags('O_PATH'), 0], { ignore: ['ENOENT', 'EACCES'] });
  p.place(end);
  p.returns(digits);
  return p;
}

for (const { arch, needs, littleEndian, auditArch, openat, compat } of MACHINES) {
  test(`${arch}: compiles, and reads what TypeScript encodes for it`, (t) => {
    if (!requires(t, needs)) return;
    const build = mkdtempSync(join(tmpdir(), 'vserver-cross-'));
    const emulator = [`qemu-${arch}-static`, '-L', `/usr/${arch}-linux-gnu`] as const;
    const variables = [
      `CC=${arch}-linux-gnu-gcc`,
      `BUILD=${build}`,
      `RUN=${emulator.join(' ')}`,
      'SANITIZE=-static',
    ];
    try {
      succeed('make', ['-s', '-j2', '-C', join(ROOT, 'native'), ...variables, 'all', 'replay']);
      const abi = loadAbi(join(build, 'abi.json'));
      assert.deepEqual(
        [
          abi.arch,
          abi.littleEndian,
          abi.auditArch,
          abi.pointerBytes,
          abi.syscalls['openat'],
          abi.compat?.arch,
        ],
        [arch, littleEndian, auditArch, 8, openat, compat],
      );
      assert.deepEqual(
        [
          sizeOf(abi, 'step'),
          sizeOf(abi, 'program_header'),
          offsetOf(abi, 'step', 'arg'),
          sizeOf(abi, 'open_how'),
        ],
        [80, 32, 32, 24],
      );
      for (const name of ['clone3', 'openat2', 'execve', 'pivot_root', 'pidfd_open', 'mount_setattr']) {
        assert.ok((abi.syscalls[name] ?? 0) > 0, name);
      }
      const file = join(build, 'program');
      const { bytes } = selfTest(abi).encode();
      writeFileSync(file, Buffer.concat([Buffer.from('P'), bytes]));
      const [command, ...args] = emulator;
      assert.equal(succeed(command, [...args, join(build, 'replay'), '-r', file]), 'ok\n');
      // The other byte order does not pass: the decoder really reads these fields.
      const other = selfTest({ ...abi, littleEndian: !littleEndian }).encode();
      writeFileSync(file, Buffer.concat([Buffer.from('P'), other.bytes]));
      assert.notEqual(spawnSync(command, [...args, join(build, 'replay'), '-r', file]).status, 0);
    } finally {
      rmSync(build, { recursive: true });
    }
  });
}
