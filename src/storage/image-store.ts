/**
 * The unified store: what images share.
 *
 *     <directory>/layer/obj/ab/<62 digits>   objects: the bytes of a file, under their sha256; never changed again
 *     <directory>/images/<name>.erofs        images: names, attributes, and which object each file is; never changed again
 *     <directory>/cache/                     what was fetched for images: may be missing, may be half
 *     <directory>/new-<random>               an image in the making, deleted at the next start unless a guest is bound to it
 *
 * An image is published when all its objects are on the disk (helper/main.ts), so a power cut leaves whole images, and
 * at worst objects of none.
 */
import { randomBytes } from 'node:crypto';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { basename, dirname, join, relative } from 'node:path';
import { UndoStack } from '../base/undo.ts';
import { syncDirectory } from '../sys/files.ts';
import type { Program } from '../sys/program.ts';
import { type ContainedCommand, runContained } from './contained-command.ts';
import { discardUnfinished } from './fetch-cache.ts';
import type {
  Archive,
  CaptureResult,
  DiffResult,
  ImageOfTree,
  ImageResult,
  KeptFiles,
  ObjectTotals,
  StoreResult,
  StoreTask,
  TreeOrigin,
  UnpackResult,
  UnpackTask,
  UsageOwner,
  UsageResult,
} from './helper/tasks.ts';
import { type ArchiveFile, type HelperOptions, type OpenedTree, runHelper } from './helper-process.ts';
import { guestImageName } from './image-names.ts';
import { openDirectory, removeDirectory, type StorageMachine } from './machine.ts';
import type { ImportLimits } from './tarball.ts';

/** An image of a store. */
export interface StoredImage {
  readonly name: string;
  /** Its file. */
  readonly path: string;
  /** Directory that is the layer with the objects. */
  readonly layer: string;
}

/** A tree to be made an image. */
export interface CaptureRequest {
  /** Completes "cannot …". */
  readonly what: string;
  /** Name of the image; without, it is named by what it holds. */
  readonly name?: string;
  /** Adds steps of the worker that open the tree, given the directory in which it may have been made. */
  readonly openTree: (program: Program) => OpenedTree;
  /** The image that shows through the tree. */
  readonly base?: StoredImage | undefined;
  /** Ids from here on are counted from it: a guest's. */
  readonly hostBase?: number;
  /** `ours`: it lies in the working directory and becomes the store's. Default: `still`. */
  readonly origin?: TreeOrigin;
  /** The image is not published: it and its new objects are in the working directory, until `publishStaged`. */
  readonly isStaged?: boolean;
  /** `openTree` opens an upper layer too, with a guest's own files. */
  readonly hasLayer?: boolean;
  /** Nothing is added: the result says what would be, and its image is in the working directory. */
  readonly isDryRun?: boolean;
  readonly maxEntries?: number;
  /** Patterns of files of the layer that stay there. */
  readonly exclude?: readonly string[];
}

/** Archives to be made an image, the lowest first. */
export interface UnpackRequest {
  /** Completes "cannot …". */
  readonly what: string;
  /** Returns the name of the image, given the sha256 of each archive; without, it is named by what it holds. */
  readonly nameOf?: (digests: readonly string[]) => string;
  readonly archives: readonly (Archive & ArchiveFile)[];
  /** They are layers of an OCI image. */
  readonly hasWhiteouts?: boolean;
  readonly limits: ImportLimits;
}

/** An archive of trees that was unpacked: its files wait to be adopted by a store. */
export interface StagedArchive {
  readonly image: string;
  readonly staging: string;
  /** By their paths in the archive. */
  readonly texts: ReadonlyMap<string, string>;
}

/** A new image, and what it took. */
export interface Captured extends CaptureResult {
  readonly image: StoredImage;
}

/** What names of directories begin with in which stores are examined. */
const EXAMINING = 'store-';
const LEFTOVER = /^new-[\da-f]+$/;
const IMAGE = /^([\w.-]+)\.erofs$/;
const MAX_ENTRIES = 4_000_000;
/** More than an id of the host that is not a guest's can be: nothing is counted from it. */
const NO_BASE = 2 ** 32;

/** Deletes what those who were examining a store in an earlier life left in the run directory. */
export function forgetExamining(runDir: string): void {
  for (const name of readdirSync(runDir).filter((one) => one.startsWith(EXAMINING)))
    rmSync(join(runDir, name), { recursive: true, force: true });
}

/** One store: of a file system and a trust domain. */
export class ImageStore {
  readonly directory: string;
  readonly #machine: StorageMachine;
  readonly #runDir: string;
  readonly #making = new Set<string>();
  /** One who deletes waits for those before it and for all who add; who adds waits only while it is at it. */
  #collecting: Promise<unknown> = Promise.resolve();
  #deleting: Promise<unknown> | undefined;
  readonly #adding = new Set<Promise<unknown>>();
  readonly #caches = new Map<string, Promise<unknown>>();

  /** @param runDir where the instance has its sockets */
  constructor(directory: string, machine: StorageMachine, runDir: string = '/run/vserver') {
    this.directory = directory;
    this.#machine = machine;
    this.#runDir = runDir;
  }

  /** Returns an image by its name; undefined if there is none. */
  find(name: string): StoredImage | undefined {
    const image = this.#image(name);
    return existsSync(image.path) ? image : undefined;
  }

  /** Lists the names of all images. */
  list(): readonly string[] {
    const directory = join(this.directory, 'images');
    const entries = existsSync(directory) ? readdirSync(directory, { withFileTypes: true }) : [];
    return entries.flatMap((entry) => (entry.isFile() && IMAGE.exec(entry.name)?.[1]) || []).sort();
  }

  /** Nothing is deleted while `body` runs: it adds an image, and then somebody who needs that. */
  async withoutDeleting<T>(body: () => Promise<T>): Promise<T> {
    // Who only waits to delete is overtaken: those it waits for may wait for something that we have, as our guest.
    while (this.#deleting) await this.#deleting;
    const work = body();
    this.#adding.add(work);
    try {
      return await work;
    } finally {
      this.#adding.delete(work);
    }
  }

  /**
   * Makes a working directory, on the store's file system and for root alone, for as long as `body` runs, or, if that
   * calls `keep`, until `publishStaged`. To be called within `withoutDeleting`.
   */
  async withWorkDir<T>(body: (workDir: string, keep: () => void) => Promise<T>): Promise<T> {
    const name = `new-${randomBytes(8).toString('hex')}`;
    this.#prepare();
    await using undo = new UndoStack();
    this.#making.add(name);
    undo.defer('forget the working directory', () => {
      this.#making.delete(name);
    });
    mkdirSync(join(this.directory, name), { mode: 0o700 });
    undo.defer('delete the working directory', () => this.#discard(name));
    return await body(join(this.directory, name), () => undo.commit());
  }

  /**
   * Makes an image of a tree. Nothing is published unless all of it is.
   *
   * @throws StateError cancelled, store-full, tree-too-big, tree-too-deep, foreign-owner, image-damaged, archive-damaged
   */
  async capture(request: CaptureRequest, workDir: string, options: HelperOptions = {}): Promise<Captured> {
    const staging = join(workDir, 'staging');
    const fresh = join(workDir, 'image');
    mkdirSync(staging, { mode: 0o700, recursive: true }); // there when the tree could not be opened before
    const result = await runHelper(
      this.#machine,
      {
        what: request.what,
        workDir,
        openTree: request.openTree,
        task: {
          kind: 'capture',
          objects: this.objects,
          staging,
          image: fresh,
          base: request.base?.path,
          hostBase: request.hostBase ?? NO_BASE,
          origin: request.origin ?? 'still',
          list: request.isStaged && !request.isDryRun ? join(workDir, 'list') : undefined,
          hasLayer: request.hasLayer ?? false,
          isDryRun: request.isDryRun ?? false,
          maxEntries: request.maxEntries ?? MAX_ENTRIES,
          exclude: request.exclude ?? [],
        },
      },
      options,
    );
    if (request.isDryRun || request.isStaged) {
      const image = this.#image(guestImageName(result.imageHash));
      return { ...result, image: { ...image, path: fresh } };
    }
    return this.#publish(request.name, fresh, result);
  }

  #publish<R extends ImageResult>(
    name: string | undefined,
    fresh: string,
    result: R,
  ): R & { readonly image: StoredImage } {
    return { ...result, image: this.#nameImage(name ?? guestImageName(result.imageHash), fresh) };
  }

  /** Gives an image its name, unless there is one of it. */
  #nameImage(name: string, fresh: string): StoredImage {
    const image = this.#image(name);
    if (existsSync(image.path)) rmSync(fresh);
    else renameSync(fresh, image.path);
    syncDirectory(join(image.path, '..'));
    return image;
  }

  /**
   * Publishes what is staged in a working directory: first the objects, then the image. May be done again when it was not
   * done to the end.
   *
   * @param workName the directory's name, which `withWorkDir` gave
   * @returns what the store did not have by now
   */
  async publishStaged(workName: string, imageName: string): Promise<ObjectTotals> {
    this.#making.add(workName); // whatever happens: somebody needs it
    const workDir = join(this.directory, workName);
    const fresh = join(workDir, 'image');
    if (!existsSync(fresh)) return { objects: 0, bytes: 0 };
    const totals = await runHelper(this.#machine, {
      what: `add image "${imageName}" to the store`,
      workDir,
      openTree: (p) => ({ tree: openDirectory(p, this.directory) }),
      task: {
        kind: 'publish',
        root: this.directory,
        objects: relative(this.directory, this.objects),
        staging: join(workName, 'staging'),
        list: join(workName, 'list'),
      },
    });
    this.#nameImage(imageName, fresh);
    return totals;
  }

  /** Deletes a working directory that was kept. */
  async discardStaged(workName: string): Promise<void> {
    await this.#discard(workName);
    this.#making.delete(workName);
  }

  /** Gives files of one upper layer, which is opened as the tree, second names below another one, or copies them. */
  async carry(
    openLayers: (program: Program) => Required<OpenedTree>,
    hostBase: number,
    kept: KeptFiles,
  ): Promise<void> {
    await this.withWorkDir(async (workDir) => {
      const list = join(workDir, 'kept');
      writeFileSync(list, JSON.stringify(kept), { mode: 0o600 });
      await runHelper(this.#machine, {
        what: 'keep files of a guest',
        workDir,
        openTree: openLayers,
        task: { kind: 'carry', hostBase, list },
      });
    });
  }

  /** Tells what differs between two images. */
  async compare(before: ImageOfTree, after: ImageOfTree, options: HelperOptions = {}): Promise<DiffResult> {
    return await this.withWorkDir(
      async (workDir) =>
        await runHelper(
          this.#machine,
          { what: 'compare two trees', workDir, task: { kind: 'diff', before, after } },
          options,
        ),
    );
  }

  /** Counts what guests have on disk. */
  async usage(owners: readonly UsageOwner[], options: HelperOptions = {}): Promise<UsageResult> {
    const { objects, directory } = this;
    return await this.withWorkDir(
      async (workDir) =>
        await runHelper(
          this.#machine,
          {
            what: 'count what guests have on disk',
            workDir,
            task: { kind: 'usage', objects, images: join(directory, 'images'), owners },
          },
          options,
        ),
    );
  }

  /**
   * Makes an image of archives that lie over each other. Nothing is published unless all of it is.
   *
   * @throws UserError invalid-archive, archive-too-big, foreign-owner, not-a-root; StateError cancelled, store-full,
   *   digest-mismatch
   */
  async unpack(
    request: UnpackRequest,
    workDir: string,
    options: HelperOptions = {},
  ): Promise<ImageResult & { readonly image: StoredImage }> {
    const { fresh, result } = await this.#unpack(request, workDir, options);
    return this.#publish(request.nameOf?.(result.digests), fresh, result);
  }

  /**
   * Unpacks an archive of trees, for `adopt` to make images of, in this store or another on its file system. Nothing is
   * added.
   *
   * @param texts names of files that are told
   * @throws UserError invalid-archive, archive-too-big, foreign-owner; StateError cancelled
   */
  async stage(
    request: UnpackRequest,
    texts: readonly string[],
    workDir: string,
    options: HelperOptions,
  ): Promise<StagedArchive> {
    const { fresh, staging, result } = await this.#unpack({ ...request, texts }, workDir, options);
    return { image: fresh, staging, texts: new Map(Object.entries(result.texts)) };
  }

  /**
   * Makes an image of a directory of an archive. To be called within `withoutDeleting`.
   *
   * @param expected hash of its listing; with another nothing is added
   * @throws UserError invalid-archive; StateError archive-damaged, cancelled, store-full
   */
  async adopt(
    { image: from, staging }: StagedArchive,
    directory: string,
    expected: string,
    options: HelperOptions,
  ): Promise<ImageResult & { readonly image: StoredImage }> {
    return await this.withWorkDir(async (workDir) => {
      const image = join(workDir, 'image');
      const task = {
        kind: 'adopt',
        objects: this.objects,
        staging,
        from,
        directory,
        image,
        expected,
      } as const;
      const result = await runHelper(this.#machine, { what: 'import an archive', workDir, task }, options);
      return this.#publish(undefined, image, result);
    });
  }

  async #unpack(
    request: UnpackRequest & Pick<UnpackTask, 'texts'>,
    workDir: string,
    options: HelperOptions,
  ): Promise<{ readonly fresh: string; readonly staging: string; readonly result: UnpackResult }> {
    const staging = join(workDir, 'staging');
    const fresh = join(workDir, 'image');
    mkdirSync(staging, { mode: 0o700 });
    const { what, archives, hasWhiteouts, limits, texts } = request;
    const result = await runHelper(
      this.#machine,
      {
        what,
        workDir,
        archives,
        hidden: ['/run', this.#runDir],
        task: {
          kind: 'unpack',
          objects: this.objects,
          staging,
          image: fresh,
          archives,
          hasWhiteouts: hasWhiteouts ?? false,
          texts,
          ...limits,
        },
      },
      options,
    );
    return { fresh, staging, result };
  }

  /** Runs a program that fetches for an image. @throws StateError tool-missing, tool-failed, cancelled */
  async runContained(
    command: Omit<ContainedCommand, 'hidden'>,
    options: Parameters<typeof runContained>[2],
  ): Promise<void> {
    // Who resolves names, and its like, is in /run too.
    await runContained(this.#machine, { ...command, hidden: [this.#runDir] }, options);
  }

  /** Does work on a directory of the cache that one has at a time. To be called within `withoutDeleting`. */
  async withCache<T>(name: string, body: (directory: string) => Promise<T>): Promise<T> {
    const before = this.#caches.get(name);
    const work = (async (): Promise<T> => {
      await before?.catch(() => undefined); // told to who began it
      this.#prepare();
      try {
        return await body(join(this.cache, name));
      } finally {
        discardUnfinished(this.cache, name);
      }
    })();
    this.#caches.set(name, work);
    try {
      return await work;
    } finally {
      if (this.#caches.get(name) === work) this.#caches.delete(name);
    }
  }

  /** Counts what there is, or checks it; `full check`: what the kernel vouches for is read too. */
  async examine(kind: 'stat' | 'check' | 'full check', options: HelperOptions = {}): Promise<StoreResult> {
    const isFull = kind === 'full check';
    return await this.#run({ kind: isFull ? 'check' : kind, isDryRun: true, unneeded: [], isFull }, options);
  }

  /**
   * Deletes images that nobody needs, objects of no image, and what was fetched for images.
   *
   * @param needed tells which images somebody needs, asked when nobody adds one; undefined: nobody uses the store at all,
   *   and it goes with all it holds
   */
  async collect(
    needed: () => Promise<((name: string) => boolean) | undefined>,
    isDryRun: boolean,
    options: HelperOptions = {},
  ): Promise<{ readonly images: readonly string[]; readonly result: StoreResult }> {
    const before = this.#collecting;
    const done = Promise.withResolvers<void>();
    this.#collecting = done.promise;
    try {
      await before;
      while (this.#adding.size > 0) await Promise.allSettled(this.#adding);
      this.#deleting = done.promise;
      const isNeeded = await needed();
      const images = this.list().filter((name) => !isNeeded?.(name));
      if (!isDryRun) {
        for (const name of images) rmSync(this.#image(name).path);
        if (images.length > 0) syncDirectory(join(this.directory, 'images'));
      }
      const result = await this.#run({ kind: 'gc', isDryRun, unneeded: images, isFull: false }, options);
      if (!isDryRun && existsSync(this.cache)) await this.#discard('cache');
      if (!isDryRun && isNeeded === undefined) await this.#remove();
      return { images, result };
    } finally {
      this.#deleting = undefined;
      done.resolve();
    }
  }

  /** Returns the names of what was left half-made. */
  leftovers(): readonly string[] {
    const names = existsSync(this.directory) ? readdirSync(this.directory) : [];
    return names.filter((name) => LEFTOVER.test(name) && !this.#making.has(name));
  }

  /** Deletes what an earlier life left half-made. Called once, at the start. */
  async sweep(): Promise<readonly string[]> {
    const names = this.leftovers();
    for (const name of names) await this.#discard(name);
    discardUnfinished(this.cache);
    return names;
  }

  /** Name of its trust domain. */
  get domain(): string {
    return basename(this.directory);
  }

  /** Where what is fetched for images is kept. */
  get cache(): string {
    return join(this.directory, 'cache');
  }

  /** Directory of the objects. */
  get objects(): string {
    return join(this.directory, 'layer/obj');
  }

  #image(name: string): StoredImage {
    return {
      name,
      path: join(this.directory, 'images', `${name}.erofs`),
      layer: join(this.directory, 'layer'),
    };
  }

  #prepare(): void {
    if ([this.objects, this.cache].every((path) => existsSync(path))) return;
    for (const path of [this.objects, join(this.directory, 'images'), this.cache])
      mkdirSync(path, { recursive: true, mode: 0o700 });
  }

  async #remove(): Promise<void> {
    const { directory } = this;
    const what = `delete the store ${JSON.stringify(directory)}`;
    await removeDirectory(this.#machine, what, dirname(directory), basename(directory));
  }

  async #discard(name: string): Promise<void> {
    await removeDirectory(this.#machine, `delete "${name}" of the store`, this.directory, name);
  }

  async #run(
    task: Omit<StoreTask, 'objects' | 'images' | 'cache'>,
    options: HelperOptions,
  ): Promise<StoreResult> {
    this.#prepare();
    // Who makes room on a full disk needs none there.
    const workDir = mkdtempSync(join(this.#runDir, EXAMINING));
    try {
      return await runHelper(
        this.#machine,
        {
          what: `examine the store ${JSON.stringify(this.directory)}`,
          workDir,
          store: this.directory,
          task: { ...task, objects: this.objects, images: join(this.directory, 'images'), cache: this.cache },
        },
        options,
      );
    } finally {
      rmSync(workDir, { recursive: true, force: true });
    }
  }
}
