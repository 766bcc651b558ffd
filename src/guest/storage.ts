/**
 * What a guest's files are made of: which image or tree lies below, and where its own files are.
 *
 *     lib/guests/NAME/template.json             what lies below, and where the guest's own files are
 *     lib/guests/NAME/{upper,work}              its own files, at first
 *     lib/guests/NAME/files-<random>/{upper,work}   its own files, since they were last made a part of its image
 *     lib/guests/NAME/flat                      it has not run since then
 *     lib/guests/NAME/flatten                   its own files are to be made a part of its image before its next start
 *
 * A guest that stays keeps the very image it was created with, also when its template changes or goes. To replace image
 * and own files at once, new ones are made beside them, and `template.json` is replaced.
 */
import { randomBytes } from 'node:crypto';
import { existsSync, lstatSync, mkdirSync, readdirSync, realpathSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { UserError } from '../base/errors.ts';
import type { GuestName } from '../base/ids.ts';
import { idRangeOf } from '../context/id-map.ts';
import type { GuestFiles } from '../storage/guest-dirs.ts';
import type { RootAttributes } from '../storage/helper/tasks.ts';
import type { HelperOptions } from '../storage/helper-process.ts';
import { ImageMounts } from '../storage/image-mounts.ts';
import type { Captured, ImageStore } from '../storage/image-store.ts';
import { openDirectory, removeDirectory } from '../storage/machine.ts';
import type { Template, TemplateStore } from '../storage/templates.ts';
import { readIfThere, removeDurable, syncDirectory, writeDurable } from '../sys/files.ts';
import type { Program, Result } from '../sys/program.ts';
import { StepError } from '../sys/syscalld.ts';
import { type Guest, isActive } from './guest.ts';
import type { Host } from './host.ts';
import { guestPaths } from './paths.ts';
import { OVERLAY_CREATE, planOverlay } from './plan-mounts.ts';
import type { LowerSpec } from './plan-types.ts';

/** What lies below a guest's own files. */
export interface Pin {
  /** The template's name in the configuration: with another name it is another template that counts. */
  readonly name: string;
  /** What lies below, as `parseTemplateSpec` takes it. */
  readonly pinned: string;
  /** The host's /usr is bound over the guest's, though what lies below does not follow the host any more. */
  readonly hostUsr?: boolean;
}

/** What `template.json` holds. */
interface Record extends Pin {
  /** Directory of the guest's own files, below the guest's. */
  readonly files?: string;
}

/** A guest's files as an image. */
export interface FlatGuest {
  readonly pin: Pin;
  readonly root: RootAttributes;
  /** What had to be added to the store; undefined: nothing was read, for nothing had changed. */
  readonly captured: Captured | undefined;
}

const FILES = /^files-[\da-f]+$/;
const BUSY_TIMEOUT_MS = 5000;
const BUSY_POLL_MS = 10;

/** Finds what guests' files are made of, and changes it. */
export class GuestStorage {
  readonly store: ImageStore;
  readonly #host: Host;
  readonly #templates: TemplateStore;
  readonly #images: ImageMounts;

  constructor(host: Host, templates: TemplateStore, store: ImageStore) {
    this.#host = host;
    this.#templates = templates;
    this.store = store;
    this.#images = new ImageMounts(host.syscalld, host.paths.lib, () => host.detachedLayers);
  }

  /** Prepares the template of a guest that is to be created. */
  async prepare(template: string): Promise<Template> {
    return await this.#templates.prepare(template);
  }

  /** Keeps a new guest to what its template is now; undefined: it follows the host. */
  pinOf({ hostUsr, pinnedName }: Template, configured: string): Pin | undefined {
    return hostUsr ? undefined : { name: configured, pinned: pinnedName };
  }

  /** Says what a guest without files of its own yet is to be made of. */
  pin(name: GuestName, pin: Pin | undefined): void {
    if (pin) this.#write(name, pin);
  }

  /** Returns what a guest's root starts from. */
  async template(guest: Guest): Promise<Template> {
    const record = guest.isEphemeral ? undefined : this.#read(guest.name);
    const { template } = guest.config;
    if (record?.name !== template) return await this.#templates.prepare(template);
    const prepared = await this.#templates.prepare(record.pinned);
    return { ...prepared, hostUsr: record.hostUsr ?? prepared.hostUsr };
  }

  /** Returns what lies below a guest's own files, ready to be mounted. */
  async lower({ lower }: Template): Promise<LowerSpec> {
    return lower.kind === 'tree' ? lower : await this.#images.layer(lower);
  }

  /** Returns where a guest's own files are. */
  files(name: GuestName): GuestFiles {
    const paths = guestPaths(this.#host.paths, name);
    const files = this.#read(name)?.files;
    return files === undefined ? paths : filesIn(join(paths.directory, files));
  }

  /** The guest is about to write: what its image holds is not all any more. */
  isAboutToRun(name: GuestName): void {
    rmSync(this.#flatMark(name), { force: true });
  }

  /** Names of the images that guests and their snapshots are made of. Those of templates stay, for guests to come. */
  isNeeded(
    snapshots: (guest: string) => readonly Pin[],
    templates: readonly string[],
  ): (image: string) => boolean {
    const guests = this.#host.listGuestDirectories();
    const pins = guests.flatMap((name) => [this.#read(name), ...snapshots(name)]);
    const pinned = new Set([...templates, ...pins.map((pin) => pin?.pinned)]);
    return (image) => pinned.has(image) || !image.startsWith('image-');
  }

  /**
   * Makes an image of a guest's files as they are, and changes nothing of the guest. Allowed in: stopped, frozen.
   *
   * @param isDryRun only says what the image would take
   * @throws StateError cancelled, store-full, tree-too-big, tree-too-deep, foreign-owner
   */
  async flatten(guest: Guest, options: HelperOptions, isDryRun = false): Promise<FlatGuest> {
    const template = await this.template(guest);
    const { hostUsr, lower } = template;
    const { template: name } = guest.config;
    const isStopped = !isActive(guest);
    if (isStopped && lower.kind === 'image' && this.#isUpperEmpty(guest)) {
      const pin = { name, pinned: lower.name, hostUsr };
      return { pin, root: this.#rootOf(guest), captured: undefined };
    }
    const { hostBase } = idRangeOf(guest.xid);
    const lowerSpec = await this.lower(template);
    const request = {
      what: `read the files of guest "${guest.name}"`,
      openTree: (p: Program) =>
        isStopped ? this.#openFiles(p, guest, lowerSpec, hostUsr) : openRunning(p, guest),
      base: lower.kind === 'image' ? lower : undefined,
      hostBase,
      own: isStopped ? this.files(guest.name).upper : undefined,
      isDryRun,
    };
    const captured = await retryWhileBusy(
      async () =>
        await this.store.withWorkDir(async (workDir) => await this.store.capture(request, workDir, options)),
    );
    return { pin: { name, pinned: captured.image.name, hostUsr }, root: captured.root, captured };
  }

  /**
   * Gives a guest another image and no files of its own over it, in one step. Allowed in: stopped.
   *
   * @param isFlat the image is what the guest had
   */
  async replace(
    guest: Guest,
    { pin, root }: Pick<FlatGuest, 'pin' | 'root'>,
    isFlat: boolean,
  ): Promise<void> {
    const { directory } = guestPaths(this.#host.paths, guest.name);
    const fresh = `files-${randomBytes(6).toString('hex')}`;
    await this.#makeFiles(join(directory, fresh), root, idRangeOf(guest.xid).hostBase);
    syncDirectory(directory);
    if (!isFlat) removeDurable(this.#flatMark(guest.name));
    this.#write(guest.name, { ...pin, files: fresh });
    if (isFlat) this.markFlat(guest.name);
    await this.sweep(guest.name);
  }

  /** Gives a guest that was just created the root's attributes of another one. */
  async shapeRoot(guest: Guest, root: RootAttributes): Promise<void> {
    await this.#shape(this.files(guest.name).upper, root, idRangeOf(guest.xid).hostBase);
  }

  /**
   * Whether a guest can go on from an image of its files: not if what lies below shall follow the host or a directory.
   */
  async flattens(guest: Guest): Promise<boolean> {
    const { lower, hostUsr } = await this.template(guest);
    return !hostUsr && lower.kind === 'image';
  }

  /** @throws UserError template-followed */
  async checkFlattens(guest: Guest): Promise<void> {
    if (await this.flattens(guest)) return;
    throw new UserError(
      'template-followed',
      `cannot unify guest "${guest.name}": found that it follows template "${guest.config.template}"; need one on an image, for example a clone of it`,
    );
  }

  /** The guest's files are to be made an image before its next start. */
  flattenLater(name: GuestName): void {
    writeDurable(this.#dueMark(name), '');
  }

  /** Whether that is so. */
  isFlatteningDue(name: GuestName): boolean {
    return existsSync(this.#dueMark(name));
  }

  /** The guest's image is all there is of it. */
  markFlat(name: GuestName): void {
    writeFileSync(this.#flatMark(name), '');
    rmSync(this.#dueMark(name), { force: true });
  }

  /** Whether the guest's image is all there is of it, as far as is known without looking. */
  isFlat(name: GuestName): boolean {
    return existsSync(this.#flatMark(name));
  }

  /** Deletes files that a guest once had, or was to have. */
  async sweep(name: GuestName): Promise<void> {
    const { directory } = guestPaths(this.#host.paths, name);
    const files = this.#read(name)?.files;
    const isOld = (entry: string): boolean =>
      (FILES.test(entry) && entry !== files) || (files !== undefined && /^(?:upper|work)$/.test(entry));
    for (const entry of readdirSync(directory).filter(isOld)) {
      const what = `delete old files of guest "${name}"`;
      await retryWhileBusy(
        async () => await removeDirectory(this.#host.syscalld, what, realpathSync.native(directory), entry),
      );
    }
  }

  /** The overlay that the guest has while it runs, read-only: only so the kernel tells which of its files are one. */
  #openFiles(p: Program, guest: Guest, lower: LowerSpec, hostUsr: boolean): Result {
    const upper = { kind: 'directory', ...this.files(guest.name) } as const;
    const { attachPoint: attachAt, detachedLayers } = this.#host;
    return planOverlay(
      p,
      { lower, upper, attachAt, detachedLayers, hostUsr, readonly: true },
      idRangeOf(guest.xid),
      undefined,
    );
  }

  #isUpperEmpty(guest: Guest): boolean {
    return readdirSync(this.files(guest.name).upper).length === 0;
  }

  #rootOf(guest: Guest): RootAttributes {
    const { mode, uid, gid, mtimeNs } = lstatSync(this.files(guest.name).upper, { bigint: true });
    const { hostBase } = idRangeOf(guest.xid);
    return {
      mode: Number(mode) & 0o7777,
      uid: Number(uid) - hostBase,
      gid: Number(gid) - hostBase,
      mtimeSeconds: Number(mtimeNs / NS),
      mtimeNanoseconds: Number(mtimeNs % NS),
    };
  }

  async #makeFiles(directory: string, root: RootAttributes, hostBase: number): Promise<void> {
    const { upper, work } = filesIn(directory);
    for (const path of [directory, upper, work]) mkdirSync(path, { mode: 0o700 });
    await this.#shape(upper, root, hostBase);
    for (const path of [upper, work, directory]) syncDirectory(path);
  }

  async #shape(upper: string, root: RootAttributes, hostBase: number): Promise<void> {
    const p = this.#host.program();
    const fd = openDirectory(p, upper);
    p.sys('fchown', [fd, root.uid + hostBase, root.gid + hostBase], { about: upper });
    p.sys('fchmod', [fd, root.mode], { about: upper });
    // struct timespec, of the last access and of the last change: Node has no nanoseconds.
    const times = p.data(32, 'times');
    for (const at of [0, 16]) {
      p.put(times.at(at), root.mtimeSeconds, 8);
      p.put(times.at(at + 8), root.mtimeNanoseconds, 8);
    }
    p.sys('utimensat', [fd, 0, times, 0], { about: upper });
    await this.#host.syscalld.run(`make ${JSON.stringify(upper)}`, p);
  }

  #flatMark(name: string): string {
    return join(guestPaths(this.#host.paths, name).directory, 'flat');
  }

  #dueMark(name: string): string {
    return join(guestPaths(this.#host.paths, name).directory, 'flatten');
  }

  #read(name: string): Record | undefined {
    const text = readIfThere(guestPaths(this.#host.paths, name).template);
    return text === undefined ? undefined : (JSON.parse(text) as Record); // our own file
  }

  #write(name: string, record: Record): void {
    writeDurable(guestPaths(this.#host.paths, name).template, JSON.stringify(record));
  }
}

const NS = 1_000_000_000n;

function filesIn(directory: string): GuestFiles {
  return { upper: join(directory, 'upper'), work: join(directory, 'work') };
}

/** A copy of the mount that a running guest has as its root, without those on it. Made in the guest's mount namespace. */
function openRunning(p: Program, guest: Guest): Result {
  const own = p.sys(
    'openat',
    [p.flags('AT_FDCWD'), '/proc/self/ns/mnt', p.flags('O_RDONLY', 'O_CLOEXEC'), 0],
    {
      about: 'own mount namespace',
    },
  );
  p.sys('setns', [p.import(guest.live?.initObject ?? 0), p.flags('CLONE_NEWNS')], {
    about: 'mounts of the guest',
  });
  const tree = p.sys(
    'open_tree',
    [p.flags('AT_FDCWD'), '/', p.flags('OPEN_TREE_CLONE', 'OPEN_TREE_CLOEXEC')],
    {
      about: 'root of the guest',
    },
  );
  p.sys('setns', [own, p.flags('CLONE_NEWNS')], { about: 'own mounts' });
  return tree;
}

/** The kernel gives the mounts of a run up a moment after its end (delayed_mntput, fs/namespace.c). */
async function retryWhileBusy<T>(work: () => Promise<T>): Promise<T> {
  const deadlineMs = performance.now() + BUSY_TIMEOUT_MS;
  for (;;) {
    try {
      return await work();
    } catch (error) {
      const isBusy =
        error instanceof StepError && error.step === OVERLAY_CREATE && error.errnoName === 'EBUSY';
      if (!isBusy || performance.now() > deadlineMs) throw error;
      await sleep(BUSY_POLL_MS);
    }
  }
}
