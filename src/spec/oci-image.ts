/**
 * Reads what describes an OCI image (image-spec 1.1): index, manifest, configuration; and Docker's of the same
 * shape (distribution, schema 2).
 */
import { UserError } from '../base/errors.ts';

/** A reference to a blob. */
export interface Descriptor {
  readonly mediaType: string;
  /** sha256 in hex. */
  readonly sha256: string;
  readonly size: number;
  readonly platform: Platform | undefined;
  readonly annotations: Readonly<Record<string, string>>;
}

/** What a manifest is for. */
export interface Platform {
  readonly os: string;
  readonly architecture: string;
  readonly variant: string | undefined;
}

/** An image's manifest. */
export interface ImageManifest {
  readonly config: Descriptor;
  /** The lowest first. */
  readonly layers: readonly Descriptor[];
}

/** What an image's configuration says of running it. */
export interface ImageConfig {
  readonly platform: Platform;
  /** sha256 in hex of each layer, decompressed. */
  readonly diffIds: readonly string[];
  readonly entrypoint: readonly string[];
  readonly cmd: readonly string[];
  readonly env: readonly string[];
  readonly workingDir: string;
  readonly user: string;
  readonly stopSignal: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly healthcheck: ImageHealthcheck | undefined;
}

/** Docker's health check; times in nanoseconds, 0: the default. */
export interface ImageHealthcheck {
  readonly test: readonly string[];
  readonly interval: number;
  readonly timeout: number;
  readonly startPeriod: number;
  readonly retries: number;
}

const INDEX_TYPES = [
  'application/vnd.oci.image.index.v1+json',
  'application/vnd.docker.distribution.manifest.list.v2+json',
];
const MANIFEST_TYPES = [
  'application/vnd.oci.image.manifest.v1+json',
  'application/vnd.docker.distribution.manifest.v2+json',
];
/** Which compression a type names is not asked: tools have written wrong ones, and the bytes tell. */
const LAYER_TYPE =
  /^application\/vnd\.(?:oci\.image\.layer\.v1\.tar(?:\+(?:gzip|zstd))?|docker\.image\.rootfs\.diff\.tar(?:\.(?:gzip|zstd))?)$/;
const MAX_LAYERS = 128;
const MAX_MANIFESTS = 1000;

/** Names of Node for what OCI (that is Go) names otherwise. */
const ARCHITECTURES: Readonly<Record<string, string>> = { x64: 'amd64', ia32: '386', ppc64: 'ppc64le' };

/** Returns the platform of a host by Node's name for its architecture. */
export function hostPlatform(arch: string): Platform {
  return { os: 'linux', architecture: ARCHITECTURES[arch] ?? arch, variant: undefined };
}

/** Parses `OS/ARCHITECTURE[/VARIANT]`. @throws UserError usage */
export function parsePlatform(text: string): Platform {
  const [, os = '', architecture = '', variant] =
    /^([a-z\d]+)\/([a-z\d_]+)(?:\/([a-z\d]+))?$/.exec(text) ?? [];
  if (os !== '') return { os, architecture, variant };
  throw new UserError(
    'usage',
    `cannot use ${JSON.stringify(text)} as a platform; need one such as linux/arm64/v8`,
  );
}

/** Writes a platform as `parsePlatform` reads it. */
export function formatPlatform({ os, architecture, variant }: Platform): string {
  return [os, architecture, ...(variant === undefined ? [] : [variant])].join('/');
}

/** Returns the descriptors of an index, or the manifest that the text is. @throws UserError invalid-image */
export function parseIndexOrManifest(
  text: string,
): { readonly index: readonly Descriptor[] } | { readonly manifest: ImageManifest } {
  const value = parseObject(text, 'a manifest');
  const { manifests, mediaType } = value;
  if (Array.isArray(manifests)) {
    if (manifests.length > MAX_MANIFESTS) throw invalid(`${manifests.length} manifests in an index`);
    return { index: manifests.map(descriptor) };
  }
  if (value['schemaVersion'] !== 2 || !Array.isArray(value['layers'])) {
    throw invalid(`a manifest of type ${JSON.stringify(mediaType ?? 'unknown')}`);
  }
  const layers = value['layers'].map(descriptor);
  if (layers.length > MAX_LAYERS) throw invalid(`${layers.length} layers`);
  const other = layers.find((layer) => !LAYER_TYPE.test(layer.mediaType));
  if (other) throw invalid(`a layer of type ${JSON.stringify(other.mediaType)}`);
  return { manifest: { config: descriptor(value['config']), layers } };
}

/** Whether a descriptor is of an image, or an index of some. */
export function isImage({ mediaType }: Descriptor): boolean {
  return MANIFEST_TYPES.includes(mediaType) || INDEX_TYPES.includes(mediaType);
}

/**
 * Returns the descriptor in an index that is for a platform: with its variant, or else without.
 *
 * @throws UserError image-not-found with what there is
 */
export function choosePlatform(index: readonly Descriptor[], wanted: Platform): Descriptor {
  const images = index.filter(isImage);
  const [only] = images;
  if (only && images.length === 1 && only.platform === undefined) return only;
  const fits = images.filter(
    ({ platform }) => platform?.os === wanted.os && platform.architecture === wanted.architecture,
  );
  const exact = fits.find(({ platform }) => platform?.variant === wanted.variant);
  const chosen = exact ?? (wanted.variant === undefined ? fits[0] : undefined);
  if (chosen) return chosen;
  const there = images.flatMap(({ platform }) => (platform ? [formatPlatform(platform)] : []));
  throw new UserError(
    'image-not-found',
    `cannot use an image: found it for ${there.join(', ') || 'no platform'}; need ${formatPlatform(wanted)}`,
  );
}

/** Parses an image's configuration. @throws UserError invalid-image */
export function parseImageConfig(text: string): ImageConfig {
  const value = parseObject(text, 'a configuration');
  const rootfs = object(value['rootfs'] ?? {}, 'rootfs');
  const config = object(value['config'] ?? {}, 'config');
  const healthcheck =
    config['Healthcheck'] == null ? undefined : object(config['Healthcheck'], 'Healthcheck');
  return {
    platform: platformOf(value),
    diffIds: strings(rootfs['diff_ids'], 'diff_ids').map(parseDigest),
    entrypoint: strings(config['Entrypoint'], 'Entrypoint'),
    cmd: strings(config['Cmd'], 'Cmd'),
    env: strings(config['Env'], 'Env'),
    workingDir: string(config['WorkingDir'], 'WorkingDir'),
    user: string(config['User'], 'User'),
    stopSignal: string(config['StopSignal'], 'StopSignal'),
    labels: stringMap(config['Labels'], 'Labels'),
    healthcheck: healthcheck && {
      test: strings(healthcheck['Test'], 'Test'),
      interval: count(healthcheck['Interval'], 'Interval'),
      timeout: count(healthcheck['Timeout'], 'Timeout'),
      startPeriod: count(healthcheck['StartPeriod'], 'StartPeriod'),
      retries: count(healthcheck['Retries'], 'Retries'),
    },
  };
}

type Fields = Readonly<Record<string, unknown>>;

function invalid(found: string): UserError {
  return new UserError(
    'invalid-image',
    `cannot use an image: found ${found}; need an OCI or Docker image (schema 2)`,
  );
}

function parseObject(text: string, what: string): Fields {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    throw invalid(`${what} that is no JSON`);
  }
  return object(value, what);
}

function object(value: unknown, what: string): Fields {
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw invalid(`${what} that is no object`);
  return value as Fields; // checked
}

function string(value: unknown, what: string): string {
  if (value === undefined || value === null) return '';
  if (typeof value !== 'string') throw invalid(`${what} that is no text`);
  return value;
}

function strings(value: unknown, what: string): readonly string[] {
  if (value === undefined || value === null) return [];
  if (!Array.isArray(value)) throw invalid(`${what} that is no list`);
  return value.map((one) => string(one, what));
}

function stringMap(value: unknown, what: string): Readonly<Record<string, string>> {
  const entries = Object.entries(object(value ?? {}, what));
  return Object.fromEntries(entries.map(([key, one]) => [key, string(one, what)]));
}

function count(value: unknown, what: string): number {
  if (value === undefined || value === null) return 0;
  if (typeof value !== 'number' || !(value >= 0)) throw invalid(`${what} that is no number`);
  return value;
}

function parseDigest(text: string): string {
  const [, hex] = /^sha256:([\da-f]{64})$/.exec(text) ?? [];
  if (hex === undefined) throw invalid(`the digest ${JSON.stringify(text.slice(0, 100))}`);
  return hex;
}

function platformOf(value: Fields): Platform {
  const variant = string(value['variant'], 'variant');
  return {
    os: string(value['os'], 'os'),
    architecture: string(value['architecture'], 'architecture'),
    variant: variant === '' ? undefined : variant,
  };
}

function descriptor(value: unknown): Descriptor {
  const fields = object(value, 'a descriptor');
  return {
    mediaType: string(fields['mediaType'], 'mediaType'),
    sha256: parseDigest(string(fields['digest'], 'digest')),
    size: count(fields['size'], 'size'),
    platform: fields['platform'] == null ? undefined : platformOf(object(fields['platform'], 'platform')),
    annotations: stringMap(fields['annotations'], 'annotations'),
  };
}
