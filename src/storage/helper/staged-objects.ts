/**
 * Objects without a copy: files of an upper layer that its guest is about to leave get second names beside the store, and,
 * when the guest has left, their names in it. Until then nothing of the files changes, so that the guest can as well go on.
 */
import { mkdirSync, readFileSync, renameSync, statSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { objectPath } from '../../spec/image-tree.ts';
import type { Data } from '../../sys/program.ts';
import type { SideMachine } from '../../sys/side-machine.ts';
import { HELPER_FD, type ObjectTotals, type PublishTask } from './tasks.ts';

/** Nobody changes an object, and whoever may read it does so through an image. */
export const OBJECT_MODE = 0o400;
/** A file of an upper layer whose bytes are elsewhere. */
export const METACOPY = 'trusted.overlay.metacopy';
/** So many files in one program, which has at most 1,024 steps. */
const BATCH = 100;
const BATCH_BYTES = 32 * 1024;
const RESULT_BYTES = 8;
const UNTOUCHED = 1;

/** A file, and the name it is to have. */
export interface FileToLink {
  /** Of the upper layer that the machine has open, relative to it, in latin1. */
  readonly path: string;
  /** In the directory for the new names. */
  readonly name: string;
}

/**
 * Gives files second names.
 *
 * @param directory the one for the new names, below what the machine has open as the store
 * @returns those that have none now: their bytes are in another layer, or the file system refuses
 */
export function linkFiles<F extends FileToLink>(
  machine: SideMachine,
  directory: string,
  files: readonly F[],
): readonly F[] {
  return inBatches(
    files,
    ({ path }) => path.length,
    (batch) => {
      const p = machine.program();
      const answer = machine.answer(p, batch.length * RESULT_BYTES);
      p.sys('fchdir', [HELPER_FD.own]);
      const at = p.flags('AT_FDCWD');
      const attribute = nulTerminated(METACOPY);
      for (const [i, { path, name }] of batch.entries()) {
        const [link, next] = [p.label(), p.label()];
        const from = nulTerminated(path);
        p.put(answer.at(i * RESULT_BYTES), UNTOUCHED);
        p.sys('lgetxattr', [from, attribute, 0, 0], {
          otherwise: { on: ['ENODATA', 'EOPNOTSUPP', 'ENOENT'], to: link },
        });
        p.jump(next);
        p.place(link);
        const to = nulTerminated(`${directory}/${name}`);
        const linked = p.sys('linkat', [at, from, HELPER_FD.store, to, 0], {
          ignore: ['ENOENT', 'EPERM', 'EXDEV', 'EMLINK'],
        });
        p.store(answer.at(i * RESULT_BYTES, 4), linked);
        p.place(next);
      }
      const results = resultsOf(machine, 'give files of a guest second names', p, answer);
      return batch.filter((_, i) => results[i] !== 0);
    },
  );
}

/** Reads which objects are staged. */
export function readStaged({ root, list }: PublishTask): StagedObjects {
  return JSON.parse(readFileSync(join(root, list), 'utf8')) as StagedObjects; // written by main.ts
}

/** Gives staged files their names in the store. May be done again when it was not done to the end. */
export function publishStaged(task: PublishTask, machine: SideMachine): ObjectTotals {
  const all = readStaged(task);
  for (const prefix of new Set(all.map(([hex]) => dirname(objectPath(hex)))))
    mkdirSync(join(task.root, task.objects, prefix), { recursive: true, mode: 0o700 });
  const added = inBatches(
    all,
    () => 0,
    (batch) => {
      const p = machine.program();
      const answer = machine.answer(p, batch.length * RESULT_BYTES);
      const at = p.flags('AT_FDCWD');
      const noReplace = p.flags('RENAME_NOREPLACE');
      const stat = p.struct('stat', {});
      for (const [i, [hex, size]] of batch.entries()) {
        const [add, next] = [p.label(), p.label()];
        const from = nulTerminated(`/${task.staging}/${hex}`);
        const to = nulTerminated(`/${task.objects}/${objectPath(hex)}`);
        p.put(answer.at(i * RESULT_BYTES), UNTOUCHED);
        // Of guests that are unified together each has staged what they have alike, and one is first.
        p.sys('newfstatat', [at, to, stat, 0], { otherwise: { on: ['ENOENT'], to: add } });
        const found = p.loadField(stat, 'stat', 'st_size');
        p.expect(found, '==', size, 'ESTALE', 'size of an object', { otherwise: add });
        p.jump(next);
        p.place(add);
        // Its group's and its capabilities go with the owner, and setuid with the mode.
        p.sys('fchownat', [at, from, 0, 0, p.flags('AT_SYMLINK_NOFOLLOW')], {
          otherwise: { on: ['ENOENT'], to: next },
        });
        p.sys('fchmodat', [at, from, OBJECT_MODE]);
        const renamed = p.sys('renameat2', [at, from, at, to, noReplace], { ignore: ['EEXIST'] });
        p.store(answer.at(i * RESULT_BYTES, 4), renamed);
        p.place(next);
      }
      const results = resultsOf(machine, 'add objects to the store', p, answer);
      return batch.filter(
        (object, i) => results[i] === 0 || (results[i] !== UNTOUCHED && replace(task, object)),
      );
    },
  );
  return { objects: added.length, bytes: added.reduce((sum, [, size]) => sum + size, 0) };
}

/** Objects that wait to be published: hash and size. */
export type StagedObjects = readonly (readonly [hex: string, size: number])[];

/** Somebody was first just now; what has another size is no object, but what a broken disk made of one. */
function replace({ root, objects, staging }: PublishTask, [hex, size]: StagedObjects[number]): boolean {
  const to = join(root, objects, objectPath(hex));
  const isDamaged = statSync(to).size !== size;
  if (isDamaged) renameSync(join(root, staging, hex), to);
  return isDamaged;
}

/** Does work on a few at a time, with texts that fit into one program. */
function inBatches<T>(
  all: readonly T[],
  bytesOf: (one: T) => number,
  work: (batch: readonly T[]) => readonly T[],
): readonly T[] {
  const found: T[] = [];
  for (let from = 0, to = 0; from < all.length; from = to) {
    let bytes = 0;
    for (; to < all.length && to - from < BATCH && bytes < BATCH_BYTES; to++) bytes += bytesOf(all[to] as T);
    for (const one of work(all.slice(from, to))) found.push(one);
  }
  return found;
}

/** What the last call for each file returned. */
function resultsOf(
  machine: SideMachine,
  what: string,
  program: Parameters<SideMachine['run']>[1],
  answer: Data,
): readonly number[] {
  const bytes = machine.run(what, program, answer);
  const { littleEndian } = machine.abi;
  return Array.from({ length: answer.length / RESULT_BYTES }, (_, i) =>
    littleEndian ? bytes.readInt32LE(i * RESULT_BYTES) : bytes.readInt32BE(i * RESULT_BYTES),
  );
}

function nulTerminated(text: string): Uint8Array {
  return Buffer.from(`${text}\0`, 'latin1');
}
