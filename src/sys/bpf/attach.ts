/**
 * Steps that load an eBPF program and attach it to a cgroup. `union bpf_attr` of linux/bpf.h is the kernel's ABI and the
 * same on every architecture; offsets in bytes.
 */
import type { Program, Result } from '../program.ts';

/** PROG_LOAD: u32 type, u32 count, u64 instructions, u64 licence, u32 log level, u32 log size, u64 log, … */
const LOAD = { type: 0, count: 4, instructions: 8, licence: 16, bytes: 48 } as const;
/** PROG_ATTACH: u32 target, u32 program, u32 attach type, u32 flags. */
const ATTACH = { target: 0, program: 4, type: 8, flags: 12, bytes: 16 } as const;
/** PROG_QUERY: u32 target, u32 attach type, u32 flags, u32 attach flags (out), u64 ids, u32 count (in, out). */
const QUERY = { target: 0, type: 4, count: 24, bytes: 32 } as const;
const INSTRUCTION_BYTES = 8;

/**
 * Attaches a program to a cgroup unless one of its kind is attached already. It stays as long as the cgroup, whatever
 * becomes of us; guests may attach more below, which can only refuse more (BPF_F_ALLOW_MULTI, Linux 4.15).
 */
export function planAttachToCgroup(
  p: Program,
  type: string,
  attachType: string,
  instructions: Uint8Array,
  cgroup: Result,
): void {
  const done = p.label();
  const query = p.data(QUERY.bytes, 'attached programs');
  p.store(query.at(QUERY.target, 4), cgroup);
  p.put(query.at(QUERY.type, 4), p.flags(attachType).value);
  p.sys('bpf', [p.flags('BPF_PROG_QUERY'), query, QUERY.bytes], { about: `query ${attachType}` });
  p.expect(p.load(query.at(QUERY.count, 4)), '==', 0, 'EEXIST', `no ${attachType} yet`, { otherwise: done });
  const load = p.data(LOAD.bytes, `<${type}, ${instructions.length / INSTRUCTION_BYTES} instructions>`);
  p.put(load.at(LOAD.type, 4), p.flags(type).value);
  p.put(load.at(LOAD.count, 4), instructions.length / INSTRUCTION_BYTES);
  p.pointer(load.at(LOAD.instructions, 8), p.data(instructions));
  p.pointer(load.at(LOAD.licence, 8), p.text('Dual MIT/GPL'));
  const program = p.sys('bpf', [p.flags('BPF_PROG_LOAD'), load, LOAD.bytes], { about: `load ${type}` });
  const attach = p.data(ATTACH.bytes, `<attach ${attachType}>`);
  p.store(attach.at(ATTACH.target, 4), cgroup);
  p.store(attach.at(ATTACH.program, 4), program);
  p.put(attach.at(ATTACH.type, 4), p.flags(attachType).value);
  p.put(attach.at(ATTACH.flags, 4), p.flags('BPF_F_ALLOW_MULTI').value);
  p.sys('bpf', [p.flags('BPF_PROG_ATTACH'), attach, ATTACH.bytes], { about: `attach ${attachType}` });
  p.place(done);
}
