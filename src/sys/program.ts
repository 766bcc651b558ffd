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
import { giveSpare, grown, takeSpare, viewOf } from './program-memory.ts';
import { bytesIn, type Num, numberOf, type Shaped, shapeOf, type Text, Varying, wordsOf } from './varying.ts';

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

/** Result of an earlier step: of a block, by its number there. */
export class Result {
  readonly block: Block;
  readonly index: number;
  constructor(block: Block, index: number) {
    this.block = block;
    this.index = index;
  }

  /** Number of the step in the program, once that is laid out. */
  get number(): number {
    return this.block.first + this.index;
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

/** A place to jump to, forward only: before a step of a block, by its number there. */
export class Label {
  block: Block | undefined;
  index = -1;

  get number(): number {
    return (this.block?.first ?? 0) + this.index;
  }
}

/** A place in the data area, of which a step takes the offset alone. */
class Offset {
  readonly value: number;
  constructor(value: number) {
    this.value = value;
  }
}

/** Argument of a step. Texts get a NUL and go to the data area, bytes go there as they are. */
export type Arg = number | bigint | string | Uint8Array | Result | Data | Import | Flags | Varying;

/** How a step may fail. */
export interface StepOptions {
  /** What the step does, for error messages and `--explain`; a path or a purpose, not the call's name. */
  readonly about?: string;
  /** Go on when the call fails with one of these (at most four). */
  readonly ignore?: readonly string[];
  /** Go on at `to` when the call fails with one of `on` (any errno if empty). */
  readonly otherwise?: { readonly on: readonly string[]; readonly to: Label };
}

/** A step in words, for error messages and `--explain`. */
interface Step {
  readonly op: number;
  readonly name: string;
  readonly args: readonly (Arg | Offset)[];
  readonly options: StepOptions;
  readonly target: Label | undefined;
}

const NOTHING = Buffer.alloc(0);

/** The steps of one process, encoded as they are added; numbers of steps count within the block until all are laid out. */
class Block {
  readonly title: string;
  readonly start: Label = new Label();
  /** Zero behind the last step. */
  bytes: Buffer = takeSpare(0);
  view: DataView = viewOf(this.bytes);
  count = 0;
  /** Number of its first step in the program. */
  first = 0;
  /** Where, in `bytes`, a result of this block is named. */
  results: number[] = [];
  /** Where one of another block is named that is not the first, which begins at 0. */
  foreign: (readonly [at: number, block: Block])[] = [];
  /** Where numbers that vary are. */
  varying: (readonly [at: number, number: Varying])[] = [];
  /** Where a target is to be filled in. */
  jumps: (readonly [at: number, to: Label])[] = [];
  /** What they say; undefined if that can be had by planning anew. */
  readonly words: Step[] | undefined;

  constructor(title: string, isWorded: boolean) {
    this.title = title;
    this.start.block = this;
    this.start.index = 0;
    this.words = isWorded ? [] : undefined;
  }

  /** Keeps the numbers of its steps, and their words. */
  forget(): void {
    this.bytes = NOTHING;
    this.view = viewOf(NOTHING);
    [this.results, this.foreign, this.varying, this.jumps] = [[], [], [], []];
  }

  /** Makes room for `count` more steps; returns where they begin. */
  extend(count: number): number {
    const at = this.count * STEP_BYTES;
    const end = at + count * STEP_BYTES;
    if (end > this.bytes.length) {
      this.bytes = grown(this.bytes, at, end);
      this.view = viewOf(this.bytes);
    }
    this.count += count;
    return at;
  }
}

/** The calls of a program in order: what failed, in words, which are made only then where that can be. */
export class StepNames {
  readonly length: number;
  readonly #words: () => readonly Step[];
  constructor(length: number, words: () => readonly Step[]) {
    this.length = length;
    this.#words = words;
  }

  at(index: number): string | undefined {
    const step = this.#words()[index];
    const about = step?.options.about;
    return about === undefined ? step?.name : `${step?.name} ${about}`;
  }
}

/** What can be run once. */
export interface Runnable {
  /** Object id under which the worker stays for its next program; 0: it exits. */
  readonly park: Num;
  /** Returns the message for a worker. The program cannot be added to any more. */
  encode(): EncodedProgram;
  /** Returns the program as strace-like text, one step a line. */
  explain(): string;
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

/** A program as it was encoded once, and where in it are the values that vary: each by its number in the specification. */
interface Pattern {
  readonly bytes: Buffer;
  readonly count: number;
  readonly numbers: readonly (readonly [at: number, value: number])[];
  readonly texts: readonly (readonly [at: number, value: number])[];
  readonly imports: readonly (readonly [object: number | { readonly value: number }, which: number])[];
  readonly park: { readonly value: number } | undefined;
}

/** Programs of one function: of which shapes there was one, and the patterns of those with two, with what their plan returned. */
interface KnownShapes {
  readonly seen: Set<string>;
  readonly patterns: Map<string, { readonly pattern: Pattern; readonly planned: unknown }>;
}

const SHAPES = new WeakMap<Abi, WeakMap<object, KnownShapes>>();
/** Of one function: 20 KiB each, for guests that are alike but for the lengths of their names. */
const PATTERNS_MAX = 32;
const SEEN_MAX = 64;
/** Guests that are alike are less; commands may be megabytes. */
const KEY_MAX = 8192;

function shapesOf(abi: Abi, plan: object): KnownShapes {
  const byPlan = SHAPES.get(abi) ?? new WeakMap<object, KnownShapes>();
  SHAPES.set(abi, byPlan);
  const shapes = byPlan.get(plan) ?? { seen: new Set<string>(), patterns: new Map() };
  byPlan.set(plan, shapes);
  return shapes;
}

/** Makes room for one more: the oldest goes. */
function makeRoom(known: Set<string> | Map<string, unknown>, most: number): void {
  for (const key of known.keys()) {
    if (known.size < most) return;
    known.delete(key);
  }
}

/** `which` of an import: descriptors of a client (native/wire.h). */
export const CLIENT_FD = { stdin: 0, stdout: 1, stderr: 2, socket: 3 } as const;

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
export class Program implements Runnable {
  readonly abi: Abi;
  readonly #blocks: Block[] = [];
  #block: Block;
  #data: Buffer = takeSpare(0);
  #dataView: DataView = viewOf(this.#data);
  #dataLength = 0;
  readonly #texts = new Map<string, Data>();
  readonly #constants = new Map<string, Data>();
  /** Places of bytes, and of texts that vary, which are no others' by chance. */
  readonly #bytes = new Map<Uint8Array | Varying, Data>();
  readonly #flags: KnownFlags;
  /** Of each pointer where it is, then what it points to. Flat, as all that hundreds are of: pairs would be objects each. */
  #relocs: number[] = [];
  readonly #imports: [Num, number][] = [];
  readonly #plan: ((p: Program) => unknown) | undefined;
  #out: Data | undefined;
  readonly #end = new Label();
  /** Objects that its run makes. */
  readonly objects: number[] = [];
  park: Num = 0;
  /** Told when it is encoded what its copies are made of. */
  #record: ((pattern: Pattern) => void) | undefined;
  #varying: readonly Varying[] = [];

  constructor(abi: Abi, plan?: (p: Program) => unknown) {
    this.abi = abi;
    this.#flags = knownFlags(abi);
    this.#plan = plan;
    this.#block = this.#addBlock('worker');
  }

  /**
   * Returns the program of the steps that `plan` adds, the same ones whenever it is called, and what it returns. Of programs
   * whose specifications differ only in what varies the third one, and all that follow, are copies of the second with other
   * values in the same places. What the steps say is made when one has failed, by planning anew; of other programs each
   * step's words are kept, which take ten times the memory of what is sent.
   *
   * @param plan one function for all of a kind, which looks at nothing but the specification
   */
  static alike<S extends object, T>(
    abi: Abi,
    spec: Shaped<S> & S,
    plan: (p: Program, spec: S) => T,
  ): { readonly program: Runnable; readonly planned: T } {
    const { seen, patterns } = shapesOf(abi, plan);
    const { key, varying } = shapeOf(spec);
    const again = (p: Program): T => plan(p, spec);
    const known = patterns.get(key);
    // What was planned is of the same function, so of the same type.
    if (known) return { program: new Copy(abi, known.pattern, varying, again), planned: known.planned as T };
    const program = new Program(abi, again);
    const planned = again(program);
    if (key.length > KEY_MAX) return { program, planned };
    if (seen.has(key)) {
      program.#varying = varying;
      program.#record = (pattern) => {
        makeRoom(patterns, PATTERNS_MAX);
        patterns.set(key, { pattern, planned });
      };
    } else {
      makeRoom(seen, SEEN_MAX);
      seen.add(key);
    }
    return { program, planned };
  }

  #addBlock(title: string): Block {
    const block = new Block(title, this.#plan === undefined);
    this.#blocks.push(block);
    return block;
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
      this.#data = grown(this.#data, this.#dataLength, end);
      this.#dataView = viewOf(this.#data);
    }
    if (typeof content !== 'number') this.#data.set(content, offset);
    this.#dataLength = end;
    return new Data(offset, length, text ?? (() => `<${length} bytes>`));
  }

  /** Puts a NUL-terminated text into the data area, each text once; bytes that are not UTF-8 as `textOfBytes` has them. */
  text(value: string): Data {
    let place = this.#texts.get(value);
    if (place === undefined) {
      place = this.data(bytesIn(value) + 1, () => JSON.stringify(value));
      writeText(this.#data, place.offset, value);
      this.#texts.set(value, place);
    }
    return place;
  }

  #place(arg: string | Uint8Array | Varying<string>): Data {
    if (typeof arg === 'string') return this.text(arg);
    let place = this.#bytes.get(arg);
    if (place === undefined) {
      if (arg instanceof Varying) {
        place = this.data(bytesIn(arg) + 1, () => JSON.stringify(arg.value));
        writeText(this.#data, place.offset, arg.value);
      } else place = this.data(arg);
      this.#bytes.set(arg, place);
    }
    return place;
  }

  /** Puts a NUL-terminated text into the data area, whichever it is. */
  anyText(text: Text): Data {
    return this.#place(text);
  }

  /** Writes an integer (2, 4 or 8 bytes) into the data area now. */
  put(place: Data, value: number | bigint, bytes: 2 | 4 | 8 = 4): void {
    const view = this.#dataView;
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
    this.#relocs.push(at.offset, target.offset);
  }

  /** A kernel structure in the data area; Data values become pointers. */
  struct(name: string, fields: Readonly<Record<string, number | bigint | Flags | Data>>): Data {
    const place = this.data(sizeOf(this.abi, name), name);
    for (const field of Object.keys(fields)) {
      const value = fields[field] ?? 0;
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
  vector(texts: readonly Text[]): Data {
    const place = this.data(
      8 * (texts.length + 1),
      () => `[${texts.map((t) => JSON.stringify(wordsOf(t))).join(', ')}]`,
    );
    texts.forEach((t, i) => {
      this.pointer(place.at(8 * i), this.#place(t));
    });
    return place;
  }

  /** A descriptor of syscalld's object table. */
  import(object: Num, which = 0): Import {
    let index = this.#imports.findIndex(([o, w]) => o === object && w === which);
    if (index < 0) index = this.#imports.push([object, which]) - 1;
    return new Import(index, `object ${numberOf(object)}${which ? `.${which}` : ''}`);
  }

  /** The slice of the data area that comes back when the worker is done. */
  returns(place: Data): void {
    this.#out = place;
  }

  #push(
    op: number,
    name: string,
    args: readonly (Arg | Offset)[],
    options: StepOptions = {},
    target: Label | undefined = options.otherwise?.to,
  ): Result {
    const block = this.#block;
    const result = new Result(block, block.count);
    const at = block.extend(1);
    const { view } = block;
    const le = this.abi.littleEndian;
    view.setUint32(at, op, le);
    if (op === OP.syscall) view.setUint32(at + 4, this.abi.syscalls[name] ?? 0, le);
    const { ignore, otherwise } = options;
    if (otherwise || ignore) {
      view.setUint8(at + 14, otherwise ? RULE.jump : RULE.ignore);
      this.#pushErrnos(name, view, at + 20, otherwise?.on ?? ignore ?? []);
    }
    if (target) block.jumps.push([at + 16, target]);
    for (let i = 0; i < args.length; i++) this.#pushArg(block, at + 8 + i, at + 32 + 8 * i, args[i] ?? 0);
    block.words?.push({ op, name, args, options, target });
    return result;
  }

  #pushErrnos(name: string, view: DataView, at: number, errnos: readonly string[]): void {
    if (errnos.length > 4)
      throw new BugError(
        'too-many-errnos',
        `cannot encode "${name}": found ${errnos.length} errnos; need at most 4`,
      );
    for (let i = 0; i < errnos.length; i++)
      view.setInt16(at + 2 * i, this.#errno(errnos[i] ?? ''), this.abi.littleEndian);
  }

  #pushArg(block: Block, kindAt: number, valueAt: number, arg: Arg | Offset): void {
    let kind: number = ARG.imm;
    let low: number;
    let high = 0;
    if (typeof arg === 'number' || arg instanceof Flags) {
      const value = typeof arg === 'number' ? arg : arg.value;
      low = value >>> 0;
      high = value < 0 ? 0xffffffff : Math.floor(value / 2 ** 32);
    } else if (arg instanceof Result) {
      kind = ARG.result;
      low = arg.index;
      if (arg.block === block) block.results.push(valueAt);
      else if (arg.block !== this.#blocks[0]) block.foreign.push([valueAt, arg.block]);
    } else if (arg instanceof Import) {
      kind = ARG.import;
      low = arg.index;
    } else if (typeof arg === 'bigint') {
      low = Number(BigInt.asUintN(32, arg));
      high = Number(BigInt.asUintN(32, arg >> 32n));
    } else if (arg instanceof Offset) {
      low = arg.value;
    } else if (arg instanceof Varying && typeof arg.value === 'number') {
      low = unsigned(arg.value);
      block.varying.push([this.#lowAt(valueAt), arg]);
    } else {
      const place = arg instanceof Data ? arg : this.#place(arg as string | Uint8Array | Varying<string>);
      kind = ARG.data;
      low = place.offset;
      high = place.length;
    }
    block.view.setUint8(kindAt, kind);
    const lowAt = this.#lowAt(valueAt);
    block.view.setUint32(lowAt, low, this.abi.littleEndian);
    if (high !== 0) block.view.setUint32(2 * valueAt + 4 - lowAt, high, this.abi.littleEndian);
  }

  /** Where the low half of a 64-bit number is. */
  #lowAt(valueAt: number): number {
    return this.abi.littleEndian ? valueAt : valueAt + 4;
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
      readonly object?: Num;
      readonly about?: string;
    },
    body: () => void,
  ): Result {
    const outer = this.#block;
    const block = this.#addBlock(title);
    if (options.object !== undefined) this.objects.push(numberOf(options.object));
    const about = options.about ?? title;
    const result = this.#push(
      OP.spawn,
      'clone3',
      [options.flags ?? 0, options.cgroup ?? -1, options.object ?? 0],
      { about },
      block.start,
    );
    this.#block = block;
    body();
    this.#block = outer;
    return result;
  }

  /** data[place] = value, 4 or 8 bytes. */
  store(place: Data, value: Arg, bytes: 4 | 8 = 4): void {
    this.#push(OP.store, 'store', [new Offset(place.offset), bytes, value]);
  }

  /** The integer at a place of the data area. */
  load(place: Data, bytes: 4 | 8 = 4): Result {
    return this.#push(OP.load, 'load', [new Offset(place.offset), bytes]);
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
      [new Offset(place.offset), length, new Offset(bytes.offset), 0, this.#errno(errno)],
      otherwise === undefined ? { about } : { about, otherwise: { on: [errno], to: otherwise } },
    );
  }

  /** Writes a number in decimal and a NUL; the result is the count of digits. `place` needs 21 bytes. */
  itoa(place: Data, value: Result): Result {
    return this.#push(OP.itoa, 'itoa', [new Offset(place.offset), place.length, value]);
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
    label.block = this.#block;
    label.index = this.#block.count;
  }

  /** syscalld keeps a descriptor as `object`; with a pid it is a pidfd to be watched. */
  keep(fd: Result, object: Num, pid: Result | number = 0): void {
    this.objects.push(numberOf(object));
    this.#push(OP.keep, 'keep', [fd, object, pid], { about: `as object ${numberOf(object)}` });
  }

  /** syscalld keeps the other end of a child's `takeProgram` or `fakeinit` as the worker `object`. */
  keepWorker(socket: Arg, object: Num): void {
    this.objects.push(numberOf(object));
    this.#push(OP.keep, 'keep', [socket, object, -1], { about: `as worker ${numberOf(object)}` });
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
  fakeinit(command: Result, tell: Arg, object: Num): void {
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

  /** Lays the blocks out one after the other; the worker's jumps over its children's to the end. Returns the count of steps. */
  #layout(): number {
    const [worker] = this.#blocks;
    if (this.#end.block === undefined && worker && this.#blocks.length > 1) {
      for (const block of this.#blocks) {
        this.#block = block;
        if (block === worker) this.#push(OP.jump, 'jump', [], { about: 'end' }, this.#end);
        else this.exit(0);
      }
    }
    let count = 0;
    for (const block of this.#blocks) {
      block.first = count;
      count += block.count;
    }
    this.#end.block = worker;
    this.#end.index = count;
    return count;
  }

  /** The blocks, laid out, with the words of their steps. */
  #wordedBlocks(): readonly Block[] {
    const p = this.#plan === undefined ? this : new Program(this.abi);
    this.#plan?.(p);
    p.#layout();
    return p.#blocks;
  }

  encode(): EncodedProgram {
    const count = this.#layout();
    this.data(1); // the data area ends with a zero byte
    const relocs = this.#relocs;
    const dataAt = HEADER_BYTES + count * STEP_BYTES + relocs.length * 4;
    const total = dataAt + this.#dataLength;
    const { bytes: most, steps: mostSteps, imports: mostImports } = MACHINE_LIMITS;
    if (total > most || count > mostSteps || this.#imports.length > mostImports) {
      throw new BugError(
        'program-too-big',
        `cannot encode a program: found ${total} bytes, ${count} steps, ${this.#imports.length} imports; ` +
          `need at most ${most}, ${mostSteps}, ${mostImports}`,
      );
    }
    const memory = takeSpare(total);
    const view = viewOf(memory);
    const le = this.abi.littleEndian;
    const header = [MAGIC, count, relocs.length / 2, this.#dataLength, this.#imports.length];
    header.push(this.#out?.offset ?? 0, this.#out?.length ?? 0, numberOf(this.park));
    for (let i = 0; i < header.length; i++) view.setUint32(4 * i, header[i] ?? 0, le);
    for (const block of this.#blocks) this.#finishBlock(block, memory);
    const relocsAt = HEADER_BYTES + count * STEP_BYTES;
    for (let i = 0; i < relocs.length; i++) view.setUint32(relocsAt + 4 * i, relocs[i] ?? 0, le);
    this.#data.copy(memory, dataAt, 0, this.#dataLength);
    giveSpare(this.#data, this.#dataLength);
    this.#record?.(this.#patternOf(memory.subarray(0, total), count, dataAt));
    this.#forget();
    const stepNames = new StepNames(count, () => this.words());
    const release = (): void => giveSpare(memory, total);
    const imports = this.#imports.map(([object, which]) => [numberOf(object), which] as const);
    return { bytes: memory.subarray(0, total), imports, stepNames, release };
  }

  /** What copies of the program are made of, which is encoded as `bytes`. */
  #patternOf(bytes: Buffer, count: number, dataAt: number): Pattern {
    const numbers = new Map(this.#varying.map((value, i) => [value, i]));
    const indexOf = (varying: Varying): number => {
      const value = numbers.get(varying);
      if (value !== undefined) return value;
      throw new BugError(
        'varying-misused',
        'cannot copy a program: found a value that is not of its specification',
      );
    };
    return {
      bytes: Buffer.from(bytes),
      count,
      numbers: this.#blocks.flatMap(({ first, varying }) =>
        varying.map(([at, number]) => [HEADER_BYTES + first * STEP_BYTES + at, indexOf(number)] as const),
      ),
      texts: [...this.#bytes].flatMap(([text, { offset }]) =>
        text instanceof Varying ? [[dataAt + offset, indexOf(text)] as const] : [],
      ),
      imports: this.#imports.map(([object, which]) => [
        object instanceof Varying ? { value: indexOf(object) } : object,
        which,
      ]),
      park: this.park instanceof Varying ? { value: indexOf(this.park) } : undefined,
    };
  }

  /** Of a program that runs only its steps' numbers and words are asked for: the rest would grow old with it. */
  #forget(): void {
    this.#relocs = [];
    for (const places of [this.#texts, this.#constants, this.#bytes]) places.clear();
    for (const block of this.#blocks) block.forget();
  }

  /** Puts a block's steps in their place, with the numbers that they have now. */
  #finishBlock(block: Block, memory: Buffer): void {
    const { bytes, view, first, count } = block;
    const le = this.abi.littleEndian;
    const low = this.#lowAt(0);
    if (first > 0) addToEach(view, le, block.results, low, first);
    for (const [at, of] of block.foreign) addToEach(view, le, [at], low, of.first);
    for (const [at, to] of block.jumps) {
      if (to.block === undefined)
        throw new BugError('label-not-placed', 'cannot encode a jump: found a label that no block places');
      view.setUint32(at, to.number, le);
    }
    bytes.copy(memory, HEADER_BYTES + first * STEP_BYTES, 0, count * STEP_BYTES);
    giveSpare(bytes, count * STEP_BYTES);
  }

  explain(): string {
    const lines: string[] = [];
    for (const { title, first, words = [] } of this.#wordedBlocks()) {
      lines.push(`${title}:`);
      for (const [i, step] of words.entries()) lines.push(`  ${explainStep(first + i, step)}`);
    }
    return `${lines.join('\n')}\n`;
  }

  /** Its steps in words, in order. */
  words(): readonly Step[] {
    return this.#wordedBlocks().flatMap(({ words = [] }) => words);
  }
}

/** Where `park` is in the header. */
const PARK_AT = 28;

/** A program like an earlier one. */
class Copy implements Runnable {
  readonly park: Num;
  readonly #abi: Abi;
  readonly #pattern: Pattern;
  readonly #varying: readonly Varying[];
  readonly #plan: (p: Program) => unknown;

  constructor(abi: Abi, pattern: Pattern, varying: readonly Varying[], plan: (p: Program) => unknown) {
    this.#abi = abi;
    this.#pattern = pattern;
    this.#varying = varying;
    this.#plan = plan;
    this.park = pattern.park ? this.#number(pattern.park.value) : 0;
  }

  #number(value: number): number {
    return unsigned(Number(this.#varying[value]?.value));
  }

  encode(): EncodedProgram {
    const { bytes, count, numbers, texts, imports, park } = this.#pattern;
    const memory = takeSpare(bytes.length);
    bytes.copy(memory);
    const view = viewOf(memory);
    const le = this.#abi.littleEndian;
    if (park) view.setUint32(PARK_AT, this.#number(park.value), le);
    for (const [at, value] of numbers) view.setUint32(at, this.#number(value), le);
    for (const [at, value] of texts) writeText(memory, at, String(this.#varying[value]?.value));
    return {
      bytes: memory.subarray(0, bytes.length),
      imports: imports.map(([object, which]) => [
        typeof object === 'number' ? object : this.#number(object.value),
        which,
      ]),
      stepNames: new StepNames(count, () => this.#planned().words()),
      release: () => {
        giveSpare(memory, bytes.length);
      },
    };
  }

  #planned(): Program {
    return new Program(this.#abi, this.#plan);
  }

  explain(): string {
    return this.#planned().explain();
  }
}

/** A number of an object, of an owner: what varies is small. */
function unsigned(number: number): number {
  if (number === number >>> 0) return number;
  throw new BugError('varying-misused', `cannot encode ${number}: need an unsigned number of 32 bits`);
}

/** Writes a text where there is room for it and its NUL; bytes that are not UTF-8 as `textOfBytes` has them. */
function writeText(to: Buffer, offset: number, text: string): void {
  if (text.includes('\0')) throw new BugError('nul-in-text', 'cannot encode a text: found a NUL in it');
  if (text.isWellFormed()) to.write(text, offset);
  else to.set(bytesOfText(text), offset);
}

/** Adds a number to each of those at these places, from `at` on. */
function addToEach(
  view: DataView,
  isLittleEndian: boolean,
  places: readonly number[],
  at: number,
  by: number,
): void {
  for (let i = 0; i < places.length; i++) {
    const place = at + (places[i] ?? 0);
    view.setUint32(place, view.getUint32(place, isLittleEndian) + by, isLittleEndian);
  }
}

function explainArg(arg: Arg | Offset): string {
  if (arg instanceof Result) return `r${arg.number}`;
  if (arg instanceof Data || arg instanceof Import || arg instanceof Flags) return arg.text;
  if (arg instanceof Varying) return JSON.stringify(arg.value);
  if (arg instanceof Uint8Array) return `<${arg.length} bytes>`;
  if (arg instanceof Offset) return String(arg.value);
  return typeof arg === 'string' ? JSON.stringify(arg) : String(arg);
}

function explainStep(number: number, step: Step): string {
  const { ignore, otherwise, about } = step.options;
  const rule = otherwise
    ? ` | ${otherwise.on.join(', ') || 'error'}: go to ${otherwise.to.number}`
    : ignore
      ? ` | ignore ${ignore.join(', ') || 'errors'}`
      : '';
  const target = step.op === OP.jump || step.op === OP.spawn ? ` → ${step.target?.number ?? 0}` : '';
  const call = `${step.name}(${step.args.map(explainArg).join(', ')})${target}`;
  return `${String(number).padStart(3)} ${call}${rule}${about === undefined ? '' : `   # ${about}`}`;
}
