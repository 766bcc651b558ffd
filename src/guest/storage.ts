/**
 * What a guest's files are made of: which image or tree lies below, and where its own files are.
 *
 *     lib/guests/NAME/template.json             what lies below, and where the guest's own files are
 *     lib/guests/NAME/{upper,work}              its own files, at first
 *     lib/guests/NAME/files-<random>/{upper,work}   its own files, since they were last made a part of its image
 *     lib/guests/NAME/files-<random>/disk       the same two in a file system of their own, which is as large as they may be
 *
 * Where the file system has project quotas the two directories are of the guest's project, so that a limit can come, go
 * and change at any time; else a guest with a limit has the file. Beside them:
 *
 *     lib/guests/NAME/flat                      it has not run since then
 *     lib/guests/NAME/flatten                   its own files are to be made a part of its image before its next start
 *     lib/guests/NAME/rollback                  a configuration, and the files that it comes with
 *
 * A guest that stays keeps the very image it was created with, also when its template changes or goes. To replace image
 * and own files at once, new ones are made beside them, and `template.json` is replaced.
 *
 * Its own files become the store's without a copy (`settle`): they get second names in a working directory of the store;
 * `template.json` binds the guest to the image there; then nobody writes them any more, and objects and image are published.
 * What a crash leaves of the last step is done before anything else is done with the guest.
 */
import { randomBytes } from 'node:crypto';
import { existsSync, lstatSync, mkdirSync, readdirSync, realpathSync, rmSync, writeFileSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { isDeepStrictEqual } from 'node:util';
import { StateError, UserError } from '../base/errors.ts';
import { type GuestName, isGuestName, type Xid } from '../base/ids.ts';
import { IDS_PER_CONTEXT, idRangeOf } from '../context/id-map.ts';
import {
  diskUse,
  fitsDisk,
  growMounted,
  makeDisk,
  resizeDisk,
  waitUntilFree,
} from '../storage/disk-image.ts';
import type { DiskLimit, DiskUse } from '../storage/disk-limit.ts';
import { type GuestFiles, spreadDirectories } from '../storage/guest-dirs.ts';
import type {
  ImageOfTree,
  KeptFiles,
  ObjectTotals,
  RootAttributes,
  TreeOrigin,
} from '../storage/helper/tasks.ts';
import type { HelperOptions, OpenedTree } from '../storage/helper-process.ts';
import { ImageMounts } from '../storage/image-mounts.ts';
import { isOfTemplate } from '../storage/image-names.ts';
import type { Captured, CaptureRequest, ImageStore } from '../storage/image-store.ts';
import type { ImageStores } from '../storage/image-stores.ts';
import { openDirectory, putTimes, removeDirectory, timesOf } from '../storage/machine.ts';
import { fitsLimit, ProjectQuota, planProject, planProjectLimit } from '../storage/project-quota.ts';
import type { PrepareOptions, Template, TemplateStore } from '../storage/templates.ts';
import { DEFAULT_DOMAIN } from '../storage/trust-domain.ts';
import { type QuotaState, UserQuota } from '../storage/user-quota.ts';
import { readIfThere, removeDurable, stageFile, syncAll, writeDurable } from '../sys/files.ts';
import type { Program, Result } from '../sys/program.ts';
import { StepError } from '../sys/syscalld.ts';
import type { GuestConfig } from './config-types.ts';
import { type Guest, isActive } from './guest.ts';
import type { Host } from './host.ts';
import { guestPaths, instanceNumber } from './paths.ts';
import { OVERLAY_CREATE, planDiskDirectories, planOverlay, planUpperDirectory } from './plan-mounts.ts';
import type { FilesSpec, LowerSpec } from './plan-types.ts';

/** What lies below a guest's own files. */
export interface Pin {
  /** The template's name in the configuration: with another name it is another template that counts. */
  readonly name: string;
  /** What lies below, as `parseTemplateSpec` takes it. */
  readonly pinned: string;
  /** The host's /usr is bound over the guest's, though what lies below does not follow the host any more. */
  readonly hostUsr?: boolean;
  /** What it was made from before anything was written, likewise; without, `pinned`. */
  readonly origin?: string;
}

/** What `template.json` holds; a guest that follows the host may have none, or one with files alone. */
interface Record extends Partial<Pin> {
  /** Directory of the guest's own files, below the guest's. */
  readonly files?: string | undefined;
  /** The limit they are kept to: by a project quota, or else by a file system of their own of that size. */
  readonly disk?: DiskLimit | undefined;
  /** The project they are of. */
  readonly project?: number | undefined;
  /** The trust domain in whose store its images are; without, the default one. */
  readonly domain?: string | undefined;
  /** Working directory of the store that has what lies below, which is yet to be published. */
  readonly staged?: string | undefined;
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
  readonly #stores: ImageStores;
  readonly #host: Host;
  readonly #templates: TemplateStore;
  readonly #images: ImageMounts;
  readonly #quota: ProjectQuota;
  readonly #publishing = new Map<GuestName, Promise<ObjectTotals>>();
  /** Quotas of users and groups where guests' own files are. */
  readonly users: UserQuota;

  constructor(host: Host, templates: TemplateStore, stores: ImageStores) {
    this.#host = host;
    this.#templates = templates;
    this.#stores = stores;
    this.#images = new ImageMounts(host.syscalld, host.paths.lib, () => host.detachedLayers);
    const directory = join(host.paths.lib, 'guests');
    this.#quota = new ProjectQuota(host.syscalld, directory, instanceNumber(host.paths.root));
    this.users = new UserQuota(host.syscalld, directory);
  }

  /** Prepares the place of guests' files. Called once objects have ids of their own. */
  async spread(): Promise<void> {
    await spreadDirectories(this.#host.syscalld, join(this.#host.paths.lib, 'guests'));
  }

  /** Prepares the template of a guest that is to be created in a trust domain. */
  async prepare(template: string, domain: string, options: PrepareOptions = {}): Promise<Template> {
    return await this.#templates.prepare(template, this.store(domain), options);
  }

  /** Returns the store of a trust domain. */
  store(domain: string): ImageStore {
    return this.#stores.of(domain);
  }

  /**
   * Returns the store that a guest's images are in, and stay in.
   *
   * @throws UserError trust-domain-fixed
   */
  storeOf({ name, isEphemeral, config }: Guest): ImageStore {
    if (!isEphemeral) this.checkDomain(name, config);
    return this.store(config.trustDomain);
  }

  /** Checks that a configuration leaves a guest in its trust domain. @throws UserError trust-domain-fixed */
  checkDomain(name: GuestName, { trustDomain }: GuestConfig): void {
    // Of the default domain is also what is not recorded: each start would look there whether it has files.
    const found =
      trustDomain === DEFAULT_DOMAIN ? (this.#read(name)?.domain ?? DEFAULT_DOMAIN) : this.#domainOf(name);
    if (found === undefined || found === trustDomain) return;
    throw new UserError(
      'trust-domain-fixed',
      `cannot have guest "${name}" in trust domain "${trustDomain}": found its files in "${found}"; ` +
        'need vserver export, and vserver import with another trustDomain',
    );
  }

  /** A guest whose configuration was written by hand is of the domain in which it is first started. */
  adopt(guest: Guest): void {
    const domain = domainRecord(guest);
    if (domain === undefined || this.#domainOf(guest.name) !== undefined) return;
    this.#write(guest.name, { domain });
  }

  /** Undefined: it has nothing on disk that would be of a domain. */
  #domainOf(name: string): string | undefined {
    const record = this.#read(name);
    if (record !== undefined) return record.domain ?? DEFAULT_DOMAIN;
    const { upper } = guestPaths(this.#host.paths, name);
    return existsSync(upper) && readdirSync(upper).length > 0 ? DEFAULT_DOMAIN : undefined;
  }

  /** Keeps a new guest to what its template is now; undefined: it follows the host. */
  pinOf({ hostUsr, pinnedName }: Template, configured: string): Pin | undefined {
    return hostUsr ? undefined : { name: configured, pinned: pinnedName };
  }

  /**
   * Makes the directories of a new guest what they are to be, and publishes its configuration when all is on the disk:
   * a guest that has none does not exist.
   *
   * @param configText its configuration file
   * @param root attributes of the guest's root; undefined: as they are
   * @throws StateError disk-quota-missing, disk-quota-taken
   */
  async furnish(
    guest: Guest,
    pin: Pin | undefined,
    configText: string,
    root?: RootAttributes,
  ): Promise<void> {
    const paths = guestPaths(this.#host.paths, guest.name);
    const project = await this.#projectFor(guest, undefined, guest.config.disk);
    const disk = project === undefined ? undefined : guest.config.disk;
    if (project !== undefined || root !== undefined)
      await this.#shape((p) => openDirectory(p, paths.upper), root, guest.xid, {
        project,
        work: paths.work,
        disk,
      });
    const domain = domainRecord(guest);
    const record: Record = { ...pin, disk: disk && plain(disk), project, domain };
    const isRecorded = (pin ?? project ?? domain) !== undefined;
    if (isRecorded) writeFileSync(paths.template, JSON.stringify(record), { mode: 0o600 });
    const config = stageFile(paths.config, configText);
    // Of `work` there is nothing but its name, and maybe its project.
    await syncAll([
      ...(isRecorded ? [paths.template] : []),
      ...[config.path, paths.upper, paths.directory, dirname(paths.directory)],
      ...(project === undefined ? [] : [paths.work]),
    ]);
    await config.publish();
  }

  /** Returns what a guest's root starts from. */
  async template(guest: Guest): Promise<Template> {
    const record = guest.isEphemeral ? undefined : this.#read(guest.name);
    if (record?.staged !== undefined) await this.#publish(guest.name);
    const { template } = guest.config;
    const store = this.storeOf(guest);
    if (record?.pinned === undefined || record.name !== template)
      return await this.#templates.prepare(template, store);
    const prepared = await this.#templates.prepare(record.pinned, store);
    return { ...prepared, hostUsr: record.hostUsr ?? prepared.hostUsr };
  }

  /** Returns what lies below a guest's own files, ready to be mounted. */
  async lower({ lower }: Template): Promise<LowerSpec> {
    return lower.kind === 'tree' ? lower : await this.#images.layer(lower);
  }

  /** Returns where a guest's own files are. */
  #files(name: GuestName): FilesSpec {
    const paths = guestPaths(this.#host.paths, name);
    const record = this.#read(name);
    const { files, project, disk } = record ?? {};
    const bound = project === undefined || disk === undefined ? undefined : { project, limit: disk };
    if (record === undefined || files === undefined)
      return { kind: 'directory', upper: paths.upper, work: paths.work, bound };
    const directory = join(paths.directory, files);
    return methodOf(record) === 'image'
      ? { kind: 'disk', disk: diskIn(directory) }
      : { kind: 'directory', ...filesIn(directory), bound };
  }

  /** Returns whether users and groups of a guest are held to limits: where its own files are in the file system of all. */
  async userQuotaState(guest: Guest): Promise<QuotaState> {
    if (guest.isEphemeral || this.#files(guest.name).kind !== 'directory')
      return { user: false, group: false };
    return await this.users.state();
  }

  /** Returns where a guest's own files are, when nobody has them mounted any more. Allowed in: stopped. */
  async freeFiles(guest: Guest, files: FilesSpec = this.#files(guest.name)): Promise<FilesSpec> {
    if (files.kind === 'disk' && !guest.isEphemeral && !isActive(guest)) await waitUntilFree(files.disk);
    return files;
  }

  /**
   * Makes room for a guest's own files as its configuration has it now. Allowed in: stopped.
   *
   * @throws StateError disk-tool-failed, disk-tool-missing, disk-limit-late, disk-limit-small, disk-quota-missing,
   * disk-quota-taken
   */
  async fitFiles(guest: Guest): Promise<void> {
    if (guest.isEphemeral) return;
    const { disk } = guest.config;
    if (this.keepsLimit(guest, disk) || (await this.#limitProject(guest, disk))) return;
    const record = this.#read(guest.name);
    const files = await this.freeFiles(guest);
    if (files.kind === 'disk' && disk && isResized(record?.disk, disk)) {
      await this.#checkFits(guest, files, disk);
      await resizeDisk(this.#host.syscalld, files.disk, disk);
      this.#write(guest.name, { ...record, disk: plain(disk) });
      return;
    }
    const { isEmpty, root } = await this.ownFiles(guest);
    if (isEmpty) {
      await this.replace(guest, { pin: record, root }, false);
      return;
    }
    await this.#checkMovable(guest);
    await this.storeOf(guest).withoutDeleting(async () => {
      await this.settle(guest, {});
    });
  }

  /**
   * Keeps a guest to another limit now, where that can be done while it runs; else its next start does it, if that is possible.
   *
   * @throws StateError disk-limit-small, disk-limit-late, disk-quota-missing, disk-quota-taken
   */
  async changeLimit(guest: Guest, disk: DiskLimit | undefined): Promise<void> {
    if (guest.isEphemeral || this.keepsLimit(guest, disk) || (await this.#limitProject(guest, disk))) return;
    const record = this.#read(guest.name);
    const before = record?.disk;
    const files = this.#files(guest.name);
    await this.#projectFor(guest, record, disk);
    if (files.kind !== 'disk' || disk === undefined || before === undefined || !isResized(before, disk)) {
      // Running, a guest whose files are on a disk is taken to have some.
      const isEmpty = isActive(guest)
        ? files.kind === 'directory' && readdirSync(files.upper).length === 0
        : (await this.ownFiles(guest)).isEmpty;
      if (!isEmpty) await this.#checkMovable(guest);
      return;
    }
    await this.#checkFits(guest, files, disk);
    if (!isActive(guest)) return;
    if (!isDeepStrictEqual({ ...before, spaceBytes: 0 }, { ...plain(disk), spaceBytes: 0 })) return;
    if (await growMounted(this.#host.syscalld, files.disk, before, disk))
      this.#write(guest.name, { ...record, disk: plain(disk) });
  }

  /** Checks that a guest's own files can become a part of its image. @throws StateError disk-limit-late */
  async #checkMovable(guest: Guest): Promise<void> {
    if (await this.flattens(guest)) return;
    throw new StateError(
      'disk-limit-late',
      `cannot change the disk limit of guest "${guest.name}": found files of its own, and that it follows template "${guest.config.template}"; ` +
        'need a clone of it, or the limit it had',
    );
  }

  /** Checks that what is on a guest's disk fits one of another size. @throws StateError disk-limit-small */
  async #checkFits(
    guest: Guest,
    files: Extract<FilesSpec, { kind: 'disk' }>,
    disk: DiskLimit,
  ): Promise<void> {
    // A running guest's root tells of the file system that has its own files (ovl_statfs, fs/overlayfs/super.c).
    const use =
      guest.live && isActive(guest)
        ? diskUse(`/proc/${guest.live.initPid}/root`)
        : await this.#host.withOpened(
            `look at the disk of guest "${guest.name}"`,
            (p) => planUpperDirectory(p, files),
            diskUse,
          );
    await this.freeFiles(guest, files);
    if (!fitsDisk(use, disk)) throw limitTooSmall(guest.name, disk, use);
  }

  /** Whether a guest's own files are kept to a limit already. */
  keepsLimit(guest: Guest, disk: DiskLimit | undefined): boolean {
    return isDeepStrictEqual(this.#read(guest.name)?.disk, disk && plain(disk));
  }

  /** Returns false if it takes more than a quota to keep the guest to its limit. */
  async #limitProject(guest: Guest, disk: DiskLimit | undefined): Promise<boolean> {
    const record = this.#read(guest.name);
    if (record?.project === undefined || disk?.method === 'image') return false;
    const use = await this.#quota.use(record.project);
    if (disk !== undefined && !fitsLimit(use, disk)) throw limitTooSmall(guest.name, disk, use);
    await this.#quota.limit(record.project, disk);
    this.#write(guest.name, { ...record, disk: disk && plain(disk) });
    return true;
  }

  /** The guest's files are about to be deleted: nothing is bounded any more. */
  async release(name: GuestName): Promise<void> {
    const { project, disk } = this.#read(name) ?? {};
    if (project !== undefined && disk !== undefined) await this.#quota.limit(project, undefined);
  }

  /**
   * Returns the project that a guest's new files are to be of, if any.
   *
   * @throws StateError disk-quota-missing, disk-quota-taken
   */
  async #projectFor(
    guest: Guest,
    record: Record | undefined,
    disk: DiskLimit | undefined,
  ): Promise<number | undefined> {
    if (disk?.method === 'image') return undefined;
    if (disk && disk.method === undefined && record && methodOf(record) === 'image') return undefined;
    const mustHave = disk?.method === 'quota';
    const directory = join(this.#host.paths.lib, 'guests');
    if (!(await this.#quota.isThere())) {
      if (!mustHave) return undefined;
      throw new StateError(
        'disk-quota-missing',
        `cannot limit the disk of guest "${guest.name}" by quota: found no project quota in force on the file system of ${JSON.stringify(directory)}; ` +
          'need ext4 or xfs mounted with prjquota, or disk.method=image',
      );
    }
    const project = this.#quota.idOf(guest.xid);
    if (record?.project === project || (await this.#quota.isFree(project))) return project;
    if (!mustHave) return undefined;
    throw new StateError(
      'disk-quota-taken',
      `cannot limit the disk of guest "${guest.name}" by quota: found project ${project} in use on the file system of ${JSON.stringify(directory)}; ` +
        'need a guest with another xid, or disk.method=image',
    );
  }

  /** The guest is about to write: what its image holds is not all any more. */
  isAboutToRun(name: GuestName): void {
    const mark = this.#flatMark(name);
    if (existsSync(mark)) rmSync(mark); // without, this takes a third of the time
  }

  /** Lists the trust domains that have a store, the default one among them. */
  domains(): readonly string[] {
    return [...new Set([DEFAULT_DOMAIN, ...this.#stores.list()])].sort();
  }

  /**
   * Tells which images of a trust domain its guests and their snapshots are made of. Those of templates stay, for guests
   * to come; but undefined if the domain has no guest any more.
   *
   * @param configs of the guests there are
   */
  isNeeded(
    domain: string,
    snapshots: (guest: string) => readonly Pin[],
    configs: readonly GuestConfig[],
  ): ((image: string) => boolean) | undefined {
    const isOf = (found: string | undefined): boolean => found === undefined || found === domain;
    const guests = this.#host.listGuestDirectories().filter((name) => isOf(this.#domainOf(name)));
    const templates = configs
      .filter(({ trustDomain }) => trustDomain === domain)
      .map(({ template }) => template);
    const pins = guests.flatMap((name) => [this.#read(name), ...snapshots(name)]);
    const isUsed = domain === DEFAULT_DOMAIN || templates.length > 0 || pins.some((pin) => pin !== undefined);
    if (!isUsed) return undefined;
    const pinned = new Set([...templates, ...pins.flatMap((pin) => [pin?.pinned, pin?.origin])]);
    return (image) => pinned.has(image) || isOfTemplate(image);
  }

  /**
   * Makes an image of a guest's files as they are, and changes nothing of the guest. Allowed in: stopped, frozen.
   *
   * @param isDryRun only says what the image would take
   * @param exclude patterns of files of its own that are to stay so (helper/exclusions.ts)
   * @throws StateError cancelled, store-full, tree-too-big, tree-too-deep, foreign-owner
   */
  async flatten(
    guest: Guest,
    options: HelperOptions,
    isDryRun = false,
    exclude: readonly string[] = [],
  ): Promise<FlatGuest> {
    const store = this.storeOf(guest);
    const unwritten = await this.#unwritten(guest);
    if (unwritten) return unwritten;
    return await this.#flatten(
      guest,
      exclude,
      async (request) =>
        await store.withWorkDir(
          async (workDir) => await store.capture({ ...request, isDryRun }, workDir, options),
        ),
    );
  }

  /**
   * Makes a guest's files an image, from which it goes on with no files of its own but those that are excluded. Its files
   * become the store's without a copy, where that can be. Allowed in: stopped, of a guest that `flattens`.
   *
   * @param exclude patterns of files of its own that are to stay so (helper/exclusions.ts)
   * @throws StateError cancelled, store-full, tree-too-big, tree-too-deep, foreign-owner
   */
  async settle(guest: Guest, options: HelperOptions, exclude: readonly string[] = []): Promise<FlatGuest> {
    const store = this.storeOf(guest);
    const unwritten = await this.#unwritten(guest);
    if (unwritten) return unwritten;
    return await store.withWorkDir(async (workDir, keep) => {
      const flat = await this.#flatten(
        guest,
        exclude,
        async (request, origin) =>
          await store.capture({ ...request, origin, isStaged: true }, workDir, options),
      );
      const { captured } = flat;
      await this.replace(guest, flat, true, { name: basename(workDir), keep });
      // Others may have added the same meanwhile.
      const { objects: newObjects, bytes: newBytes } = await this.#publish(guest.name);
      await this.sweep(guest.name);
      return { ...flat, captured: { ...captured, newObjects, newBytes } };
    });
  }

  /** A guest that has no files of its own: what lies below is all there is of it. */
  async #unwritten(guest: Guest): Promise<FlatGuest | undefined> {
    if (isActive(guest)) return undefined;
    const template = await this.template(guest);
    if (template.lower.kind !== 'image') return undefined;
    const { isEmpty, root } = await this.ownFiles(guest);
    if (!isEmpty) return undefined;
    return { pin: this.#pinTo(template.lower.name, guest, template), root, captured: undefined };
  }

  /** Binds a guest to an image of its files. */
  #pinTo(pinned: string, guest: Guest, template: Template): Pin {
    const origin = this.#originOf(guest, template);
    return { name: guest.config.template, hostUsr: template.hostUsr, origin, pinned };
  }

  /** @param capture makes an image of the guest's tree; how, if it is left afterwards, is said too */
  async #flatten(
    guest: Guest,
    exclude: readonly string[],
    capture: (request: CaptureRequest, origin: TreeOrigin) => Promise<Captured>,
  ): Promise<FlatGuest & { readonly captured: Captured }> {
    const template = await this.template(guest);
    const request = { ...(await this.#treeOf(guest, template)), exclude };
    // A file has no second name in another file system, nor in another project.
    const isOfProject = this.#read(guest.name)?.project !== undefined;
    const origin =
      !isActive(guest) && this.#files(guest.name).kind === 'directory' && !isOfProject ? 'left' : 'still';
    const captured = await retryWhileBusy(async () => await capture(request, origin));
    return { pin: this.#pinTo(captured.image.name, guest, template), root: captured.root, captured };
  }

  /** Publishes what lies below a guest's own files, if that is yet to be done. */
  async #publish(name: GuestName): Promise<ObjectTotals> {
    const work = this.#publishing.get(name) ?? this.#publishNow(name);
    this.#publishing.set(name, work);
    try {
      return await work;
    } finally {
      this.#publishing.delete(name);
    }
  }

  async #publishNow(name: GuestName): Promise<ObjectTotals> {
    const { staged, ...record } = this.#read(name) ?? {};
    if (staged === undefined || record.pinned === undefined) return { objects: 0, bytes: 0 };
    const store = this.store(record.domain ?? DEFAULT_DOMAIN);
    const totals = await store.publishStaged(staged, record.pinned);
    this.#write(name, record);
    await store.discardStaged(staged);
    return totals;
  }

  /** The same of all guests, after which the images tell what is needed. */
  async publishAll(): Promise<void> {
    for (const name of this.#host.listGuestDirectories()) if (isGuestName(name)) await this.#publish(name);
  }

  /** Calls `body` with an image of a guest's files as they are, that is in no store. Allowed in: stopped, frozen. */
  async withImageOf<T>(
    guest: Guest,
    options: HelperOptions,
    body: (image: ImageOfTree) => Promise<T>,
  ): Promise<T> {
    const template = await this.template(guest);
    const request = { ...(await this.#treeOf(guest, template)), isDryRun: true };
    const store = this.storeOf(guest);
    return await store.withWorkDir(async (workDir) => {
      const { image, root } = await retryWhileBusy(
        async () => await store.capture(request, workDir, options),
      );
      return await body({ image: image.path, root });
    });
  }

  /** Calls `body` with an image of what a template's name stands for, be it a directory. */
  async withImageOfTemplate<T>(
    pinned: string,
    store: ImageStore,
    options: HelperOptions,
    body: (image: ImageOfTree) => Promise<T>,
  ): Promise<T> {
    const { lower } = await this.#templates.prepare(pinned, store);
    if (lower.kind === 'image') return await body({ image: lower.path });
    const request = {
      what: `read template "${pinned}"`,
      openTree: (p: Program) => ({ tree: openDirectory(p, lower.path) }),
      isDryRun: true,
    };
    return await store.withWorkDir(async (workDir) => {
      const { image } = await store.capture(request, workDir, options);
      return await body({ image: image.path });
    });
  }

  /** Directories of a guest's own files. */
  ownDirectories(name: GuestName): readonly string[] {
    const files = this.#files(name);
    return files.kind === 'disk' ? [dirname(files.disk)] : [files.upper, files.work];
  }

  /** The name of what lies below a guest's own files; undefined: it follows the host. */
  pinned(name: GuestName): string | undefined {
    return this.#read(name)?.pinned;
  }

  /** The name of what a guest was made from. */
  async origin(guest: Guest): Promise<string> {
    return this.#originOf(guest, await this.template(guest));
  }

  #originOf(guest: Guest, { pinnedName }: Template): string {
    const record = guest.isEphemeral ? undefined : this.#read(guest.name);
    return (record?.name === guest.config.template ? record.origin : undefined) ?? pinnedName;
  }

  /** The tree that a guest sees, to be made an image of. */
  async #treeOf(guest: Guest, template: Template): Promise<CaptureRequest> {
    const { hostUsr, lower } = template;
    const isStopped = !isActive(guest);
    const { hostBase } = idRangeOf(guest.xid);
    const lowerSpec = await this.lower(template);
    const files = await (isStopped ? this.freeFiles(guest) : this.#files(guest.name));
    return {
      what: `read the files of guest "${guest.name}"`,
      openTree: (p) =>
        isStopped ? this.#openFiles(p, guest, files, lowerSpec, hostUsr) : { tree: openRunning(p, guest) },
      base: lower.kind === 'image' ? lower : undefined,
      hostBase,
      hasLayer: isStopped,
    };
  }

  /**
   * Gives a guest another image and no files of its own over it, in one step. Allowed in: stopped.
   *
   * @param flat `captured` says what of its own files it keeps
   * @param isFlat the image is what the guest had
   * @param staged the working directory that has the image, which is yet to be published; `keep` makes it stay
   * @param configText a configuration file that takes the place of its own in the same step
   */
  async replace(
    guest: Guest,
    {
      pin,
      root,
      captured,
    }: {
      readonly pin: Partial<Pin> | undefined;
      readonly root: RootAttributes;
      readonly captured?: Captured | undefined;
    },
    isFlat: boolean,
    staged?: { readonly name: string; readonly keep: () => void },
    configText?: string,
  ): Promise<void> {
    await this.#publish(guest.name);
    const { disk } = guest.config;
    const { directory } = guestPaths(this.#host.paths, guest.name);
    const fresh = `files-${randomBytes(6).toString('hex')}`;
    const before = this.#read(guest.name);
    const project = await this.#projectFor(guest, before, disk);
    // What is new counts beside what is there, until that goes; the next start bounds it again, should we not get to it.
    const isLifted = project !== undefined && disk !== undefined && project === before?.project;
    if (isLifted) this.#write(guest.name, { ...before, disk: undefined });
    const bound = isLifted ? undefined : disk;
    const files = await this.#makeFiles(join(directory, fresh), guest, project, bound, root);
    if (captured && captured.kept.files.length > 0) await this.#carry(guest, files, captured.kept, root);
    if (isLifted) await this.#quota.limit(project, disk);
    await syncAll([directory]);
    if (!isFlat) removeDurable(this.#flatMark(guest.name));
    staged?.keep();
    if (configText !== undefined)
      writeDurable(this.#rollbackMark(guest.name), JSON.stringify({ files: fresh, config: configText }));
    this.#write(guest.name, {
      ...pin,
      files: fresh,
      disk: disk && plain(disk),
      project,
      domain: domainRecord(guest),
      staged: staged?.name,
    });
    if (configText !== undefined) this.#finishRollback(guest.name);
    if (isFlat) this.markFlat(guest.name);
    if (staged === undefined) await this.sweep(guest.name);
    if (before?.disk && before.project !== undefined && before.project !== project)
      await this.#quota.limit(before.project, undefined);
  }

  /** Gives guests whose files are those of a snapshot the configuration too. Called before configurations are read. */
  finishRollbacks(): void {
    const directory = join(this.#host.paths.lib, 'guests');
    for (const name of existsSync(directory) ? readdirSync(directory) : []) this.#finishRollback(name);
  }

  #finishRollback(name: string): void {
    const mark = this.#rollbackMark(name);
    const text = readIfThere(mark);
    if (text === undefined) return;
    const { files, config } = JSON.parse(text) as { files: string; config: string }; // our own file
    // Else the files were not replaced any more.
    if (this.#read(name)?.files === files) writeDurable(guestPaths(this.#host.paths, name).config, config);
    removeDurable(mark);
  }

  /** Gives what a guest keeps a name below its new upper layer too, before that is the guest's. */
  async #carry(guest: Guest, fresh: FilesSpec, kept: KeptFiles, root: RootAttributes): Promise<void> {
    const files = await this.freeFiles(guest);
    const { hostBase } = idRangeOf(guest.xid);
    const openLayers = (p: Program): Required<OpenedTree> => ({
      tree: planUpperDirectory(p, files),
      layer: planUpperDirectory(p, fresh),
    });
    await this.storeOf(guest).carry(openLayers, hostBase, kept);
    await this.freeFiles(guest, fresh);
    await this.#shape((p) => planUpperDirectory(p, fresh), root, guest.xid);
    if (fresh.kind === 'directory') return;
    await this.freeFiles(guest, fresh);
    await syncAll([fresh.disk]);
  }

  /**
   * Whether a guest can go on from an image of its files: not if what lies below shall follow the host or a directory.
   */
  async flattens(guest: Guest): Promise<boolean> {
    const { lower, hostUsr } = await this.template(guest);
    return !hostUsr && lower.kind === 'image';
  }

  /** @throws UserError template-followed */
  async checkFlattens(guest: Guest, verb: string): Promise<void> {
    if (await this.flattens(guest)) return;
    throw new UserError(
      'template-followed',
      `cannot ${verb} guest "${guest.name}": found that it follows template "${guest.config.template}"; need one on an image, for example a clone of it`,
    );
  }

  /** A guest is about to move to another xid. */
  markMoving(name: GuestName): void {
    writeDurable(this.#moveMark(name), '');
  }

  /** It has. */
  unmarkMoving(name: GuestName): void {
    removeDurable(this.#moveMark(name));
  }

  /** Whether that is so. */
  isMoving(name: GuestName): boolean {
    return existsSync(this.#moveMark(name));
  }

  /** Makes the directories of a guest's own files anew if they are empty. Allowed in: stopped. */
  async renew(guest: Guest): Promise<void> {
    const { isEmpty, root } = await this.ownFiles(guest);
    if (!isEmpty) return;
    await this.replace(guest, { pin: this.#pin(guest.name), root }, this.isFlat(guest.name));
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

  /** Publishes what a guest has left to the store, and deletes files that it once had, or was to have. */
  async sweep(name: GuestName): Promise<void> {
    await this.#publish(name);
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
  #openFiles(p: Program, guest: Guest, upper: FilesSpec, lower: LowerSpec, hostUsr: boolean): OpenedTree {
    const { attachPoint: attachAt, detachedLayers } = this.#host;
    // Before the overlay: on older kernels that is in another mount namespace, to which no second name leads.
    const own = upper.kind === 'directory' ? openDirectory(p, upper.upper) : undefined;
    const overlay = planOverlay(
      p,
      { lower, upper, attachAt, detachedLayers, hostUsr, readonly: true },
      idRangeOf(guest.xid),
      undefined,
    );
    return { tree: overlay.mount, layer: own ?? overlay.upper };
  }

  /** Whether a guest has files of its own, and what attributes its root has. Allowed in: stopped. */
  async ownFiles(guest: Guest): Promise<{ readonly isEmpty: boolean; readonly root: RootAttributes }> {
    const files = await this.freeFiles(guest);
    const look = (path: string): { readonly isEmpty: boolean; readonly root: RootAttributes } => {
      const { mode, uid, gid, mtimeNs } = lstatSync(path, { bigint: true });
      const root = {
        mode: Number(mode) & 0o7777,
        // In the range of this guest, or of the xid it had (retag.ts).
        uid: Number(uid) % IDS_PER_CONTEXT,
        gid: Number(gid) % IDS_PER_CONTEXT,
        ...timesOf(mtimeNs),
      };
      return { isEmpty: readdirSync(path).length === 0, root };
    };
    if (files.kind === 'directory') return look(files.upper);
    const what = `look at the files of guest "${guest.name}"`;
    return await this.#host.withOpened(what, (p) => planUpperDirectory(p, files), look);
  }

  async #makeFiles(
    directory: string,
    { xid }: Guest,
    project: number | undefined,
    disk: DiskLimit | undefined,
    root: RootAttributes,
  ): Promise<FilesSpec> {
    mkdirSync(directory, { mode: 0o700 });
    if (disk && project === undefined) {
      const path = diskIn(directory);
      await makeDisk(this.#host.syscalld, path, disk);
      await this.#shape((p) => planDiskDirectories(p, path), root, xid);
      // Nothing of it is in memory only, once nobody has it mounted, but the file itself.
      await waitUntilFree(path);
      await syncAll([path, directory]);
      return { kind: 'disk', disk: path };
    }
    const { upper, work } = filesIn(directory);
    for (const path of [upper, work]) mkdirSync(path, { mode: 0o700 });
    await this.#shape((p) => openDirectory(p, upper), root, xid, { project, work, disk });
    await syncAll([upper, work, directory]);
    return { kind: 'directory', upper, work };
  }

  /** Gives a guest's root its attributes, and its own files their project. */
  async #shape(
    open: (p: Program) => Result,
    root: RootAttributes | undefined,
    xid: Xid,
    quota?: {
      readonly project: number | undefined;
      readonly work: string;
      readonly disk: DiskLimit | undefined;
    },
  ): Promise<void> {
    const p = this.#host.program();
    const fd = planReadable(p, open(p));
    if (quota?.project !== undefined) {
      planProjectLimit(p, fd, quota.project, quota.disk);
      for (const directory of [fd, openDirectory(p, quota.work)]) planProject(p, directory, quota.project);
    }
    if (root) planRootAttributes(p, fd, root, idRangeOf(xid).hostBase);
    await this.#host.syscalld.run('make the files of a guest', p);
  }

  #flatMark(name: string): string {
    return join(guestPaths(this.#host.paths, name).directory, 'flat');
  }

  #rollbackMark(name: string): string {
    return join(guestPaths(this.#host.paths, name).directory, 'rollback');
  }

  #moveMark(name: string): string {
    return join(guestPaths(this.#host.paths, name).directory, 'retag');
  }

  #pin(name: string): Partial<Pin> | undefined {
    const { files: _, disk: __, staged: ___, ...pin } = this.#read(name) ?? {};
    return pin;
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

/** As a guest's record has its trust domain. */
function domainRecord({ config: { trustDomain } }: Guest): string | undefined {
  return trustDomain === DEFAULT_DOMAIN ? undefined : trustDomain;
}

/** What is open as a place only, open for more. */
function planReadable(p: Program, place: Result): Result {
  return p.sys('openat', [place, '.', p.flags('O_RDONLY', 'O_DIRECTORY', 'O_CLOEXEC'), 0], {
    about: 'root of the guest',
  });
}

function planRootAttributes(p: Program, fd: Result, root: RootAttributes, hostBase: number): void {
  p.sys('fchown', [fd, root.uid + hostBase, root.gid + hostBase], { about: 'root of the guest' });
  p.sys('fchmod', [fd, root.mode], { about: 'root of the guest' });
  p.sys('utimensat', [fd, 0, putTimes(p, root), 0], { about: 'root of the guest' });
}

/** What keeps a guest's own files to a limit, or could. */
function methodOf({ project, disk }: Record): 'quota' | 'image' | 'none' {
  if (project !== undefined) return 'quota';
  return disk === undefined ? 'none' : 'image';
}

/** Whether a disk is given another size; else it is made anew, for what has become a part of the image. */
function isResized(before: DiskLimit | undefined, after: DiskLimit): boolean {
  return after.method !== 'quota' && before?.inodes === after.inodes;
}

function limitTooSmall(name: GuestName, disk: DiskLimit, { spaceBytes, inodes }: DiskUse): StateError {
  return new StateError(
    'disk-limit-small',
    `cannot limit the disk of guest "${name}" to ${describeLimit(disk)}: found ${spaceBytes} bytes and ${inodes} inodes in use; need room for them`,
  );
}

function describeLimit({ spaceBytes, reservedPercent, inodes }: DiskLimit): string {
  const reserved = reservedPercent > 0 ? ` with ${reservedPercent} % reserved` : '';
  return `${spaceBytes} bytes${reserved}${inodes === undefined ? '' : ` and ${inodes} inodes`}`;
}

/** As it is read back from a file. */
function plain(limit: DiskLimit): DiskLimit {
  return JSON.parse(JSON.stringify(limit)) as DiskLimit; // of the same type
}

function diskIn(directory: string): string {
  return join(directory, 'disk');
}

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
