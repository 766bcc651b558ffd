/** Checked reading of JSON values; every refusal names the place, for example `syscalls[12].args[0].op`. */
import { UserError } from '../base/errors.ts';
import { didYouMean } from '../base/suggest.ts';

/** A JSON object of which nothing is known yet. */
export type JsonObject = Readonly<Record<string, unknown>>;

const MAX_U64 = 0xffff_ffff_ffff_ffffn;

/** Reads an object that has only the given keys. */
export function readObject(value: unknown, path: string, keys: readonly string[]): JsonObject {
  if (!isObject(value)) throw invalid(path, `found ${show(value)}`, 'an object');
  for (const key of Object.keys(value)) {
    if (keys.includes(key)) continue;
    throw invalid(
      join(path, key),
      'found an unknown key',
      `one of ${keys.join(', ')}`,
      didYouMean(key, keys),
    );
  }
  return value;
}

function isObject(value: unknown): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** Reads what stands at a key; undefined if it is absent or `null`, which Docker's own profiles write for absent. */
export function optional<T>(
  object: JsonObject,
  key: string,
  path: string,
  read: (value: unknown, path: string) => T,
): T | undefined {
  const value = Object.hasOwn(object, key) ? object[key] : undefined;
  return value === undefined || value === null ? undefined : read(value, join(path, key));
}

/** Reads a list, each element with its place. */
export function readArray<T>(
  value: unknown,
  path: string,
  read: (value: unknown, path: string) => T,
): readonly T[] {
  if (!Array.isArray(value)) throw invalid(path, `found ${show(value)}`, 'a list');
  return value.map((element: unknown, position) => read(element, `${path}[${position}]`));
}

/** Reads a string. */
export function readString(value: unknown, path: string): string {
  if (typeof value !== 'string') throw invalid(path, `found ${show(value)}`, 'a string');
  return value;
}

/** Reads one of some words. */
export function readOneOf(value: unknown, path: string, allowed: readonly string[]): string {
  if (typeof value === 'string' && allowed.includes(value)) return value;
  const hint = typeof value === 'string' ? didYouMean(value, allowed) : undefined;
  throw invalid(path, `found ${show(value)}`, `one of ${allowed.join(', ')}`, hint);
}

/** Reads an integer from 0 to `max`. */
export function readInteger(value: unknown, path: string, max: number): number {
  if (typeof value === 'number' && Number.isInteger(value) && value >= 0 && value <= max) return value;
  throw invalid(path, `found ${show(value)}`, `an integer from 0 to ${max}`);
}

/** Reads an unsigned integer of 64 bits: a bigint, or a number that is exact. */
export function readU64(value: unknown, path: string): bigint {
  const wide = typeof value === 'number' && Number.isSafeInteger(value) ? BigInt(value) : value;
  if (typeof wide === 'bigint' && wide >= 0n && wide <= MAX_U64) return wide;
  throw invalid(path, `found ${show(value)}`, 'an integer from 0 to 2^64 - 1');
}

/** Names a key of the value at a place. */
export function join(path: string, key: string): string {
  const step = /^[A-Za-z_][A-Za-z0-9_]*$/.test(key) ? key : JSON.stringify(key);
  return path === '' ? step : `${path}.${step}`;
}

/** Words a value for a message. */
export function show(value: unknown): string {
  if (value === undefined) return 'nothing';
  if (value === null) return 'null';
  if (typeof value === 'bigint') return value.toString();
  return typeof value === 'object' ? (Array.isArray(value) ? 'a list' : 'an object') : JSON.stringify(value);
}

/** Words a refusal. */
export function invalid(path: string, found: string, need: string, hint?: string): UserError {
  const place = path === '' ? '' : ` ${path}:`;
  return new UserError(
    'invalid-seccomp-profile',
    `cannot read seccomp profile:${place} ${found}; need ${need}`,
    {
      hint,
    },
  );
}
