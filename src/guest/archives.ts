/**
 * Guests as archives: a tar of configuration and files that goes to another instance, or to a shelf.
 *
 *     vserver.json            what it holds, and the hashes it is checked by (archive-manifest.ts)
 *     guest.yaml              the configuration
 *     rootfs/…                the files, with the guest's own ids
 *     snapshots/NAME/guest.yaml, snapshots/NAME/rootfs/…
 *
 * Both ways lead through an image of the store: it is what is written, so nothing has to stand still meanwhile; and it is
 * what an archive becomes, after it has been unpacked as any other that came from outside (storage/tarball.ts).
 */
import { accessSync, constants, statSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { StateError, UserError } from '../base/errors.ts';
import type { GuestName, Xid } from '../base/ids.ts';
import { idRangeOf } from '../context/id-map.ts';
import { createGuestDirs } from '../storage/guest-dirs.ts';
import type { ArchivedTree, ExportResult } from '../storage/helper/tasks.ts';
import { type ArchiveEnds, type HelperOptions, runHelper } from '../storage/helper-process.ts';
import type { ImageStore, StagedArchive } from '../storage/image-store.ts';
import { archiveAt, DEFAULT_IMPORT_LIMITS } from '../storage/tarball.ts';
import { DEFAULT_DOMAIN } from '../storage/trust-domain.ts';
import { CLIENT_FD, type Import, type Program, type Result } from '../sys/program.ts';
import {
  type ArchiveManifest,
  CONFIG_FILE,
  formatManifest,
  MANIFEST_FILE,
  parseManifest,
  ROOT_DIRECTORY,
  snapshotDirectory,
} from './archive-manifest.ts';
import { parseGuestConfig } from './config.ts';
import { reachOf } from './config-reach.ts';
import { type ConfigChange, editConfig } from './config-text.ts';
import type { GuestConfig } from './config-types.ts';
import { type Guest, isActive } from './guest.ts';
import type { Manager } from './manager.ts';
import { guestPaths } from './paths.ts';
import type { Snapshot } from './snapshots.ts';
import type { FlatGuest, Pin } from './storage.ts';
import { forgetQuotas, type KeptQuota, keptQuotas, putQuotas } from './user-quotas.ts';

/** Where an archive goes or comes from: a file, by its absolute path, or a standard descriptor of a client. */
export type ArchivePlace =
  | { readonly kind: 'file'; readonly path: string }
  | { readonly kind: 'client'; readonly client: number };

/** What to export. */
export interface ExportRequest {
  readonly to: ArchivePlace;
  /** By zstd. */
  readonly isCompressed: boolean;
  readonly withSnapshots: boolean;
}

/** What to import, and as what. */
export interface ImportRequest {
  readonly from: ArchivePlace;
  /** Without, the name in the archive. */
  readonly name: GuestName | undefined;
  /** Without, the one in the archive if it is free, and else another. */
  readonly xid: Xid | undefined;
  readonly changes: readonly ConfigChange[];
  /** What in its configuration reaches the host is taken too. */
  readonly isTrusted: boolean;
  /** Most that its files may be. */
  readonly maxBytes: number | undefined;
}

/** What came of an archive. */
export interface Imported {
  readonly guest: Guest;
  /** Quotas of its users and groups that no file system here holds anybody to. */
  readonly unheld: readonly KeptQuota[];
}

/** What a snapshot says of its trust domain never counts (`Copies.rollback`). */
const STAYS: readonly ConfigChange[] = [{ path: ['trustDomain'], value: undefined }];

/** Writes and reads archives of guests. */
export class Archives {
  readonly #manager: Manager;

  constructor(manager: Manager) {
    this.#manager = manager;
  }

  /**
   * Writes a guest, which may run, to an archive. A file is there when it is whole, in the place of one of its name.
   *
   * @throws StateError guest-ephemeral, cancelled, object-damaged, archive-unwritable
   */
  async export(guest: Guest, request: ExportRequest, options: HelperOptions): Promise<ExportResult> {
    const { copies, storage, snapshots } = this.#manager;
    const store = storage.storeOf(guest);
    return await store.withoutDeleting(async () => {
      const wasRunning = isActive(guest);
      const { config, flat } = await copies.capture(guest, 'export', options);
      const kept = request.withSnapshots ? snapshots.list(guest.name) : [];
      const exportedAt = new Date();
      const what = `export guest "${guest.name}"`;
      const manifest = formatManifest({
        name: guest.name,
        exportedAt: exportedAt.toISOString(),
        wasRunning,
        hostUsr: flat.pin.hostUsr ?? false,
        quotas: await keptQuotas(storage.users, guest.xid),
        snapshots: kept.map(({ name, takenAt, wasRunning: ran, pin, quotas }) => ({
          name,
          takenAt,
          wasRunning: ran,
          hostUsr: pin.hostUsr ?? false,
          quotas,
        })),
      });
      const texts = kept.map((one) => ({
        name: `${snapshotDirectory(one.name)}/${CONFIG_FILE}`,
        text: one.config,
      }));
      const task = {
        kind: 'export',
        objects: store.objects,
        manifest,
        texts: [{ name: CONFIG_FILE, text: config }, ...texts],
        trees: [
          treeOf(store, ROOT_DIRECTORY, flat),
          ...kept.map((one) => treeOf(store, `${snapshotDirectory(one.name)}/${ROOT_DIRECTORY}`, one)),
        ],
        isCompressed: request.isCompressed,
        seconds: Math.floor(exportedAt.getTime() / 1000),
        name: request.to.kind === 'file' ? basename(request.to.path) : undefined,
      } as const;
      const openArchive = (p: Program): ArchiveEnds => planTarget(p, request.to);
      return await store.withWorkDir(
        async (workDir) =>
          await runHelper(this.#manager.host.syscalld, { what, task, workDir, openArchive }, options),
      );
    });
  }

  /**
   * Creates a guest from an archive; all of it or nothing.
   *
   * @throws UserError invalid-archive, archive-too-big, foreign-owner, archive-reaches-host, invalid-config
   * @throws StateError guest-exists, xid-in-use, address-in-use, archive-damaged, cancelled
   */
  async import(request: ImportRequest, options: HelperOptions): Promise<Imported> {
    const limits = { ...DEFAULT_IMPORT_LIMITS, maxBytes: request.maxBytes ?? DEFAULT_IMPORT_LIMITS.maxBytes };
    // The store of guests of no domain stays, whatever domain the archive turns out to be for.
    const store = this.#manager.storage.store(DEFAULT_DOMAIN);
    return await store.withWorkDir(async (workDir) => {
      const { from } = request;
      const path =
        from.kind === 'file' ? from.path : await this.#spool(from, workDir, limits.maxBytes, options);
      const archive = await archiveAt(checkReadable(path));
      const name = from.kind === 'file' ? path : 'what comes in';
      const what = `import ${JSON.stringify(name)}`;
      const unpacked = { what, archives: [{ ...archive, name }], limits };
      const staged = await store.stage(unpacked, [MANIFEST_FILE, CONFIG_FILE], workDir, options);
      return await this.#create(request, staged, options);
    });
  }

  /** Writes down what comes from a client, whose pipe nobody else may read, and returns the path of it. */
  async #spool(
    from: ArchivePlace,
    workDir: string,
    maxBytes: number,
    options: HelperOptions,
  ): Promise<string> {
    const to = join(workDir, 'archive.tar');
    const task = { kind: 'spool', to, maxBytes } as const;
    const { signal } = options; // pieces are not files
    await runHelper(
      this.#manager.host.syscalld,
      { what: 'read an archive', task, workDir, openArchive: (p) => ({ archive: planSource(p, from) }) },
      { signal },
    );
    return to;
  }

  async #create(request: ImportRequest, archive: StagedArchive, options: HelperOptions): Promise<Imported> {
    const manager = this.#manager;
    const { registry, storage, networks, snapshots } = manager;
    const manifest = parseManifest(textOf(archive, MANIFEST_FILE));
    const name = request.name ?? manifest.name;
    const paths = guestPaths(manager.host.paths, name);
    const { text, config: asked } = editConfig(textOf(archive, CONFIG_FILE), request.changes, CONFIG_FILE);
    if (!request.isTrusted) checkReach(asked, request.changes);
    // Before what takes long, and again when it is done.
    registry.checkNew(name, request.xid);
    await networks.check({ name }, asked);
    const store = storage.store(asked.trustDomain);
    return await store.withoutDeleting(async () => {
      const kept: Snapshot[] = [];
      for (const one of manifest.snapshots) {
        const directory = snapshotDirectory(one.name);
        const config = textOf(archive, `${directory}/${CONFIG_FILE}`);
        if (!request.isTrusted) checkReach(parseGuestConfig(config, `${directory}/${CONFIG_FILE}`), STAYS);
        const flat = await adopt(store, archive, manifest, `${directory}/${ROOT_DIRECTORY}`, options);
        const pin = { name: asked.template, pinned: flat.image.name, hostUsr: one.hostUsr };
        const { takenAt, wasRunning, quotas } = one;
        kept.push({
          name: one.name,
          takenAt,
          wasRunning,
          pin,
          root: flat.root,
          config,
          quotas,
          newBytes: flat.newBytes,
        });
      }
      const { image, root } = await adopt(store, archive, manifest, ROOT_DIRECTORY, options);
      const pin: Pin = { name: asked.template, pinned: image.name, hostUsr: manifest.hostUsr };
      const xid = request.xid ?? registry.freeXid(asked.xid);
      const file = editConfig(text, [{ path: ['xid'], value: xid }], paths.config);
      return await manager.makeGuest(name, xid, file.config, async (guest, undo) => {
        await networks.check(guest, guest.config);
        await createGuestDirs(paths, idRangeOf(xid).hostBase);
        undo.defer('directories', () => manager.removeFiles(name));
        for (const snapshot of kept) snapshots.add(name, snapshot);
        const { quotas = [] } = manifest;
        if (quotas.length > 0) undo.defer('quotas', () => forgetQuotas(storage.users, xid));
        const unheld = quotas.length > 0 ? await putQuotas(storage.users, xid, quotas) : [];
        await storage.furnish(guest, pin, file.text, root);
        guest.config = registry.wrote(name, file);
        return { guest, unheld };
      });
    });
  }
}

/** Makes a tree of an archive an image, if it is what the archive was made of. */
async function adopt(
  store: ImageStore,
  archive: StagedArchive,
  { trees }: ArchiveManifest,
  directory: string,
  options: HelperOptions,
): ReturnType<ImageStore['adopt']> {
  const expected = trees[directory];
  if (expected !== undefined) return await store.adopt(archive, directory, expected, options);
  throw new UserError(
    'invalid-archive',
    `cannot import an archive: found no hash of ${JSON.stringify(directory)} in it; need a whole one`,
  );
}

function treeOf(
  store: ImageStore,
  prefix: string,
  { pin, root }: Pick<FlatGuest | Snapshot, 'pin' | 'root'>,
): ArchivedTree {
  const image = store.find(pin.pinned);
  if (image) return { prefix, image: image.path, root };
  throw new StateError(
    'image-missing',
    `cannot export ${JSON.stringify(prefix)}: found no image "${pin.pinned}" in the store; need it there`,
  );
}

/** @param changes that the operator made of it himself */
function checkReach(config: GuestConfig, changes: readonly ConfigChange[]): void {
  const isAsked = changes.some(({ path: [key] }) => key === 'trustDomain');
  const keys = reachOf(isAsked ? { ...config, trustDomain: DEFAULT_DOMAIN } : config);
  if (keys.length === 0) return;
  throw new UserError(
    'archive-reaches-host',
    `cannot import an archive: found that its configuration reaches the host by ${keys.join(', ')}; ` +
      'need other values for these, or --trust-config',
    { details: { keys } },
  );
}

function textOf({ texts }: StagedArchive, name: string): string {
  const text = texts.get(name);
  if (text !== undefined) return text;
  throw new UserError(
    'invalid-archive',
    `cannot import an archive: found no readable "${name}" in it; need one that vserver export wrote`,
  );
}

/** Returns the path of a file that can be read. @throws UserError archive-missing */
function checkReadable(path: string): string {
  const fail = (found: string, cause?: unknown): UserError =>
    new UserError(
      'archive-missing',
      `cannot import ${JSON.stringify(path)}: found ${found}; need an archive`,
      { cause },
    );
  try {
    accessSync(path, constants.R_OK);
  } catch (cause) {
    throw fail(cause instanceof Error && 'code' in cause ? String(cause.code) : 'an error', cause);
  }
  if (!statSync(path).isFile()) throw fail('no regular file');
  return path;
}

function planSource(p: Program, from: ArchivePlace): Import | Result {
  if (from.kind === 'client') return p.import(from.client, CLIENT_FD.stdin);
  const at = p.flags('AT_FDCWD');
  return p.sys('openat', [at, from.path, p.flags('O_RDONLY', 'O_CLOEXEC'), 0], { about: from.path });
}

/** A file gets its name when it is whole (open(2), O_TMPFILE, Linux 3.11), so that nothing of it is left otherwise. */
function planTarget(p: Program, to: ArchivePlace): ArchiveEnds {
  if (to.kind === 'client') return { archive: p.import(to.client, CLIENT_FD.stdout) };
  const at = p.flags('AT_FDCWD');
  const directory = dirname(to.path);
  const target = p.sys('openat', [at, directory, p.flags('O_RDONLY', 'O_DIRECTORY', 'O_CLOEXEC'), 0], {
    about: directory,
  });
  const archive = p.sys('openat', [target, '.', p.flags('O_RDWR', 'O_TMPFILE', 'O_CLOEXEC'), 0o600], {
    about: `a file in ${directory}`,
  });
  return { archive, target };
}
