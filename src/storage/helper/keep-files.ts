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
import { putTimes } from '../machine.ts';
import { excluder, packageFilesOf } from './exclusions.ts';
import type { LeavesOut } from './read-tree.ts';
import { METACOPY } from './staged-objects.ts';
import { type CarryTask, HELPER_FD, type KeptDirectory, type KeptFiles } from './tasks.ts';
import { isOwnXattr, namesBelow } from './xattrs.ts';

const STATUS = 'var/lib/dpkg/status';
const MAX_STATUS_BYTES = 64 * 1024 * 1024;
const BATCH = 100;

/** Nothing. */
export const NOTHING_KEPT: KeptFiles = { files: [], directories: [], bytes: 0 };

/** Collects files to be kept while a tree is read. */
export class FileKeeper {
  readonly #own: string;
  readonly #machine: SideMachine;
  readonly #isExcluded: (path: string) => boolean;
  readonly #files: string[] = [];
  readonly #directories = new Map<string, boolean>();
  #bytes = 0;

  /**
   * @param tree descriptor of the tree that is read
   * @param own the upper layer that has the guest's own files, which the machine has open
   */
  constructor(tree: number, own: string, patterns: readonly string[], machine: SideMachine) {
    this.#own = own;
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
      const stat = lstatSync(this.#place(path), { bigint: true, throwIfNoEntry: false });
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
      lstatSync(this.#place(path), { throwIfNoEntry: false })?.isDirectory() === true &&
      namesBelow(this.#machine, HELPER_FD.own, [path]).get(path)?.some(isOwnXattr) === false;
    this.#directories.set(path, isThere);
    return isThere;
  }

  #place(path: string): Buffer {
    return Buffer.concat([Buffer.from(`${this.#own}/`), Buffer.from(path, 'latin1')]);
  }
}

/**
 * Gives kept files their second names. The tree is the guest's directory, which holds both layers.
 */
export function carryFiles(task: CarryTask, machine: SideMachine): void {
  const { files, directories } = JSON.parse(readFileSync(task.list, 'utf8')) as KeptFiles; // written by storage.ts
  const place = (layer: string, path: string): Buffer =>
    Buffer.from(`/proc/self/fd/0/${layer}/${path}`, 'latin1');
  const [from, to] = [task.from, task.to].map((layer) => (path: string) => place(layer, path));
  if (!from || !to) return;
  for (const { path } of directories) mkdirSync(to(path), { mode: 0o700 });
  for (const path of files) linkSync(from(path), to(path));
  for (const { path, uid, gid, mode } of directories) {
    lchownSync(to(path), uid + task.hostBase, gid + task.hostBase);
    chmodSync(to(path), mode);
  }
  for (let at = 0; at < directories.length; at += BATCH) {
    const p = machine.program();
    for (const directory of directories.slice(at, at + BATCH)) {
      const path = Buffer.from(`/${task.to}/${directory.path}\0`, 'latin1');
      p.sys('utimensat', [p.flags('AT_FDCWD'), path, putTimes(p, directory), 0]);
    }
    machine.run('set the times of directories', p, machine.answer(p, 8));
  }
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
