/**
 * Puts files into the store: under the sha256 of their bytes, each once. A file gets its name there only when its bytes
 * are on the disk, so that no power cut leaves a name with other bytes.
 */
import { createHash, hash } from 'node:crypto';
import {
  type BigIntStats,
  chmodSync,
  closeSync,
  fstatSync,
  ftruncateSync,
  lchownSync,
  mkdirSync,
  openSync,
  readSync,
  renameSync,
  statSync,
  unlinkSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { objectPath } from '../../spec/image-tree.ts';
import { copyFile } from './copy-file.ts';
import { hashZeros } from './hash-zeros.ts';
import { type FileToLink, OBJECT_MODE, type StagedObjects } from './staged-objects.ts';
import type { ObjectTotals, TreeOrigin } from './tasks.ts';

/** A file that was added. */
export interface AddedFile {
  /** sha256 of its bytes in hex. */
  readonly object: string;
  readonly size: number;
}

/** Files up to this size are read in one piece. */
const PIECE_BYTES = 1024 * 1024;

/** Adds the files of one tree. */
export class ObjectWriter {
  readonly #objects: string;
  readonly #staging: string | undefined;
  readonly #origin: TreeOrigin;
  /** Hash to where its bytes are until they get their name. */
  readonly #pending = new Map<string, { readonly from: Buffer; readonly size: number }>();
  readonly #left: FileToLink[] = [];
  #piece: Buffer<ArrayBufferLike> = Buffer.alloc(0);
  #bytes = 0;
  #begun = 0;

  /**
   * @param objects the object directory
   * @param staging an empty directory on the same file system; undefined: nothing is to be added, only counted
   */
  constructor(objects: string, staging: string | undefined, origin: TreeOrigin) {
    this.#objects = objects;
    this.#staging = staging;
    this.#origin = origin;
  }

  /** Returns the hash and the size of a file, whose bytes are in the store after `publish`. */
  add(fd: number, stat: BigIntStats, path: string): AddedFile {
    if (this.#origin === 'live') return this.#addCopy(fd);
    const size = Number(stat.size);
    const object = this.#hash(fd, size);
    if (this.#isNew(object, size)) this.#take(object, this.#stage(fd, object, path), size);
    return { object, size };
  }

  /** Whatever is written to the file meanwhile: what is hashed is what is kept. */
  #addCopy(from: number): AddedFile {
    const copy = this.#fresh(`copy-${this.#begun++}`);
    copyFile(`/proc/self/fd/${from}`, copy);
    const fd = openSync(copy, 'r');
    try {
      const { size } = fstatSync(fd);
      const object = this.#hash(fd, size);
      chmodSync(copy, OBJECT_MODE);
      if (this.#isNew(object, size)) this.#take(object, Buffer.from(copy), size);
      else unlinkSync(copy);
      return { object, size };
    } finally {
      closeSync(fd);
    }
  }

  /** Takes bytes as `add` does a file. */
  addBytes(bytes: Buffer): string {
    const hex = hash('sha256', bytes, 'hex');
    if (!this.#isNew(hex, bytes.length)) return hex;
    const path = this.#fresh(hex);
    writeFileSync(path, bytes, { flag: 'wx', mode: OBJECT_MODE });
    this.#take(hex, Buffer.from(path), bytes.length);
    return hex;
  }

  /** Begins a file whose bytes come piece by piece. */
  begin(): FileInPieces {
    const path = this.#fresh(`piece-${this.#begun++}`);
    return new FileInPieces(path, (hex, size) => {
      if (this.#isNew(hex, size)) this.#take(hex, Buffer.from(path), size);
      else unlinkSync(path);
    });
  }

  /**
   * Stages the files that were added of a layer that is left.
   *
   * @param link gives files their names in the staging directory; returns those for which that cannot be done
   */
  stageLeft(link: (files: readonly FileToLink[]) => readonly FileToLink[]): void {
    for (const { path, name } of link(this.#left.splice(0)))
      this.#copy(Buffer.from(`/proc/self/fd/0/${path}`, 'latin1'), this.#fresh(name));
  }

  /** Which objects are staged, in their directory under their hashes. */
  staged(): StagedObjects {
    return [...this.#pending].map(([hex, { size }]) => [hex, size]);
  }

  /** Takes a file that another one of these has left in the staging directory (`settle`). */
  adopt(hex: string, size: number): void {
    if (this.#isNew(hex, size)) this.#take(hex, Buffer.from(this.#fresh(hex)), size);
  }

  /** Leaves the added files in the staging directory, under their hashes. */
  settle(): void {
    for (const [hex, { from }] of this.#pending) renameSync(from, this.#fresh(hex));
    this.#pending.clear();
  }

  /** What `publish` will add. */
  get totals(): ObjectTotals {
    return { objects: this.#pending.size, bytes: this.#bytes };
  }

  /** Gives the added files their names, and returns these; their bytes must be on the disk. */
  publish(): readonly string[] {
    const made = new Set<string>();
    for (const [hex, { from, size }] of this.#pending) {
      const to = join(this.#objects, objectPath(hex));
      const directory = dirname(to);
      if (!made.has(directory)) mkdirSync(directory, { recursive: true, mode: 0o700 });
      made.add(directory);
      if (this.#origin === 'ours') {
        // Only now: its attributes have been read, and a file that changes hands loses its capabilities.
        lchownSync(from, 0, 0);
        chmodSync(from, OBJECT_MODE);
      }
      // Somebody may have been first; what has another size is no object, but what a broken disk made of one.
      if (sizeOf(to) !== size) renameSync(from, to);
    }
    const hashes = [...this.#pending.keys()];
    this.#pending.clear();
    return hashes;
  }

  #isNew(hex: string, size: number): boolean {
    return !this.#pending.has(hex) && sizeOf(`${this.#objects}/${objectPath(hex)}`) !== size;
  }

  #take(hex: string, from: Buffer, size: number): void {
    this.#pending.set(hex, { from, size });
    this.#bytes += size;
  }

  #fresh(name: string): string {
    if (this.#staging === undefined) throw new ReferenceError('no place for a file that is only counted');
    return join(this.#staging, name);
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
    if (this.#origin === 'ours') return Buffer.from(`/proc/self/fd/0/${path}`, 'latin1');
    const place = join(this.#staging, hex);
    if (this.#origin === 'left') this.#left.push({ path, name: hex });
    else this.#copy(`/proc/self/fd/${fd}`, place);
    return Buffer.from(place);
  }

  #copy(from: string | Buffer, to: string): void {
    copyFile(from, to);
    chmodSync(to, OBJECT_MODE);
  }
}

/** A file that comes piece by piece. */
export class FileInPieces {
  readonly #fd: number;
  readonly #hash = createHash('sha256');
  readonly #finish: (hex: string, size: number) => void;
  #size = 0;

  constructor(path: string, finish: (hex: string, size: number) => void) {
    this.#fd = openSync(path, 'wx', OBJECT_MODE);
    this.#finish = finish;
  }

  /** Takes the next bytes. */
  write(bytes: Buffer): void {
    this.#hash.update(bytes);
    for (let at = 0; at < bytes.length; )
      at += writeSync(this.#fd, bytes, at, bytes.length - at, this.#size + at);
    this.#size += bytes.length;
  }

  /** Zeros, which take no room. */
  skip(count: number): void {
    hashZeros(this.#hash, count);
    this.#size += count;
  }

  /** Returns the hash of the file, which is whole now. */
  end(): string {
    ftruncateSync(this.#fd, this.#size);
    closeSync(this.#fd);
    const hex = this.#hash.digest('hex');
    this.#finish(hex, this.#size);
    return hex;
  }
}

function sizeOf(path: string): number | undefined {
  return statSync(path, { throwIfNoEntry: false })?.size;
}
