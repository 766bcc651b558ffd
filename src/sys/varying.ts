/**
 * What differs between programs that are alike otherwise: numbers and texts that a plan takes as they are, and never looks
 * at. So the program of one guest, with other values in the same places, is that of the next.
 */
import { BugError } from '../base/errors.ts';
import { bytesOfText } from './byte-text.ts';

/** What was met in the specification whose shape is being told. */
let varying: Varying[] = [];

/** A number or a text that is an argument of steps and nothing else: to compare it, or to make another of it, fails. */
export class Varying<out T extends number | string = number | string> {
  readonly #value: T;
  constructor(value: T) {
    this.#value = value;
  }

  /** For the program's bytes, and for words about it; what is planned must not depend on it. */
  get value(): T {
    return this.#value;
  }

  /** Its part in the shape of a specification. */
  toJSON(): readonly number[] {
    const before = varying.indexOf(this);
    if (before >= 0) return [before];
    varying.push(this);
    return typeof this.#value === 'number' ? [] : [bytesOf(this.#value), 0];
  }

  [Symbol.toPrimitive](): never {
    throw new BugError('varying-misused', 'cannot make anything of a value that varies: need it as it is');
  }
}

/** A number, whichever it is. */
export type Num = number | Varying<number>;
/** A text, whichever it is; of those that vary only the length counts. */
export type Text = string | Varying<string>;

/** Has a program's copies have another value in this place. */
export function vary<T extends number | string>(value: T): Varying<T> {
  return new Varying<T>(value);
}

/** Returns what a text says: for words about a step, and for those alone. */
export function wordsOf(text: Text): string {
  return text instanceof Varying ? text.value : text;
}

/** Returns a number itself: for words, and for what is no part of the program. */
export function numberOf(number: Num): number {
  return number instanceof Varying ? number.value : number;
}

/** Returns how many bytes a text has in a program, without its NUL. */
export function bytesIn(text: Text): number {
  return bytesOf(wordsOf(text));
}

function bytesOf(text: string): number {
  return text.isWellFormed() ? Buffer.byteLength(text) : bytesOfText(text).length;
}

/** Something of a specification that JSON does not tell, or not soon: wide numbers, and bytes, the same if the same object. */
export class Fixed<T extends Uint8Array | bigint = Uint8Array | bigint> {
  readonly value: T;
  constructor(value: T) {
    this.value = value;
  }

  toJSON(): readonly [string | number] {
    return [typeof this.value === 'bigint' ? `${this.value}` : identityOf(this.value)];
  }
}

const IDENTITIES = new WeakMap<Uint8Array, number>();
let identities = 0;

function identityOf(bytes: Uint8Array): number {
  let identity = IDENTITIES.get(bytes);
  if (identity === undefined) {
    identity = ++identities;
    IDENTITIES.set(bytes, identity);
  }
  return identity;
}

/** A specification of which JSON tells all but what varies. */
export type Shaped<T> = T extends string | number | boolean | undefined | Varying | Fixed | Uint8Array
  ? T
  : T extends bigint | ReadonlyMap<unknown, unknown> | ReadonlySet<unknown> | (() => unknown)
    ? never
    : { readonly [K in keyof T]: Shaped<T[K]> };

/** What a specification is like, and what varies in it, in order. */
export interface Shape {
  /** The same for two specifications if, and only if, they differ in nothing but the values that vary. */
  readonly key: string;
  readonly varying: readonly Varying[];
}

/** Both programs of a start have one. */
let last: { readonly spec: object; readonly shape: Shape } | undefined;

/** Returns the shape of a specification, which is `Shaped`. */
export function shapeOf(spec: object): Shape {
  if (last?.spec !== spec) {
    varying = [];
    last = { spec, shape: { key: JSON.stringify(spec), varying } };
  }
  return last.shape;
}
