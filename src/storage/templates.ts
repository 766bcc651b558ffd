/**
 * Where a guest's root comes from: the read-only lower layer below each guest's own files.
 *
 *     <libDir>/store/<domain>/…                       images of archives and busybox (image-store.ts): <kind>-<hash>
 *     <libDir>/templates/<kind>-<hash>/root           a prepared tree, never changed again: of the host, or an older one
 *     <libDir>/templates/<kind>-<hash>.new-<random>   one in the making, deleted at the next start
 *     <libDir>/templates/tarballs.json                archives by identity → hash
 */
import { createHash, randomBytes } from 'node:crypto';
import { chmodSync, existsSync, mkdirSync, readdirSync, realpathSync, renameSync, statSync } from 'node:fs';
import { basename, join } from 'node:path';
import { BugError, StateError, UserError } from '../base/errors.ts';
import { UndoStack } from '../base/undo.ts';
import { syncDirectory } from '../sys/files.ts';
import { Program } from '../sys/program.ts';
import { buildBusybox, busyboxVersion, findBusybox } from './busybox.ts';
import type { HelperOptions } from './helper-process.ts';
import { hostSkeleton, hostSkeletonVersion } from './host-skeleton.ts';
import type { ImageStore, StoredImage } from './image-store.ts';
import { openDirectory, removeDirectory, type StorageMachine } from './machine.ts';
import { buildSkeleton, SKELETON_VERSION } from './skeleton.ts';
import { archiveAt, DEFAULT_IMPORT_LIMITS, fileIdentity, type ImportLimits } from './tarball.ts';
import { readTarballHashes, type TarballHashes, writeTarballHashes } from './tarball-hashes.ts';
import { formatTemplateSpec, parseTemplateSpec, type TemplateSpec } from './template-spec.ts';
import { writeTree } from './tree-entries.ts';
import { DEFAULT_DOMAIN } from './trust-domain.ts';

/** What a guest's root starts from. */
export interface Template {
  /** As `formatTemplateSpec` writes it. */
  readonly name: string;
  /** The name under which exactly this tree is found again, even if the archive is gone or the host has changed. */
  readonly pinnedName: string;
  readonly lower: TemplateLayer;
  /** The host's /usr is bound read-only over /usr. */
  readonly hostUsr: boolean;
}

/** A guest's lower layer. Its owners are 0..65535, to be shifted by an idmapped mount. */
export type TemplateLayer =
  /** A directory; absolute, without links. */
  { readonly kind: 'tree'; readonly path: string } | ({ readonly kind: 'image' } & StoredImage);

/** What templates are made with. */
export interface TemplateEnv {
  readonly libDir: string;
  readonly runDir: string;
  readonly machine: StorageMachine;
}

/** How a template is prepared. */
export interface PrepareOptions extends HelperOptions {
  readonly limits?: ImportLimits;
}

/** A template that is a prepared tree. */
type TreeSpec = Exclude<TemplateSpec, { readonly kind: 'directory' | 'prepared' }>;

/** What a template of our own making depends on, as text. */
const VERSIONS = {
  host: () => hostSkeletonVersion('/'),
  busybox: () => busyboxVersion(findBusybox()),
  skeleton: () => SKELETON_VERSION,
} as const;
/** For so long the host is taken to be unchanged. */
const CHECK_MS = 1000;
const LEFTOVER = /^[a-z]+-[\da-f]+\.new-[\da-f]+$/;
const HASH_DIGITS = 32;
const HOST_KEY = 'host-';

/** The templates of one instance. */
export class TemplateStore {
  readonly #env: TemplateEnv;
  readonly #directory: string;
  readonly #building = new Map<string, Promise<Template>>();
  /** Names of trees that this process is making. */
  readonly #making = new Set<string>();
  readonly #checked = new Map<string, { readonly key: string; readonly atMs: number }>();
  /** When a tree was last seen to be there. */
  readonly #seen = new Map<string, { readonly template: Omit<Template, 'name'>; readonly atMs: number }>();
  #hashes: TarballHashes | undefined;

  constructor(env: TemplateEnv) {
    this.#env = env;
    this.#directory = join(env.libDir, 'templates');
  }

  /**
   * Returns a template that is ready to be mounted; makes it if it is not there yet. Trees are of the host; images are of
   * one trust domain, and made anew in each.
   *
   * Costs a few dozen stats that look for changes of the host, but once a second at most. Calls
   * for the same template share one build.
   *
   * @param text as `parseTemplateSpec` takes it
   * @param store where its image is, or is to be
   * @throws UserError invalid-template, template-missing, template-changed, busybox-missing, invalid-archive,
   *   archive-too-big, foreign-owner, not-a-root
   * @throws StateError host-not-merged, busybox-broken
   */
  async prepare(text: string, store: ImageStore, options: PrepareOptions = {}): Promise<Template> {
    const spec = parseTemplateSpec(text);
    const name = formatTemplateSpec(spec);
    if (spec.kind === 'directory') {
      const path = this.#checkDirectory(spec.path);
      return { name, pinnedName: name, lower: { kind: 'tree', path }, hostUsr: false };
    }
    if (spec.kind === 'prepared') return this.#prepared(spec.key, store);
    const key = this.#knownKey(spec);
    const ready = key === undefined ? undefined : this.#ready(name, key, store);
    if (ready !== undefined) return ready;
    const shared = placeOf(key ?? name, store);
    const running = this.#building.get(shared);
    if (running !== undefined) {
      try {
        return await running;
      } catch (error) {
        // Who began it gave it up; we did not.
        const isTheirs =
          error instanceof StateError && error.code === 'cancelled' && !options.signal?.aborted;
        if (!isTheirs) throw error;
        return await this.prepare(text, store, options);
      }
    }
    const build = this.#make(spec, name, key, store, options).finally(() => this.#building.delete(shared));
    this.#building.set(shared, build);
    return await build;
  }

  /** Returns the names of half-made trees of an earlier life. */
  leftovers(): readonly string[] {
    const names = existsSync(this.#directory) ? readdirSync(this.#directory) : [];
    return names.filter((name) => LEFTOVER.test(name) && !this.#making.has(name));
  }

  /**
   * Deletes what an earlier life left half-made, and returns the names. Called once, at the start.
   *
   * @throws AggregateError with a reason for each that could not be deleted, after all have been tried
   */
  async sweep(): Promise<readonly string[]> {
    const names = this.leftovers();
    const outcomes = await Promise.allSettled(names.map((name) => this.#discard(name)));
    const failures = outcomes.flatMap((one) => (one.status === 'rejected' ? [one.reason as unknown] : []));
    if (failures.length > 0) {
      throw new AggregateError(failures, `cannot delete ${failures.length} half-made templates`);
    }
    return names;
  }

  /** Returns the name of the prepared tree; undefined if an archive must be read to know it. */
  #knownKey(spec: TreeSpec): string | undefined {
    if (spec.kind === 'tarball') {
      this.#hashes ??= readTarballHashes(this.#directory);
      const hash = this.#hashes.get(fileIdentity(spec.path));
      return hash === undefined ? undefined : keyOf('tarball', hash);
    }
    const checked = this.#checked.get(spec.kind);
    const nowMs = performance.now();
    if (checked !== undefined && nowMs - checked.atMs < CHECK_MS) return checked.key;
    const version = VERSIONS[spec.kind]();
    const key = keyOf(spec.kind, createHash('sha256').update(version).digest('hex'));
    this.#checked.set(spec.kind, { key, atMs: nowMs });
    return key;
  }

  #ready(name: string, key: string, store: ImageStore): Template | undefined {
    const nowMs = performance.now();
    const place = placeOf(key, store);
    const known = this.#seen.get(place);
    if (known && nowMs - known.atMs < CHECK_MS && isThere(known.template)) return { name, ...known.template };
    const lower = this.#layer(key, store);
    if (lower === undefined) return undefined;
    const template = { pinnedName: key, lower, hostUsr: key.startsWith(HOST_KEY) };
    this.#seen.set(place, { template, atMs: nowMs });
    return { name, ...template };
  }

  /** A tree that is there already stays in use; one that is not of the host is of before there were other domains. */
  #layer(key: string, store: ImageStore): TemplateLayer | undefined {
    const path = join(this.#directory, key, 'root');
    const isShared = key.startsWith(HOST_KEY) || store.domain === DEFAULT_DOMAIN;
    if (isShared && statSync(path, { throwIfNoEntry: false })?.isDirectory() === true)
      return { kind: 'tree', path };
    const image = store.find(key);
    return image && { kind: 'image', ...image };
  }

  #prepared(key: string, store: ImageStore): Template {
    const template = this.#ready(key, key, store);
    if (template !== undefined) return template;
    throw new UserError(
      'template-missing',
      `cannot use template "${key}": found no such tree or image in ${JSON.stringify(store.directory)}; need the template it was made from`,
    );
  }

  async #make(
    spec: TreeSpec,
    name: string,
    known: string | undefined,
    store: ImageStore,
    options: PrepareOptions,
  ): Promise<Template> {
    mkdirSync(this.#directory, { recursive: true, mode: 0o700 });
    const key = await this.#makeOf(spec, known, store, options);
    const made = this.#ready(name, key, store);
    if (made === undefined)
      throw new BugError('template-gone', `cannot use template "${key}": found it gone again`);
    return made;
  }

  /** Makes a tree or an image and returns its name. */
  async #makeOf(
    spec: TreeSpec,
    known: string | undefined,
    store: ImageStore,
    options: PrepareOptions,
  ): Promise<string> {
    if (spec.kind === 'tarball') return await this.#unpack(spec.path, store, options);
    if (known === undefined) throw new BugError('no-key', `cannot name template "${spec.kind}"`);
    if (this.#layer(known, store) !== undefined) return known;
    if (spec.kind === 'host') await this.#makeTree(known);
    else await this.#makeImage(spec.kind, known, store, options);
    return known;
  }

  /** The host's skeleton is a tree: it has few files, and all of them are small. */
  async #makeTree(key: string): Promise<void> {
    const fresh = `${key}.new-${randomBytes(6).toString('hex')}`;
    const workDir = join(this.#directory, fresh);
    await using undo = new UndoStack();
    this.#making.add(fresh);
    undo.defer('forget the half-made template', () => {
      this.#making.delete(fresh);
    });
    mkdirSync(workDir, { mode: 0o700 });
    undo.defer('delete the half-made template', () => this.#discard(fresh));
    const root = join(workDir, 'root');
    mkdirSync(root);
    chmodSync(root, 0o755); // whatever the umask is
    writeTree(root, hostSkeleton('/'));
    await this.#sync(workDir);
    if (publish(workDir, join(this.#directory, key))) undo.commit();
    this.#making.delete(fresh);
    syncDirectory(this.#directory);
  }

  async #makeImage(
    kind: 'busybox' | 'skeleton',
    key: string,
    store: ImageStore,
    options: PrepareOptions,
  ): Promise<void> {
    const { machine } = this.#env;
    const what = `make an image of template "${kind}"`;
    const build = async (workDir: string): Promise<void> => {
      if (kind === 'busybox') await buildBusybox(machine, findBusybox(), workDir);
      else buildSkeleton(workDir);
      const root = join(workDir, 'root');
      const request = {
        what,
        name: key,
        openTree: (p: Program) => ({ tree: openDirectory(p, root) }),
        origin: 'ours' as const,
      };
      await store.capture(request, workDir, options);
    };
    await store.withoutDeleting(async () => await store.withWorkDir(build));
  }

  /** Makes an image of an archive, which is named by what the archive holds, and remembers that. */
  async #unpack(path: string, store: ImageStore, options: PrepareOptions): Promise<string> {
    const { limits = DEFAULT_IMPORT_LIMITS } = options;
    const identity = fileIdentity(path);
    const what = `import ${JSON.stringify(path)}`;
    const archives = [await archiveAt(path)];
    const nameOf = ([digest = '']: readonly string[]): string => {
      if (fileIdentity(path) !== identity) throw changed(path);
      this.#hashes = new Map(this.#hashes).set(identity, digest);
      return keyOf('tarball', digest);
    };
    const { image } = await store.withoutDeleting(
      async () =>
        await store.withWorkDir(
          async (workDir) => await store.unpack({ what, archives, limits, nameOf }, workDir, options),
        ),
    );
    writeTarballHashes(this.#directory, this.#hashes ?? new Map());
    return image.name;
  }

  async #sync(path: string): Promise<void> {
    const program = new Program(this.#env.machine.abi);
    program.sys('syncfs', [openDirectory(program, path)], { about: path });
    await this.#env.machine.run(`write template "${basename(path)}" to disk`, program);
  }

  /** Deletes a half-made template. */
  async #discard(name: string): Promise<void> {
    const what = `delete half-made template "${name}"`;
    await removeDirectory(this.#env.machine, what, this.#directory, name);
  }

  /** Returns the real path of a directory that may be a lower layer. What it holds is hostile. */
  #checkDirectory(path: string): string {
    const shown = `cannot use template ${JSON.stringify(path)}`;
    const stat = statSync(path, { throwIfNoEntry: false });
    if (stat === undefined) throw new UserError('template-missing', `${shown}: found no such directory`);
    if (!stat.isDirectory())
      throw new UserError('invalid-template', `${shown}: found no directory; need one`);
    const real = realpathSync.native(path);
    const taken = ['/', ...[this.#env.libDir, this.#env.runDir].map((own) => realpathSync.native(own))];
    const overlap = taken.find((own) => isAtOrBelow(own, real) || (own !== '/' && isAtOrBelow(real, own)));
    if (overlap !== undefined) {
      throw new UserError(
        'invalid-template',
        `${shown}: found it overlapping ${JSON.stringify(overlap)}; need a directory apart from it`,
      );
    }
    return real;
  }
}

function keyOf(kind: string, hash: string): string {
  return `${kind}-${hash.slice(0, HASH_DIGITS)}`;
}

/** Whether an image was not deleted since: the store of a domain goes with its last guest. */
function isThere({ lower }: Omit<Template, 'name'>): boolean {
  return lower.kind === 'tree' || existsSync(lower.path);
}

/** Names what is of one store apart from the same of another. */
function placeOf(key: string, { directory }: ImageStore): string {
  return `${directory} ${key}`;
}

function changed(path: string): UserError {
  return new UserError(
    'template-changed',
    `cannot import ${JSON.stringify(path)}: found it changing; need an archive that is complete`,
  );
}

/** Gives a finished tree its name; false when another process was first. */
function publish(work: string, final: string): boolean {
  try {
    renameSync(work, final);
    return true;
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? error.code : undefined;
    if (code === 'ENOTEMPTY' || code === 'EEXIST') return false;
    throw error;
  }
}

function isAtOrBelow(path: string, other: string): boolean {
  return path === other || path.startsWith(other === '/' ? other : `${other}/`);
}
