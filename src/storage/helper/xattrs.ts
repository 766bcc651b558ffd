/**
 * Extended attributes of the files of a tree, which Node cannot read: asked of a machine whose root the tree is, so that
 * no name leads out of it.
 */
import type { Xattr } from '../../spec/image-tree.ts';
import type { SideMachine } from '../../sys/side-machine.ts';

/** So many files in one program: steps, paths and lists of names have to fit. */
const BATCH = 100;
/** Of these the paths may be as long as they can be. */
const BATCH_BELOW = 20;
const LIST_BYTES = 256;
const MAX_BYTES = 65_536;
const MAX_PATH_BYTES = 400;
/** Of what is about to be read, the disk is asked for so much; from there on the kernel sees that it is read in order. */
const AHEAD_BYTES = 1024 * 1024;

/** Attributes that belong to a file. What a host's security modules or overlay keep there does not. */
const KEPT = /^(?:user\.|security\.capability$|system\.posix_acl_(?:access|default)$)/;

/** A file to be asked for its attributes. */
export interface AskedFile {
  /** Relative to the tree's root, latin1; a link is not followed. */
  readonly path: string;
  /** Of a regular file that is about to be read, how much it has: the disk brings it meanwhile (readahead(2)). */
  readonly readBytes: number;
}

/**
 * Reads the attributes of files.
 *
 * @returns those that have any, by path
 */
export function readXattrs(
  machine: SideMachine,
  files: readonly AskedFile[],
): ReadonlyMap<string, readonly Xattr[]> {
  const found = new Map<string, readonly Xattr[]>();
  for (let at = 0; at < files.length; at += BATCH) {
    const batch = files.slice(at, at + BATCH);
    const short = batch.filter(({ path }) => path.length <= MAX_PATH_BYTES);
    const long = batch.filter(({ path }) => path.length > MAX_PATH_BYTES);
    const lists = [short, ...long.map((file) => [file])].flatMap((some) =>
      listNames(machine, some, LIST_BYTES),
    );
    for (const [path, names] of lists) {
      const xattrs = names
        .filter((name) => KEPT.test(name))
        .flatMap((name) => readValue(machine, path, name));
      if (xattrs.length > 0) found.set(path, xattrs);
    }
  }
  return found;
}

/**
 * Returns the names of all attributes of files or directories below a directory that the machine has open, of those that
 * have not more than can be looked at. Of an upper layer these are also those that overlay keeps there.
 */
export function namesBelow(
  machine: SideMachine,
  directory: number,
  paths: readonly string[],
): ReadonlyMap<string, readonly string[]> {
  const found = new Map<string, readonly string[]>();
  for (let from = 0; from < paths.length; from += BATCH_BELOW) {
    const batch = paths.slice(from, from + BATCH_BELOW);
    const p = machine.program();
    const size = 8 + LIST_BYTES;
    const answer = machine.answer(p, batch.length * size);
    const flags = p.flags('O_RDONLY', 'O_NOFOLLOW', 'O_NONBLOCK', 'O_CLOEXEC');
    batch.forEach((path, i) => {
      const place = answer.at(i * size);
      const fd = p.sys('openat', [directory, nulTerminated(path, ''), flags, 0]);
      const length = p.sys('flistxattr', [fd, place.at(8, LIST_BYTES), LIST_BYTES], { ignore: ['ERANGE'] });
      p.store(place.at(0, 4), length);
      p.sys('close', [fd]);
    });
    const bytes = machine.run('list extended attributes', p, answer);
    batch.forEach((path, i) => {
      const at = i * size;
      const count = machine.abi.littleEndian ? bytes.readInt32LE(at) : bytes.readInt32BE(at);
      if (count >= 0) found.set(path, bytes.toString('latin1', at + 8, at + 8 + count).split('\0'));
    });
  }
  return found;
}

/** Gives a file below a directory that the machine has open attributes, as `readXattrs` found them. */
export function writeXattrs(
  machine: SideMachine,
  directory: number,
  path: string,
  xattrs: readonly Xattr[],
): void {
  for (const [name, value] of xattrs) {
    const p = machine.program();
    const flags = p.flags('O_RDONLY', 'O_NOFOLLOW', 'O_NONBLOCK', 'O_CLOEXEC');
    const fd = p.sys('openat', [directory, nulTerminated(path, ''), flags, 0]);
    p.sys('fsetxattr', [fd, nulTerminated(name, ''), value, value.length, 0], { about: name });
    machine.run('write an extended attribute', p, machine.answer(p, 8));
  }
}

/** Whether an attribute belongs to a file, not to who keeps it. */
export function isOwnXattr(name: string): boolean {
  return KEPT.test(name);
}

function listNames(
  machine: SideMachine,
  files: readonly AskedFile[],
  listBytes: number,
): readonly (readonly [path: string, names: readonly string[]])[] {
  if (files.length === 0) return [];
  const p = machine.program();
  const size = 8 + listBytes;
  const answer = machine.answer(p, files.length * size);
  const flags = p.flags('O_RDONLY', 'O_NOFOLLOW', 'O_NONBLOCK', 'O_CLOEXEC');
  files.forEach(({ path, readBytes }, i) => {
    const place = answer.at(i * size);
    const list = [place.at(8, listBytes), listBytes] as const;
    const mayFail = { ignore: ['EOPNOTSUPP', 'ERANGE'] };
    if (readBytes === 0) {
      p.store(place.at(0, 4), p.sys('llistxattr', [nulTerminated(path), ...list], mayFail));
      return;
    }
    const fd = p.sys('openat', [p.flags('AT_FDCWD'), nulTerminated(path), flags, 0]);
    p.store(place.at(0, 4), p.sys('flistxattr', [fd, ...list], mayFail));
    p.sys('readahead', [fd, 0, Math.min(readBytes, AHEAD_BYTES)], { ignore: [] });
    p.sys('close', [fd]);
  });
  const bytes = Buffer.from(machine.run('list extended attributes', p, answer));
  return files.flatMap((file, i) => {
    const { path } = file;
    const at = i * size;
    const length = machine.abi.littleEndian ? bytes.readInt32LE(at) : bytes.readInt32BE(at);
    if (length === -(machine.abi.errnos['ERANGE'] ?? 0)) return listNames(machine, [file], MAX_BYTES);
    if (length <= 0) return [];
    const names = bytes.toString('latin1', at + 8, at + 8 + length).split('\0');
    return [[path, names.filter((name) => name !== '')] as const];
  });
}

/** None when it went since. */
function readValue(machine: SideMachine, path: string, name: string): readonly Xattr[] {
  const p = machine.program();
  const answer = machine.answer(p, 8 + MAX_BYTES);
  const length = p.sys(
    'lgetxattr',
    [nulTerminated(path), nulTerminated(name, ''), answer.at(8, MAX_BYTES), MAX_BYTES],
    {
      ignore: ['ENODATA'],
    },
  );
  p.store(answer.at(0, 4), length);
  const bytes = machine.run('read an extended attribute', p, answer);
  const count = machine.abi.littleEndian ? bytes.readInt32LE(0) : bytes.readInt32BE(0);
  return count < 0 ? [] : [[name, Buffer.from(bytes.subarray(8, 8 + count))]];
}

function nulTerminated(path: string, root = '/'): Uint8Array {
  return Buffer.from(`${root}${path}\0`, 'latin1');
}
