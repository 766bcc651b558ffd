import { longName, type Option, type OptionTable } from './option.ts';
import {
  COMMON_EXITS,
  GLOBAL_OPTIONS,
  type OperandSpec,
  VERB_ALIASES,
  VERB_NAMES,
  VERBS,
  type VerbSpec,
} from './verb-table.ts';
import type { Verb } from './verb-types.ts';

const WIDTH = 100;

/** Formats the list of verbs and global options. */
export function formatGeneralHelp(): string {
  const verbs = VERB_NAMES.map((name) => [name, VERBS[name].summary] as const);
  return [
    'usage: vserver [OPTIONS] VERB [ARGUMENTS]',
    '       vserver [OPTIONS] GUEST VERB [ARGUMENTS]',
    '',
    wrap(
      'Runs guests on the kernel of the host. GUEST is the name of a guest or the xid of its context.',
      '',
    ),
    '',
    'verbs:',
    formatPairs(verbs),
    '',
    'options of every verb:',
    formatPairs(optionPairs(GLOBAL_OPTIONS, true)),
    '',
    'See "vserver VERB --help" for a verb.',
    '',
  ].join('\n');
}

/** Formats the help of one verb: usage, description, options, examples and exit codes. */
export function formatVerbHelp(verb: Verb): string {
  const spec: VerbSpec<object> = VERBS[verb];
  const own = optionPairs(spec.options, false);
  return [
    `usage: ${formatUsage(verb)}`,
    ...aliasLines(verb),
    '',
    wrap(spec.description, ''),
    '',
    ...(own.length === 0 ? [] : ['options:', formatPairs(own), '']),
    'options of every verb:',
    formatPairs(optionPairs(GLOBAL_OPTIONS, true)),
    '',
    'examples:',
    ...spec.examples.flatMap(([line, what]) => [`  # ${what}`, `  ${line}`]),
    '',
    'exit codes:',
    formatPairs(exitPairs(spec)),
    '',
  ].join('\n');
}

/** Formats the one-line usage of a verb, for example `vserver start [OPTIONS] GUEST…`. */
export function formatUsage(verb: Verb): string {
  const spec: VerbSpec<object> = VERBS[verb];
  const command = {
    none: [],
    optional: ['[--]', '[COMMAND [ARGUMENT…]]'],
    required: ['COMMAND', '[ARGUMENT…]'],
  };
  const words = [...spec.operands.map((operand) => formatOperand(operand)), ...command[spec.command]];
  return ['vserver', verb, '[OPTIONS]', ...words].join(' ');
}

/** Lists the exit codes of a verb with their meanings. */
export function exitPairs(spec: VerbSpec<object>): readonly (readonly [code: string, meaning: string])[] {
  const takesOver = spec.exits.some(([code]) => code === '125');
  return takesOver
    ? spec.exits
    : [...COMMON_EXITS, ...spec.exits].toSorted((a, b) => Number(a[0]) - Number(b[0]));
}

/** Lists options as `-m, --memory SIZE` with their help. */
export function optionPairs(
  table: OptionTable<object>,
  withHelp: boolean,
): readonly (readonly [option: string, help: string])[] {
  const pairs = Object.entries<Option<unknown>>({ ...table }).map(([name, option]) => {
    const short = option.short === undefined ? '    ' : `-${option.short}, `;
    const named = option.kind === 'optional' ? `[=${option.valueName ?? ''}]` : ` ${option.valueName ?? ''}`;
    const text = short + longName(name) + (option.kind === 'flag' ? '' : named);
    return [text, option.isList ? `${option.help} (repeatable)` : option.help] as const;
  });
  return withHelp ? [...pairs, ['-h, --help', 'print this help']] : pairs;
}

function aliasLines(verb: Verb): string[] {
  const aliases = [...VERB_ALIASES].filter(([, name]) => name === verb).map(([alias]) => alias);
  return aliases.length === 0 ? [] : [`also:  vserver ${aliases.join(', ')}`];
}

function formatOperand(operand: OperandSpec): string {
  const name = operand.choices === undefined ? operand.name : operand.choices.join('|');
  const many = operand.isMany ? `${name}…` : name;
  return operand.min === 0 || operand.optionalWith !== undefined ? `[${many}]` : many;
}

function formatPairs(pairs: readonly (readonly [string, string])[]): string {
  const column = Math.min(34, Math.max(...pairs.map(([left]) => left.length)) + 2);
  return pairs
    .map(([left, right]) => {
      const indent = ' '.repeat(column + 2);
      const text = wrap(right, indent).trimStart();
      // A name too long for its column has the text on the next line.
      return left.length + 2 > column ? `  ${left}\n${indent}${text}` : `  ${left.padEnd(column)}${text}`;
    })
    .join('\n');
}

function wrap(text: string, indent: string): string {
  const lines: string[] = [];
  let line = indent;
  for (const word of text.split(' ')) {
    if (line.trim() !== '' && line.length + 1 + word.length > WIDTH) {
      lines.push(line);
      line = indent;
    }
    line += line.trim() === '' ? word : ` ${word}`;
  }
  return [...lines, line].join('\n');
}
