/**
 * Options of `vserver limit`, which are those of `vlimit`: -M, -S and -H say which limit the next value is for, so their
 * order on the command line counts.
 */
import { UserError } from '../base/errors.ts';
import { LIMIT_ROW_SPECS, LIMIT_ROWS, type LimitRowName } from '../resources/limit-rows.ts';
import type { Option } from './option.ts';

/** A value for one row, as it stands on the command line. */
export interface LimitWord {
  /** Its place among the words. */
  readonly at: number;
  readonly row: LimitRowName;
  readonly value: number | 'max';
}

/** Limits to set of one row, in the row's units. */
export interface LimitSetting {
  readonly row: LimitRowName;
  readonly soft?: number | 'max';
  readonly hard?: number | 'max';
}

/** The options of the rows, by the names `vlimit` has for them. */
export interface LimitValueOptions {
  readonly nproc: readonly LimitWord[];
  readonly as: readonly LimitWord[];
  readonly memlock: readonly LimitWord[];
  readonly rss: readonly LimitWord[];
  readonly anon: readonly LimitWord[];
  readonly nofile: readonly LimitWord[];
  readonly openfd: readonly LimitWord[];
  readonly locks: readonly LimitWord[];
  readonly nsock: readonly LimitWord[];
  readonly msgqueue: readonly LimitWord[];
  readonly shmem: readonly LimitWord[];
  readonly semary: readonly LimitWord[];
  readonly nsems: readonly LimitWord[];
  readonly dentry: readonly LimitWord[];
}

/** Places of -M, -S and -H among the words. */
export interface LimitKindOptions {
  readonly min: readonly number[];
  readonly soft: readonly number[];
  readonly hard: readonly number[];
}

/** Grows with every word read, of any command line: only the order within one counts. */
let words = 0;

/** Makes the option that says which limit the next value is for. */
export function limitKind(short: string, help: string): Option<readonly number[]> {
  return { kind: 'flag', short, help, isList: true, initial: [], take: (before) => [...before, words++] };
}

/** Makes the option that has a row's value. */
export function limitValue(row: LimitRowName): Option<readonly LimitWord[]> {
  const { key, unit, scope } = LIMIT_ROW_SPECS[row];
  const counted = unit === 'count' ? '' : ` in ${unit}`;
  const whose = scope === 'none' ? ', which nothing enforces' : scope === 'process' ? ' of each process' : '';
  return {
    kind: 'value',
    valueName: 'VALUE',
    help: `${row}: limits.${key}${counted}${whose}`,
    isList: true,
    initial: [],
    take: (before, text = '') => [...before, { at: words++, row, value: parseLimitValue(text) }],
  };
}

/** `vc_parseLimit` of util-vserver: K, M, G are powers of 1024, k, m, g of 1000, of whatever the row counts. */
const FACTORS: Readonly<Record<string, number>> = {
  '': 1,
  k: 1000,
  m: 1000 ** 2,
  g: 1000 ** 3,
  K: 1024,
  M: 1024 ** 2,
  G: 1024 ** 3,
};

/** Parses a value such as `200`, `100K`, `0x80` or `inf`. @throws UserError invalid-value */
export function parseLimitValue(text: string): number | 'max' {
  if (['inf', 'max', '-1'].includes(text)) return 'max';
  const [, digits = '', suffix = ''] = /^(0x[0-9a-fA-F]+|\d+)([kmgKMG]?)$/.exec(text) ?? [];
  const value = Number(digits) * (FACTORS[suffix] ?? 1);
  if (digits !== '' && Number.isSafeInteger(value)) return value;
  throw new UserError(
    'invalid-value',
    `cannot use ${JSON.stringify(text)} as limit; need a whole number with an optional k, m, g, K, M or G, or inf`,
  );
}

/** Returns the limits a command line sets, the hard ones unless it says otherwise. @throws UserError usage */
export function limitSettings(options: LimitValueOptions & LimitKindOptions): readonly LimitSetting[] {
  const values = LIMIT_ROWS.flatMap(
    (row) => options[LIMIT_ROW_SPECS[row].option as keyof LimitValueOptions], // the options are named so
  ).toSorted((a, b) => a.at - b.at);
  let from = -1;
  return values.map(({ at, row, value }) => {
    const isSaid = (places: readonly number[]): boolean => places.some((place) => place > from && place < at);
    const [min, soft, hard] = [options.min, options.soft, options.hard].map(isSaid);
    from = at;
    if (min) throw refused(row, 'minimum limits, which Linux-VServer never had', 'no -M');
    if (soft && row !== 'RSS') throw refused(row, 'no soft limit of this kind', '-H, or nothing');
    return { row, ...(soft ? { soft: value } : {}), ...(hard || !soft ? { hard: value } : {}) };
  });
}

function refused(row: LimitRowName, found: string, need: string): UserError {
  return new UserError('usage', `cannot set limit ${row}: found ${found}; need ${need}`);
}
