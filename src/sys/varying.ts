/**
 * What differs between programs that are alike otherwise: numbers and texts that a plan takes as they are, and never looks
 * at. So the program of one guest, with other values in the same places, is that of the next.
 */
import { BugError } from '../base/errors.ts';
import { bytesOfText } from './byte-text.ts';

/** A number or a text that is an argument of steps and nothing else: to compare it, or to make another of it, fails. */
export class Varying<T extends number | string = number | string> {
  readonly #value: T;
  constructor(value: T) {
    this.#value = value;
  }

  /** For the program's bytes, and for words about it; what is planned must not depend on it. */
  get value(): T {
    return this.#value;
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
  const value = wordsOf(text);
  return value.isWellFormed() ? Buffer.byteLength(value) : bytesOfText(value).length;
}

/** What a specification is like, and what varies in it, in order. */
export interface Shape {
  /** The same for two specifications if, and only if, they differ in nothing but the values that vary. */
  readonly key: string;
  readonly varying: readonly Varying[];
}

const BUFFERS = new WeakMap<object, number>();
let buffers = 0;

/** Returns the shape of a specification, which is plain data. Bytes are what they are as long as they are the same object. */
export function shapeOf(spec: unknown): Shape {
  const varying: Varying[] = [];
  return { key: keyOf(spec, varying), varying };
}

function keyOf(value: unknown, varying: Varying[]): string {
  switch (typeof value) {
    case 'string':
      return `${value.length}'${value}`;
    case 'object':
      break;
    case 'bigint':
      return `${value}n`;
    case 'number':
    case 'boolean':
    case 'undefined':
      return String(value);
    default:
      throw new BugError(
        'varying-misused',
        `cannot tell the shape of a specification: found a ${typeof value}`,
      );
  }
  if (value === null) return 'null';
  if (value instanceof Varying) {
    const before = varying.indexOf(value as Varying);
    if (before >= 0) return `=${before}`;
    varying.push(value as Varying);
    return typeof value.value === 'number' ? '#' : `#${bytesIn(value as Varying<string>)}`;
  }
  if (value instanceof Uint8Array) {
    const known = BUFFERS.get(value) ?? ++buffers;
    BUFFERS.set(value, known);
    return `@${known}`;
  }
  let key = Array.isArray(value) ? '[' : '{';
  for (const name of Object.keys(value))
    key += `${name.length}'${name}:${keyOf((value as Record<string, unknown>)[name], varying)},`;
  return `${key}}`;
}
