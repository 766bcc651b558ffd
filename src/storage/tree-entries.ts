import { chmodSync, lchownSync, mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

/** One node of a tree to be written; `path` is relative to the tree's root, parents come before children. */
export type TreeEntry =
  | { readonly kind: 'directory'; readonly path: string; readonly mode: number }
  | {
      readonly kind: 'file';
      readonly path: string;
      readonly mode: number;
      readonly content: string | Uint8Array;
      /** 0 unless said. */
      readonly gid?: number;
    }
  | { readonly kind: 'link'; readonly path: string; readonly target: string };

/** Returns a directory, mode 0755 unless said. */
export function directory(path: string, mode: number = 0o755): TreeEntry {
  return { kind: 'directory', path, mode };
}

/** Returns a file of 0:0, mode 0644 unless said. */
export function file(path: string, content: string | Uint8Array, mode: number = 0o644): TreeEntry {
  return { kind: 'file', path, mode, content };
}

/** Returns a symbolic link. */
export function link(path: string, target: string): TreeEntry {
  return { kind: 'link', path, target };
}

/**
 * Writes a tree below an existing directory that nobody else can write.
 *
 * Modes are exact whatever the umask is. Everything belongs to the caller; groups are set by root only.
 *
 * @throws Error of node:fs; EEXIST when an entry is there already
 */
export function writeTree(root: string, entries: readonly TreeEntry[]): void {
  const isRoot = process.geteuid?.() === 0;
  for (const entry of entries) {
    const path = join(root, entry.path);
    if (entry.kind === 'link') {
      symlinkSync(entry.target, path);
      continue;
    }
    if (entry.kind === 'directory') mkdirSync(path);
    else writeFileSync(path, entry.content, { flag: 'wx' });
    if (entry.kind === 'file' && entry.gid !== undefined && isRoot) lchownSync(path, 0, entry.gid);
    chmodSync(path, entry.mode);
  }
}
