import assert from 'node:assert/strict';
import { endianness } from 'node:os';
import { test } from 'node:test';
import { BugError } from '../../base/errors.ts';
import { EbpfAssembler } from './assembler.ts';

const LE = endianness() === 'LE';

/** Opcode, destination, source, offset, immediate of each instruction. */
function decoded(code: Uint8Array): readonly (readonly number[])[] {
  const view = new DataView(code.buffer, code.byteOffset, code.length);
  return Array.from({ length: code.length / 8 }, (_, i) => {
    const registers = view.getUint8(8 * i + 1);
    const [low, high] = [registers & 0xf, registers >> 4];
    return [
      view.getUint8(8 * i),
      LE ? low : high,
      LE ? high : low,
      view.getInt16(8 * i + 2, LE),
      view.getInt32(8 * i + 4, LE),
    ];
  });
}

test('encodes loads, stores and arithmetic as the instruction set has them', () => {
  const a = new EbpfAssembler();
  a.load(1, 6, 4, 1).load(2, 6, -8, 2).loadWord(3, 6, 12).load(4, 10, -16, 8);
  a.store(10, -8, 7, 4).store(10, -8, { register: 1 }, 8).atomicAdd(0, 16, 1);
  a.atomicExchange(7, 4, 1).atomicCompareExchange(7, 4, 1);
  a.move(1, -1).move(1, { register: 6 }).alu(2, '+', 8).alu(2, '|', { register: 3 }).and(5, 0xff);
  a.swapToBigEndian(2, 16).call('map_lookup_elem').exit();
  assert.deepEqual(decoded(a.assemble()), [
    [0x71, 1, 6, 4, 0],
    [0x69, 2, 6, -8, 0],
    [0x61, 3, 6, 12, 0],
    [0x79, 4, 10, -16, 0],
    [0x62, 10, 0, -8, 7],
    [0x7b, 10, 1, -8, 0],
    [0xdb, 0, 1, 16, 0],
    [0xc3, 7, 1, 4, 0xe1],
    [0xc3, 7, 1, 4, 0xf1],
    [0xb7, 1, 0, 0, -1],
    [0xbf, 1, 6, 0, 0],
    [0x07, 2, 0, 0, 8],
    [0x4f, 2, 3, 0, 0],
    [0x57, 5, 0, 0, 255],
    [0xdc, 2, 0, 0, 16],
    [0x85, 0, 0, 0, 1],
    [0x95, 0, 0, 0, 0],
  ]);
});

test('resolves jumps over instructions of one and of two slots', () => {
  const a = new EbpfAssembler();
  a.jumpIf(1, '==', 0, 'end').loadImmediate(2, 0x1_0000_0002n).jumpIf32(2, '>=', { register: 3 }, 'end');
  a.goto('end').label('end').exit();
  assert.deepEqual(decoded(a.assemble()), [
    [0x15, 1, 0, 4, 0],
    [0x18, 2, 0, 0, 2],
    [0x00, 0, 0, 0, 1],
    [0x3e, 2, 3, 1, 0],
    [0x05, 0, 0, 0, 0],
    [0x95, 0, 0, 0, 0],
  ]);
});

test('counts maps in the order that is given', () => {
  const a = new EbpfAssembler().loadMap(1, 'second').exit();
  const { code, maps } = a.program(['first', 'second']);
  assert.deepEqual(decoded(code)[0], [0x18, 1, 5, 0, 1]);
  assert.deepEqual(maps, ['first', 'second']);
  assert.deepEqual(a.program().maps, ['second']);
  assert.throws(() => a.program(['other']), { code: 'ebpf-map' });
});

test('tells the label at or before each instruction', () => {
  const { places } = new EbpfAssembler()
    .move(0, 0)
    .label('a')
    .move(0, 1)
    .move(0, 2)
    .label('b')
    .exit()
    .program();
  assert.deepEqual(places, ['start', 'a', 'a', 'b']);
});

test('refuses labels that are missing, behind or twice there', () => {
  assert.throws(() => new EbpfAssembler().goto('nowhere').assemble(), BugError);
  assert.throws(() => new EbpfAssembler().label('back').goto('back').assemble(), { code: 'ebpf-label' });
  assert.throws(() => new EbpfAssembler().label('a').label('a'), { code: 'ebpf-label' });
  const a = new EbpfAssembler();
  assert.notEqual(a.fresh('x'), a.fresh('x'));
});
