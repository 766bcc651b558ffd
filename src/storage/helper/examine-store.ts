/** Looks through a whole store: what there is, what nobody needs, what is damaged. */
import { createHash } from 'node:crypto';
import {
  closeSync,
  type Dirent,
  lstatSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  statSync,
  unlinkSync,
} from 'node:fs';
import { join } from 'node:path';
import { VserverError } from '../../base/errors.ts';
import { readErofs } from '../../spec/erofs-reader.ts';
import type { SideMachine } from '../../sys/side-machine.ts';
import { diskUsage } from './disk-usage.ts';
import { objectInStore, sealedOf } from './seal.ts';
import type { StoreFault, StoreResult, StoreTask } from './tasks.ts';

const IMAGE = /^(.+)\.erofs$/;
/** An object is `HH/REST` of its hash. */
const FIRST = /^[\da-f]{2}$/;
const REST = /^[\da-f]{62}$/;
const PIECE_BYTES = 1024 * 1024;

interface Marks {
  /** Size of each object that an image needs. */
  readonly sizes: ReadonlyMap<string, number>;
  readonly images: number;
  readonly imageBytes: number;
  readonly apparentBytes: number;
}

/** Does a task; `advance` is called for each file. */
export function examineStore(task: StoreTask, machine: SideMachine, advance: () => void): StoreResult {
  const faults: StoreFault[] = [];
  const marks = readImages(task, faults, advance);
  // What an image that cannot be read needs is not known.
  const mayDelete =
    task.kind === 'gc' && !task.isDryRun && faults.every(({ kind }) => kind !== 'image-damaged');
  const found = new Set<string>();
  const totals = { objects: 0, objectBytes: 0, sealedObjects: 0, unusedObjects: 0, unusedBytes: 0 };
  for (const first of ours(task.objects, (entry) => entry.isDirectory() && FIRST.test(entry.name), faults)) {
    const isObject = (entry: Dirent): boolean => entry.isFile() && REST.test(entry.name);
    const names = ours(join(task.objects, first), isObject, faults);
    const sealed = sealedOf(
      machine,
      names.map((rest) => objectInStore(`${first}${rest}`)),
    );
    for (const rest of names) {
      advance();
      const hash = `${first}${rest}`;
      const path = join(task.objects, first, rest);
      const isSealed = sealed.has(objectInStore(hash));
      const { size } = lstatSync(path);
      const wanted = marks.sizes.get(hash);
      if (wanted === undefined) {
        totals.unusedObjects++;
        totals.unusedBytes += size;
        if (mayDelete) {
          unlinkSync(path);
          continue;
        }
      } else {
        found.add(hash);
        if (task.kind === 'check') checkObject(path, hash, size, wanted, isSealed && !task.isFull, faults);
      }
      totals.objects++;
      if (isSealed) totals.sealedObjects++;
      totals.objectBytes += size;
    }
  }
  for (const hash of marks.sizes.keys()) {
    if (!found.has(hash)) faults.push({ kind: 'object-missing', name: hash, detail: 'an image needs it' });
  }
  const { images, imageBytes, apparentBytes } = marks;
  return { images, imageBytes, apparentBytes, ...totals, cacheBytes: diskUsage(task.cache).bytes, faults };
}

function readImages({ images, unneeded }: StoreTask, faults: StoreFault[], advance: () => void): Marks {
  const sizes = new Map<string, number>();
  const totals = { images: 0, imageBytes: 0, apparentBytes: 0 };
  const dropped = new Set(unneeded.map((name) => `${name}.erofs`));
  for (const name of ours(images, (entry) => entry.isFile() && IMAGE.test(entry.name), faults)) {
    if (dropped.has(name)) continue;
    advance();
    totals.images++;
    try {
      const bytes = readFileSync(join(images, name));
      totals.imageBytes += bytes.length;
      for (const node of readErofs(bytes).inodes.values()) {
        if (node.kind !== 'file') continue;
        totals.apparentBytes += node.size;
        if ('object' in node.content) sizes.set(node.content.object, node.size);
      }
    } catch (error) {
      const detail = error instanceof VserverError ? error.message : unreadable(error);
      if (detail === undefined) throw error;
      faults.push({ kind: 'image-damaged', name: name.replace(IMAGE, '$1'), detail });
    }
  }
  return { sizes, ...totals };
}

/** Returns the names in a directory of the store that are its own. What somebody else put there is told, and left alone. */
function ours(
  directory: string,
  isOurs: (entry: Dirent) => boolean,
  faults: StoreFault[],
): readonly string[] {
  if (statSync(directory, { throwIfNoEntry: false }) === undefined) return [];
  const names: string[] = [];
  for (const entry of readdirSync(directory, { withFileTypes: true })) {
    if (isOurs(entry)) names.push(entry.name);
    else {
      const name = join(directory, entry.name);
      faults.push({ kind: 'foreign-file', name, detail: 'not made by vserver; it is left alone' });
    }
  }
  return names.sort();
}

/** @param isVouchedFor by the kernel, which compares each byte when it is read */
function checkObject(
  path: string,
  hash: string,
  size: number,
  wanted: number,
  isVouchedFor: boolean,
  faults: StoreFault[],
): void {
  const isWhole = size === wanted;
  if (isWhole && isVouchedFor) return;
  const detail = isWhole ? faultOf(path, hash) : `found ${size} bytes; need ${wanted}`;
  if (detail === undefined) return;
  faults.push({ kind: 'object-damaged', name: hash, detail });
}

/** Reads an object, and returns what is wrong with it. */
function faultOf(path: string, hash: string): string | undefined {
  try {
    const found = hashOf(path);
    return found === hash ? undefined : `its bytes are those of ${found}`;
  } catch (error) {
    const detail = unreadable(error);
    if (detail === undefined) throw error;
    return detail;
  }
}

/** What is said of a file that a disk, or fs-verity, does not give; undefined: that is not the error. */
function unreadable(error: unknown): string | undefined {
  return error instanceof Error && 'code' in error && error.code === 'EIO'
    ? 'cannot be read: EIO'
    : undefined;
}

function hashOf(path: string): string {
  const fd = openSync(path, 'r');
  try {
    const whole = createHash('sha256');
    const piece = Buffer.allocUnsafe(PIECE_BYTES);
    for (let count = readSync(fd, piece); count > 0; count = readSync(fd, piece))
      whole.update(piece.subarray(0, count));
    return whole.digest('hex');
  } finally {
    closeSync(fd);
  }
}
