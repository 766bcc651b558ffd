// SPDX-License-Identifier: MIT OR GPL-2.0-only
/** Steps that load eBPF programs, and what the kernel's verifier says about one in the words of its author. */
import { BugError } from '../../base/errors.ts';
import type { Arg, Data, Import, Program, Result } from '../program.ts';
import type { StepError, Syscalld } from '../syscalld.ts';
import type { EbpfProgram } from './assembler.ts';
import { ATTACH_TYPE, type AttachType, COMMAND, PROGRAM_TYPE, type ProgramType } from './uapi.ts';

/** A program, what it is and where it goes. */
export interface ProgramSpec {
  readonly name: string;
  readonly type: ProgramType;
  /** Left out: a raw tracepoint. */
  readonly attach?: AttachType;
  readonly program: EbpfProgram;
  /** Tracing only: id of the kernel's function it stands for. */
  readonly attachTo?: number;
}

/** A program that is attached at a place of its own. */
export interface PlacedProgram extends ProgramSpec {
  readonly attach: AttachType;
}

/**
 * PROG_LOAD: u32 type, count; u64 instructions, licence; u32 log level, log size; u64 log; u32 version, flags;
 * char name[16]; u32 ifindex, attach type, btf, …; u64 maps at 120.
 */
const LOAD = {
  type: 0,
  count: 4,
  instructions: 8,
  licence: 16,
  logLevel: 24,
  logSize: 28,
  log: 32,
  name: 48,
  attach: 68,
  attachTo: 108,
  maps: 120,
  bytes: 144,
} as const;
/** PROG_ATTACH: u32 target, u32 program, u32 attach type, u32 flags. */
const ATTACH = { target: 0, program: 4, type: 8, flags: 12, bytes: 16 } as const;
/** LINK_CREATE: u32 program, u32 target, u32 attach type, u32 flags. */
const LINK = { program: 0, target: 4, type: 8, bytes: 16 } as const;
/** RAW_TRACEPOINT_OPEN: u64 name, u32 program. */
const RAW_TRACEPOINT = { name: 0, program: 8, bytes: 16 } as const;
/** ITER_CREATE: u32 link, u32 flags. */
const ITER_BYTES = 8;
/** PROG_QUERY: u32 target, u32 attach type, u32 flags, u32 attach flags (out), u64 ids, u32 count (in, out). */
const QUERY = { target: 0, type: 4, ids: 16, count: 24, bytes: 32 } as const;
/** PROG_GET_FD_BY_ID: u32 id, u32 next, u32 flags. */
const FD_BY_ID_BYTES = 12;
const NAME_BYTES = 15;
const INSTRUCTION_BYTES = 8;
const LOG_BYTES = 64 * 1024;

/** Puts the maps' descriptors where loads find them, in the order of names that `EbpfAssembler.program` was given. */
export function planMapTable(p: Program, maps: readonly (Result | Import)[]): Data {
  const table = p.data(4 * maps.length, '<maps>');
  for (const [i, map] of maps.entries()) p.store(table.at(4 * i, 4), map);
  return table;
}

function planLoadAttr(p: Program, spec: ProgramSpec, maps: Data): Data {
  const { code } = spec.program;
  const attr = p.data(LOAD.bytes, `<${spec.name}, ${code.length / INSTRUCTION_BYTES} instructions>`);
  p.put(attr.at(LOAD.type, 4), PROGRAM_TYPE[spec.type]);
  p.put(attr.at(LOAD.count, 4), code.length / INSTRUCTION_BYTES);
  p.pointer(attr.at(LOAD.instructions, 8), p.data(code));
  p.pointer(attr.at(LOAD.licence, 8), p.text('Dual MIT/GPL'));
  p.putText(attr.at(LOAD.name), spec.name.slice(0, NAME_BYTES));
  p.put(attr.at(LOAD.attach, 4), spec.attach === undefined ? 0 : ATTACH_TYPE[spec.attach]);
  p.put(attr.at(LOAD.attachTo, 4), spec.attachTo ?? 0);
  p.pointer(attr.at(LOAD.maps, 8), maps);
  return attr;
}

/** Adds the step that loads a program; its result is the program's descriptor. */
export function planLoad(p: Program, spec: ProgramSpec, maps: Data): Result {
  const attr = planLoadAttr(p, spec, maps);
  return p.sys('bpf', [COMMAND.BPF_PROG_LOAD, attr, LOAD.bytes], { about: `load "${spec.name}"` });
}

/**
 * Adds the step that attaches a program to a cgroup. It stays as long as the cgroup, whatever becomes of us; guests may
 * attach more below, which can only refuse more (BPF_F_ALLOW_MULTI, Linux 4.15).
 */
export function planAttachProgram(p: Program, spec: PlacedProgram, program: Result, cgroup: Result): void {
  const attr = p.data(ATTACH.bytes, `<attach ${spec.attach}>`);
  p.store(attr.at(ATTACH.target, 4), cgroup);
  p.store(attr.at(ATTACH.program, 4), program);
  p.put(attr.at(ATTACH.type, 4), ATTACH_TYPE[spec.attach]);
  p.put(attr.at(ATTACH.flags, 4), p.flags('BPF_F_ALLOW_MULTI').value);
  p.sys('bpf', [COMMAND.BPF_PROG_ATTACH, attr, ATTACH.bytes], { about: `attach "${spec.name}"` });
}

/** Adds the step that asks which program of a kind is attached to a cgroup: its id, and how many there are. */
export function planAttached(
  p: Program,
  attach: AttachType,
  cgroup: Result,
): { readonly ids: Data; readonly count: Result } {
  const query = p.data(QUERY.bytes, `<query ${attach}>`);
  const ids = p.data(4, '<ids>');
  p.store(query.at(QUERY.target, 4), cgroup);
  p.put(query.at(QUERY.type, 4), ATTACH_TYPE[attach]);
  p.pointer(query.at(QUERY.ids, 8), ids);
  p.put(query.at(QUERY.count, 4), 1);
  p.sys('bpf', [COMMAND.BPF_PROG_QUERY, query, QUERY.bytes], { about: `query ${attach}` });
  return { ids, count: p.load(query.at(QUERY.count, 4)) };
}

/**
 * Adds the steps that detach the program of a kind that somebody who is gone has left at a cgroup; one at most, as we
 * never leave more.
 */
export function planDetachAll(p: Program, attach: AttachType, cgroup: Result): void {
  const none = p.label();
  const { ids, count } = planAttached(p, attach, cgroup);
  p.expect(count, '!=', 0, 'ENOENT', `a ${attach}`, { otherwise: none });
  const open = p.data(FD_BY_ID_BYTES, '<id>');
  p.store(open.at(0, 4), p.load(ids));
  const old = p.sys('bpf', [COMMAND.BPF_PROG_GET_FD_BY_ID, open, FD_BY_ID_BYTES], {
    about: `open ${attach}`,
  });
  const detach = p.data(ATTACH.bytes, `<detach ${attach}>`);
  p.store(detach.at(ATTACH.target, 4), cgroup);
  p.store(detach.at(ATTACH.program, 4), old);
  p.put(detach.at(ATTACH.type, 4), ATTACH_TYPE[attach]);
  p.sys('bpf', [COMMAND.BPF_PROG_DETACH, detach, ATTACH.bytes], { about: `detach ${attach}` });
  p.sys('close', [old]);
  p.place(none);
}

/** Adds the step that attaches a program to a network namespace, as long as the result, a link, is open (Linux 5.9). */
export function planLink(p: Program, spec: PlacedProgram, program: Result, target: Result): Result {
  const attr = p.data(LINK.bytes, `<link ${spec.attach}>`);
  p.store(attr.at(LINK.program, 4), program);
  p.store(attr.at(LINK.target, 4), target);
  p.put(attr.at(LINK.type, 4), ATTACH_TYPE[spec.attach]);
  return p.sys('bpf', [COMMAND.BPF_LINK_CREATE, attr, LINK.bytes], { about: `link "${spec.name}"` });
}

/** Adds the step that runs a program at a tracepoint, as long as the result, a link, is open (Linux 4.17). */
export function planRawTracepoint(p: Program, name: string, program: Result): Result {
  const attr = p.data(RAW_TRACEPOINT.bytes, `<tracepoint ${name}>`);
  p.pointer(attr.at(RAW_TRACEPOINT.name, 8), p.text(name));
  p.store(attr.at(RAW_TRACEPOINT.program, 4), program);
  const what = { about: `attach to "${name}"` };
  return p.sys('bpf', [COMMAND.BPF_RAW_TRACEPOINT_OPEN, attr, RAW_TRACEPOINT.bytes], what);
}

/** Adds the step that makes an iterator of a program, which lasts as long as the result, a link, is open (Linux 5.8). */
export function planIterator(p: Program, spec: PlacedProgram, program: Result): Result {
  const attr = p.data(LINK.bytes, `<iterator ${spec.name}>`);
  p.store(attr.at(LINK.program, 4), program);
  p.put(attr.at(LINK.type, 4), ATTACH_TYPE[spec.attach]);
  return p.sys('bpf', [COMMAND.BPF_LINK_CREATE, attr, LINK.bytes], { about: `link "${spec.name}"` });
}

/** Adds the steps that run an iterator, whose program writes nothing, over all there is. */
export function planIterate(p: Program, link: Arg, about: string): void {
  const attr = p.data(ITER_BYTES, `<iterate>`);
  p.store(attr.at(0, 4), link);
  const iterator = p.sys('bpf', [COMMAND.BPF_ITER_CREATE, attr, ITER_BYTES], { about });
  p.sys('read', [iterator, p.data(8), 8], { about });
}

/**
 * Loads one program again, for what the verifier has to say.
 *
 * @param maps adds steps that make or import the maps of the table
 * @returns the error to report instead of the first, short one
 */
export async function explainLoad(
  syscalld: Syscalld,
  p: Program,
  spec: ProgramSpec,
  maps: Data,
  cause: StepError,
): Promise<BugError> {
  const attr = planLoadAttr(p, spec, maps);
  const log = p.data(LOG_BYTES, '<log>');
  p.put(attr.at(LOAD.logLevel, 4), 1);
  p.put(attr.at(LOAD.logSize, 4), LOG_BYTES);
  p.pointer(attr.at(LOAD.log, 8), log);
  p.sys('bpf', [COMMAND.BPF_PROG_LOAD, attr, LOAD.bytes], { about: `load "${spec.name}"`, ignore: [] });
  p.returns(log);
  const { out } = await syscalld.run(`explain "${spec.name}"`, p);
  const end = out.indexOf(0);
  return verifierError(spec, out.toString('latin1', 0, end < 0 ? out.length : end), cause);
}

/** Turns the verifier's log into an error that says which part of the program it is about. */
export function verifierError(spec: ProgramSpec, log: string, cause?: Error): BugError {
  const lines = log.split('\n').filter((line) => line !== '');
  const numbered = lines.flatMap((line) => /^(\d+): \([0-9a-f]{2}\)/.exec(line)?.[1] ?? []).map(Number);
  const at = numbered.at(-1);
  const complaint = lines.findLast((line) => !/^(processed|verification time|stack depth|\d+:)/.test(line));
  const where =
    at === undefined ? 'no instruction' : `instruction ${at}, "${spec.program.places[at] ?? '?'}"`;
  return new BugError(
    'ebpf-refused',
    `cannot load eBPF program "${spec.name}": found ${JSON.stringify(complaint ?? 'no reason')} at ${where}`,
    { ...(cause === undefined ? {} : { cause }), details: { log: lines.slice(-LOG_LINES).join('\n') } },
  );
}
const LOG_LINES = 60;
