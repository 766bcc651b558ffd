import {
  type Document,
  isAlias,
  isMap,
  isNode,
  isPair,
  isScalar,
  LineCounter,
  type Node,
  parseDocument,
  stringify,
  visit,
} from 'yaml';
import { UserError } from '../base/errors.ts';
import { didYouMean } from '../base/suggest.ts';
import { type ConfigIssue, checkConfigValues } from './config-schema.ts';
import type { GuestConfig, GuestConfigValues } from './config-types.ts';

/** One thing wrong with a configuration file, as `details.issues` of an invalid-config error carries it. */
export interface ConfigFileIssue {
  /** From 1. */
  readonly line: number;
  /** From 1, in UTF-16 units. */
  readonly column: number;
  readonly message: string;
}

/** Far above any real file; keeps the parser's work bounded when text comes over the API. */
const MAX_TEXT_LENGTH = 256 * 1024;
const MAX_FOUND_LENGTH = 60;

/** Configurations by the values they came of: a command line is often run again and again, and a check takes 0.1 ms. */
const COMPLETE = new Map<string, GuestConfig>();
const COMPLETE_MAX = 64;

/**
 * Parses a guest's configuration file and fills in the defaults.
 *
 * Refuses what YAML allows but a configuration does not need: several documents, equal keys, anchors and aliases (whose
 * expansion has no bound), unknown tags and keys that are not text.
 *
 * @param fileName is put before line and column in errors
 * @throws UserError invalid-config; `details.issues` has every problem, ordered by position, the message the first
 */
export function parseGuestConfig(text: string, fileName: string): GuestConfig {
  const source = parseSource(text, fileName);
  // An empty file is an empty mapping, so that the error names the missing keys.
  const checked = checkConfigValues(source.document.toJS() ?? {});
  if ('config' in checked) return checked.config;
  throw invalidConfig(
    fileName,
    checked.issues.map((issue) => locate(source, issue)),
  );
}

/**
 * Fills in the defaults of values that come from no file.
 *
 * @throws UserError invalid-config
 */
export function completeConfig(values: GuestConfigValues): GuestConfig {
  const key = JSON.stringify(values);
  const known = COMPLETE.get(key);
  if (known !== undefined) return known;
  const checked = checkConfigValues(values);
  if ('config' in checked) {
    if (COMPLETE.size === COMPLETE_MAX) COMPLETE.clear();
    COMPLETE.set(key, checked.config);
    return checked.config;
  }
  // As the file that these values would become: so a wrong one is told in the same words.
  return parseGuestConfig(stringify(values), 'configuration');
}

/**
 * Parses a configuration's text as YAML without looking at keys and values.
 *
 * @throws UserError invalid-config
 */
export function parseConfigDocument(text: string, fileName: string): Document.Parsed {
  return parseSource(text, fileName).document;
}

interface Source {
  readonly document: Document.Parsed;
  readonly lines: LineCounter;
}

function parseSource(text: string, fileName: string): Source {
  if (text.length > MAX_TEXT_LENGTH) {
    throw invalidConfig(fileName, [
      { line: 1, column: 1, message: `file is longer than ${MAX_TEXT_LENGTH} characters` },
    ]);
  }
  const lines = new LineCounter();
  const document = parseDocument(text, {
    lineCounter: lines,
    prettyErrors: false,
    stringKeys: true,
    uniqueKeys: true,
    version: '1.2',
  });
  const issues = [...document.errors, ...document.warnings].map(({ code, message, pos }) =>
    at(
      lines,
      pos[0],
      code === 'MULTIPLE_DOCS'
        ? 'cannot use a second document; need one'
        : message.replace(/^[A-Z](?=[a-z])/, (first) => first.toLowerCase()),
    ),
  );
  visit(document, {
    Node: (_, node) => {
      const problem = refusedFeature(node);
      if (problem !== undefined) issues.push(at(lines, offsetOf(node), problem));
    },
    Pair: (_, pair) => {
      // `toJS` would make it an ordinary key that the schema's objects cannot see.
      if (isScalar(pair.key) && pair.key.value === '__proto__') {
        issues.push(at(lines, offsetOf(pair.key), 'unknown key "__proto__"'));
      }
    },
  });
  if (issues.length > 0) throw invalidConfig(fileName, issues);
  return { document, lines };
}

function refusedFeature(node: Node): string | undefined {
  if (isAlias(node)) return 'cannot use an alias; need the value itself';
  if ('anchor' in node && node.anchor !== undefined) return 'cannot use an anchor; need the value itself';
  return undefined;
}

function locate(source: Source, issue: ConfigIssue): ConfigFileIssue {
  const { document, lines } = source;
  if (issue.unknownKey !== undefined) {
    const { key, knownKeys } = issue.unknownKey;
    const place = issue.path.length === 0 ? '' : ` in "${formatPath(issue.path)}"`;
    const hint = didYouMean(key, knownKeys);
    const message = `unknown key ${JSON.stringify(key)}${place}${hint === undefined ? '' : `; ${hint}`}`;
    return at(lines, keyOffset(document, [...issue.path, key]), message);
  }
  const name = formatPath(issue.path);
  if (issue.isMissing) {
    return at(
      lines,
      nearestOffset(document, issue.path),
      `missing key "${name}"; need ${issue.need ?? 'it'}`,
    );
  }
  const found = issue.isKey === true ? issue.path.at(-1) : document.getIn(issue.path);
  // JSON has no word for .nan and .inf.
  const json = typeof found === 'number' ? String(found) : (JSON.stringify(found ?? null) ?? 'null');
  const shown = json.length > MAX_FOUND_LENGTH ? `${json.slice(0, MAX_FOUND_LENGTH)}…` : json;
  const place = issue.isKey === true ? `a key of "${formatPath(issue.path.slice(0, -1))}"` : `"${name}"`;
  const offset = issue.isKey === true ? keyOffset(document, issue.path) : nearestOffset(document, issue.path);
  const as = name === '' ? 'a configuration' : place;
  return at(lines, offset, `cannot use ${shown} as ${as}; need ${issue.need ?? 'another value'}`);
}

function formatPath(path: readonly (string | number)[]): string {
  return path
    .map((part, index) => (typeof part === 'number' ? `[${part}]` : `${index === 0 ? '' : '.'}${part}`))
    .join('');
}

/** Finds where a key of a mapping stands, or else its mapping. */
function keyOffset(document: Document.Parsed, path: readonly (string | number)[]): number {
  const parent = path.length === 1 ? document.contents : document.getIn(path.slice(0, -1), true);
  const last = path.at(-1);
  const pair = isMap(parent)
    ? parent.items.find((item) => isPair(item) && isScalar(item.key) && item.key.value === last)
    : undefined;
  return pair !== undefined && isNode(pair.key)
    ? offsetOf(pair.key)
    : nearestOffset(document, path.slice(0, -1));
}

/** Finds where a value stands, or the closest one around it that is in the file. */
function nearestOffset(document: Document.Parsed, path: readonly (string | number)[]): number {
  for (let length = path.length; length > 0; length--) {
    const node = document.getIn(path.slice(0, length), true);
    if (isNode(node) && node.range) return node.range[0];
  }
  return document.contents?.range?.[0] ?? 0;
}

function offsetOf(node: Node): number {
  return node.range?.[0] ?? 0;
}

function at(lines: LineCounter, offset: number, message: string): ConfigFileIssue {
  const { line, col } = lines.linePos(offset);
  // An empty file has no line to count.
  return { line: Math.max(line, 1), column: Math.max(col, 1), message };
}

function invalidConfig(fileName: string, found: readonly ConfigFileIssue[]): UserError {
  const issues = found.toSorted((a, b) => a.line - b.line || a.column - b.column);
  const first = issues[0] ?? { line: 1, column: 1, message: 'no reason' };
  const more = issues.length > 1 ? ` (and ${issues.length - 1} more)` : '';
  return new UserError(
    'invalid-config',
    `cannot use guest configuration: ${fileName}:${first.line}:${first.column}: ${first.message}${more}`,
    { details: { file: fileName, issues } },
  );
}
