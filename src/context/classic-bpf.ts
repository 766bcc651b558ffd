/** Assembler for classic BPF as seccomp takes it: loads from struct seccomp_data, AND, jumps, return. */
import { UserError } from '../base/errors.ts';

/** Longest program the kernel takes (BPF_MAXINSNS, linux/bpf_common.h). */
const BPF_MAX_INSTRUCTIONS = 4096;

/** Operation codes of linux/bpf_common.h used here. */
export const BPF = {
  /** BPF_LD | BPF_W | BPF_ABS: A = the 32-bit word at offset k. */
  LOAD: 0x20,
  /** BPF_ALU | BPF_AND | BPF_K: A = A & k. */
  AND: 0x54,
  /** BPF_JMP | BPF_JA: skip k instructions. */
  JUMP: 0x05,
  /** BPF_JMP | BPF_JEQ | BPF_K. */
  IF_EQUAL: 0x15,
  /** BPF_JMP | BPF_JGT | BPF_K, unsigned. */
  IF_GREATER: 0x25,
  /** BPF_JMP | BPF_JGE | BPF_K, unsigned. */
  IF_GREATER_OR_EQUAL: 0x35,
  /** BPF_RET | BPF_K. */
  RETURN: 0x06,
} as const;

/** A conditional jump's operation. */
export type BpfComparison = typeof BPF.IF_EQUAL | typeof BPF.IF_GREATER | typeof BPF.IF_GREATER_OR_EQUAL;

/** Place of an emitted instruction. */
export type BpfLabel = number & { readonly __brand: 'BpfLabel' };

interface Instruction {
  readonly code: number;
  readonly jt: number;
  readonly jf: number;
  readonly k: number;
}

/** Offsets of conditional jumps have 8 bits. */
const FARTHEST_JUMP = 255;
/** Size of struct sock_filter. */
const INSTRUCTION_BYTES = 8;

/**
 * Builds a program from its last instruction to its first.
 *
 * BPF only jumps forward, so every target exists before the jump to it is emitted: its distance is known, and a target
 * beyond 255 instructions gets an unconditional jump (32-bit offset) next to the condition.
 */
export class BpfAssembler {
  /** INVARIANT: the program in reverse order; a label is an index into it. */
  readonly #reversed: Instruction[] = [];
  readonly #returns = new Map<number, BpfLabel>();

  /** Emits a return, or gives a near one of the same value. */
  return(value: number): BpfLabel {
    const known = this.#returns.get(value);
    if (known !== undefined && this.#distanceTo(known) < FARTHEST_JUMP / 2) return known;
    const label = this.#emit({ code: BPF.RETURN, jt: 0, jf: 0, k: value });
    this.#returns.set(value, label);
    return label;
  }

  /** Emits a load of the 32-bit word at an offset in struct seccomp_data, going on at `next`. */
  load(offset: number, next: BpfLabel): BpfLabel {
    this.#adjoin(next);
    return this.#emit({ code: BPF.LOAD, jt: 0, jf: 0, k: offset });
  }

  /** Emits a mask of the loaded word, going on at `next`. */
  and(mask: number, next: BpfLabel): BpfLabel {
    this.#adjoin(next);
    return this.#emit({ code: BPF.AND, jt: 0, jf: 0, k: mask });
  }

  /** Emits a comparison of the loaded word. */
  branch(comparison: BpfComparison, k: number, whenTrue: BpfLabel, whenFalse: BpfLabel): BpfLabel {
    if (whenTrue === whenFalse) return whenTrue;
    const near = this.#reachable(whenTrue);
    const otherNear = this.#reachable(whenFalse);
    return this.#emit({ code: comparison, jt: this.#distanceTo(near), jf: this.#distanceTo(otherNear), k });
  }

  /**
   * Gives the program that starts at `entry` as an array of struct sock_filter in the byte order asked for.
   *
   *     0  u16  code
   *     2  u8   jt
   *     3  u8   jf
   *     4  u32  k
   *
   * @throws UserError seccomp-filter-too-long
   */
  finish(entry: BpfLabel, isLittleEndian: boolean): Uint8Array {
    this.#adjoin(entry);
    const count = this.#reversed.length;
    if (count > BPF_MAX_INSTRUCTIONS) {
      throw new UserError(
        'seccomp-filter-too-long',
        `cannot compile seccomp profile: found ${count} BPF instructions; need at most ${BPF_MAX_INSTRUCTIONS}`,
      );
    }
    const bytes = new Uint8Array(count * INSTRUCTION_BYTES);
    const view = new DataView(bytes.buffer);
    for (const [position, instruction] of this.#reversed.toReversed().entries()) {
      const at = position * INSTRUCTION_BYTES;
      view.setUint16(at, instruction.code, isLittleEndian);
      view.setUint8(at + 2, instruction.jt);
      view.setUint8(at + 3, instruction.jf);
      view.setUint32(at + 4, instruction.k, isLittleEndian);
    }
    return bytes;
  }

  /** Instructions between the next one to be emitted and a target. */
  #distanceTo(target: BpfLabel): number {
    return this.#reversed.length - target - 1;
  }

  /** Makes the next instruction to be emitted fall through to a target. */
  #adjoin(target: BpfLabel): void {
    if (this.#distanceTo(target) !== 0) this.#jump(target);
  }

  #jump(target: BpfLabel): BpfLabel {
    return this.#emit({ code: BPF.JUMP, jt: 0, jf: 0, k: this.#distanceTo(target) });
  }

  /** One more place is kept free: the other branch may need an unconditional jump as well. */
  #reachable(target: BpfLabel): BpfLabel {
    return this.#distanceTo(target) < FARTHEST_JUMP ? target : this.#jump(target);
  }

  #emit(instruction: Instruction): BpfLabel {
    return (this.#reversed.push(instruction) - 1) as BpfLabel;
  }
}
