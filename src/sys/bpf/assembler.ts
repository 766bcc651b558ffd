// SPDX-License-Identifier: MIT OR GPL-2.0-only
/**
 * A small assembler for eBPF (Documentation/bpf/standardization/instruction-set.rst): what our programs use, no more.
 *
 *     u8 opcode | u4 source, u4 destination | s16 offset | s32 immediate        bit fields in host order
 *
 * Maps are named; the kernel finds them by their place in an array of descriptors (BPF_PSEUDO_MAP_IDX, Linux 5.14), so
 * that a program is the same bytes whatever descriptors its maps get.
 */
import { endianness } from 'node:os';
import { BugError } from '../../base/errors.ts';
import { HELPER, type Helper } from './uapi.ts';

/** A register. r0 is the result, r1 the context at the start, r6 to r9 survive calls, r10 is the frame. */
export type Register = 0 | 1 | 2 | 3 | 4 | 5 | 6 | 7 | 8 | 9 | 10;

/** Bytes of a load or store. */
export type Width = 1 | 2 | 4 | 8;

/** A comparison, unsigned; `&` asks for any common bit. */
export type Comparison = '==' | '!=' | '>' | '>=' | '<' | '<=' | '&';

/** Arithmetic on 64 bits. */
export type Operation = '+' | '-' | '*' | '|' | '&' | '<<' | '>>';

/** A register or a number that sign-extends from 32 bits. */
export type Operand = { readonly register: Register } | number;

const CLASS = { load: 0x00, loadRegister: 0x01, storeImmediate: 0x02, store: 0x03, jump32: 0x06 } as const;
const MODE_MEMORY = 0x60;
const MODE_ATOMIC = 0xc0;
const WIDTH: Readonly<Record<Width, number>> = { 4: 0x00, 2: 0x08, 1: 0x10, 8: 0x18 };
const JUMP = 0x05;
const ALU64 = 0x07;
const FROM_REGISTER = 0x08;
const COMPARISON: Readonly<Record<Comparison, number>> = {
  '==': 0x10,
  '>': 0x20,
  '>=': 0x30,
  '&': 0x40,
  '!=': 0x50,
  '<': 0xa0,
  '<=': 0xb0,
};
const OPERATION: Readonly<Record<Operation, number>> = {
  '+': 0x00,
  '-': 0x10,
  '*': 0x20,
  '|': 0x40,
  '&': 0x50,
  '<<': 0x60,
  '>>': 0x70,
};
const MOVE = 0xb0;
const OPCODE = { goto: 0x05, call: 0x85, exit: 0x95, wide: 0x18, toBigEndian: 0xdc } as const;
const PSEUDO_MAP_INDEX = 5;
const PSEUDO_MAP_INDEX_VALUE = 6;
/** BPF_ADD, BPF_XCHG, BPF_CMPXCHG */
const ADD = 0x00;
const EXCHANGE = 0xe1;
const COMPARE_EXCHANGE = 0xf1;
const INSTRUCTION_BYTES = 8;

interface Instruction {
  readonly opcode: number;
  readonly destination: Register;
  readonly source: number;
  readonly offset: number;
  readonly immediate: number;
  /** Offset is the distance to it. */
  readonly target?: string;
  /** Immediate is its place in the array of descriptors. */
  readonly map?: string;
}

/** A program as the kernel takes it. */
export interface EbpfProgram {
  /** Instructions, 8 bytes each, in the host's byte order. */
  readonly code: Uint8Array;
  /** Maps in the order in which the code counts them. */
  readonly maps: readonly string[];
  /** The last label at or before each instruction: what the verifier's complaints are about, in our words. */
  readonly places: readonly string[];
}

/** Builds one eBPF program. Labels are names; jumps lead forward. */
export class EbpfAssembler {
  readonly #instructions: Instruction[] = [];
  readonly #labels = new Map<string, number>();
  readonly #maps: string[] = [];
  #fresh = 0;

  /** destination = *(unsigned *)(source + offset), of `width` bytes. */
  load(destination: Register, source: Register, offset: number, width: Width): this {
    const opcode = CLASS.loadRegister | MODE_MEMORY | WIDTH[width];
    return this.#push({ opcode, destination, source, offset, immediate: 0 });
  }

  /** destination = *(u32 *)(source + offset) */
  loadWord(destination: Register, source: Register, offset: number): this {
    return this.load(destination, source, offset, 4);
  }

  /** *(destination + offset) = value, `width` bytes. */
  store(destination: Register, offset: number, value: Operand, width: Width): this {
    return typeof value === 'number'
      ? this.#push({
          opcode: CLASS.storeImmediate | MODE_MEMORY | WIDTH[width],
          destination,
          source: 0,
          offset,
          immediate: value,
        })
      : this.#push({
          opcode: CLASS.store | MODE_MEMORY | WIDTH[width],
          destination,
          source: value.register,
          offset,
          immediate: 0,
        });
  }

  #atomic(width: 4 | 8, destination: Register, offset: number, source: Register, operation: number): this {
    const opcode = CLASS.store | MODE_ATOMIC | WIDTH[width];
    return this.#push({ opcode, destination, source, offset, immediate: operation });
  }

  /** *(u64 *)(destination + offset) += source, atomically. */
  atomicAdd(destination: Register, offset: number, source: Register): this {
    return this.#atomic(8, destination, offset, source, ADD);
  }

  /** Exchanges *(u32 *)(destination + offset) and `register`, atomically and with a full barrier (Linux 5.12). */
  atomicExchange(destination: Register, offset: number, register: Register): this {
    return this.#atomic(4, destination, offset, register, EXCHANGE);
  }

  /**
   * If *(u32 *)(destination + offset) is what r0 is, makes it `register`; r0 = what it was. Atomically and, if it does so, with a
   * full barrier (Linux 5.12).
   */
  atomicCompareExchange(destination: Register, offset: number, register: Register): this {
    return this.#atomic(4, destination, offset, register, COMPARE_EXCHANGE);
  }

  /** destination = value */
  move(destination: Register, value: Operand): this {
    return this.#operate(ALU64 | MOVE, destination, value);
  }

  /** destination = destination `operation` value */
  alu(destination: Register, operation: Operation, value: Operand): this {
    return this.#operate(ALU64 | OPERATION[operation], destination, value);
  }

  /** destination &= mask */
  and(destination: Register, mask: number): this {
    return this.alu(destination, '&', mask);
  }

  /** Turns the low bits of a register from host to network order, or back, and clears the others. */
  swapToBigEndian(register: Register, bits: 16 | 32 | 64): this {
    return this.#push({
      opcode: OPCODE.toBigEndian,
      destination: register,
      source: 0,
      offset: 0,
      immediate: bits,
    });
  }

  /** destination = a 64-bit number */
  loadImmediate(destination: Register, value: bigint): this {
    this.#push({
      opcode: OPCODE.wide,
      destination,
      source: 0,
      offset: 0,
      immediate: Number(BigInt.asIntN(32, value)),
    });
    return this.#push({
      opcode: 0,
      destination: 0,
      source: 0,
      offset: 0,
      immediate: Number(BigInt.asIntN(32, value >> 32n)),
    });
  }

  /** destination = a map */
  loadMap(destination: Register, map: string): this {
    return this.#loadOfMap(destination, PSEUDO_MAP_INDEX, map);
  }

  /** destination = the place of the one element of an array (BPF_PSEUDO_MAP_IDX_VALUE, Linux 5.14): no lookup. */
  loadMapValue(destination: Register, map: string): this {
    return this.#loadOfMap(destination, PSEUDO_MAP_INDEX_VALUE, map);
  }

  #loadOfMap(destination: Register, source: number, map: string): this {
    if (!this.#maps.includes(map)) this.#maps.push(map);
    this.#push({ opcode: OPCODE.wide, destination, source, offset: 0, immediate: 0, map });
    return this.#push({ opcode: 0, destination: 0, source: 0, offset: 0, immediate: 0 });
  }

  /** Calls a function of the kernel with r1 to r5; r0 is its result, and r1 to r5 are lost. */
  call(helper: Helper): this {
    return this.#push({
      opcode: OPCODE.call,
      destination: 0,
      source: 0,
      offset: 0,
      immediate: HELPER[helper],
    });
  }

  /** Goes to a label. */
  goto(target: string): this {
    return this.#push({ opcode: OPCODE.goto, destination: 0, source: 0, offset: 0, immediate: 0, target });
  }

  /** Goes to a label if a comparison of 64 bits holds. */
  jumpIf(register: Register, comparison: Comparison, value: Operand, target: string): this {
    return this.#operate(JUMP | COMPARISON[comparison], register, value, { target });
  }

  /** Goes to a label if a comparison of the low 32 bits holds; the way to compare with numbers from 2³¹ on. */
  jumpIf32(register: Register, comparison: Comparison, value: Operand, target: string): this {
    return this.#operate(CLASS.jump32 | COMPARISON[comparison], register, value, { target });
  }

  /** Goes to a label if a register has a value. */
  jumpIfEqual(register: Register, value: number, target: string): this {
    return this.jumpIf(register, '==', value, target);
  }

  /** Goes to a label unless a register has a value. */
  jumpIfNotEqual(register: Register, value: number, target: string): this {
    return this.jumpIf(register, '!=', value, target);
  }

  /** Ends with the value of r0. */
  exit(): this {
    return this.#push({ opcode: OPCODE.exit, destination: 0, source: 0, offset: 0, immediate: 0 });
  }

  /** Names the next instruction. */
  label(name: string): this {
    if (this.#labels.has(name))
      throw new BugError('ebpf-label', `cannot assemble: found label "${name}" twice`);
    this.#labels.set(name, this.#instructions.length);
    return this;
  }

  /** Returns a label that no other has: for code that is generated more than once. */
  fresh(name: string): string {
    this.#fresh++;
    return `${name} #${this.#fresh}`;
  }

  /** Returns the program's code alone. @throws BugError ebpf-label, ebpf-jump */
  assemble(): Uint8Array {
    return this.program().code;
  }

  /**
   * Returns the program.
   *
   * @param maps those the code may count; those it uses if left out
   * @throws BugError ebpf-label, ebpf-jump, ebpf-map
   */
  program(maps: readonly string[] = this.#maps): EbpfProgram {
    const isLittle = endianness() === 'LE';
    const code = new Uint8Array(this.#instructions.length * INSTRUCTION_BYTES);
    const view = new DataView(code.buffer);
    for (const [i, instruction] of this.#instructions.entries()) {
      const at = i * INSTRUCTION_BYTES;
      const { destination, source, target, map } = instruction;
      view.setUint8(at, instruction.opcode);
      view.setUint8(at + 1, isLittle ? (source << 4) | destination : (destination << 4) | source);
      view.setInt16(at + 2, target === undefined ? instruction.offset : this.#distance(i, target), isLittle);
      view.setInt32(at + 4, map === undefined ? instruction.immediate : indexOf(maps, map), isLittle);
    }
    return { code, maps, places: this.#places() };
  }

  #places(): readonly string[] {
    const names = new Map([...this.#labels].map(([name, at]) => [at, name]));
    let last = 'start';
    return this.#instructions.map((_, i) => {
      last = names.get(i) ?? last;
      return last;
    });
  }

  #distance(from: number, target: string): number {
    const to = this.#labels.get(target);
    if (to === undefined || to <= from)
      throw new BugError('ebpf-label', `cannot assemble: found no label "${target}" ahead`);
    const distance = to - from - 1;
    if (distance > 0x7fff)
      throw new BugError('ebpf-jump', `cannot assemble: found label "${target}" ${distance} away`);
    return distance;
  }

  #operate(
    opcode: number,
    destination: Register,
    value: Operand,
    jump: { readonly target?: string } = {},
  ): this {
    return typeof value === 'number'
      ? this.#push({ opcode, destination, source: 0, offset: 0, immediate: value, ...jump })
      : this.#push({
          opcode: opcode | FROM_REGISTER,
          destination,
          source: value.register,
          offset: 0,
          immediate: 0,
          ...jump,
        });
  }

  #push(instruction: Instruction): this {
    this.#instructions.push(instruction);
    return this;
  }
}

function indexOf(maps: readonly string[], map: string): number {
  const index = maps.indexOf(map);
  if (index < 0) throw new BugError('ebpf-map', `cannot assemble: found no map "${map}"`);
  return index;
}
