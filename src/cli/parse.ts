import { UserError } from '../base/errors.ts';
import { isGuestName } from '../base/ids.ts';
import { didYouMean } from '../base/suggest.ts';
import { longName, type Option, type OptionTable } from './option.ts';
import {
  findVerb,
  GLOBAL_OPTIONS,
  type OperandSpec,
  VERB_ALIASES,
  VERB_NAMES,
  VERBS,
  type VerbSpec,
} from './verb-table.ts';
import type { GlobalOptions, ParsedCommand, ParsedVerb, Verb, VerbOptions } from './verb-types.ts';

/**
 * Parses a command line.
 *
 * Both orders are understood, `vserver start web` and the original's `vserver web start`; the first word decides if it
 * is a verb, so that a guest named like a verb is reachable with the verb first. `--` ends the options. In a verb that
 * runs a command the first word after the operands begins the command, and nothing behind it is looked at.
 *
 * `--help` anywhere before the command gives the verb `help`, `--version` before the verb gives `version`.
 *
 * @param argv without the program's name
 * @throws UserError usage; invalid-name and invalid-xid for operands that cannot mean a guest
 */
export function parseCommandLine(argv: readonly string[]): ParsedCommand {
  const words = new Words(argv);
  const global = new OptionReader(GLOBAL_OPTIONS, 'vserver');
  for (let word = words.peek(); isOption(word); word = words.peek()) {
    words.next();
    if (word === '--') break;
    if (word === '--version') return finish('version', [], [], global);
    if (isHelp(word)) return finish('help', words.rest().slice(0, 1), [], global);
    global.read(word, words);
  }
  const first = words.next();
  if (first === undefined) return finish('help', [], [], global);
  const verb = findVerb(first) ?? verbAfterGuest(first, words);
  return parseVerb(verb, words, global);
}

/** Takes `NAME VERB` for `VERB NAME`; puts the name back for the verb to read. */
function verbAfterGuest(first: string, words: Words): Verb {
  const second = words.peek();
  const verb = second === undefined ? undefined : findVerb(second);
  const takesGuest = verb !== undefined && VERBS[verb].operands[0]?.kind === 'guest';
  if (!takesGuest || !(isGuestName(first) || /^\d+$/.test(first))) throw unknownVerb(first);
  words.next();
  words.unshift(first);
  return verb;
}

function unknownVerb(word: string): UserError {
  const hint = didYouMean(word, [...VERB_NAMES, ...VERB_ALIASES.keys()]) ?? 'see "vserver help"';
  return new UserError('usage', `cannot understand ${JSON.stringify(word)}; need a verb`, { hint });
}

function parseVerb<V extends Verb>(
  verb: V,
  words: Words,
  global: OptionReader<GlobalOptions>,
): ParsedCommand {
  const spec: VerbSpec<VerbOptions[V]> = VERBS[verb];
  const options = new OptionReader<VerbOptions[V]>(spec.options, verb, global);
  const operands: string[] = [];
  // A verb that runs a command stops at its first word; any other takes options between and after its operands.
  const operandLimit = (): number =>
    spec.command === 'none' ? Number.POSITIVE_INFINITY : operandsOf(spec, options.values).length;
  let areOptionsOver = false;
  for (let word = words.peek(); word !== undefined; word = words.peek()) {
    if (!areOptionsOver && isOption(word)) {
      words.next();
      if (isHelp(word)) return finish('help', [verb], [], global);
      if (word === '--') areOptionsOver = true;
      else options.read(word, words);
    } else if (operands.length < operandLimit()) {
      operands.push(word);
      words.next();
    } else break;
  }
  const command = words.rest();
  checkOperands(verb, spec, operands, options.values);
  if (spec.command === 'required' && command.length === 0) throw usage(verb, 'a command');
  return finish(verb, operands, command, global, options.values);
}

/** The operands a verb has beside the options given: an option may stand for one. */
function operandsOf(spec: VerbSpec<unknown>, options: unknown): readonly OperandSpec[] {
  return spec.operands.filter(
    ({ option }) => option === undefined || Reflect.get(Object(options), option) === undefined,
  );
}

function finish<V extends Verb>(
  verb: V,
  operands: readonly string[],
  command: readonly string[],
  global: OptionReader<GlobalOptions>,
  options: VerbOptions[V] = new OptionReader<VerbOptions[V]>(VERBS[verb].options, verb).values,
): ParsedCommand {
  const parsed: ParsedVerb<V> = { verb, operands, options, command, global: global.values };
  if (verb === 'run' || verb === 'create') checkConfigCommand(verb, parsed);
  // ParsedCommand is the union of ParsedVerb over all verbs, of which this is one; the compiler cannot see that for a
  // verb it does not know.
  return parsed as ParsedVerb<Verb> as ParsedCommand;
}

function checkConfigCommand(verb: 'run' | 'create', parsed: ParsedVerb<Verb>): void {
  const { options, command } = parsed;
  if ('command' in options && options.command !== undefined && command.length > 0) {
    throw usage(verb, 'either --command or a command after the options');
  }
}

function checkOperands(
  verb: Verb,
  spec: VerbSpec<unknown>,
  operands: readonly string[],
  options: unknown,
): void {
  const marks: unknown = Reflect.get(Object(options), 'mark');
  const isAll = Reflect.get(Object(options), 'all') === true || (Array.isArray(marks) && marks.length > 0);
  if (isAll && spec.operands.some((operand) => operand.kind === 'guest')) {
    if (operands.length > 0) throw usage(verb, 'either guests, or --all or --mark');
    return;
  }
  let rest = operands;
  for (const operand of operandsOf(spec, options)) {
    const mine = operand.isMany ? rest : rest.slice(0, 1);
    if (mine.length < operand.min) throw usage(verb, describeOperand(operand));
    for (const text of mine) operand.check(text);
    rest = rest.slice(mine.length);
  }
  if (rest[0] !== undefined) throw usage(verb, `no ${JSON.stringify(rest[0])}`);
}

function describeOperand(operand: OperandSpec): string {
  return operand.choices === undefined ? operand.name : operand.choices.join(', ');
}

function usage(verb: string, need: string): UserError {
  return new UserError('usage', `cannot understand the command line of "${verb}"; need ${need}`, {
    hint: `see "vserver ${verb} --help"`,
  });
}

/** "-" alone is an operand by custom: standard input. */
function isOption(word: string | undefined): word is string {
  return word?.startsWith('-') === true && word !== '-';
}

function isHelp(word: string): boolean {
  return word === '--help' || word === '-h';
}

/** The words not read yet. */
class Words {
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
class OptionReader<Options> {
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
