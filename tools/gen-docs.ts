/**
 * Writes the reference pages and the tables within other pages that are made from tables in the source; with `--check`
 * compares instead and fails when one is stale.
 */
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { ERROR_CODES } from '../src/api/error-codes.ts';
import { EVENT_TYPE_NAMES, EVENT_TYPES } from '../src/api/events.ts';
import { exitPairs, formatUsage, optionPairs } from '../src/cli/help.ts';
import { GLOBAL_OPTIONS, VERB_ALIASES, VERB_NAMES, VERBS, type VerbSpec } from '../src/cli/verb-table.ts';
import type { Verb } from '../src/cli/verb-types.ts';
import { guestConfigJsonSchema } from '../src/guest/config-schema.ts';
import { BUILTIN_RULES, LAYERS } from './layers.ts';

const ROOT = join(import.meta.dirname, '..');
const NOTICE = '<!-- Made by tools/gen-docs.ts from the source; edits here are lost. -->\n';

/** Formats every generated page, by its path from the project's root. */
export function formatPages(): ReadonlyMap<string, string> {
  return new Map([
    ['docs/reference/cli.md', formatCliPage()],
    ['docs/reference/errors.md', formatErrorsPage()],
    ['docs/reference/events.md', formatEventsPage()],
    ['docs/reference/guest-config.schema.json', `${JSON.stringify(guestConfigJsonSchema(), null, 2)}\n`],
  ]);
}

const LAYERS_BEGIN = '<!-- layers: made by tools/gen-docs.ts from tools/layers.ts; edits here are lost -->\n';
const LAYERS_END = '<!-- /layers -->';

/**
 * Returns a page with the table of the layers between its two markers, whatever stood there.
 *
 * @throws Error when the page does not have each marker once, in order
 */
export function withLayerTable(page: string): string {
  const [before, rest, ...more] = page.split(LAYERS_BEGIN);
  const [, after, ...others] = rest?.split(LAYERS_END) ?? [];
  if (before === undefined || after === undefined || more.length + others.length > 0) {
    throw new Error('cannot write the layer table: found no pair of markers; need each of them once');
  }
  return `${before}${LAYERS_BEGIN}\n${formatLayerTable()}\n${LAYERS_END}${after}`;
}

function formatLayerTable(): string {
  const names = (folders: readonly string[]): string => folders.map((one) => `\`${one}\``).join(' ') || '—';
  const layers = LAYERS.map(({ name, mayImport, why }) => `| \`${name}\` | ${names(mayImport)} | ${why} |`);
  const builtins = BUILTIN_RULES.map(
    ({ builtins: modules, allowedIn, why }) =>
      `| ${names(modules.map((one) => `node:${one}`))} | ${names(allowedIn)} | ${why} |`,
  );
  return [
    '| folder of `src` | may import | why |',
    '| --- | --- | --- |',
    ...layers,
    '',
    '| module of Node | only in | why |',
    '| --- | --- | --- |',
    ...builtins,
    '',
  ].join('\n');
}

function formatErrorsPage(): string {
  const rows = Object.entries(ERROR_CODES).map(
    ([code, info]) => `| \`${code}\` | ${info.status} | ${info.exit} | ${info.meaning} |`,
  );
  return `${NOTICE}
# Error codes

Every failure has a code that never changes its meaning. The exit code is that of all verbs but \`run\`, \`exec\` and
\`enter\`: those exit 125 for a failure that is not the command's own, since every other code is the command's.

| code | HTTP | exit | meaning |
| --- | --- | --- | --- |
${rows.join('\n')}
`;
}

function formatEventsPage(): string {
  const rows = EVENT_TYPE_NAMES.map((type) => {
    const details = Object.entries(EVENT_TYPES[type].details).map(([name, what]) => `\`${name}\`: ${what}`);
    return `| \`${type}\` | ${EVENT_TYPES[type].meaning} | ${details.join('<br>') || '—'} |`;
  });
  return `${NOTICE}
# Events

\`vserver events --json\` prints one object on a line, in the order in which things happened:

\`\`\`json
{"seq":1790000000042,"time":"2026-09-21T14:13:20.042Z","type":"stopped","guest":"web","xid":1000,"details":{"exitCode":0,"cause":"exited"}}
\`\`\`

\`seq\` is the cursor: \`--since SEQ\` goes on behind that event, also after a restart of the daemon or the host. Numbers
rise and none is given twice; not every one is used. The journal keeps about the last 8 MiB. Where it no longer has what
came after a cursor, or a reader was slower than it lasts, an object of type \`gap\` with \`guest\` and \`xid\` null comes
first. An event is written before anybody is told of it; a power cut may take the last ones, and never tears one.

An ephemeral guest has neither \`created\` nor \`deleted\`: it is there from \`started\` to \`stopped\`. Fields and types may be
added; none is renamed or given a second meaning.

| type | what happened | details |
| --- | --- | --- |
${rows.join('\n')}
`;
}

function formatCliPage(): string {
  const aliases = [...VERB_ALIASES].map(([alias, verb]) => `\`${alias}\` is \`${verb}\``).join(', ');
  return `${NOTICE}
# Command line

\`\`\`text
vserver [OPTIONS] VERB [ARGUMENTS]
vserver [OPTIONS] GUEST VERB [ARGUMENTS]
\`\`\`

Both orders mean the same for verbs that work on guests; the first word decides if it is a verb. GUEST is the name of a
guest or the xid of its context. \`--\` ends the options. ${aliases}.

## Options of every verb

${formatTable(['option', 'meaning'], optionPairs(GLOBAL_OPTIONS, true))}

${VERB_NAMES.map(formatVerbSection).join('\n')}`;
}

function formatVerbSection(verb: Verb): string {
  const spec: VerbSpec<object> = VERBS[verb];
  const options = optionPairs(spec.options, false);
  return `## ${verb}

\`${formatUsage(verb)}\`

${spec.description}
${options.length === 0 ? '' : `\n${formatTable(['option', 'meaning'], options)}\n`}
\`\`\`sh
${spec.examples.map(([line, what]) => `# ${what}\n${line}`).join('\n')}
\`\`\`

${formatTable(['exit code', 'meaning'], exitPairs(spec))}
`;
}

function formatTable(
  titles: readonly [string, string],
  rows: readonly (readonly [string, string])[],
): string {
  const lines = rows.map(
    ([left, right]) => `| \`${left.trim().replaceAll('|', '\\|')}\` | ${right.replaceAll('|', '\\|')} |`,
  );
  return [`| ${titles.join(' | ')} |`, '| --- | --- |', ...lines].join('\n');
}

async function isCurrent(path: string, text: string): Promise<boolean> {
  try {
    return (await readFile(path, 'utf8')) === text;
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return false;
    throw error;
  }
}

async function main(): Promise<void> {
  const isCheck = process.argv.includes('--check');
  const architecture = 'ARCHITECTURE.md';
  const pages = [
    ...formatPages(),
    [architecture, withLayerTable(await readFile(join(ROOT, architecture), 'utf8'))] as const,
  ];
  for (const [page, text] of pages) {
    const path = join(ROOT, page);
    if (await isCurrent(path, text)) continue;
    if (isCheck) {
      process.stderr.write(`${page} is stale: run tools/node tools/gen-docs.ts\n`);
      process.exitCode = 1;
    } else {
      await mkdir(dirname(path), { recursive: true });
      await writeFile(path, text);
    }
  }
}

if (import.meta.main) await main();
