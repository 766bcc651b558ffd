import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import type { Abi } from './abi.ts';
import { MACHINE_LIMITS, OP, Program, type Result } from './program.ts';
import { bytesIn, type Num, numberOf, type Text, vary, wordsOf } from './varying.ts';

/** Numbers of no real machine, so that nothing can be right by chance. */
const ABI: Abi = {
  arch: 'test',
  auditArch: 1,
  littleEndian: true,
  pointerBytes: 8,
  pageBytes: 4096,
  syscalls: { openat: 1001, read: 1002, write: 1003, getpid: 1004, execve: 1005 },
  errnos: { EPERM: 1, ENOENT: 2, EINTR: 4, EAGAIN: 11, EEXIST: 17, EPROTO: 71 },
  constants: { O_RDONLY: 0, O_CLOEXEC: 0x80000, O_PATH: 0x200000, CLONE_NEWPID: 0x20000000 },
  compat: null,
  structs: {
    iovec: { size: 16, iov_base: [0, 8], iov_len: [8, 8] },
    short: { size: 8, number: [2, 2], wide: [4, 4] },
  },
};
const BIG_ENDIAN: Abi = { ...ABI, littleEndian: false };

/** What native/wire.h says of these bytes. */
function decode(bytes: Buffer, le = true) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const u32 = (at: number): number => view.getUint32(at, le);
  const [magic, stepCount, relocCount, dataLength, importCount, outOffset, outLength, park] = Array.from(
    { length: 8 },
    (_, i) => u32(4 * i),
  ) as [number, number, number, number, number, number, number, number];
  const relocsAt = 32 + 80 * stepCount;
  const dataAt = relocsAt + 8 * relocCount;
  assert.equal(dataAt + dataLength, bytes.length);
  const steps = Array.from({ length: stepCount }, (_, i) => {
    const at = 32 + 80 * i;
    return {
      op: u32(at),
      nr: u32(at + 4),
      kinds: [...bytes.subarray(at + 8, at + 14)],
      rule: bytes[at + 14],
      target: u32(at + 16),
      only: [0, 1, 2, 3].map((n) => view.getInt16(at + 20 + 2 * n, le)),
      args: [0, 1, 2, 3, 4, 5].map((n) => view.getBigUint64(at + 32 + 8 * n, le)),
    };
  });
  const relocs = Array.from({ length: relocCount }, (_, i) => [
    u32(relocsAt + 8 * i),
    u32(relocsAt + 8 * i + 4),
  ]);
  return { magic, importCount, outOffset, outLength, park, steps, relocs, data: bytes.subarray(dataAt) };
}

const [IMM, DATA, RESULT, IMPORT] = [0, 1, 2, 3];
const [FAIL, IGNORE, JUMP] = [0, 1, 2];

describe('encode()', () => {
  for (const abi of [ABI, BIG_ENDIAN]) {
    test(`puts arguments where the machine looks, ${abi.littleEndian ? 'little' : 'big'} endian`, () => {
      const p = new Program(abi);
      const fd = p.sys('openat', [-100, '/etc', p.flags('O_PATH', 'O_CLOEXEC')]);
      const place = p.data(16);
      p.sys('read', [fd, place.at(4), 12n, p.import(7), p.import(9, 2), p.import(7)]);
      p.sys('write', [0xffff_ffff_ffff_fffen, Buffer.from('bytes')]);
      p.park = 77;
      p.returns(place);
      const { bytes, imports } = p.encode();
      const { magic, importCount, outOffset, outLength, park, steps, data } = decode(bytes, abi.littleEndian);
      assert.deepEqual([magic, importCount, outOffset, outLength, park], [0x31505356, 2, 8, 16, 77]);
      assert.deepEqual(imports, [
        [7, 0],
        [9, 2],
      ]);
      assert.deepEqual(
        steps.map(({ op, nr, rule }) => [op, nr, rule]),
        [1001, 1002, 1003].map((nr) => [OP.syscall, nr, FAIL]),
      );
      assert.deepEqual(
        steps.map(({ kinds }) => kinds),
        [
          [IMM, DATA, IMM, IMM, IMM, IMM],
          [RESULT, DATA, IMM, IMPORT, IMPORT, IMPORT],
          [IMM, DATA, IMM, IMM, IMM, IMM],
        ],
      );
      assert.deepEqual(steps[0]?.args.slice(0, 3), [2n ** 64n - 100n, 5n << 32n, 0x280000n]);
      assert.deepEqual(steps[1]?.args, [0n, (12n << 32n) | 12n, 12n, 0n, 1n, 0n]);
      assert.deepEqual(steps[2]?.args.slice(0, 2), [2n ** 64n - 2n, (5n << 32n) | 24n]);
      assert.equal(data.toString('latin1', 0, 8), '/etc\0\0\0\0');
      assert.equal(data.toString('latin1', 24), 'bytes\0\0\0\0');
    });

    test(`lays out structures, vectors and pointers, ${abi.littleEndian ? 'little' : 'big'} endian`, () => {
      const p = new Program(abi);
      const text = p.text('text');
      assert.equal(p.text('text'), text);
      p.struct('iovec', { iov_base: text, iov_len: 0x1_0000_0002n });
      p.struct('short', { number: 0x8001, wide: -2 });
      p.vector(['text', 'b']);
      p.sys('getpid', []);
      const { relocs, data } = decode(p.encode().bytes, abi.littleEndian);
      assert.deepEqual(relocs, [
        [8, 0],
        [32, 0],
        [40, 56],
      ]);
      const numbers = abi.littleEndian
        ? '0200000001000000' + '00000180feffffff'
        : '0000000100000002' + '00008001fffffffe';
      assert.equal(data.subarray(16, 32).toString('hex'), numbers);
      assert.equal(data.subarray(48, 56).toString('hex'), '00'.repeat(8));
      assert.equal(data.at(-1), 0);
    });

    test(`says how a step may fail, ${abi.littleEndian ? 'little' : 'big'} endian`, () => {
      const p = new Program(abi);
      const end = p.label();
      p.sys('getpid', [], { ignore: ['ENOENT', 'EEXIST'] });
      p.sys('getpid', [], { ignore: [] });
      p.sys('getpid', [], { otherwise: { on: ['EPERM'], to: end } });
      p.jump(end);
      p.sys('getpid', []);
      p.place(end);
      p.sys('getpid', []);
      const { steps } = decode(p.encode().bytes, abi.littleEndian);
      assert.deepEqual(
        steps.map(({ op, rule, target, only }) => [op, rule, target, only]),
        [
          [OP.syscall, IGNORE, 0, [2, 17, 0, 0]],
          [OP.syscall, IGNORE, 0, [0, 0, 0, 0]],
          [OP.syscall, JUMP, 5, [1, 0, 0, 0]],
          [OP.jump, FAIL, 5, [0, 0, 0, 0]],
          [OP.syscall, FAIL, 0, [0, 0, 0, 0]],
          [OP.syscall, FAIL, 0, [0, 0, 0, 0]],
        ],
      );
    });
  }

  test('puts children behind the worker, which jumps over them', () => {
    const p = new Program(ABI);
    const end = p.label();
    p.spawn('outer', { object: 5 }, () => {
      p.spawn('inner', {}, () => p.exit(3));
      p.sys('read', [0, 0, 0], { otherwise: { on: [], to: end } });
      p.place(end);
    });
    p.sys('getpid', []);
    const { steps } = decode(p.encode().bytes);
    assert.deepEqual(
      steps.map(({ op, target }) => [op, target]),
      [
        [OP.spawn, 3],
        [OP.syscall, 0],
        [OP.jump, 8],
        [OP.spawn, 6],
        [OP.syscall, 5],
        [OP.exit, 0],
        [OP.exit, 0],
        [OP.exit, 0],
      ],
    );
    assert.deepEqual(steps[0]?.args.slice(0, 3), [0n, 2n ** 64n - 1n, 5n]);
  });

  test('encodes every pseudo call', () => {
    const p = new Program(ABI);
    const place = p.data(24);
    const pid = p.sys('getpid', []);
    p.store(place, pid, 8);
    p.load(place.at(8), 4);
    p.expect(pid, '&', 2, 'EPERM', 'a bit', { mask: 6 });
    p.expectBytes(place, Buffer.from('abc'), 'EPROTO', 'letters');
    p.itoa(place, pid);
    p.keep(pid, 9, pid);
    p.removeTree(p.import(4), 'tree');
    p.fakeinit(pid, 4, 5);
    const { steps } = decode(p.encode().bytes);
    assert.deepEqual(
      steps.slice(1).map(({ op, args }) => [op, args.slice(0, 5).map(Number)]),
      [
        [OP.store, [0, 8, 0, 0, 0]],
        [OP.load, [8, 4, 0, 0, 0]],
        [OP.expect, [0, 2, 2, 6, 1]],
        [OP.expectBytes, [0, 3, 24, 0, 71]],
        [OP.itoa, [0, 24, 0, 0, 0]],
        [OP.keep, [0, 9, 0, 0, 0]],
        [OP.removeTree, [0, 0, 0, 0, 0]],
        [OP.fakeinit, [0, 4, 5, 0, 0]],
      ],
    );
  });

  test('refuses what the machine would refuse', () => {
    const refuse = (code: string, build: (p: Program) => void): void => {
      assert.throws(
        () => {
          const p = new Program(ABI);
          build(p);
          p.encode();
        },
        { code },
      );
    };
    refuse('unknown-syscall', (p) => void p.sys('openat9', []));
    refuse('unknown-errno', (p) => void p.sys('getpid', [], { ignore: ['ENOPE'] }));
    refuse('unknown-constant', (p) => void p.flags('O_NOPE'));
    refuse('unknown-field', (p) => void p.struct('iovec', { nope: 1 }));
    refuse('nul-in-text', (p) => void p.text('a\0b'));
    refuse('label-not-placed', (p) => p.jump(p.label()));
    refuse(
      'too-many-errnos',
      (p) => void p.sys('getpid', [], { ignore: ['EPERM', 'ENOENT', 'EINTR', 'EAGAIN', 'EEXIST'] }),
    );
    refuse('comparison-too-long', (p) => p.expectBytes(p.data(2), Buffer.from('abc'), 'EPERM', 'letters'));
    refuse('program-too-big', (p) => {
      p.data(MACHINE_LIMITS.bytes);
      p.sys('getpid', []);
    });
    refuse('program-too-big', (p) => {
      for (let i = 0; i <= MACHINE_LIMITS.steps; i++) p.sys('getpid', []);
    });
    refuse('program-too-big', (p) => {
      for (let i = 0; i <= MACHINE_LIMITS.imports; i++) p.sys('read', [p.import(i + 1)]);
    });
  });
});

test('explain() shows a program as text', () => {
  const p = new Program(ABI);
  const end = p.label();
  const tree = p.sys('openat', [p.import(3), 'var', p.flags('O_PATH', 'O_CLOEXEC'), 0], { about: 'var' });
  p.removeTree(tree, 'var');
  p.spawn('init', { object: 5, flags: p.flags('CLONE_NEWPID') }, () => {
    p.sys('write', [1, Buffer.from('hi'), 2], { ignore: ['EAGAIN'] });
    p.sys('execve', ['/bin/sh', p.vector(['sh', '-c', 'exit']), p.vector([])], { about: '/bin/sh' });
  });
  p.sys('getpid', [], { otherwise: { on: ['EPERM', 'ENOENT'], to: end } });
  p.place(end);
  p.exit(0);
  assert.equal(
    p.explain(),
    `worker:
    0 openat(object 3, "var", O_PATH|O_CLOEXEC, 0)   # var
    1 remove_tree(r0)   # var
    2 clone3(CLONE_NEWPID, -1, 5) → 6   # init
    3 getpid() | EPERM, ENOENT: go to 4
    4 exit(0)
    5 jump() → 9   # end
init:
    6 write(1, <2 bytes>, 2) | ignore EAGAIN
    7 execve("/bin/sh", ["sh", "-c", "exit"], [])   # /bin/sh
    8 exit(0)
`,
  );
});

/** A specification as those of guests: what is alike, and what varies. */
interface Spec {
  readonly name: Text;
  readonly path: Text;
  readonly owner: Num;
  readonly object: Num;
  readonly worker: Num;
  readonly isLong: boolean;
}

function specOf(name: string, owner: number, isLong = false): Spec {
  return {
    name: vary(name),
    path: vary(`/guests/${name}`),
    owner: vary(owner),
    object: vary(owner + 1),
    worker: vary(owner + 2),
    isLong,
  };
}

/** Steps that have something that varies in every place where it can be. */
function planAll(p: Program, spec: Spec): Result {
  p.park = spec.worker;
  p.sys('openat', [p.import(spec.object), spec.path, 'web', p.import(spec.object, 1)], {
    about: wordsOf(spec.path),
  });
  p.sys('execve', ['web', p.vector(['a', spec.name, spec.path])]);
  p.spawn('child', { object: spec.object }, () => {
    p.sys('write', [spec.owner, spec.name, bytesIn(spec.name), spec.owner]);
    if (spec.isLong) p.sys('getpid', []);
  });
  p.keep(p.sys('getpid', []), spec.object, 3);
  return p.sys('read', [0, spec.path, spec.owner]);
}

describe('Program.alike()', () => {
  test('tells the words of a step by planning again, and only then', () => {
    let plans = 0;
    const { program, planned } = Program.alike({ ...ABI }, {}, (p) => {
      plans += 1;
      p.spawn('child', {}, () => void p.sys('getpid', [], { about: 'of the child' }));
      return p.sys('read', [0], { about: `"${plans}"` });
    });
    const { bytes, stepNames } = program.encode();
    assert.equal(decode(bytes).steps[planned.number]?.nr, 1002);
    assert.equal(plans, 1);
    assert.equal(stepNames.length, 5);
    assert.equal(stepNames.at(1), 'read "2"');
    assert.equal(stepNames.at(3), 'getpid of the child');
    assert.equal(program.explain().split('\n').length, 8);
  });

  for (const abi of [ABI, BIG_ENDIAN]) {
    test(`copies what is alike with other values, ${abi.littleEndian ? 'little' : 'big'} endian`, () => {
      const own: Abi = { ...abi }; // nothing is known of it yet
      let plans = 0;
      const plan = (p: Program, spec: Spec): Result => {
        plans += 1;
        return planAll(p, spec);
      };
      // "web" is a text of the program as well, and two have names of another length, or another step.
      const specs = [
        specOf('db1', 10),
        specOf('web', 0xffff_fff0),
        specOf('ns1', 30),
        specOf('mail', 40),
        specOf('ns2', 50, true),
        specOf('db2', 60),
        specOf('\udc80' + 'x', 70),
        specOf('yä', 80),
      ];
      for (const spec of specs) {
        const worded = new Program(abi);
        const wanted = planAll(worded, spec);
        const { program, planned } = Program.alike(own, spec, plan);
        const words = program.explain();
        const [got, expected] = [program.encode(), worded.encode()];
        assert.equal(got.bytes.toString('hex'), expected.bytes.toString('hex'));
        assert.deepEqual(got.imports, expected.imports);
        assert.deepEqual([numberOf(program.park), planned.number], [numberOf(worded.park), wanted.number]);
        assert.equal(words, worded.explain());
        assert.equal(got.stepNames.at(0), expected.stepNames.at(0));
        got.release();
        expected.release();
      }
      // Each once for its words; and those of the first and second of a length, or of other steps.
      assert.equal(plans, 2 * specs.length + 5);
    });
  }

  test('refuses to make anything of what varies', () => {
    const { name, owner } = specOf('web', 1);
    for (const use of [() => `${name as string}`, () => (owner as number) + 1, () => (owner as number) < 2])
      assert.throws(use, { code: 'varying-misused' });
    // Not of the specification, so that a copy would not know it.
    const plan = (p: Program): void => void p.sys('write', [vary(7)]);
    const abi: Abi = { ...ABI };
    Program.alike(abi, {}, plan).program.encode();
    assert.throws(() => Program.alike(abi, {}, plan).program.encode(), { code: 'varying-misused' });
    assert.throws(() => new Program(ABI).sys('write', [vary(2 ** 32)]), { code: 'varying-misused' });
  });
});
