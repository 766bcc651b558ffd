/**
 * Debian's packages are installed in a guest of ours, by mmdebstrap: their scripts run as root of that guest alone,
 * without any network, within its limits, and end with it. What comes of it is an archive, hostile as any other.
 */
import { existsSync, lstatSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import defaultProfile from '../context/seccomp-default.json' with { type: 'json' };
import { type DebianSource, type FetchedPackages, fetchPackages } from '../storage/debian-archive.ts';
import type { HelperOptions } from '../storage/helper-process.ts';
import type { ImageStore, StoredImage } from '../storage/image-store.ts';
import { FILLED_AT_START } from '../storage/minimal-etc.ts';
import { archiveAt, DEFAULT_IMPORT_LIMITS } from '../storage/tarball.ts';
import { toolCancelled, toolFailed, toolMissing } from '../storage/tool-errors.ts';
import { BUILD_LABEL } from './build-guests.ts';
import type { GuestConfigValues } from './config-types.ts';
import type { Manager } from './manager.ts';

const MMDEBSTRAP = '/usr/bin/mmdebstrap';
const HOOKS = '/usr/share/mmdebstrap/hooks/merged-usr';
const MEMORY = '4g';
const MAX_PROCESSES = 2000;
/** Calls that wait for a disk: all of this is for one file, which is written again. */
const SYNCS = ['fsync', 'fdatasync', 'sync', 'syncfs', 'sync_file_range', 'msync'] as const;

/** In the chroot, whose path is the first argument. */
const SET_UP = `mkdir -p "$1/var/lib/apt/lists" "$1/var/cache/apt/archives"
cp /cache/lists/*_* "$1/var/lib/apt/lists/" && cp /cache/archives/*.deb "$1/var/cache/apt/archives/"`;
const MOUNT = 'for d in dev proc sys; do mount --rbind "/$d" "$1/$d" || exit; done';
const CLEAN_UP = `for d in dev proc sys; do umount --recursive "$1/$d" || exit; done
rm -f "$1/etc/hostname"; for f in hosts resolv.conf; do printf '%s' "$MARK" >"$1/etc/$f"; done`;

/**
 * Makes an image of Debian. To be called within `store.withoutDeleting`, until somebody needs it.
 *
 * @throws StateError tool-missing, tool-failed, cancelled; UserError keyring-missing, invalid-archive
 */
export async function makeDebianImage(
  manager: Manager,
  store: ImageStore,
  source: DebianSource,
  options: HelperOptions,
): Promise<StoredImage> {
  const what = `install ${source.suite}`;
  if (!existsSync(MMDEBSTRAP)) throw toolMissing(what, MMDEBSTRAP, 'mmdebstrap');
  return await store.withCache('debian', async (cache) => {
    const packages = await fetchPackages(store, source, cache, options);
    return await store.withWorkDir(async (workDir) => {
      const archive = await install(manager, source, packages, workDir, options);
      options.onStep?.('read files');
      const archives = [await archiveAt(archive)];
      const request = { what, archives, limits: DEFAULT_IMPORT_LIMITS };
      return (await store.unpack(request, workDir, options)).image;
    });
  });
}

/** Returns the path of the archive that came of it. */
async function install(
  manager: Manager,
  source: DebianSource,
  packages: FetchedPackages,
  workDir: string,
  options: HelperOptions,
): Promise<string> {
  const what = `install ${source.suite}`;
  const directory = join(workDir, 'build');
  mkdirSync(directory, { mode: 0o700 });
  const profile = join(workDir, 'seccomp.json');
  writeFileSync(profile, JSON.stringify(withoutSyncs()));
  options.onStep?.('install packages, in a guest of its own');
  const guest = await manager.starts.runEphemeral(
    undefined,
    guestValues(source, packages, directory, profile),
  );
  const stop = (): void => void manager.ends.stop(guest, { timeoutMs: 0 });
  options.signal?.addEventListener('abort', stop, { once: true });
  if (options.signal?.aborted) stop();
  const exit = await manager.ends.wait(guest);
  options.signal?.removeEventListener('abort', stop);
  if (options.signal?.aborted) throw toolCancelled(what);
  const archive = join(directory, 'root.tar');
  // The guest is gone, so what this is stays so; a link would lead out of its directory.
  if (exit?.code === 0 && isFile(archive)) return archive;
  const log = join(directory, 'log');
  const words = isFile(log) ? readFileSync(log, 'latin1') : '';
  throw toolFailed(what, MMDEBSTRAP, `exit code ${exit?.code}`, words, (line) => line.startsWith('E: '));
}

function guestValues(
  { suite, variant, include }: DebianSource,
  { directory: cache, sources }: FetchedPackages,
  directory: string,
  profile: string,
): GuestConfigValues {
  const argv = [
    MMDEBSTRAP,
    '--mode=root',
    `--variant=${variant}`,
    ...include.map((name) => `--include=${name}`),
    '--format=tar',
    // Lists come with the packages; what it mounts by itself it may not; lists are of no use a day later.
    '--skip=update,chroot/mount',
    '--aptopt=Acquire::Languages "none"',
    `--hook-dir=${HOOKS}`,
    `--setup-hook=${SET_UP}`,
    `--extract-hook=${MOUNT}`,
    `--customize-hook=${CLEAN_UP}`,
    suite,
    '/build/root.tar',
    ...sources,
  ];
  return {
    template: 'host',
    command: ['/bin/sh', '-c', 'exec >/build/log 2>&1 </dev/null "$@"', 'sh', ...argv],
    env: {
      PATH: '/usr/sbin:/usr/bin:/sbin:/bin',
      LC_ALL: 'C.UTF-8',
      HOME: '/root',
      TMPDIR: '/build',
      DEBIAN_FRONTEND: 'noninteractive',
      MARK: FILLED_AT_START,
    },
    network: { mode: 'none' },
    // To mount, in its own mount namespace, what its chroot needs.
    bcaps: ['+SYS_ADMIN'],
    seccomp: { profile },
    limits: { memory: MEMORY, pids: MAX_PROCESSES },
    mounts: [
      { type: 'bind', source: directory, target: '/build', idmap: true },
      { type: 'bind', source: cache, target: '/cache', readonly: true, idmap: true },
    ],
    labels: { [BUILD_LABEL]: suite },
  };
}

/** Guests' own filter, in which a call that waits for a disk has done so already. */
function withoutSyncs(): object {
  const isSync = (name: string): boolean => SYNCS.some((one) => one === name);
  const rules = defaultProfile.syscalls.map((rule) => ({
    ...rule,
    names: rule.names.filter((name) => !isSync(name)),
  }));
  return {
    ...defaultProfile,
    syscalls: [{ names: SYNCS, action: 'SCMP_ACT_ERRNO', errnoRet: 0 }, ...rules],
  };
}

function isFile(path: string): boolean {
  return lstatSync(path, { throwIfNoEntry: false })?.isFile() === true;
}
