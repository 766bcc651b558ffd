/** /proc/meminfo, /proc/swaps and /proc/vmstat of a guest. */
import type { SysinfoMemory } from './answers.ts';
import type { MemorySample } from './sample.ts';

const KIB = 1024;
const PAGE_BYTES = 4096;

/** What a guest has, in bytes. */
export interface MemoryTotals {
  readonly totalBytes: number;
  readonly freeBytes: number;
  readonly availableBytes: number;
  readonly swapTotalBytes: number;
  readonly swapFreeBytes: number;
}

/** Returns the values of /proc/meminfo, kB and counts, by their names. */
export function parseMeminfo(text: string): ReadonlyMap<string, number> {
  return new Map(
    [...text.matchAll(/^([^:\n]+):\s+(\d+)/gm)].map(([, name = '', value]) => [name, Number(value)]),
  );
}

/** Returns what sysinfo(2), free(1) and the views tell alike: the limits of the guest, where the host has as much. */
export function memoryTotals(host: ReadonlyMap<string, number>, sample: MemorySample): MemoryTotals {
  const hostBytes = (name: string): number => (host.get(name) ?? 0) * KIB;
  const totalBytes = Math.min(sample.limitBytes ?? Number.POSITIVE_INFINITY, hostBytes('MemTotal'));
  const freeBytes = Math.max(0, totalBytes - sample.usageBytes);
  const reclaimable = ['active_file', 'inactive_file', 'slab_reclaimable'].reduce(
    (sum, name) => sum + (sample.stat.get(name) ?? 0),
    0,
  );
  const swapTotalBytes = Math.min(sample.swapLimitBytes ?? Number.POSITIVE_INFINITY, hostBytes('SwapTotal'));
  return {
    totalBytes,
    freeBytes,
    // What others on the host have in use cannot be had, whatever the limit.
    availableBytes: Math.min(totalBytes, freeBytes + reclaimable, hostBytes('MemAvailable')),
    swapTotalBytes,
    swapFreeBytes: Math.max(0, swapTotalBytes - sample.swapBytes),
  };
}

/**
 * Returns what sysinfo(2) tells of memory.
 *
 * @param sample undefined: the host's is shown
 */
export function sysinfoMemory(
  host: ReadonlyMap<string, number>,
  sample: MemorySample | undefined,
): SysinfoMemory {
  const hostBytes = (name: string): number => (host.get(name) ?? 0) * KIB;
  if (sample !== undefined)
    return { ...memoryTotals(host, sample), sharedBytes: sample.stat.get('shmem') ?? 0, bufferBytes: 0 };
  return {
    totalBytes: hostBytes('MemTotal'),
    freeBytes: hostBytes('MemFree'),
    sharedBytes: hostBytes('Shmem'),
    bufferBytes: hostBytes('Buffers'),
    swapTotalBytes: hostBytes('SwapTotal'),
    swapFreeBytes: hostBytes('SwapFree'),
  };
}

/** Lines of the host that say something about the machine or the kernel, and are true in a guest. */
const MACHINE = new Set(['VmallocTotal', 'Hugepagesize']);
/** The layout of the host's memory, which is not the guest's. */
const OMITTED = /^DirectMap/;

/** Returns /proc/meminfo of a guest: the lines of the host's, in its order and form, with the guest's numbers. */
export function formatMeminfo(hostText: string, sample: MemorySample): string {
  const host = parseMeminfo(hostText);
  const values = guestValues(memoryTotals(host, sample), sample);
  return hostText.replace(
    /^([^:\n]+):(\s+)(\d+)( kB)?\n/gm,
    (line, name: string, gap: string, value: string, unit = '') => {
      if (OMITTED.test(name)) return '';
      if (MACHINE.has(name)) return line;
      const width = gap.length + value.length;
      return `${name}:${String(Math.floor((values.get(name) ?? 0) / (unit === '' ? 1 : KIB))).padStart(width)}${unit}\n`;
    },
  );
}

/** Bytes by the names of /proc/meminfo; what is not here is 0 in a guest. */
function guestValues(totals: MemoryTotals, { stat }: MemorySample): ReadonlyMap<string, number> {
  const of = (...names: readonly string[]): number =>
    names.reduce((sum, name) => sum + (stat.get(name) ?? 0), 0);
  const swapUsed = totals.swapTotalBytes - totals.swapFreeBytes;
  return new Map([
    ['MemTotal', totals.totalBytes],
    ['MemFree', totals.freeBytes],
    ['MemAvailable', totals.availableBytes],
    ['Cached', of('file')],
    ['Active', of('active_anon', 'active_file')],
    ['Inactive', of('inactive_anon', 'inactive_file')],
    ['Active(anon)', of('active_anon')],
    ['Inactive(anon)', of('inactive_anon')],
    ['Active(file)', of('active_file')],
    ['Inactive(file)', of('inactive_file')],
    ['Unevictable', of('unevictable')],
    ['SwapTotal', totals.swapTotalBytes],
    ['SwapFree', totals.swapFreeBytes],
    ['Zswap', of('zswap')],
    ['Zswapped', of('zswapped')],
    ['Dirty', of('file_dirty')],
    ['Writeback', of('file_writeback')],
    ['AnonPages', of('anon')],
    ['Mapped', of('file_mapped')],
    ['Shmem', of('shmem')],
    ['KReclaimable', of('slab_reclaimable')],
    ['Slab', of('slab_reclaimable', 'slab_unreclaimable')],
    ['SReclaimable', of('slab_reclaimable')],
    ['SUnreclaim', of('slab_unreclaimable')],
    ['KernelStack', of('kernel_stack')],
    ['PageTables', of('pagetables')],
    ['SecPageTables', of('sec_pagetables')],
    ['CommitLimit', totals.totalBytes / 2 + totals.swapTotalBytes],
    ['Committed_AS', of('anon', 'shmem') + swapUsed],
    ['Percpu', of('percpu')],
    ['AnonHugePages', of('anon_thp')],
    ['ShmemHugePages', of('shmem_thp')],
    ['FileHugePages', of('file_thp')],
  ]);
}

/** Returns /proc/swaps of a guest: one virtual device, as lxcfs has it, when there is any swap. */
export function formatSwaps(hostText: string, sample: MemorySample): string {
  const { swapTotalBytes, swapFreeBytes } = memoryTotals(parseMeminfo(hostText), sample);
  const header = 'Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n';
  if (swapTotalBytes === 0) return header;
  const used = (swapTotalBytes - swapFreeBytes) / KIB;
  return `${header}${'none'.padEnd(40)}virtual\t\t${Math.floor(swapTotalBytes / KIB)}\t${Math.floor(used)}\t0\n`;
}

/** /proc/slabinfo of a guest, of no caches: the kernel counts them by cgroup no more (Linux 5.9, memory.kmem.slabinfo). */
export const SLABINFO: string =
  'slabinfo - version: 2.1\n' +
  '# name            <active_objs> <num_objs> <objsize> <objperslab> <pagesperslab>' +
  ' : tunables <limit> <batchcount> <sharedfactor> : slabdata <active_slabs> <num_slabs> <sharedavail>\n';

/** Counts of pages by their names in /proc/vmstat, from bytes of memory.stat. */
const PAGES: Readonly<Record<string, string>> = {
  nr_zone_inactive_anon: 'inactive_anon',
  nr_zone_active_anon: 'active_anon',
  nr_zone_inactive_file: 'inactive_file',
  nr_zone_active_file: 'active_file',
  nr_zone_unevictable: 'unevictable',
  nr_inactive_anon: 'inactive_anon',
  nr_active_anon: 'active_anon',
  nr_inactive_file: 'inactive_file',
  nr_active_file: 'active_file',
  nr_unevictable: 'unevictable',
  nr_slab_reclaimable: 'slab_reclaimable',
  nr_slab_unreclaimable: 'slab_unreclaimable',
  nr_anon_pages: 'anon',
  nr_mapped: 'file_mapped',
  nr_file_pages: 'file',
  nr_dirty: 'file_dirty',
  nr_writeback: 'file_writeback',
  nr_shmem: 'shmem',
  nr_page_table_pages: 'pagetables',
};

/** Counts of events that memory.stat has by the same name. */
const EVENTS =
  /^(pgfault|pgmajfault|pgrefill|pgscan|pgsteal|pgactivate|pgdeactivate|pglazyfree|pglazyfreed|thp_fault_alloc|thp_collapse_alloc|workingset_\w+)$/;

/** Returns /proc/vmstat of a guest: the names of the host's, in its order, with the guest's numbers or 0. */
export function formatVmstat(hostVmstat: string, hostMeminfo: string, sample: MemorySample): string {
  const { freeBytes } = memoryTotals(parseMeminfo(hostMeminfo), sample);
  return hostVmstat.replace(/^(\w+) \d+$/gm, (_line, name: string) => {
    const pages = PAGES[name];
    const value =
      name === 'nr_free_pages'
        ? freeBytes / PAGE_BYTES
        : pages !== undefined
          ? (sample.stat.get(pages) ?? 0) / PAGE_BYTES
          : EVENTS.test(name)
            ? (sample.stat.get(name) ?? 0)
            : 0;
    return `${name} ${Math.floor(value)}`;
  });
}
