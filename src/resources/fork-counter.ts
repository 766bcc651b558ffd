/**
 * Counts what the processes of guests fork, threads too: an eBPF program at the tracepoint that every fork passes which
 * succeeds, in the process that forks (kernel_clone(), kernel/fork.c).
 *
 * The last pid of a guest's pid namespace costs nothing and is no count of forks: it begins anew at kernel.pid_max, which
 * is 32,768 on a small machine, and forks that a limit refuses take a pid as well.
 */
import { endianness } from 'node:os';
import { EbpfAssembler, type EbpfProgram } from '../sys/bpf/assembler.ts';
import { type ProgramSpec, planLoad, planMapTable, planRawTracepoint } from '../sys/bpf/load.ts';
import { planCreateMap, planDelete } from '../sys/bpf/map.ts';
import { readMap } from '../sys/bpf/read-map.ts';
import { UPDATE } from '../sys/bpf/uapi.ts';
import { Program } from '../sys/program.ts';
import type { Syscalld } from '../sys/syscalld.ts';

/** Cgroup of a guest → its forks. 64 bytes each, taken at once. */
const MAP = { type: 'hash', keyBytes: 8, valueBytes: 8, entries: 16_384, isPreallocated: true } as const;
const READ_BATCH = 4096;
const DELETE_BATCH = 500;
const STACK = { key: -8, value: -16 } as const;
const LE = endianness() === 'LE';

/** Objects of a counter: its map, and the link that keeps the program at its tracepoint. */
export type ForkCounterObjects = Readonly<Record<'map' | 'link', number>>;

/** A counter that counts. Ids are those of cgroups: the inode numbers of their directories. */
export class ForkCounter {
  readonly objects: ForkCounterObjects;
  readonly #syscalld: Syscalld;

  /** Goes on with a counter that syscalld has. */
  constructor(syscalld: Syscalld, objects: ForkCounterObjects) {
    this.#syscalld = syscalld;
    this.objects = objects;
  }

  /**
   * Begins to count.
   *
   * @param instance cgroup that those of guests are right below
   * @param guestLevel depth of a guest's below the root of the cgroup2 tree
   * @throws StepError where programs cannot be at tracepoints (Linux 5.15, CAP_PERFMON)
   */
  static async make(syscalld: Syscalld, instance: bigint, guestLevel: number): Promise<ForkCounter> {
    const objects = { map: syscalld.newObject(), link: syscalld.newObject() };
    const p = new Program(syscalld.abi);
    const map = planCreateMap(p, 'forks', MAP);
    const program = forkProgram(instance, guestLevel);
    const spec: ProgramSpec = { name: 'count_forks', type: 'rawTracepoint', program };
    const link = planRawTracepoint(p, 'sched_process_fork', planLoad(p, spec, planMapTable(p, [map])));
    p.keep(map, objects.map);
    p.keep(link, objects.link);
    await syscalld.run('count forks', p);
    return new ForkCounter(syscalld, objects);
  }

  /** Returns how often the processes of each guest's cgroup have forked. */
  async read(): Promise<ReadonlyMap<bigint, number>> {
    const counts = new Map<bigint, number>();
    const batches = readMap(this.#syscalld, 'read the counts of forks', MAP, READ_BATCH, () => {
      const p = new Program(this.#syscalld.abi);
      return { p, map: p.import(this.objects.map) };
    });
    for await (const { out, layout, count } of batches) {
      const view = new DataView(out.buffer, out.byteOffset, out.length);
      for (let i = 0; i < count; i++) {
        const forks = view.getBigUint64(layout.values + MAP.valueBytes * i, LE);
        counts.set(view.getBigUint64(layout.keys + MAP.keyBytes * i, LE), Number(forks));
      }
    }
    return counts;
  }

  /** Makes room: forgets cgroups that are gone. */
  async forget(cgroups: readonly bigint[]): Promise<void> {
    for (let at = 0; at < cgroups.length; at += DELETE_BATCH) {
      const p = new Program(this.#syscalld.abi);
      const map = p.import(this.objects.map);
      for (const id of cgroups.slice(at, at + DELETE_BATCH))
        planDelete(p, map, keyOf(id), 'forks of a guest');
      await this.#syscalld.run('forget forks', p);
    }
  }

  /** Ends to count. */
  close(): void {
    for (const object of Object.values(this.objects)) this.#syscalld.drop(object);
  }
}

function keyOf(cgroup: bigint): Uint8Array {
  const key = new Uint8Array(MAP.keyBytes);
  new DataView(key.buffer).setBigUint64(0, cgroup, LE);
  return key;
}

/** Whoever is in no guest pays one call of the kernel's for each fork. */
function forkProgram(instance: bigint, guestLevel: number): EbpfProgram {
  const a = new EbpfAssembler();
  const find = (): EbpfAssembler =>
    a.loadMap(1, 'forks').move(2, { register: 10 }).alu(2, '+', STACK.key).call('map_lookup_elem');
  a.move(1, guestLevel - 1).call('get_current_ancestor_cgroup_id');
  a.loadImmediate(1, instance).jumpIf(0, '!=', { register: 1 }, 'end');
  a.label('guest').move(1, guestLevel).call('get_current_ancestor_cgroup_id');
  a.jumpIfEqual(0, 0, 'end').store(10, STACK.key, { register: 0 }, 8);
  find().jumpIfNotEqual(0, 0, 'add');
  a.label('first').store(10, STACK.value, 1, 8).loadMap(1, 'forks').move(2, { register: 10 });
  a.alu(2, '+', STACK.key).move(3, { register: 10 }).alu(3, '+', STACK.value).move(4, UPDATE.ifMissing);
  a.call('map_update_elem').jumpIfEqual(0, 0, 'end');
  // Another CPU was faster, or there is no room.
  find().jumpIfEqual(0, 0, 'end');
  a.label('add').move(1, 1).atomicAdd(0, 0, 1);
  return a.label('end').move(0, 0).exit().program();
}
