/** Interpreter for classic BPF as seccomp runs it: the judge of what our compiler emits. */

/** struct seccomp_data. */
export interface SeccompData {
  readonly nr: number;
  readonly arch: number;
  readonly args: readonly bigint[];
}

/** What a program returned, and what it took. */
export interface BpfRun {
  readonly value: number;
  /** Instructions executed. */
  readonly steps: number;
  /** True if it looked at an argument: the kernel then cannot keep the verdict in its allow-bitmap. */
  readonly hasReadArguments: boolean;
}

const ARGS_OFFSET = 16;
const DATA_BYTES = 64;

/** Lays out struct seccomp_data. */
function encodeSeccompData(data: SeccompData, isLittleEndian: boolean): Uint8Array {
  const bytes = new Uint8Array(DATA_BYTES);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, data.nr, isLittleEndian);
  view.setUint32(4, data.arch, isLittleEndian);
  for (const [index, value] of data.args.entries()) {
    view.setBigUint64(ARGS_OFFSET + index * 8, value, isLittleEndian);
  }
  return bytes;
}

/**
 * Checks a program as the kernel does before it accepts it (net/core/filter.c `bpf_check_classic`, kernel/seccomp.c
 * `seccomp_check_filter`): known codes, aligned loads inside the data, jumps inside the program, a return at the end.
 */
export function checkBpf(program: Uint8Array, isLittleEndian: boolean): void {
  const view = new DataView(program.buffer, program.byteOffset, program.byteLength);
  const count = program.byteLength / 8;
  if (!Number.isInteger(count) || count < 1 || count > 4096)
    throw new Error(`bad length ${program.byteLength}`);
  for (let at = 0; at < count; at++) {
    const code = view.getUint16(at * 8, isLittleEndian);
    const jt = view.getUint8(at * 8 + 2);
    const jf = view.getUint8(at * 8 + 3);
    const k = view.getUint32(at * 8 + 4, isLittleEndian);
    switch (code) {
      case 0x20:
        if (k % 4 !== 0 || k >= DATA_BYTES) throw new Error(`instruction ${at}: load at ${k}`);
        break;
      case 0x54:
      case 0x06:
        break;
      case 0x05:
        if (at + 1 + k >= count) throw new Error(`instruction ${at}: jump out of the program`);
        break;
      case 0x15:
      case 0x25:
      case 0x35:
        if (at + 1 + Math.max(jt, jf) >= count) throw new Error(`instruction ${at}: jump out of the program`);
        break;
      default:
        throw new Error(`instruction ${at}: code 0x${code.toString(16)}`);
    }
  }
  if (view.getUint16((count - 1) * 8, isLittleEndian) !== 0x06)
    throw new Error('the last instruction is no return');
}

/** Runs a checked program on one system call. */
export function runBpf(program: Uint8Array, data: SeccompData, isLittleEndian: boolean): BpfRun {
  const code = new DataView(program.buffer, program.byteOffset, program.byteLength);
  const bytes = encodeSeccompData(data, isLittleEndian);
  const input = new DataView(bytes.buffer);
  let accumulator = 0;
  let hasReadArguments = false;
  let steps = 0;
  for (let at = 0; at < program.byteLength / 8; at++) {
    steps++;
    const jt = code.getUint8(at * 8 + 2);
    const jf = code.getUint8(at * 8 + 3);
    const k = code.getUint32(at * 8 + 4, isLittleEndian);
    const operation = code.getUint16(at * 8, isLittleEndian);
    switch (operation) {
      case 0x20:
        accumulator = input.getUint32(k, isLittleEndian);
        hasReadArguments ||= k >= ARGS_OFFSET;
        break;
      case 0x54:
        accumulator = (accumulator & k) >>> 0;
        break;
      case 0x05:
        at += k;
        break;
      case 0x15:
        at += accumulator === k ? jt : jf;
        break;
      case 0x25:
        at += accumulator > k ? jt : jf;
        break;
      case 0x35:
        at += accumulator >= k ? jt : jf;
        break;
      case 0x06:
        return { value: k, steps, hasReadArguments };
      default:
        throw new Error(`instruction ${at}: code 0x${operation.toString(16)}`);
    }
  }
  throw new Error('ran off the end of the program');
}
