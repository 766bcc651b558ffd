/**
 * Writes images of the store as one tar archive, to a descriptor that may be a user's pipe: nothing is kept in memory
 * but the metadata of the trees. The format is told in docs/how-to/archives.md.
 */
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { closeSync, fstatSync, openSync, readFileSync, readSync } from 'node:fs';
import { join } from 'node:path';
import { createZstdCompress, type ZstdCompress } from 'node:zlib';
import { StateError } from '../../base/errors.ts';
import { readErofs } from '../../spec/erofs-reader.ts';
import { type ImageDirectory, type ImageNode, objectPath } from '../../spec/image-tree.ts';
import { TAR_END, type TarMember, type TarPiece, tarHeader, tarPadding } from '../../spec/tar-writer.ts';
import { hashTree, listingLine, ownXattrs, walkTree } from '../../spec/tree-listing.ts';
import { writeAll } from './fd-io.ts';
import { hashZeros } from './hash-zeros.ts';
import type { ExportResult, ExportTask } from './tasks.ts';

const PIECE_BYTES = 1024 * 1024;
const BLOCK_BYTES = 512;
/** Zeros are looked for in pieces of this size: that of a page, of which most file systems make holes. */
const HOLE_BYTES = 4096;
const ZEROS = Buffer.alloc(HOLE_BYTES);

/** Does a task; `advance` is called for each name in a tree. */
export async function exportArchive(
  task: ExportTask,
  outFd: number,
  advance: () => void,
): Promise<ExportResult> {
  const trees = task.trees.map(({ prefix, image, root: attributes }) => {
    const root: ImageDirectory = { ...readErofs(readFileSync(image)).root, ...attributes };
    return { prefix, root, ...hashTree(root) };
  });
  const out = new ArchiveOut(outFd, task.isCompressed);
  const manifest = {
    ...task.manifest,
    trees: Object.fromEntries(trees.map(({ prefix, sha256, entries }) => [prefix, { sha256, entries }])),
  };
  const texts = [
    { name: 'vserver.json', text: `${JSON.stringify(manifest, undefined, 2)}\n` },
    ...task.texts,
  ];
  for (const { name, text } of texts) await out.text(name, text, task.seconds);
  const writer = new TreeWriter(out, task.objects, advance);
  for (const { prefix, root } of trees) await writer.write(prefix, root);
  await out.write(TAR_END);
  await out.end();
  return { bytes: out.bytes, entries: trees.reduce((sum, { entries }) => sum + entries, 0) };
}

/** Writes trees. What a later one has just as the first, at the same place, is a hard link to that. */
class TreeWriter {
  readonly #out: ArchiveOut;
  readonly #objects: string;
  readonly #advance: () => void;
  readonly #piece = Buffer.allocUnsafeSlow(PIECE_BYTES);
  /** Files of the first tree by what they are, place included. */
  #first: Map<string, string> | undefined;

  constructor(out: ArchiveOut, objects: string, advance: () => void) {
    this.#out = out;
    this.#objects = objects;
    this.#advance = advance;
  }

  async write(prefix: string, root: ImageDirectory): Promise<void> {
    const found = new Map<string, string>();
    for (const entry of walkTree(root)) {
      const { path, node, linkTo } = entry;
      this.#advance();
      if (node.kind === 'socket') continue;
      const full = path === '' ? prefix : `${prefix}/${path}`;
      const member = memberOf(node, full);
      if (linkTo !== undefined) {
        await this.#out.write(tarHeader({ ...member, ...LINK, target: `${prefix}/${linkTo}` }));
        continue;
      }
      const line = node.kind === 'file' && node.size > 0 ? listingLine(entry) : undefined;
      const same = line === undefined ? undefined : this.#first?.get(line);
      if (line !== undefined) found.set(line, full);
      if (same !== undefined) await this.#out.write(tarHeader({ ...member, ...LINK, target: same }));
      else if (node.kind === 'file' && 'object' in node.content)
        await this.#file(member, node.size, node.content.object);
      else await this.#out.write(tarHeader(member));
    }
    this.#first ??= found;
  }

  async #file(member: TarMember, size: number, object: string): Promise<void> {
    const fd = openSync(join(this.#objects, objectPath(object)), 'r');
    try {
      const stat = fstatSync(fd);
      const pieces = stat.blocks * BLOCK_BYTES < size ? this.#pieces(fd, size) : undefined;
      await this.#out.write(tarHeader({ ...member, size, pieces }));
      const hash = createHash('sha256');
      let [hashed, written] = [0, 0];
      for (const { offset, length } of pieces ?? [{ offset: 0, length: size }]) {
        hashZeros(hash, offset - hashed);
        for (let at = 0; at < length; ) {
          const count = readSync(fd, this.#piece, 0, Math.min(PIECE_BYTES, length - at), offset + at);
          if (count === 0) throw damaged(object);
          hash.update(this.#piece.subarray(0, count));
          await this.#out.write(this.#piece.subarray(0, count));
          at += count;
        }
        hashed = offset + length;
        written += length;
      }
      hashZeros(hash, size - hashed);
      if (hash.digest('hex') !== object) throw damaged(object);
      await this.#out.write(tarPadding(written));
    } finally {
      closeSync(fd);
    }
  }

  /** The pieces of a file that are not zeros; the last one ends where the file does, as readers expect. */
  #pieces(fd: number, size: number): readonly TarPiece[] {
    const pieces: { offset: number; length: number }[] = [];
    for (let at = 0; at < size; ) {
      const count = readSync(fd, this.#piece, 0, PIECE_BYTES, at);
      if (count === 0) break;
      for (let from = 0; from < count; from += HOLE_BYTES) {
        const length = Math.min(HOLE_BYTES, count - from);
        if (this.#piece.compare(ZEROS, 0, length, from, from + length) === 0) continue;
        const last = pieces.at(-1);
        if (last && last.offset + last.length === at + from) last.length += length;
        else pieces.push({ offset: at + from, length });
      }
      at += count;
    }
    const last = pieces.at(-1);
    if (last === undefined || last.offset + last.length < size) pieces.push({ offset: size, length: 0 });
    return pieces;
  }
}

const LINK = { kind: 'hardlink', xattrs: [], size: 0 } as const;

function memberOf(node: ImageNode, path: string): TarMember {
  const { mode, uid, gid, mtimeSeconds, mtimeNanoseconds } = node;
  const attributes = { path, mode, uid, gid, mtimeSeconds, mtimeNanoseconds, xattrs: ownXattrs(node) };
  switch (node.kind) {
    case 'symlink':
      return { ...attributes, kind: 'symlink', target: node.target };
    case 'character':
    case 'block':
      return { ...attributes, kind: node.kind, major: node.major, minor: node.minor };
    case 'socket':
      throw new ReferenceError('a socket in an archive');
    default:
      return { ...attributes, kind: node.kind };
  }
}

function damaged(object: string): StateError {
  return new StateError(
    'object-damaged',
    `cannot export: found object ${object} of the store damaged; need the store repaired (vserver store check)`,
  );
}

/** The archive on its way out. */
class ArchiveOut {
  readonly #fd: number;
  readonly #zstd: ZstdCompress | undefined;
  /** What went wrong with what is written when there was room. */
  #failure: unknown;
  /** Bytes that have been written. */
  bytes = 0;

  constructor(fd: number, isCompressed: boolean) {
    this.#fd = fd;
    if (!isCompressed) return;
    this.#zstd = createZstdCompress();
    this.#zstd.on('data', (chunk: Buffer) => {
      try {
        this.#put(chunk);
      } catch (error) {
        this.#failure ??= error;
      }
    });
  }

  async write(bytes: Uint8Array): Promise<void> {
    if (this.#zstd === undefined) this.#put(bytes);
    // A copy: the next piece is read into the same place.
    else if (!this.#zstd.write(Buffer.from(bytes))) await once(this.#zstd, 'drain');
    if (this.#failure !== undefined) throw this.#failure;
  }

  async text(path: string, text: string, mtimeSeconds: number): Promise<void> {
    const bytes = Buffer.from(text);
    const attributes = { mode: 0o600, uid: 0, gid: 0, mtimeSeconds, mtimeNanoseconds: 0, xattrs: [] };
    await this.write(tarHeader({ ...attributes, path, kind: 'file', size: bytes.length }));
    await this.write(bytes);
    await this.write(tarPadding(bytes.length));
  }

  async end(): Promise<void> {
    if (this.#zstd) {
      this.#zstd.end();
      await once(this.#zstd, 'end');
    }
    if (this.#failure !== undefined) throw this.#failure;
  }

  #put(bytes: Uint8Array): void {
    if (this.#failure !== undefined) return;
    try {
      writeAll(this.#fd, bytes);
    } catch (cause) {
      const found = cause instanceof Error && 'code' in cause ? String(cause.code) : String(cause);
      throw new StateError(
        'archive-unwritable',
        `cannot write the archive: found ${found}; need room, and somebody who reads it`,
        { cause },
      );
    }
    this.bytes += bytes.length;
  }
}
