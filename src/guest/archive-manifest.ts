/**
 * `vserver.json` of an archive of a guest: what the archive holds, beside configuration and files. An archive may come
 * from anybody.
 */
import { UserError } from '../base/errors.ts';
import { type GuestName, isGuestName } from '../base/ids.ts';
import { IDS_PER_CONTEXT } from '../context/id-map.ts';
import { isSnapshotName } from './snapshots.ts';
import { isQuotaKind, type KeptQuota } from './user-quotas.ts';

/** Name of the file. */
export const MANIFEST_FILE = 'vserver.json';
/** Name of a guest's configuration beside its files. */
export const CONFIG_FILE = 'guest.yaml';
/** Directory of a guest's files. */
export const ROOT_DIRECTORY = 'rootfs';

const FORMAT = 'vserver-guest';
const VERSION = 1;
const SHA256 = /^[\da-f]{64}$/;

/** A snapshot in an archive. */
export interface ArchivedSnapshot {
  readonly name: string;
  /** RFC 3339. */
  readonly takenAt: string;
  readonly wasRunning: boolean;
  readonly hostUsr: boolean;
  /** Undefined: the archive, or the snapshot in it, is older than that these were kept. */
  readonly quotas: readonly KeptQuota[] | undefined;
}

/** What an archive says of itself. */
export interface ArchiveManifest {
  /** The guest's name where it was exported. */
  readonly name: GuestName;
  /** RFC 3339. */
  readonly exportedAt: string;
  /** The guest ran, and was frozen while its files were read. */
  readonly wasRunning: boolean;
  /** Its /usr is that of the host, and not in the archive. */
  readonly hostUsr: boolean;
  /** Limits of its users and groups, likewise. */
  readonly quotas: readonly KeptQuota[] | undefined;
  readonly snapshots: readonly ArchivedSnapshot[];
  /** sha256 of the listing of each tree, by its directory. */
  readonly trees: Readonly<Record<string, string>>;
}

/** Directory of a snapshot. */
export function snapshotDirectory(name: string): string {
  return `snapshots/${name}`;
}

/** Returns what an archive is to say of itself; the trees are added by who writes them. */
export function formatManifest(manifest: Omit<ArchiveManifest, 'trees'>): object {
  return { format: FORMAT, version: VERSION, ...manifest };
}

/** Reads what an archive says of itself. @throws UserError invalid-archive */
export function parseManifest(text: string): ArchiveManifest {
  const fail = (found: string): never => {
    throw new UserError(
      'invalid-archive',
      `cannot import an archive: found ${found} in its ${MANIFEST_FILE}; need one that vserver export wrote`,
    );
  };
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    fail('no JSON');
  }
  const manifest = recordOf(value) ?? fail('no object');
  if (manifest['format'] !== FORMAT) fail('another format');
  if (manifest['version'] !== VERSION)
    fail(`version ${JSON.stringify(manifest['version'])}, not ${VERSION},`);
  const { name, exportedAt, snapshots } = manifest;
  if (typeof name !== 'string' || !isGuestName(name)) return fail('no name of a guest');
  if (!isTime(exportedAt)) return fail('no time');
  const list: readonly unknown[] = Array.isArray(snapshots) ? snapshots : fail('no list of snapshots');
  return {
    name,
    exportedAt,
    wasRunning: manifest['wasRunning'] === true,
    hostUsr: manifest['hostUsr'] === true,
    quotas: quotasOf(manifest['quotas'], fail),
    snapshots: list.map((one) => {
      const snapshot = recordOf(one) ?? fail('no snapshot');
      const { name: its, takenAt } = snapshot;
      if (typeof its !== 'string' || !isSnapshotName(its)) return fail('no name of a snapshot');
      if (!isTime(takenAt)) return fail('no time of a snapshot');
      const flags = { wasRunning: snapshot['wasRunning'] === true, hostUsr: snapshot['hostUsr'] === true };
      return { name: its, takenAt, ...flags, quotas: quotasOf(snapshot['quotas'], fail) };
    }),
    trees: treesOf(recordOf(manifest['trees']) ?? fail('no trees'), fail),
  };
}

function treesOf(
  trees: Readonly<Record<string, unknown>>,
  fail: (found: string) => never,
): Readonly<Record<string, string>> {
  return Object.fromEntries(
    Object.entries(trees).map(([prefix, tree]) => {
      const sha256 = recordOf(tree)?.['sha256'];
      return typeof sha256 === 'string' && SHA256.test(sha256) ? [prefix, sha256] : fail('no hash of a tree');
    }),
  );
}

function quotasOf(quotas: unknown, fail: (found: string) => never): readonly KeptQuota[] | undefined {
  if (quotas === undefined) return undefined;
  const list: readonly unknown[] = Array.isArray(quotas) ? quotas : fail('no list of quotas');
  return list.map((one) => {
    const quota = recordOf(one) ?? fail('no quota');
    const count = (key: string): number => {
      const value = quota[key];
      return typeof value === 'number' && Number.isSafeInteger(value) && value >= 0
        ? value
        : fail(`no number as ${key} of a quota`);
    };
    const [kind, id] = [quota['kind'], count('id')];
    if (!isQuotaKind(kind)) return fail('a quota of neither user nor group');
    if (id >= IDS_PER_CONTEXT) return fail(`id ${id} in a quota`);
    const space = { spaceSoftBytes: count('spaceSoftBytes'), spaceBytes: count('spaceBytes') };
    return { kind, id, ...space, inodesSoft: count('inodesSoft'), inodes: count('inodes') };
  });
}

function recordOf(value: unknown): Readonly<Record<string, unknown>> | undefined {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
    ? (value as Readonly<Record<string, unknown>>) // any object is one
    : undefined;
}

function isTime(value: unknown): value is string {
  return typeof value === 'string' && /^\d{4}-\d\d-\d\dT[\d:.]+Z$/.test(value);
}
