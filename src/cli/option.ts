/**
 * One option of a verb. The verb's table is keyed by the option's long name in camel case.
 *
 * @typeParam T what the parsed command carries
 */
export interface Option<T> {
  /** `flag` takes no value, `value` needs one, `optional` takes one only as `--name=VALUE`. */
  readonly kind: 'flag' | 'value' | 'optional';
  readonly short?: string;
  /** What help calls the value, for example `SIZE`. */
  readonly valueName?: string;
  readonly help: string;
  /** The possible values where they are few; for help and completion. */
  readonly choices?: readonly string[];
  /** May be given several times. */
  readonly isList: boolean;
  /** What the parsed command carries when the option is not given. */
  readonly initial: T;
  /**
   * Takes in one occurrence.
   *
   * @param text the value; `undefined` only for a flag or an optional value that was left out
   * @throws UserError when the text is no such value
   */
  take(previous: T, text: string | undefined): T;
}

/** The options of a verb, keyed by long name in camel case. */
export type OptionTable<Options> = { readonly [Name in keyof Options]-?: Option<Options[Name]> };

/** Makes an option that is on or off; `--name=false` turns it off. */
export function flag(help: string, short?: string): Option<boolean> {
  return {
    kind: 'flag',
    ...(short === undefined ? {} : { short }),
    help,
    isList: false,
    initial: false,
    take: (_, text) => text !== 'false',
  };
}

interface ValueInfo {
  readonly short?: string;
  readonly choices?: readonly string[];
}

/** Makes an option with one value; the last occurrence counts. */
export function value<T>(
  valueName: string,
  help: string,
  parse: (text: string) => T,
  info: ValueInfo = {},
): Option<T | undefined> {
  return {
    kind: 'value',
    ...info,
    valueName,
    help,
    isList: false,
    initial: undefined,
    take: (_, text) => parse(text ?? ''),
  };
}

/** Makes an option whose occurrences add up. */
export function list<T>(
  valueName: string,
  help: string,
  parse: (text: string) => T,
  info: ValueInfo = {},
): Option<readonly T[]> {
  return joinedList(valueName, help, (text) => [parse(text)], info);
}

/** Makes an option whose occurrences add up and hold several values each. */
export function joinedList<T>(
  valueName: string,
  help: string,
  parse: (text: string) => readonly T[],
  info: ValueInfo = {},
): Option<readonly T[]> {
  return {
    kind: 'value',
    ...info,
    valueName,
    help,
    isList: true,
    initial: [],
    take: (previous, text) => [...previous, ...parse(text ?? '')],
  };
}

/** Makes an option whose value may be left out, which then means `implied`. */
export function optional<T>(
  valueName: string,
  help: string,
  parse: (text: string) => T,
  implied: T,
  info: ValueInfo = {},
): Option<T | undefined> {
  return {
    kind: 'optional',
    ...info,
    valueName,
    help,
    isList: false,
    initial: undefined,
    take: (_, text) => (text === undefined ? implied : parse(text)),
  };
}

/** Formats an option's long name, for example `--memory-swap` for `memorySwap`. */
export function longName(name: string): string {
  return `--${name.replace(/[A-Z]/g, (upper) => `-${upper.toLowerCase()}`)}`;
}
