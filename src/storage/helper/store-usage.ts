/** Counts what guests have on disk: of their own, and of the store. */
import { lstatSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { readErofs } from '../../spec/erofs-reader.ts';
import { objectPath } from '../../spec/image-tree.ts';
import { isOfTemplate } from '../image-names.ts';
import { diskUsage } from './disk-usage.ts';
import type { Usage, UsageOwner, UsageResult, UsageTask } from './tasks.ts';

const BLOCK_BYTES = 512;
/** Whose images are that stay without a guest. */
const NOBODY = '';

/** Does a task; `advance` is called for each object. */
export function usageOf(task: UsageTask, advance: () => void): UsageResult {
  /** Files of the store by path, each with who needs it. */
  const users = new Map<string, Set<string>>();
  const claim = (path: string, user: string): void => {
    const known = users.get(path);
    if (known) known.add(user);
    else users.set(path, new Set([user]));
  };
  const filesOf = new Map<string, readonly string[]>();
  const needs = (image: string, user: string): readonly string[] => {
    const known = filesOf.get(image) ?? filesOfImage(task, image);
    filesOf.set(image, known);
    for (const path of known) claim(path, user);
    return known;
  };
  const parts = task.owners.map((owner) => ({
    owner,
    now: new Set(owner.image === undefined ? [] : needs(owner.image, owner.name)),
    kept: new Set(owner.snapshots.flatMap((image) => needs(image, owner.name))),
  }));
  for (const name of readdirSync(task.images)) {
    const image = name.replace(/\.erofs$/, '');
    if (isOfTemplate(image) || !filesOf.has(image)) needs(image, NOBODY);
  }
  const sizes = new Map<string, number>();
  const sizeOf = (path: string): number => {
    const known = sizes.get(path);
    if (known !== undefined) return known;
    advance();
    const bytes = (lstatSync(path, { throwIfNoEntry: false })?.blocks ?? 0) * BLOCK_BYTES;
    sizes.set(path, bytes);
    return bytes;
  };
  return {
    usages: parts.map(({ owner, now, kept }) => {
      const own = owner.own.map(diskUsage);
      const totals = { aloneBytes: 0, snapshotBytes: 0, sharedBytes: 0 };
      for (const path of new Set([...now, ...kept])) {
        const bytes = sizeOf(path);
        if ((users.get(path)?.size ?? 0) > 1) totals.sharedBytes += bytes;
        else totals.aloneBytes += bytes;
        if (users.get(path)?.size === 1 && !now.has(path)) totals.snapshotBytes += bytes;
      }
      return { name: owner.name, ...sum(own), ...totals };
    }),
  };
}

function sum(own: readonly ReturnType<typeof diskUsage>[]): Pick<Usage, 'ownBytes' | 'ownInodes'> {
  return {
    ownBytes: own.reduce((total, { bytes }) => total + bytes, 0),
    ownInodes: own.reduce((total, { inodes }) => total + inodes, 0),
  };
}

function filesOfImage({ images, objects }: UsageTask, image: UsageOwner['name']): readonly string[] {
  const path = join(images, `${image}.erofs`);
  if (lstatSync(path, { throwIfNoEntry: false }) === undefined) return [];
  const files = [...readErofs(readFileSync(path)).inodes.values()].flatMap((node) =>
    node.kind === 'file' && 'object' in node.content ? [join(objects, objectPath(node.content.object))] : [],
  );
  return [path, ...new Set(files)];
}
