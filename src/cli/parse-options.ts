/**
 * How options and their values stand on a command line; which there are is the table's.
 */
import { UserError } from '../base/errors.ts';
import { didYouMean } from '../base/suggest.ts';
import { longName, type Option, type OptionTable } from './option.ts';
import type { GlobalOptions } from './verb-types.ts';
import { hintForOption } from './words-of-others.ts';

/**
 * Parses words that are options of one table and operands, in any order; behind `--` all are operands.
 *
 * @param title whose options they are, for messages
 * @throws UserError usage
 */
export function parseOptions<Options>(
  table: OptionTable<Options>,
  title: string,
  argv: readonly string[],
): { readonly options: Options; readonly operands: readonly string[] } {
  const words = new Words(argv);
  const reader = new OptionReader<Options>(table, title);
  const operands: string[] = [];
  for (let word = words.next(); word !== undefined; word = words.next()) {
    if (word === '--') operands.push(...words.rest());
    else if (isOption(word)) reader.read(word, words);
    else operands.push(word);
  }
  return { options: reader.values, operands };
}

/** "-" alone is an operand by custom: standard input. */
export function isOption(word: string | undefined): word is string {
  return word?.startsWith('-') === true && word !== '-';
}

export function isHelp(word: string): boolean {
  return word === '--help' || word === '-h';
}

/** The words not read yet. */
export class Words {
  readonly #words: string[];

  constructor(argv: readonly string[]) {
    this.#words = [...argv];
  }

  peek(): string | undefined {
    return this.#words[0];
  }

  next(): string | undefined {
    return this.#words.shift();
  }

  unshift(word: string): void {
    this.#words.unshift(word);
  }

  rest(): string[] {
    return this.#words.splice(0);
  }
}

interface NamedOption {
  readonly name: string;
  readonly option: Option<unknown>;
}

/** A table's options by how they are written. */
interface TableIndex {
  readonly long: ReadonlyMap<string, NamedOption>;
  readonly short: ReadonlyMap<string, NamedOption>;
  readonly initial: Readonly<Record<string, unknown>>;
}

const INDEXES = new WeakMap<object, TableIndex>();

function indexOf<Options>(table: OptionTable<Options>): TableIndex {
  let index = INDEXES.get(table);
  if (index === undefined) {
    const named = Object.entries<Option<unknown>>(table).map(([name, option]) => ({ name, option }));
    index = {
      long: new Map(named.map((one) => [longName(one.name), one])),
      short: new Map(
        named.flatMap((one) => (one.option.short === undefined ? [] : [[one.option.short, one]])),
      ),
      initial: Object.fromEntries(named.map(({ name, option }) => [name, option.initial])),
    };
    INDEXES.set(table, index);
  }
  return index;
}

/** Collects the values of one table's options; what the table lacks goes to the outer reader. */
export class OptionReader<Options> {
  values: Options;
  readonly #table: TableIndex;
  readonly #verb: string;
  readonly #outer: OptionReader<GlobalOptions> | undefined;

  constructor(table: OptionTable<Options>, verb: string, outer?: OptionReader<GlobalOptions>) {
    this.#table = indexOf(table);
    this.#verb = verb;
    this.#outer = outer;
    // Each option's initial value has the type of its field: OptionTable ties the two.
    this.values = { ...this.#table.initial } as Options;
  }

  /** Reads the option that starts with `word`, and its value from `words` where it has one there. */
  read(word: string, words: Words): void {
    if (word.startsWith('--')) this.#readLong(word, words);
    else this.#readShort(word, words);
  }

  #readLong(word: string, words: Words): void {
    const at = word.indexOf('=');
    const long = at === -1 ? word : word.slice(0, at);
    const text = at === -1 ? undefined : word.slice(at + 1);
    const found = this.#find('long', long);
    if (found === undefined) throw this.#unknown(long);
    const { option, name, reader } = found;
    if (option.kind === 'flag' && text !== undefined && text !== 'true' && text !== 'false') {
      throw new UserError(
        'usage',
        `cannot use ${JSON.stringify(text)} for ${long}; need true or false, or no value`,
      );
    }
    reader.#take(name, option, long, text ?? (option.kind === 'value' ? valueFrom(words, long) : undefined));
  }

  #readShort(word: string, words: Words): void {
    for (let at = 1; at < word.length; at++) {
      const letter = word.charAt(at);
      const found = this.#find('short', letter);
      if (found === undefined) throw this.#unknown(`-${letter}`);
      const { option, name, reader } = found;
      if (option.kind === 'flag') {
        reader.#take(name, option, `-${letter}`, undefined);
        continue;
      }
      // The rest of the word is the value: -m512m and -m=512m are -m 512m.
      const rest = word.slice(at + 1).replace(/^=/, '');
      const next = option.kind === 'value' && rest === '' ? valueFrom(words, `-${letter}`) : rest;
      reader.#take(name, option, `-${letter}`, next === '' && option.kind === 'optional' ? undefined : next);
      return;
    }
  }

  #find(
    form: 'long' | 'short',
    written: string,
  ):
    | { readonly name: string; readonly option: Option<unknown>; readonly reader: OptionReader<unknown> }
    | undefined {
    const found = this.#table[form].get(written);
    if (found !== undefined) return { ...found, reader: this };
    return this.#outer === undefined ? undefined : this.#outer.#find(form, written);
  }

  #take(name: string, option: Option<unknown>, shown: string, text: string | undefined): void {
    const previous: unknown = Reflect.get(Object(this.values), name);
    try {
      const next = { [name]: option.take(previous, text) };
      this.values = { ...this.values, ...next };
    } catch (error) {
      if (!(error instanceof UserError)) throw error;
      throw new UserError('usage', `cannot take ${shown}: ${error.message}`, { cause: error });
    }
  }

  #unknown(option: string): UserError {
    const known = [...this.#names(), 'help'].map((name) => longName(name).slice(2));
    const hint =
      hintForOption(this.#verb, option) ??
      (option.startsWith('--') ? didYouMean(option.slice(2), known, '--') : undefined) ??
      (this.#outer === undefined ? 'see "vserver help"' : `see "vserver ${this.#verb} --help"`);
    return new UserError('usage', `cannot understand option ${JSON.stringify(option)} of "${this.#verb}"`, {
      hint,
    });
  }

  #names(): readonly string[] {
    return [...Object.keys(this.#table.initial), ...(this.#outer === undefined ? [] : this.#outer.#names())];
  }
}

function valueFrom(words: Words, shown: string): string {
  const text = words.next();
  if (text === undefined) throw new UserError('usage', `cannot take ${shown}: found no value; need one`);
  return text;
}
