// SPDX-License-Identifier: MIT OR GPL-2.0-only
/**
 * Steps on eBPF maps. `union bpf_attr` of linux/bpf.h is the kernel's ABI and the same on every architecture; offsets in
 * bytes.
 */
import { planWait } from '../planned-wait.ts';
import { type Arg, Data, type Program, type Result } from '../program.ts';
import { planLoadBtf } from './btf.ts';
import { BPF_F_NO_PREALLOC, COMMAND, MAP_TYPE, type MapType, UPDATE } from './uapi.ts';

/** What a map is made as. */
export interface MapSpec {
  readonly type: MapType;
  readonly keyBytes: number;
  readonly valueBytes: number;
  /** Most elements; 0 for socket storage, which has as many as there are sockets. */
  readonly entries: number;
  /** BPF_F_…; memory is taken with each element where the kind of map can do that. */
  readonly flags?: number;
  /** Memory is taken for all at once: for programs at tracepoints, before Linux 6.1 (kernel/bpf/verifier.c). */
  readonly isPreallocated?: boolean;
}

/** MAP_CREATE: u32 type, key, value, entries, flags, inner, node; char name[16]; u32 ifindex, btf, key type, value type. */
const CREATE = { type: 0, key: 4, value: 8, entries: 12, flags: 16, name: 28, btf: 48, bytes: 72 } as const;
/** MAP_*_ELEM: u32 map, u64 key, u64 value or next key, u64 flags. */
const ELEMENT = { map: 0, key: 8, value: 16, flags: 24, bytes: 32 } as const;
/** MAP_*_BATCH: u64 in, out, keys, values; u32 count, map; u64 element flags, flags. */
const BATCH = { from: 0, to: 8, keys: 16, values: 24, count: 32, map: 36, bytes: 56 } as const;
/** MAP_GET_FD_BY_ID: u32 id, u32 next, u32 flags. */
const FD_BY_ID_BYTES = 12;
/** OBJ_GET_INFO_BY_FD: u32 descriptor, u32 length, u64 info. */
const INFO_BY_FD = { map: 0, length: 4, info: 8, bytes: 16 } as const;
/** struct bpf_map_info: u32 type, id, key, value, … */
const INFO = { type: 0, id: 4, key: 8, value: 12, bytes: 40 } as const;
const NAME_BYTES = 15;
/** Kinds that take memory for all elements at once unless told not to. */
const GROWING: readonly MapType[] = ['hash', 'perCpuHash', 'longestPrefix', 'socketStorage'];

/** Adds the step that makes a map; its result is the map's descriptor. */
export function planCreateMap(p: Program, name: string, spec: MapSpec): Result {
  const attr = p.data(CREATE.bytes, `<map ${name}>`);
  const isGrowing = GROWING.includes(spec.type) && !spec.isPreallocated;
  const flags = (spec.flags ?? 0) | (isGrowing ? BPF_F_NO_PREALLOC : 0);
  p.put(attr.at(CREATE.type, 4), MAP_TYPE[spec.type]);
  p.put(attr.at(CREATE.key, 4), spec.keyBytes);
  p.put(attr.at(CREATE.value, 4), spec.valueBytes);
  p.put(attr.at(CREATE.entries, 4), spec.entries);
  p.put(attr.at(CREATE.flags, 4), flags);
  p.putText(attr.at(CREATE.name), name.slice(0, NAME_BYTES));
  if (spec.type === 'socketStorage') {
    const { btf, keyType, valueType } = planLoadBtf(p, spec.valueBytes);
    p.store(attr.at(CREATE.btf, 4), btf);
    p.put(attr.at(CREATE.btf + 4, 4), keyType);
    p.put(attr.at(CREATE.btf + 8, 4), valueType);
  }
  return p.sys('bpf', [COMMAND.BPF_MAP_CREATE, attr, CREATE.bytes], { about: `make map "${name}"` });
}

function planElement(p: Program, map: Arg, key: Data, value: Data | undefined, flags: number): Data {
  const attr = p.data(ELEMENT.bytes, `<element of ${key.text}>`);
  p.store(attr.at(ELEMENT.map, 4), map);
  p.pointer(attr.at(ELEMENT.key, 8), key);
  if (value !== undefined) p.pointer(attr.at(ELEMENT.value, 8), value);
  p.put(attr.at(ELEMENT.flags, 8), flags, 8);
  return attr;
}

/** Adds the step that writes one element; the kernel replaces it whole. */
export function planUpdate(
  p: Program,
  map: Arg,
  key: Uint8Array | Data,
  value: Uint8Array | Data,
  options: { readonly about: string; readonly flags?: number; readonly ignore?: readonly string[] },
): void {
  const attr = planElement(p, map, place(p, key), place(p, value), options.flags ?? 0);
  const { about, ignore } = options;
  p.sys('bpf', [COMMAND.BPF_MAP_UPDATE_ELEM, attr, ELEMENT.bytes], {
    about,
    ...(ignore === undefined ? {} : { ignore }),
  });
}

/** How long the kernel is given to have memory again, try by try. */
const TRIES_MS = [1, 4, 16, 64, 256] as const;

/**
 * Adds the steps that enter an element of a map per CPU, unless it is there. Memory of that kind is only taken of what the kernel has
 * at hand, and a worker of its own makes more of it ready: when many come in a row there may be none for a moment (ENOMEM; without
 * GFP_KERNEL, mm/percpu.c `pcpu_alloc_noprof` and kernel/bpf/memalloc.c).
 */
export function planEnterPerCpu(
  p: Program,
  map: Arg,
  key: Uint8Array,
  value: Uint8Array,
  about: string,
): void {
  const attr = planElement(p, map, p.data(key), p.data(value), UPDATE.ifMissing);
  const enter = (ignore: readonly string[]): Result =>
    p.sys('bpf', [COMMAND.BPF_MAP_UPDATE_ELEM, attr, ELEMENT.bytes], { about, ignore });
  const noMemory = -(p.abi.errnos['ENOMEM'] ?? 0);
  const done = p.label();
  for (const ms of TRIES_MS) {
    p.expect(enter(['EEXIST', 'ENOMEM']), '==', noMemory, 'EAGAIN', 'no memory', { otherwise: done });
    planWait(p, ms, 'memory');
  }
  enter(['EEXIST']);
  p.place(done);
}

/** Adds the step that removes one element, which need not be there. */
export function planDelete(p: Program, map: Arg, key: Uint8Array, about: string): void {
  const attr = planElement(p, map, p.data(key), undefined, 0);
  p.sys('bpf', [COMMAND.BPF_MAP_DELETE_ELEM, attr, ELEMENT.bytes], { about, ignore: ['ENOENT'] });
}

/** Adds the step that reads one element into the data area, there if so asked; zeros when there is none. */
export function planLookup(p: Program, map: Arg, key: Uint8Array, place: number | Data, about: string): Data {
  const value = place instanceof Data ? place : p.data(place, about);
  const attr = planElement(p, map, p.data(key), value, 0);
  p.sys('bpf', [COMMAND.BPF_MAP_LOOKUP_ELEM, attr, ELEMENT.bytes], { about, ignore: ['ENOENT'] });
  return value;
}

/** A part of a map, as `planLookupBatch` has it written: u32 count, u64 position, keys, values. */
export interface BatchLayout {
  readonly count: number;
  readonly position: number;
  readonly keys: number;
  readonly values: number;
  readonly bytes: number;
}

/** Returns where the parts of a batch lie. */
export function batchLayout(keyBytes: number, valueBytes: number, most: number): BatchLayout {
  const keys = 16;
  const values = keys + keyBytes * most;
  return { count: 0, position: 8, keys, values, bytes: values + valueBytes * most };
}

/**
 * Adds the step that reads up to `most` elements of a map from a position on (Linux 5.6); the program then returns
 * them. The map has been read to its end when fewer come, which the kernel reports as ENOENT.
 *
 * @param how.position what the part before ended with; undefined: from the start
 * @param how.isTaken they are removed as well
 */
export function planLookupBatch(
  p: Program,
  map: Arg,
  spec: { readonly keyBytes: number; readonly valueBytes: number },
  most: number,
  { position, isTaken = false }: { readonly position?: Uint8Array | undefined; readonly isTaken?: boolean },
): BatchLayout {
  const layout = batchLayout(spec.keyBytes, spec.valueBytes, most);
  const out = p.data(layout.bytes, '<elements>');
  const attr = p.data(BATCH.bytes, '<batch>');
  if (position !== undefined) p.pointer(attr.at(BATCH.from, 8), p.data(position));
  p.pointer(attr.at(BATCH.to, 8), out.at(layout.position));
  p.pointer(attr.at(BATCH.keys, 8), out.at(layout.keys));
  p.pointer(attr.at(BATCH.values, 8), out.at(layout.values));
  p.put(attr.at(BATCH.count, 4), most);
  p.store(attr.at(BATCH.map, 4), map);
  const command = isTaken ? COMMAND.BPF_MAP_LOOKUP_AND_DELETE_BATCH : COMMAND.BPF_MAP_LOOKUP_BATCH;
  p.sys('bpf', [command, attr, BATCH.bytes], {
    about: 'read a map',
    ignore: ['ENOENT'],
  });
  p.store(out.at(layout.count, 4), p.load(attr.at(BATCH.count, 4)));
  p.returns(out);
  return layout;
}

/**
 * Adds the steps that open a map by the kernel's id (Linux 4.13), if it is still the one that was made as `spec`; ESTALE
 * otherwise.
 */
export function planOpenMap(p: Program, name: string, id: number, spec: MapSpec): Result {
  const open = p.data(FD_BY_ID_BYTES, `<id ${id}>`);
  p.put(open.at(0, 4), id);
  const map = p.sys('bpf', [COMMAND.BPF_MAP_GET_FD_BY_ID, open, FD_BY_ID_BYTES], { about: `find "${name}"` });
  const info = planMapInfo(p, map, name);
  for (const [at, wanted] of [
    [INFO.type, MAP_TYPE[spec.type]],
    [INFO.key, spec.keyBytes],
    [INFO.value, spec.valueBytes],
  ] as const) {
    p.expect(p.load(info.at(at, 4)), '==', wanted, 'ESTALE', `map "${name}"`);
  }
  return map;
}

/** Adds the step that asks for the kernel's id of a map; it is 4 bytes at the start of the result. */
export function planMapId(p: Program, map: Arg, name: string): Data {
  return planMapInfo(p, map, name).at(INFO.id, 4);
}

function planMapInfo(p: Program, map: Arg, name: string): Data {
  const info = p.data(INFO.bytes, '<info>');
  const attr = p.data(INFO_BY_FD.bytes, '<what map>');
  p.store(attr.at(INFO_BY_FD.map, 4), map);
  p.put(attr.at(INFO_BY_FD.length, 4), INFO.bytes);
  p.pointer(attr.at(INFO_BY_FD.info, 8), info);
  p.sys('bpf', [COMMAND.BPF_OBJ_GET_INFO_BY_FD, attr, INFO_BY_FD.bytes], { about: `look at "${name}"` });
  return info;
}

function place(p: Program, bytes: Uint8Array | Data): Data {
  return bytes instanceof Data ? bytes : p.data(bytes);
}
