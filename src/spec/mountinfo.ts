import { StateError } from '../base/errors.ts';

/** One mount of a mount namespace. */
export interface MountInfo {
  readonly id: number;
  /** Mount this one sits on; the id of a mount outside the namespace's view for its root. */
  readonly parentId: number;
  readonly major: number;
  readonly minor: number;
  /** Path inside the file system that shows at the mount point; `/` unless it is a bind mount. */
  readonly root: string;
  readonly mountPoint: string;
  readonly options: readonly string[];
  /** Propagation: `shared:N`, `master:N`, `propagate_from:N`, `unbindable`. */
  readonly propagation: readonly string[];
  readonly fsType: string;
  readonly source: string;
  readonly superOptions: readonly string[];
}

/**
 * Parses `/proc/PID/mountinfo`.
 *
 *     36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue
 *     id parent dev root point options  tags...  - type source    super options
 *
 * The kernel writes space, tab, newline, `\` and `#` in names as `\` and three octal digits.
 *
 * @throws StateError malformed-kernel-text
 * @see proc_pid_mountinfo(5); since Linux 2.6.26
 */
export function parseMountInfo(text: string): readonly MountInfo[] {
  return text
    .split('\n')
    .filter((line) => line !== '')
    .map(parseLine);
}

function parseLine(line: string): MountInfo {
  const fields = line.split(' ');
  const separator = fields.indexOf('-', 6);
  const [id, parentId, device, root, mountPoint, options] = fields;
  const [fsType, source, superOptions] = fields.slice(separator + 1);
  const numbers = /^(\d+) (\d+) (\d+):(\d+)$/.exec(`${id} ${parentId} ${device}`);
  if (
    separator === -1 ||
    numbers === null ||
    root === undefined ||
    mountPoint === undefined ||
    options === undefined ||
    fsType === undefined ||
    source === undefined
  ) {
    throw new StateError(
      'malformed-kernel-text',
      `cannot parse mountinfo: found line ${JSON.stringify(line)}; need the fields of proc_pid_mountinfo(5)`,
    );
  }
  return {
    id: Number(numbers[1]),
    parentId: Number(numbers[2]),
    major: Number(numbers[3]),
    minor: Number(numbers[4]),
    root: unescapeOctal(root),
    mountPoint: unescapeOctal(mountPoint),
    options: options.split(','),
    propagation: fields.slice(6, separator),
    fsType: unescapeOctal(fsType),
    source: unescapeOctal(source),
    superOptions: (superOptions ?? '').split(',').map(unescapeOctal),
  };
}

function unescapeOctal(text: string): string {
  return text.replace(/\\([0-3][0-7]{2})/g, (_match, digits: string) =>
    String.fromCharCode(Number.parseInt(digits, 8)),
  );
}

/**
 * Keeps the mounts that a path walk can reach: those whose mount point no other mount covers.
 *
 * A mount is covered when one that is not its ancestor is mounted on it or on an ancestor of it, at a directory
 * on the way to its mount point.
 */
export function visibleMounts(mounts: readonly MountInfo[]): readonly MountInfo[] {
  const byId = new Map(mounts.map((mount) => [mount.id, mount]));
  return mounts.filter((mount) => {
    const line = new Set<number>();
    for (
      let at: MountInfo | undefined = mount;
      at !== undefined && !line.has(at.id);
      at = byId.get(at.parentId)
    ) {
      line.add(at.id);
    }
    return !mounts.some(
      (other) =>
        !line.has(other.id) && line.has(other.parentId) && isAtOrBelow(mount.mountPoint, other.mountPoint),
    );
  });
}

function isAtOrBelow(path: string, directory: string): boolean {
  return path === directory || path.startsWith(directory.endsWith('/') ? directory : `${directory}/`);
}
