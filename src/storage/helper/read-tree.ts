/**
 * Reads a tree that nobody changes meanwhile into a value, and its files into the store. Every directory is reached by
 * its descriptor and no link is followed, so that nothing in the tree leads out of it.
 *
 * Files are read in the order of their inodes, which is about that of the disk, and a batch later than they are found: the
 * disk brings the bytes of the next ones while those of these are hashed.
 */
import {
  type BigIntStats,
  closeSync,
  constants,
  lstatSync,
  openSync,
  readdirSync,
  readlinkSync,
} from 'node:fs';
import { StateError } from '../../base/errors.ts';
import type { ImageDirectory, ImageNode, InodeAttributes, Xattr } from '../../spec/image-tree.ts';
import { isWhiteout, MAX_PATH_BYTES } from '../../spec/image-tree.ts';
import type { SideMachine } from '../../sys/side-machine.ts';
import { timesOf } from '../machine.ts';
import type { AddedFile } from './object-writer.ts';
import { shiftXattr } from './shift-ids.ts';
import { readXattrs } from './xattrs.ts';

/** Adds a file to the store: given its open descriptor, and its path relative to the tree's root in latin1. */
export type AddFile = (fd: number, stat: BigIntStats, path: string) => AddedFile;

/** Whether a file of a directory is left out. */
export type LeavesOut = (name: string, size: bigint) => boolean;

/** How a tree is read. */
export interface TreeOptions {
  /** Ids from here on are a guest's and are counted from it; smaller ones are ids of an image already. */
  readonly hostBase: number;
  /** Inodes of the image that shows through: what is one of them still needs not be read. */
  readonly known: ReadonlyMap<number, ImageNode>;
  readonly machine: SideMachine;
  readonly addFile: AddFile;
  /** Tells which files with one name of a directory are left out; paths and names in latin1. */
  readonly leftOutOf?: ((directory: string, names: readonly string[]) => LeavesOut | undefined) | undefined;
  /** Called for each inode; `isKnown`: it is one of the image's as it is. */
  readonly onEntry: (stat: BigIntStats, path: string, isKnown: boolean) => void;
  readonly maxEntries: number;
}

/** An inode as it was found; attributes come later, for many at once. */
interface Found {
  readonly stat: BigIntStats;
  readonly path: string;
  /** Adds the file's bytes to the store. */
  readonly read?: () => void;
  readonly finish: (attributes: InodeAttributes) => ImageNode;
  /** Undefined: it is one of the image's as it is. */
  readonly as: ImageNode | undefined;
}

/** An entry of a directory. */
interface Entry {
  readonly name: string;
  readonly at: Buffer;
  readonly stat: BigIntStats;
}

/** So many inodes are asked for their attributes at once; as many wait to be read. */
const BATCH = 200;
/** Or as many as have so much to be read: the disk must not bring more than memory holds until it is read. */
const BATCH_BYTES = 16 * 1024 * 1024;
/** So many entries of a directory are put in order at once. */
const ENTRIES_AT_ONCE = 1000;
/** Of a path that is too long. */
const SHOWN_BYTES = 60;
const MAX_IDS = 65_536;
const NS = 1_000_000_000n;

/**
 * Reads the tree below a directory.
 *
 * @throws StateError tree-too-deep, tree-too-big, foreign-owner
 */
export function readTree(root: number, options: TreeOptions): ImageDirectory {
  return new TreeReader(options).read(root);
}

class TreeReader {
  readonly #options: TreeOptions;
  /** Inodes with several names, by device and number. */
  readonly #linked = new Map<string, Slot>();
  #found: Slot[] = [];
  #foundBytes = 0;
  /** Those whose bytes are on their way, and their attributes. */
  #asked: { readonly slots: readonly Slot[]; readonly xattrs: ReadonlyMap<string, readonly Xattr[]> } = {
    slots: [],
    xattrs: new Map(),
  };
  #entries = 0;

  constructor(options: TreeOptions) {
    this.#options = options;
  }

  read(root: number): ImageDirectory {
    const stat = lstatSync(`/proc/self/fd/${root}/.`, { bigint: true });
    const children = this.#children(new OpenDirectory(root), '');
    this.#ask();
    this.#finish();
    const xattrs = readXattrs(this.#options.machine, [{ path: '', readBytes: 0 }]).get('') ?? [];
    return { ...this.#attributes(stat, xattrs, '/'), kind: 'directory', children };
  }

  #children(directory: OpenDirectory, path: string): ReadonlyMap<string, ImageNode> {
    const children = new Map<string, ImageNode>();
    const names = readdirSync(directory.path, 'latin1');
    const leavesOut = this.#options.leftOutOf?.(path, names);
    for (let from = 0; from < names.length; from += ENTRIES_AT_ONCE) {
      const entries = names.slice(from, from + ENTRIES_AT_ONCE).map((name): Entry => {
        const at = Buffer.from(`${directory.path}/${name}`, 'latin1');
        return { name, at, stat: lstatSync(at, { bigint: true }) };
      });
      for (const entry of entries.sort(byPlace)) {
        const { name } = entry;
        const slot = this.#entry(directory, entry, path === '' ? name : `${path}/${name}`, leavesOut);
        slot?.put(children, name);
      }
    }
    return children;
  }

  #entry(
    directory: OpenDirectory,
    { name, at, stat }: Entry,
    path: string,
    leavesOut: LeavesOut | undefined,
  ): Slot | undefined {
    if (path.length > MAX_PATH_BYTES) {
      throw new StateError(
        'tree-too-deep',
        `cannot read a tree: found ${JSON.stringify(path.slice(0, SHOWN_BYTES))}… with a path of ${path.length} bytes; need ${MAX_PATH_BYTES} at most`,
      );
    }
    const key = `${stat.dev}:${stat.ino}`;
    const isShared = !stat.isDirectory() && stat.nlink > 1n;
    const known = isShared ? this.#linked.get(key) : undefined;
    if (known) return known;
    if (++this.#entries > this.#options.maxEntries) {
      throw new StateError(
        'tree-too-big',
        `cannot read a tree: found more than ${this.#options.maxEntries} files; need fewer`,
      );
    }
    const same = this.#sameAsKnown(stat);
    this.#options.onEntry(stat, path, same !== undefined);
    if (stat.isFile() && !isShared && leavesOut?.(name, stat.size)) return undefined;
    const found = same ? { stat, path, as: same, finish: () => same } : this.#find(directory, at, stat, path);
    if (found === undefined) return undefined;
    const slot = new Slot(found);
    if (isShared) this.#linked.set(key, slot);
    if (found.as !== undefined) slot.finish(found.as);
    else this.#add(slot);
    return slot;
  }

  #find(directory: OpenDirectory, at: Buffer, stat: BigIntStats, path: string): Found | undefined {
    const base = { stat, path, as: undefined };
    if (stat.isDirectory()) {
      const flags = constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW;
      const own = new OpenDirectory(openSync(at, flags));
      const children = this.#children(own, path);
      own.release();
      return { ...base, finish: (attributes) => ({ ...attributes, kind: 'directory', children }) };
    }
    if (stat.isFile()) {
      let added: AddedFile = { object: '', size: 0 };
      const finish = (attributes: InodeAttributes): ImageNode => {
        const { object, size } = added;
        const content = size === 0 ? { bytes: new Uint8Array(0) } : { object };
        return { ...attributes, kind: 'file', size, content };
      };
      if (stat.size === 0n) return { ...base, finish };
      directory.hold();
      const read = (): void => {
        added = this.#addFile(at, stat, path);
        directory.release();
      };
      return { ...base, read, finish };
    }
    if (stat.isSymbolicLink()) {
      const target = readlinkSync(at, 'latin1');
      return { ...base, finish: (attributes) => ({ ...attributes, kind: 'symlink', target }) };
    }
    if (stat.isCharacterDevice() || stat.isBlockDevice()) {
      const kind = stat.isBlockDevice() ? 'block' : 'character';
      const major = Number((stat.rdev >> 8n) & 0xfffn);
      const minor = Number((stat.rdev & 0xffn) | ((stat.rdev >> 12n) & 0xfff00n));
      const finish = (attributes: InodeAttributes): ImageNode => ({ ...attributes, kind, major, minor });
      // What hides the store of older kernels is put into each image anew.
      return isWhiteout({ ...NO_ATTRIBUTES, kind, major, minor }) ? undefined : { ...base, finish };
    }
    const kind = stat.isFIFO() ? 'fifo' : 'socket';
    return { ...base, finish: (attributes) => ({ ...attributes, kind }) };
  }

  /**
   * A file of the image that nobody has changed, by its number. What a guest has copied up has another time of change,
   * which nobody can set: later than the image was made, while an image's files have their times of modification there.
   */
  #sameAsKnown(stat: BigIntStats): ImageNode | undefined {
    const node = this.#options.known.get(Number(stat.ino));
    if (node?.kind !== 'file' || BigInt(node.size) !== stat.size) return undefined;
    const time = BigInt(node.mtimeSeconds) * NS + BigInt(node.mtimeNanoseconds);
    return stat.ctimeNs === time && stat.mtimeNs === time ? node : undefined;
  }

  #addFile(at: Buffer, stat: BigIntStats, path: string): AddedFile {
    // It is a regular file, so opening it waits for nobody.
    const fd = openSync(at, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
    try {
      return this.#options.addFile(fd, stat, path);
    } finally {
      closeSync(fd);
    }
  }

  #add(slot: Slot): void {
    const { read, stat } = slot.found;
    if (read) this.#foundBytes += Number(stat.size);
    if (this.#found.push(slot) >= BATCH || this.#foundBytes > BATCH_BYTES) this.#ask();
  }

  /** Asks for the attributes of those that were found, and the disk for their bytes; reads those it was asked for before. */
  #ask(): void {
    const slots = this.#found;
    this.#found = [];
    this.#foundBytes = 0;
    const asked = slots.filter(({ found }) => !found.stat.isSymbolicLink());
    const xattrs = readXattrs(
      this.#options.machine,
      asked.map(({ found: { path, read, stat } }) => ({ path, readBytes: read ? Number(stat.size) : 0 })),
    );
    this.#finish();
    this.#asked = { slots, xattrs };
  }

  /** Reads what was asked for. */
  #finish(): void {
    const { slots, xattrs } = this.#asked;
    for (const slot of slots) {
      const { stat, path, read, finish } = slot.found;
      read?.();
      slot.finish(finish(this.#attributes(stat, xattrs.get(path) ?? [], path)));
    }
  }

  #attributes(stat: BigIntStats, xattrs: readonly Xattr[], path: string): InodeAttributes {
    return {
      mode: Number(stat.mode) & 0o7777,
      uid: this.#id(Number(stat.uid), path),
      gid: this.#id(Number(stat.gid), path),
      ...timesOf(stat.mtimeNs),
      xattrs: xattrs.map((one) => shiftXattr(one, this.#options.hostBase)),
    };
  }

  #id(id: number, path: string): number {
    const { hostBase } = this.#options;
    const own = id >= hostBase ? id - hostBase : id;
    if (own < MAX_IDS) return own;
    throw new StateError(
      'foreign-owner',
      `cannot read a tree: found ${JSON.stringify(path)} owned by ${id}; need owners of the guest`,
    );
  }
}

const NO_ATTRIBUTES: InodeAttributes = {
  mode: 0,
  uid: 0,
  gid: 0,
  mtimeSeconds: 0,
  mtimeNanoseconds: 0,
  xattrs: [],
};

/** Files first, and what has a number close to another's is close to it on the disk. */
function byPlace({ stat: a }: Entry, { stat: b }: Entry): number {
  if (a.isDirectory() !== b.isDirectory()) return a.isDirectory() ? 1 : -1;
  return a.ino < b.ino ? -1 : 1;
}

/** A directory of the tree, open as long as files of it are to be read. */
class OpenDirectory {
  readonly path: string;
  readonly #fd: number;
  #users = 1;

  constructor(fd: number) {
    this.#fd = fd;
    this.path = `/proc/self/fd/${fd}`;
  }

  hold(): void {
    this.#users++;
  }

  release(): void {
    if (--this.#users === 0) closeSync(this.#fd);
  }
}

/** An inode that becomes a node, once, and has its names from then on. */
class Slot {
  readonly found: Found;
  readonly #names: (readonly [children: Map<string, ImageNode>, name: string])[] = [];
  #node: ImageNode | undefined;

  constructor(found: Found) {
    this.found = found;
  }

  finish(node: ImageNode): void {
    this.#node = node;
    for (const [children, name] of this.#names.splice(0)) children.set(name, node);
  }

  /** Gives it a name in a directory. */
  put(children: Map<string, ImageNode>, name: string): void {
    if (this.#node) children.set(name, this.#node);
    else this.#names.push([children, name]);
  }
}
