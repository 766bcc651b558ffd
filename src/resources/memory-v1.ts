import { StateError } from '../base/errors.ts';
import {
  flatKeyedValue,
  formatLimitV1,
  type Limit,
  parseCount,
  parseFlatKeyed,
  parseLimit,
} from '../spec/cgroup-files.ts';
import { type CgroupFiles, isErrno, readIfPresent } from './cgroup-fs.ts';
import type { Controller } from './controller.ts';
import { type Limits, type MemoryLimits, memoryPair } from './limits.ts';

const LIMIT = 'memory.limit_in_bytes';
const TOTAL_LIMIT = 'memory.memsw.limit_in_bytes';
const USAGE = 'memory.usage_in_bytes';
const PEAK = 'memory.max_usage_in_bytes';
const HITS = 'memory.failcnt';
const TOTAL_HITS = 'memory.memsw.failcnt';
const STAT = 'memory.stat';
const OOM_CONTROL = 'memory.oom_control';
/** Kernel objects charged to the cgroup. */
const KERNEL_USAGE = 'memory.kmem.usage_in_bytes';

/**
 * Memory by version 1 files. The total's file is there only when the kernel counts swap (`swapaccount=`).
 *
 * The kernel refuses (EINVAL) any write that would put the limit above the total, so the order of the two writes
 * depends on the direction.
 *
 * @see https://docs.kernel.org/admin-guide/cgroup-v1/memory.html
 */
export const memoryV1: Controller = {
  limitFiles: { memoryBytes: LIMIT, memorySwapBytes: TOTAL_LIMIT },
  plan: (directory, limits, enforced) => {
    if (!enforced.has('memoryBytes')) return [];
    const pair = memoryPair(limits.memoryBytes ?? 'max', limits.memorySwapBytes);
    const limit = { path: `${directory}/${LIMIT}`, text: formatLimitV1(pair.memoryBytes) };
    if (!enforced.has('memorySwapBytes')) return [limit];
    const path = `${directory}/${TOTAL_LIMIT}`;
    // Lifting the total first makes the order right whatever limits the directory has.
    return [{ path, text: '-1' }, limit, { path, text: formatLimitV1(pair.memorySwapBytes) }];
  },
  apply: (files, directory, limits, guest) => {
    const now = readPair(files, directory);
    const next = nextPair(limits, now);
    if (next === undefined) return;
    const setLimit = (): void => write(files, directory, LIMIT, next.memoryBytes, guest);
    if (now.memorySwapBytes === undefined) return setLimit();
    const setTotal = (): void => write(files, directory, TOTAL_LIMIT, next.memorySwapBytes, guest);
    const isRaised = toNumber(next.memorySwapBytes) >= toNumber(now.memorySwapBytes);
    const [first, second] = isRaised ? [setTotal, setLimit] : [setLimit, setTotal];
    first();
    try {
      second();
    } catch (error) {
      // The first write is undone, so that a refused change leaves the pair as it was. Only usage that grew
      // meanwhile can refuse this, and only after a lowered limit was taken.
      const [file, old] = isRaised ? [TOTAL_LIMIT, now.memorySwapBytes] : [LIMIT, now.memoryBytes];
      write(files, directory, file, old, guest);
      throw error;
    }
  },
  readLimits: readPair,
  readUsage: (files, directory) => {
    const usage = readIfPresent(files, `${directory}/${USAGE}`);
    if (usage === undefined) return {};
    // The total_ fields count cgroups below this one as well.
    const stat = parseFlatKeyed(files.read(`${directory}/${STAT}`));
    const kernel = readIfPresent(files, `${directory}/${KERNEL_USAGE}`);
    return {
      memoryBytes: parseCount(usage),
      memoryPeakBytes: parseCount(files.read(`${directory}/${PEAK}`)),
      memoryAnonBytes: stat.get('total_rss'),
      memoryFileBytes: stat.get('total_cache'),
      memoryMappedBytes: stat.get('total_mapped_file'),
      memorySharedBytes: stat.get('total_shmem'),
      memoryKernelBytes: kernel === undefined ? undefined : parseCount(kernel),
      swapBytes: stat.get('total_swap'),
      memoryLimitHits: readHits(files, directory),
      // oom_kill: since Linux 4.13.
      oomKills: parseFlatKeyed(files.read(`${directory}/${OOM_CONTROL}`)).get('oom_kill'),
    };
  },
  oomSource: (directory) => ({
    counter: `${directory}/${OOM_CONTROL}`,
    control: `${directory}/cgroup.event_control`,
  }),
  readHits: (files, directory) =>
    readIfPresent(files, `${directory}/${HITS}`) === undefined ? undefined : readHits(files, directory),
  readSample: (files, directory) => {
    const text = readIfPresent(files, `${directory}/${STAT}`);
    if (text === undefined) return {};
    return { residentBytes: flatKeyedValue(text, 'total_rss') + flatKeyedValue(text, 'total_mapped_file') };
  },
};

interface CurrentPair {
  readonly memoryBytes: Limit;
  readonly memorySwapBytes: Limit | undefined;
}

function readPair(files: CgroupFiles, directory: string): CurrentPair {
  const total = readIfPresent(files, `${directory}/${TOTAL_LIMIT}`);
  return {
    memoryBytes: parseLimit(files.read(`${directory}/${LIMIT}`)),
    memorySwapBytes: total === undefined ? undefined : parseLimit(total),
  };
}

/**
 * Counts the charges that met a limit; undefined where the kernel does not count them.
 *
 * A charge is tried on the total first, and on memory only when that took it (try_charge_memcg() in mm/memcontrol.c).
 * So with equal limits every hit is the total's, and its count stays 0 where the kernel sets track_failcnt for memory
 * only (mem_cgroup_css_alloc(); seen on Linux 6.18).
 */
function readHits(files: CgroupFiles, directory: string): number | undefined {
  const total = readIfPresent(files, `${directory}/${TOTAL_HITS}`) ?? '0';
  const hits = parseCount(files.read(`${directory}/${HITS}`)) + parseCount(total);
  const { memoryBytes, memorySwapBytes } = readPair(files, directory);
  const isCounted = hits > 0 || memoryBytes === 'max' || memoryBytes !== memorySwapBytes;
  return isCounted ? hits : undefined;
}

function nextPair(limits: Limits, now: CurrentPair): MemoryLimits | undefined {
  if (limits.memoryBytes !== undefined) return memoryPair(limits.memoryBytes, limits.memorySwapBytes);
  if (limits.memorySwapBytes !== undefined) return memoryPair(now.memoryBytes, limits.memorySwapBytes);
  return undefined;
}

function write(files: CgroupFiles, directory: string, file: string, limit: Limit, guest: string): void {
  try {
    files.write(`${directory}/${file}`, formatLimitV1(limit));
  } catch (error) {
    // The kernel reclaims first and gives up when the rest is in use (mem_cgroup_resize_max in mm/memcontrol-v1.c).
    if (!isErrno(error, 'EBUSY')) throw error;
    const usage = parseCount(files.read(`${directory}/${USAGE}`));
    throw new StateError(
      'limit-below-usage',
      `cannot set memory limit of ${guest} to ${limit}: found ${usage} bytes in use; need a limit above that`,
      { cause: error, details: { usageBytes: usage } },
    );
  }
}

function toNumber(limit: Limit): number {
  return limit === 'max' ? Number.POSITIVE_INFINITY : limit;
}
