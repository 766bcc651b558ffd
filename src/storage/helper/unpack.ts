/**
 * Unpacks archives into a tree in memory and their files into the store. Nothing of an archive but the bytes of its
 * files gets on a disk.
 */
import { createHash, type Hash } from 'node:crypto';
import { createReadStream, fstatSync, readFileSync } from 'node:fs';
import type { Readable } from 'node:stream';
import { createGunzip, createZstdDecompress } from 'node:zlib';
import { StateError, UserError } from '../../base/errors.ts';
import type { FileContent } from '../../spec/image-tree.ts';
import { LayeredTree } from '../../spec/layered-tree.ts';
import { TarError, type TarMember, TarReader, type TarSink } from '../../spec/tar-reader.ts';
import type { FileInPieces, ObjectWriter } from './object-writer.ts';
import { type Archive, HELPER_FD, type HelperProgress, type UnpackTask } from './tasks.ts';

const GUEST_IDS = 65_536;
const PIECE_BYTES = 1024 * 1024;
/** A file up to this size is looked at whole before it is written, as the store may have it. */
const WHOLE_BYTES = 1024 * 1024;
/** A root without any of these is none: a wrong archive, or one with a directory around the root. */
const ROOT_NAMES = ['usr', 'bin', 'sbin', 'lib', 'etc'];

/** Unpacks the archives of a task. `tell` is called for each piece that was read. */
export async function unpack(
  task: UnpackTask,
  objects: ObjectWriter,
  tell: (progress: HelperProgress) => void,
): Promise<{ readonly tree: LayeredTree; readonly digests: readonly string[] }> {
  const tree = new LayeredTree(task);
  const sizes = task.archives.map((_, i) => fstatSync(archiveFd(i)).size);
  const totalBytes = sizes.reduce((sum, size) => sum + size, 0);
  const unpacker = new Unpacker(task, tree, objects);
  const digests: string[] = [];
  let before = 0;
  for (const [i, archive] of task.archives.entries()) {
    tree.beginLayer();
    const inArchive = before;
    const digest = await readArchive(archive, i, unpacker, () =>
      tell({ files: unpacker.entries, readBytes: inArchive + offsetOf(archiveFd(i)), totalBytes }),
    );
    digests.push(digest);
    before += sizes[i] ?? 0;
  }
  tell({ files: unpacker.entries, readBytes: totalBytes, totalBytes });
  if (!task.hasWhiteouts && task.texts === undefined) checkRoot(task, tree);
  return { tree, digests };
}

function archiveFd(i: number): number {
  return HELPER_FD.archive + 2 * i;
}

/** Returns the sha256 of the archive as it is stored. */
async function readArchive(
  archive: Archive,
  i: number,
  unpacker: Unpacker,
  tell: () => void,
): Promise<string> {
  const stored = createHash('sha256');
  const plain = archive.plainDigest === undefined ? undefined : createHash('sha256');
  const reader = new TarReader(unpacker);
  try {
    for await (const chunk of decompressed(archive, archiveFd(i) + 1, stored)) {
      plain?.update(chunk);
      unpacker.count(chunk.length);
      reader.push(chunk);
      tell();
    }
    reader.end(archive.plainDigest !== undefined);
  } catch (error) {
    throw explained(error, archive.name);
  }
  const digest = stored.digest('hex');
  checkDigest(archive, digest, archive.digest ?? digest);
  checkDigest(archive, plain?.digest('hex'), archive.plainDigest);
  return digest;
}

/** Returns the bytes of an archive; the end of one is read too, that it has its digest. */
function decompressed(archive: Archive, fd: number, stored: Hash): AsyncIterable<Buffer> {
  const source = createReadStream('', { fd, highWaterMark: PIECE_BYTES });
  const { compression } = archive;
  if (compression === undefined) return hashed(source, stored);
  source.on('data', (chunk) => stored.update(chunk));
  const options = { chunkSize: PIECE_BYTES };
  const through = compression === 'gzip' ? createGunzip(options) : createZstdDecompress(options);
  source.on('error', (error) => through.destroy(error));
  return source.pipe(through) as Readable;
}

async function* hashed(source: AsyncIterable<Buffer>, hash: Hash): AsyncGenerator<Buffer> {
  for await (const chunk of source) {
    hash.update(chunk);
    yield chunk;
  }
}

function checkDigest({ name }: Archive, found: string | undefined, wanted: string | undefined): void {
  if (found === wanted) return;
  throw new StateError(
    'digest-mismatch',
    `cannot unpack ${JSON.stringify(name)}: found sha256:${found} in it; need sha256:${wanted}`,
  );
}

/** How far the archive's file was read, whoever reads it: its offset is shared. */
function offsetOf(fd: number): number {
  return Number(/^pos:\s*(\d+)/.exec(readFileSync(`/proc/self/fdinfo/${fd}`, 'utf8'))?.[1] ?? 0);
}

function explained(error: unknown, name: string): unknown {
  const what = `cannot import ${JSON.stringify(name)}`;
  if (error instanceof TarError) {
    return new UserError(
      'invalid-archive',
      `${what}: found ${error.message}; need a whole tar archive without hostile members`,
    );
  }
  if (error instanceof Refusal) return new UserError(error.code, `${what}: ${error.message}`);
  const isDecompression =
    error instanceof Error && 'code' in error && /^(?:Z_|ZSTD_|ERR_)/.test(String(error.code));
  if (!isDecompression) return error;
  return new UserError('invalid-archive', `${what}: found ${error.message}; need a whole archive`);
}

class Refusal extends Error {
  readonly code: string;

  constructor(code: string, message: string) {
    super(message);
    this.code = code;
  }
}

function checkRoot({ archives }: UnpackTask, tree: LayeredTree): void {
  const names = tree.names();
  if (ROOT_NAMES.some((name) => names.includes(name))) return;
  const some = names.slice(0, 5).map((name) => JSON.stringify(name));
  throw new UserError(
    'not-a-root',
    `cannot import ${JSON.stringify(archives[0]?.name)}: found ${some.join(', ') || 'nothing'} in it; need a root file system with one of ${ROOT_NAMES.join(', ')}`,
  );
}

/** Puts members into the tree and their bytes into the store. */
class Unpacker implements TarSink {
  readonly #task: UnpackTask;
  readonly #tree: LayeredTree;
  readonly #objects: ObjectWriter;
  readonly #whole = Buffer.allocUnsafeSlow(WHOLE_BYTES);
  #member: TarMember | undefined;
  #filled = 0;
  #pieces: FileInPieces | undefined;
  #bytes = 0;
  entries = 0;

  constructor(task: UnpackTask, tree: LayeredTree, objects: ObjectWriter) {
    this.#task = task;
    this.#tree = tree;
    this.#objects = objects;
  }

  /** Bytes of an archive, and holes in its files: what it costs to go through them. */
  count(bytes: number): void {
    this.#bytes += bytes;
    const { maxBytes } = this.#task;
    if (this.#bytes > maxBytes)
      throw new Refusal('archive-too-big', `found more than ${maxBytes} bytes; need less`);
  }

  member(member: TarMember): void {
    const { maxEntries, maxBytes } = this.#task;
    if (++this.entries > maxEntries)
      throw new Refusal('archive-too-big', `found more than ${maxEntries} members; need fewer`);
    if (member.size > maxBytes)
      throw new Refusal(
        'archive-too-big',
        `found a file of ${member.size} bytes; need less than ${maxBytes}`,
      );
    if (member.uid < 0 || member.uid >= GUEST_IDS || member.gid < 0 || member.gid >= GUEST_IDS) {
      const name = JSON.stringify(member.name.slice(0, 100));
      throw new Refusal(
        'foreign-owner',
        `found owner ${member.uid}:${member.gid} of ${name}; need user and group ids below 65536`,
      );
    }
    this.#member = member;
    this.#filled = 0;
    this.#pieces = member.size > WHOLE_BYTES ? this.#objects.begin() : undefined;
  }

  data(bytes: Buffer): void {
    if (this.#pieces) this.#pieces.write(bytes);
    else this.#filled += bytes.copy(this.#whole, this.#filled);
  }

  hole(bytes: number): void {
    this.count(bytes);
    if (this.#pieces) this.#pieces.skip(bytes);
    else {
      this.#whole.fill(0, this.#filled, this.#filled + bytes);
      this.#filled += bytes;
    }
  }

  end(): void {
    const member = this.#member;
    if (member === undefined) throw new ReferenceError('the end of no member');
    this.#tree.add(member, member.type === 'file' ? this.#content(member) : undefined);
  }

  #content({ size }: TarMember): FileContent {
    if (this.#pieces) return { object: this.#pieces.end() };
    if (size === 0) return { bytes: new Uint8Array(0) };
    return { object: this.#objects.addBytes(this.#whole.subarray(0, this.#filled)) };
  }
}
