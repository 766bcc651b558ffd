/**
 * The mounts of a guest that need the host's privilege: made detached by the worker, attached by process 1.
 */
import type { IdRange } from '../context/id-map.ts';
import { sizeOf } from '../sys/abi.ts';
import type { Data, Program, Result } from '../sys/program.ts';
import { planAttach, planNumberPath, planOpenDirectory } from './plan-paths.ts';
import type { MountSpec, OverlaySpec, StartSpec } from './plan-types.ts';

const FD = '/proc/self/fd/';

const DEVICES = [
  ['null', 1, 3],
  ['zero', 1, 5],
  ['full', 1, 7],
  ['random', 1, 8],
  ['urandom', 1, 9],
  ['tty', 5, 0],
] as const;

const DEV_LINKS = [
  ['fd', '/proc/self/fd'],
  ['stdin', '/proc/self/fd/0'],
  ['stdout', '/proc/self/fd/1'],
  ['stderr', '/proc/self/fd/2'],
  ['ptmx', 'pts/ptmx'],
] as const;

/** How many descriptors `planHostMounts` makes. */
export function hostMountCount(spec: StartSpec): number {
  return 3 + (spec.root.hostUsr ? 1 : 0) + spec.root.mounts.length;
}

/** Order: root, /dev, /dev/pts, [/usr], configured mounts. */
export function planHostMounts(p: Program, spec: StartSpec, userns: Result): readonly Result[] {
  const { root } = spec;
  return [
    planOverlay(p, root, spec.ids, userns),
    planDev(p, spec),
    planDevpts(p, spec),
    // Not idmapped: its files stay the host's root's, so what is readable by root alone is not by a guest's root.
    ...(root.hostUsr
      ? [planTreeClone(p, '/usr', undefined, ['MOUNT_ATTR_RDONLY', 'MOUNT_ATTR_NODEV', 'MOUNT_ATTR_NOSUID'])]
      : []),
    ...root.mounts.map((mount) => planConfiguredMount(p, mount, spec, userns)),
  ];
}

/** A detached copy of a mount of the host, with other attributes and shown with the guest's ids. */
export function planTreeClone(
  p: Program,
  path: string,
  userns: Result | undefined,
  attributes: readonly string[],
): Result {
  const clone = p.flags('OPEN_TREE_CLONE', 'OPEN_TREE_CLOEXEC');
  const tree = p.sys('open_tree', [p.flags('AT_FDCWD'), path, clone], { about: `"${path}"` });
  const set = userns ? [...attributes, 'MOUNT_ATTR_IDMAP'] : attributes;
  const attr = p.struct('mount_attr', { attr_set: p.flags(...set) });
  if (userns) p.storeField(attr, 'mount_attr', 'userns_fd', userns);
  p.sys('mount_setattr', [tree, '', p.flags('AT_EMPTY_PATH'), attr, sizeOf(p.abi, 'mount_attr')], {
    about: `${set.join('|')} on "${path}"`,
  });
  return tree;
}

/** Makes a guest's root: its own files over the template's, which are shown with its ids. */
export function planOverlay(p: Program, root: OverlaySpec, ids: IdRange, userns: Result): Result {
  const lower = planTreeClone(p, root.lower, userns, ['MOUNT_ATTR_NODEV']);
  const layers = planLayers(p, root, ids, lower);
  const fs = p.sys('fsopen', ['overlay', p.flags('FSOPEN_CLOEXEC')], { about: 'overlay' });
  for (const [key, value] of [
    ['source', 'vserver'],
    ['lowerdir', layers.lower],
    ['upperdir', layers.upper],
    ['workdir', layers.work],
    // A template that follows the host is made anew when that changes, and these need the lower layer they began with:
    // with index=on an overlay refuses another one (ESTALE).
    ...(['metacopy', 'redirect_dir', 'index'] as const).map(
      (key) => [key, root.hostUsr ? 'off' : 'on'] as const,
    ),
  ] as const) {
    p.sys('fsconfig', [fs, p.flags('FSCONFIG_SET_STRING'), key, value, 0], { about: `overlay ${key}` });
  }
  p.sys('fsconfig', [fs, p.flags('FSCONFIG_CMD_CREATE'), 0, 0, 0], { about: 'overlay' });
  // nodev: a device node that a template or a hostile archive brings is only a name.
  const attributes = root.readonly ? ['MOUNT_ATTR_NODEV', 'MOUNT_ATTR_RDONLY'] : ['MOUNT_ATTR_NODEV'];
  return p.sys('fsmount', [fs, p.flags('FSMOUNT_CLOEXEC'), p.flags(...attributes)], { about: 'overlay' });
}

interface Layers {
  readonly lower: string | Data;
  readonly upper: string | Data;
  readonly work: string | Data;
}

/** Finds paths by which overlay reaches its layers. */
function planLayers(p: Program, root: OverlaySpec, ids: IdRange, lower: Result): Layers {
  const memory = root.upper.kind === 'memory' ? planMemory(p, root.upper.sizeBytes, ids) : undefined;
  if (!root.detachedLayers) {
    // Before 6.15 layers must be attached to a mount namespace: the worker makes itself one, which ends with it.
    p.sys('unshare', [p.flags('CLONE_NEWNS')], { about: 'mount namespace for the layers' });
    p.sys('mount', [0, '/', 0, p.flags('MS_REC', 'MS_PRIVATE'), 0], { about: 'private propagation' });
    if (memory) planAttach(p, memory.mount, root.attachAt, 'upper layer');
  }
  const upper = memory ? planNumberPath(p, FD, memory.upper) : directoryOf(root.upper, 'upper');
  const work = memory ? planNumberPath(p, FD, memory.work) : directoryOf(root.upper, 'work');
  if (root.detachedLayers) return { lower: planNumberPath(p, FD, lower), upper, work };
  const at = memory ? `${root.attachAt}/lower` : root.attachAt;
  if (memory) p.sys('mkdirat', [memory.mount, 'lower', 0o700], { about: 'place for the lower layer' });
  planAttach(p, lower, at, 'lower layer');
  return { lower: at, upper, work };
}

function directoryOf(upper: OverlaySpec['upper'], name: 'upper' | 'work'): string {
  return upper.kind === 'directory' ? upper[name] : '';
}

/** A guest that exists only while it runs writes to memory, charged to it and bounded. */
function planMemory(
  p: Program,
  sizeBytes: number,
  ids: IdRange,
): { mount: Result; upper: Result; work: Result } {
  const mount = planFilesystem(
    p,
    'tmpfs',
    [
      ['source', 'upper'],
      ['mode', '0700'],
      ['size', String(sizeBytes)],
    ],
    ['MOUNT_ATTR_NODEV'],
  );
  p.sys('mkdirat', [mount, 'upper', 0o755], { about: 'upper layer' });
  p.sys('fchownat', [mount, 'upper', ids.hostBase, ids.hostBase, 0], { about: 'upper layer' });
  p.sys('mkdirat', [mount, 'work', 0o700], { about: 'work directory' });
  return { mount, upper: planOpenDirectory(p, mount, 'upper'), work: planOpenDirectory(p, mount, 'work') };
}

/** Adds the steps that make a file system, detached. */
export function planFilesystem(
  p: Program,
  type: string,
  options: readonly (readonly [string, string])[],
  attributes: readonly string[],
): Result {
  const fs = p.sys('fsopen', [type, p.flags('FSOPEN_CLOEXEC')], { about: type });
  for (const [key, value] of options)
    p.sys('fsconfig', [fs, p.flags('FSCONFIG_SET_STRING'), key, value, 0], {
      about: `${type} ${key}=${value}`,
    });
  p.sys('fsconfig', [fs, p.flags('FSCONFIG_CMD_CREATE'), 0, 0, 0], { about: type });
  return p.sys('fsmount', [fs, p.flags('FSMOUNT_CLOEXEC'), p.flags(...attributes)], { about: type });
}

/** /dev is made by the host, whose nodes work there; the guest cannot make any: mknod needs CAP_MKNOD on the host. */
function planDev(p: Program, spec: StartSpec): Result {
  const owner = String(spec.ids.hostBase);
  const dev = planFilesystem(
    p,
    'tmpfs',
    [
      ['source', 'dev'],
      ['mode', '0755'],
      ['size', String(spec.root.devBytes)],
      ['nr_inodes', '16384'],
      ['uid', owner],
      ['gid', owner],
    ],
    ['MOUNT_ATTR_NOSUID'],
  );
  for (const [name, major, minor] of DEVICES) {
    p.sys('mknodat', [dev, name, (p.abi.constants['S_IFCHR'] ?? 0) | 0o666, (major << 8) | minor], {
      about: `/dev/${name}`,
    });
    p.sys('fchownat', [dev, name, spec.ids.hostBase, spec.ids.hostBase, p.flags('AT_SYMLINK_NOFOLLOW')], {
      about: `/dev/${name}`,
    });
  }
  for (const [name, target] of DEV_LINKS) p.sys('symlinkat', [target, dev, name], { about: `/dev/${name}` });
  for (const [name, mode] of [
    ['pts', 0o755],
    ['shm', 0o1777],
    ['mqueue', 0o1777],
  ] as const) {
    p.sys('mkdirat', [dev, name, mode], { about: `/dev/${name}` });
    p.sys('fchownat', [dev, name, spec.ids.hostBase, spec.ids.hostBase, 0], { about: `/dev/${name}` });
  }
  return dev;
}

function planDevpts(p: Program, spec: StartSpec): Result {
  const tty = String(spec.ids.hostBase + 5);
  return planFilesystem(
    p,
    'devpts',
    [
      ['source', 'devpts'],
      ['mode', '0620'],
      ['ptmxmode', '0666'],
      ['gid', tty],
    ],
    ['MOUNT_ATTR_NOSUID', 'MOUNT_ATTR_NOEXEC'],
  );
}

function planConfiguredMount(p: Program, mount: MountSpec, spec: StartSpec, userns: Result): Result {
  const attributes = [
    'MOUNT_ATTR_NOSUID',
    'MOUNT_ATTR_NODEV',
    ...(mount.readonly ? ['MOUNT_ATTR_RDONLY'] : []),
  ];
  if (mount.type === 'bind')
    return planTreeClone(p, mount.source, mount.idmapped ? userns : undefined, attributes);
  const owner = String(spec.ids.hostBase);
  return planFilesystem(
    p,
    'tmpfs',
    [
      ['source', 'tmpfs'],
      ['mode', '1777'],
      ['size', String(mount.sizeBytes)],
      ['uid', owner],
      ['gid', owner],
    ],
    attributes,
  );
}
