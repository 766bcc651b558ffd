/**
 * Steps on paths of the host, which are trusted.
 */
import type { Arg, Program, Result } from '../sys/program.ts';
import { bytesIn, type Text, wordsOf } from '../sys/varying.ts';

/** Adds the steps that write a text to a file. */
export function planWriteFile(p: Program, directory: Arg, path: Text, text: Text): void {
  const about = `"${wordsOf(path)}"`;
  const fd = p.sys('openat', [directory, path, p.flags('O_WRONLY', 'O_CLOEXEC', 'O_NOFOLLOW'), 0], { about });
  p.sys('write', [fd, text, bytesIn(text)], { about: `"${wordsOf(text).trim()}" to ${about}` });
  p.sys('close', [fd]);
}

/** Adds the step that opens a directory as a place to go on from. */
export function planOpenDirectory(p: Program, directory: Arg, path: Text): Result {
  return p.sys('openat', [directory, path, p.flags('O_PATH', 'O_DIRECTORY', 'O_CLOEXEC'), 0], {
    about: `"${wordsOf(path)}"`,
  });
}

/** Adds the step that attaches a detached mount to a directory. */
export function planAttach(p: Program, mount: Result, path: string, about: string): void {
  p.sys('move_mount', [mount, '', p.flags('AT_FDCWD'), path, p.flags('MOVE_MOUNT_F_EMPTY_PATH')], { about });
}

/** Adds the step that makes two ends, for a process and one it will spawn. */
export function planSocketPair(p: Program, about: string): { worker: Result; child: Result } {
  const pair = p.data(8);
  p.sys('socketpair', [p.flags('AF_UNIX'), p.flags('SOCK_SEQPACKET', 'SOCK_CLOEXEC'), 0, pair], { about });
  return { worker: p.load(pair), child: p.load(pair.at(4, 4)) };
}

/** The mount namespace of who opens it. */
export const OWN_MOUNTS = '/proc/self/ns/mnt';

/** Adds the step that opens a namespace by its file in /proc. */
export function planOpenNamespace(p: Program, path: string): Result {
  return p.sys('openat', [p.flags('AT_FDCWD'), path, p.flags('O_RDONLY', 'O_CLOEXEC'), 0], { about: path });
}

/** Adds steps that go on in another mount namespace, if one is given, and come back. */
export function planInNamespace<T>(p: Program, namespace: Arg | undefined, body: () => T): T {
  if (namespace === undefined) return body();
  const enter = (to: Arg): Result =>
    p.sys('setns', [to, p.flags('CLONE_NEWNS')], { about: 'mount namespace' });
  const home = planOpenNamespace(p, OWN_MOUNTS);
  enter(namespace);
  const made = body();
  enter(home);
  return made;
}
