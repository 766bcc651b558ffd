/**
 * Docker's seccomp profile format: JSON text ⇄ rules.
 *
 * The format is the OCI runtime spec's `linux.seccomp` plus `archMap` and, per rule, `comment`, `includes` and
 * `excludes` (https://docs.docker.com/engine/security/seccomp/). Nothing here knows system call numbers.
 */
import { UserError } from '../base/errors.ts';
import { DOCKER_ARCHES, findSeccompArch, SCMP_ARCHES } from './seccomp-arch.ts';
import {
  invalid,
  type JsonObject,
  join,
  optional,
  readArray,
  readInteger,
  readObject,
  readOneOf,
  readString,
  readU64,
  show,
} from './seccomp-json.ts';

/** What a rule does with a call, from the most to the least restrictive; the kernel's order (seccomp(2)). */
export const SECCOMP_ACTIONS = [
  'kill-process',
  'kill-thread',
  'trap',
  'errno',
  'notify',
  'trace',
  'log',
  'allow',
] as const;

/** One of `SECCOMP_ACTIONS`. */
export type SeccompAction = (typeof SECCOMP_ACTIONS)[number];

/** How an argument is compared, unsigned and in 64 bits. `masked-eq` is `(argument & value) == valueTwo`. */
export type SeccompOperator = 'ne' | 'lt' | 'le' | 'eq' | 'ge' | 'gt' | 'masked-eq';

/** An action with its number: the errno of `errno` (0..4095), the tracer's message of `trace` (0..65535), else 0. */
export interface SeccompVerdict {
  readonly action: SeccompAction;
  readonly data: number;
}

/** A comparison of one argument. */
export interface SeccompCondition {
  /** Number of the argument, 0..5. */
  readonly index: number;
  readonly operator: SeccompOperator;
  /** Unsigned, 64 bits. */
  readonly value: bigint;
  /** Unsigned, 64 bits; has a meaning for `masked-eq` only. */
  readonly valueTwo: bigint;
}

/** One rule whose time and place fit: it says what happens to the named calls if one of the alternatives holds. */
export interface SeccompRule {
  readonly names: readonly string[];
  readonly verdict: SeccompVerdict;
  /** Each alternative holds if all its conditions hold. `[[]]` always holds. */
  readonly alternatives: readonly (readonly SeccompCondition[])[];
}

/** Where a conditional rule is (`includes`) or is not (`excludes`) part of the profile. */
interface Circumstances {
  readonly caps: readonly string[];
  readonly arches: readonly string[];
  readonly minKernel: KernelVersion | undefined;
}

interface ConditionalRule extends SeccompRule {
  readonly includes: Circumstances;
  readonly excludes: Circumstances;
}

/** First two numbers of a kernel release: Linux 6.12.3 is `{ major: 6, minor: 12 }`. */
export interface KernelVersion {
  readonly major: number;
  readonly minor: number;
}

/** A profile as written, valid but not yet resolved. */
export interface SeccompProfile {
  readonly defaultVerdict: SeccompVerdict;
  /** The machine's architecture (`SCMP_ARCH_…`) to those filtered there; undefined when the profile names none. */
  readonly archMap: ReadonlyMap<string, readonly string[]> | undefined;
  /** Architectures filtered everywhere; never given together with `archMap`. */
  readonly architectures: readonly string[] | undefined;
  /** `SECCOMP_FILTER_FLAG_…` names. */
  readonly flags: readonly string[];
  readonly rules: readonly ConditionalRule[];
}

/** What `includes` and `excludes` are compared with. */
export interface SeccompCircumstances {
  /** The guest's capability bounding set as `CAP_…`, and the context capabilities it has as `CCAP_…`. */
  readonly caps: ReadonlySet<string>;
  /** `AUDIT_ARCH_…` number of the host's kernel (linux/audit.h). */
  readonly auditArch: number;
  readonly kernel: KernelVersion;
}

/** A profile for one guest on one host. */
export interface ResolvedSeccompProfile {
  readonly defaultVerdict: SeccompVerdict;
  /** `SCMP_ARCH_…` names the rules hold for beside the host's own; undefined: every one the host's kernel runs. */
  readonly architectures: readonly string[] | undefined;
  readonly flags: readonly string[];
  readonly rules: readonly SeccompRule[];
}

const ACTIONS: Readonly<Record<string, SeccompAction>> = {
  SCMP_ACT_KILL: 'kill-thread',
  SCMP_ACT_KILL_THREAD: 'kill-thread',
  SCMP_ACT_KILL_PROCESS: 'kill-process',
  SCMP_ACT_TRAP: 'trap',
  SCMP_ACT_ERRNO: 'errno',
  SCMP_ACT_NOTIFY: 'notify',
  SCMP_ACT_TRACE: 'trace',
  SCMP_ACT_LOG: 'log',
  SCMP_ACT_ALLOW: 'allow',
};

const OPERATORS: Readonly<Record<string, SeccompOperator>> = {
  SCMP_CMP_NE: 'ne',
  SCMP_CMP_LT: 'lt',
  SCMP_CMP_LE: 'le',
  SCMP_CMP_EQ: 'eq',
  SCMP_CMP_GE: 'ge',
  SCMP_CMP_GT: 'gt',
  SCMP_CMP_MASKED_EQ: 'masked-eq',
};

const FLAGS: readonly string[] = [
  'SECCOMP_FILTER_FLAG_TSYNC',
  'SECCOMP_FILTER_FLAG_LOG',
  'SECCOMP_FILTER_FLAG_SPEC_ALLOW',
  'SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV',
];

const PROFILE_KEYS: readonly string[] = [
  'defaultAction',
  'defaultErrnoRet',
  'architectures',
  'archMap',
  'flags',
  'syscalls',
];
const RULE_KEYS: readonly string[] = [
  'names',
  'name',
  'action',
  'errnoRet',
  'args',
  'comment',
  'includes',
  'excludes',
];

/** Default of `errnoRet` and `defaultErrnoRet` (OCI runtime spec, config-linux.md, seccomp). */
const EPERM = 1;
/** The kernel cuts the data of SECCOMP_RET_ERRNO at MAX_ERRNO (kernel/seccomp.c). */
const MAX_ERRNO = 4095;
const MAX_TRACE_MESSAGE = 0xffff;

/**
 * Parses a profile from JSON text. Numbers keep all 64 bits.
 *
 * @throws UserError invalid-seccomp-profile; the message names the place, for example `syscalls[12].args[0].op`
 */
export function parseSeccompProfile(text: string): SeccompProfile {
  let value: unknown;
  try {
    value = JSON.parse(text, keepWideNumbers);
  } catch (cause) {
    const found = cause instanceof Error ? cause.message : String(cause);
    throw new UserError('invalid-seccomp-profile', `cannot read seccomp profile: found no JSON: ${found}`, {
      cause,
    });
  }
  return toSeccompProfile(value);
}

/** A double holds 53 bits, an argument 64: integers beyond are taken from the text (JSON.parse source text, V8 11.4). */
function keepWideNumbers(_key: string, value: unknown, context?: { readonly source?: string }): unknown {
  if (typeof value !== 'number' || Number.isSafeInteger(value)) return value;
  const source = context?.source;
  return source !== undefined && /^\d+$/.test(source) ? BigInt(source) : value;
}

/**
 * Checks a parsed JSON value, for example of an imported `.json` file.
 *
 * @throws UserError invalid-seccomp-profile
 */
export function toSeccompProfile(value: unknown): SeccompProfile {
  const profile = readObject(value, '', PROFILE_KEYS);
  const archMap = optional(profile, 'archMap', '', readArchMap);
  const architectures = optional(profile, 'architectures', '', (list, path) =>
    readArray(list, path, (name, at) => readOneOf(name, at, SCMP_ARCHES)),
  );
  if (archMap !== undefined && architectures !== undefined) {
    throw invalid('architectures', 'found it together with "archMap"', 'only one of them');
  }
  return {
    defaultVerdict: readVerdict(profile, '', 'defaultAction', 'defaultErrnoRet'),
    archMap,
    architectures,
    flags:
      optional(profile, 'flags', '', (list, path) =>
        readArray(list, path, (name, at) => readOneOf(name, at, FLAGS)),
      ) ?? [],
    rules: optional(profile, 'syscalls', '', (list, path) => readArray(list, path, readRule)) ?? [],
  };
}

/**
 * Picks the rules that hold for one guest on one host.
 *
 * As in Docker: every capability, one of the architectures and the kernel version of `includes` must fit; any one of
 * `excludes` that fits drops the rule. `arches` is always compared with the host's own architecture.
 */
export function resolveSeccompProfile(
  profile: SeccompProfile,
  circumstances: SeccompCircumstances,
): ResolvedSeccompProfile {
  const arch = findSeccompArch(circumstances.auditArch);
  const native = arch === undefined ? [] : (profile.archMap?.get(arch.scmp) ?? []);
  return {
    defaultVerdict: profile.defaultVerdict,
    architectures: profile.archMap === undefined ? profile.architectures : native,
    flags: profile.flags,
    rules: profile.rules
      .filter(
        (rule) =>
          includesFit(rule.includes, circumstances, arch?.docker) &&
          !excludesFit(rule.excludes, circumstances, arch?.docker),
      )
      .map(({ names, verdict, alternatives }) => ({ names, verdict, alternatives })),
  };
}

function includesFit(wanted: Circumstances, real: SeccompCircumstances, arch: string | undefined): boolean {
  return (
    wanted.caps.every((cap) => real.caps.has(cap)) &&
    (wanted.arches.length === 0 || (arch !== undefined && wanted.arches.includes(arch))) &&
    (wanted.minKernel === undefined || isKernelAtLeast(real.kernel, wanted.minKernel))
  );
}

function excludesFit(unwanted: Circumstances, real: SeccompCircumstances, arch: string | undefined): boolean {
  return (
    unwanted.caps.some((cap) => real.caps.has(cap)) ||
    (arch !== undefined && unwanted.arches.includes(arch)) ||
    (unwanted.minKernel !== undefined && isKernelAtLeast(real.kernel, unwanted.minKernel))
  );
}

function isKernelAtLeast(real: KernelVersion, wanted: KernelVersion): boolean {
  return real.major > wanted.major || (real.major === wanted.major && real.minor >= wanted.minor);
}

function readArchMap(value: unknown, path: string): ReadonlyMap<string, readonly string[]> {
  const map = new Map<string, readonly string[]>();
  const entries = readArray(value, path, (entry, at) => {
    const object = readObject(entry, at, ['architecture', 'subArchitectures']);
    const arch = readOneOf(object['architecture'], `${at}.architecture`, SCMP_ARCHES);
    const subArches =
      optional(object, 'subArchitectures', at, (list, listPath) =>
        readArray(list, listPath, (name, nameAt) => readOneOf(name, nameAt, SCMP_ARCHES)),
      ) ?? [];
    return { arch, subArches };
  });
  for (const [position, { arch, subArches }] of entries.entries()) {
    if (map.has(arch)) throw invalid(`${path}[${position}].architecture`, `found "${arch}" again`, 'it once');
    map.set(arch, [arch, ...subArches]);
  }
  return map;
}

function readRule(value: unknown, path: string): ConditionalRule {
  const rule = readObject(value, path, RULE_KEYS);
  optional(rule, 'comment', path, readString);
  const conditions =
    optional(rule, 'args', path, (list, listPath) => readArray(list, listPath, readCondition)) ?? [];
  return {
    names: readNames(rule, path),
    verdict: readVerdict(rule, path, 'action', 'errnoRet'),
    alternatives: toAlternatives(conditions),
    includes: readCircumstances(rule, path, 'includes'),
    excludes: readCircumstances(rule, path, 'excludes'),
  };
}

/**
 * All conditions of a rule must hold, unless two are on the same argument: then each is a rule of its own.
 *
 * That is what runc and crun do (runc, libcontainer/seccomp/seccomp_linux.go, `matchCall`), kept since libseccomp
 * could not compare an argument twice, and profiles are written for it.
 */
function toAlternatives(conditions: readonly SeccompCondition[]): readonly (readonly SeccompCondition[])[] {
  const indexes = new Set(conditions.map((condition) => condition.index));
  return indexes.size === conditions.length ? [conditions] : conditions.map((condition) => [condition]);
}

/** `name` is Docker's form before 1.12; a rule has one of the two. */
function readNames(rule: JsonObject, path: string): readonly string[] {
  const single = optional(rule, 'name', path, readSyscallName);
  const names =
    optional(rule, 'names', path, (list, listPath) => readArray(list, listPath, readSyscallName)) ?? [];
  if (single !== undefined && names.length > 0) {
    throw invalid(join(path, 'name'), 'found it together with "names"', 'only one of them');
  }
  if (single !== undefined) return [single];
  if (names.length === 0) throw invalid(join(path, 'names'), 'found none', 'one system call name or more');
  return names;
}

function readSyscallName(value: unknown, path: string): string {
  const name = readString(value, path);
  if (!/^[a-z_][a-z0-9_]*$/.test(name)) throw invalid(path, `found ${show(name)}`, 'a system call name');
  return name;
}

function readVerdict(object: JsonObject, path: string, actionKey: string, errnoKey: string): SeccompVerdict {
  const actionPath = join(path, actionKey);
  const name = readOneOf(object[actionKey], actionPath, Object.keys(ACTIONS));
  const action = ACTIONS[name];
  if (action === undefined) throw invalid(actionPath, `found ${show(name)}`, 'an action');
  const data = optional(object, errnoKey, path, (value, at) => {
    // The OCI runtime spec wants an error here: the number would be lost without a word.
    if (action !== 'errno' && action !== 'trace') {
      throw invalid(at, `found it with ${name}`, 'SCMP_ACT_ERRNO or SCMP_ACT_TRACE');
    }
    return readInteger(value, at, action === 'errno' ? MAX_ERRNO : MAX_TRACE_MESSAGE);
  });
  return { action, data: data ?? (action === 'errno' || action === 'trace' ? EPERM : 0) };
}

function readCondition(value: unknown, path: string): SeccompCondition {
  const object = readObject(value, path, ['index', 'value', 'valueTwo', 'op']);
  const opPath = join(path, 'op');
  const name = readOneOf(object['op'], opPath, Object.keys(OPERATORS));
  const operator = OPERATORS[name];
  if (operator === undefined) throw invalid(opPath, `found ${show(name)}`, 'an operator');
  const condition: SeccompCondition = {
    index: readInteger(object['index'], join(path, 'index'), 5),
    operator,
    value: readU64(object['value'], join(path, 'value')),
    valueTwo: optional(object, 'valueTwo', path, readU64) ?? 0n,
  };
  if (operator === 'masked-eq' && (condition.valueTwo & ~condition.value) !== 0n) {
    throw invalid(
      join(path, 'valueTwo'),
      `found bits outside the mask 0x${condition.value.toString(16)}, so it never holds`,
      'the mask in "value", the result in "valueTwo"',
    );
  }
  return condition;
}

function readCircumstances(rule: JsonObject, path: string, key: string): Circumstances {
  const none: Circumstances = { caps: [], arches: [], minKernel: undefined };
  return (
    optional(rule, key, path, (value, at) => {
      const object = readObject(value, at, ['caps', 'arches', 'minKernel']);
      return {
        caps:
          optional(object, 'caps', at, (list, listPath) => readArray(list, listPath, readCapability)) ?? [],
        arches:
          optional(object, 'arches', at, (list, listPath) =>
            readArray(list, listPath, (name, nameAt) => readOneOf(name, nameAt, DOCKER_ARCHES)),
          ) ?? [],
        minKernel: optional(object, 'minKernel', at, readKernelVersion),
      };
    }) ?? none
  );
}

function readCapability(value: unknown, path: string): string {
  const name = readString(value, path);
  if (!/^C?CAP_[A-Z0-9_]+$/.test(name))
    throw invalid(path, `found ${show(name)}`, 'a name such as "CAP_SYS_ADMIN"');
  return name;
}

function readKernelVersion(value: unknown, path: string): KernelVersion {
  const text = readString(value, path);
  const match = /^(\d{1,3})\.(\d{1,3})$/.exec(text);
  if (match === null) throw invalid(path, `found ${show(text)}`, 'a kernel version such as "4.8"');
  return { major: Number(match[1]), minor: Number(match[2]) };
}
