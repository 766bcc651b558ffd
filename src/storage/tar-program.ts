import type { Data, Program } from '../sys/program.ts';
import { runHostCommand } from './host-command.ts';
import { planNoCapabilities } from './read-only-host.ts';

/** What unpacks an archive, and where. */
export interface TarRun {
  /** Descriptor of the archive in the worker that runs the program. */
  readonly archiveFd: number;
  readonly compression: TarCompression;
  /** Paths on the host: `root` receives the files; `jail` is an empty directory; `names` and `messages` are empty files. */
  readonly root: string;
  readonly jail: string;
  readonly names: string;
  readonly messages: string;
  /** The host's links into /usr: `['bin', 'usr/bin']`. */
  readonly usrLinks: readonly (readonly [string, string])[];
  /** Largest size of one file. */
  readonly maxFileBytes: number;
  readonly object: number;
}

/** Options of GNU tar that name a decompressor. */
export type TarCompression = '--gzip' | '--xz' | '--zstd' | '--bzip2' | undefined;

/** What tar needs as root in its own mount namespace: to give files away, to make nodes and file capabilities (linux/capability.h). */
const KEPT_CAPABILITIES = {
  CHOWN: 0,
  DAC_OVERRIDE: 1,
  FOWNER: 3,
  FSETID: 4,
  MKNOD: 27,
  SETFCAP: 31,
} as const;
const MEMORY_BYTES = 1024 ** 3;
const CPU_SECONDS = 3600;
const JAIL_BYTES = '1m';
const S_IFREG = 0o100000;

/**
 * Adds the steps that unpack an archive with the host's tar, which sees nothing but the host's /usr, read-only, and the
 * directory to fill: the archive is hostile, and so is all that tar and the decompressor do with it.
 *
 * @returns where the wait status is
 */
export function unpackTar(program: Program, run: TarRun): Data {
  return runHostCommand(program, {
    title: 'tar',
    namespaces: program.flags('CLONE_NEWNS', 'CLONE_NEWPID', 'CLONE_NEWNET', 'CLONE_NEWIPC', 'CLONE_NEWUTS'),
    object: run.object,
    setUp: () => enterJail(program, run),
    exec: () => execTar(program, run),
  });
}

function enterJail(program: Program, run: TarRun): void {
  const at = program.flags('AT_FDCWD');
  program.sys('prctl', [program.flags('PR_SET_PDEATHSIG'), program.flags('SIGKILL')]);
  program.sys('umask', [0o022]);
  const openOutput = (path: string) =>
    program.sys('openat', [at, path, program.flags('O_WRONLY', 'O_APPEND', 'O_NOFOLLOW', 'O_CLOEXEC')], {
      about: path,
    });
  const names = openOutput(run.names);
  const messages = openOutput(run.messages);
  program.sys('mount', [0, '/', 0, program.flags('MS_REC', 'MS_PRIVATE'), 0], {
    about: 'private propagation',
  });
  const plain = program.flags('MS_NOSUID', 'MS_NODEV');
  program.sys('mount', ['vserver', run.jail, 'tmpfs', plain, `mode=0755,size=${JAIL_BYTES},nr_inodes=64`], {
    about: 'jail',
  });
  program.sys('chdir', [run.jail]);
  for (const name of ['usr', 'etc', 'dev', 'tmp', 'target'])
    program.sys('mkdirat', [at, name, 0o755], { about: name });
  for (const [name, target] of run.usrLinks) program.sys('symlinkat', [target, at, name], { about: name });
  bind(program, '/usr', 'usr', ['MOUNT_ATTR_RDONLY', 'MOUNT_ATTR_NOSUID', 'MOUNT_ATTR_NODEV']);
  bind(program, run.root, 'target', ['MOUNT_ATTR_NOSUID', 'MOUNT_ATTR_NODEV', 'MOUNT_ATTR_NOEXEC']);
  for (const path of ['/dev/null', '/etc/ld.so.cache']) {
    program.sys('mknodat', [at, path.slice(1), S_IFREG | 0o644, 0], { about: path });
    // The loader does without its cache.
    const options = path === '/dev/null' ? { about: path } : { about: path, ignore: ['ENOENT'] };
    program.sys('mount', [path, path.slice(1), 0, program.flags('MS_BIND'), 0], options);
  }
  // The old root lands on top of the new one and goes away: pivot_root(2), "pivot_root(".", ".")".
  program.sys('pivot_root', ['.', '.']);
  program.sys('umount2', ['.', program.flags('MNT_DETACH')], { about: 'the host' });
  program.sys('chdir', ['/']);
  setAttributes(program, '/', 0, ['MOUNT_ATTR_RDONLY', 'MOUNT_ATTR_NOSUID', 'MOUNT_ATTR_NODEV']);
  program.sys('dup3', [run.archiveFd, 0, 0], { about: 'the archive as stdin' });
  program.sys('dup3', [names, 1, 0], { about: 'stdout' });
  program.sys('dup3', [messages, 2, 0], { about: 'stderr' });
}

function bind(program: Program, from: string, to: string, attributes: readonly string[]): void {
  program.sys('mount', [from, to, 0, program.flags('MS_BIND', 'MS_REC'), 0], { about: to });
  setAttributes(program, to, program.flags('AT_RECURSIVE').value, attributes);
}

function setAttributes(program: Program, path: string, how: number, attributes: readonly string[]): void {
  const at = program.flags('AT_FDCWD');
  const attr = program.struct('mount_attr', { attr_set: program.flags(...attributes) });
  program.sys('mount_setattr', [at, path, how, attr, attr.length], {
    about: `${path} ${attributes.join('|')}`,
  });
}

function execTar(program: Program, run: TarRun): void {
  program.sys('setsid', []);
  for (const [name, value] of Object.entries({
    RLIMIT_FSIZE: run.maxFileBytes,
    RLIMIT_AS: MEMORY_BYTES,
    RLIMIT_CPU: CPU_SECONDS,
    RLIMIT_CORE: 0,
    RLIMIT_NOFILE: 256,
  })) {
    const limit = program.struct('rlimit', { rlim_cur: value, rlim_max: value });
    program.sys('prlimit64', [0, program.flags(name), limit, 0], { about: name });
  }
  planNoCapabilities(program, Object.values(KEPT_CAPABILITIES));
  program.sys('chdir', ['/target']);
  const argv = program.vector(tarArguments(run.compression));
  program.sys('execve', ['/usr/bin/tar', argv, program.vector(['PATH=/usr/bin:/bin', 'LC_ALL=C'])], {
    about: 'tar',
  });
}

/**
 * GNU tar strips a leading `/`, refuses `..`, and makes links that point outside only at the end, so that no later
 * member is written through them; the jail holds if it errs. Extended attributes come from a list: `trusted.overlay.*`
 * would speak to the overlay that the guest's root is.
 */
function tarArguments(compression: TarCompression): readonly string[] {
  return [
    'tar',
    '--extract',
    ...(compression === undefined ? [] : [compression]),
    '--file=-',
    '--verbose',
    '--verbose',
    '--quoting-style=escape',
    '--numeric-owner',
    '--same-owner',
    '--same-permissions',
    '--delay-directory-restore',
    '--xattrs',
    '--xattrs-include=user.*',
    '--xattrs-include=security.capability',
    '--xattrs-include=system.posix_acl_*',
    '--xattrs-exclude=user.overlay.*',
    '--warning=no-timestamp',
    '--warning=no-unknown-keyword',
  ];
}
