// SPDX-License-Identifier: MIT OR GPL-2.0-only
/**
 * A small assembler for eBPF (Documentation/bpf/standardization/instruction-set.rst): what our programs use, no more.
 *
 *     u8 opcode | u4 source, u4 destination | s16 offset | s32 immediate        bit fields in host order
 */
import { endianness } from 'node:os';
import { BugError } from '../../base/errors.ts';

/** A register. r0 is the result, r1 the context at the start, r10 the frame. */
export type Register = 0 | 1 | 2 | 3 | 4 | 5 | 6 | 7 | 8 | 9 | 10;

const OPCODE = {
  loadWord: 0x61,
  moveImmediate: 0xb7,
  andImmediate: 0x57,
  jumpIfEqual: 0x15,
  jumpIfNotEqual: 0x55,
  exit: 0x95,
} as const;
const INSTRUCTION_BYTES = 8;

interface Instruction {
  readonly opcode: number;
  readonly destination: Register;
  readonly source: Register;
  readonly offset: number;
  readonly immediate: number;
  /** Offset is the distance to it. */
  readonly target?: string;
}

/** Builds one eBPF program. Labels are names; jumps lead forward. */
export class EbpfAssembler {
  readonly #instructions: Instruction[] = [];
  readonly #labels = new Map<string, number>();

  /** destination = *(u32 *)(source + offset) */
  loadWord(destination: Register, source: Register, offset: number): this {
    return this.#push({ opcode: OPCODE.loadWord, destination, source, offset, immediate: 0 });
  }

  /** destination = value */
  move(destination: Register, value: number): this {
    return this.#push({ opcode: OPCODE.moveImmediate, destination, source: 0, offset: 0, immediate: value });
  }

  /** destination &= mask */
  and(destination: Register, mask: number): this {
    return this.#push({ opcode: OPCODE.andImmediate, destination, source: 0, offset: 0, immediate: mask });
  }

  /** Goes to a label if a register has a value. */
  jumpIfEqual(register: Register, value: number, target: string): this {
    return this.#push({
      opcode: OPCODE.jumpIfEqual,
      destination: register,
      source: 0,
      offset: 0,
      immediate: value,
      target,
    });
  }

  /** Goes to a label unless a register has a value. */
  jumpIfNotEqual(register: Register, value: number, target: string): this {
    return this.#push({
      opcode: OPCODE.jumpIfNotEqual,
      destination: register,
      source: 0,
      offset: 0,
      immediate: value,
      target,
    });
  }

  /** Ends with the value of r0. */
  exit(): this {
    return this.#push({ opcode: OPCODE.exit, destination: 0, source: 0, offset: 0, immediate: 0 });
  }

  /** Names the next instruction. */
  label(name: string): this {
    this.#labels.set(name, this.#instructions.length);
    return this;
  }

  /** Returns the instructions, 8 bytes each, in the host's byte order. */
  assemble(): Uint8Array {
    const isLittle = endianness() === 'LE';
    const bytes = new Uint8Array(this.#instructions.length * INSTRUCTION_BYTES);
    const view = new DataView(bytes.buffer);
    for (const [i, instruction] of this.#instructions.entries()) {
      const at = i * INSTRUCTION_BYTES;
      const { destination, source } = instruction;
      view.setUint8(at, instruction.opcode);
      view.setUint8(at + 1, isLittle ? (source << 4) | destination : (destination << 4) | source);
      view.setInt16(
        at + 2,
        instruction.target === undefined ? instruction.offset : this.#distance(i, instruction.target),
        isLittle,
      );
      view.setInt32(at + 4, instruction.immediate, isLittle);
    }
    return bytes;
  }

  #distance(from: number, target: string): number {
    const to = this.#labels.get(target);
    if (to === undefined || to <= from)
      throw new BugError('ebpf-label', `cannot assemble: found no label "${target}" ahead`);
    return to - from - 1;
  }

  #push(instruction: Instruction): this {
    this.#instructions.push(instruction);
    return this;
  }
}
