/**
 * Images of what is no template: trees of the host and of other hosts, and OCI images. Each is named by what it holds, so
 * that nobody needs it when no guest does.
 */
import { mkdirSync, realpathSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { UserError } from '../base/errors.ts';
import type { ImageConfig } from '../spec/oci-image.ts';
import { cacheKey } from './fetch-cache.ts';
import type { HelperOptions } from './helper-process.ts';
import { ociImageName } from './image-names.ts';
import type { ImageStore, StoredImage } from './image-store.ts';
import { openOneMount } from './machine.ts';
import { fetchImage, localLayout, type OciSource } from './oci-fetch.ts';
import { type LayoutReference, readOciImage } from './oci-layout.ts';
import { archiveAt, DEFAULT_IMPORT_LIMITS, fileIdentity } from './tarball.ts';

/** What an image is made of. */
export type ImageSource =
  /** A tree of the host as it is now, without what is mounted in it. */
  | { readonly kind: 'directory'; readonly path: string }
  /** Archives that lie over each other, the lowest first. */
  | { readonly kind: 'archives'; readonly paths: readonly string[] }
  | RsyncSource
  | ({ readonly kind: 'oci' } & OciSource);

/** What rsync copies: `/PATH`, `HOST:PATH` or `USER@HOST:PATH`, with options beside ours. */
export interface RsyncSource {
  readonly kind: 'rsync';
  readonly source: string;
  readonly options: readonly string[];
}

/** An image, and what it says itself of how it is run. */
export interface SourceImage {
  readonly image: StoredImage;
  readonly config: ImageConfig | undefined;
}

/** What rsync needs to make a tree of all owners: CHOWN, DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER, FSETID, MKNOD, SETFCAP. */
const RSYNC_CAPABILITIES = [0, 1, 2, 3, 4, 27, 31] as const;

/**
 * Makes an image. To be called within `store.withoutDeleting`, until somebody needs it.
 *
 * @throws UserError directory-missing, invalid-image, image-not-found, invalid-archive, foreign-owner; StateError
 *   cancelled, tool-missing, tool-failed, digest-mismatch, store-full
 */
export async function makeImage(
  store: ImageStore,
  source: ImageSource,
  options: HelperOptions,
): Promise<SourceImage> {
  if (source.kind === 'oci') return await unpackOci(store, source, options);
  if (source.kind === 'archives') return await unpackArchives(store, source.paths, options);
  const image =
    source.kind === 'directory'
      ? await captureDirectory(store, source.path, options)
      : await copyWithRsync(store, source, options);
  return { image, config: undefined };
}

async function unpackArchives(
  store: ImageStore,
  paths: readonly string[],
  options: HelperOptions,
): Promise<SourceImage> {
  for (const path of paths) fileIdentity(path);
  const archives = await Promise.all(paths.map(archiveAt));
  const request = { what: 'import archives', archives, limits: DEFAULT_IMPORT_LIMITS };
  const { image } = await store.withWorkDir(async (workDir) => await store.unpack(request, workDir, options));
  return { image, config: undefined };
}

async function captureDirectory(
  store: ImageStore,
  path: string,
  options: HelperOptions,
): Promise<StoredImage> {
  options.onStep?.('read files');
  const what = `make an image of directory ${JSON.stringify(path)}`;
  if (statSync(path, { throwIfNoEntry: false })?.isDirectory() !== true)
    throw new UserError('directory-missing', `cannot ${what}: found no such directory`);
  const real = realpathSync.native(path);
  const captured = await store.withWorkDir(
    async (workDir) =>
      await store.capture(
        { what, openTree: (p) => ({ tree: openOneMount(p, real) }), origin: 'live' },
        workDir,
        options,
      ),
  );
  return captured.image;
}

/** The tree stays in the cache, so that only what has changed is copied the next time, or was not yet. */
async function copyWithRsync(
  store: ImageStore,
  { source, options: more }: RsyncSource,
  options: HelperOptions,
): Promise<StoredImage> {
  return await store.withCache(`rsync-${cacheKey(JSON.stringify([source, more]))}`, async (directory) => {
    const tree = join(directory, 'tree');
    mkdirSync(tree, { recursive: true, mode: 0o700 });
    options.onStep?.(`copy ${source}`);
    await store.runContained(
      {
        what: `copy ${JSON.stringify(source)}`,
        argv: [
          '/usr/bin/rsync',
          '-aHAXSx',
          '--numeric-ids',
          '--delete',
          // The overlay's own marks, which are no part of a file.
          '--filter=-x trusted.*',
          ...more,
          '--',
          source.endsWith('/') ? source : `${source}/`,
          `${tree}/`,
        ],
        directory,
        capabilities: RSYNC_CAPABILITIES,
        package: 'rsync',
      },
      options,
    );
    return await captureDirectory(store, tree, options);
  });
}

async function unpackOci(store: ImageStore, source: OciSource, options: HelperOptions): Promise<SourceImage> {
  const { reference } = source;
  const local = localLayout(reference);
  if (local) return await unpackLayout(store, source, local, options);
  options.onStep?.(`fetch ${reference}`);
  return await store.withCache('oci', async (cache) => {
    const layout = await fetchImage(store, source, cache, options);
    return await unpackLayout(store, source, layout, options);
  });
}

async function unpackLayout(
  store: ImageStore,
  { reference, platform }: OciSource,
  layout: LayoutReference,
  options: HelperOptions,
): Promise<SourceImage> {
  const { manifestSha256, config, archives } = await readOciImage(layout, platform);
  const name = ociImageName(manifestSha256);
  const known = store.find(name);
  if (known) return { image: known, config };
  options.onStep?.('unpack layers');
  const request = {
    what: `unpack image ${JSON.stringify(reference)}`,
    nameOf: () => name,
    archives,
    hasWhiteouts: true,
    limits: DEFAULT_IMPORT_LIMITS,
  };
  const { image } = await store.withWorkDir(async (workDir) => await store.unpack(request, workDir, options));
  return { image, config };
}
