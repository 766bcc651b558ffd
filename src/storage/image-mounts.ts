/**
 * Mounts of images. The file system of an image is the same for all guests, so it is mounted once, kept by syscalld, and
 * each guest gets a copy of that mount that shows its own ids.
 */
import { mkdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { BLOCK_BYTES } from '../spec/erofs-format.ts';
import { type ImageHead, readImageHead } from '../spec/erofs-reader.ts';
import { readHead } from '../sys/files.ts';
import { Program, type Result } from '../sys/program.ts';
import { StepError } from '../sys/syscalld.ts';
import type { StoredImage } from './image-store.ts';
import { planLoop } from './loop-device.ts';
import type { StorageMachine } from './machine.ts';

/** An image as a layer of an overlay. */
export interface ImageLayer {
  readonly kind: 'image';
  /** The image's file. */
  readonly path: string;
  /** Object that holds its mount; undefined: layers cannot be copies of a detached mount, so it is mounted each time. */
  readonly mount: number | undefined;
  /** Directory that is the layer of the objects. */
  readonly objects: string;
  /** That layer can be one of data only (Linux 6.5); else it lies below, hidden by the image. */
  readonly isDataOnly: boolean;
}

/** Mounts of this many images are kept; those of others go on where they are in use. */
const MAX_MOUNTS = 64;

/** What of an image's beginning is read when it is mounted: the names and attributes of some 80,000 files. */
const MAX_AHEAD_BYTES = 16 * 1024 * 1024;
/** The kernel takes no more at once than its disk does, or is used to (`force_page_cache_ra`, mm/readahead.c, Linux 5.9). */
const AHEAD_BYTES = 512 * 1024;

/** Adds the steps that mount an image, detached: from its file (Linux 6.12), or from a loop device. */
export function planImageMount(p: Program, path: string): Result {
  const at = p.flags('AT_FDCWD');
  const readOnly = p.flags('MOUNT_ATTR_RDONLY', 'MOUNT_ATTR_NODEV');
  const place = p.data(8, 'mount');
  const [older, done] = [p.label(), p.label()];
  const file = p.sys('openat', [at, path, p.flags('O_RDONLY', 'O_NOFOLLOW', 'O_CLOEXEC')], { about: path });
  // By descriptor: the kernel shows the source of a mount, and no guest shall read a path of the host there.
  p.sys('dup3', [file, IMAGE_FD, p.flags('O_CLOEXEC')]);
  const head = readImageHead(readHead(path, BLOCK_BYTES));
  // EROFS reads a file block by block: they are asked for at once, and nobody waits for them.
  for (let from = 0; from < Math.min(head.bytes, MAX_AHEAD_BYTES); from += AHEAD_BYTES)
    p.sys('readahead', [file, from, AHEAD_BYTES], { about: path, ignore: ['EINVAL'] });
  const flags = mountFlagsOf(head);
  const direct = planErofs(p, `/proc/self/fd/${IMAGE_FD}`, flags);
  // ENOTBLK: this kernel wants a block device.
  p.sys('fsconfig', [direct, p.flags('FSCONFIG_CMD_CREATE'), 0, 0, 0], {
    about: `mount image "${path}"`,
    otherwise: { on: ['ENOTBLK'], to: older },
  });
  p.store(place, p.sys('fsmount', [direct, p.flags('FSMOUNT_CLOEXEC'), readOnly], { about: 'image' }), 8);
  p.jump(done);
  p.place(older);
  const device = planLoop(p, file, { isReadOnly: true });
  p.sys('dup3', [device, IMAGE_FD, p.flags('O_CLOEXEC')]);
  const indirect = planErofs(p, `/proc/self/fd/${IMAGE_FD}`, flags);
  p.sys('fsconfig', [indirect, p.flags('FSCONFIG_CMD_CREATE'), 0, 0, 0], {
    about: `mount image "${path}" from a loop device`,
  });
  p.store(place, p.sys('fsmount', [indirect, p.flags('FSMOUNT_CLOEXEC'), readOnly], { about: 'image' }), 8);
  // The mount keeps the device, and the device goes with it.
  p.sys('close', [device]);
  p.place(done);
  p.sys('close', [IMAGE_FD]);
  return p.load(place, 8);
}

/** Number by which the source of a mount is found. */
const IMAGE_FD = 110;

/**
 * For whoever does not own a directory the kernel asks for its access control list, and where that would be in an idmapped
 * layer, each name of a path is looked up the slow way, with locks (`do_ovl_get_acl`, fs/overlayfs/inode.c, Linux 5.19). A
 * layer mounted without them is not asked.
 */
function mountFlagsOf({ isWithoutAcls }: ImageHead): readonly string[] {
  return isWithoutAcls ? ['ro', 'noacl'] : ['ro'];
}

/** Adds the steps that prepare the mount of an image from a file or device. */
export function planErofs(p: Program, source: string, flags: readonly string[]): Result {
  const fs = p.sys('fsopen', ['erofs', p.flags('FSOPEN_CLOEXEC')], { about: 'erofs' });
  p.sys('fsconfig', [fs, p.flags('FSCONFIG_SET_STRING'), 'source', source, 0], { about: 'erofs source' });
  for (const flag of flags)
    p.sys('fsconfig', [fs, p.flags('FSCONFIG_SET_FLAG'), flag, 0, 0], { about: `erofs ${flag}` });
  return fs;
}

/** Knows what images can be mounted with, and keeps their mounts. */
export class ImageMounts {
  readonly #machine: StorageMachine;
  /** A directory on the file system of guests' files. */
  readonly #directory: string;
  readonly #areDetached: () => boolean;
  readonly #mounts = new Map<string, Promise<number>>();
  #isDataOnly: Promise<boolean> | undefined;

  /**
   * @param directory where something can be tried
   * @param areDetached whether layers can be copies of detached mounts (Linux 6.15)
   */
  constructor(machine: StorageMachine, directory: string, areDetached: () => boolean) {
    this.#machine = machine;
    this.#directory = directory;
    this.#areDetached = areDetached;
  }

  /** Returns an image as a layer; mounts it if it is not yet. */
  async layer(image: StoredImage): Promise<ImageLayer> {
    this.#isDataOnly ??= this.#tryDataOnly();
    const isDataOnly = await this.#isDataOnly;
    const mount = this.#areDetached() ? await this.#mount(image) : undefined;
    return { kind: 'image', path: image.path, mount, objects: image.layer, isDataOnly };
  }

  /** Forgets the mount of an image that is to be deleted. */
  async forget(path: string): Promise<void> {
    const mount = this.#mounts.get(path);
    this.#mounts.delete(path);
    if (mount) this.#machine.drop(await mount);
  }

  async #mount({ path }: StoredImage): Promise<number> {
    const known = this.#mounts.get(path);
    if (known) return await known;
    const mount = this.#make(path);
    this.#mounts.set(path, mount);
    mount.catch(() => this.#mounts.delete(path));
    const oldest = this.#mounts.keys().next().value;
    if (this.#mounts.size > MAX_MOUNTS && oldest !== undefined) await this.forget(oldest);
    return await mount;
  }

  async #make(path: string): Promise<number> {
    const object = this.#machine.newObject();
    const p = new Program(this.#machine.abi);
    p.keep(planImageMount(p, path), object);
    await this.#machine.run(`mount image ${JSON.stringify(path)}`, p);
    return object;
  }

  async #tryDataOnly(): Promise<boolean> {
    const base = join(this.#directory, '.try');
    const place = (name: string): string => join(base, name);
    for (const name of ['lower', 'data']) mkdirSync(place(name), { recursive: true, mode: 0o700 });
    const p = new Program(this.#machine.abi);
    const fs = p.sys('fsopen', ['overlay', p.flags('FSOPEN_CLOEXEC')]);
    for (const [key, value] of [
      ['lowerdir', `${place('lower')}::${place('data')}`],
      ['metacopy', 'on'],
    ] as const)
      p.sys('fsconfig', [fs, p.flags('FSCONFIG_SET_STRING'), key, value, 0], { about: `overlay ${key}` });
    p.sys('fsconfig', [fs, p.flags('FSCONFIG_CMD_CREATE'), 0, 0, 0], { about: 'overlay' });
    try {
      await this.#machine.run('try layers of data only', p);
      return true;
    } catch (error) {
      if (error instanceof StepError) return false;
      throw error;
    } finally {
      rmSync(base, { recursive: true });
    }
  }
}
