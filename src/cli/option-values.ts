import { EVENT_TYPE_NAMES, type EventType } from '../api/events.ts';
import { UserError } from '../base/errors.ts';
import { parseGuestRef, parseXid } from '../base/ids.ts';
import { formatIpPrefix, parseIpPrefix } from '../base/ip.ts';
import { parseShellWords } from '../base/shell-words.ts';
import { formatSignal, parseSignal } from '../base/signals.ts';
import {
  cpuSharesToWeight,
  formatSize,
  parseCount,
  parseCpus,
  parseDuration,
  parseSize,
} from '../base/units.ts';
import { parseCapability, parseCapabilityExpression } from '../context/capabilities.ts';
import { parseUlimit, type RlimitName } from '../context/rlimits.ts';
import { isMark } from '../guest/config-kinds.ts';
import { MAX_RETRIES, RESTART_POLICIES } from '../guest/config-schema.ts';
import type { GuestMountValues, RestartPolicy, Rlimit, SeccompChoice } from '../guest/config-types.ts';
import { parseDependency } from '../guest/dependencies.ts';
import type { QuotaUnit } from '../guest/quota-period.ts';

/** A variable for the guest; without a value it is taken from the client's environment, as in Docker. */
export interface EnvSetting {
  readonly name: string;
  readonly value: string | undefined;
}

/** One `--security-opt`. */
export type SecurityOption =
  | { readonly kind: 'seccomp'; readonly choice: SeccompChoice }
  | { readonly kind: 'noNewPrivileges'; readonly isOn: boolean };

/** One `--ulimit`. */
export interface UlimitSetting {
  readonly name: RlimitName;
  readonly limit: Rlimit;
}

function refuse(text: string, need: string): UserError {
  return new UserError('usage', `cannot use ${JSON.stringify(text)}; need ${need}`);
}

/** Accepts any text but the empty one. */
export function parseText(text: string): string {
  if (text === '') throw refuse(text, 'a value that is not empty');
  return text;
}

/** Parses an address, with or without the length of its network's prefix, into the form of the configuration file. */
export function parseAddress(text: string): string {
  return formatIpPrefix(parseIpPrefix(text));
}

/** One `--traffic-quota`. */
export interface TrafficQuotaSetting {
  readonly bytes: string;
  readonly per: QuotaUnit;
}

/** Parses `SIZE/day` or `SIZE/month`. */
export function parseTrafficQuota(text: string): TrafficQuotaSetting {
  const [, size = '', unit] = /^([^/]+)\/(day|month)$/.exec(text) ?? [];
  if (unit === undefined) throw refuse(text, 'SIZE/day or SIZE/month, for example 100g/month');
  return { bytes: formatSize(parseSize(size)), per: unit === 'day' ? unit : 'month' };
}

/** Parses `NAME:ADDRESS` as Docker has it; an IPv6 address may be in brackets. */
export function parseHost(text: string): readonly [name: string, address: string] {
  const [, name = '', address = ''] = /^([^:=]+)[:=]\[?([^\]]+)\]?$/.exec(text) ?? [];
  if (address === '') throw refuse(text, 'NAME:ADDRESS');
  return [name, address];
}

/** Parses a command and its arguments from one text; at least one word. */
export function parseCommand(text: string): readonly string[] {
  const words = parseShellWords(text);
  if (words.length === 0) throw refuse(text, 'a command');
  return words;
}

/** Makes a parser that takes one of a few words. */
export function oneOf<const Word extends string>(words: readonly Word[]): (text: string) => Word {
  return (text) => {
    const word = words.find((one) => one === text);
    if (word === undefined) throw refuse(text, words.map((one) => `"${one}"`).join(' or '));
    return word;
  };
}

/** Parses `NAME=VALUE`, or `NAME` to take the value from the client. */
export function parseEnv(text: string): EnvSetting {
  const at = text.indexOf('=');
  const name = at === -1 ? text : text.slice(0, at);
  if (name === '') throw refuse(text, 'NAME=VALUE or NAME');
  return { name, value: at === -1 ? undefined : text.slice(at + 1) };
}

/** Parses `KEY=VALUE`. */
export function parseKeyValue(text: string): readonly [key: string, value: string] {
  const at = text.indexOf('=');
  if (at < 1) throw refuse(text, 'KEY=VALUE');
  return [text.slice(0, at), text.slice(at + 1)];
}

/** Parses a label, `KEY=VALUE` or `KEY` for an empty value. */
export function parseLabel(text: string): readonly [key: string, value: string] {
  return parseKeyValue(text.includes('=') ? text : `${text}=`);
}

/** Parses bytes; `max`, and as in Docker `-1`, mean no limit. */
export function parseSizeLimit(text: string): number | 'max' {
  return text === 'max' || text === '-1' ? 'max' : parseSize(text);
}

/** Parses a count of processes; `max`, and as in Docker `-1`, mean no limit. */
export function parsePidsLimit(text: string): number | 'max' {
  return text === 'max' || text === '-1' ? 'max' : parseCount(text, 'process limit', 1, 4_194_304);
}

/** Parses a number of CPUs. */
export function parseCpuCount(text: string): number {
  const { quotaUs, periodUs } = parseCpus(text);
  return quotaUs / periodUs;
}

/** Parses Docker's CPU shares, 2..262144, into a weight, 1..10000. */
export function parseCpuShares(text: string): number {
  return cpuSharesToWeight(parseCount(text, 'CPU shares', 2, 262_144));
}

/** Parses a CPU weight. */
export function parseCpuWeight(text: string): number {
  return parseCount(text, 'CPU weight', 1, 10_000);
}

/** Parses a signal into its full name, for example `SIGTERM`. */
export function parseSignalName(text: string): string {
  return formatSignal(parseSignal(text));
}

/** Parses a duration into milliseconds; a bare number counts seconds, as in Docker. */
export function parseTimeout(text: string): number {
  return parseDuration(/^\d+$/.test(text) ? `${text}s` : text);
}

/** Checks the name or xid of a guest. */
export function parseGuestWord(text: string): string {
  parseGuestRef(text);
  return text;
}

/** Parses the pid of a process in a guest. */
export function parsePid(text: string): number {
  return parseCount(text, 'pid', 1, 4_194_304);
}

/** Parses `true` or `false`. */
export function parseBoolean(text: string): boolean {
  if (text === 'true' || text === 'false') return text === 'true';
  throw new UserError('invalid-value', `cannot use ${JSON.stringify(text)}; need true or false`);
}

/** Parses a number of tokens, milliseconds or files. */
export function parseAmount(text: string): number {
  return parseCount(text, 'number', 0);
}

/** Parses a priority bias. */
export function parsePrioBias(text: string): number {
  if (/^-?\d{1,2}$/.test(text)) return Number(text);
  throw new UserError('invalid-value', `cannot use ${JSON.stringify(text)}; need a number from -20 to 19`);
}

const MIN_INTERVAL_MS = 100;

/** Parses the time between two looks into milliseconds; a bare number counts seconds. */
export function parseInterval(text: string): number {
  const intervalMs = parseTimeout(text);
  if (intervalMs >= MIN_INTERVAL_MS) return intervalMs;
  throw new UserError(
    'invalid-value',
    `cannot use ${JSON.stringify(text)} as interval; need ${MIN_INTERVAL_MS} ms or more`,
  );
}

/** Where a stream of events begins: behind a cursor, and not before a time (RFC 3339, UTC; empty: any). */
export interface EventStart {
  readonly cursor: number;
  readonly time: string;
}

/** Parses a cursor (a whole number), a time as of RFC 3339, or how long ago, for example `10m`. */
export function parseEventStart(text: string): EventStart {
  if (/^\d+$/.test(text)) return { cursor: parseCount(text, 'cursor', 0), time: '' };
  const isTime = /^\d{4}-\d\d-\d\d(T\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d))?$/i.test(text);
  const atMs = isTime ? Date.parse(text) : Date.now() - parseDuration(text);
  if (Number.isNaN(new Date(atMs).getTime())) {
    throw refuse(text, 'the number of an event, a time such as 2026-01-31T12:00:00Z, or a span such as 10m');
  }
  return { cursor: 0, time: new Date(atMs).toISOString() };
}

/** Parses names of kinds of events, separated by commas. */
export function parseEventTypes(text: string): readonly EventType[] {
  return text.split(',').map(oneOf(EVENT_TYPE_NAMES));
}

/** Parses a mark, the name of a group of guests. */
export function parseMark(text: string): string {
  if (!isMark(text)) throw refuse(text, 'a word of letters, digits, "_", "." and "-"');
  return text;
}

/** One `--restart`. */
export interface RestartSetting {
  readonly policy: RestartPolicy['policy'];
  readonly maxRetries: number | undefined;
}

/** Parses Docker's `no`, `always`, `unless-stopped` or `on-failure[:COUNT]`. */
export function parseRestart(text: string): RestartSetting {
  const [, word = '', count] = /^([a-z-]+)(?::(\d+))?$/.exec(text) ?? [];
  const policy = RESTART_POLICIES.find((one) => one === word);
  if (policy === undefined || (count !== undefined && policy !== 'on-failure')) {
    throw refuse(text, 'no, on-failure, on-failure:COUNT, always or unless-stopped');
  }
  return {
    policy,
    maxRetries: count === undefined ? undefined : parseCount(count, 'count of retries', 1, MAX_RETRIES),
  };
}

/** Parses one capability to add into a word of a capability expression, for example `+NET_RAW`. */
export function parseCapAdd(text: string): string {
  return `+${parseCapName(text)}`;
}

/** Parses one capability to remove, for example into `-NET_RAW`. */
export function parseCapDrop(text: string): string {
  return `-${parseCapName(text)}`;
}

function parseCapName(text: string): string {
  if (text.toUpperCase() !== 'ALL') parseCapability(text);
  return text.toUpperCase().replace(/^CAP_/, '');
}

/** Parses a capability expression such as `+NET_RAW,-MKNOD` or `CHOWN,KILL` into its words. */
export function parseBcaps(text: string): readonly string[] {
  parseCapabilityExpression(text);
  return text.split(/[\s,]+/).filter((word) => word !== '');
}

/** Parses `seccomp=default|unconfined|PATH` or `no-new-privileges[=true|false]`; `:` also stands for `=`. */
export function parseSecurityOption(text: string): SecurityOption {
  const [, key, choice] = /^([a-z-]+)(?:[=:](.*))?$/.exec(text) ?? [];
  if (key === 'no-new-privileges' && (choice === undefined || choice === 'true' || choice === 'false')) {
    return { kind: 'noNewPrivileges', isOn: choice !== 'false' };
  }
  if (key === 'seccomp' && (choice === 'default' || choice === 'unconfined'))
    return { kind: 'seccomp', choice };
  if (key === 'seccomp' && choice?.startsWith('/') === true)
    return { kind: 'seccomp', choice: { profile: choice } };
  throw refuse(text, 'seccomp=default, seccomp=unconfined, seccomp=/PATH or no-new-privileges');
}

/** Parses `NAME=SOFT[:HARD]`; `unlimited` and `-1` mean no limit. */
export function parseUlimitSetting(text: string): UlimitSetting {
  const { name, soft, hard } = parseUlimit(text);
  return { name, limit: { soft: toConfigLimit(text, soft), hard: toConfigLimit(text, hard) } };
}

/** The configuration file has plain numbers, which are exact up to 2^53. */
function toConfigLimit(text: string, limit: bigint | 'unlimited'): number | 'unlimited' {
  if (limit === 'unlimited') return limit;
  if (limit > BigInt(Number.MAX_SAFE_INTEGER))
    throw refuse(text, 'limits of at most 2^53 - 1, or "unlimited"');
  return Number(limit);
}

/** Parses `SOURCE:TARGET[:ro|rw]`; the source begins with `/`, `./` or `../`, so that it is not taken for a name. */
export function parseVolume(text: string): GuestMountValues {
  const need =
    '/SOURCE:/TARGET, ./SOURCE:/TARGET or /SOURCE:/TARGET:OPTIONS with ro, rw, noexec, idmap=WHOSE';
  const [, source, target, options = ''] = /^(\.{0,2}\/[^:]*|\.{1,2}):(\/[^:]*)(?::(.+))?$/.exec(text) ?? [];
  if (source === undefined || target === undefined) throw refuse(text, need);
  let mount: GuestMountValues = { type: 'bind', source, target, readonly: false };
  for (const option of options === '' ? [] : options.split(',')) {
    if (option === 'ro' || option === 'rw') mount = { ...mount, readonly: option === 'ro' };
    else if (option === 'noexec') mount = { ...mount, noexec: true };
    else if (option.startsWith('idmap=')) mount = { ...mount, ...parseIdmap(option.slice('idmap='.length)) };
    else throw refuse(text, need);
  }
  return mount;
}

/** Parses whose ids the files on disk have. */
function parseIdmap(text: string): Pick<GuestMountValues, 'idmap'> {
  if (text === 'true' || text === 'host') return { idmap: true };
  if (text === 'false' || text === 'none') return {};
  return { idmap: text === 'shared' ? text : parseXid(text) };
}

/** Parses `/TARGET[:OPTION,…]` with the options `size=SIZE`, `ro` and `rw`. */
export function parseTmpfs(text: string): GuestMountValues {
  const need = '/TARGET or /TARGET:size=SIZE,ro';
  const [, target, options = ''] = /^(\/[^:]*)(?::(.+))?$/.exec(text) ?? [];
  if (target === undefined) throw refuse(text, need);
  let mount: GuestMountValues = { type: 'tmpfs', target, readonly: false };
  for (const option of options === '' ? [] : options.split(',')) {
    if (option === 'ro' || option === 'rw') mount = { ...mount, readonly: option === 'ro' };
    else if (option.startsWith('size=')) mount = { ...mount, size: parseSize(option.slice('size='.length)) };
    else throw refuse(text, need);
  }
  return mount;
}

const MOUNT_KEYS: Readonly<
  Record<string, 'type' | 'source' | 'target' | 'readonly' | 'size' | 'idmap' | 'noexec'>
> = {
  type: 'type',
  source: 'source',
  src: 'source',
  target: 'target',
  destination: 'target',
  dst: 'target',
  readonly: 'readonly',
  ro: 'readonly',
  'tmpfs-size': 'size',
  idmap: 'idmap',
  noexec: 'noexec',
};

/** Parses Docker's `type=bind,source=/A,target=/B,readonly` or `type=tmpfs,target=/B,tmpfs-size=SIZE`. */
export function parseMount(text: string): GuestMountValues {
  const need =
    'type=bind,source=/PATH,target=/PATH[,readonly][,noexec][,idmap[=WHOSE]] or type=tmpfs,target=/PATH[,tmpfs-size=SIZE]';
  const fields = new Map<string, string>();
  for (const field of text.split(',')) {
    const [word = '', ...rest] = field.split('=');
    const key = Object.hasOwn(MOUNT_KEYS, word) ? MOUNT_KEYS[word] : undefined;
    const isSwitch = key === 'readonly' || key === 'noexec';
    const given = rest.length === 0 && (isSwitch || key === 'idmap') ? 'true' : rest.join('=');
    if (key === undefined || given === '' || fields.has(key)) throw refuse(text, need);
    if (isSwitch && given !== 'true' && given !== 'false') throw refuse(text, need);
    fields.set(key, given);
  }
  const type = fields.get('type') ?? 'bind';
  const source = fields.get('source');
  const target = fields.get('target');
  const size = fields.get('size');
  const isComplete = target !== undefined && (type === 'tmpfs') === (source === undefined);
  if ((type !== 'bind' && type !== 'tmpfs') || !isComplete) throw refuse(text, need);
  if (type === 'bind' ? size !== undefined : fields.has('idmap') || fields.has('noexec'))
    throw refuse(text, need);
  return {
    type,
    target,
    readonly: fields.get('readonly') === 'true',
    ...(source === undefined ? {} : { source }),
    ...(size === undefined ? {} : { size: parseSize(size) }),
    ...parseIdmap(fields.get('idmap') ?? 'none'),
    ...(fields.get('noexec') === 'true' ? { noexec: true } : {}),
  };
}

/** Checks a guest to depend on; it goes into the configuration as it is written. @throws UserError invalid-value */
export function parseDepends(text: string): string {
  parseDependency(text);
  return text;
}
