import { type Document, isMap, isNode, isScalar, stringify, type YAMLMap } from 'yaml';
import { parseConfigDocument, parseGuestConfig } from './config.ts';
import { guestConfigJsonSchema } from './config-schema.ts';
import type { GuestConfig, GuestConfigValues } from './config-types.ts';

/** Sets one value of a configuration, or with `undefined` gives it back its default. */
export interface ConfigChange {
  /** Keys from the top, for example `['limits', 'memory']`; the first and second may be any, more only in maps. */
  readonly path: readonly [string, ...string[]];
  readonly value: unknown;
}

/** A configuration file's text, and what it says. */
export interface EditedConfig {
  readonly text: string;
  readonly config: GuestConfig;
}

const HEADER = `# Guest configuration of vserver. What is commented out has its default; the value shown is an example.
`;

/**
 * Creates the text of a guest's configuration file: every key with a comment on what it does and its default, those
 * without a value commented out. The parsed text, not the values, is what will run: whatever the two steps would read
 * differently is found here.
 *
 * @throws UserError invalid-config when the values are not valid
 */
export function createConfigText(values: GuestConfigValues, fileName: string): EditedConfig {
  const blocks = topKeys().map((key) => formatKey(key, fieldOf(values, key.name)));
  const text = `${HEADER}\n${blocks.join('\n')}`;
  return { text, config: parseOwnText(text, fileName) };
}

/**
 * Parses a text of which every comment is known to be one: lines of comments alone are most of it, and would take nine
 * tenths of the time.
 */
function parseOwnText(text: string, fileName: string): GuestConfig {
  try {
    return parseGuestConfig(text.replace(/^#.*\n/gm, ''), fileName);
  } catch {
    return parseGuestConfig(text, fileName); // tells where it is wrong
  }
}

/**
 * Changes values in a configuration file's text and keeps everything else, comments above all.
 *
 * A key that stands commented out as `createConfigText` writes it is set in place, any other goes to the end of its
 * mapping. A key given back its default is commented out with the value it had.
 *
 * @throws UserError invalid-config when the text is not valid before or after the changes
 */
export function editConfig(text: string, changes: readonly ConfigChange[], fileName: string): EditedConfig {
  let edited = text === '' || text.endsWith('\n') ? text : `${text}\n`;
  let document: Document.Parsed | undefined = parseConfigDocument(edited, fileName);
  for (const change of changes) {
    // A key that has its default already needs no change.
    document ??= parseConfigDocument(edited, fileName);
    const before = edited;
    edited = applyChange(before, document, change);
    if (edited !== before) document = undefined;
  }
  return { text: edited, config: parseOwnText(edited, fileName) };
}

function applyChange(text: string, { contents }: Document.Parsed, { path, value }: ConfigChange): string {
  let map: unknown = contents;
  for (const [depth, key] of path.entries()) {
    if (isMap(map) && map.flow === true) return editFlowMap(text, map, path.slice(depth), value);
    const pair = isMap(map) ? findPair(text, map, key) : undefined;
    const rest = path.slice(depth + 1);
    if (pair === undefined) {
      if (value === undefined) return text;
      return addKey(text, isMap(map) ? map : undefined, path.slice(0, depth), key, nest(rest, value));
    }
    if (rest.length === 0)
      return value === undefined ? commentOut(text, pair) : replaceValue(text, pair, value);
    if (!isMap(pair.value)) return value === undefined ? text : replaceValue(text, pair, nest(rest, value));
    map = pair.value;
  }
  return text;
}

/** A key and its value in a block mapping. */
interface PlacedPair {
  readonly key: string;
  readonly value: unknown;
  /** Offset of the key, which is the first thing on its line. */
  readonly start: number;
  /** Offset after the line feed of the value's last line. */
  readonly end: number;
  readonly indent: string;
}

function findPair(text: string, map: YAMLMap, key: string): PlacedPair | undefined {
  const pair = map.items.find((item) => isScalar(item.key) && item.key.value === key);
  if (!isScalar(pair?.key) || !pair.key.range) return undefined;
  const [start] = pair.key.range;
  const valueEnd = isNode(pair.value) && pair.value.range ? pair.value.range[1] : pair.key.range[1];
  const lineStart = text.lastIndexOf('\n', start - 1) + 1;
  // A block value's range ends after its last line feed, a plain scalar's before a comment on its line.
  const lineFeed = text.indexOf('\n', Math.max(start, valueEnd - 1));
  return {
    key,
    value: pair.value,
    start,
    end: lineFeed === -1 ? text.length : lineFeed + 1,
    indent: text.slice(lineStart, start),
  };
}

function nest(path: readonly string[], value: unknown): unknown {
  return path.reduceRight<unknown>((inner, key) => ({ [key]: inner }), value);
}

function editFlowMap(text: string, map: YAMLMap, path: readonly string[], value: unknown): string {
  const [start, end] = map.range ?? [0, 0];
  const keys = path.slice(0, -1);
  if (value === undefined) map.deleteIn(path);
  else {
    for (const [depth] of keys.entries()) {
      const parent = keys.slice(0, depth + 1);
      if (!isMap(map.getIn(parent, true))) map.setIn(parent, {});
    }
    map.setIn(path, value);
  }
  return text.slice(0, start) + JSON.stringify(map) + text.slice(end);
}

function replaceValue(text: string, pair: PlacedPair, value: unknown): string {
  const { value: old } = pair;
  const isInline =
    isScalar(old) && old.type !== 'BLOCK_LITERAL' && old.type !== 'BLOCK_FOLDED' && old.source !== '';
  if (isInline && old.range && !isCollection(value)) {
    // In place, so that a comment behind the value stays.
    return text.slice(0, old.range[0]) + toYaml(value).trimEnd() + text.slice(old.range[1]);
  }
  const lines = indentBy(pair.indent, toYaml({ [pair.key]: value })).slice(pair.indent.length);
  return text.slice(0, pair.start) + lines + text.slice(pair.end);
}

function commentOut(text: string, pair: PlacedPair): string {
  const lines = text.slice(pair.start, pair.end).replace(/\n$/, '').split(`\n${pair.indent}`);
  const commented = lines.map((line) => `# ${line}`.trimEnd()).join(`\n${pair.indent}`);
  return `${text.slice(0, pair.start)}${commented}\n${text.slice(pair.end)}`;
}

function addKey(
  text: string,
  map: YAMLMap | undefined,
  parentPath: readonly string[],
  key: string,
  value: unknown,
): string {
  const info = keyAt([...parentPath, key]);
  const first = map?.items[0]?.key;
  const last = map?.items.at(-1)?.key;
  const pair = map !== undefined && isScalar(last) ? findPair(text, map, String(last.value)) : undefined;
  const indent = map !== undefined && parentPath.length > 0 ? (pair?.indent ?? '  ') : '';
  if (info !== undefined) {
    const commentedOut = indentBy(indent, formatKey(info, undefined));
    // Sections have equal keys in none of their children, so the text after the section's first key is enough.
    const from = isScalar(first) && parentPath.length > 0 ? startOfSection(text, parentPath) : 0;
    const at = text.indexOf(commentedOut, from);
    if (at !== -1 && (at === 0 || text[at - 1] === '\n')) {
      return (
        text.slice(0, at) + indentBy(indent, formatKey(info, value)) + text.slice(at + commentedOut.length)
      );
    }
  }
  const lines = indentBy(indent, toYaml({ [key]: value }));
  const end = indent === '' || pair === undefined ? text.length : pair.end;
  return text.slice(0, end) + lines + text.slice(end);
}

function startOfSection(text: string, path: readonly string[]): number {
  return Math.max(0, text.search(new RegExp(`^${path[0] ?? ''}:`, 'm')));
}

function isCollection(value: unknown): boolean {
  return typeof value === 'object' && value !== null;
}

interface KeyInfo {
  readonly name: string;
  readonly description: string;
  readonly example: unknown;
  readonly defaultText: string;
  readonly children: readonly KeyInfo[];
}

/** Keys that only group others. */
const SECTIONS: ReadonlySet<string> = new Set([
  'stop',
  'boot',
  'restart',
  'health',
  'hooks',
  'limits',
  'scheduler',
  'network',
  'log',
  'views',
  'unify',
]);

/** Made once: the schema takes 10 ms. */
let keysAtTop: readonly KeyInfo[] | undefined;

function topKeys(): readonly KeyInfo[] {
  keysAtTop ??= keysOf(guestConfigJsonSchema());
  return keysAtTop;
}

function keyAt(path: readonly string[]): KeyInfo | undefined {
  let keys = topKeys();
  let found: KeyInfo | undefined;
  for (const name of path) {
    found = keys.find((key) => key.name === name);
    keys = found?.children ?? [];
  }
  return found;
}

function keysOf(schema: unknown): readonly KeyInfo[] {
  const properties = fieldOf(schema, 'properties');
  return Object.entries(isCollection(properties) ? Object(properties) : {}).map(([name, info]) => {
    const examples = fieldOf(info, 'examples');
    return {
      name,
      description: String(fieldOf(info, 'description') ?? ''),
      example: Array.isArray(examples) ? examples[0] : undefined,
      defaultText: formatDefault(fieldOf(info, 'default')),
      children: SECTIONS.has(name) ? keysOf(info) : [],
    };
  });
}

function formatDefault(value: unknown): string {
  return value === undefined || isCollection(value) ? '' : `; default ${String(value)}`;
}

function fieldOf(value: unknown, name: string): unknown {
  return typeof value === 'object' && value !== null && Object.hasOwn(value, name)
    ? Reflect.get(value, name)
    : undefined;
}

function formatKey(key: KeyInfo, value: unknown): string {
  const comment = `# ${key.description}${key.defaultText}\n`;
  if (key.children.length === 0) {
    return (
      comment +
      (value === undefined ? hash(toYaml({ [key.name]: key.example })) : toYaml({ [key.name]: value }))
    );
  }
  const known = key.children.map((child) => child.name);
  const foreign = Object.keys(isCollection(value) ? Object(value) : {}).filter(
    (name) => !known.includes(name),
  );
  const body =
    key.children.map((child) => formatKey(child, fieldOf(value, child.name))).join('') +
    foreign.map((name) => toYaml({ [name]: fieldOf(value, name) })).join('');
  const isSet = [...known, ...foreign].some((name) => fieldOf(value, name) !== undefined);
  if (isSet) return `${comment}${key.name}:\n${indentBy('  ', body)}`;
  return `${comment}${hash(`${key.name}:\n${indentBy('  ', body)}`)}`;
}

function toYaml(value: unknown): string {
  return stringify(value, { lineWidth: 0, aliasDuplicateObjects: false });
}

function hash(text: string): string {
  return indentBy('# ', text);
}

function indentBy(indent: string, text: string): string {
  return text.replace(/^(?=.)/gm, indent);
}
