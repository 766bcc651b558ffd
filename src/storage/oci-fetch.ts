/**
 * Gets images from where they are into an OCI layout of the cache, by skopeo: registries, archives of Docker and OCI.
 * Blobs that are in the cache are not fetched again, so a fetch that was interrupted goes on.
 */
import { existsSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { UserError } from '../base/errors.ts';
import type { Platform } from '../spec/oci-image.ts';
import { cacheKey, fetchedBytes } from './fetch-cache.ts';
import type { HelperOptions } from './helper-process.ts';
import type { ImageStore } from './image-store.ts';
import type { LayoutReference } from './oci-layout.ts';

/** Where an image comes from. */
export interface OciSource {
  /** As skopeo has it: `docker://nginx:1.27`, `docker-archive:/PATH`, `oci-archive:/PATH[:TAG]`, `oci:/PATH[:TAG]`. */
  readonly reference: string;
  readonly platform: Platform;
  /** Off: a registry without TLS, or with a certificate nobody knows. */
  readonly tlsVerify: boolean;
}

/** CAP_DAC_READ_SEARCH: an archive may be another user's (linux/capability.h). */
const DAC_READ_SEARCH = 2;
const POLICY = '/etc/containers/policy.json';
const TAG = 'image';

/** Returns the layout that a reference names, if it names one that needs no fetching. */
export function localLayout(reference: string): LayoutReference | undefined {
  const [, directory = '', tag] = /^oci:(\/[^:]*)(?::(.+))?$/s.exec(reference) ?? [];
  return directory === '' ? undefined : { directory, tag };
}

/**
 * Fetches an image into the cache.
 *
 * @param cache directory of the cache for images
 * @throws StateError tool-missing, tool-failed, cancelled
 */
export async function fetchImage(
  store: ImageStore,
  source: OciSource,
  cache: string,
  options: HelperOptions,
): Promise<LayoutReference> {
  const { reference, platform, tlsVerify } = source;
  if (!/^(?:docker:\/\/|(?:docker|oci)-archive:\/)/.test(reference)) {
    throw new UserError(
      'image-not-found',
      `cannot use image ${JSON.stringify(reference)}; need docker://NAME, docker-archive:PATH, oci-archive:PATH or oci:PATH`,
    );
  }
  const id = cacheKey(JSON.stringify(source));
  const directory = join(cache, `layout-${id}`);
  const blobs = join(cache, 'blobs');
  for (const path of [directory, blobs]) mkdirSync(path, { recursive: true, mode: 0o700 });
  const { os, architecture, variant } = platform;
  await store.runContained(
    {
      what: `fetch image ${JSON.stringify(reference)}`,
      argv: [
        '/usr/bin/skopeo',
        ...(existsSync(POLICY) ? [] : ['--insecure-policy']),
        `--tmpdir=${cache}`,
        `--override-os=${os}`,
        `--override-arch=${architecture}`,
        ...(variant === undefined ? [] : [`--override-variant=${variant}`]),
        'copy',
        `--src-tls-verify=${tlsVerify}`,
        `--dest-shared-blob-dir=${blobs}`,
        '--dest-oci-accept-uncompressed-layers',
        reference,
        `oci:${directory}:${TAG}`,
      ],
      directory: cache,
      capabilities: [DAC_READ_SEARCH],
      package: 'skopeo',
    },
    {
      ...options,
      onPoll: () => options.onProgress?.({ files: 0, readBytes: fetchedBytes([join(blobs, 'sha256')]) }),
    },
  );
  return { directory, blobs, tag: TAG };
}
