import { lstatSync, readlinkSync } from 'node:fs';
import { join } from 'node:path';
import { StateError } from '../base/errors.ts';
import { hostFilesVersion, readHostFiles, versionOf } from './host-files.ts';
import { emptyDirectories, minimalEtc } from './minimal-etc.ts';
import { directory, file, link, type TreeEntry } from './tree-entries.ts';

/** Changes with what the skeleton is made of, so that older trees are not taken for it. */
const FORMAT = 1;

/** Names in the root that lead into /usr on a merged-usr system; a host must have the first three. */
const USR_LINKS = ['bin', 'sbin', 'lib', 'lib64', 'lib32', 'libx32', 'libo32'] as const;
const NEEDED = ['bin', 'sbin', 'lib'];

/**
 * Returns the nodes of the `host` template's root: what is beside the shared /usr.
 *
 * @param hostRoot `/`, or a tree that looks like a host
 * @throws StateError host-not-merged
 */
export function hostSkeleton(hostRoot: string): readonly TreeEntry[] {
  const bash = lstatSync(join(hostRoot, 'usr/bin/bash'), { throwIfNoEntry: false });
  const fixed = [
    directory('usr'),
    ...usrLinks(hostRoot),
    ...emptyDirectories(),
    ...minimalEtc(bash === undefined ? '/bin/sh' : '/bin/bash'),
  ];
  const taken = new Set(fixed.map((entry) => entry.path));
  const copied = readHostFiles(join(hostRoot, 'etc')).filter((entry) => !taken.has(entry.path));
  const entries = [...fixed, ...copied, link('etc/localtime', timeZone(hostRoot))];
  for (const [path, content] of [
    ['etc/timezone', 'Etc/UTC\n'],
    ['etc/shells', '/bin/sh\n'],
  ] as const) {
    if (!entries.some((entry) => entry.path === path)) entries.push(file(path, content));
  }
  return entries;
}

/** Returns a text that changes when `hostSkeleton` may give another result. */
export function hostSkeletonVersion(hostRoot: string): string {
  const links = USR_LINKS.map((name) => versionOf(join(hostRoot, name)));
  return [FORMAT, ...links, hostFilesVersion(join(hostRoot, 'etc'))].join('\n');
}

/**
 * Returns the links of the root that lead into /usr, exactly those that the host has.
 *
 * @throws StateError host-not-merged
 */
function usrLinks(hostRoot: string): readonly (TreeEntry & { readonly kind: 'link' })[] {
  return USR_LINKS.flatMap((path) => {
    const target = linkTarget(join(hostRoot, path));
    const inUsr = target === undefined ? undefined : /^\/?(usr\/[\w.-]+)$/.exec(target)?.[1];
    if (inUsr !== undefined) return [{ kind: 'link', path, target: inUsr } as const];
    if (target === undefined && !NEEDED.includes(path) && !isThere(join(hostRoot, path))) return [];
    throw new StateError(
      'host-not-merged',
      `cannot prepare template "host": found a host whose "/${path}" does not lead into "/usr"; need a merged-usr host, or another template`,
    );
  });
}

function timeZone(hostRoot: string): string {
  const target = linkTarget(join(hostRoot, 'etc/localtime'));
  return target !== undefined && /^\/usr\/share\/zoneinfo(?:\/[\w+-]+)+$/.test(target)
    ? target
    : '/usr/share/zoneinfo/Etc/UTC';
}

function linkTarget(path: string): string | undefined {
  return lstatSync(path, { throwIfNoEntry: false })?.isSymbolicLink() ? readlinkSync(path) : undefined;
}

function isThere(path: string): boolean {
  return lstatSync(path, { throwIfNoEntry: false }) !== undefined;
}
