/**
 * A text that says all of a tree, line by line, and so a hash that changes with anything in it: what an archive of a
 * guest is checked by.
 */
import { createHash } from 'node:crypto';
import { type ImageDirectory, type ImageNode, isWhiteout } from './image-tree.ts';

/** A name in a tree. */
export interface TreeEntry {
  /** Relative to the tree's root, latin1; empty for the root. */
  readonly path: string;
  readonly node: ImageNode;
  /** The path at which the same inode was met before; undefined: this is the first. */
  readonly linkTo: string | undefined;
}

/** Attributes that say how a layer is to be read, not what the file is. */
const LAYER_XATTR = /^trusted\./;

/** Walks through a tree, parents before children, names in the order of their bytes. */
export function* walkTree(root: ImageDirectory): Generator<TreeEntry> {
  const seen = new Map<ImageNode, string>();
  yield* walk(root, '');

  function* walk(node: ImageNode, path: string): Generator<TreeEntry> {
    const linkTo = seen.get(node);
    if (linkTo === undefined && node.kind !== 'directory') seen.set(node, path);
    yield { path, node, linkTo };
    if (node.kind !== 'directory') return;
    for (const [name, child] of [...node.children].sort(([a], [b]) => (a < b ? -1 : 1)))
      if (!isWhiteout(child)) yield* walk(child, path === '' ? name : `${path}/${name}`);
  }
}

/** Attributes of a file that are its own, by name. */
export function ownXattrs({ xattrs }: ImageNode): ImageNode['xattrs'] {
  return xattrs.filter(([name]) => !LAYER_XATTR.test(name)).sort(([a], [b]) => (a < b ? -1 : 1));
}

/**
 * Returns the line for a name, without its end. Every file of the tree, also an empty one, has the sha256 of its bytes.
 *
 *     file 644 0 0 981173106.5 12 <sha256> "etc/issue" user.note=bWluZQ==
 *     link "etc/issue" "srv/issue"
 */
export function listingLine({ path, node, linkTo }: TreeEntry): string {
  const name = JSON.stringify(path);
  if (linkTo !== undefined) return `link ${JSON.stringify(linkTo)} ${name}`;
  const { kind, mode, uid, gid, mtimeSeconds, mtimeNanoseconds } = node;
  const xattrs = ownXattrs(node).map(([key, value]) => `${key}=${Buffer.from(value).toString('base64')}`);
  const time = `${mtimeSeconds}.${mtimeNanoseconds}`;
  return [kind, mode.toString(8), uid, gid, time, ...details(node), name, ...xattrs].join(' ');
}

function details(node: ImageNode): readonly (string | number)[] {
  switch (node.kind) {
    case 'file':
      return [node.size, 'object' in node.content ? node.content.object : 'inline'];
    case 'symlink':
      return [JSON.stringify(node.target)];
    case 'character':
    case 'block':
      return [node.major, node.minor];
    default:
      return [];
  }
}

/** Returns the sha256 of a tree's listing, its lines in the order of `walkTree`; sockets, which no archive holds, are left out. */
export function hashTree(root: ImageDirectory): { readonly sha256: string; readonly entries: number } {
  const hash = createHash('sha256');
  let entries = 0;
  for (const entry of walkTree(root)) {
    if (entry.node.kind === 'socket') continue;
    hash.update(`${listingLine(entry)}\n`);
    entries++;
  }
  return { sha256: hash.digest('hex'), entries };
}
