/**
 * Counts the tasks of all guests in one pass over the kernel's list of tasks: an eBPF iterator (Linux 5.8) that adds each
 * to the guest whose cgroup it is below.
 */
import { StateError } from '../base/errors.ts';
import { EbpfAssembler } from '../sys/bpf/assembler.ts';
import { KernelTypes } from '../sys/bpf/kernel-types.ts';
import { type PlacedProgram, planIterate, planIterator, planLoad, planMapTable } from '../sys/bpf/load.ts';
import { type BatchLayout, planCreateMap, planLookupBatch } from '../sys/bpf/map.ts';
import { Program } from '../sys/program.ts';
import type { Syscalld } from '../sys/syscalld.ts';

/** Tasks of a guest, threads among them. */
export interface TaskCount {
  readonly running: number;
  /** In an uninterruptible sleep, which counts for the load as well. */
  readonly blocked: number;
  readonly total: number;
}

/** Room is taken at once, 0.3 MB and only where somebody asks for load: it makes a pass over 1,000 guests half as long. */
const MAP = { type: 'hash', keyBytes: 8, valueBytes: 24, entries: 4096, isPreallocated: true } as const;
/** Contexts that wait for their guest, and guests that came meanwhile. */
const SPARE = 64;
const VALUE = { running: 0, blocked: 8, total: 16 } as const;
/** include/linux/sched.h */
const TASK_UNINTERRUPTIBLE = 0x2;
const TASK_NOLOAD = 0x400;
const POINTER = 8;

/** Where the program finds things; undefined where this kernel has them otherwise. */
interface Offsets {
  readonly state: number;
  readonly exitState: number;
  readonly cgroups: number;
  readonly dfl: number;
  readonly level: number;
  /** Pointers since Linux 6.1; before, ids. */
  readonly ancestors: number;
  readonly isPointer: boolean;
  readonly node: number;
  readonly id: number;
}

/** Counts tasks by the id of their guest's cgroup. */
export class TaskCounts {
  readonly #syscalld: Syscalld;
  readonly #level: number;
  #objects: Promise<{ readonly map: number; readonly link: number }> | undefined;

  /** @param level depth of guests' cgroups below the root of the cgroup2 tree */
  constructor(syscalld: Syscalld, level: number) {
    this.#syscalld = syscalld;
    this.#level = level;
  }

  /**
   * Looks at all tasks once.
   *
   * @param guests how many there are, some more or less: so much room is sent to the kernel and back
   * @throws StateError no-kernel-types; StepError
   */
  async sample(instance: bigint, guests: number): Promise<ReadonlyMap<bigint, TaskCount>> {
    // What failed once is not tried again and again, while guests ask.
    this.#objects ??= this.#make(instance);
    const { map, link } = await this.#objects;
    const counts = new Map<bigint, TaskCount>();
    const most = Math.min(MAP.entries, guests + SPARE);
    for (let isFirst = true; ; isFirst = false) {
      const p = new Program(this.#syscalld.abi);
      if (isFirst) planIterate(p, p.import(link), 'all tasks');
      const layout = planLookupBatch(p, p.import(map), MAP, most, { isTaken: true });
      const { out } = await this.#syscalld.run('count tasks', p);
      if (this.#take(out, layout, counts) < most) return counts;
    }
  }

  /** Adds what came of a map. Returns how much that was. */
  #take(out: Buffer, layout: BatchLayout, counts: Map<bigint, TaskCount>): number {
    const LE = this.#syscalld.abi.littleEndian;
    // Buffer's own readers of 64 bits take ten times as long.
    const view = new DataView(out.buffer, out.byteOffset, out.byteLength);
    const count = view.getUint32(layout.count, LE);
    const low = LE ? 0 : 4;
    for (let i = 0; i < count; i++) {
      const at = layout.values + MAP.valueBytes * i + low;
      counts.set(view.getBigUint64(layout.keys + MAP.keyBytes * i, LE), {
        running: view.getUint32(at + VALUE.running, LE),
        blocked: view.getUint32(at + VALUE.blocked, LE),
        total: view.getUint32(at + VALUE.total, LE),
      });
    }
    return count;
  }

  async #make(instance: bigint): Promise<{ readonly map: number; readonly link: number }> {
    const types = KernelTypes.ofKernel();
    const spec: PlacedProgram = {
      name: 'count_tasks',
      type: 'tracing',
      attach: 'BPF_TRACE_ITER',
      program: countProgram(offsetsOf(types), this.#level, instance),
      attachTo: types.functionId('bpf_iter_task'),
    };
    const objects = { map: this.#syscalld.newObject(), link: this.#syscalld.newObject() };
    const p = new Program(this.#syscalld.abi);
    const map = planCreateMap(p, 'tasks', MAP);
    const link = planIterator(p, spec, planLoad(p, spec, planMapTable(p, [map])));
    p.keep(map, objects.map);
    p.keep(link, objects.link);
    await this.#syscalld.run('make the counter of tasks', p);
    return objects;
  }
}

function offsetsOf(types: KernelTypes): Offsets {
  const need = (struct: string, ...fields: readonly string[]): number => {
    for (const field of fields) {
      const offset = types.offsetOf(struct, field);
      if (offset !== undefined) return offset;
    }
    throw new StateError(
      'no-kernel-types',
      `cannot count tasks: found no ${fields.join(' or ')} in struct ${struct}`,
    );
  };
  const ancestors = types.offsetOf('cgroup', 'ancestors');
  return {
    state: need('task_struct', '__state', 'state'),
    exitState: need('task_struct', 'exit_state'),
    cgroups: need('task_struct', 'cgroups'),
    dfl: need('css_set', 'dfl_cgrp'),
    level: need('cgroup', 'level'),
    ancestors: ancestors ?? need('cgroup', 'ancestor_ids'),
    isPointer: ancestors !== undefined,
    node: need('cgroup', 'kn'),
    id: need('kernfs_node', 'id'),
  };
}

/** Stack: the key, what is read from the kernel's memory, and a fresh value. */
const STACK = { key: -8, value: -32 } as const;

/** Returns the program that adds one task: its context is `struct bpf_iter__task`: u64 meta, u64 task. */
function countProgram(at: Offsets, level: number, instance: bigint): ReturnType<EbpfAssembler['program']> {
  const a = new EbpfAssembler();
  const readKey = (offset: number): void => {
    a.move(3, { register: 8 }).alu(3, '+', offset);
    readTo(a);
  };
  /** The id of the cgroup's ancestor at a depth is in the key then. */
  const readAncestor = (depth: number): void => {
    readKey(at.ancestors + POINTER * depth);
    if (!at.isPointer) return;
    for (const offset of [at.node, at.id]) {
      a.load(3, 10, STACK.key, 8).alu(3, '+', offset);
      readTo(a);
    }
  };
  a.load(6, 1, POINTER, 8).jumpIfEqual(6, 0, 'end');
  a.label('ended').load(1, 6, at.exitState, 4).jumpIfNotEqual(1, 0, 'end');
  a.label('state').load(7, 6, at.state, 4);
  a.label('cgroup').load(1, 6, at.cgroups, 8).jumpIfEqual(1, 0, 'end');
  a.load(8, 1, at.dfl, 8).jumpIfEqual(8, 0, 'end');
  a.load(1, 8, at.level, 4).jumpIf(1, '<', level, 'end');
  a.label('instance');
  readAncestor(level - 1);
  a.load(1, 10, STACK.key, 8).loadImmediate(2, instance).jumpIf(1, '!=', { register: 2 }, 'end');
  a.label('guest');
  readAncestor(level);
  for (const field of Object.values(VALUE)) a.store(10, STACK.value + field, 0, 8);
  a.label('find')
    .loadMap(1, 'tasks')
    .move(2, { register: 10 })
    .alu(2, '+', STACK.key)
    .call('map_lookup_elem');
  a.jumpIfNotEqual(0, 0, 'add');
  a.label('new').loadMap(1, 'tasks').move(2, { register: 10 }).alu(2, '+', STACK.key);
  a.move(3, { register: 10 }).alu(3, '+', STACK.value).move(4, 0).call('map_update_elem');
  a.loadMap(1, 'tasks').move(2, { register: 10 }).alu(2, '+', STACK.key).call('map_lookup_elem');
  a.jumpIfEqual(0, 0, 'end');
  a.label('add').move(1, 1).atomicAdd(0, VALUE.total, 1);
  a.jumpIfNotEqual(7, 0, 'sleeps').atomicAdd(0, VALUE.running, 1).goto('end');
  a.label('sleeps')
    .jumpIf(7, '&', TASK_NOLOAD, 'end')
    .jumpIf(7, '&', TASK_UNINTERRUPTIBLE, 'blocked')
    .goto('end');
  a.label('blocked').atomicAdd(0, VALUE.blocked, 1);
  return a.label('end').move(0, 0).exit().program();
}

/** Reads 8 bytes of the kernel's memory at r3 into the key. */
function readTo(a: EbpfAssembler): void {
  a.move(1, { register: 10 }).alu(1, '+', STACK.key).move(2, 8).call('probe_read_kernel');
}
