/**
 * Packages of a Debian archive, fetched and checked by apt into the cache: in a directory of its own, without looking at
 * what the host has installed, and without running anything of what is fetched. A fetch that was interrupted goes on.
 */
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { UserError } from '../base/errors.ts';
import { cacheKey, fetchedBytes } from './fetch-cache.ts';
import type { HelperOptions } from './helper-process.ts';
import type { ImageStore } from './image-store.ts';

/** Sets of packages, by mmdebstrap's names. */
export const DEBIAN_VARIANTS = ['apt', 'minbase', 'important', 'standard'] as const;

/** One of them. */
export type DebianVariant = (typeof DEBIAN_VARIANTS)[number];

/** What of Debian is to be installed. */
export interface DebianSource {
  /** For example `bookworm`. */
  readonly suite: string;
  /** Without, that of the host's apt, and the suite's updates and security updates with it. */
  readonly mirror: string | undefined;
  readonly variant: DebianVariant;
  /** Further packages. */
  readonly include: readonly string[];
  readonly components: readonly string[];
  /** File with the keys of the archive. */
  readonly keyring: string;
}

/** Where packages are. */
export interface FetchedPackages {
  /** Its `lists` and `archives` are as apt has them. */
  readonly directory: string;
  /** Lines of `sources.list`. */
  readonly sources: readonly string[];
}

const DEBIAN = 'http://deb.debian.org/debian';
const SECURITY = 'http://deb.debian.org/debian-security';
/** Suites that have no updates beside them. */
const ROLLING: readonly string[] = ['sid', 'unstable', 'testing', 'experimental'];
/** What a variant has beside the essential packages, by Debian's priorities. */
const PRIORITIES: Readonly<Record<DebianVariant, readonly string[]>> = {
  apt: [],
  minbase: ['required'],
  important: ['required', 'important'],
  standard: ['required', 'important', 'standard'],
};

/**
 * Returns the lines of `sources.list`.
 *
 * @param hostSources the host's files of sources, as text
 */
export function debianSources(source: DebianSource, hostSources: string): readonly string[] {
  const { suite, components, keyring } = source;
  const line = (mirror: string, of: string): string =>
    `deb [signed-by=${keyring}] ${mirror} ${of} ${components.join(' ')}`;
  if (source.mirror !== undefined) return [line(source.mirror, suite)];
  const mirror = mirrorIn(hostSources, 'debian') ?? DEBIAN;
  if (ROLLING.includes(suite)) return [line(mirror, suite)];
  const security = mirrorIn(hostSources, 'debian-security') ?? SECURITY;
  return [line(mirror, suite), line(mirror, `${suite}-updates`), line(security, `${suite}-security`)];
}

/** Returns the first address whose path ends with a name, of lines that are no comments. */
function mirrorIn(text: string, name: string): string | undefined {
  const addresses = text
    .split('\n')
    .filter((line) => !line.startsWith('#'))
    .flatMap((line) => line.split(/\s+/));
  return addresses.find(
    (word) => /^https?:\/\/[^/]+\//.test(word) && word.replace(/\/$/, '').endsWith(`/${name}`),
  );
}

/** Returns the text of the host's files of sources. */
function hostAptSources(directory: string = '/etc/apt'): string {
  const parts = join(directory, 'sources.list.d');
  const names = existsSync(parts)
    ? readdirSync(parts).filter((name) => /\.(?:list|sources)$/.test(name))
    : [];
  const files = [join(directory, 'sources.list'), ...names.sort().map((name) => join(parts, name))];
  return files.map((path) => (existsSync(path) ? readFileSync(path, 'utf8') : '')).join('\n');
}

/**
 * Fetches the packages of a source and all they depend on.
 *
 * @param cache directory of the cache for Debian's packages
 * @throws UserError keyring-missing; StateError tool-missing, tool-failed, cancelled
 */
export async function fetchPackages(
  store: ImageStore,
  source: DebianSource,
  cache: string,
  options: HelperOptions,
): Promise<FetchedPackages> {
  const { suite, keyring, variant, include } = source;
  if (!existsSync(keyring)) {
    throw new UserError(
      'keyring-missing',
      `cannot fetch packages of ${suite}: found no ${JSON.stringify(keyring)}; need the keys of the archive, for example: apt-get install debian-archive-keyring`,
    );
  }
  const sources = debianSources(source, hostAptSources());
  const id = cacheKey(sources.join('\n'));
  const directory = join(cache, id);
  for (const name of [
    'lists/partial',
    'archives/partial',
    'etc/trusted.gpg.d',
    'etc/preferences.d',
    'etc/apt.conf.d',
    'etc/sources.list.d',
  ])
    mkdirSync(join(directory, name), { recursive: true, mode: 0o700 });
  writeFileSync(join(directory, 'status'), '');
  writeFileSync(join(directory, 'etc/sources.list'), sources.map((line) => `${line}\n`).join(''));
  writeFileSync(join(directory, 'apt.conf'), aptConfig(directory));
  const parts = ['archives', 'archives/partial', 'lists', 'lists/partial'].map((name) =>
    join(directory, name),
  );
  const apt = async (what: string, ...args: readonly string[]): Promise<void> => {
    options.onStep?.(what);
    await store.runContained(
      {
        what: `${what} of ${suite}`,
        argv: ['/usr/bin/apt-get', '--quiet', '--yes', ...args],
        env: [`APT_CONFIG=${join(directory, 'apt.conf')}`, 'DEBIAN_FRONTEND=noninteractive', ...proxies()],
        directory,
        package: 'apt',
      },
      { ...options, onPoll: () => options.onProgress?.({ files: 0, readBytes: fetchedBytes(parts) }) },
    );
  };
  await apt('fetch lists of packages', '--error-on=any', 'update');
  const of = `?or(?archive(^${suite}$),?codename(^${suite}$))`;
  await apt(
    'fetch packages',
    '--download-only',
    'install',
    'apt',
    // Instead of a package that moves files at the first boot.
    'usr-is-merged',
    `?narrow(${of},?essential)`,
    ...PRIORITIES[variant].map((priority) => `?narrow(${of},?priority(${priority}))`),
    ...include,
  );
  return { directory, sources };
}

/** apt reads nothing of the host's but its programs. */
function aptConfig(directory: string): string {
  const entries: Readonly<Record<string, string>> = {
    Dir: directory,
    'Dir::Etc': join(directory, 'etc'),
    'Dir::State': directory,
    'Dir::State::status': join(directory, 'status'),
    'Dir::Cache': directory,
    'Dir::Log': directory,
    'APT::Install-Recommends': 'false',
    'APT::Sandbox::User': 'root',
    'Acquire::Languages': 'none',
    'Acquire::Retries': '3',
  };
  return Object.entries(entries)
    .map(([key, value]) => `${key} "${value}";\n`)
    .join('');
}

function proxies(): readonly string[] {
  return ['http_proxy', 'https_proxy', 'no_proxy'].flatMap((name) => {
    const value = process.env[name];
    return value === undefined ? [] : [`${name}=${value}`];
  });
}
