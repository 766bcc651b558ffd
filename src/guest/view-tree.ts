/** The files and directories of guests in the file system of views: their numbers, names and places. */
import { existsSync } from 'node:fs';
import type { FuseEntry } from '../sys/fuse-tree.ts';
import { ANSWERS_FILE } from '../views/answers.ts';
import {
  ALL_FILES,
  NODES,
  VIEW_FILES,
  type ViewFile,
  type ViewGroup,
  type ViewLink,
} from '../views/files.ts';
import type { GuestConfig } from './config-types.ts';

/** Node of the file system's root. */
export const ROOT_NODE = 1;

/** A file that has a text. */
export interface FileInfo {
  readonly name: string;
  readonly holdMs: number;
  /** What it is over, and the switch that turns it off; undefined: guests do not see it. */
  readonly path?: string;
  readonly group?: ViewGroup;
}

/** Looked at once: fifteen looks at files that are there anyway took a tenth of a start. */
let filesOfHost: readonly ViewFile[] | undefined;

/** Returns the files of this host that a guest with these groups has views over. */
export function viewFilesOf(groups: readonly ViewGroup[]): readonly ViewFile[] {
  filesOfHost ??= VIEW_FILES.filter(({ path }) => existsSync(path));
  return filesOfHost.filter(({ group }) => groups.includes(group));
}

/** Returns the files of groups, as far as a guest of this kind has them. */
export function filesOf({ network }: GuestConfig, groups: readonly ViewGroup[]): readonly ViewFile[] {
  return viewFilesOf(groups).filter(({ path }) => network.mode !== 'host' || !path.startsWith('/sys/'));
}

/** A file, a directory or a link, with the number of the directory it is in. */
interface Placed {
  readonly number: number;
  readonly name: string;
  readonly directory: number;
  readonly isDirectory: boolean;
  readonly target: string | undefined;
}

/** Everything that guests have, once it is asked for. */
let placed: ReadonlyMap<number, Placed> | undefined;
/** The same, by the directory it is in. */
let listed: ReadonlyMap<number, readonly Placed[]> | undefined;

function allPlaced(): ReadonlyMap<number, Placed> {
  const all: Placed[] = [];
  const add = (one: ViewFile | ViewLink, directory: number, isDirectory: boolean): void => {
    const target = 'target' in one ? one.target : undefined;
    all.push({ number: one.number, name: one.name, directory, isDirectory, target });
  };
  for (const one of ALL_FILES) {
    add(one, 0, one.path.endsWith('/'));
    if (!('files' in one)) continue;
    for (const file of one.files) add({ ...one, ...file }, one.number, false);
    // Which of them there are depends on the kernel.
    for (const link of one.links ?? [])
      if (existsSync(`/proc/net/${link.name}`)) add(link, one.number, false);
  }
  const { number, name } = ANSWERS_FILE;
  all.push({ number, name, directory: 0, isDirectory: false, target: undefined });
  return new Map(all.map((one) => [one.number, one]));
}

/** Returns what has a number; undefined for a guest's directory. */
export function entryOf(node: number): FuseEntry | undefined {
  placed ??= allPlaced();
  const one = placed.get(node % NODES);
  if (!one || node === ROOT_NODE) return undefined;
  const { name, isDirectory, target } = one;
  return { name, node, isDirectory, ...(target === undefined ? {} : { target }) };
}

/** Returns what is in a directory; nothing in a file, and nothing is told of the root. */
export function entriesOf(node: number): readonly FuseEntry[] {
  if (node === ROOT_NODE) return [];
  placed ??= allPlaced();
  listed ??= Map.groupBy(placed.values(), ({ directory }) => directory);
  const [guest, number] = [node - (node % NODES), node % NODES];
  return (listed.get(number) ?? []).flatMap((one) => entryOf(guest + one.number) ?? []);
}

/** Every file that has a text, once one is read. */
let files: ReadonlyMap<number, FileInfo> | undefined;

function allFiles(): ReadonlyMap<number, FileInfo> {
  const all: readonly (FileInfo & { readonly number: number })[] = ALL_FILES.flatMap((one) =>
    'files' in one
      ? one.files.map((file) => ({ ...file, path: one.path + file.name, group: one.group }))
      : [one],
  );
  return new Map([...all, ANSWERS_FILE].map((one) => [one.number, one]));
}

/** Returns the file of a guest that has this number among its nodes. */
export function fileOf(number: number): FileInfo | undefined {
  files ??= allFiles();
  return files.get(number);
}
