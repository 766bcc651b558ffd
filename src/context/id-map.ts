/**
 * Which host uids and gids a context has: 65,536 from `65536 × xid`.
 *
 * The owner of any inode and the uid of any process thereby tell the guest: that is the xid tag of the original.
 */
import { BugError } from '../base/errors.ts';
import { isXid, type Xid } from '../base/ids.ts';

/** Ids a context has, the same for users and groups. */
export interface IdRange {
  /** Host id of the guest's id 0. */
  readonly hostBase: number;
  /** Ids of the guest are 0 to `count - 1`. */
  readonly count: number;
}

/** Ids of a context; its first on disk is that times its xid. */
export const IDS_PER_CONTEXT = 65_536;
/** (uid_t)-1: "no id" in chown(2) and setreuid(2); the kernel refuses a range that reaches it (map_write in kernel/user_namespace.c). */
const INVALID_ID = 0xffff_ffff;

/** Gives the range of a context; that of xid 65535 is one shorter, as its last would be (uid_t)-1. */
export function idRangeOf(xid: Xid): IdRange {
  const hostBase = xid * IDS_PER_CONTEXT;
  return { hostBase, count: Math.min(IDS_PER_CONTEXT, INVALID_ID - hostBase) };
}

/**
 * Writes the text for /proc/PID/uid_map and gid_map (user_namespaces(7)): one line, `inside outside count`.
 *
 * @param first what the first id of the range is inside
 */
export function formatIdMap(range: IdRange, first = 0): string {
  return `${first} ${range.hostBase} ${range.count}\n`;
}

/**
 * Translates an id of the guest to the host's.
 *
 * @throws BugError when the guest has no such id: callers check what comes from outside
 */
export function toHostId(range: IdRange, guestId: number): number {
  if (Number.isInteger(guestId) && guestId >= 0 && guestId < range.count) return range.hostBase + guestId;
  throw new BugError(
    'id-not-mapped',
    `cannot translate guest id ${guestId}: found it outside the range; need 0 to ${range.count - 1}`,
  );
}

/** Translates an id of the host to the guest's; undefined when it is not the guest's. */
export function toGuestId(range: IdRange, hostId: number): number | undefined {
  const guestId = hostId - range.hostBase;
  return Number.isInteger(hostId) && guestId >= 0 && guestId < range.count ? guestId : undefined;
}

/** Finds the context a host uid or gid belongs to; undefined for ids of the host itself. */
export function xidOfHostId(hostId: number): Xid | undefined {
  const xid = Math.floor(hostId / IDS_PER_CONTEXT);
  return isXid(xid) && toGuestId(idRangeOf(xid), hostId) !== undefined ? xid : undefined;
}
