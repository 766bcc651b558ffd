/** What differs between two trees, name by name. */
import { type ImageDirectory, type ImageNode, isWhiteout } from './image-tree.ts';
import { ownXattrs, walkTree } from './tree-listing.ts';

/** What of a name that is in both trees differs. `links`: which other names are the same file. */
export type ChangedPart = 'type' | 'content' | 'mode' | 'owner' | 'time' | 'xattrs' | 'links';

/** A name that differs. */
export interface TreeChange {
  readonly kind: 'added' | 'changed' | 'deleted';
  /** Relative to the root, latin1; empty for the root. */
  readonly path: string;
  /** Of a changed one. */
  readonly parts: readonly ChangedPart[];
}

/**
 * Lists the names that differ, parents before children, in the order of their bytes. What was in a deleted directory is
 * not listed by itself. The root's time is not looked at: it is that of the guest's making.
 */
export function changesOf(before: ImageDirectory, after: ImageDirectory): readonly TreeChange[] {
  const changes: TreeChange[] = [];
  const links = { before: linksOf(before), after: linksOf(after) };
  compare(before, after, '');
  return changes;

  function compare(old: ImageNode, now: ImageNode, path: string): void {
    const parts = partsOf(old, now).filter((part) => path !== '' || part !== 'time');
    if (links.before.get(path) !== links.after.get(path)) parts.push('links');
    if (parts.length > 0) changes.push({ kind: 'changed', path, parts });
    const [oldNames, nowNames] = [childrenOf(old), childrenOf(now)];
    for (const name of [...new Set([...oldNames.keys(), ...nowNames.keys()])].sort()) {
      const below = path === '' ? name : `${path}/${name}`;
      const [was, is] = [oldNames.get(name), nowNames.get(name)];
      if (was && is) compare(was, is, below);
      else if (is) add(is, below);
      // A directory that became a file took its names along.
      else if (now.kind === 'directory') changes.push({ kind: 'deleted', path: below, parts: [] });
    }
  }

  function add(node: ImageNode, path: string): void {
    changes.push({ kind: 'added', path, parts: [] });
    for (const [name, child] of [...childrenOf(node)].sort(([a], [b]) => (a < b ? -1 : 1)))
      add(child, `${path}/${name}`);
  }
}

function childrenOf(node: ImageNode): ReadonlyMap<string, ImageNode> {
  if (node.kind !== 'directory') return new Map();
  return new Map([...node.children].filter(([, child]) => !isWhiteout(child)));
}

/** The first name of each file that has several, by its other names. */
function linksOf(root: ImageDirectory): ReadonlyMap<string, string> {
  return new Map(
    [...walkTree(root)].flatMap(({ path, linkTo }) => (linkTo === undefined ? [] : [[path, linkTo]])),
  );
}

function partsOf(old: ImageNode, now: ImageNode): ChangedPart[] {
  const differs: Readonly<Record<Exclude<ChangedPart, 'links'>, boolean>> = {
    type: old.kind !== now.kind,
    content: old.kind === now.kind && contentOf(old) !== contentOf(now),
    mode: old.mode !== now.mode,
    owner: old.uid !== now.uid || old.gid !== now.gid,
    time: old.mtimeSeconds !== now.mtimeSeconds || old.mtimeNanoseconds !== now.mtimeNanoseconds,
    xattrs: xattrText(old) !== xattrText(now),
  };
  return (Object.keys(differs) as (keyof typeof differs)[]).filter((part) => differs[part]);
}

function contentOf(node: ImageNode): string {
  switch (node.kind) {
    case 'file':
      return 'object' in node.content ? node.content.object : '';
    case 'symlink':
      return node.target;
    case 'character':
    case 'block':
      return `${node.major}:${node.minor}`;
    default:
      return '';
  }
}

function xattrText(node: ImageNode): string {
  return ownXattrs(node)
    .map(([name, value]) => `${name}=${Buffer.from(value).toString('base64')}`)
    .join(' ');
}
