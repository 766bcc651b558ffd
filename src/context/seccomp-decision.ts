/**
 * What a profile decides about one system call: an ordered list of conditions and verdicts.
 *
 * INVARIANT: among the rules that match a call, the most restrictive action wins; among equals, the first in the
 * profile; without a match, the default. The same order holds between stacked filters in the kernel (seccomp(2)).
 */
import {
  type ResolvedSeccompProfile,
  SECCOMP_ACTIONS,
  type SeccompCondition,
  type SeccompVerdict,
} from '../spec/seccomp-profile.ts';

/** A verdict for calls of which all conditions hold. */
export interface DecisionStep {
  readonly conditions: readonly SeccompCondition[];
  readonly verdict: SeccompVerdict;
}

/** Steps in the order to try, then what holds if none matched. */
export interface Decision {
  readonly steps: readonly DecisionStep[];
  readonly otherwise: SeccompVerdict;
}

/** ENOSYS of asm-generic/errno.h, which every supported architecture uses. */
const ENOSYS = 38;

/** Answers as a kernel without that system call does, so that a libc falls back to an older one. */
export const NO_SUCH_SYSCALL: SeccompVerdict = { action: 'errno', data: ENOSYS };

/**
 * Calls that carry another call's number in their first argument: i386, s390x, powerpc (net/socket.c, ipc/syscall.c).
 *
 * The inner call's arguments of `socketcall` lie in memory, which seccomp cannot read. Both have direct calls beside
 * them (i386, s390x: sockets since Linux 4.3, System V IPC since 5.1).
 */
const MULTIPLEXERS: Readonly<
  Record<string, { readonly mask: bigint; readonly calls: ReadonlyMap<bigint, string> }>
> = {
  socketcall: {
    mask: 0xffff_ffffn,
    calls: new Map([
      [1n, 'socket'],
      [2n, 'bind'],
      [3n, 'connect'],
      [4n, 'listen'],
      [5n, 'accept'],
      [6n, 'getsockname'],
      [7n, 'getpeername'],
      [8n, 'socketpair'],
      // send and recv are sendto and recvfrom without an address (net/socket.c).
      [9n, 'sendto'],
      [10n, 'recvfrom'],
      [11n, 'sendto'],
      [12n, 'recvfrom'],
      [13n, 'shutdown'],
      [14n, 'setsockopt'],
      [15n, 'getsockopt'],
      [16n, 'sendmsg'],
      [17n, 'recvmsg'],
      [18n, 'accept4'],
      [19n, 'recvmmsg'],
      [20n, 'sendmmsg'],
    ]),
  },
  ipc: {
    // The upper half is the version of the calling convention.
    mask: 0xffffn,
    calls: new Map([
      [1n, 'semop'],
      [2n, 'semget'],
      [3n, 'semctl'],
      [4n, 'semtimedop'],
      [11n, 'msgsnd'],
      [12n, 'msgrcv'],
      [13n, 'msgget'],
      [14n, 'msgctl'],
      [21n, 'shmat'],
      [22n, 'shmdt'],
      [23n, 'shmget'],
      [24n, 'shmctl'],
    ]),
  },
};

/** Finds what a profile decides about a system call, by name. */
export function decideSyscall(profile: ResolvedSeccompProfile, name: string): Decision {
  const direct = decideDirect(profile, name);
  return MULTIPLEXERS[name] === undefined ? direct : restrictMultiplexer(profile, name, direct);
}

function decideDirect(profile: ResolvedSeccompProfile, name: string): Decision {
  const steps = profile.rules
    .filter((rule) => rule.names.includes(name))
    .flatMap((rule) => rule.alternatives.map((conditions) => ({ conditions, verdict: rule.verdict })))
    // Sorting is stable, so equals stay in the profile's order.
    .sort((left, right) => severity(left.verdict) - severity(right.verdict));
  return simplify(steps, profile.defaultVerdict);
}

/**
 * Keeps a multiplexer from allowing what its direct calls do not.
 *
 * Where the profile allows the multiplexer, each inner call gets its direct call's verdict; one whose direct call is
 * judged by arguments fails with ENOSYS. Otherwise `socket` limited to some families could be had through
 * `socketcall` with any: AF_ALG and its like write to page cache of readable files (CVE-2026-31431). The price is that
 * a 32-bit libc that knows only `socketcall` (glibc built for kernels before 4.3) opens no socket, unless the profile
 * hands `socketcall` to a supervisor, which copies the arguments before it judges them: `notify` and `trace` stay.
 */
function restrictMultiplexer(profile: ResolvedSeccompProfile, name: string, own: Decision): Decision {
  const inner = innerSteps(profile, name);
  const steps = own.steps.flatMap((step) =>
    isPermissive(step.verdict) ? [...inner.map((limit) => both(limit, step)), step] : [step],
  );
  return simplify(isPermissive(own.otherwise) ? [...steps, ...inner] : steps, own.otherwise);
}

function innerSteps(profile: ResolvedSeccompProfile, name: string): readonly DecisionStep[] {
  const multiplexer = MULTIPLEXERS[name];
  if (multiplexer === undefined) return [];
  return [...multiplexer.calls].flatMap(([call, direct]) => {
    const decision = decideDirect(profile, direct);
    const verdict = decision.steps.length > 0 ? NO_SUCH_SYSCALL : innerVerdict(decision.otherwise);
    if (verdict.action === 'allow') return [];
    const condition = { index: 0, operator: 'masked-eq', value: multiplexer.mask, valueTwo: call } as const;
    return [{ conditions: [condition], verdict }];
  });
}

/** A supervisor of the direct call would not know the multiplexer's arguments. */
function innerVerdict(direct: SeccompVerdict): SeccompVerdict {
  return direct.action === 'notify' || direct.action === 'trace' ? NO_SUCH_SYSCALL : direct;
}

function both(limit: DecisionStep, step: DecisionStep): DecisionStep {
  return { conditions: [...limit.conditions, ...step.conditions], verdict: limit.verdict };
}

/** Says whether a call with this verdict is executed without anyone having looked at it. */
function isPermissive(verdict: SeccompVerdict): boolean {
  return verdict.action === 'allow' || verdict.action === 'log';
}

/** Drops the steps after an unconditional one, and last ones that decide as what follows them. */
function simplify(steps: readonly DecisionStep[], otherwise: SeccompVerdict): Decision {
  const end = steps.findIndex((step) => step.conditions.length === 0);
  const last = end === -1 ? otherwise : (steps[end]?.verdict ?? otherwise);
  const tried = end === -1 ? steps : steps.slice(0, end);
  const needed = tried.findLastIndex((step) => !isSameVerdict(step.verdict, last)) + 1;
  return { steps: tried.slice(0, needed), otherwise: last };
}

function isSameVerdict(left: SeccompVerdict, right: SeccompVerdict): boolean {
  return left.action === right.action && left.data === right.data;
}

function severity(verdict: SeccompVerdict): number {
  return SECCOMP_ACTIONS.indexOf(verdict.action);
}
