/**
 * The storage helper: a process for one task that reads or writes many files, so that vserverd neither waits nor grows.
 * Its argument is the task; its descriptors are in tasks.ts.
 */

import { hash } from 'node:crypto';
import { readFileSync, writeFileSync, writeSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { StateError, UserError, VserverError } from '../../base/errors.ts';
import { readErofs } from '../../spec/erofs-reader.ts';
import { writeErofs } from '../../spec/erofs-writer.ts';
import type { ImageDirectory, ImageNode } from '../../spec/image-tree.ts';
import { hashTree } from '../../spec/tree-listing.ts';
import { loadAbi } from '../../sys/abi.ts';
import { SideMachine } from '../../sys/side-machine.ts';
import { OwnUsage } from './disk-usage.ts';
import { examineStore } from './examine-store.ts';
import { hideStore } from './hidden-store.ts';
import { carryFiles, FileKeeper, NOTHING_KEPT } from './keep-files.ts';
import { ObjectWriter } from './object-writer.ts';
import { readTree } from './read-tree.ts';
import { objectInStore, sealFiles } from './seal.ts';
import { linkFiles, publishStaged, readStaged } from './staged-objects.ts';
import {
  type AdoptTask,
  type CaptureResult,
  type CaptureTask,
  HELPER_FD,
  type HelperLine,
  type HelperProgress,
  type HelperTask,
  type ImageResult,
  OWN_LAYER,
  type UnpackResult,
  type UnpackTask,
} from './tasks.ts';

const PROGRESS_MS = 100;
/** Far more than a configuration file may have. */
const TEXT_BYTES = 1024 * 1024;
/** Of what is at `snapshots/NAME`. */
const TEXT_DEPTH = 2;

let done = 0;
let toldMs = Number.NEGATIVE_INFINITY;

function tell(line: HelperLine): void {
  writeSync(HELPER_FD.out, `${JSON.stringify(line)}\n`);
}

/** Tells it about ten times a second. */
function tellProgress(progress: HelperProgress): void {
  done = progress.files;
  const nowMs = performance.now();
  if (nowMs - toldMs < PROGRESS_MS) return;
  toldMs = nowMs;
  tell({ done: progress });
}

function advance(): void {
  tellProgress({ files: done + 1 });
}

function capture(task: CaptureTask): CaptureResult {
  const machine = new SideMachine(loadAbi(), HELPER_FD.machine);
  const known = task.base === undefined ? undefined : readErofs(readFileSync(task.base)).inodes;
  const objects = new ObjectWriter(task.objects, task.isDryRun ? undefined : task.staging, task.origin);
  const { hasLayer, exclude } = task;
  const usage = hasLayer ? new OwnUsage(OWN_LAYER, known && sizesOf(known.values())) : undefined;
  const keeper =
    hasLayer && exclude.length > 0 ? new FileKeeper(HELPER_FD.tree, exclude, machine) : undefined;
  const root = readTree(HELPER_FD.tree, {
    hostBase: task.hostBase,
    known: known ?? new Map(),
    machine,
    addFile: (fd, stat, path) => objects.add(fd, stat, path),
    leftOutOf: keeper && ((directory, names) => keeper.keptOf(directory, names)),
    onEntry: (stat, path, isKnown) => {
      advance();
      if (!isKnown) usage?.add(stat, path);
    },
    maxEntries: task.maxEntries,
  });
  objects.stageLeft((files) => linkFiles(machine, inStore(task.staging), files));
  const kept = keeper?.kept(root) ?? NOTHING_KEPT;
  return { ...addImage(root, objects, task, machine), ownBytes: usage?.bytes ?? 0, kept };
}

function sizesOf(nodes: Iterable<ImageNode>): ReadonlySet<bigint> {
  const sizes = new Set<bigint>();
  for (const node of nodes) if (node.kind === 'file') sizes.add(BigInt(node.size));
  return sizes;
}

async function unpackImage(task: UnpackTask): Promise<UnpackResult> {
  const { unpack } = await import('./unpack.ts');
  const machine = new SideMachine(loadAbi(), HELPER_FD.machine);
  const objects = new ObjectWriter(task.objects, task.staging, 'still');
  const { tree, digests } = await unpack(task, objects, tellProgress);
  const root = tree.finish();
  const isDryRun = task.texts !== undefined;
  const result = addImage(root, objects, { ...task, isDryRun, list: undefined }, machine);
  if (isDryRun) objects.settle();
  return { ...result, digests, texts: textsOf(root, task) };
}

/** Reads the texts of an archive that was unpacked: files at its top, or two directories below. */
function textsOf(root: ImageDirectory, { staging, texts = [] }: UnpackTask): UnpackResult['texts'] {
  const found: Record<string, string> = {};
  const look = (directory: ImageDirectory, prefix: string, depth: number): void => {
    for (const [name, node] of directory.children) {
      if (node.kind === 'directory' && depth < TEXT_DEPTH) look(node, `${prefix}${name}/`, depth + 1);
      const isText = node.kind === 'file' && depth !== 1 && texts.includes(name) && node.size <= TEXT_BYTES;
      if (!isText) continue;
      const { content } = node;
      found[`${prefix}${name}`] =
        'object' in content ? readFileSync(join(staging, content.object), 'utf8') : '';
    }
  };
  look(root, '', 0);
  return found;
}

function adopt(task: AdoptTask): ImageResult {
  const machine = new SideMachine(loadAbi(), HELPER_FD.machine);
  const objects = new ObjectWriter(task.objects, task.staging, 'still');
  let node: ImageNode | undefined = readErofs(readFileSync(task.from)).root;
  for (const name of task.directory.split('/'))
    node = node?.kind === 'directory' ? node.children.get(name) : undefined;
  if (node?.kind !== 'directory') {
    throw new UserError(
      'invalid-archive',
      `cannot import an archive: found no directory ${JSON.stringify(task.directory)} in it; need a whole one`,
    );
  }
  if (hashTree(node).sha256 !== task.expected) {
    throw new StateError(
      'archive-damaged',
      'cannot import an archive: found that its files are not what was exported; need a whole archive',
    );
  }
  const take = (directory: ImageDirectory): void => {
    for (const one of directory.children.values()) {
      advance();
      if (one.kind === 'directory') take(one);
      if (one.kind === 'file' && 'object' in one.content) objects.adopt(one.content.object, one.size);
    }
  };
  take(node);
  return addImage(node, objects, { ...task, isDryRun: false, list: undefined }, machine);
}

/** Writes an image, and unless it is a dry run the objects it speaks of. */
function addImage(
  root: ImageDirectory,
  objects: ObjectWriter,
  { image: path, isDryRun, list }: Pick<CaptureTask, 'image' | 'isDryRun' | 'list'>,
  machine: SideMachine,
): ImageResult {
  const image = writeErofs(hideStore(root));
  const { totals } = objects;
  writeFileSync(path, image, { flag: 'wx', mode: 0o400 });
  if (list !== undefined) {
    writeFileSync(list, JSON.stringify(objects.staged()), { flag: 'wx', mode: 0o600 });
    sync(machine);
  } else if (!isDryRun) {
    // The bytes of all objects at once, and of the image.
    sync(machine);
    sealFiles(machine, [inStore(path), ...objects.publish().map(objectInStore)]);
    // And their names, before an image of that name speaks of them.
    if (totals.objects > 0) sync(machine);
  }
  return {
    imageHash: hash('sha256', image, 'hex'),
    imageBytes: image.length,
    entries: done,
    newObjects: totals.objects,
    newBytes: totals.bytes,
    root: {
      mode: root.mode,
      uid: root.uid,
      gid: root.gid,
      mtimeSeconds: root.mtimeSeconds,
      mtimeNanoseconds: root.mtimeNanoseconds,
    },
  };
}

/** Returns the path of something in the working directory, relative to the store. */
function inStore(path: string): string {
  return join(basename(dirname(path)), basename(path));
}

/** The machine has the store's directory open, beside its root. */
function sync(machine: SideMachine): void {
  const p = machine.program();
  p.sys('syncfs', [HELPER_FD.store]);
  machine.run('write the store to disk', p, machine.answer(p, 8));
}

/** Gives the archive, a file without a name, its name: then it is there, and whole. */
function publish(name: string): void {
  const machine = new SideMachine(loadAbi(), HELPER_FD.machine);
  const p = machine.program();
  const fresh = `.${name}.${process.pid}-${Date.now().toString(36)}`;
  const nameOf = (text: string): Uint8Array => Buffer.from(`${text}\0`);
  p.sys('fsync', [HELPER_FD.unnamed]);
  const link = [
    HELPER_FD.unnamed,
    nameOf(''),
    HELPER_FD.target,
    nameOf(fresh),
    p.flags('AT_EMPTY_PATH'),
  ] as const;
  p.sys('linkat', link, { about: 'the archive' });
  p.sys('renameat', [HELPER_FD.target, nameOf(fresh), HELPER_FD.target, nameOf(name)], {
    about: 'the archive',
  });
  p.sys('fsync', [HELPER_FD.target]);
  machine.run('give the archive its name', p, machine.answer(p, 8));
}

async function run(task: HelperTask): Promise<unknown> {
  switch (task.kind) {
    case 'capture':
      return capture(task);
    case 'adopt':
      return adopt(task);
    case 'unpack':
      return await unpackImage(task);
    case 'diff': {
      const { changesOf } = await import('../../spec/tree-changes.ts');
      const [before, after] = [task.before, task.after].map(
        ({ image, root }): ImageDirectory => ({ ...readErofs(readFileSync(image)).root, ...root }),
      );
      return { changes: before && after ? changesOf(before, after) : [] };
    }
    case 'export': {
      const { exportArchive } = await import('./export-archive.ts');
      const result = await exportArchive(task, HELPER_FD.archive, advance);
      if (task.name !== undefined) publish(task.name);
      return result;
    }
    case 'usage': {
      const { usageOf } = await import('./store-usage.ts');
      return usageOf(task, advance);
    }
    case 'carry': {
      const machine = new SideMachine(loadAbi(), HELPER_FD.machine);
      carryFiles(task, machine);
      sync(machine);
      return {};
    }
    case 'publish': {
      const machine = new SideMachine(loadAbi(), HELPER_FD.machine);
      const totals = publishStaged(task, machine);
      const image = join(dirname(task.list), 'image');
      sealFiles(machine, [image, ...readStaged(task).map(([hex]) => objectInStore(hex))]);
      sync(machine);
      return totals;
    }
    case 'spool': {
      const { spoolArchive } = await import('./spool-archive.ts');
      return await spoolArchive(task, HELPER_FD.archive, advance);
    }
    default:
      return examineStore(task, new SideMachine(loadAbi(), HELPER_FD.machine), advance);
  }
}

function failureOf(error: unknown): HelperLine {
  const kind = error instanceof UserError ? 'user' : error instanceof StateError ? 'state' : 'bug';
  if (error instanceof VserverError) return { error: { kind, code: error.code, message: error.message } };
  const found = error instanceof Error ? error.message : String(error);
  const state = (code: string, message: string): HelperLine => ({ error: { kind: 'state', code, message } });
  switch (error instanceof Error && 'code' in error && error.code) {
    case 'ENOSPC':
    case 'EDQUOT':
      return state('store-full', `cannot add to the store: found ${found}; need more space`);
    case 'EIO':
      return state(
        'read-failed',
        `cannot read a file: found ${found}; need a sound disk, and vserver store check --full to tell what is damaged`,
      );
    default: {
      const message = error instanceof Error ? (error.stack ?? found) : found;
      return { error: { kind: 'bug', code: 'helper-failed', message } };
    }
  }
}

try {
  tell({ result: await run(JSON.parse(process.argv[2] ?? '') as HelperTask) }); // written by helper-process.ts
} catch (error) {
  tell(failureOf(error));
}
