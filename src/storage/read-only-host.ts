/**
 * Where programs that read what others wrote are run: a mount namespace in which nothing can be written but one
 * directory, and without any capability. A hostile archive that gets the better of its reader has no more than that.
 */
import type { Program, Result } from '../sys/program.ts';

/** One above the largest capability a kernel can have (capget(2): two words of 32 bits). */
const CAPABILITY_BITS = 64;
const MEMORY_BYTES = 1024 ** 3;

/**
 * Adds steps of a process that is alone in its mount namespace: it sees the host, and can write `directory` of it.
 *
 * @param hidden directories whose sockets are none of its business: one that can be seen can be connected to, read-only
 *   or not (unix(7))
 */
export function planReadOnlyHost(p: Program, directory: string, hidden: readonly string[]): void {
  p.sys('mount', [0, '/', 0, p.flags('MS_REC', 'MS_PRIVATE'), 0], { about: 'private propagation' });
  const recursive = p.flags('AT_RECURSIVE').value;
  const set = p.flags('MOUNT_ATTR_RDONLY', 'MOUNT_ATTR_NOSUID', 'MOUNT_ATTR_NODEV');
  setAttributes(p, '/', recursive, { attr_set: set }, 'the host read-only');
  p.sys('mount', [directory, directory, 0, p.flags('MS_BIND'), 0], { about: directory });
  setAttributes(p, directory, 0, { attr_clr: p.flags('MOUNT_ATTR_RDONLY') }, `${directory} to be written`);
  const flags = p.flags('MS_RDONLY', 'MS_NOSUID', 'MS_NODEV');
  for (const path of hidden) {
    p.sys('mount', ['vserver', path, 'tmpfs', flags, 'size=4k'], {
      about: `over ${path}`,
      ignore: ['ENOENT'],
    });
  }
}

/** Adds steps that make the harmless devices usable there. */
export function planDevices(p: Program): void {
  for (const name of ['null', 'zero', 'full', 'random', 'urandom']) {
    const path = `/dev/${name}`;
    p.sys('mount', [path, path, 0, p.flags('MS_BIND'), 0], { about: path });
    setAttributes(p, path, 0, { attr_clr: p.flags('MOUNT_ATTR_RDONLY', 'MOUNT_ATTR_NODEV') }, path);
  }
}

function setAttributes(
  p: Program,
  path: string,
  how: number | bigint,
  fields: Parameters<Program['struct']>[1],
  about: string,
): void {
  const attr = p.struct('mount_attr', fields);
  p.sys('mount_setattr', [p.flags('AT_FDCWD'), path, how, attr, attr.length], { about });
}

/** Adds steps before an execve: what is executed has no capability but those kept, and gets none by what it executes. */
export function planNoCapabilities(p: Program, kept: readonly number[] = []): void {
  for (let number = 0; number < CAPABILITY_BITS; number++) {
    if (kept.includes(number)) continue;
    // EINVAL: a kernel without that capability.
    const drop = p.flags('PR_CAPBSET_DROP');
    p.sys('prctl', [drop, number], { about: `capability ${number}`, ignore: ['EINVAL'] });
  }
  p.sys('prctl', [p.flags('PR_SET_NO_NEW_PRIVS'), 1, 0, 0, 0], { about: 'no_new_privs' });
}

/** Adds steps that start a program of the host between a file and a pipe, and returns the pipe's other end. */
export function planDecompressor(p: Program, program: 'xz' | 'bzip2', file: Result): Result {
  const pipe = p.data(8, 'pipe');
  p.sys('pipe2', [pipe, p.flags('O_CLOEXEC')], { about: program });
  const [reader, writer] = [p.load(pipe), p.load(pipe.at(4, 4))];
  p.spawn(program, {}, () => {
    p.sys('dup3', [file, 0, 0], { about: 'stdin' });
    p.sys('dup3', [writer, 1, 0], { about: 'stdout' });
    const limit = p.struct('rlimit', { rlim_cur: MEMORY_BYTES, rlim_max: MEMORY_BYTES });
    p.sys('prlimit64', [0, p.flags('RLIMIT_AS'), limit, 0], { about: 'memory' });
    planNoCapabilities(p);
    const argv = p.vector([program, '--decompress', '--stdout']);
    p.sys('execve', [`/usr/bin/${program}`, argv, p.vector(['PATH=/usr/bin:/bin', 'LC_ALL=C'])], {
      about: program,
    });
  });
  p.sys('close', [writer]);
  return reader;
}
