/**
 * Seals objects and images by fs-verity, where the store's file system has it (Documentation/filesystems/fsverity.rst: ext4 with the
 * feature `verity` since Linux 5.4, btrfs since 5.15): nobody can open such a file to write to it, and each page is compared
 * with a hash tree when it comes from the disk. A byte that is not what it was is not read: the read fails with EIO.
 */
import { objectPath } from '../../spec/image-tree.ts';
import type { Data, Program, Result } from '../../sys/program.ts';
import type { SideMachine } from '../../sys/side-machine.ts';
import { HELPER_FD } from './tasks.ts';

/** So many files in one program, which has at most 1,024 steps. */
const BATCH = 200;
/** `struct fsverity_digest`: algorithm and size, 16 bits each, then the digest, sha512 at most. */
const DIGEST_BYTES = 4 + 64;

/** Returns the path of an object, relative to its store. */
export function objectInStore(hash: string): string {
  return `layer/obj/${objectPath(hash)}`;
}

/**
 * Seals files. One that cannot be stays as it is: the file system has no fs-verity, or no room for the hashes.
 *
 * @param paths relative to the store
 */
export function sealFiles(machine: SideMachine, paths: readonly string[]): void {
  // Of one it is known whether there is any use in the others.
  if (enable(machine, paths.slice(0, 1)).length === 0) return;
  for (const batch of batchesOf(paths.slice(1))) enable(machine, batch);
}

/** Returns those of the files that are sealed. */
export function sealedOf(machine: SideMachine, paths: readonly string[]): ReadonlySet<string> {
  const measure = (p: Program, fd: Result): Result => {
    const digest = p.data(DIGEST_BYTES, 'digest');
    p.put(digest.at(2), DIGEST_BYTES - 4, 2);
    return p.sys('ioctl', [fd, p.flags('FS_IOC_MEASURE_VERITY'), digest], { ignore: [] });
  };
  return new Set(batchesOf(paths).flatMap((batch) => tryEach(machine, batch, measure)));
}

function enable(machine: SideMachine, paths: readonly string[]): readonly string[] {
  let argument: Data | undefined;
  return tryEach(machine, paths, (p, fd) => {
    // Blocks of another size than pages: Linux 6.3.
    argument ??= p.struct('fsverity_enable_arg', {
      version: 1,
      hash_algorithm: p.flags('FS_VERITY_HASH_ALG_SHA256'),
      block_size: machine.abi.pageBytes,
    });
    return p.sys('ioctl', [fd, p.flags('FS_IOC_ENABLE_VERITY'), argument], { ignore: [] });
  });
}

/** Returns the files with which a call succeeded. */
function tryEach(
  machine: SideMachine,
  paths: readonly string[],
  call: (p: Program, fd: Result) => Result,
): readonly string[] {
  if (paths.length === 0) return [];
  const p = machine.program();
  const answer = machine.answer(p, 4 * paths.length);
  const flags = p.flags('O_RDONLY', 'O_NOFOLLOW', 'O_CLOEXEC');
  paths.forEach((path, i) => {
    const fd = p.sys('openat', [HELPER_FD.store, path, flags, 0], { ignore: [] });
    p.store(answer.at(4 * i, 4), call(p, fd));
    p.sys('close', [fd], { ignore: [] });
  });
  const results = machine.run('seal files of the store', p, answer);
  // Zero is the same in every byte order.
  return paths.filter((_path, i) => results.readInt32LE(4 * i) === 0);
}

function batchesOf(paths: readonly string[]): readonly (readonly string[])[] {
  const batches: (readonly string[])[] = [];
  for (let at = 0; at < paths.length; at += BATCH) batches.push(paths.slice(at, at + BATCH));
  return batches;
}
