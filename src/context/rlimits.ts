/** Resource limits of processes (setrlimit(2)): what operators write ⇄ what the kernel takes. */
import { UserError } from '../base/errors.ts';
import { didYouMean } from '../base/suggest.ts';

/** A limit, or none (RLIM_INFINITY). */
export type RlimitValue = bigint | 'unlimited';

/** Name of a limit, as `ulimit` and Docker write it. */
export type RlimitName =
  | 'as'
  | 'core'
  | 'cpu'
  | 'data'
  | 'fsize'
  | 'locks'
  | 'memlock'
  | 'msgqueue'
  | 'nice'
  | 'nofile'
  | 'nproc'
  | 'rss'
  | 'rtprio'
  | 'rttime'
  | 'sigpending'
  | 'stack';

/** What the kernel calls a limit, and what the limit counts. */
export interface RlimitInfo {
  /** RLIMIT_… */
  readonly number: number;
  readonly unit: 'bytes' | 'count' | 'microseconds' | 'priority' | 'seconds';
}

/** One resource limit. */
export interface Rlimit {
  readonly name: RlimitName;
  readonly soft: RlimitValue;
  readonly hard: RlimitValue;
}

/**
 * Numbers (asm-generic/resource.h, which x86, arm, riscv, s390 and powerpc use) and what the limit counts.
 *
 * `nproc`, `memlock`, `sigpending` and `msgqueue` count per user and user namespace since Linux 5.14 (commit 21d1c5e386bc and
 * its followers), so guests do not use up each other's.
 */
export const RLIMITS: Readonly<Record<RlimitName, RlimitInfo>> = {
  as: { number: 9, unit: 'bytes' },
  core: { number: 4, unit: 'bytes' },
  cpu: { number: 0, unit: 'seconds' },
  data: { number: 2, unit: 'bytes' },
  fsize: { number: 1, unit: 'bytes' },
  locks: { number: 10, unit: 'count' },
  memlock: { number: 8, unit: 'bytes' },
  msgqueue: { number: 12, unit: 'bytes' },
  nice: { number: 13, unit: 'priority' },
  nofile: { number: 7, unit: 'count' },
  nproc: { number: 6, unit: 'count' },
  rss: { number: 5, unit: 'bytes' },
  rtprio: { number: 14, unit: 'priority' },
  rttime: { number: 15, unit: 'microseconds' },
  sigpending: { number: 11, unit: 'count' },
  stack: { number: 3, unit: 'bytes' },
};

/** RLIM_INFINITY of the 64-bit calls (prlimit64(2)). */
const RLIM_INFINITY = 0xffff_ffff_ffff_ffffn;

/**
 * Reads Docker's `--ulimit name=soft[:hard]`; without `hard` both are the same. `-1` and `unlimited` are no limit.
 *
 * @throws UserError invalid-rlimit
 */
export function parseUlimit(text: string): Rlimit {
  const split = text.indexOf('=');
  if (split === -1) throw invalid(text, 'found no "="', '"name=soft" or "name=soft:hard"');
  return readRlimit(text, text.slice(0, split), text.slice(split + 1));
}

/**
 * Reads the limits of a configuration: name to a number, `"soft"`, or `"soft:hard"`.
 *
 * @returns sorted by name
 * @throws UserError invalid-rlimit, also for one limit under two names
 */
export function parseRlimits(map: Readonly<Record<string, string | number>>): readonly Rlimit[] {
  const limits = new Map<RlimitName, Rlimit>();
  for (const [name, value] of Object.entries(map)) {
    const limit = readRlimit(`${name}: ${value}`, name, String(value));
    if (limits.has(limit.name)) throw invalid(`${name}: ${value}`, `found "${limit.name}" twice`, 'it once');
    limits.set(limit.name, limit);
  }
  return [...limits.values()].sort((left, right) => (left.name < right.name ? -1 : 1));
}

function readRlimit(shown: string, nameText: string, valueText: string): Rlimit {
  const name = readName(shown, nameText);
  const [softText = '', hardText = softText, ...extra] = valueText.split(':');
  if (extra.length > 0) throw invalid(shown, 'found more than one ":"', '"soft:hard"');
  const soft = readValue(shown, softText);
  const hard = readValue(shown, hardText);
  if (rlimitNumber(soft) > rlimitNumber(hard)) {
    throw invalid(shown, `found soft limit ${soft} above hard limit ${hard}`, 'soft at most hard');
  }
  return { name, soft, hard };
}

/** The OCI runtime spec writes `RLIMIT_NOFILE`. */
function readName(shown: string, text: string): RlimitName {
  const name = text.toLowerCase().replace(/^rlimit_/, '');
  if (isRlimitName(name)) return name;
  const names = Object.keys(RLIMITS);
  throw invalid(
    shown,
    `found unknown limit ${JSON.stringify(text)}`,
    `one of ${names.join(', ')}`,
    didYouMean(name, names),
  );
}

function isRlimitName(name: string): name is RlimitName {
  return Object.hasOwn(RLIMITS, name);
}

function readValue(shown: string, text: string): RlimitValue {
  if (text === '-1' || text === 'unlimited') return 'unlimited';
  const value = /^\d{1,20}$/.test(text) ? BigInt(text) : undefined;
  // 2^64 - 1 itself is RLIM_INFINITY: one value, one spelling.
  if (value !== undefined && value < RLIM_INFINITY) return value;
  throw invalid(shown, `found ${JSON.stringify(text)}`, 'a number from 0 to 2^64 - 2, or "unlimited"');
}

function invalid(shown: string, found: string, need: string, hint?: string): UserError {
  return new UserError(
    'invalid-rlimit',
    `cannot read resource limit ${JSON.stringify(shown)}: ${found}; need ${need}`,
    { hint },
  );
}

/** Gives the number the kernel takes: unsigned, 64 bits, all ones for no limit. */
export function rlimitNumber(value: RlimitValue): bigint {
  return value === 'unlimited' ? RLIM_INFINITY : value;
}

/** A limit of setrlimit(2), by its number. */
export interface ProcessLimit {
  readonly resource: number;
  readonly soft: number | 'unlimited';
  readonly hard: number | 'unlimited';
}

/** Returns a limit as prlimit64(2) takes it. */
export function toRlim(limit: number | 'unlimited'): bigint {
  return limit === 'unlimited' ? RLIM_INFINITY : BigInt(limit);
}
