import { chmodSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { emptyDirectories, minimalEtc } from './minimal-etc.ts';
import { directory, type TreeEntry, writeTree } from './tree-entries.ts';

/** Changes with what the tree is made of, so that older trees are not taken for it. */
export const SKELETON_VERSION = '1';

/** Returns the nodes of a root without any program: the directories there have to be, and a fresh /etc. */
export function skeletonTree(): readonly TreeEntry[] {
  return [
    ...['usr', 'bin', 'sbin', 'lib', 'usr/bin', 'usr/sbin'].map((path) => directory(path)),
    ...emptyDirectories(),
    ...minimalEtc('/bin/sh'),
  ];
}

/** Writes `<workDir>/root`. */
export function buildSkeleton(workDir: string, more: readonly TreeEntry[] = []): void {
  const root = join(workDir, 'root');
  mkdirSync(root);
  chmodSync(root, 0o755); // whatever the umask is
  writeTree(root, [...skeletonTree(), ...more]);
}
