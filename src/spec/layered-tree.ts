/**
 * A tree that archives are unpacked into, one after the other, as layers of an OCI image are: in memory, so that no name
 * of an archive ever reaches a file system.
 */
import {
  type FileContent,
  type ImageDirectory,
  type ImageNode,
  type InodeAttributes,
  isWhiteout,
  MAX_PATH_BYTES,
  type Xattr,
} from './image-tree.ts';
import { TarError, type TarMember } from './tar-reader.ts';

/** A directory while it grows. */
interface Directory {
  readonly kind: 'directory';
  attributes: InodeAttributes;
  readonly children: Map<string, Entry>;
}

/** What a name stands for, and the last layer that spoke of it. */
interface Entry {
  readonly node: Directory | Exclude<ImageNode, ImageDirectory>;
  readonly layer: number;
}

/** How layers are put together. */
export interface LayerOptions {
  /** `.wh.NAME` hides NAME of the layers below, `.wh..wh..opq` all of them (OCI image spec, "Whiteouts"). */
  readonly hasWhiteouts: boolean;
}

const WHITEOUT = '.wh.';
const OPAQUE = '.wh..wh..opq';
/** Of aufs, which nobody else needs. */
const AUFS = '.wh..wh.';
const MAX_NAME_BYTES = 255;
const MAX_TARGET_BYTES = 4095;
const MAX_LINKS = 40;

/** Attributes that a file of an archive keeps. What speaks to an overlay, or for the host's own keeping, is left out. */
const KEPT = /^(?:user\.(?!overlay\.)|security\.capability$|system\.posix_acl_(?:access|default)$)/s;

/** The tree. */
export class LayeredTree {
  readonly #root: Directory = directory(implied(0, 0));
  readonly #hasWhiteouts: boolean;
  /** How many bytes come before the names in a directory: links may lead further down than a name is long. */
  readonly #lengths = new WeakMap<Directory, number>();
  #layer = 0;

  constructor({ hasWhiteouts }: LayerOptions) {
    this.#hasWhiteouts = hasWhiteouts;
  }

  /** What comes now lies over what was there before. */
  beginLayer(): void {
    this.#layer++;
  }

  /**
   * Adds a member; one that was there by that name goes, but directories become one.
   *
   * @param content of a file
   * @throws TarError for a name that leads out of the tree or through what is no directory, and for a link to nothing
   */
  add(member: TarMember, content: FileContent | undefined): void {
    const parts = partsOf(member.name);
    const name = parts.pop();
    if (name === undefined) {
      if (member.type !== 'directory') throw new TarError(`something that is no directory as the root`);
      this.#root.attributes = attributesOf(member);
      return;
    }
    if (this.#hasWhiteouts && name.startsWith(WHITEOUT)) {
      this.#hide(parts, name);
      return;
    }
    const parent = this.#directory(parts, member);
    const there = parent.children.get(name)?.node;
    if (member.type === 'directory' && there?.kind === 'directory') {
      there.attributes = attributesOf(member);
      parent.children.set(name, { node: there, layer: this.#layer });
      return;
    }
    const node = this.#node(member, content);
    if (node) this.#put(parent, name, node);
    else parent.children.delete(name);
  }

  #put(parent: Directory, name: string, node: Entry['node']): void {
    const length = (this.#lengths.get(parent) ?? 0) + name.length;
    if (length > MAX_PATH_BYTES) throw new TarError(`a path of ${length} bytes`);
    if (node.kind === 'directory') this.#lengths.set(node, length + 1);
    parent.children.set(name, { node, layer: this.#layer });
  }

  /** The names in the root. */
  names(): readonly string[] {
    return [...this.#root.children.keys()];
  }

  /** Returns the tree as it is now. */
  finish(): ImageDirectory {
    return frozen(this.#root);
  }

  #node(member: TarMember, content: FileContent | undefined): Entry['node'] | undefined {
    const attributes = attributesOf(member);
    const { type, major, minor } = member;
    switch (type) {
      case 'directory':
        return directory(attributes);
      case 'file':
        return {
          ...attributes,
          kind: 'file',
          size: member.size,
          content: content ?? { bytes: new Uint8Array(0) },
        };
      case 'symlink':
        if (member.linkName === '' || member.linkName.length > MAX_TARGET_BYTES)
          throw new TarError(`${shown(member.name)}, a link to a name of ${member.linkName.length} bytes`);
        return { ...attributes, kind: 'symlink', target: member.linkName };
      case 'fifo':
        return { ...attributes, kind: 'fifo' };
      case 'hardlink':
        return this.#linked(member);
      default: {
        const node = { ...attributes, kind: type, major, minor } as const;
        // In a layer of an overlay it would say that there is nothing.
        return isWhiteout(node) ? undefined : node;
      }
    }
  }

  #linked({ name, linkName }: TarMember): Entry['node'] {
    const parts = partsOf(linkName);
    const last = parts.pop() ?? '';
    const node = this.#find(parts)?.at(-1)?.children.get(last)?.node;
    if (node && node.kind !== 'directory') return node;
    throw new TarError(`${shown(name)}, a hard link to ${shown(linkName)}, which is no file before it`);
  }

  /** Returns the directory of a name, and makes what the archive only implies. */
  #directory(parts: readonly string[], member: TarMember): Directory {
    let at = this.#root;
    for (const [i, part] of parts.entries()) {
      const there = at.children.get(part)?.node;
      if (there === undefined || there.kind === 'directory') {
        const next = there ?? directory(implied(member.mtimeSeconds, member.mtimeNanoseconds));
        this.#put(at, part, next);
        at = next;
        continue;
      }
      // Through a link: what that leads to has to be there.
      const found = there.kind === 'symlink' ? this.#find(parts.slice(0, i + 1))?.at(-1) : undefined;
      if (found === undefined) throw new TarError(`${shown(member.name)} below what is no directory`);
      at = found;
    }
    return at;
  }

  /**
   * Returns a directory behind those it is in. Links are followed as in a root of their own: none leads out of it.
   * Undefined: that is no directory.
   */
  #find(path: readonly string[]): readonly Directory[] | undefined {
    const parts = [...path];
    let above: Directory[] = [this.#root];
    let links = 0;
    for (let part = parts.shift(); part !== undefined; part = parts.shift()) {
      if (part === '' || part === '.') continue;
      const at = above.at(-1) ?? this.#root;
      if (part === '..') {
        if (above.length > 1) above.pop();
        continue;
      }
      const node = at.children.get(part)?.node;
      if (node?.kind === 'directory') above.push(node);
      else if (node?.kind === 'symlink' && links++ < MAX_LINKS) {
        if (node.target.startsWith('/')) above = [this.#root];
        parts.unshift(...node.target.split('/'));
      } else return undefined;
    }
    return above;
  }

  #hide(parts: readonly string[], name: string): void {
    const hidden = name.slice(WHITEOUT.length);
    if (name !== OPAQUE && name.startsWith(AUFS)) return;
    if (hidden === '' || hidden === '.' || hidden === '..') throw new TarError(`the whiteout ${shown(name)}`);
    const parent = this.#find(parts)?.at(-1);
    if (parent === undefined) return;
    if (name === OPAQUE) this.#removeLower(parent);
    else this.#hideEntry(parent, hidden);
  }

  /** Markers may stand before or behind what their own layer has by that name. */
  #hideEntry(parent: Directory, name: string): void {
    const entry = parent.children.get(name);
    if (entry === undefined) return;
    if (entry.layer < this.#layer) parent.children.delete(name);
    else if (entry.node.kind === 'directory') this.#removeLower(entry.node);
  }

  #removeLower(at: Directory): void {
    for (const name of [...at.children.keys()]) this.#hideEntry(at, name);
  }
}

function directory(attributes: InodeAttributes): Directory {
  return { kind: 'directory', attributes, children: new Map() };
}

function implied(mtimeSeconds: number, mtimeNanoseconds: number): InodeAttributes {
  return { mode: 0o755, uid: 0, gid: 0, mtimeSeconds, mtimeNanoseconds, xattrs: [] };
}

function attributesOf(member: TarMember): InodeAttributes {
  const { mode, uid, gid, mtimeSeconds, mtimeNanoseconds } = member;
  const xattrs: readonly Xattr[] = member.xattrs.filter(([name]) => KEPT.test(name));
  return { mode, uid, gid, mtimeSeconds, mtimeNanoseconds, xattrs };
}

function frozen({ attributes, children }: Directory): ImageDirectory {
  const finished = [...children].map(
    ([name, { node }]) => [name, node.kind === 'directory' ? frozen(node) : node] as const,
  );
  return { ...attributes, kind: 'directory', children: new Map(finished) };
}

/** Returns the components of a member's name; one that begins with `/` begins at the root. */
function partsOf(name: string): string[] {
  const parts = name.split('/').filter((part) => part !== '' && part !== '.');
  if (name.length > MAX_PATH_BYTES || parts.some((part) => part.length > MAX_NAME_BYTES))
    throw new TarError(`a name of ${name.length} bytes`);
  if (parts.includes('..') || name.includes('\0')) throw new TarError(`".." in ${shown(name)}`);
  return parts;
}

function shown(name: string): string {
  return JSON.stringify(name.slice(0, 100)).replace(/[^\x20-\x7e]/g, '?');
}
