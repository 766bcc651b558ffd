/**
 * Programs that make and remove a guest's own directories. What is below is the guest's, so removal goes by descriptor
 * and never through a mount or a link.
 */
import { basename, dirname } from 'node:path';
import type { IdRange } from '../context/id-map.ts';
import { sizeOf } from '../sys/abi.ts';
import type { Program, Result } from '../sys/program.ts';
import type { GuestPaths } from './paths.ts';

/** Makes a guest's directory with the layers that are its own; the root directory of the upper one is its root's. */
export function planDirectories(
  p: Program,
  paths: Pick<GuestPaths, 'directory' | 'upper' | 'work'>,
  ids: IdRange,
): void {
  const here = p.flags('AT_FDCWD');
  for (const path of [paths.directory, paths.upper, paths.work])
    p.sys('mkdirat', [here, path, 0o700], { about: `"${path}"` });
  p.sys('fchownat', [here, paths.upper, ids.hostBase, ids.hostBase, 0], { about: `"${paths.upper}"` });
  p.sys('fchmodat', [here, paths.upper, 0o755], { about: `"${paths.upper}"` });
}

/**
 * Removes a guest's directory with all that is in it; fine if there is none. Fails with EXDEV or EBUSY, having removed
 * nothing beyond, if anything is mounted below.
 */
export function planRemoval(p: Program, paths: GuestPaths): void {
  const parent = openDirectory(p, p.flags('AT_FDCWD'), dirname(paths.directory));
  const name = basename(paths.directory);
  const how = p.struct('open_how', {
    flags: p.flags('O_RDONLY', 'O_DIRECTORY', 'O_NOFOLLOW', 'O_CLOEXEC'),
    resolve: p.flags('RESOLVE_BENEATH', 'RESOLVE_NO_SYMLINKS', 'RESOLVE_NO_XDEV'),
  });
  const done = p.label();
  const directory = p.sys('openat2', [parent, name, how, sizeOf(p.abi, 'open_how')], {
    about: `"${paths.directory}"`,
    otherwise: { on: ['ENOENT'], to: done },
  });
  p.removeTree(directory, `"${paths.directory}"`);
  p.sys('unlinkat', [parent, name, p.flags('AT_REMOVEDIR')], { about: `"${paths.directory}"` });
  p.place(done);
}

function openDirectory(p: Program, at: Parameters<Program['sys']>[1][number], path: string): Result {
  return p.sys('openat', [at, path, p.flags('O_PATH', 'O_DIRECTORY', 'O_CLOEXEC'), 0], {
    about: `"${path}"`,
  });
}
