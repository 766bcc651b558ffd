/** Images in OCI layouts on the host: which blobs they are made of, each known by its digest. */
import { createHash } from 'node:crypto';
import { constants, statSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { StateError, UserError } from '../base/errors.ts';
import {
  choosePlatform,
  type Descriptor,
  formatPlatform,
  type ImageConfig,
  isImage,
  type Platform,
  parseImageConfig,
  parseIndexOrManifest,
} from '../spec/oci-image.ts';
import type { UnpackRequest } from './image-store.ts';
import { archiveAt } from './tarball.ts';

/** An image that can be unpacked. */
export interface OciImage {
  /** sha256 of its manifest in hex, which says everything about it. */
  readonly manifestSha256: string;
  readonly config: ImageConfig;
  readonly archives: UnpackRequest['archives'];
}

/** Where an image is. */
export interface LayoutReference {
  /** Directory of the layout. */
  readonly directory: string;
  /** Directory of its blobs, if it is not in the layout. */
  readonly blobs?: string;
  /** Name of the image there; without, there is one only. */
  readonly tag: string | undefined;
}

/** Manifests and configurations are a few KiB. */
const MAX_JSON_BYTES = 4 * 1024 * 1024;
const MAX_INDEXES = 4;
const NAME = 'org.opencontainers.image.ref.name';

/**
 * Reads what an image is made of. Blobs of JSON are checked here, layers when they are unpacked.
 *
 * @throws UserError image-not-found, invalid-image; StateError digest-mismatch
 */
export async function readOciImage(reference: LayoutReference, wanted: Platform): Promise<OciImage> {
  const { directory } = reference;
  const blobs = reference.blobs ?? join(directory, 'blobs');
  const index = parseIndexOrManifest((await readSmall(join(directory, 'index.json'))).toString('utf8'));
  let chosen = chooseTag('index' in index ? index.index : [], reference, wanted);
  for (let depth = 0; ; depth++) {
    const parsed = parseIndexOrManifest(await readBlob(blobs, chosen));
    if ('manifest' in parsed) {
      const { config: configBlob, layers } = parsed.manifest;
      const config = parseImageConfig(await readBlob(blobs, configBlob));
      checkPlatform(config.platform, wanted);
      return { manifestSha256: chosen.sha256, config, archives: await archivesOf(blobs, layers, config) };
    }
    if (depth === MAX_INDEXES)
      throw new UserError('invalid-image', 'cannot use an image: found indexes of indexes; need a manifest');
    chosen = choosePlatform(parsed.index, wanted);
  }
}

function chooseTag(
  index: readonly Descriptor[],
  { directory, tag }: LayoutReference,
  wanted: Platform,
): Descriptor {
  const images = index.filter(isImage);
  const named = tag === undefined ? images : images.filter(({ annotations }) => annotations[NAME] === tag);
  const [only, another] = named;
  if (only && another === undefined) return only;
  // Some layouts have a manifest for each platform.
  if (only && named.every(({ annotations }) => annotations[NAME] === only.annotations[NAME]))
    return choosePlatform(named, wanted);
  const tags = images.flatMap(({ annotations }) => annotations[NAME] ?? []);
  const found = tags.length === 0 ? `${images.length} images without a name` : tags.join(', ');
  throw new UserError(
    'image-not-found',
    `cannot use OCI layout ${JSON.stringify(directory)}: found ${found}; need ${tag === undefined ? 'one image, or the name of one behind a colon' : `one named ${JSON.stringify(tag)}`}`,
  );
}

function checkPlatform(platform: Platform, wanted: Platform): void {
  if (platform.os === wanted.os && platform.architecture === wanted.architecture) return;
  throw new UserError(
    'image-not-found',
    `cannot use an image: found it for ${formatPlatform(platform)}; need ${formatPlatform(wanted)}`,
  );
}

async function archivesOf(
  blobs: string,
  layers: readonly Descriptor[],
  config: ImageConfig,
): Promise<OciImage['archives']> {
  if (layers.length !== config.diffIds.length) {
    throw new UserError(
      'invalid-image',
      `cannot use an image: found ${layers.length} layers and ${config.diffIds.length} of them in its configuration; need as many`,
    );
  }
  return await Promise.all(
    layers.map(async (layer, i) => ({
      ...(await archiveAt(layerAt(blobs, layer))),
      name: `sha256:${layer.sha256}`,
      digest: layer.sha256,
      plainDigest: config.diffIds[i],
    })),
  );
}

function pathOf(blobs: string, { sha256 }: Descriptor): string {
  return join(blobs, 'sha256', sha256);
}

function layerAt(blobs: string, layer: Descriptor): string {
  const path = pathOf(blobs, layer);
  if (statSync(path, { throwIfNoEntry: false })?.isFile() === true) return path;
  throw missing(path);
}

function missing(path: string): UserError {
  return new UserError(
    'image-not-found',
    `cannot use an image: found no ${JSON.stringify(path)}; need an OCI layout that is whole`,
  );
}

async function readBlob(blobs: string, descriptor: Descriptor): Promise<string> {
  const bytes = await readSmall(pathOf(blobs, descriptor));
  const found = createHash('sha256').update(bytes).digest('hex');
  if (found === descriptor.sha256) return bytes.toString('utf8');
  throw new StateError(
    'digest-mismatch',
    `cannot use an image: found sha256:${found} in a blob; need sha256:${descriptor.sha256}`,
  );
}

/** Reads a file that is small, whatever it says. @throws UserError image-not-found, invalid-image */
async function readSmall(path: string): Promise<Buffer> {
  try {
    await using handle = await open(path, constants.O_RDONLY | constants.O_NONBLOCK);
    const { size } = await handle.stat();
    if (size > MAX_JSON_BYTES)
      throw new UserError(
        'invalid-image',
        `cannot use an image: found ${size} bytes in ${JSON.stringify(path)}; need less`,
      );
    return await handle.readFile();
  } catch (error) {
    if (!(error instanceof Error && 'code' in error && (error.code === 'ENOENT' || error.code === 'ENOTDIR')))
      throw error;
    throw missing(path);
  }
}
