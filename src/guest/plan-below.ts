/**
 * Steps of process 1 on paths below directories of the guest: never through a link, never out of them.
 */
import { sizeOf } from '../sys/abi.ts';
import type { Arg, Program, Result } from '../sys/program.ts';

/** Opens a name below a directory of the guest: never through a link, never out of it. */
export function openBelow(
  p: Program,
  directory: Arg,
  path: string,
  isDirectory: boolean,
  ignore?: readonly string[],
): Result {
  const how = p.constant(isDirectory ? 'a directory below' : 'a file below', () =>
    p.struct('open_how', {
      flags: p.flags('O_PATH', 'O_NOFOLLOW', 'O_CLOEXEC', ...(isDirectory ? ['O_DIRECTORY'] : [])),
      resolve: p.flags('RESOLVE_BENEATH', 'RESOLVE_NO_SYMLINKS', 'RESOLVE_NO_MAGICLINKS'),
    }),
  );
  return p.sys('openat2', [directory, path, how, sizeOf(p.abi, 'open_how')], {
    about: `"${path}" in the guest`,
    ...(ignore ? { ignore } : {}),
  });
}

/** Attaches a mount on a directory directly below another one of the guest; a link in its place is refused. */
export function planMountAt(p: Program, directory: Arg, name: string, mount: Arg): void {
  p.sys('mkdirat', [directory, name, 0o755], {
    about: `"${name}" in the guest`,
    ignore: ['EEXIST', 'EROFS'],
  });
  const target = openBelow(p, directory, name, true);
  planMove(p, mount, target, name);
}

/** Adds the step that attaches a mount, also one with others on it, to an open directory or file. */
export function planMove(p: Program, mount: Arg, target: Arg, about: string): void {
  const empty = p.flags('MOVE_MOUNT_F_EMPTY_PATH', 'MOVE_MOUNT_T_EMPTY_PATH');
  p.sys('move_mount', [mount, '', target, '', empty], { about: `on "${about}"` });
}

/** Adds the step that attaches a mount to a name below one that we made and nobody else has seen: no link is there. */
export function planMoveTo(p: Program, mount: Arg, directory: Arg, name: string): void {
  p.sys('move_mount', [mount, '', directory, name, p.flags('MOVE_MOUNT_F_EMPTY_PATH')], {
    about: `on "${name}"`,
  });
}
