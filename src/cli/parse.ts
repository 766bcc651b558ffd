import { UserError } from '../base/errors.ts';
import { isGuestName, parseGuestName } from '../base/ids.ts';
import { didYouMean } from '../base/suggest.ts';
import { isHelp, isOption, OptionReader, Words } from './parse-options.ts';
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
import { hintForVerb } from './words-of-others.ts';

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
  const operand = verb === undefined ? undefined : VERBS[verb].operands[0];
  const takesGuest = operand?.kind === 'guest' || operand?.check === parseGuestName;
  if (verb === undefined || !takesGuest || !(isGuestName(first) || /^\d+$/.test(first))) {
    if (verb !== undefined && isGuestName(first) && verbHint(first) === undefined)
      throw new UserError('usage', `cannot understand "${first} ${second}"; need the verb first`, {
        hint: `see "vserver ${verb} --help"`,
      });
    // The one of both that looks like a verb.
    const isSecond = second !== undefined && verbHint(first) === undefined && verbHint(second) !== undefined;
    throw unknownVerb(isSecond ? second : first);
  }
  words.next();
  words.unshift(first);
  return verb;
}

function verbHint(word: string): string | undefined {
  return hintForVerb(word) ?? didYouMean(word, [...VERB_NAMES, ...VERB_ALIASES.keys()]);
}

function unknownVerb(word: string): UserError {
  const hint = verbHint(word) ?? 'see "vserver help"';
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
  const isAll = Reflect.get(Object(options), 'all') === true || isGiven(options, 'mark');
  if (isAll && spec.operands.some((operand) => operand.kind === 'guest')) {
    if (operands.length > 0) throw usage(verb, 'either guests, or --all or --mark');
    return;
  }
  let rest = operands;
  for (const operand of operandsOf(spec, options)) {
    const mine = operand.isMany ? rest : rest.slice(0, 1);
    const isOptional = operand.optionalWith !== undefined && isGiven(options, operand.optionalWith);
    if (mine.length < operand.min && !isOptional) throw usage(verb, describeOperand(operand));
    for (const text of mine) operand.check(text);
    rest = rest.slice(mine.length);
  }
  if (rest[0] !== undefined) throw usage(verb, `no ${JSON.stringify(rest[0])}`);
}

/** Of an option that may be given several times: whether it is. */
function isGiven(options: unknown, name: string): boolean {
  const values: unknown = Reflect.get(Object(options), name);
  return Array.isArray(values) && values.length > 0;
}

function describeOperand(operand: OperandSpec): string {
  return operand.choices === undefined ? operand.name : operand.choices.join(', ');
}

function usage(verb: string, need: string): UserError {
  return new UserError('usage', `cannot understand the command line of "${verb}"; need ${need}`, {
    hint: `see "vserver ${verb} --help"`,
  });
}
