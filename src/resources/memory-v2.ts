import { StateError } from '../base/errors.ts';
import { flatKeyedValue, type Limit, parseCount, parseFlatKeyed, parseLimit } from '../spec/cgroup-files.ts';
import { type CgroupFiles, isErrno, readIfPresent } from './cgroup-fs.ts';
import type { Controller } from './controller.ts';
import { type MemoryLimits, memoryPair } from './limits.ts';

const MEMORY_MAX = 'memory.max';
const MEMORY_SWAP_MAX = 'memory.swap.max';
const MEMORY_CURRENT = 'memory.current';
const MEMORY_SWAP_CURRENT = 'memory.swap.current';
const MEMORY_PEAK = 'memory.peak';
const MEMORY_EVENTS = 'memory.events';
const MEMORY_STAT = 'memory.stat';
const MEMORY_RECLAIM = 'memory.reclaim';

/**
 * Memory by version 2 files. Swap has a limit of its own here, the total less the memory limit; its file is there
 * only when the kernel counts swap.
 *
 * @see https://docs.kernel.org/admin-guide/cgroup-v2.html (Memory); since Linux 4.5
 */
export const memoryV2: Controller = {
  limitFiles: { memoryBytes: MEMORY_MAX, memorySwapBytes: MEMORY_SWAP_MAX },
  plan: (directory, limits, enforced) => {
    if (!enforced.has('memoryBytes')) return [];
    const pair = memoryPair(limits.memoryBytes ?? 'max', limits.memorySwapBytes);
    const max = { path: `${directory}/${MEMORY_MAX}`, text: String(pair.memoryBytes) };
    if (!enforced.has('memorySwapBytes')) return [max];
    return [max, { path: `${directory}/${MEMORY_SWAP_MAX}`, text: String(swapPart(pair)) }];
  },
  apply: (files, directory, limits, guest) => {
    const { memoryBytes, memorySwapBytes } = limits;
    if (memoryBytes === undefined && memorySwapBytes === undefined) return;
    const current = (): Limit => parseLimit(files.read(`${directory}/${MEMORY_MAX}`));
    const pair = memoryPair(memoryBytes ?? current(), memorySwapBytes);
    if (memoryBytes !== undefined) {
      if (memoryBytes !== 'max') makeRoom(files, directory, memoryBytes, guest);
      files.write(`${directory}/${MEMORY_MAX}`, String(memoryBytes));
    }
    if (readIfPresent(files, `${directory}/${MEMORY_SWAP_MAX}`) !== undefined) {
      files.write(`${directory}/${MEMORY_SWAP_MAX}`, String(swapPart(pair)));
    }
  },
  readLimits: (files, directory) => {
    const max = readIfPresent(files, `${directory}/${MEMORY_MAX}`);
    if (max === undefined) return {};
    const memoryBytes = parseLimit(max);
    const swap = readIfPresent(files, `${directory}/${MEMORY_SWAP_MAX}`);
    return {
      memoryBytes,
      memorySwapBytes: swap === undefined ? undefined : sum(memoryBytes, parseLimit(swap)),
    };
  },
  readUsage: (files, directory) => {
    const current = readIfPresent(files, `${directory}/${MEMORY_CURRENT}`);
    if (current === undefined) return {};
    const stat = parseFlatKeyed(files.read(`${directory}/${MEMORY_STAT}`));
    const events = parseFlatKeyed(files.read(`${directory}/${MEMORY_EVENTS}`));
    const peak = readIfPresent(files, `${directory}/${MEMORY_PEAK}`);
    const swap = readIfPresent(files, `${directory}/${MEMORY_SWAP_CURRENT}`);
    return {
      memoryBytes: parseCount(current),
      memoryPeakBytes: peak === undefined ? undefined : parseCount(peak),
      memoryAnonBytes: stat.get('anon'),
      memoryFileBytes: stat.get('file'),
      memoryMappedBytes: stat.get('file_mapped'),
      memorySharedBytes: stat.get('shmem'),
      // Since Linux 5.18.
      memoryKernelBytes: stat.get('kernel'),
      swapBytes: swap === undefined ? undefined : parseCount(swap),
      memoryLimitHits: events.get('max'),
      oomKills: events.get('oom_kill'),
    };
  },
  oomSource: (directory) => ({ counter: `${directory}/${MEMORY_EVENTS}` }),
  hitFile: (directory) => `${directory}/${MEMORY_EVENTS}`,
  readHits: (files, directory) => {
    const events = readIfPresent(files, `${directory}/${MEMORY_EVENTS}`);
    return events === undefined ? undefined : parseFlatKeyed(events).get('max');
  },
  readSample: (files, directory) => {
    const text = readIfPresent(files, `${directory}/${MEMORY_STAT}`);
    if (text === undefined) return {};
    return { residentBytes: flatKeyedValue(text, 'anon') + flatKeyedValue(text, 'file_mapped') };
  },
};

function swapPart({ memoryBytes, memorySwapBytes }: MemoryLimits): Limit {
  if (memorySwapBytes === 'max') return 'max';
  return memoryBytes === 'max' ? 'max' : memorySwapBytes - memoryBytes;
}

function sum(memory: Limit, swap: Limit): Limit {
  return memory === 'max' || swap === 'max' ? 'max' : memory + swap;
}

/**
 * Refuses a limit the guest does not fit in: a write of memory.max below the usage is taken, and the kernel then kills
 * inside the guest until it fits. The usage can still grow between this check and the write.
 */
function makeRoom(files: CgroupFiles, directory: string, limitBytes: number, guest: string): void {
  const usage = (): number => parseCount(files.read(`${directory}/${MEMORY_CURRENT}`));
  const excessBytes = usage() - limitBytes;
  if (excessBytes <= 0) return;
  try {
    files.write(`${directory}/${MEMORY_RECLAIM}`, String(excessBytes));
  } catch (error) {
    // EAGAIN: not all of it could be reclaimed. ENOENT: before Linux 5.19.
    if (!isErrno(error, 'EAGAIN', 'ENOENT')) throw error;
  }
  const usageBytes = usage();
  if (usageBytes <= limitBytes) return;
  throw new StateError(
    'limit-below-usage',
    `cannot set memory limit of ${guest} to ${limitBytes}: found ${usageBytes} bytes in use; ` +
      'need a limit above that',
    { details: { usageBytes } },
  );
}
