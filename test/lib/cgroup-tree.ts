/** Cgroup hierarchies in a temporary directory: what mkdir and rmdir do to files there, as the kernel does it. */
import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { constants, tmpdir } from 'node:os';
import { join } from 'node:path';
import { SysError } from '../../src/base/errors.ts';
import { type CgroupFiles, cgroupFiles } from '../../src/resources/cgroup-fs.ts';

/** Name and first content of the files of a new directory. */
export type Interface = Readonly<Record<string, string>>;

/** cgroup2 without controllers, as on Linux 6.18. */
export const UNIFIED: Interface = {
  'cgroup.controllers': '\n',
  'cgroup.events': 'populated 0\nfrozen 0\n',
  'cgroup.freeze': '0\n',
  'cgroup.kill': '',
  'cgroup.max.depth': 'max\n',
  'cgroup.procs': '',
  'cgroup.subtree_control': '\n',
  'cpu.stat': 'usage_usec 900\nuser_usec 600\nsystem_usec 300\nnice_usec 0\n',
};

/** cgroup2 with controllers, after the documentation. */
export const UNIFIED_FULL: Interface = {
  ...UNIFIED,
  'cgroup.controllers': 'cpuset cpu io memory pids\n',
  'cpu.stat':
    'usage_usec 900\nuser_usec 600\nsystem_usec 300\nnr_periods 4\nnr_throttled 2\nthrottled_usec 50\nnr_bursts 0\nburst_usec 0\n',
  'cpu.max': 'max 100000\n',
  'cpu.weight': '100\n',
  'io.stat':
    '8:0 rbytes=4096 wbytes=512 rios=1 wios=1 dbytes=0 dios=0\n8:16 rbytes=4 wbytes=0 rios=1 wios=0\n',
  'memory.current': '8192\n',
  'memory.peak': '16384\n',
  'memory.max': 'max\n',
  'memory.swap.max': 'max\n',
  'memory.swap.current': '0\n',
  'memory.reclaim': '',
  'memory.stat': 'anon 4096\nfile 2048\nkernel 2048\nshmem 512\nfile_mapped 1024\n',
  'memory.events': 'low 0\nhigh 0\nmax 3\noom 1\noom_kill 1\noom_group_kill 0\n',
  'pids.current': '2\n',
  'pids.peak': '5\n',
  'pids.max': 'max\n',
  'pids.events': 'max 1\n',
};

/** The v1 memory controller of Linux 6.18. */
export const MEMORY_V1: Interface = {
  'cgroup.procs': '',
  'memory.failcnt': '1\n',
  'memory.limit_in_bytes': '9223372036854771712\n',
  'memory.max_usage_in_bytes': '16384\n',
  'memory.memsw.failcnt': '2\n',
  'memory.memsw.limit_in_bytes': '9223372036854771712\n',
  'memory.oom_control': 'oom_kill_disable 0\nunder_oom 0\noom_kill 1\n',
  'memory.stat':
    'cache 0\nrss 0\nhierarchical_memory_limit 59998208\ntotal_cache 2048\ntotal_rss 4096\ntotal_shmem 512\ntotal_mapped_file 1024\ntotal_swap 0\n',
  'memory.kmem.usage_in_bytes': '2048\n',
  'memory.usage_in_bytes': '8192\n',
};

/** The v1 cpu controller of Linux 6.18. */
export const CPU_V1: Interface = {
  'cgroup.procs': '',
  'cpu.cfs_period_us': '100000\n',
  'cpu.cfs_quota_us': '-1\n',
  'cpu.shares': '1024\n',
  'cpu.stat': 'nr_periods 4\nnr_throttled 2\nthrottled_time 50999\nnr_bursts 0\nburst_time 0\n',
};

/** The v1 pids controller of Linux 6.18. */
export const PIDS_V1: Interface = {
  'cgroup.procs': '',
  'pids.current': '2\n',
  'pids.events': 'max 1\n',
  'pids.max': 'max\n',
  'pids.peak': '5\n',
};

/** What a write does besides landing in its file; may throw what the kernel would. */
export type OnWrite = (path: string, text: string) => void;

/** Hierarchies below one temporary directory, removed when disposed. */
export class CgroupTree implements Disposable {
  readonly root: string = mkdtempSync(join(tmpdir(), 'cgroup-tree-'));
  /** Every write, in order, paths relative to `root`. */
  readonly writes: string[] = [];
  onWrite: OnWrite = () => undefined;
  readonly #hierarchies: Readonly<Record<string, Interface>>;

  constructor(hierarchies: Readonly<Record<string, Interface>>) {
    this.#hierarchies = hierarchies;
    for (const name of Object.keys(hierarchies)) this.#make(join(this.root, name));
  }

  /** The tree as the driver sees it. */
  get files(): CgroupFiles {
    return {
      ...cgroupFiles,
      write: (path, text) => {
        this.onWrite(path, text);
        cgroupFiles.write(path, text);
        this.writes.push(`${path.slice(this.root.length + 1)} ${text}`);
      },
      mkdir: (path) => {
        cgroupFiles.mkdir(path);
        this.#fill(path);
      },
      rmdir: (path) => {
        for (const entry of entriesOf(path)) if (entry.isFile()) rmSync(join(path, entry.name));
        cgroupFiles.rmdir(path);
      },
    };
  }

  /** Sets a file as the kernel would. */
  set(path: string, text: string): void {
    writeFileSync(join(this.root, path), text);
  }

  [Symbol.dispose](): void {
    rmSync(this.root, { recursive: true });
  }

  #make(path: string): void {
    mkdirSync(path);
    this.#fill(path);
  }

  #fill(path: string): void {
    const [hierarchy = ''] = path.slice(this.root.length + 1).split('/');
    for (const [name, text] of Object.entries(this.#hierarchies[hierarchy] ?? {})) {
      writeFileSync(join(path, name), text);
    }
  }
}

/** The error of a refused call. */
export function refusal(errnoName: 'EBUSY' | 'EINVAL' | 'EAGAIN', path: string): SysError {
  const errno = constants.errno[errnoName];
  return new SysError('cgroup-io', `cannot write to "${path}"`, { syscall: 'write', errno, errnoName, path });
}

function entriesOf(path: string): readonly import('node:fs').Dirent[] {
  try {
    return readdirSync(path, { withFileTypes: true });
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return [];
    throw error;
  }
}
