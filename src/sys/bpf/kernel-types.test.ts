import assert from 'node:assert/strict';
import { endianness } from 'node:os';
import { describe, test } from 'node:test';
import { KernelTypes } from './kernel-types.ts';

const LE = endianness() === 'LE';
const NAMES = ['int', 'outer', 'first', 'deep', 'walk', 'last'] as const;

/** BTF of: int; struct { int deep; }; struct outer { int first; struct {…}; int last; }; a typedef and a function. */
function btf(): Buffer {
  const strings = Buffer.from(`\0${NAMES.join('\0')}\0`);
  const at = (name: (typeof NAMES)[number]): number => strings.indexOf(`\0${name}\0`) + 1;
  const info = (kind: number, count = 0): number => (kind << 24) | count;
  const types = [
    [at('int'), info(1), 4, 32],
    [0, info(4, 1), 4, ...[at('deep'), 1, 0]],
    [0, info(10), 2],
    [at('outer'), info(4, 3), 12, ...[at('first'), 1, 0], ...[0, 3, 32], ...[at('last'), 1, 64]],
    [0, info(13, 1), 1, ...[at('first'), 1]],
    [at('walk'), info(12), 5],
  ].flat();
  const bytes = Buffer.alloc(24 + types.length * 4 + strings.length);
  const view = new DataView(bytes.buffer, bytes.byteOffset);
  view.setUint16(0, 0xeb9f, LE);
  for (const [i, value] of [24, 0, types.length * 4, types.length * 4, strings.length].entries())
    view.setUint32(4 + 4 * i, value, LE);
  for (const [i, value] of types.entries()) view.setUint32(24 + 4 * i, value, LE);
  strings.copy(bytes, 24 + types.length * 4);
  return bytes;
}

describe("the kernel's types", () => {
  const types = new KernelTypes(btf());

  test('tell where fields are, also in what has no name', () => {
    assert.equal(types.offsetOf('outer', 'first'), 0);
    assert.equal(types.offsetOf('outer', 'last'), 8);
    assert.equal(types.offsetOf('outer', 'deep'), 4);
    assert.equal(types.offsetOf('outer', 'walk'), undefined);
    assert.equal(types.offsetOf('walk', 'first'), undefined);
    assert.equal(types.offsetOf('none', 'first'), undefined);
  });

  test('tell the ids of functions', () => {
    assert.equal(types.functionId('walk'), 6);
    assert.throws(() => types.functionId('outer'), { code: 'no-kernel-types' });
  });

  test('are refused when they are something else', () => {
    assert.throws(() => new KernelTypes(Buffer.alloc(100)), { code: 'no-kernel-types' });
    assert.throws(() => new KernelTypes(Buffer.alloc(3)), { code: 'no-kernel-types' });
  });
});
