/**
 * Extended attributes of the files of a tree, which Node cannot read: asked of a machine whose root the tree is, so that
 * no name leads out of it.
 */
import type { Xattr } from '../../spec/image-tree.ts';
import type { SideMachine } from '../../sys/side-machine.ts';

/** So many files in one program: steps, paths and lists of names have to fit. */
const BATCH = 200;
/** Of these the paths may be as long as they can be. */
const BATCH_BELOW = 20;
const LIST_BYTES = 256;
const MAX_BYTES = 65_536;
const MAX_PATH_BYTES = 400;

/** Attributes that belong to a file. What a host's security modules or overlay keep there does not. */
const KEPT = /^(?:user\.|security\.capability$|system\.posix_acl_(?:access|default)$)/;

/**
 * Reads the attributes of files.
 *
 * @param paths relative to the tree's root, latin1; a link is not followed
 * @returns those that have any, by path
 */
export function readXattrs(
  machine: SideMachine,
  paths: readonly string[],
): ReadonlyMap<string, readonly Xattr[]> {
  const found = new Map<string, readonly Xattr[]>();
  for (let at = 0; at < paths.length; at += BATCH) {
    const batch = paths.slice(at, at + BATCH);
    const short = batch.filter((path) => path.length <= MAX_PATH_BYTES);
    const long = batch.filter((path) => path.length > MAX_PATH_BYTES);
    const lists = [short, ...long.map((path) => [path])].flatMap((some) =>
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

/** Whether an attribute belongs to a file, not to who keeps it. */
export function isOwnXattr(name: string): boolean {
  return KEPT.test(name);
}

function listNames(
  machine: SideMachine,
  paths: readonly string[],
  listBytes: number,
): readonly (readonly [path: string, names: readonly string[]])[] {
  if (paths.length === 0) return [];
  const p = machine.program();
  const size = 8 + listBytes;
  const answer = machine.answer(p, paths.length * size);
  paths.forEach((path, i) => {
    const place = answer.at(i * size);
    const length = p.sys('llistxattr', [nulTerminated(path), place.at(8, listBytes), listBytes], {
      ignore: ['EOPNOTSUPP', 'ERANGE'],
    });
    p.store(place.at(0, 4), length);
  });
  const bytes = Buffer.from(machine.run('list extended attributes', p, answer));
  return paths.flatMap((path, i) => {
    const at = i * size;
    const length = machine.abi.littleEndian ? bytes.readInt32LE(at) : bytes.readInt32BE(at);
    if (length === -(machine.abi.errnos['ERANGE'] ?? 0)) return listNames(machine, [path], MAX_BYTES);
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
