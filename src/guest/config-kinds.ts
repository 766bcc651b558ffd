/** Kinds of values in a guest's configuration, each with what it has to be. */
import * as z from 'zod';
import { UserError } from '../base/errors.ts';
import { parseShellWords } from '../base/shell-words.ts';
import { parseDuration, parseSize } from '../base/units.ts';

/** Whether a word can be a mark. */
export function isMark(word: string): boolean {
  return /^[\w.-]{1,64}$/.test(word);
}

/** `__NEW_UTS_LEN`, include/uapi/linux/utsname.h. */
const MAX_HOSTNAME = 64;
const NEED_SIZE = 'a size in bytes or text such as 512m';

export function parsed<Out>(
  schema: z.ZodType<string | number>,
  need: string,
  parse: (text: string) => Out,
): z.ZodType<Out> {
  return schema.transform((value, context) => {
    try {
      return parse(String(value));
    } catch (error) {
      if (!(error instanceof UserError)) throw error;
      context.addIssue({ code: 'custom', message: need });
      return z.NEVER;
    }
  });
}

export function text(need: string, isValid: (value: string) => boolean): z.ZodType<string> {
  return z
    .string({ error: need })
    .refine((value) => !value.includes('\0') && isValid(value), { error: need });
}

export function integer(need: string, min: number, max: number): z.ZodType<number> {
  return z.int({ error: need }).min(min, { error: need }).max(max, { error: need });
}

export function choice<const Name extends string>(names: readonly [Name, ...Name[]]): z.ZodType<Name> {
  return z.enum(names, { error: names.map((name) => `"${name}"`).join(' or ') });
}

export function size(minBytes: number): z.ZodType<number> {
  const need = minBytes === 0 ? NEED_SIZE : `${NEED_SIZE}, at least ${minBytes} bytes`;
  const bytes = parsed(z.union([z.int({ error: need }), z.string()], { error: need }), need, parseSize);
  return bytes.refine((value) => value >= minBytes, { error: need });
}

export function sizeOrMax(minBytes: number): z.ZodType<number | 'max'> {
  const need = `${NEED_SIZE}, at least ${minBytes} bytes, or "max"`;
  const limit = parsed(z.union([z.int({ error: need }), z.string()], { error: need }), need, (value) =>
    value === 'max' ? ('max' as const) : parseSize(value),
  );
  return limit.refine((value) => value === 'max' || value >= minBytes, { error: need });
}

export function countOrMax(min: number): z.ZodType<number | 'max'> {
  const need = `a whole number of ${min} or more, or "max"`;
  return z.union([integer(need, min, Number.MAX_SAFE_INTEGER), z.literal('max')], { error: need });
}

export function duration(initial: string): z.ZodPrefault<z.ZodType<number>> {
  return parsed(z.string({ error: NEED_DURATION }), NEED_DURATION, parseDuration).prefault(initial);
}

export const boolean: z.ZodBoolean = z.boolean({ error: 'true or false' });
export const NEED_PATH = 'an absolute path without "." and ".."';
export const path: z.ZodType<string> = text(NEED_PATH, isPlainPath);
const NEED_TARGET = 'an absolute path below the guest\'s root without "." and ".."';
export const target: z.ZodType<string> = text(NEED_TARGET, (value) => isPlainPath(value) && value !== '/');

export function isPlainPath(value: string): boolean {
  if (!value.startsWith('/')) return false;
  return (
    value === '/' ||
    value
      .slice(1)
      .split('/')
      .every((part) => part !== '' && part !== '.' && part !== '..')
  );
}

const NEED_WORD = 'text, numbers and words such as yes in quotes where they could be misread';
/** A fraction is refused: YAML reads 1.10 as 1.1, which is not what was written. */
const scalarText: z.ZodType<string> = z
  .union([z.string(), z.int({ error: NEED_WORD }), z.boolean()], { error: NEED_WORD })
  .transform(String)
  .refine((value) => !value.includes('\0'), { error: NEED_WORD });

export const NEED_MAP = 'a mapping of keys to values';

export function textMap(need: string, isKey: (key: string) => boolean): z.ZodType<Record<string, string>> {
  return z.record(z.string().refine(isKey, { error: need }), scalarText, { error: NEED_MAP });
}

const NEED_COMMAND = 'a list of words, or text that is split as the shell does but not expanded';
export const command: z.ZodType<string[]> = z
  .union([z.string(), z.array(z.string({ error: NEED_COMMAND }), { error: NEED_COMMAND })], {
    error: NEED_COMMAND,
  })
  .transform((value, context) => {
    try {
      const words = typeof value === 'string' ? parseShellWords(value) : value;
      if (words[0] !== undefined && words[0] !== '' && !words.some((word) => word.includes('\0')))
        return words;
    } catch (error) {
      if (!(error instanceof UserError)) throw error;
    }
    context.addIssue({ code: 'custom', message: NEED_COMMAND });
    return z.NEVER;
  });

export function isAccepted(parse: () => unknown): boolean {
  try {
    parse();
    return true;
  } catch (error) {
    if (error instanceof UserError) return false;
    throw error;
  }
}

const HOSTNAME = /^[a-zA-Z0-9]([a-zA-Z0-9.-]*[a-zA-Z0-9])?$/;
export const NEED_HOSTNAME: string = `a host name of at most ${MAX_HOSTNAME} letters, digits, "-" and "."`;
export const hostname: z.ZodType<string> = text(NEED_HOSTNAME, isHostname);

export function isHostname(value: string): boolean {
  return value.length <= MAX_HOSTNAME && HOSTNAME.test(value);
}

const NEED_DURATION = 'a duration with units, for example 10s';
export const NEED_MARK = 'a word of letters, digits, "_", "." and "-"';
export function dropAbsent<Fields extends object>(fields: Fields): Present<Fields> {
  return Object.fromEntries(
    Object.entries(fields).filter(([, value]) => value !== undefined),
  ) as Present<Fields>; // that is what is left
}

type Present<Fields> = { [Name in keyof Fields]: Exclude<Fields[Name], undefined> };
