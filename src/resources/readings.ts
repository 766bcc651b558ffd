/**
 * What a guest uses, read as its views want it: nothing but what one view needs, and for both versions of cgroups alike.
 */
import type { Xid } from '../base/ids.ts';
import {
  type Limit,
  parseCount,
  parseCpuMax,
  parseFlatKeyed,
  parseLimit,
  parseNestedKeyed,
} from '../spec/cgroup-files.ts';
import { type CgroupFiles, isErrno, readIfPresent } from './cgroup-fs.ts';
import { type CgroupLayout, GUEST_LEAF } from './cgroup-layout.ts';

/** A guest's memory, in bytes. */
export interface MemoryReading {
  /** Undefined: none. */
  readonly limitBytes: number | undefined;
  readonly usageBytes: number;
  /** Of swap alone; undefined: none. */
  readonly swapLimitBytes: number | undefined;
  readonly swapBytes: number;
  /** By the names of cgroup v2's memory.stat. */
  readonly stat: ReadonlyMap<string, number>;
}

/** What a guest used of the CPUs. */
export interface CpuReading {
  readonly userUs: number;
  readonly systemUs: number;
}

/** What a guest may use of the CPUs. */
export interface CpuShare {
  /** As a number of CPUs; undefined: none. */
  readonly limit: number | undefined;
  /** A list of CPUs; undefined: all. */
  readonly cpuset: string | undefined;
}

/** What a guest read and wrote on one device. */
export interface DiskReading {
  readonly readBytes: number;
  readonly writeBytes: number;
  readonly reads: number;
  readonly writes: number;
}

/** Names of version 1's memory.stat that version 2 has others for; those not here are left out. */
const V2_NAMES: Readonly<Record<string, string>> = {
  total_cache: 'file',
  total_rss: 'anon',
  total_rss_huge: 'anon_thp',
  total_shmem: 'shmem',
  total_mapped_file: 'file_mapped',
  total_dirty: 'file_dirty',
  total_writeback: 'file_writeback',
  total_inactive_anon: 'inactive_anon',
  total_active_anon: 'active_anon',
  total_inactive_file: 'inactive_file',
  total_active_file: 'active_file',
  total_unevictable: 'unevictable',
  total_pgfault: 'pgfault',
  total_pgmajfault: 'pgmajfault',
};

/** Reads the cgroups of the guests of one instance. */
export class Readings {
  readonly #files: CgroupFiles;
  readonly #layout: CgroupLayout;
  readonly #parent: string;

  /** @param parent the instance's directory at the top of each hierarchy */
  constructor(files: CgroupFiles, layout: CgroupLayout, parent: string) {
    this.#files = files;
    this.#layout = layout;
    this.#parent = parent;
  }

  #unified(xid: Xid, file: string): string | undefined {
    return readIfPresent(this.#files, `${this.#layout.unified}/${this.#parent}/${xid}/${file}`);
  }

  /** Returns a guest's memory; without a memory controller nothing is known of it but that it is not limited. */
  memory(xid: Xid): MemoryReading {
    const mount = this.#layout.v1.get('memory');
    if (mount !== undefined) {
      const directory = `${mount}/${this.#parent}/${xid}`;
      return this.#memoryV1((file) => readIfPresent(this.#files, `${directory}/memory.${file}`));
    }
    const read = (file: string): string | undefined => this.#unified(xid, `memory.${file}`);
    return {
      limitBytes: numberOf(read('max'), parseLimit),
      usageBytes: numberOf(read('current'), parseCount) ?? 0,
      swapLimitBytes: numberOf(read('swap.max') ?? '0', parseLimit),
      swapBytes: numberOf(read('swap.current'), parseCount) ?? 0,
      stat: parseFlatKeyed(read('stat') ?? ''),
    };
  }

  #memoryV1(read: (file: string) => string | undefined): MemoryReading {
    const limitBytes = numberOf(read('limit_in_bytes'), parseLimit);
    const usageBytes = numberOf(read('usage_in_bytes'), parseCount) ?? 0;
    const total = read('memsw.limit_in_bytes');
    const totalBytes = numberOf(total, parseLimit);
    const stat = parseFlatKeyed(read('stat') ?? '');
    return {
      limitBytes,
      usageBytes,
      swapLimitBytes:
        total === undefined
          ? 0
          : totalBytes === undefined
            ? undefined
            : totalBytes - (limitBytes ?? totalBytes),
      swapBytes: stat.get('total_swap') ?? 0,
      stat: new Map(
        [...stat].flatMap(([name, value]) => {
          const known = V2_NAMES[name];
          return known === undefined ? [] : [[known, value] as const];
        }),
      ),
    };
  }

  /** Returns what a guest used of the CPUs. */
  cpu(xid: Xid): CpuReading {
    const stat = parseFlatKeyed(this.#unified(xid, 'cpu.stat') ?? '');
    return { userUs: stat.get('user_usec') ?? 0, systemUs: stat.get('system_usec') ?? 0 };
  }

  /** Returns what a guest may use of the CPUs. */
  cpuShare(xid: Xid): CpuShare {
    return { limit: this.#cpuLimit(xid), cpuset: this.#cpuset(xid) };
  }

  /** On version 1 a guest has a group of its own only if it is bound to CPUs. */
  #cpuset(xid: Xid): string | undefined {
    const mount = this.#layout.v1.get('cpuset');
    if (mount === undefined) return this.#unified(xid, 'cpuset.cpus.effective');
    return readIfPresent(this.#files, `${mount}/${this.#parent}/${xid}/cpuset.effective_cpus`);
  }

  #cpuLimit(xid: Xid): number | undefined {
    const mount = this.#layout.v1.get('cpu');
    if (mount === undefined) {
      const max = this.#unified(xid, 'cpu.max');
      const { quotaUs, periodUs } =
        max === undefined ? { quotaUs: 'max' as const, periodUs: 1 } : parseCpuMax(max);
      return quotaUs === 'max' ? undefined : quotaUs / periodUs;
    }
    const directory = `${mount}/${this.#parent}/${xid}`;
    const quotaUs = numberOf(readIfPresent(this.#files, `${directory}/cpu.cfs_quota_us`), parseLimit);
    const periodUs = numberOf(readIfPresent(this.#files, `${directory}/cpu.cfs_period_us`), parseCount);
    return quotaUs === undefined || periodUs === undefined ? undefined : quotaUs / periodUs;
  }

  /** Returns how many tasks a guest has. */
  tasks(xid: Xid): number {
    const mount = this.#layout.v1.get('pids');
    const path = 'pids.current';
    const text =
      mount === undefined
        ? this.#unified(xid, `${GUEST_LEAF}/${path}`)
        : readIfPresent(this.#files, `${mount}/${this.#parent}/${xid}/${path}`);
    return numberOf(text, parseCount) ?? 0;
  }

  /** Returns what a guest read and wrote, by major:minor; undefined where the kernel does not count it. */
  disks(xid: Xid): ReadonlyMap<string, DiskReading> | undefined {
    const text = this.#unified(xid, 'io.stat');
    if (text === undefined) return undefined;
    const devices = parseNestedKeyed(text);
    return new Map(
      [...devices].map(([device, values]) => {
        const of = (key: string): number => Number(values.get(key) ?? 0);
        return [
          device,
          { readBytes: of('rbytes'), writeBytes: of('wbytes'), reads: of('rios'), writes: of('wios') },
        ];
      }),
    );
  }

  /** Returns a guest's pressure in the kernel's form; undefined: it does not measure it. */
  pressure(xid: Xid, kind: 'cpu' | 'memory' | 'io'): string | undefined {
    try {
      return this.#unified(xid, `${kind}.pressure`);
    } catch (error) {
      if (isErrno(error, 'EOPNOTSUPP', 'ENOTSUP')) return undefined; // booted with psi=0
      throw error;
    }
  }
}

function numberOf(text: string | undefined, parse: (text: string) => Limit): number | undefined {
  const value = text === undefined ? 'max' : parse(text);
  return value === 'max' ? undefined : value;
}
