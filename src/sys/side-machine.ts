/**
 * A syscall machine beside a process that is no vserverd: a child of the same worker, which runs programs that come
 * over a socket pair, one at a time, and answers in it.
 */
import { closeSync, readSync, writeSync } from 'node:fs';
import { BugError } from '../base/errors.ts';
import type { Abi } from './abi.ts';
import { type Data, Program, type Result } from './program.ts';
import { StepError } from './syscalld.ts';

/** The machine's end of the pair, and another number it goes by from program to program. */
const MACHINE_FD = 200;
const ANSWER_BYTES = 128 * 1024;
/** `enum worker_message`: a step has failed. */
const WORKER_FAILED = 3;
/** An answer begins with zeros, where a failure has its kind. */
const HEAD_BYTES = 8;

/**
 * Adds the steps of the machine's own process.
 *
 * @param socket its end of a pair of SEQPACKET sockets; `other` is the other end, which it must not keep
 */
export function planSideMachine(p: Program, socket: Result, other: Result): void {
  p.sys('dup3', [socket, MACHINE_FD, p.flags('O_CLOEXEC')]);
  p.sys('close', [other]);
  p.takeProgram(socket);
}

/** The caller's end. */
export class SideMachine {
  readonly abi: Abi;
  readonly #socket: number;
  readonly #answer = Buffer.allocUnsafeSlow(ANSWER_BYTES);

  /** `socket`: descriptor of this process. */
  constructor(abi: Abi, socket: number) {
    this.abi = abi;
    this.#socket = socket;
  }

  /** A new, empty program. */
  program(): Program {
    return new Program(this.abi);
  }

  /** Reserves a place for an answer, which the program fills. */
  answer(program: Program, bytes: number): Data {
    return program.data(HEAD_BYTES + bytes, 'answer').at(HEAD_BYTES, bytes);
  }

  /**
   * Runs a program to its end and returns its answer, valid until the next call.
   *
   * @throws StepError when a step failed; the machine is gone then
   */
  run(what: string, program: Program, answer: Data): Buffer {
    const bytes = HEAD_BYTES + answer.length;
    program.sys('write', [MACHINE_FD, answer.at(-HEAD_BYTES, bytes), bytes], { about: 'answer' });
    // Its own socket is closed when the next program is taken.
    program.takeProgram(program.sys('dup', [MACHINE_FD]));
    const encoded = program.encode();
    writeSync(this.#socket, encoded.bytes);
    const count = readSync(this.#socket, this.#answer);
    if (count === 0) throw new BugError('machine-gone', `cannot ${what}: found the machine gone`);
    const int = (at: number): number =>
      this.abi.littleEndian ? this.#answer.readInt32LE(at) : this.#answer.readInt32BE(at);
    if (int(0) === WORKER_FAILED) throw new StepError(what, this.abi, encoded.stepNames, int(12), int(16));
    return this.#answer.subarray(HEAD_BYTES, count);
  }

  /** Lets the machine end. */
  close(): void {
    closeSync(this.#socket);
  }
}
