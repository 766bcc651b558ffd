/**
 * The mounts of a guest that need the host's privilege: made detached by the worker, attached by process 1.
 */
import { planDiskMount, SPARE_DIRECTORIES } from '../storage/disk-image.ts';
import type { DiskLimit } from '../storage/disk-limit.ts';
import { planImageMount } from '../storage/image-mounts.ts';
import { planProjectLimit } from '../storage/project-quota.ts';
import { sizeOf } from '../sys/abi.ts';
import { planNumberPath } from '../sys/number-path.ts';
import { type Arg, type Data, type Import, type Program, Result } from '../sys/program.ts';
import { type Text, wordsOf } from '../sys/varying.ts';
import { planAttach, planOpenDirectory } from './plan-paths.ts';
import {
  type FilesSpec,
  type LayersSpec,
  type LowerSpec,
  type MountSpec,
  type OverlaySpec,
  type OwnerSpec,
  type StartSpec,
  WORKER_FD,
} from './plan-types.ts';

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
  return 1 + (spec.root.hostUsr ? 1 : 0) + spec.root.mounts.length;
}

/** Order: root, [/usr], configured mounts. */
export function planHostMounts(p: Program, spec: StartSpec, userns: number): readonly Result[] {
  const { root } = spec;
  return [
    planOverlay(p, root, spec.owner, userns).mount,
    // Not idmapped: its files stay the host's root's, so what is readable by root alone is not by a guest's root.
    ...(root.hostUsr ? [planReadOnlyTree(p, spec, '/usr', undefined)] : []),
    ...root.mounts.map((mount) => planConfiguredMount(p, mount, spec, userns)),
  ];
}

/** Attributes of what a guest may only read. */
const READ_ONLY = ['MOUNT_ATTR_RDONLY', 'MOUNT_ATTR_NODEV', 'MOUNT_ATTR_NOSUID'];

/**
 * Shows a directory of the host read-only. The attributes of a mount are its owner's, and a guest with CAP_SYS_ADMIN owns
 * its mounts: the kernel locks them only where a mount namespace is copied for another user namespace, or a mount comes
 * into one by propagation (lock_mnt_tree, fs/namespace.c). So such a guest gets a file system of the host's that is
 * read-only as a whole: an overlay without upper layer.
 */
function planReadOnlyTree(
  p: Program,
  spec: StartSpec,
  path: string,
  userns: Arg | undefined,
  attributes: readonly string[] = READ_ONLY,
): Result {
  const tree = planTreeClone(p, path, userns, attributes);
  if (!mayMount(spec.command.bcaps.value)) return tree;
  // An overlay wants two layers if none is to be written.
  const empty = planFilesystem(p, 'tmpfs', [['mode', '0755']], READ_ONLY);
  const layers = [
    [tree, WORKER_FD.sealed],
    [empty, WORKER_FD.empty],
  ] as const;
  for (const [layer, number] of layers) {
    if (!spec.root.detachedLayers) planAttach(p, layer, spec.root.attachAt, 'layer of what is read-only');
    p.sys('dup3', [layer, number, p.flags('O_CLOEXEC')], { about: `as descriptor ${number}` });
  }
  const fs = p.sys('fsopen', ['overlay', p.flags('FSOPEN_CLOEXEC')], { about: 'overlay' });
  for (const [key, value] of [
    ['source', 'vserver'],
    ['lowerdir', layers.map(([, number]) => `${FD}${number}`).join(':')],
    // No attribute of a file there shall lead elsewhere.
    ['redirect_dir', 'nofollow'],
    ['metacopy', 'off'],
  ] as const) {
    p.sys('fsconfig', [fs, p.flags('FSCONFIG_SET_STRING'), key, value, 0], { about: `overlay ${key}` });
  }
  p.sys('fsconfig', [fs, p.flags('FSCONFIG_CMD_CREATE'), 0, 0, 0], {
    about: `read-only overlay of "${path}"`,
  });
  return p.sys('fsmount', [fs, p.flags('FSMOUNT_CLOEXEC'), p.flags(...attributes)], { about: 'overlay' });
}

/** Whether a guest can change attributes of its mounts: it has CAP_SYS_ADMIN, number 21. */
export function mayMount(bcaps: bigint): boolean {
  return ((bcaps >> 21n) & 1n) === 1n;
}

/** A detached copy of a mount of the host, with other attributes and shown with the guest's ids. */
function planTreeClone(
  p: Program,
  path: string,
  userns: Arg | undefined,
  attributes: readonly string[],
): Result {
  const clone = p.flags('OPEN_TREE_CLONE', 'OPEN_TREE_CLOEXEC');
  const tree = p.sys('open_tree', [p.flags('AT_FDCWD'), path, clone], { about: `"${path}"` });
  return planAttributes(p, tree, `"${path}"`, userns, attributes);
}

/** A detached copy of a mount that syscalld keeps. */
function planMountClone(p: Program, mount: Import): Result {
  const clone = p.flags('OPEN_TREE_CLONE', 'OPEN_TREE_CLOEXEC', 'AT_EMPTY_PATH');
  return p.sys('open_tree', [mount, '', clone], { about: 'image' });
}

function planAttributes(
  p: Program,
  tree: Result,
  about: string,
  userns: Arg | undefined,
  attributes: readonly string[],
): Result {
  const set = userns !== undefined ? [...attributes, 'MOUNT_ATTR_IDMAP'] : attributes;
  // Private: a copy of a shared mount is its peer, so what a guest mounts there would show on the host.
  const attr = p.struct('mount_attr', { attr_set: p.flags(...set), propagation: p.flags('MS_PRIVATE') });
  if (userns !== undefined) p.storeField(attr, 'mount_attr', 'userns_fd', userns);
  p.sys('mount_setattr', [tree, '', p.flags('AT_EMPTY_PATH'), attr, sizeOf(p.abi, 'mount_attr')], {
    about: `${set.join('|')} on ${about}`,
  });
  return tree;
}

/** The name of the step that makes a guest's root; EBUSY there: its upper layer is another overlay's as yet. */
export const OVERLAY_CREATE = 'fsconfig create overlay';

/**
 * Makes a guest's root: its own files over the template's, which are shown with its ids, or without a namespace that maps
 * them as the image has them.
 */
export function planOverlay(
  p: Program,
  root: OverlaySpec,
  owner: Pick<OwnerSpec, 'hostBase'>,
  userns: Arg | undefined,
): { readonly mount: Result; readonly upper: Result } {
  const layers = planLayers(p, root, owner, planLower(p, root.lower, userns));
  const fs = p.sys('fsopen', ['overlay', p.flags('FSOPEN_CLOEXEC')], { about: 'overlay' });
  for (const [key, value] of [
    ['source', 'vserver'],
    ['lowerdir', layers.lower],
    ['upperdir', layers.upper],
    ['workdir', layers.work],
    // A template that follows the host is made anew when that changes, and these need the lower layer they began with:
    // with index=on an overlay refuses another one (ESTALE).
    ...(['metacopy', 'redirect_dir', 'index'] as const).map(
      (key) => [key, root.hostUsr && root.lower.kind === 'tree' ? 'off' : 'on'] as const,
    ),
  ] as const) {
    p.sys('fsconfig', [fs, p.flags('FSCONFIG_SET_STRING'), key, value, 0], { about: `overlay ${key}` });
  }
  layers.room?.make();
  p.sys('fsconfig', [fs, p.flags('FSCONFIG_CMD_CREATE'), 0, 0, 0], { about: 'create overlay' });
  layers.room?.take();
  // nodev: a device node that a template or a hostile archive brings is only a name.
  const attributes = root.readonly ? ['MOUNT_ATTR_NODEV', 'MOUNT_ATTR_RDONLY'] : ['MOUNT_ATTR_NODEV'];
  const flags = [p.flags('FSMOUNT_CLOEXEC'), p.flags(...attributes)] as const;
  return { mount: p.sys('fsmount', [fs, ...flags], { about: 'overlay' }), upper: layers.upperDirectory };
}

function planLower(p: Program, lower: LowerSpec, userns: Arg | undefined): Result {
  if (lower.kind === 'tree') return planTreeClone(p, lower.path, userns, ['MOUNT_ATTR_NODEV']);
  const mount =
    lower.mount === undefined ? planImageMount(p, lower.path) : planMountClone(p, p.import(lower.mount));
  return planAttributes(p, mount, 'image', userns, ['MOUNT_ATTR_NODEV']);
}

interface Layers {
  readonly lower: string;
  readonly upperDirectory: Result;
  readonly upper: Data;
  readonly work: Data;
  readonly room: Room | undefined;
}

/**
 * A new overlay makes directories and files in its work directory, and tries what can be done with them: also where the guest
 * has taken all there is. Steps that make room for that, and take it away again.
 */
interface Room {
  readonly make: () => void;
  readonly take: () => void;
}

/**
 * Finds paths by which overlay reaches its layers: all by descriptor, since the guest reads them in its mountinfo and
 * must find no path of the host there.
 */
function planLayers(
  p: Program,
  root: OverlaySpec,
  owner: Pick<OwnerSpec, 'hostBase'>,
  lower: Result,
): Layers {
  const layers = planUpper(p, root.upper, owner);
  if (!root.detachedLayers) {
    planNamespace(p);
    let at = root.attachAt;
    if (layers.mount) {
      planAttach(p, layers.mount, at, 'upper layer');
      p.sys('mkdirat', [layers.mount, 'lower', 0o700], {
        about: 'place for the lower layer',
        ignore: ['EEXIST'],
      });
      at = `${at}/lower`;
    }
    planAttach(p, lower, at, 'lower layer');
  }
  // Only now: a directory on disk is to be on a mount of the namespace the overlay is made in.
  const open = (layer: Result | Text): Result =>
    layer instanceof Result ? layer : planOpenDirectory(p, p.flags('AT_FDCWD'), layer);
  const upper = open(layers.upper);
  return {
    lower: planLowerPath(p, root.lower, lower, undefined),
    upperDirectory: upper,
    upper: planNumberPath(p, FD, upper),
    work: planNumberPath(p, FD, open(layers.work)),
    room: layers.room,
  };
}

/** Before 6.15 what is to be copied or a layer must be attached to a mount namespace: the worker makes itself one. */
export function planNamespace(p: Program): void {
  p.sys('unshare', [p.flags('CLONE_NEWNS')], { about: 'mount namespace' });
  p.sys('mount', [0, '/', 0, p.flags('MS_REC', 'MS_PRIVATE'), 0], { about: 'private propagation' });
}

/** Returns what names the lower layers, in overlay's own way: `lower`, `upper:lower`, or with `::objects` behind. */
function planLowerPath(p: Program, spec: LowerSpec, lower: Result, upper: Result | undefined): string {
  const byNumber = (fd: Result, number: number): string => {
    p.sys('dup3', [fd, number, p.flags('O_CLOEXEC')], { about: `as descriptor ${number}` });
    return `${FD}${number}`;
  };
  const layers = [
    ...(upper === undefined ? [] : [byNumber(upper, WORKER_FD.upper)]),
    byNumber(lower, WORKER_FD.lower),
  ].join(':');
  if (spec.kind === 'tree') return layers;
  const objects = planOpenDirectory(p, p.flags('AT_FDCWD'), spec.objects);
  return `${layers}${spec.isDataOnly ? '::' : ':'}${byNumber(objects, WORKER_FD.objects)}`;
}

/** Of a guest whose own files are on disk already none are made. */
const NO_OWNER = { hostBase: 0 };

/** What a guest's files look like that does not run; ids are those on disk. */
export type MergedView = Pick<OverlaySpec, 'lower' | 'attachAt' | 'detachedLayers' | 'hostUsr'> & {
  /** Its own files; it may have none. */
  readonly upper: FilesSpec | undefined;
};

/** Opens a guest's own files. */
export function planUpperDirectory(p: Program, upper: FilesSpec): Result {
  return upper.kind === 'disk'
    ? planOpenDirectory(p, planDiskMount(p, upper.disk), 'upper')
    : planOpenDirectory(p, p.flags('AT_FDCWD'), upper.upper);
}

/** Opens a guest's root, read-only, without touching its own files. */
export function planMergedView(p: Program, view: MergedView): Result {
  const at = p.flags('AT_FDCWD');
  const { upper: files } = view;
  if (view.lower.kind === 'tree' && files === undefined) return planOpenDirectory(p, at, view.lower.path);
  // A mount of its own has its place among the layers already.
  if (files?.kind === 'disk')
    return planOverlay(p, { ...view, upper: files, readonly: true }, NO_OWNER, undefined).mount;
  const lower = planLower(p, view.lower, undefined);
  if (!view.detachedLayers) {
    planNamespace(p);
    planAttach(p, lower, view.attachAt, 'lower layer');
  }
  const upper = files && planOpenDirectory(p, at, files.upper);
  const fs = p.sys('fsopen', ['overlay', p.flags('FSOPEN_CLOEXEC')], { about: 'overlay' });
  for (const [key, value] of [
    ['source', 'vserver'],
    ['lowerdir', planLowerPath(p, view.lower, lower, upper)],
    ['redirect_dir', 'follow'],
    ['metacopy', 'on'],
  ] as const) {
    p.sys('fsconfig', [fs, p.flags('FSCONFIG_SET_STRING'), key, value, 0], { about: `overlay ${key}` });
  }
  p.sys('fsconfig', [fs, p.flags('FSCONFIG_CMD_CREATE'), 0, 0, 0], { about: 'create read-only overlay' });
  return p.sys('fsmount', [fs, p.flags('FSMOUNT_CLOEXEC'), p.flags(...READ_ONLY)], { about: 'overlay' });
}

interface Upper {
  /** A mount of its own that upper layer and work directory are on, detached as yet. */
  readonly mount: Result | undefined;
  /** Opened, or still a path. */
  readonly upper: Result | Text;
  readonly work: Result | Text;
  readonly room: Room | undefined;
}

function planUpper(p: Program, upper: OverlaySpec['upper'], owner: Pick<OwnerSpec, 'hostBase'>): Upper {
  if (upper.kind === 'directory')
    return { mount: undefined, upper: upper.upper, work: upper.work, room: roomInProject(p, upper) };
  if (upper.kind === 'memory') return { ...planMemory(p, upper, owner), room: undefined };
  const mount = planDiskMount(p, upper.disk);
  return {
    mount,
    upper: planOpenDirectory(p, mount, 'upper'),
    work: planOpenDirectory(p, mount, 'work'),
    room: roomOnDisk(p, mount),
  };
}

/** Who mounts may be held to quotas too: root without CAP_SYS_RESOURCE. Nobody else writes before the overlay is there. */
function roomInProject(
  p: Program,
  { work, bound }: Extract<LayersSpec, { kind: 'directory' }>,
): Room | undefined {
  if (bound === undefined) return undefined;
  const set = (limit: DiskLimit | undefined): void => {
    const directory = planOpenDirectory(p, p.flags('AT_FDCWD'), work);
    planProjectLimit(p, directory, bound.project, limit);
    p.sys('close', [directory]);
  };
  return { make: () => set(undefined), take: () => set(bound.limit) };
}

/** Directories beside the layers that hold what an overlay takes: an inode and a block each. */
function roomOnDisk(p: Program, mount: Result): Room {
  const each = (call: 'mkdirat' | 'unlinkat', flags: Arg, ignore: readonly string[]): void => {
    for (let i = 0; i < SPARE_DIRECTORIES; i++)
      p.sys(call, [mount, `spare-${i}`, flags], { about: 'spare room', ignore });
  };
  return {
    make: () => each('unlinkat', p.flags('AT_REMOVEDIR'), ['ENOENT']),
    // Of a disk from before there was any, a guest may have taken all.
    take: () => each('mkdirat', 0o700, ['ENOSPC']),
  };
}

/** Adds the steps that make the directories of a new disk. */
export function planDiskDirectories(p: Program, disk: string): Result {
  const mount = planDiskMount(p, disk);
  for (const name of ['upper', 'work']) p.sys('mkdirat', [mount, name, 0o700], { about: name });
  return planOpenDirectory(p, mount, 'upper');
}

/** A guest that exists only while it runs writes to memory, charged to it and bounded. */
function planMemory(
  p: Program,
  { sizeBytes, inodes }: Extract<OverlaySpec['upper'], { kind: 'memory' }>,
  { hostBase }: Pick<OwnerSpec, 'hostBase'>,
): Omit<Upper, 'room'> {
  const mount = planFilesystem(
    p,
    'tmpfs',
    [
      ['source', 'upper'],
      ['mode', '0700'],
      ['size', String(sizeBytes)],
      ...(inodes === undefined ? [] : [['nr_inodes', String(inodes)] as const]),
    ],
    ['MOUNT_ATTR_NODEV'],
  );
  p.sys('mkdirat', [mount, 'upper', 0o755], { about: 'upper layer' });
  p.sys('fchownat', [mount, 'upper', hostBase, hostBase, 0], { about: 'upper layer' });
  p.sys('mkdirat', [mount, 'work', 0o700], { about: 'work directory' });
  return { mount, upper: planOpenDirectory(p, mount, 'upper'), work: planOpenDirectory(p, mount, 'work') };
}

/** Adds the steps that make a file system, detached. */
export function planFilesystem(
  p: Program,
  type: string,
  options: readonly (readonly [string, Text])[],
  attributes: readonly string[],
): Result {
  return planFsmount(p, planSuperblock(p, type, options), type, attributes);
}

/** Adds the steps that make a file system for `planFsmount`, here or in a process that gets the descriptor. */
export function planSuperblock(
  p: Program,
  type: string,
  options: readonly (readonly [string, Text])[] = [],
): Result {
  const fs = p.sys('fsopen', [type, p.flags('FSOPEN_CLOEXEC')], { about: type });
  for (const [key, value] of options)
    p.sys('fsconfig', [fs, p.flags('FSCONFIG_SET_STRING'), key, value, 0], {
      about: `${type} ${key}=${wordsOf(value)}`,
    });
  p.sys('fsconfig', [fs, p.flags('FSCONFIG_CMD_CREATE'), 0, 0, 0], { about: type });
  return fs;
}

/** Adds the step that mounts a file system, detached. */
export function planFsmount(p: Program, fs: Result, type: string, attributes: readonly string[]): Result {
  return p.sys('fsmount', [fs, p.flags('FSMOUNT_CLOEXEC'), p.flags(...attributes)], { about: type });
}

/** /dev is made by the host, whose nodes work there; the guest cannot make any: mknod needs CAP_MKNOD on the host. */
export function planDev(p: Program, { hostBase, text }: OwnerSpec, bytes: number): Result {
  const dev = planFilesystem(
    p,
    'tmpfs',
    [
      ['source', 'dev'],
      ['mode', '0755'],
      ['size', String(bytes)],
      ['nr_inodes', '16384'],
      ['uid', text],
      ['gid', text],
    ],
    ['MOUNT_ATTR_NOSUID'],
  );
  for (const [name, major, minor] of DEVICES) {
    p.sys('mknodat', [dev, name, (p.abi.constants['S_IFCHR'] ?? 0) | 0o666, (major << 8) | minor], {
      about: `/dev/${name}`,
    });
    p.sys('fchownat', [dev, name, hostBase, hostBase, p.flags('AT_SYMLINK_NOFOLLOW')], {
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
  }
  // The others are covered.
  p.sys('fchownat', [dev, 'shm', hostBase, hostBase, 0], { about: '/dev/shm' });
  return dev;
}

function planConfiguredMount(p: Program, mount: MountSpec, spec: StartSpec, userns: Arg): Result {
  const attributes = [
    'MOUNT_ATTR_NOSUID',
    'MOUNT_ATTR_NODEV',
    ...(mount.readonly ? ['MOUNT_ATTR_RDONLY'] : []),
    ...(mount.type === 'bind' && mount.noexec ? ['MOUNT_ATTR_NOEXEC'] : []),
  ];
  if (mount.type === 'bind') {
    const { idMap } = mount;
    const map = idMap === undefined ? undefined : idMap === 'own' ? userns : p.import(idMap);
    return mount.readonly && mount.isDirectory
      ? planReadOnlyTree(p, spec, mount.source, map, attributes)
      : planTreeClone(p, mount.source, map, attributes);
  }
  const { text } = spec.owner;
  return planFilesystem(
    p,
    'tmpfs',
    [
      ['source', 'tmpfs'],
      ['mode', mount.mode.toString(8)],
      ['size', String(mount.sizeBytes)],
      ['uid', text],
      ['gid', text],
    ],
    attributes,
  );
}
