import { parseDocument } from 'yaml';
import { UserError } from '../base/errors.ts';
import type { ConfigChange } from '../guest/config-text.ts';
import { LIMIT_ROW_SPECS } from '../resources/limit-rows.ts';
import { LIVE_VIEW_GROUPS } from '../views/files.ts';

/** Maps whose keys are free, dots included, and whose values are text. */
const TEXT_MAPS: ReadonlySet<string> = new Set(['env', 'labels', 'sysctls']);

/** Changes of these reach a running guest at once. */
const LIVE_KEYS: ReadonlySet<string> = new Set([
  'limits.memory',
  'limits.memorySwap',
  'limits.pids',
  'limits.cpus',
  'limits.cpuWeight',
  ...Object.values(LIMIT_ROW_SPECS).map(({ key }) => `limits.${key}`),
  ...LIVE_VIEW_GROUPS.map((group) => `views.${group}`),
]);

/** Of these too. */
const LIVE_SECTION = /^(restart|scheduler|health)(\.|$)/;

/** Of these too, if it has a network. */
const LIVE_NETWORK = /^network\.(addresses|policy|bandwidth|quota)(\.|$)/;

/**
 * Parses `KEY=VALUE` of `vserver set`. The key's parts are separated by dots; the value is YAML on one line, such as
 * `1g`, `[a, b]` or `{soft: 1, hard: 2}`. Variables, labels and sysctls are taken as they stand, so `env.V=1.10` is text.
 *
 * @throws UserError usage
 */
export function parseSetting(text: string): ConfigChange {
  const at = text.indexOf('=');
  const key = at === -1 ? text : text.slice(0, at);
  const value = at === -1 ? '' : text.slice(at + 1);
  const path = parseKey(key);
  if (path.length === 2 && TEXT_MAPS.has(path[0])) return { path, value };
  if (value.trim() === '') {
    throw new UserError('usage', `cannot set "${key}": found no value; need one`, {
      hint: `to give it its default back: --unset ${key}`,
    });
  }
  return { path, value: parseYaml(key, value) };
}

/** Parses the key of `vserver set --unset`. @throws UserError usage */
export function parseUnset(key: string): ConfigChange {
  return { path: parseKey(key), value: undefined };
}

/**
 * Returns the change that adds addresses to a guest's and removes others; one that it has not is refused.
 *
 * @param present of its configuration file
 * @throws UserError usage
 */
export function changeAddresses(
  present: readonly string[],
  added: readonly string[],
  removed: readonly string[],
): ConfigChange {
  const hostPart = (address: string): string | undefined => address.split('/')[0];
  const gone = new Set(removed.map(hostPart));
  const missing = removed.find((one) => !present.some((other) => hostPart(other) === hostPart(one)));
  if (missing !== undefined) {
    throw new UserError(
      'usage',
      `cannot remove address ${hostPart(missing)}: found ${present.join(', ') || 'no addresses'}; need one of the guest's`,
    );
  }
  const value = [...present.filter((one) => !gone.has(hostPart(one))), ...added];
  return { path: ['network', 'addresses'], value: value.length === 0 ? undefined : value };
}

/**
 * Names the keys whose changes a running guest sees only with its next start.
 *
 * @param hasNetwork it has one whose changes it sees at once
 * @param keepsDisk it is kept to its disk limit already
 */
export function keysForNextStart(
  changes: readonly ConfigChange[],
  hasNetwork: boolean,
  keepsDisk: boolean,
): readonly string[] {
  const isLive = (key: string): boolean =>
    (keepsDisk && /^disk(?:\.|$)/.test(key)) ||
    (LIVE_NETWORK.test(key) ? hasNetwork : LIVE_SECTION.test(key) || LIVE_KEYS.has(key) || key === 'limits');
  return changes.map(({ path }) => path.join('.')).filter((key) => !isLive(key));
}

function parseKey(key: string): ConfigChange['path'] {
  const [first = '', ...rest] = key.split('.');
  const path: ConfigChange['path'] =
    TEXT_MAPS.has(first) && rest.length > 0 ? [first, rest.join('.')] : [first, ...rest];
  if (path.includes('')) {
    throw new UserError(
      'usage',
      `cannot set ${JSON.stringify(key)}; need keys separated by dots, for example limits.memory`,
    );
  }
  return path;
}

function parseYaml(key: string, value: string): unknown {
  const document = parseDocument(value, { version: '1.2', prettyErrors: false, stringKeys: true });
  const problem = document.errors[0] ?? document.warnings[0];
  if (problem !== undefined) {
    throw new UserError('usage', `cannot read the value of "${key}" as YAML: ${problem.message}`, {
      hint: 'quote text that begins with a character special to YAML, twice: once for the shell',
    });
  }
  try {
    return document.toJS();
  } catch (cause) {
    if (!(cause instanceof ReferenceError)) throw cause; // an alias without its anchor
    throw new UserError('usage', `cannot read the value of "${key}" as YAML: ${cause.message}`, { cause });
  }
}
