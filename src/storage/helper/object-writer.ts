/**
 * Puts files into the store: under the sha256 of their bytes, each once. A file gets its name there only when its bytes
 * are on the disk, so that no power cut leaves a name with other bytes.
 */
import { createHash, hash } from 'node:crypto';
import {
  type BigIntStats,
  chmodSync,
  constants,
  copyFileSync,
  lchownSync,
  linkSync,
  mkdirSync,
  readSync,
  renameSync,
  statSync,
} from 'node:fs';
import { join } from 'node:path';
import { objectPath } from '../../spec/image-tree.ts';

/** What was added to the store. */
export interface ObjectTotals {
  readonly objects: number;
  readonly bytes: number;
}

/** Nobody changes an object, and whoever may read it does so through an image. */
const OBJECT_MODE = 0o400;
/** Files up to this size are read in one piece. */
const PIECE_BYTES = 1024 * 1024;

/** Adds the files of one tree. */
export class ObjectWriter {
  readonly #objects: string;
  readonly #staging: string | undefined;
  readonly #isOurs: boolean;
  /** Hash to where its bytes are until they get their name. */
  readonly #pending = new Map<string, { readonly from: Buffer; readonly size: number }>();
  #piece: Buffer<ArrayBufferLike> = Buffer.alloc(0);
  #bytes = 0;

  /**
   * @param objects the object directory
   * @param staging an empty directory on the same file system; undefined: nothing is to be added, only counted
   * @param isOurs the tree is of our own making and goes afterwards: its files become the objects, without a copy
   */
  constructor(objects: string, staging: string | undefined, isOurs: boolean) {
    this.#objects = objects;
    this.#staging = staging;
    this.#isOurs = isOurs;
  }

  /** Returns the hash of a file, whose bytes are in the store after `publish`. */
  add(fd: number, stat: BigIntStats, path: string): string {
    const size = Number(stat.size);
    const hex = this.#hash(fd, size);
    if (this.#pending.has(hex) || sizeOf(join(this.#objects, objectPath(hex))) === size) return hex;
    this.#pending.set(hex, { from: this.#stage(fd, hex, path), size });
    this.#bytes += size;
    return hex;
  }

  /** What `publish` will add. */
  get totals(): ObjectTotals {
    return { objects: this.#pending.size, bytes: this.#bytes };
  }

  /** Gives the added files their names; their bytes must be on the disk. */
  publish(): void {
    for (const [hex, { from, size }] of this.#pending) {
      const to = join(this.#objects, objectPath(hex));
      mkdirSync(join(to, '..'), { recursive: true, mode: 0o700 });
      if (this.#isOurs) {
        // Only now: its attributes have been read, and a file that changes hands loses its capabilities.
        lchownSync(from, 0, 0);
        chmodSync(from, OBJECT_MODE);
      }
      try {
        linkSync(from, to);
      } catch (error) {
        if (!(error instanceof Error && 'code' in error && error.code === 'EEXIST')) throw error;
        // Somebody was first; what has another size is no object, but what a broken disk made of one.
        if (sizeOf(to) !== size) renameSync(from, to);
      }
    }
    this.#pending.clear();
  }

  #hash(fd: number, size: number): string {
    const wanted = Math.min(size + 1, PIECE_BYTES);
    if (this.#piece.length < wanted) this.#piece = Buffer.allocUnsafeSlow(Math.max(wanted, 64 * 1024));
    let count = readSync(fd, this.#piece, 0, this.#piece.length, 0);
    if (count === size) return hash('sha256', this.#piece.subarray(0, count), 'hex');
    const whole = createHash('sha256');
    for (let at = 0; count > 0; at += count, count = readSync(fd, this.#piece, 0, this.#piece.length, at))
      whole.update(this.#piece.subarray(0, count));
    return whole.digest('hex');
  }

  #stage(fd: number, hex: string, path: string): Buffer {
    if (this.#staging === undefined) return Buffer.alloc(0);
    if (this.#isOurs) return Buffer.from(`/proc/self/fd/0/${path}`, 'latin1');
    const copy = join(this.#staging, hex);
    copyFileSync(`/proc/self/fd/${fd}`, copy, constants.COPYFILE_FICLONE);
    chmodSync(copy, OBJECT_MODE);
    return Buffer.from(copy);
  }
}

function sizeOf(path: string): number | undefined {
  return statSync(path, { throwIfNoEntry: false })?.size;
}
