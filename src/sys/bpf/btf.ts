// SPDX-License-Identifier: MIT OR GPL-2.0-only
/**
 * The little BTF (Documentation/bpf/btf.rst) that socket storage wants before the kernel makes it: an `int` for the key,
 * an array of ints for the value.
 */
import { endianness } from 'node:os';
import type { Program, Result } from '../program.ts';
import { COMMAND } from './uapi.ts';

const MAGIC = 0xeb9f;
const HEADER_BYTES = 24;
const KIND = { int: 1, array: 3 } as const;
const INT_SIGNED = 1 << 24;
const INT_BITS = 32;
/** Ids count from 1. */
const INT_TYPE = 1;
const ARRAY_TYPE = 2;
/** BTF_LOAD: u64 bytes, u64 log, u32 size, u32 log size, u32 log level. */
const LOAD = { btf: 0, size: 16, bytes: 28 } as const;

/**
 * Returns BTF with two types: 1 is `int`, 2 an array of ints with `valueBytes` in all, a multiple of 4.
 *
 *     header | int: u32 name, info, size, encoding | array: u32 name, info, size, u32 element, index, count | names
 */
export function encodeStorageBtf(valueBytes: number): Uint8Array {
  const names = Buffer.from('\0int\0');
  const types = [
    [1, KIND.int << 24, 4, INT_SIGNED | INT_BITS],
    [0, KIND.array << 24, 0, INT_TYPE, INT_TYPE, valueBytes / 4],
  ].flat();
  const typeBytes = types.length * 4;
  const bytes = new Uint8Array(HEADER_BYTES + typeBytes + names.length);
  const view = new DataView(bytes.buffer);
  const le = endianness() === 'LE';
  view.setUint16(0, MAGIC, le);
  view.setUint8(2, 1);
  for (const [i, value] of [HEADER_BYTES, 0, typeBytes, typeBytes, names.length].entries())
    view.setUint32(4 + 4 * i, value, le);
  for (const [i, value] of types.entries()) view.setUint32(HEADER_BYTES + 4 * i, value, le);
  bytes.set(names, HEADER_BYTES + typeBytes);
  return bytes;
}

/** Adds the step that loads it. */
export function planLoadBtf(
  p: Program,
  valueBytes: number,
): { readonly btf: Result; readonly keyType: number; readonly valueType: number } {
  const btf = encodeStorageBtf(valueBytes);
  const attr = p.data(LOAD.bytes, '<btf>');
  p.pointer(attr.at(LOAD.btf, 8), p.data(btf));
  p.put(attr.at(LOAD.size, 4), btf.length);
  const fd = p.sys('bpf', [COMMAND.BPF_BTF_LOAD, attr, LOAD.bytes], { about: 'load types' });
  return { btf: fd, keyType: INT_TYPE, valueType: ARRAY_TYPE };
}
