/**
 * What idle guests take of the host's memory: it is read while the same guests start and stop, again and again. The first
 * start also makes what stays when they have stopped, for the next time or for whoever comes.
 */
import { existsSync, readFileSync } from 'node:fs';
import { run } from './native-programs.ts';
import type { Figure } from './scenario.ts';
import { figure, median, medianFigure } from './statistics.ts';

/** Lines of /proc/meminfo that guests and their kernel objects are in. */
const PARTS = [
  'SReclaimable',
  'SUnreclaim',
  'PageTables',
  'KernelStack',
  'AnonPages',
  'Shmem',
  'Percpu',
] as const;
/** What the kernel frees after a grace period is free by then. */
const SETTLE_SECONDS = '3';
/** On a slow machine what was started goes on for a while. */
const SETTLE_TIMES = 5;
const SETTLED_KIB = 256;
const SETTLING = ['AnonPages', 'SUnreclaim'] as const;
const PAGE_KIB = 4;
/** Free pages that each CPU keeps for itself, which MemFree and so MemAvailable do not count (`pagesets` of zoneinfo). */
const ON_CPUS = 'free pages of CPUs';

/** KiB by name: lines of /proc/meminfo, or slab caches. */
export type Memory = ReadonlyMap<string, number>;

/** What there is at one moment. */
export interface Reading {
  /** Lines of /proc/meminfo, and `ON_CPUS`. */
  readonly memory: Memory;
  /** What the objects of each slab cache take; caches of objects alike are one (slabinfo(5)). */
  readonly caches: Memory;
}

/** Guests start and stop. */
export interface Cycle {
  readonly before: Reading;
  readonly full: Reading;
  readonly after: Reading;
}

/** Reads as soon as it stays as it is. */
export function reading(): Reading {
  let last = memoryNow();
  for (let i = 0; i < SETTLE_TIMES; i++) {
    run('sleep', [SETTLE_SECONDS]);
    const now = memoryNow();
    const moved = Math.max(...SETTLING.map((name) => Math.abs((now.get(name) ?? 0) - (last.get(name) ?? 0))));
    last = now;
    if (moved <= SETTLED_KIB) break;
  }
  return { memory: last, caches: slabCaches() };
}

/** Starts and stops guests so many times more, after what was read last. */
export async function cycles(
  count: number,
  after: Reading,
  start: () => unknown,
  stop: () => unknown,
): Promise<readonly Cycle[]> {
  const all: Cycle[] = [];
  let before = after;
  for (let i = 0; i < count; i++) {
    await start();
    const full = reading();
    await stop();
    const cycle = { before, full, after: reading() };
    all.push(cycle);
    before = cycle.after;
  }
  return all;
}

function memoryNow(): Memory {
  const lines = readFileSync('/proc/meminfo', 'utf8').matchAll(/^(\w+): +(\d+) kB$/gm);
  const counts = readFileSync('/proc/zoneinfo', 'utf8').matchAll(/^ +count: +(\d+)$/gm);
  const pages = Array.from(counts, ([, count]) => Number(count)).reduce((sum, one) => sum + one, 0);
  return new Map([
    ...Array.from(lines, ([, name = '', kib = '']): [string, number] => [name, Number(kib)]),
    [ON_CPUS, pages * PAGE_KIB],
  ]);
}

function slabCaches(): Memory {
  const caches = new Map<string, number>();
  for (const line of readFileSync('/proc/slabinfo', 'utf8').split('\n').slice(2)) {
    const [name, active, , , perSlab, pages] = line.split(/\s+/);
    if (name === undefined || pages === undefined) continue;
    caches.set(name, (Number(active) * Number(pages) * PAGE_KIB) / Number(perSlab));
  }
  return caches;
}

/** Whether MemAvailable has what is in this cache anyway. */
function isReclaimable(cache: string): boolean {
  const path = `/sys/kernel/slab/${cache}/reclaim_account`;
  return existsSync(path) && readFileSync(path, 'latin1').trim() === '1';
}

type Amount = (at: Reading) => number;

/** What a guest takes, by each start but the first and by each stop; the host's own drift shows between them. */
function perGuest(size: number, all: readonly Cycle[], amount: Amount): readonly number[] {
  return all.flatMap(({ before, full, after }, i) => [
    ...(i === 0 ? [] : [(amount(full) - amount(before)) / size]),
    (amount(full) - amount(after)) / size,
  ]);
}

/** What each of so many guests takes while it runs, and what the first start of them took and left. */
export function* memoryPerGuest(
  name: string,
  size: number,
  all: readonly Cycle[],
  target: Figure['target'],
): Iterable<Figure> {
  const row = (what: string, amount: Amount, target?: Figure['target']): Figure => {
    return medianFigure(`${name}: ${what}`, 'KiB', perGuest(size, all, amount), target);
  };
  const sum =
    (names: readonly string[]): Amount =>
    ({ memory }) =>
      names.reduce((total, one) => total + (memory.get(one) ?? 0), 0);
  const unavailable: Amount = (at) => -sum(['MemAvailable', ON_CPUS])(at);
  yield row(`MemAvailable with ${ON_CPUS}`, unavailable, target);
  yield row('MemAvailable alone', (at) => -sum(['MemAvailable'])(at));
  const [first] = all;
  if (first) {
    const taken = (unavailable(first.full) - unavailable(first.before)) / size;
    const given = (unavailable(first.full) - unavailable(first.after)) / size;
    yield figure(`${name}: taken by the first start`, 'KiB', taken);
    yield figure(`${name}: left by the first stop`, 'KiB', taken - given);
  }
  yield row(PARTS.join(' + '), sum(PARTS), target);
  for (const part of PARTS) yield row(part, sum([part]));
  const held = [...(first?.full.caches.keys() ?? [])].filter((cache) => !isReclaimable(cache));
  // A host where more guests ran before has room for it in slabs that others still have objects in.
  yield row('objects of slab caches that cannot be reclaimed', ({ caches }) =>
    held.reduce((total, cache) => total + (caches.get(cache) ?? 0), 0),
  );
}

/** The slab caches in which each of so many guests has most. */
export function* cachesPerGuest(
  name: string,
  size: number,
  all: readonly Cycle[],
  count: number,
): Iterable<Figure> {
  const caches = [...(all[0]?.full.caches.keys() ?? [])]
    .map((cache) => ({
      cache,
      kib: median(perGuest(size, all, (at) => at.caches.get(cache) ?? 0)),
    }))
    .sort((a, b) => b.kib - a.kib);
  for (const { cache, kib } of caches.slice(0, count)) yield figure(`${name}: slab ${cache}`, 'KiB', kib);
}
