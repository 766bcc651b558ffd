/**
 * Counts what the processes of guests read from disks and write to them, where the kernel does not: on cgroup v1. An eBPF
 * program at the tracepoint that every request for a disk passes, in the process that makes it (submit_bio_noacct(),
 * block/blk-core.c). What is written later, from the page cache, no process makes: as with cgroup v1's own counts.
 */
import { endianness } from 'node:os';
import { StateError } from '../base/errors.ts';
import { EbpfAssembler, type EbpfProgram } from '../sys/bpf/assembler.ts';
import { KernelTypes } from '../sys/bpf/kernel-types.ts';
import { type ProgramSpec, planLoad, planMapTable, planRawTracepoint } from '../sys/bpf/load.ts';
import { planCreateMap } from '../sys/bpf/map.ts';
import { type MapBatch, readMap } from '../sys/bpf/read-map.ts';
import { UPDATE } from '../sys/bpf/uapi.ts';
import { Program } from '../sys/program.ts';
import type { Syscalld } from '../sys/syscalld.ts';
import type { DiskReading } from './readings.ts';

/** Cgroup of a guest, major, minor → counts. The kernel forgets who has not used a disk for longest: guests that are gone. */
const MAP = { type: 'lruHash', keyBytes: 16, valueBytes: 32, entries: 4096 } as const;
const KEY = { cgroup: 0, major: 8, minor: 12 } as const;
const VALUE = { reads: 0, readBytes: 8, writes: 16, writeBytes: 24 } as const;
const READ_BATCH = 256;
const STACK = { key: -16, value: -48, word: -56 } as const;
/** include/linux/blk_types.h: REQ_OP_BITS, REQ_OP_READ, REQ_OP_WRITE. */
const OPERATION = { mask: 0xff, read: 0, write: 1 } as const;
const LE = endianness() === 'LE';

/** Objects of a counter: its map, and the link that keeps the program at its tracepoint. */
export type DiskCounterObjects = Readonly<Record<'map' | 'link', number>>;

/** What each guest read and wrote: by the id of its cgroup, then by major:minor. */
export type DiskCounts = ReadonlyMap<bigint, ReadonlyMap<string, DiskReading>>;

/** A counter that counts. */
export class DiskCounter {
  readonly objects: DiskCounterObjects;
  readonly #syscalld: Syscalld;

  /** Goes on with a counter that syscalld has. */
  constructor(syscalld: Syscalld, objects: DiskCounterObjects) {
    this.#syscalld = syscalld;
    this.objects = objects;
  }

  /**
   * Begins to count.
   *
   * @param instance cgroup that those of guests are right below
   * @param guestLevel depth of a guest's below the root of the cgroup2 tree
   * @throws StateError no-kernel-types; StepError where programs cannot be at tracepoints (CAP_PERFMON)
   */
  static async make(syscalld: Syscalld, instance: bigint, guestLevel: number): Promise<DiskCounter> {
    const program = diskProgram(offsetsOf(KernelTypes.ofKernel()), instance, guestLevel);
    const spec: ProgramSpec = { name: 'count_disks', type: 'rawTracepoint', program };
    const objects = { map: syscalld.newObject(), link: syscalld.newObject() };
    const p = new Program(syscalld.abi);
    const map = planCreateMap(p, 'disks', MAP);
    const link = planRawTracepoint(p, 'block_bio_queue', planLoad(p, spec, planMapTable(p, [map])));
    p.keep(map, objects.map);
    p.keep(link, objects.link);
    await syscalld.run('count what is read from disks', p);
    return new DiskCounter(syscalld, objects);
  }

  /** Returns what was counted. */
  async read(): Promise<DiskCounts> {
    const counts = new Map<bigint, Map<string, DiskReading>>();
    const batches = readMap(this.#syscalld, 'read the counts of disks', MAP, READ_BATCH, () => {
      const p = new Program(this.#syscalld.abi);
      return { p, map: p.import(this.objects.map) };
    });
    for await (const batch of batches) this.#take(batch, counts);
    return counts;
  }

  /** Adds what came of the map. */
  #take({ out, layout, count }: MapBatch, counts: Map<bigint, Map<string, DiskReading>>): void {
    const view = new DataView(out.buffer, out.byteOffset, out.length);
    for (let i = 0; i < count; i++) {
      const [key, value] = [layout.keys + MAP.keyBytes * i, layout.values + MAP.valueBytes * i];
      const of = (field: number): number => Number(view.getBigUint64(value + field, LE));
      const cgroup = view.getBigUint64(key + KEY.cgroup, LE);
      const disks = counts.get(cgroup) ?? new Map<string, DiskReading>();
      counts.set(cgroup, disks);
      disks.set(`${view.getUint32(key + KEY.major, LE)}:${view.getUint32(key + KEY.minor, LE)}`, {
        reads: of(VALUE.reads),
        readBytes: of(VALUE.readBytes),
        writes: of(VALUE.writes),
        writeBytes: of(VALUE.writeBytes),
      });
    }
  }

  /** Ends to count. */
  close(): void {
    for (const object of Object.values(this.objects)) this.#syscalld.drop(object);
  }
}

/** Where the program finds things. */
interface Offsets {
  readonly device: number;
  readonly operation: number;
  readonly bytes: number;
  readonly disk: number;
  readonly major: number;
  readonly minor: number;
}

function offsetsOf(types: KernelTypes): Offsets {
  const need = (struct: string, field: string): number => {
    const offset = types.offsetOf(struct, field);
    if (offset !== undefined) return offset;
    throw new StateError(
      'no-kernel-types',
      `cannot count what is read from disks: found no ${field} in struct ${struct}`,
    );
  };
  return {
    device: need('bio', 'bi_bdev'),
    operation: need('bio', 'bi_opf'),
    bytes: need('bio', 'bi_iter') + need('bvec_iter', 'bi_size'),
    disk: need('block_device', 'bd_disk'),
    major: need('gendisk', 'major'),
    minor: need('gendisk', 'first_minor'),
  };
}

/** Its context is u64 bio. Whoever is in no guest pays one call of the kernel's for each request. */
function diskProgram(at: Offsets, instance: bigint, guestLevel: number): EbpfProgram {
  const a = new EbpfAssembler();
  /** Reads from what a register points to into the stack. */
  const read = (register: 6 | 7, offset: number, bytes: 4 | 8, place: number): EbpfAssembler =>
    a
      .move(1, { register: 10 })
      .alu(1, '+', place)
      .move(2, bytes)
      .move(3, { register })
      .alu(3, '+', offset)
      .call('probe_read_kernel');
  const find = (): EbpfAssembler =>
    a.loadMap(1, 'disks').move(2, { register: 10 }).alu(2, '+', STACK.key).call('map_lookup_elem');
  a.load(6, 1, 0, 8)
    .move(1, guestLevel - 1)
    .call('get_current_ancestor_cgroup_id');
  a.loadImmediate(1, instance).jumpIf(0, '!=', { register: 1 }, 'end');
  a.label('guest').move(1, guestLevel).call('get_current_ancestor_cgroup_id');
  a.jumpIfEqual(0, 0, 'end').store(10, STACK.key + KEY.cgroup, { register: 0 }, 8);
  a.label('request');
  read(6, at.operation, 4, STACK.word).load(8, 10, STACK.word, 4).and(8, OPERATION.mask);
  a.jumpIf(8, '>', OPERATION.write, 'end');
  read(6, at.bytes, 4, STACK.word).load(9, 10, STACK.word, 4);
  a.label('disk');
  read(6, at.device, 8, STACK.word).load(7, 10, STACK.word, 8);
  read(7, at.disk, 8, STACK.word).load(7, 10, STACK.word, 8);
  read(7, at.major, 4, STACK.key + KEY.major);
  read(7, at.minor, 4, STACK.key + KEY.minor);
  find().jumpIfNotEqual(0, 0, 'add');
  a.label('first');
  for (const field of Object.values(VALUE)) a.store(10, STACK.value + field, 0, 8);
  a.loadMap(1, 'disks').move(2, { register: 10 }).alu(2, '+', STACK.key);
  a.move(3, { register: 10 }).alu(3, '+', STACK.value).move(4, UPDATE.ifMissing).call('map_update_elem');
  find().jumpIfEqual(0, 0, 'end');
  a.label('add').move(1, 1).jumpIfEqual(8, OPERATION.read, 'read');
  a.label('write').atomicAdd(0, VALUE.writes, 1).atomicAdd(0, VALUE.writeBytes, 9).goto('end');
  a.label('read').atomicAdd(0, VALUE.reads, 1).atomicAdd(0, VALUE.readBytes, 9);
  return a.label('end').move(0, 0).exit().program();
}
