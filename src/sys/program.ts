/**
 * Syscall programs: flat lists of system calls that a worker of syscalld executes (`native/machine.c`).
 *
 *     header | steps | relocations | data           layouts: native/wire.h
 *
 * A program is built in blocks: the worker's own steps, and one block per child it spawns. Arguments are numbers,
 * texts and bytes (which go to the data area), results of earlier steps, or descriptors that syscalld sends along.
 */
import { BugError } from '../base/errors.ts';
import { type Abi, flags, offsetOf, sizeOf, widthOf } from './abi.ts';
import { bytesOfText } from './byte-text.ts';

/** `enum op` of native/wire.h. */
export const OP = {
  syscall: 0,
  spawn: 1,
  store: 2,
  load: 3,
  expect: 4,
  expectBytes: 5,
  itoa: 6,
  jump: 7,
  keep: 8,
  exit: 9,
  fakeinit: 10,
  removeTree: 11,
  takeProgram: 12,
  broker: 13,
  relay: 14,
} as const;
const ARG = { imm: 0, data: 1, result: 2, import: 3 } as const;
const RULE = { fail: 0, ignore: 1, jump: 2 } as const;
const MAGIC = 0x31505356;
const HEADER_BYTES = 32;
const STEP_BYTES = 80;

/** What the machine takes at most: the defines of native/wire.h. */
export const MACHINE_LIMITS: {
  readonly [limit in 'bytes' | 'steps' | 'imports' | 'keeps' | 'spawns']: number;
} = { bytes: 160 * 1024, steps: 1024, imports: 24, keeps: 16, spawns: 4 };

/** Result of an earlier step. */
export class Result {
  readonly step: Step;
  constructor(step: Step) {
    this.step = step;
  }
}

/** A place in the data area. */
export class Data {
  readonly offset: number;
  readonly length: number;
  readonly #text: string | (() => string);
  constructor(offset: number, length: number, text: string | (() => string)) {
    this.offset = offset;
    this.length = length;
    this.#text = text;
  }

  /** What `--explain` shows; made only then. */
  get text(): string {
    return typeof this.#text === 'string' ? this.#text : this.#text();
  }

  /** The same place, `offset` bytes further. */
  at(offset: number, length: number = this.length - offset): Data {
    return new Data(this.offset + offset, length, () => `${this.text}+${offset}`);
  }
}

/** A descriptor that syscalld sends along with the program. */
export class Import {
  readonly index: number;
  readonly text: string;
  constructor(index: number, text: string) {
    this.index = index;
    this.text = text;
  }
}

/** A number with the name it goes by. */
export class Flags {
  readonly value: number;
  readonly text: string;
  constructor(value: number, text: string) {
    this.value = value;
    this.text = text;
  }
}

/** A place to jump to, forward only. */
export class Label {
  index = -1;
}

/** Argument of a step. Texts get a NUL and go to the data area, bytes go there as they are. */
export type Arg = number | bigint | string | Uint8Array | Result | Data | Import | Flags;

/** How a step may fail. */
export interface StepOptions {
  /** What the step does, for error messages and `--explain`; a path or a purpose, not the call's name. */
  readonly about?: string;
  /** Go on when the call fails with one of these (at most four). */
  readonly ignore?: readonly string[];
  /** Go on at `to` when the call fails with one of `on` (any errno if empty). */
  readonly otherwise?: { readonly on: readonly string[]; readonly to: Label };
}

interface Step {
  readonly op: number;
  readonly name: string;
  readonly args: readonly Arg[];
  readonly options: StepOptions;
  readonly target: Label | undefined;
  index: number;
}

interface BlockEnd {
  readonly steps: Step[];
  readonly start: Label;
  readonly title: string;
}

/** The calls of a program in order: what failed, in words. */
export class StepNames {
  readonly #steps: readonly Step[];
  constructor(steps: readonly Step[]) {
    this.#steps = steps;
  }

  get length(): number {
    return this.#steps.length;
  }

  at(index: number): string | undefined {
    const step = this.#steps[index];
    const about = step?.options.about;
    return about === undefined ? step?.name : `${step?.name} ${about}`;
  }
}

/** A program that is ready to be sent. */
export interface EncodedProgram {
  readonly bytes: Buffer;
  /** For each import: object id and which of its descriptors. */
  readonly imports: readonly (readonly [number, number])[];
  readonly stepNames: StepNames;
  /** Says that nobody reads `bytes` any more: the next program may be written there. */
  release(): void;
}

/** `which` of an import: descriptors of a client (native/wire.h). */
export const CLIENT_FD = { stdin: 0, stdout: 1, stderr: 2, socket: 3 } as const;

/**
 * Memory of programs that have been sent, for the next ones: it is outside V8's heap, which would let it pile up until
 * the next large collection.
 */
const SPARES: Buffer[] = [];
const SPARES_MAX = 8;
const SPARE_BYTES = 64 * 1024;

function takeSpare(bytes: number): Buffer {
  return bytes > SPARE_BYTES
    ? Buffer.allocUnsafeSlow(bytes)
    : (SPARES.pop() ?? Buffer.allocUnsafeSlow(SPARE_BYTES));
}

function giveSpare(buffer: Buffer): void {
  if (buffer.length === SPARE_BYTES && SPARES.length < SPARES_MAX) SPARES.push(buffer);
}

/** Sums of constants, a step further with each name: programs use the same few again and again. */
interface KnownFlags {
  flags: Flags | undefined;
  readonly more: Map<string, KnownFlags>;
}

const FLAGS = new WeakMap<Abi, KnownFlags>();

function knownFlags(abi: Abi): KnownFlags {
  let known = FLAGS.get(abi);
  if (!known) {
    known = { flags: undefined, more: new Map() };
    FLAGS.set(abi, known);
  }
  return known;
}

/** Builds one syscall program. */
export class Program {
  readonly abi: Abi;
  readonly #blocks: BlockEnd[] = [];
  #block: BlockEnd;
  #data: Buffer = takeSpare(0);
  #dataLength = 0;
  readonly #texts = new Map<string, Data>();
  readonly #constants = new Map<string, Data>();
  readonly #flags: KnownFlags;
  readonly #bytes = new Map<Uint8Array, Data>();
  readonly #relocs: [number, number][] = [];
  readonly #imports: [number, number][] = [];
  #out: Data | undefined;
  /** Objects that its run makes. */
  readonly objects: number[] = [];
  /** Object id under which the worker stays for its next program; 0: it exits. */
  park = 0;

  constructor(abi: Abi) {
    this.abi = abi;
    this.#flags = knownFlags(abi);
    this.#block = { steps: [], start: new Label(), title: 'worker' };
    this.#blocks.push(this.#block);
  }

  /** Returns the named constants' sum as an argument. */
  flags(...names: readonly string[]): Flags {
    let known = this.#flags;
    for (const name of names) {
      let next = known.more.get(name);
      if (!next) {
        next = { flags: undefined, more: new Map() };
        known.more.set(name, next);
      }
      known = next;
    }
    known.flags ??= new Flags(flags(this.abi, ...names), names.join('|') || '0');
    return known.flags;
  }

  /** Reserves `length` zero bytes (8-byte aligned) in the data area, or puts bytes there. */
  data(content: number | Uint8Array, text?: string | (() => string)): Data {
    const length = typeof content === 'number' ? content : content.length;
    const offset = (this.#dataLength + 7) & ~7;
    const end = offset + length;
    if (end > this.#data.length) {
      const bigger = Buffer.allocUnsafe(Math.max(end * 2, 8192));
      this.#data.copy(bigger, 0, 0, this.#dataLength);
      this.#data = bigger;
    }
    this.#data.fill(0, this.#dataLength, end);
    if (typeof content !== 'number') this.#data.set(content, offset);
    this.#dataLength = end;
    return new Data(offset, length, text ?? (() => `<${length} bytes>`));
  }

  /** Puts a NUL-terminated text into the data area, each text once; bytes that are not UTF-8 as `textOfBytes` has them. */
  text(value: string): Data {
    let place = this.#texts.get(value);
    if (place === undefined) {
      if (value.includes('\0')) throw new BugError('nul-in-text', 'cannot encode a text: found a NUL in it');
      const bytes = value.isWellFormed() ? undefined : bytesOfText(value);
      place = this.data((bytes?.length ?? Buffer.byteLength(value)) + 1, () => JSON.stringify(value));
      if (bytes) this.#data.set(bytes, place.offset);
      else this.#data.write(value, place.offset);
      this.#texts.set(value, place);
    }
    return place;
  }

  #place(arg: string | Uint8Array): Data {
    if (typeof arg === 'string') return this.text(arg);
    let place = this.#bytes.get(arg);
    if (place === undefined) {
      place = this.data(arg);
      this.#bytes.set(arg, place);
    }
    return place;
  }

  /** Writes an integer (2, 4 or 8 bytes) into the data area now. */
  put(place: Data, value: number | bigint, bytes: 2 | 4 | 8 = 4): void {
    const view = new DataView(this.#data.buffer, this.#data.byteOffset, this.#dataLength);
    const le = this.abi.littleEndian;
    if (bytes === 8) view.setBigUint64(place.offset, BigInt.asUintN(64, BigInt(value)), le);
    else if (bytes === 4) view.setUint32(place.offset, Number(BigInt.asUintN(32, BigInt(value))), le);
    else view.setUint16(place.offset, Number(BigInt.asUintN(16, BigInt(value))), le);
  }

  /** Writes a text without a NUL into the data area now. */
  putText(place: Data, text: string): void {
    this.#data.write(text, place.offset);
  }

  /** The place of a structure's field. */
  field(place: Data, struct: string, field: string): Data {
    return place.at(offsetOf(this.abi, struct, field));
  }

  /** Writes the result of a step into a structure's field when the program runs. */
  storeField(place: Data, struct: string, field: string, value: Arg): void {
    const bytes = widthOf(this.abi, struct, field) === 8 ? 8 : 4;
    this.store(place.at(offsetOf(this.abi, struct, field), bytes), value, bytes);
  }

  /** Makes 8 bytes at `at` the address of `target` when the program runs. */
  pointer(at: Data, target: Data): void {
    this.#relocs.push([at.offset, target.offset]);
  }

  /** A kernel structure in the data area; Data values become pointers. */
  struct(name: string, fields: Readonly<Record<string, number | bigint | Flags | Data>>): Data {
    const place = this.data(sizeOf(this.abi, name), name);
    for (const [field, value] of Object.entries(fields)) {
      const at = place.at(offsetOf(this.abi, name, field));
      const width = widthOf(this.abi, name, field);
      if (value instanceof Data) this.pointer(at, value);
      else this.put(at, value instanceof Flags ? value.value : value, width === 8 ? 8 : width === 2 ? 2 : 4);
    }
    return place;
  }

  /** A structure that no call and no step writes to: one for all that name it so. */
  constant(name: string, make: () => Data): Data {
    let place = this.#constants.get(name);
    if (!place) {
      place = make();
      this.#constants.set(name, place);
    }
    return place;
  }

  /** A NULL-terminated vector of texts, as execve takes it. */
  vector(texts: readonly string[]): Data {
    const place = this.data(
      8 * (texts.length + 1),
      () => `[${texts.map((t) => JSON.stringify(t)).join(', ')}]`,
    );
    texts.forEach((t, i) => {
      this.pointer(place.at(8 * i), this.text(t));
    });
    return place;
  }

  /** A descriptor of syscalld's object table. */
  import(object: number, which = 0): Import {
    let index = this.#imports.findIndex(([o, w]) => o === object && w === which);
    if (index < 0) index = this.#imports.push([object, which]) - 1;
    return new Import(index, `object ${object}${which ? `.${which}` : ''}`);
  }

  /** The slice of the data area that comes back when the worker is done. */
  returns(place: Data): void {
    this.#out = place;
  }

  #push(op: number, name: string, args: readonly Arg[], options: StepOptions = {}, target?: Label): Result {
    const step: Step = { op, name, args, options, target: target ?? options.otherwise?.to, index: -1 };
    this.#block.steps.push(step);
    return new Result(step);
  }

  /** One system call. */
  sys(name: string, args: readonly Arg[], options?: StepOptions): Result {
    if (this.abi.syscalls[name] === undefined) {
      throw new BugError(
        'unknown-syscall',
        `cannot encode "${name}": found no such system call in the headers`,
      );
    }
    return this.#push(OP.syscall, name, args, options);
  }

  /** Whether this machine's headers know the call. */
  knows(syscall: string): boolean {
    return this.abi.syscalls[syscall] !== undefined;
  }

  /**
   * A child by clone3 that runs `body`; the result is its pid. Of the worker's own block it becomes a child of syscalld,
   * known there as `object`; of another block it is an ordinary child.
   */
  spawn(
    title: string,
    options: {
      readonly flags?: Flags;
      readonly cgroup?: Result | Import;
      readonly object?: number;
      readonly about?: string;
    },
    body: () => void,
  ): Result {
    const outer = this.#block;
    const block: BlockEnd = { steps: [], start: new Label(), title };
    const about = options.about ?? title;
    if (options.object !== undefined) this.objects.push(options.object);
    const result = this.#push(
      OP.spawn,
      'clone3',
      [options.flags ?? 0, options.cgroup ?? -1, options.object ?? 0],
      { about },
      block.start,
    );
    this.#blocks.push(block);
    this.#block = block;
    body();
    this.#block = outer;
    return result;
  }

  /** data[place] = value, 4 or 8 bytes. */
  store(place: Data, value: Arg, bytes: 4 | 8 = 4): void {
    this.#push(OP.store, 'store', [place.offset, bytes, value]);
  }

  /** The integer at a place of the data area. */
  load(place: Data, bytes: 4 | 8 = 4): Result {
    return this.#push(OP.load, 'load', [place.offset, bytes]);
  }

  /** Fails with `errno` unless the comparison holds. */
  expect(
    value: Result,
    comparison: '==' | '!=' | '&',
    wanted: number | Flags | Result,
    errno: string,
    about: string,
    options: { readonly mask?: number | Flags; readonly otherwise?: Label } = {},
  ): void {
    const kind = comparison === '==' ? 0 : comparison === '!=' ? 1 : 2;
    const { mask = 0, otherwise } = options;
    const rule = otherwise === undefined ? {} : { otherwise: { on: [errno], to: otherwise } };
    this.#push(OP.expect, 'expect', [value, kind, wanted, mask, this.#errno(errno)], { about, ...rule });
  }

  /** The integer in a structure's field, sign-extended. */
  loadField(place: Data, struct: string, field: string): Result {
    return this.load(this.field(place, struct, field), widthOf(this.abi, struct, field) === 8 ? 8 : 4);
  }

  /** Fails with `errno` unless the bytes at `place`, which a call wrote there, are the wanted ones, or those at another place. */
  expectBytes(place: Data, wanted: Uint8Array | Data, errno: string, about: string, otherwise?: Label): void {
    const length = wanted.length;
    if (length > place.length)
      throw new BugError('comparison-too-long', `cannot compare ${length} bytes: found ${place.length}`);
    const bytes = wanted instanceof Data ? wanted : this.data(wanted);
    this.#push(
      OP.expectBytes,
      'expect_bytes',
      [place.offset, length, bytes.offset, 0, this.#errno(errno)],
      otherwise === undefined ? { about } : { about, otherwise: { on: [errno], to: otherwise } },
    );
  }

  /** Writes a number in decimal and a NUL; the result is the count of digits. `place` needs 21 bytes. */
  itoa(place: Data, value: Result): Result {
    return this.#push(OP.itoa, 'itoa', [place.offset, place.length, value]);
  }

  /** Goes on at a label. */
  jump(to: Label): void {
    this.#push(OP.jump, 'jump', [], {}, to);
  }

  /** A label to jump to, placed later. */
  label(): Label {
    return new Label();
  }

  /** Puts a label before the next step of this block. */
  place(label: Label): void {
    this.#push(-1, 'label', [], {}, label);
  }

  /** syscalld keeps a descriptor as `object`; with a pid it is a pidfd to be watched. */
  keep(fd: Result, object: number, pid: Result | number = 0): void {
    this.objects.push(object);
    this.#push(OP.keep, 'keep', [fd, object, pid], { about: `as object ${object}` });
  }

  /** syscalld keeps the other end of a child's `takeProgram` or `fakeinit` as the worker `object`. */
  keepWorker(socket: Arg, object: number): void {
    this.objects.push(object);
    this.#push(OP.keep, 'keep', [socket, object, -1], { about: `as worker ${object}` });
  }

  /** The child goes on as a worker: its next program comes from a socket. */
  takeProgram(socket: Arg): void {
    this.#push(OP.takeProgram, 'take_program', [socket]);
  }

  /** Ends the process. */
  exit(status: number): void {
    this.#push(OP.exit, 'exit', [status]);
  }

  /** Becomes the guest's init, for the command with that pid; socket `tell` hears of its end, as that of `object`. Never returns. */
  fakeinit(command: Result, tell: Arg, object: number): void {
    this.#push(OP.fakeinit, 'fakeinit', [command, tell, object]);
  }

  /**
   * Becomes a broker: `handler`, an encoded program with one import and no children, runs whenever a descriptor that came
   * over `control` is readable, with that as its import 0. Ends when nobody has the other end of any of these, nor of
   * `control`. Never returns. A step of the handler that fails ends the broker.
   */
  broker(control: Arg, handler: Uint8Array): void {
    this.#push(OP.broker, 'broker', [control, this.data(handler, `<handler of ${handler.length} bytes>`)]);
  }

  /** Becomes the relay of the FUSE session on descriptor `fuse`, for whoever connects to `listener`. Never returns. */
  relay(fuse: Arg, listener: Arg): void {
    this.#push(OP.relay, 'relay', [fuse, listener]);
  }

  /**
   * Removes everything below a directory, never through a link or a mount. Fails with `EXDEV` when something is mounted
   * there, which stays as it is; other files may be gone by then. Nothing may write there meanwhile.
   */
  removeTree(directory: Result | Import, about?: string): Result {
    return this.#push(OP.removeTree, 'remove_tree', [directory], about === undefined ? {} : { about });
  }

  #errno(name: string): number {
    const value = this.abi.errnos[name];
    if (value === undefined)
      throw new BugError('unknown-errno', `cannot encode "${name}": found no such errno`);
    return value;
  }

  /** Lays the blocks out one after the other; the worker's jumps over its children's to the end. */
  #layout(): Step[] {
    const steps: Step[] = [];
    for (const block of this.#blocks) {
      block.start.index = steps.length;
      for (const step of block.steps) {
        if (step.op === -1) {
          if (step.target) step.target.index = steps.length;
          continue;
        }
        step.index = steps.length;
        steps.push(step);
      }
      if (this.#blocks.length > 1) {
        const end: Step = {
          op: OP.exit,
          name: 'exit',
          args: [0],
          options: {},
          target: undefined,
          index: steps.length,
        };
        const leave: Step = {
          op: OP.jump,
          name: 'jump',
          args: [],
          options: { about: 'end' },
          target: this.#end,
          index: steps.length,
        };
        steps.push(block === this.#blocks[0] ? leave : end);
      }
    }
    this.#end.index = steps.length;
    return steps;
  }
  readonly #end = new Label();

  /** Returns the message for a worker. */
  encode(): EncodedProgram {
    const steps = this.#layout();
    // Texts and bytes first: the data area follows the steps.
    for (const { args } of steps) {
      for (const arg of args) if (typeof arg === 'string' || arg instanceof Uint8Array) this.#place(arg);
    }
    this.data(1); // the data area ends with a zero byte
    const dataAt = HEADER_BYTES + steps.length * STEP_BYTES + this.#relocs.length * 8;
    const total = dataAt + this.#dataLength;
    const { bytes: most, steps: mostSteps, imports: mostImports } = MACHINE_LIMITS;
    if (total > most || steps.length > mostSteps || this.#imports.length > mostImports) {
      throw new BugError(
        'program-too-big',
        `cannot encode a program: found ${total} bytes, ${steps.length} steps, ${this.#imports.length} imports; ` +
          `need at most ${most}, ${mostSteps}, ${mostImports}`,
      );
    }
    const memory = takeSpare(total);
    const bytes = memory.subarray(0, total).fill(0, 0, dataAt);
    const view = new DataView(bytes.buffer, bytes.byteOffset, total);
    const le = this.abi.littleEndian;
    let at = 0;
    for (const value of [
      MAGIC,
      steps.length,
      this.#relocs.length,
      this.#dataLength,
      this.#imports.length,
      this.#out?.offset ?? 0,
      this.#out?.length ?? 0,
      this.park,
    ]) {
      view.setUint32(at, value, le);
      at += 4;
    }
    for (const step of steps) {
      this.#encodeStep(view, at, step);
      at += STEP_BYTES;
    }
    for (const [from, to] of this.#relocs) {
      view.setUint32(at, from, le);
      view.setUint32(at + 4, to, le);
      at += 8;
    }
    this.#data.copy(bytes, at, 0, this.#dataLength);
    giveSpare(this.#data);
    this.#data = bytes.subarray(at);
    const release = (): void => giveSpare(memory);
    return { bytes, imports: this.#imports, stepNames: new StepNames(steps), release };
  }

  #encodeStep(view: DataView, at: number, step: Step): void {
    const le = this.abi.littleEndian;
    view.setUint32(at, step.op, le);
    if (step.op === OP.syscall) view.setUint32(at + 4, this.abi.syscalls[step.name] ?? 0, le);
    const { ignore, otherwise } = step.options;
    const only = otherwise?.on ?? ignore ?? [];
    if (only.length > 4)
      throw new BugError(
        'too-many-errnos',
        `cannot encode "${step.name}": found ${only.length} errnos; need at most 4`,
      );
    if (step.target !== undefined && step.target.index < 0) {
      throw new BugError(
        'label-not-placed',
        `cannot encode "${step.name}": found a label that no block places`,
      );
    }
    view.setUint8(at + 14, otherwise ? RULE.jump : ignore ? RULE.ignore : RULE.fail);
    view.setUint32(at + 16, step.target?.index ?? 0, le);
    let onlyAt = at + 20;
    for (const name of only) {
      view.setInt16(onlyAt, this.#errno(name), le);
      onlyAt += 2;
    }
    let kindAt = at + 8;
    let valueAt = at + 32;
    for (const arg of step.args) {
      this.#encodeArg(view, kindAt, valueAt, arg);
      kindAt += 1;
      valueAt += 8;
    }
  }

  #encodeArg(view: DataView, kindAt: number, valueAt: number, arg: Arg): void {
    let kind: number = ARG.imm;
    let low: number;
    let high = 0;
    if (arg instanceof Result) {
      kind = ARG.result;
      low = arg.step.index;
    } else if (arg instanceof Import) {
      kind = ARG.import;
      low = arg.index;
    } else if (typeof arg === 'number' || arg instanceof Flags) {
      const value = typeof arg === 'number' ? arg : arg.value;
      low = value >>> 0;
      high = value < 0 ? 0xffffffff : Math.floor(value / 2 ** 32);
    } else if (typeof arg === 'bigint') {
      low = Number(BigInt.asUintN(32, arg));
      high = Number(BigInt.asUintN(32, arg >> 32n));
    } else {
      const place = arg instanceof Data ? arg : this.#place(arg);
      kind = ARG.data;
      low = place.offset;
      high = place.length;
    }
    const le = this.abi.littleEndian;
    view.setUint8(kindAt, kind);
    view.setUint32(valueAt + (le ? 0 : 4), low, le);
    view.setUint32(valueAt + (le ? 4 : 0), high, le);
  }

  /** Returns the program as strace-like text, one step a line. */
  explain(): string {
    const steps = this.#layout();
    const lines: string[] = [];
    for (const block of this.#blocks) {
      lines.push(`${block.title}:`);
      const own = steps.slice(block.start.index, this.#blocks[this.#blocks.indexOf(block) + 1]?.start.index);
      for (const step of own) lines.push(`  ${explainStep(step)}`);
    }
    return `${lines.join('\n')}\n`;
  }
}

function explainArg(arg: Arg): string {
  if (arg instanceof Result) return `r${arg.step.index}`;
  if (arg instanceof Data || arg instanceof Import || arg instanceof Flags) return arg.text;
  if (arg instanceof Uint8Array) return `<${arg.length} bytes>`;
  return typeof arg === 'string' ? JSON.stringify(arg) : String(arg);
}

function explainStep(step: Step): string {
  const { ignore, otherwise, about } = step.options;
  const rule = otherwise
    ? ` | ${otherwise.on.join(', ') || 'error'}: go to ${otherwise.to.index}`
    : ignore
      ? ` | ignore ${ignore.join(', ') || 'errors'}`
      : '';
  const target = step.op === OP.jump || step.op === OP.spawn ? ` → ${step.target?.index ?? 0}` : '';
  const call = `${step.name}(${step.args.map(explainArg).join(', ')})${target}`;
  return `${String(step.index).padStart(3)} ${call}${rule}${about === undefined ? '' : `   # ${about}`}`;
}
