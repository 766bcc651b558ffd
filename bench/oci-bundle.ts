/** An OCI bundle that asks crun and runc for what a guest of the host template is. */
import {
  chownSync,
  cpSync,
  lchownSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmdirSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { DEFAULT_CAPABILITIES, formatCapabilities } from '../src/context/capabilities.ts';
import { MASKED_PATHS, READ_ONLY_PATHS } from '../src/context/masks.ts';
import seccompDefault from '../src/context/seccomp-default.json' with { type: 'json' };

/** First of the 65,536 host ids that the bundle's user namespace has: clear of what instances of vserver use first. */
const FIRST_HOST_ID = 3_000_000_000;
const ID_COUNT = 65_536;
/** A guest's limit when none is given. */
const PIDS_LIMIT = 4096;
/** No limit in effect, but written, as the guest's is. */
const UNLIMITED_BYTES = 2 ** 50;

/** Namespaces of a guest in the order of the kernel's flags; a runtime may lack the newest. */
export const NAMESPACES = ['pid', 'mount', 'uts', 'ipc', 'cgroup', 'network', 'user', 'time'] as const;

/** What a bundle is of. */
export interface BundleOptions {
  /** Made by this. */
  readonly directory: string;
  /** The prepared root of the host template: copied, and given to the bundle's ids. */
  readonly template: string;
  readonly namespaces: readonly string[];
  /** A path in the cgroup trees, or undefined to set no limits. */
  readonly cgroupsPath: string | undefined;
  readonly argv: readonly string[];
}

/** Makes a bundle. Its root is a plain directory: no runtime here mounts the overlay, which an engine does for it. */
export function makeBundle(options: BundleOptions): void {
  const root = join(options.directory, 'rootfs');
  mkdirSync(options.directory, { recursive: true });
  cpSync(options.template, root, { recursive: true, verbatimSymlinks: true });
  giveTo(root);
  for (const name of ['proc', 'sys', 'dev', 'usr']) mkdirSync(join(root, name), { recursive: true });
  writeFileSync(join(options.directory, 'config.json'), JSON.stringify(configOf(options), undefined, 2));
}

/** Removes the cgroups below which bundles were run, in every hierarchy; they are empty by then. */
export function removeCgroups(name: string): void {
  for (const line of readFileSync('/proc/self/mountinfo', 'utf8').split('\n')) {
    const [, , , , mountPoint = '', ...rest] = line.split(' ');
    if (!/^cgroup2?$/.test(rest[rest.indexOf('-') + 1] ?? '')) continue;
    try {
      rmdirSync(join(mountPoint, name));
    } catch (error) {
      if (!(error instanceof Error && 'code' in error && error.code === 'ENOENT')) throw error;
    }
  }
}

function configOf({ namespaces, cgroupsPath, argv }: BundleOptions): unknown {
  const capabilities = formatCapabilities(DEFAULT_CAPABILITIES).map((name) =>
    name.startsWith('CAP_') ? name : `CAP_${name}`,
  );
  const flags = ['nosuid', 'nodev', 'noexec'];
  const ids = [{ containerID: 0, hostID: FIRST_HOST_ID, size: ID_COUNT }];
  const limits = {
    memory: { limit: UNLIMITED_BYTES },
    cpu: { shares: 1024, period: 100_000 }, // crun 1.8 cannot write a quota of -1
    pids: { limit: PIDS_LIMIT },
  };
  return {
    ociVersion: '1.0.2',
    hostname: 'bench',
    root: { path: 'rootfs' },
    process: {
      user: { uid: 0, gid: 0 },
      cwd: '/',
      args: argv,
      env: ['PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin', 'HOME=/root'],
      noNewPrivileges: true,
      capabilities: { bounding: capabilities, effective: capabilities, permitted: capabilities },
      rlimits: [{ type: 'RLIMIT_NOFILE', soft: 1024, hard: 4096 }],
    },
    mounts: [
      { destination: '/proc', type: 'proc', source: 'proc', options: flags },
      { destination: '/sys', type: 'sysfs', source: 'sysfs', options: [...flags, 'ro'] },
      {
        destination: '/dev',
        type: 'tmpfs',
        source: 'dev',
        options: ['nosuid', 'mode=755', 'size=65536k', 'nr_inodes=16384'],
      },
      {
        destination: '/dev/pts',
        type: 'devpts',
        source: 'devpts',
        options: ['nosuid', 'noexec', 'newinstance', 'ptmxmode=0666', 'mode=0620', 'gid=5'],
      },
      { destination: '/dev/mqueue', type: 'mqueue', source: 'mqueue', options: flags },
      { destination: '/usr', type: 'bind', source: '/usr', options: ['bind', 'ro', 'nosuid', 'nodev'] },
    ],
    linux: {
      namespaces: namespaces.map((type) => ({ type })),
      uidMappings: ids,
      gidMappings: ids,
      maskedPaths: MASKED_PATHS.map(({ path }) => path).filter((path) => !path.includes('*')),
      readonlyPaths: READ_ONLY_PATHS.map(({ path }) => path),
      seccomp: seccompOf(capabilities),
      ...(cgroupsPath === undefined ? {} : { cgroupsPath, resources: limits }),
    },
  };
}

/** The default profile in the runtimes' format, which has no conditions: they are decided here. */
function seccompOf(capabilities: readonly string[]): unknown {
  const isMet = (names: readonly string[] | undefined): boolean =>
    names === undefined || names.every((name) => capabilities.includes(name));
  const rules: readonly ConditionalRule[] = seccompDefault.syscalls;
  return {
    defaultAction: seccompDefault.defaultAction,
    defaultErrnoRet: seccompDefault.defaultErrnoRet,
    architectures:
      process.arch === 'x64' ? ['SCMP_ARCH_X86_64', 'SCMP_ARCH_X86'] : ['SCMP_ARCH_AARCH64', 'SCMP_ARCH_ARM'],
    syscalls: rules
      .filter(({ includes }) => includes?.arches === undefined && isMet(includes?.caps))
      .filter(({ excludes }) => excludes?.caps === undefined || !isMet(excludes.caps))
      .map(({ names, action, errnoRet, args }) => ({ names, action, errnoRet, args })),
  };
}

/** What of a rule matters here; the only architectures it excludes or includes are not those the benches run on. */
interface ConditionalRule {
  readonly names: readonly string[];
  readonly action: string;
  readonly errnoRet?: number;
  readonly args?: readonly unknown[];
  readonly includes?: { readonly caps?: readonly string[]; readonly arches?: readonly string[] };
  readonly excludes?: { readonly caps?: readonly string[]; readonly arches?: readonly string[] };
}

/** Gives a tree to the same ids in the user namespace, without following links. */
function giveTo(root: string): void {
  chownSync(root, FIRST_HOST_ID, FIRST_HOST_ID);
  for (const entry of readdirSync(root, { withFileTypes: true })) {
    const path = join(root, entry.name);
    if (entry.isDirectory()) giveTo(path);
    else lchownSync(path, FIRST_HOST_ID, FIRST_HOST_ID);
  }
}
