import assert from 'node:assert/strict';
import { test } from 'node:test';
import { isStaticElf } from './elf-interpreter.ts';

const PT_LOAD = 1;
const PT_INTERP = 3;

function elf(bits: 32 | 64, le: boolean, types: readonly number[]): Uint8Array {
  const [header, entry] = bits === 64 ? [64, 56] : [52, 32];
  const bytes = new Uint8Array(Math.max(64, header + entry * types.length));
  const view = new DataView(bytes.buffer);
  bytes.set([0x7f, 0x45, 0x4c, 0x46, bits === 64 ? 2 : 1, le ? 1 : 2]);
  if (bits === 64) view.setBigUint64(32, BigInt(header), le);
  else view.setUint32(28, header, le);
  view.setUint16(bits === 64 ? 54 : 42, entry, le);
  view.setUint16(bits === 64 ? 56 : 44, types.length, le);
  types.forEach((type, i) => {
    view.setUint32(header + i * entry, type, le);
  });
  return bytes;
}

for (const bits of [32, 64] as const) {
  for (const le of [true, false]) {
    test(`${bits} bits, ${le ? 'little' : 'big'} endian: only a program without interpreter is static`, () => {
      assert.equal(isStaticElf(elf(bits, le, [PT_LOAD, PT_LOAD])), true);
      assert.equal(isStaticElf(elf(bits, le, [PT_LOAD, PT_INTERP, PT_LOAD])), false);
      assert.equal(isStaticElf(elf(bits, le, [])), false);
    });
  }
}

test('scripts, short and cut files are not static programs', () => {
  assert.equal(isStaticElf(Buffer.from(`#!/bin/sh\n${' '.repeat(80)}`)), false);
  assert.equal(isStaticElf(new Uint8Array(10)), false);
  assert.equal(isStaticElf(elf(64, true, [PT_LOAD, PT_LOAD]).subarray(0, 100)), false);
});
