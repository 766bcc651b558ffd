/**
 * Files that stay a guest's own while the rest of what it wrote becomes a part of its image: found while its tree is read,
 * then given a second name below its new upper layer, in directories like those of the image.
 */
import {
  type BigIntStats,
  chmodSync,
  closeSync,
  constants,
  fstatSync,
  lchownSync,
  linkSync,
  lstatSync,
  mkdirSync,
  openSync,
  readFileSync,
} from 'node:fs';
import type { ImageDirectory, ImageNode } from '../../spec/image-tree.ts';
import type { SideMachine } from '../../sys/side-machine.ts';
import { putTimes, timesOf } from '../machine.ts';
import { copyFile } from './copy-file.ts';
import { excluder, packageFilesOf } from './exclusions.ts';
import type { LeavesOut } from './read-tree.ts';
import { METACOPY } from './staged-objects.ts';
import { type CarryTask, HELPER_FD, type KeptDirectory, type KeptFiles, OWN_LAYER } from './tasks.ts';
import { isOwnXattr, namesBelow, readXattrs, writeXattrs } from './xattrs.ts';

const STATUS = 'var/lib/dpkg/status';
const MAX_STATUS_BYTES = 64 * 1024 * 1024;
const BATCH = 100;

/** Nothing. */
export const NOTHING_KEPT: KeptFiles = { files: [], directories: [], bytes: 0 };

/** Collects files to be kept while a tree is read. */
export class FileKeeper {
  readonly #machine: SideMachine;
  readonly #isExcluded: (path: string) => boolean;
  readonly #files: string[] = [];
  readonly #directories = new Map<string, boolean>();
  #bytes = 0;

  /** @param tree descriptor of the tree that is read */
  constructor(tree: number, patterns: readonly string[], machine: SideMachine) {
    this.#machine = machine;
    this.#isExcluded = excluder(patterns, packageFilesOf(readStatus(tree)));
  }

  /**
   * Tells which files of a directory stay the guest's: whole ones of its upper layer, with one name. Of those whose
   * attributes alone were changed the bytes are elsewhere.
   */
  keptOf(directory: string, names: readonly string[]): LeavesOut | undefined {
    const excluded = names
      .map((name) => (directory === '' ? name : `${directory}/${name}`))
      .filter((path) => this.#isExcluded(`/${path}`));
    if (excluded.length === 0 || !this.#hasDirectory(directory)) return undefined;
    const found = new Map<string, BigIntStats>();
    for (const path of excluded) {
      const stat = lstatSync(layerPath(path), { bigint: true, throwIfNoEntry: false });
      if (stat?.isFile() && stat.nlink === 1n) found.set(path, stat);
    }
    const attributes = namesBelow(this.#machine, HELPER_FD.own, [...found.keys()]);
    return (name, size) => {
      const path = directory === '' ? name : `${directory}/${name}`;
      const stat = found.get(path);
      if (stat?.size !== size || attributes.get(path)?.includes(METACOPY) !== false) return false;
      this.#files.push(path);
      this.#bytes += Number(stat.blocks) * 512;
      return true;
    };
  }

  /** What is kept, with the directories that lead there, parents first. */
  kept(root: ImageDirectory): KeptFiles {
    const names = new Set(this.#files.flatMap(ancestorsOf));
    const directories = [...names].sort().map((path): KeptDirectory => {
      const { mode, uid, gid, mtimeSeconds, mtimeNanoseconds } = nodeAt(root, path);
      return { path, mode, uid, gid, mtimeSeconds, mtimeNanoseconds };
    });
    return { files: this.#files, directories, bytes: this.#bytes };
  }

  #hasDirectory(path: string): boolean {
    if (path === '') return true;
    const known = this.#directories.get(path);
    if (known !== undefined) return known;
    // It is made anew, with owner, mode and time; of one with further attributes the files are not kept.
    const isThere =
      this.#hasDirectory(parentOf(path)) &&
      lstatSync(layerPath(path), { throwIfNoEntry: false })?.isDirectory() === true &&
      namesBelow(this.#machine, HELPER_FD.own, [path]).get(path)?.some(isOwnXattr) === false;
    this.#directories.set(path, isThere);
    return isThere;
  }
}

/** Gives kept files of the tree, which is one upper layer, their second names in the other one; or copies them. */
export function carryFiles(task: CarryTask, machine: SideMachine): void {
  const { files, directories } = JSON.parse(readFileSync(task.list, 'utf8')) as KeptFiles; // written by image-store.ts
  for (const { path } of directories) mkdirSync(layerPath(path), { mode: 0o700 });
  copyFiles(
    files.filter((path) => !isLinked(path)),
    machine,
  );
  for (const { path, uid, gid, mode } of directories) {
    lchownSync(layerPath(path), uid + task.hostBase, gid + task.hostBase);
    chmodSync(layerPath(path), mode);
  }
  setTimes(directories, machine);
}

/** Gives a file its second name; false: that is on another file system. */
function isLinked(path: string): boolean {
  try {
    linkSync(treePath(path), layerPath(path));
    return true;
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'EXDEV') return false;
    throw error;
  }
}

/** Copies files with all they have; owners are of the same guest. */
function copyFiles(paths: readonly string[], machine: SideMachine): void {
  const attributes = readXattrs(
    machine,
    paths.map((path) => ({ path, readBytes: 0 })),
  );
  const times = paths.map((path) => {
    const [from, to] = [treePath(path), layerPath(path)];
    const stat = lstatSync(from, { bigint: true });
    copyFile(from, to);
    lchownSync(to, Number(stat.uid), Number(stat.gid));
    chmodSync(to, Number(stat.mode) & 0o7777);
    writeXattrs(machine, HELPER_FD.own, path, attributes.get(path) ?? []);
    return { path, ...timesOf(stat.mtimeNs) };
  });
  setTimes(times, machine);
}

function setTimes(
  all: readonly (Parameters<typeof putTimes>[1] & { readonly path: string })[],
  machine: SideMachine,
): void {
  for (let at = 0; at < all.length; at += BATCH) {
    const p = machine.program();
    for (const one of all.slice(at, at + BATCH)) {
      const path = Buffer.from(`${one.path}\0`, 'latin1');
      p.sys('utimensat', [HELPER_FD.own, path, putTimes(p, one), 0]);
    }
    machine.run('set the times of what is kept', p, machine.answer(p, 8));
  }
}

function treePath(path: string): Buffer {
  return Buffer.from(`/proc/self/fd/${HELPER_FD.tree}/${path}`, 'latin1');
}

function layerPath(path: string): Buffer {
  return Buffer.from(`${OWN_LAYER}/${path}`, 'latin1');
}

function readStatus(tree: number): string {
  const path = `/proc/self/fd/${tree}/${STATUS}`;
  for (const above of ancestorsOf(STATUS))
    if (!lstatSync(`/proc/self/fd/${tree}/${above}`, { throwIfNoEntry: false })?.isDirectory()) return '';
  if (!lstatSync(path, { throwIfNoEntry: false })?.isFile()) return '';
  const fd = openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  try {
    return fstatSync(fd).size > MAX_STATUS_BYTES ? '' : readFileSync(fd, 'latin1');
  } finally {
    closeSync(fd);
  }
}

function parentOf(path: string): string {
  return path.slice(0, Math.max(0, path.lastIndexOf('/')));
}

function ancestorsOf(path: string): readonly string[] {
  const names = path.split('/');
  return names.slice(1).map((_, i) => names.slice(0, i + 1).join('/'));
}

function nodeAt(root: ImageDirectory, path: string): ImageNode {
  let node: ImageNode = root;
  for (const name of path.split('/')) {
    const child: ImageNode | undefined = node.kind === 'directory' ? node.children.get(name) : undefined;
    if (child === undefined) throw new ReferenceError(`no directory ${path} in the tree`);
    node = child;
  }
  return node;
}
