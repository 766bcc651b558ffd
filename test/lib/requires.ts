/**
 * What a test needs from its host. A missing requirement skips the test with a reason; one that `MUST_RUN` lists (comma
 * separated names) fails it instead, so that a skip cannot hide in CI.
 */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { PATIENCE } from './patience.ts';

/** A requirement a test can name. */
export type Requirement =
  | 'root'
  | 'cgroup2'
  | 'overlay'
  | 'data-only'
  | 'userns'
  | 'fuse'
  | 'busybox'
  | 'psi'
  | 'network'
  | 'qemu'
  | 'gcc'
  | 'clang'
  | 'sanitizer'
  | 'cross-arm64'
  | 'cross-riscv64'
  | 'cross-s390x'
  | 'mmdebstrap'
  | 'erofs-utils'
  | 'dmsetup'
  | 'quota'
  | 'xfs'
  | 'nginx'
  | 'postgresql'
  | 'redis'
  | 'sshd'
  | 'nodejs'
  | 'npm'
  | 'htop'
  | 'java'
  | 'go'
  | 'curl'
  | 'rsync'
  | 'skopeo'
  | 'registry'
  | 'wrk'
  | 'netstat'
  | 'lsof'
  | 'lxcfs'
  | 'munin';

/** Where tests have Debian's packages from. */
export const DEBIAN_MIRROR = 'http://deb.debian.org/debian';

// Each probe does the thing once. Flags, version strings and kernel configs tell other stories: a sandbox may refuse
// what they promise.
const PROBES: Readonly<Record<Requirement, () => string | undefined>> = {
  /** uid 0, and allowed to make a private mount namespace. */
  root: () =>
    process.geteuid?.() === 0 ? succeeds('unshare', ['--mount', 'true']) : `uid is ${process.geteuid?.()}`,
  /** A group can be made in the v2 hierarchy; says nothing about its controllers. */
  cgroup2: () =>
    inPrivateMounts(
      'mount -t cgroup2 none /tmp && mkdir /tmp/vserver-probe-$$ && rmdir /tmp/vserver-probe-$$ && umount /tmp',
    ),
  overlay: () =>
    inPrivateMounts(
      'mount -t tmpfs none /tmp && cd /tmp && mkdir lower upper work merged && ' +
        'mount -t overlay -o lowerdir=lower,upperdir=upper,workdir=work none merged && touch merged/file',
    ),
  /** An overlay may have a layer that gives bytes alone (Linux 6.5). */
  'data-only': () =>
    inPrivateMounts(
      'mount -t tmpfs none /tmp && cd /tmp && mkdir lower data merged && ' +
        'mount -t overlay -o lowerdir=lower::data,metacopy=on none merged',
    ),
  userns: () => succeeds('unshare', ['--user', '--map-root-user', 'true']),
  fuse: () =>
    inPrivateMounts(
      'exec 3<>/dev/fuse && mount -t fuse -o fd=3,rootmode=40000,user_id=0,group_id=0 none /tmp',
    ),
  /** Pressure is measured: CONFIG_PSI, and no psi=0. */
  psi: () => succeeds('cat', ['/proc/pressure/cpu']),
  /** A busybox that needs no library, to be a guest's whole userland. */
  busybox: () =>
    inPrivateMounts(
      'busybox=$(command -v busybox) && mount -t tmpfs none /tmp && cp "$busybox" /tmp/busybox && ' +
        'chroot /tmp /busybox true',
    ),
  /** A network namespace with interfaces of its own, and Python to speak there: iproute2, python3. */
  network: () =>
    succeeds('unshare', [
      '--net',
      'sh',
      '-c',
      'ip link add h0 type veth peer name h1 && /usr/bin/python3 -c "import socket"',
    ]),
  /** An x86-64 machine under emulation; KVM is not asked for. */
  qemu: () =>
    succeeds(
      'qemu-system-x86_64',
      ['-accel', 'tcg', '-M', 'pc', '-m', '16', '-S', '-nodefaults', '-display', 'none', '-monitor', 'stdio'],
      'quit\n',
    ),
  gcc: () => compiles('gcc', ['-static'], true),
  /** With libFuzzer, which is a package of its own (libclang-rt-dev). */
  clang: () => compiles('clang', [], true) ?? compiles('clang', ['-fsanitize=fuzzer-no-link,address'], true),
  /** gcc's AddressSanitizer and UndefinedBehaviorSanitizer. */
  sanitizer: () => compiles('gcc', ['-fsanitize=address,undefined'], true),
  /** Builds a program for the architecture and runs it with qemu-user. */
  'cross-arm64': () => crossCompiles('aarch64'),
  'cross-riscv64': () => crossCompiles('riscv64'),
  'cross-s390x': () => crossCompiles('s390x'),
  /** What others say of our images: fsck.erofs. */
  'erofs-utils': () => succeeds('fsck.erofs', ['-V']),
  dmsetup: () => succeeds('dmsetup', ['--help']),
  xfs: () => succeeds('mkfs.xfs', ['-V']),
  quota: () => succeeds('setquota', ['--version']),
  /** It, and a mirror of Debian's packages. */
  mmdebstrap: () =>
    succeeds('mmdebstrap', ['--version']) ??
    inPrivateMounts(
      `mount -t tmpfs none /tmp && /usr/lib/apt/apt-helper download-file ${DEBIAN_MIRROR}/dists/bookworm/Release /tmp/it`,
    ),
  // Servers and clients where Debian's packages put them; each in /usr, which guests of the template `host` share.
  nginx: () => succeeds('/usr/sbin/nginx', ['-v']),
  postgresql: () => succeeds('sh', ['-c', 'psql --version && /usr/lib/postgresql/*/bin/postgres --version']),
  redis: () => succeeds('redis-cli', ['--version']) ?? succeeds('redis-server', ['--version']),
  sshd: () => succeeds('ssh', ['-V']) ?? succeeds('test', ['-x', '/usr/sbin/sshd']),
  npm: () => succeeds('npm', ['--version']),
  nodejs: () => succeeds('/usr/bin/node', ['--version']),
  htop: () => succeeds('htop', ['--version']),
  // Nobody installs these two for a test: they are large.
  java: () => succeeds('java', ['-version']),
  go: () => succeeds('go', ['version']),
  rsync: () => succeeds('rsync', ['--version']),
  skopeo: () => succeeds('skopeo', ['--version']),
  registry: () => succeeds('docker-registry', ['--version']),
  curl: () => succeeds('curl', ['--version']),
  wrk: () => succeeds('sh', ['-c', 'wrk --help | grep -q connections']),
  netstat: () => succeeds('netstat', ['--version']),
  lsof: () => succeeds('lsof', ['-v']),
  lxcfs: () => succeeds('lxcfs', ['--version']),
  /** Its plugins for Linux-VServer. */
  munin: () => succeeds('test', ['-x', '/usr/share/munin/plugins/vserver_cpu_']),
};

const probed = new Map<Requirement, string | undefined>();

/**
 * True when the host has all `names`. Otherwise marks the test as skipped, with a reason, and returns false: the test
 * returns at once. Throws when `MUST_RUN` lists the missing name.
 */
export function requires(t: TestContext, ...names: readonly Requirement[]): boolean {
  const reason = unmet(...names);
  if (reason !== false) t.skip(reason);
  return reason === false;
}

/**
 * `needs <name>: <what was found>` for the first of `names` the host lacks, or false: the value for the `skip` option
 * of a suite. Throws when `MUST_RUN` lists the missing name.
 */
export function unmet(...names: readonly Requirement[]): string | false {
  const forbidden = mustRun();
  // What must run comes first, so that another missing requirement cannot hide it.
  const ordered = [...names].sort((a, b) => Number(forbidden.includes(b)) - Number(forbidden.includes(a)));
  for (const name of ordered) {
    const found = probe(name);
    if (found === undefined) continue;
    if (forbidden.includes(name)) {
      throw new Error(`cannot run test: found ${found}; need "${name}", which MUST_RUN lists`);
    }
    return `needs ${name}: ${found}`;
  }
  return false;
}

/** Undefined when the host has `name`, else what was found instead. Asks the host once in a process. */
export function probe(name: Requirement): string | undefined {
  const found = probed.has(name) ? probed.get(name) : PROBES[name]();
  probed.set(name, found);
  return found;
}

/** The names `MUST_RUN` lists. Throws on a name that is no requirement, as a misspelt one would never fail a test. */
export function mustRun(): readonly Requirement[] {
  const names = (process.env['MUST_RUN'] ?? '').split(',').filter((name) => name !== '');
  return names.map((name) => {
    if (!isRequirement(name)) {
      throw new Error(
        `cannot read MUST_RUN: found "${name}"; need one of: ${Object.keys(PROBES).join(', ')}`,
      );
    }
    return name;
  });
}

/** Narrows a name given as text. */
export function isRequirement(name: string): name is Requirement {
  return Object.hasOwn(PROBES, name);
}

function succeedsAs([command = '', ...args]: readonly string[]): string | undefined {
  return succeeds(command, args);
}

/** Undefined on success, else one line that says what happened. */
function succeeds(command: string, args: readonly string[], input = ''): string | undefined {
  const { error, signal, status, stderr } = spawnSync(command, args, {
    input,
    encoding: 'utf8',
    timeout: 30_000 * PATIENCE,
  });
  if (error !== undefined) {
    return 'code' in error && error.code === 'ENOENT'
      ? `no ${command}`
      : `${command} failed: ${error.message}`;
  }
  if (status === 0) return undefined;
  const [line = ''] = stderr.trim().split('\n');
  return `${command} ended with ${signal ?? status}${line === '' ? '' : ` ("${line}")`}`;
}

// Everything the script mounts ends with its namespace, and covers /tmp there only.
function inPrivateMounts(script: string): string | undefined {
  const identity = process.geteuid?.() === 0 ? [] : ['--user', '--map-root-user'];
  return succeeds('unshare', [...identity, '--mount', 'sh', '-c', script]);
}

function crossCompiles(arch: string): string | undefined {
  return compiles(`${arch}-linux-gnu-gcc`, ['-static'], [`qemu-${arch}-static`]);
}

// `run`: whether to run what was built, or the words before it on the command line.
function compiles(
  compiler: string,
  flags: readonly string[],
  run: boolean | readonly string[],
): string | undefined {
  const dir = mkdtempSync(join(tmpdir(), 'requires-'));
  try {
    const program = join(dir, 'program');
    const source = '#include <stdio.h>\nint main(void) { return puts("") < 0; }\n';
    return (
      succeeds(compiler, [...flags, '-x', 'c', '-o', program, '-'], source) ??
      (run === false ? undefined : succeedsAs([...(run === true ? [] : run), program]))
    );
  } finally {
    rmSync(dir, { recursive: true });
  }
}
