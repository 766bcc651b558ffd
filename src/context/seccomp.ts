/**
 * Compiles a seccomp profile to classic BPF.
 *
 *     load arch ─┬─ native ─ load nr ─ binary search over ranges of numbers ─┬─ return
 *                ├─ 32-bit ─ load nr ─ binary search                         └─ argument checks ─ return
 *                └─ other ─ kill the process
 *
 * Since Linux 5.11 the kernel runs a new filter once per number, up to the first look at an argument, and never again
 * for numbers that are allowed without one (commit 8e01b51a31a1, `seccomp_is_const_allow`): short paths make both cheap.
 * Each start checks, translates and compiles the filter anew, so fewer instructions make every start cheaper.
 */
import { inspect } from 'node:util';
import { findSeccompArch } from '../spec/seccomp-arch.ts';
import type { ResolvedSeccompProfile, SeccompCondition, SeccompVerdict } from '../spec/seccomp-profile.ts';
import { BPF, BpfAssembler, type BpfLabel } from './classic-bpf.ts';
import { type Decision, type DecisionStep, decideSyscall, NO_SUCH_SYSCALL } from './seccomp-decision.ts';

/** The part of a machine's ABI the compiler needs. */
export interface SeccompAbi {
  /** `AUDIT_ARCH_…` number (linux/audit.h). */
  readonly auditArch: number;
  /** System call numbers by name. */
  readonly syscalls: Readonly<Record<string, number>>;
  /** The 32-bit ABI the same kernel runs, if any. */
  readonly compat: {
    readonly auditArch: number;
    readonly syscalls: Readonly<Record<string, number>>;
  } | null;
  readonly littleEndian: boolean;
}

/** A filter to load. */
export interface CompiledSeccompFilter {
  /** Array of struct sock_filter, 8 bytes each, in the host's byte order. */
  readonly program: Uint8Array;
  /** True if a rule asks a supervisor: the filter must be loaded with SECCOMP_FILTER_FLAG_NEW_LISTENER. */
  readonly hasNotify: boolean;
  /** Names in the profile that no ABI of this machine has; often those of other architectures, sometimes a mistake. */
  readonly unknownNames: readonly string[];
}

/** SECCOMP_RET_… of linux/seccomp.h. */
const SECCOMP_RET: Readonly<Record<SeccompVerdict['action'], number>> = {
  'kill-process': 0x8000_0000,
  'kill-thread': 0x0000_0000,
  trap: 0x0003_0000,
  errno: 0x0005_0000,
  notify: 0x7fc0_0000,
  trace: 0x7ff0_0000,
  log: 0x7ffc_0000,
  allow: 0x7fff_0000,
};

/** Offsets in struct seccomp_data: s32 nr; u32 arch; u64 instruction_pointer; u64 args[6]. */
const NR_OFFSET = 0;
const ARCH_OFFSET = 4;
const ARGS_OFFSET = 16;
const ARG_BYTES = 8;
const WORD_BYTES = 4;

const AUDIT_ARCH_X86_64 = 0xc000_003e;
/** __X32_SYSCALL_BIT: the x32 ABI has the same AUDIT_ARCH as x86-64, and this bit in the number. */
const X32_SYSCALL_BIT = 0x4000_0000;
const WORD_MAX = 0xffff_ffff;

interface NumberRange extends Range {
  readonly decision: Decision;
}

/**
 * Compiles a resolved profile for one machine.
 *
 * - An architecture that is neither native nor the 32-bit one (or not in the profile's list) kills the process.
 * - A number the tables do not name gets ENOSYS where the default denies, so that programs of a newer libc fall back;
 *   EPERM would make them give up. x32 numbers always get ENOSYS.
 *
 * @throws UserError seccomp-filter-too-long
 */
export function compileSeccomp(profile: ResolvedSeccompProfile, abi: SeccompAbi): CompiledSeccompFilter {
  const assembler = new BpfAssembler();
  const emitted: EmittedDecisions = new Map();
  let next = assembler.return(SECCOMP_RET['kill-process']);
  const tables = [abi.syscalls];
  const { compat } = abi;
  if (compat !== null && isCovered(profile, compat.auditArch)) {
    const start = emitTable(assembler, profile, compat.auditArch, compat.syscalls, abi.littleEndian, emitted);
    next = assembler.branch(BPF.IF_EQUAL, compat.auditArch, start, next);
    tables.push(compat.syscalls);
  }
  const start = emitTable(assembler, profile, abi.auditArch, abi.syscalls, abi.littleEndian, emitted);
  next = assembler.branch(BPF.IF_EQUAL, abi.auditArch, start, next);
  const entry = assembler.load(ARCH_OFFSET, next);

  const names = new Set(profile.rules.flatMap((rule) => rule.names));
  return {
    program: assembler.finish(entry, abi.littleEndian),
    hasNotify:
      profile.defaultVerdict.action === 'notify' ||
      profile.rules.some((rule) => rule.verdict.action === 'notify'),
    unknownNames: [...names].filter((name) => !tables.some((table) => Object.hasOwn(table, name))),
  };
}

function isCovered(profile: ResolvedSeccompProfile, auditArch: number): boolean {
  const scmp = findSeccompArch(auditArch)?.scmp;
  return profile.architectures === undefined || (scmp !== undefined && profile.architectures.includes(scmp));
}

function emitTable(
  assembler: BpfAssembler,
  profile: ResolvedSeccompProfile,
  auditArch: number,
  syscalls: Readonly<Record<string, number>>,
  isLittleEndian: boolean,
  emitted: EmittedDecisions,
): BpfLabel {
  const ranges = numberRanges(profile, auditArch, syscalls);
  const emit = ({ decision }: NumberRange): BpfLabel =>
    emitDecision(assembler, decision, isLittleEndian, emitted);
  return assembler.load(NR_OFFSET, emitSearch(assembler, ranges, emit));
}

/** Covers all numbers from 0 to 2^32 - 1; neighbours that decide the same without arguments are one range. */
function numberRanges(
  profile: ResolvedSeccompProfile,
  auditArch: number,
  syscalls: Readonly<Record<string, number>>,
): readonly NumberRange[] {
  const unknown: Decision = { steps: [], otherwise: unknownVerdict(profile.defaultVerdict) };
  const known = Object.entries(syscalls)
    .map(([name, number]) => ({ number, decision: decideSyscall(profile, name) }))
    .sort((left, right) => left.number - right.number);
  const ranges: NumberRange[] = [];
  let free = 0;
  for (const { number, decision } of known) {
    // Two names of one number: the first in the table speaks for both.
    if (number < free) continue;
    if (number > free) append(ranges, { first: free, decision: unknown });
    append(ranges, { first: number, decision });
    free = number + 1;
  }
  append(ranges, { first: free, decision: unknown });
  if (auditArch === AUDIT_ARCH_X86_64) {
    append(ranges, { first: X32_SYSCALL_BIT, decision: { steps: [], otherwise: NO_SUCH_SYSCALL } });
  }
  return ranges;
}

function append(ranges: NumberRange[], range: NumberRange): void {
  const last = ranges.at(-1)?.decision;
  const isSame =
    last !== undefined &&
    last.steps.length === 0 &&
    range.decision.steps.length === 0 &&
    returnValue(last.otherwise) === returnValue(range.decision.otherwise);
  if (!isSame) ranges.push(range);
}

/** Like runc's stub (libcontainer/seccomp/patchbpf): only where the default would refuse. */
function unknownVerdict(verdict: SeccompVerdict): SeccompVerdict {
  switch (verdict.action) {
    case 'allow':
    case 'log':
    case 'trace':
    case 'notify':
      return verdict;
    case 'errno':
    case 'trap':
    case 'kill-thread':
    case 'kill-process':
      return NO_SUCH_SYSCALL;
  }
}

/** Values from `first` to the next range's first. */
interface Range {
  readonly first: number;
}

/** Emits a search of the loaded word among ranges that together are all there is. */
function emitSearch<T extends Range>(
  assembler: BpfAssembler,
  ranges: readonly T[],
  emit: (range: T) => BpfLabel,
): BpfLabel {
  const middle = ranges.length >> 1;
  const upper = ranges[middle];
  if (upper === undefined) return assembler.return(SECCOMP_RET['kill-process']);
  if (ranges.length === 1) return emit(upper);
  const above = emitSearch(assembler, ranges.slice(middle), emit);
  const below = emitSearch(assembler, ranges.slice(0, middle), emit);
  return assembler.branch(BPF.IF_GREATER_OR_EQUAL, upper.first, above, below);
}

/** What is emitted already: several calls of both ABIs are decided by the same arguments. */
type EmittedDecisions = Map<string, BpfLabel>;

function emitDecision(
  assembler: BpfAssembler,
  decision: Decision,
  isLittleEndian: boolean,
  emitted: EmittedDecisions,
): BpfLabel {
  if (decision.steps.length === 0) return assembler.return(returnValue(decision.otherwise));
  const key = inspect(decision, { depth: null, maxArrayLength: null });
  const label = emitted.get(key) ?? emitSteps(assembler, decision, isLittleEndian);
  emitted.set(key, label);
  return label;
}

function emitSteps(assembler: BpfAssembler, decision: Decision, isLittleEndian: boolean): BpfLabel {
  let next = assembler.return(returnValue(decision.otherwise));
  let position = decision.steps.length - 1;
  while (position >= 0) {
    const count = countAlike(decision.steps, position);
    const group = decision.steps.slice(position - count + 1, position + 1);
    next = emitStep(assembler, group, next, isLittleEndian);
    position -= count;
  }
  return next;
}

/** Counts the steps up to `end` that compare the same upper half of an argument for equality and decide the same. */
function countAlike(steps: readonly DecisionStep[], end: number): number {
  const last = steps[end];
  const lastCondition = last === undefined ? undefined : equality(last);
  if (last === undefined || lastCondition === undefined) return 1;
  let count = 1;
  for (let position = end - 1; position >= 0; position--) {
    const step = steps[position];
    const condition = step === undefined ? undefined : equality(step);
    const isAlike =
      step !== undefined &&
      condition !== undefined &&
      condition.index === lastCondition.index &&
      upperHalf(condition.value) === upperHalf(lastCondition.value) &&
      returnValue(step.verdict) === returnValue(last.verdict);
    if (!isAlike) break;
    count++;
  }
  return count;
}

function equality(step: DecisionStep): SeccompCondition | undefined {
  const [condition] = step.conditions;
  return step.conditions.length === 1 && condition?.operator === 'eq' ? condition : undefined;
}

/** Emits one step, or several alike that load each half of their argument once. */
function emitStep(
  assembler: BpfAssembler,
  group: readonly DecisionStep[],
  otherwise: BpfLabel,
  isLittleEndian: boolean,
): BpfLabel {
  const [step] = group;
  if (step === undefined) return otherwise;
  const matched = assembler.return(returnValue(step.verdict));
  const first = equality(step);
  if (first !== undefined) {
    const values = group.flatMap((member) => equality(member)?.value ?? []);
    return emitEqualsAny(assembler, first.index, values, matched, otherwise, isLittleEndian);
  }
  let next = matched;
  for (const condition of step.conditions.toReversed()) {
    next = emitCondition(assembler, condition, next, otherwise, isLittleEndian);
  }
  return next;
}

/** Values share their upper half. */
function emitEqualsAny(
  assembler: BpfAssembler,
  index: number,
  values: readonly bigint[],
  whenTrue: BpfLabel,
  whenFalse: BpfLabel,
  isLittleEndian: boolean,
): BpfLabel {
  const { upper, lower } = argumentOffsets(index, isLittleEndian);
  const lowerHalves = values.map(lowerHalf);
  const ranges = rangesOf(lowerHalves);
  let next = whenFalse;
  if (ranges.length > lowerHalves.length) {
    for (const value of lowerHalves.toReversed())
      next = assembler.branch(BPF.IF_EQUAL, value, whenTrue, next);
  } else {
    next = emitSearch(assembler, ranges, ({ isMember }) => (isMember ? whenTrue : whenFalse));
  }
  next = assembler.load(lower, next);
  next = assembler.branch(BPF.IF_EQUAL, upperHalf(values[0] ?? 0n), next, whenFalse);
  return assembler.load(upper, next);
}

/** Divides all 32-bit values by whether they are among some. */
function rangesOf(values: readonly number[]): readonly Membership[] {
  const members = new Set(values);
  const bounds = new Set([...members].flatMap((value) => [value, value + 1]));
  bounds.delete(0);
  const ranges: Membership[] = [{ first: 0, isMember: members.has(0) }];
  for (const first of [...bounds].sort((left, right) => left - right)) {
    const isMember = members.has(first);
    if (first <= WORD_MAX && isMember !== ranges.at(-1)?.isMember) ranges.push({ first, isMember });
  }
  return ranges;
}

interface Membership extends Range {
  readonly isMember: boolean;
}

/** The accumulator has 32 bits: the upper half decides, the lower one if the upper halves are equal. */
function emitCondition(
  assembler: BpfAssembler,
  condition: SeccompCondition,
  whenTrue: BpfLabel,
  whenFalse: BpfLabel,
  isLittleEndian: boolean,
): BpfLabel {
  const { index, value } = condition;
  switch (condition.operator) {
    case 'eq':
      return emitEqualsAny(assembler, index, [value], whenTrue, whenFalse, isLittleEndian);
    case 'ne':
      return emitEqualsAny(assembler, index, [value], whenFalse, whenTrue, isLittleEndian);
    case 'ge':
      return emitOrder(assembler, BPF.IF_GREATER_OR_EQUAL, condition, whenTrue, whenFalse, isLittleEndian);
    case 'gt':
      return emitOrder(assembler, BPF.IF_GREATER, condition, whenTrue, whenFalse, isLittleEndian);
    case 'lt':
      return emitOrder(assembler, BPF.IF_GREATER_OR_EQUAL, condition, whenFalse, whenTrue, isLittleEndian);
    case 'le':
      return emitOrder(assembler, BPF.IF_GREATER, condition, whenFalse, whenTrue, isLittleEndian);
    case 'masked-eq':
      return emitMasked(assembler, condition, whenTrue, whenFalse, isLittleEndian);
  }
}

function emitOrder(
  assembler: BpfAssembler,
  comparison: typeof BPF.IF_GREATER | typeof BPF.IF_GREATER_OR_EQUAL,
  { index, value }: SeccompCondition,
  whenTrue: BpfLabel,
  whenFalse: BpfLabel,
  isLittleEndian: boolean,
): BpfLabel {
  const { upper, lower } = argumentOffsets(index, isLittleEndian);
  let next = assembler.branch(comparison, lowerHalf(value), whenTrue, whenFalse);
  next = assembler.load(lower, next);
  next = assembler.branch(BPF.IF_EQUAL, upperHalf(value), next, whenFalse);
  next = assembler.branch(BPF.IF_GREATER, upperHalf(value), whenTrue, next);
  return assembler.load(upper, next);
}

function emitMasked(
  assembler: BpfAssembler,
  { index, value, valueTwo }: SeccompCondition,
  whenTrue: BpfLabel,
  whenFalse: BpfLabel,
  isLittleEndian: boolean,
): BpfLabel {
  const { upper, lower } = argumentOffsets(index, isLittleEndian);
  const halves = [
    { offset: lower, mask: lowerHalf(value), wanted: lowerHalf(valueTwo) },
    { offset: upper, mask: upperHalf(value), wanted: upperHalf(valueTwo) },
  ];
  let next = whenTrue;
  for (const { offset, mask, wanted } of halves) {
    // The parser refuses wanted bits outside the mask, so a half without mask always holds.
    if (mask === 0) continue;
    next = assembler.branch(BPF.IF_EQUAL, wanted, next, whenFalse);
    if (mask !== WORD_MAX) next = assembler.and(mask, next);
    next = assembler.load(offset, next);
  }
  return next;
}

function argumentOffsets(
  index: number,
  isLittleEndian: boolean,
): { readonly upper: number; readonly lower: number } {
  const start = ARGS_OFFSET + index * ARG_BYTES;
  return isLittleEndian
    ? { upper: start + WORD_BYTES, lower: start }
    : { upper: start, lower: start + WORD_BYTES };
}

function upperHalf(value: bigint): number {
  return Number(value >> 32n);
}

function lowerHalf(value: bigint): number {
  return Number(value & 0xffff_ffffn);
}

/** SECCOMP_RET_DATA is the lower 16 bits. */
function returnValue(verdict: SeccompVerdict): number {
  return SECCOMP_RET[verdict.action] + verdict.data;
}
