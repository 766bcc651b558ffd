/** Brings Debian's stock kernel of a release into the cache, with its modules, and changes nothing of the machine. */
import { spawnSync } from 'node:child_process';
import {
  existsSync,
  globSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { formatDeb822, readAptSources, sourcesOfRelease } from './apt-sources.ts';
import { findProgram } from './programs.ts';

/** A kernel ready to boot. */
export type StockKernel = {
  /** As uname -r says, for example `6.1.0-56-amd64`. */
  readonly release: string;
  /** The bzImage. */
  readonly imagePath: string;
  /** The tree modprobe reads: modules, modules.dep, modules.alias. */
  readonly modulesPath: string;
};

/** Reports that a release's kernel cannot be had from the machine's mirrors. */
export class KernelUnavailableError extends Error {}

// The flavour with 9P; Debian's cloud flavour has none.
const META_PACKAGE = 'linux-image-amd64';

// Of the 400 MB of an unpacked 6.1 most are drivers for hardware that this machine type does not have.
const KEPT_DRIVERS: readonly string[] = ['block', 'md', 'net', 'virtio'];
const DROPPED_TREES: readonly string[] = ['sound', 'drivers/net/ethernet', 'drivers/net/wireless'];

/**
 * Returns the stock kernel of a Debian release. The first call downloads it (some 100 MB); later calls answer from
 * the cache, without network. Removing `cacheDir` is how one gets a newer build.
 *
 * @param codename Debian's name of the release, for example `bookworm`
 * @throws KernelUnavailableError when the machine has no Debian mirror, or the mirror does not answer or lacks it
 */
export function fetchKernel(codename: string, cacheDir: string): StockKernel {
  const target = join(cacheDir, codename);
  if (!existsSync(target)) {
    const staging = `${target}.new`;
    rmSync(staging, { recursive: true, force: true });
    mkdirSync(staging, { recursive: true });
    const packagePath = download(codename, staging);
    unpack(packagePath, staging);
    renameSync(staging, target);
  }
  const [release = ''] = readdirSync(join(target, 'lib/modules'));
  return {
    release,
    imagePath: join(target, `boot/vmlinuz-${release}`),
    modulesPath: join(target, 'lib/modules', release),
  };
}

/** Downloads the package of the kernel into `directory` and returns its path. */
function download(codename: string, directory: string): string {
  const env = { ...process.env, APT_CONFIG: writeAptConfig(codename, join(directory, 'apt')), LC_ALL: 'C' };
  const apt = (program: 'apt-get' | 'apt-cache', ...args: readonly string[]): string => {
    const result = spawnSync(findProgram(program), args, { cwd: directory, env, encoding: 'utf8' });
    if (result.status !== 0) {
      const found = (result.stderr ?? '').trim().split('\n').at(-1) ?? '';
      throw new KernelUnavailableError(
        `cannot fetch the kernel of ${codename}: ${program} ${args[0]}: found ${JSON.stringify(found)}; need: a Debian mirror`,
      );
    }
    return result.stdout;
  };
  apt('apt-get', 'update', '-q', '--error-on=any');
  // The number in the real package's name moves with each ABI change, so only the dependency tells it.
  const kernelPackage = /Depends: (linux-image-[\w.+-]+)/.exec(
    apt('apt-cache', 'depends', META_PACKAGE),
  )?.[1];
  if (kernelPackage === undefined) {
    throw new KernelUnavailableError(
      `cannot fetch the kernel of ${codename}: found no dependency of ${META_PACKAGE}; need: a release for amd64`,
    );
  }
  apt('apt-get', 'download', '-q', kernelPackage);
  const [file = ''] = globSync('*.deb', { cwd: directory });
  return join(directory, file);
}

/**
 * Writes a whole apt configuration of our own below `directory` and returns the path of its apt.conf.
 *
 * Of the machine's configuration only the sources and `Acquire::` (proxies, timeouts) are taken over: its hooks, for
 * example the cache cleaning of Debian's container images, would act on the machine's own directories.
 */
function writeAptConfig(codename: string, directory: string): string {
  const machine = /^VERSION_CODENAME=(.+)$/m.exec(readFileSync('/etc/os-release', 'utf8'))?.[1] ?? '';
  const sources = sourcesOfRelease(readAptSources('/etc/apt'), machine, codename);
  if (sources.length === 0) {
    throw new KernelUnavailableError(
      `cannot fetch the kernel of ${codename}: found no source of Debian in /etc/apt; need: a Debian machine`,
    );
  }
  for (const name of ['empty', 'state/lists/partial', 'cache/archives/partial']) {
    mkdirSync(join(directory, name), { recursive: true });
  }
  writeFileSync(join(directory, 'debian.sources'), formatDeb822(sources));
  const dump = spawnSync(findProgram('apt-config'), ['dump'], { encoding: 'utf8' }).stdout;
  const settings: readonly (readonly [string, string])[] = [
    ['APT::Architecture', 'amd64'],
    ['APT::Architectures', 'amd64'],
    ['APT::Sandbox::User', 'root'],
    ['Acquire::Languages', 'none'],
    ['Dir::Etc::main', '/dev/null'],
    ['Dir::Etc::parts', join(directory, 'empty')],
    ['Dir::Etc::preferences', '/dev/null'],
    ['Dir::Etc::preferencesparts', join(directory, 'empty')],
    ['Dir::Etc::sourcelist', join(directory, 'debian.sources')],
    ['Dir::Etc::sourceparts', join(directory, 'empty')],
    ['Dir::State', join(directory, 'state')],
    ['Dir::State::status', '/dev/null'],
    ['Dir::Cache', join(directory, 'cache')],
  ];
  const lines = [
    ...dump.split('\n').filter((line) => line.startsWith('Acquire::')),
    ...settings.map(([name, value]) => `${name} "${value}";`),
  ];
  const path = join(directory, 'apt.conf');
  writeFileSync(path, `${lines.join('\n')}\n`);
  return path;
}

/** Unpacks a kernel package in `directory`, keeps what a machine without hardware needs, and indexes the modules. */
function unpack(packagePath: string, directory: string): void {
  run('dpkg', ['-x', packagePath, directory]);
  // Since Debian 13 modules are in usr/lib; depmod and modprobe read lib.
  if (existsSync(join(directory, 'usr/lib/modules')))
    renameSync(join(directory, 'usr/lib'), join(directory, 'lib'));
  for (const name of ['apt', 'usr', ...globSync(['*.deb', 'boot/System.map-*'], { cwd: directory })]) {
    rmSync(join(directory, name), { recursive: true, force: true });
  }
  const [release = ''] = readdirSync(join(directory, 'lib/modules'));
  const tree = join(directory, 'lib/modules', release, 'kernel');
  const drivers = readdirSync(join(tree, 'drivers')).filter((name) => !KEPT_DRIVERS.includes(name));
  for (const name of [...DROPPED_TREES, ...drivers.map((driver) => join('drivers', driver))]) {
    rmSync(join(tree, name), { recursive: true, force: true });
  }
  // Since Debian 13 modules are compressed. busybox insmod can read them, but slowly under emulation, and after a try
  // that the kernel logs as "Invalid ELF header".
  const compressed = globSync('**/*.ko.xz', { cwd: tree });
  if (compressed.length > 0) run('busybox', ['unxz', ...compressed], tree);
  run('busybox', ['depmod', '-b', directory, release]);
}

function run(program: 'dpkg' | 'busybox', args: readonly string[], cwd?: string): void {
  const result = spawnSync(findProgram(program), args, { cwd, encoding: 'utf8' });
  if (result.status !== 0) {
    throw new Error(
      `cannot unpack a kernel: found ${program} saying ${JSON.stringify(result.stderr.trim())}`,
    );
  }
}
