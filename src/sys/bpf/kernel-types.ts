// SPDX-License-Identifier: MIT OR GPL-2.0-only
/**
 * The running kernel's own types (Documentation/bpf/btf.rst): where a field of a structure is, and the id by which a
 * program names the function it stands for.
 *
 *     u16 magic, u8 version, flags, u32 header, types at, length, strings at, length | types | strings
 *     type: u32 name, u32 count (16 bits) and kind (bits 24 to 28), u32 size or type | by kind
 */
import { readFileSync } from 'node:fs';
import { endianness } from 'node:os';
import { StateError } from '../../base/errors.ts';

const KERNEL_TYPES = '/sys/kernel/btf/vmlinux';
const TYPE_BYTES = 12;
const MEMBER_BYTES = 12;
const KIND = { struct: 4, union: 5, typedef: 8, volatile: 9, const: 10, restrict: 11, func: 12 } as const;
/** Bytes after a type, for each kind that has any: alone, and for each of its count. */
const EXTRA: Readonly<Record<number, readonly [alone: number, each: number]>> = {
  1: [4, 0],
  3: [12, 0],
  4: [0, MEMBER_BYTES],
  5: [0, MEMBER_BYTES],
  6: [0, 8],
  13: [0, 8],
  14: [4, 0],
  15: [0, 12],
  17: [4, 0],
  19: [0, 12],
};
const MAGIC = 0xeb9f;

/** Types as the kernel describes them. */
export class KernelTypes {
  readonly #bytes: Buffer;
  readonly #view: DataView;
  readonly #strings: number;
  /** Where each type begins, by its id. */
  readonly #at: number[] = [0];
  static readonly #isLittle = endianness() === 'LE';

  /** @throws StateError no-kernel-types */
  constructor(bytes: Buffer) {
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    const isBtf = bytes.length >= 24 && this.#view.getUint16(0, KernelTypes.#isLittle) === MAGIC;
    if (!isBtf) throw noTypes('something else');
    const types = this.#u32(4) + this.#u32(8);
    this.#strings = this.#u32(4) + this.#u32(16);
    for (let at = types; at < types + this.#u32(12); ) {
      this.#at.push(at);
      const [alone, each] = EXTRA[this.#kind(at)] ?? [0, 0];
      at += TYPE_BYTES + alone + each * this.#count(at);
    }
  }

  /** Reads those of the running kernel. @throws StateError no-kernel-types */
  static ofKernel(): KernelTypes {
    let bytes: Buffer;
    try {
      bytes = readFileSync(KERNEL_TYPES);
    } catch {
      throw noTypes('no such file');
    }
    return new KernelTypes(bytes);
  }

  /** Returns the id of a function. @throws StateError no-kernel-types */
  functionId(name: string): number {
    const id = this.#find(name, KIND.func);
    if (id === undefined) throw noTypes(`no function "${name}"`);
    return id;
  }

  /** Returns the offset of a structure's field, in bytes, also in what has no name in it; undefined: it has none. */
  offsetOf(struct: string, field: string): number | undefined {
    const id = this.#find(struct, KIND.struct);
    return id === undefined ? undefined : this.#fieldOf(id, field);
  }

  #fieldOf(id: number, field: string): number | undefined {
    const at = this.#at[this.#resolve(id)] ?? 0;
    if (this.#kind(at) !== KIND.struct && this.#kind(at) !== KIND.union) return undefined;
    for (let i = 0; i < this.#count(at); i++) {
      const member = at + TYPE_BYTES + MEMBER_BYTES * i;
      const offset = (this.#u32(member + 8) & 0xffffff) / 8; // the upper byte: width of a bit field
      const name = this.#u32(member);
      if (name !== 0 && this.#text(name) === field) return offset;
      const inside = name === 0 ? this.#fieldOf(this.#u32(member + 4), field) : undefined;
      if (inside !== undefined) return offset + inside;
    }
    return undefined;
  }

  #resolve(id: number): number {
    let now = id;
    for (;;) {
      const at = this.#at[now] ?? 0;
      const kind = this.#kind(at);
      if (kind < KIND.typedef || kind > KIND.restrict) return now;
      now = this.#u32(at + 8);
    }
  }

  #find(name: string, kind: number): number | undefined {
    const place = this.#bytes.indexOf(`\0${name}\0`, this.#strings, 'latin1');
    if (place < 0) return undefined;
    const wanted = place + 1 - this.#strings;
    const id = this.#at.findIndex((at, i) => i > 0 && this.#u32(at) === wanted && this.#kind(at) === kind);
    return id < 0 ? undefined : id;
  }

  #text(offset: number): string {
    const from = this.#strings + offset;
    return this.#bytes.toString('latin1', from, this.#bytes.indexOf(0, from));
  }

  #kind(at: number): number {
    return (this.#u32(at + 4) >>> 24) & 0x1f;
  }

  #count(at: number): number {
    return this.#u32(at + 4) & 0xffff;
  }

  #u32(at: number): number {
    return this.#view.getUint32(at, KernelTypes.#isLittle);
  }
}

function noTypes(found: string): StateError {
  return new StateError(
    'no-kernel-types',
    `cannot read the kernel's types in ${KERNEL_TYPES}: found ${found}; need a kernel with CONFIG_DEBUG_INFO_BTF`,
  );
}
