import { longName, type Option } from './option.ts';
import { GLOBAL_OPTIONS, VERB_NAMES, VERBS, type VerbSpec } from './verb-table.ts';
import type { Verb } from './verb-types.ts';

/** A shell that there is a completion script for. */
export type Shell = 'bash' | 'zsh' | 'fish';

/** Lists guests for every script; failures are silent, since a message would land in the command line being typed. */
const GUESTS_COMMAND = 'vserver list --all --quiet 2>/dev/null';

/** Formats the completion script of a shell, made from the table of verbs. */
export function formatCompletion(shell: Shell): string {
  return { bash: formatBash, zsh: formatZsh, fish: formatFish }[shell]();
}

interface CompletedOption {
  readonly long: string;
  readonly short: string | undefined;
  readonly takesNext: boolean;
  readonly choices: readonly string[];
  readonly help: string;
}

function optionsOf(verb: Verb | undefined): readonly CompletedOption[] {
  const own = verb === undefined ? {} : VERBS[verb].options;
  const entries = Object.entries<Option<unknown>>({ ...own, ...GLOBAL_OPTIONS });
  const options = entries.map(([name, option]) => ({
    long: longName(name),
    short: option.short,
    takesNext: option.kind === 'value',
    choices: option.choices ?? [],
    help: option.help,
  }));
  return [...options, { long: '--help', short: 'h', takesNext: false, choices: [], help: 'print this help' }];
}

/** What stands where operands go: guests, fixed words, or nothing that can be listed. */
function operandsOf(verb: Verb): { readonly guests: boolean; readonly words: readonly string[] } {
  const spec: VerbSpec<object> = VERBS[verb];
  const words = spec.operands.flatMap((operand) => operand.choices ?? []);
  return {
    guests: spec.operands.some((operand) => operand.kind === 'guest'),
    words: verb === 'help' ? VERB_NAMES : words,
  };
}

function flagsOf(option: CompletedOption): readonly string[] {
  return option.short === undefined ? [option.long] : [`-${option.short}`, option.long];
}

/** The values that fixed options of any verb have, by option; one table serves all, since no two verbs disagree. */
function choicesByOption(): ReadonlyMap<string, readonly string[]> {
  const options = [undefined, ...VERB_NAMES].flatMap((verb) => optionsOf(verb));
  return new Map(
    options.filter((option) => option.choices.length > 0).map((option) => [option.long, option.choices]),
  );
}

function bashVerbCase(verb: Verb): string {
  const options = optionsOf(verb);
  const { guests, words } = operandsOf(verb);
  const valued = options.filter((option) => option.takesNext).flatMap(flagsOf);
  return `    ${verb})
      options='${options.map((option) => option.long).join(' ')}'
      valued=' ${valued.join(' ')} '
      operands='${words.join(' ')}'${guests ? '\n      guests=1' : ''}
      ;;`;
}

function formatBash(): string {
  const global = optionsOf(undefined);
  const choices = [...choicesByOption()].map(([long, words]) => `    ${long}) words='${words.join(' ')}' ;;`);
  return `# bash completion of vserver
_vserver() {
  local current=\${COMP_WORDS[COMP_CWORD]} previous=\${COMP_WORDS[COMP_CWORD-1]}
  local verb='' options='' valued='' operands='' guests='' words='' index
  for ((index = 1; index < COMP_CWORD; index++)); do
    case \${COMP_WORDS[index]} in
    --root) ((index++)) ;;
    ${VERB_NAMES.join('|')}) verb=\${COMP_WORDS[index]}; break ;;
    esac
  done
  case $verb in
${VERB_NAMES.map(bashVerbCase).join('\n')}
    *)
      options='${global.map((option) => option.long).join(' ')}'
      valued=' --root '
      operands='${VERB_NAMES.join(' ')}'
      ;;
  esac
  # COMP_WORDBREAKS has "=", so --init=o comes as three words.
  [[ $current == = ]] && current=''
  [[ $previous == = ]] && previous=\${COMP_WORDS[COMP_CWORD-2]}
  case $previous in
${choices.join('\n')}
  esac
  if [[ -z $words ]]; then
    if [[ $current == -* ]]; then
      words=$options
    elif [[ $valued == *" $previous "* ]]; then
      mapfile -t COMPREPLY < <(compgen -f -- "$current")
      return
    else
      words=$operands
      [[ -n $guests ]] && words+=" $(${GUESTS_COMMAND})"
    fi
  fi
  mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current")
}
complete -F _vserver vserver
`;
}

function quote(text: string): string {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

function zshOption(option: CompletedOption): string {
  const help = option.help.replaceAll(/[[\]:]/g, (char) => `\\${char}`);
  const action = option.choices.length > 0 ? `:value:(${option.choices.join(' ')})` : ':value:_files';
  const hasValue = option.takesNext || option.choices.length > 0;
  const after = option.takesNext ? '' : hasValue ? '=-' : '';
  return flagsOf(option)
    .map(
      (name) =>
        `      ${quote(`*${name}${after}[${help}]${hasValue ? (after === '' ? action : `:${action}`) : ''}`)}`,
    )
    .join(' \\\n');
}

function zshVerbCase(verb: Verb): string {
  const { guests, words } = operandsOf(verb);
  const operand = guests
    ? "'*:guest:_vserver_guests'"
    : words.length > 0
      ? `'*:word:(${words.join(' ')})'`
      : "'*:file:_files'";
  return `    ${verb}) _arguments -s \\
${optionsOf(verb).map(zshOption).join(' \\\n')} \\
      ${operand} ;;`;
}

function formatZsh(): string {
  return `#compdef vserver
_vserver_guests() {
  local -a guests
  guests=(\${(f)"$(${GUESTS_COMMAND})"})
  compadd -a guests
}
_vserver() {
  local -a verbs
  verbs=(
${VERB_NAMES.map((verb) => `    ${quote(`${verb}:${VERBS[verb].summary}`)}`).join('\n')}
  )
  local curcontext=$curcontext state line
  _arguments -C \\
${optionsOf(undefined).map(zshOption).join(' \\\n')} \\
    '1: :->verb' '*::argument:->arguments'
  case $state in
  verb) _describe verb verbs ;;
  arguments)
    case $line[1] in
${VERB_NAMES.map(zshVerbCase).join('\n')}
    esac ;;
  esac
}
if [[ $funcstack[1] == _vserver ]]; then _vserver "$@"; else compdef _vserver vserver; fi
`;
}

function fishOption(condition: string, option: CompletedOption): string {
  const short = option.short === undefined ? '' : ` -s ${option.short}`;
  const values = option.choices.length > 0 ? ` -a ${quote(option.choices.join(' '))}` : '';
  // -x: a value and no files; -r: a value, files offered.
  const needs = option.takesNext ? (values === '' ? ' -r' : ` -x${values}`) : values;
  return `complete -c vserver -n ${quote(condition)}${short} -l ${option.long.slice(2)}${needs} -d ${quote(option.help)}`;
}

function fishVerbLines(verb: Verb): readonly string[] {
  const condition = `__fish_seen_subcommand_from ${verb}`;
  const { guests, words } = operandsOf(verb);
  const operands = guests ? [`(${GUESTS_COMMAND})`] : words.length > 0 ? [words.join(' ')] : [];
  return [
    ...optionsOf(verb).map((option) => fishOption(condition, option)),
    ...operands.map((text) => `complete -c vserver -n ${quote(condition)} -a ${quote(text)}`),
  ];
}

function formatFish(): string {
  const none = `not __fish_seen_subcommand_from ${VERB_NAMES.join(' ')}`;
  const lines = [
    'complete -c vserver -f',
    ...optionsOf(undefined).map((option) => fishOption(none, option)),
    ...VERB_NAMES.map(
      (verb) => `complete -c vserver -n ${quote(none)} -a ${verb} -d ${quote(VERBS[verb].summary)}`,
    ),
    ...VERB_NAMES.flatMap(fishVerbLines),
  ];
  return `# fish completion of vserver\n${lines.join('\n')}\n`;
}
