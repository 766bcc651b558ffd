/** A second reading of Docker's seccomp format, straight from the JSON: the judge of what our compiler emits. */

const ALLOW = 0x7fff0000;

/** A rule as it stands in the JSON. */
export interface RawRule {
  readonly names: readonly string[];
  readonly action: string;
  readonly errnoRet?: number;
  readonly args?: readonly RawCondition[];
  readonly includes?: { readonly caps?: readonly string[]; readonly arches?: readonly string[] };
  readonly excludes?: { readonly caps?: readonly string[]; readonly arches?: readonly string[] };
}
/** A condition as it stands in the JSON. */
export interface RawCondition {
  readonly index: number;
  readonly value: number | bigint;
  readonly valueTwo?: number | bigint;
  readonly op: string;
}

const ORDER = ['KILL_PROCESS', 'KILL', 'TRAP', 'ERRNO', 'NOTIFY', 'TRACE', 'LOG', 'ALLOW'];
const VALUES = [0x80000000, 0, 0x30000, 0x50000, 0x7fc00000, 0x7ff00000, 0x7ffc0000, ALLOW];
/** Direct call of each number a multiplexer takes. */
export const SUBCALLS: Readonly<Record<string, readonly string[]>> = {
  socketcall: [
    '',
    ...[
      'socket',
      'bind',
      'connect',
      'listen',
      'accept',
      'getsockname',
      'getpeername',
      'socketpair',
      'sendto',
    ],
    ...['recvfrom', 'sendto', 'recvfrom', 'shutdown', 'setsockopt', 'getsockopt', 'sendmsg', 'recvmsg'],
    ...['accept4', 'recvmmsg', 'sendmmsg'],
  ],
  ipc: [
    ...['', 'semop', 'semget', 'semctl', 'semtimedop', '', '', '', '', '', '', 'msgsnd', 'msgrcv', 'msgget'],
    ...['msgctl', '', '', '', '', '', '', 'shmat', 'shmdt', 'shmget', 'shmctl'],
  ],
};

function holds(condition: RawCondition, args: readonly bigint[]): boolean {
  const arg = args[condition.index]!;
  const value = BigInt(condition.value);
  switch (condition.op) {
    case 'SCMP_CMP_NE':
      return arg !== value;
    case 'SCMP_CMP_LT':
      return arg < value;
    case 'SCMP_CMP_LE':
      return arg <= value;
    case 'SCMP_CMP_EQ':
      return arg === value;
    case 'SCMP_CMP_GE':
      return arg >= value;
    case 'SCMP_CMP_GT':
      return arg > value;
    case 'SCMP_CMP_MASKED_EQ':
      return (arg & value) === BigInt(condition.valueTwo ?? 0);
    default:
      throw new Error(condition.op);
  }
}

/** Rules of a name that hold on x86-64, whatever the kernel version. */
export function rulesFor(
  rules: readonly RawRule[],
  name: string,
  caps: readonly string[],
): readonly RawRule[] {
  return rules
    .filter((rule) => rule.names.includes(name))
    .filter((rule) => (rule.includes?.caps ?? []).every((cap) => caps.includes(cap)))
    .filter((rule) => rule.includes?.arches?.includes('amd64') ?? true)
    .filter((rule) => !(rule.excludes?.caps ?? []).some((cap) => caps.includes(cap)))
    .filter((rule) => !rule.excludes?.arches?.includes('amd64'));
}

/** What a profile decides about one call. */
export function judgeSeccomp(
  profile: { readonly defaultAction: string; readonly syscalls: readonly RawRule[] },
  name: string,
  args: readonly bigint[],
  caps: readonly string[],
): number {
  const matching = rulesFor(profile.syscalls, name, caps).filter((rule) => {
    const conditions = rule.args ?? [];
    const isRepeated = new Set(conditions.map((c) => c.index)).size < conditions.length;
    return isRepeated ? conditions.some((c) => holds(c, args)) : conditions.every((c) => holds(c, args));
  });
  const ranks = matching.map((rule) => ORDER.indexOf(rule.action.replace('SCMP_ACT_', '')));
  const rank = Math.min(...ranks);
  const rule = matching[ranks.indexOf(rank)];
  const own =
    rule === undefined
      ? VALUES[ORDER.indexOf(profile.defaultAction.replace('SCMP_ACT_', ''))]! +
        (/ERRNO|TRACE/.test(profile.defaultAction) ? 1 : 0)
      : VALUES[rank]! + (/ERRNO|TRACE/.test(rule.action) ? (rule.errnoRet ?? 1) : 0);
  const direct = SUBCALLS[name]?.[Number(args[0]! & (name === 'ipc' ? 0xffffn : 0xffffffffn))];
  if (own !== ALLOW || !direct) return own;
  if (rulesFor(profile.syscalls, direct, caps).some((inner) => (inner.args ?? []).length > 0))
    return 0x50000 + 38;
  return judgeSeccomp(profile, direct, args, caps);
}
