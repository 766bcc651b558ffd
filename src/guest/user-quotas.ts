/** Quotas of a guest's users and groups, by their ids in the guest. */
import { StateError, UserError } from '../base/errors.ts';
import type { Xid } from '../base/ids.ts';
import { idRangeOf, toGuestId, toHostId } from '../context/id-map.ts';
import type { QuotaKind, QuotaLimits, QuotaUse, UserQuota } from '../storage/user-quota.ts';
import type { Guest } from './guest.ts';
import type { Host } from './host.ts';
import type { GuestStorage } from './storage.ts';
import { findUser } from './user-files.ts';

const QUOTA_KINDS = ['user', 'group'] as const;
const NUMBER = /^\d+$/;
const NO_LIMITS: QuotaLimits = { spaceSoftBytes: 0, spaceBytes: 0, inodesSoft: 0, inodes: 0 };

/** Whether it is one. */
export function isQuotaKind(value: unknown): value is QuotaKind {
  return QUOTA_KINDS.some((kind) => kind === value);
}

/** What one user or group of a guest has. */
export interface OwnQuota extends QuotaUse {
  readonly kind: QuotaKind;
  /** In the guest. */
  readonly id: number;
}

/** Limits of a user or group of a guest, as a copy of the guest takes them along. */
export interface KeptQuota extends QuotaLimits {
  readonly kind: QuotaKind;
  /** In the guest. */
  readonly id: number;
}

/**
 * Returns what users and groups of a guest have, where they are held to limits.
 *
 * @throws StateError user-quota-missing
 */
export async function listQuotas(
  host: Host,
  storage: GuestStorage,
  guest: Guest,
): Promise<readonly OwnQuota[]> {
  const state = await storage.userQuotaState(guest);
  if (!state.user && !state.group) throw noQuotas(host, guest);
  const all: OwnQuota[] = [];
  for (const kind of QUOTA_KINDS)
    if (state[kind]) all.push(...(await ownQuotas(storage.users, guest.xid, kind)));
  return all;
}

/**
 * Changes limits of a user or group of a guest, at once; what is absent stays.
 *
 * @param who a number, or of a guest that runs a name in its /etc/passwd or /etc/group
 * @throws StateError user-quota-missing; UserError invalid-value, user-not-found
 */
export async function setQuota(
  host: Host,
  storage: GuestStorage,
  guest: Guest,
  { kind, who, limits }: { kind: QuotaKind; who: string; limits: Partial<QuotaLimits> },
): Promise<void> {
  if (!(await storage.userQuotaState(guest))[kind]) throw noQuotas(host, guest, kind);
  const id = toHostId(idRangeOf(guest.xid), await findId(host, guest, kind, who));
  const now = await storage.users.get(kind, id);
  await storage.users.set(kind, id, { ...now, ...limits });
}

/** Takes the limits from all ids of a context: another guest may get them. */
export async function forgetQuotas(users: UserQuota, xid: Xid): Promise<void> {
  await putQuotas(users, xid, []);
}

/** Returns the limits of all ids of a context, for a copy of its guest. */
export async function keptQuotas(users: UserQuota, xid: Xid): Promise<readonly KeptQuota[]> {
  const kept: KeptQuota[] = [];
  const state = await users.state();
  for (const kind of QUOTA_KINDS) {
    if (!state[kind]) continue;
    for (const { id, spaceSoftBytes, spaceBytes, inodesSoft, inodes } of await ownQuotas(users, xid, kind)) {
      const limits = { spaceSoftBytes, spaceBytes, inodesSoft, inodes };
      if (isLimited(limits)) kept.push({ kind, id, ...limits });
    }
  }
  return kept;
}

/** Gives ids of a context these limits, and all others none. Returns those that no file system here holds anybody to. */
export async function putQuotas(
  users: UserQuota,
  xid: Xid,
  kept: readonly KeptQuota[],
): Promise<readonly KeptQuota[]> {
  const range = idRangeOf(xid);
  const state = await users.state();
  for (const kind of QUOTA_KINDS) {
    if (!state[kind]) continue;
    const wanted = new Map(kept.filter((one) => one.kind === kind).map((one) => [one.id, one]));
    for (const { id, ...use } of await ownQuotas(users, xid, kind))
      if (isLimited(use) && !wanted.has(id)) await users.set(kind, toHostId(range, id), NO_LIMITS);
    for (const [id, limits] of wanted)
      if (id < range.count) await users.set(kind, toHostId(range, id), limits);
  }
  return kept.filter(({ kind }) => !state[kind]);
}

async function ownQuotas(users: UserQuota, xid: Xid, kind: QuotaKind): Promise<readonly OwnQuota[]> {
  const range = idRangeOf(xid);
  const found = await users.list(kind, range.hostBase, range.hostBase + range.count);
  return found.map((one) => ({ ...one, kind, id: toGuestId(range, one.id) ?? 0 }));
}

function isLimited({ spaceSoftBytes, spaceBytes, inodesSoft, inodes }: QuotaLimits): boolean {
  return spaceSoftBytes + spaceBytes + inodesSoft + inodes > 0;
}

async function findId(host: Host, guest: Guest, kind: QuotaKind, who: string): Promise<number> {
  const { count } = idRangeOf(guest.xid);
  if (NUMBER.test(who)) {
    if (Number(who) < count) return Number(who);
    throw new UserError('invalid-value', `cannot use ${who} as an id of a ${kind}; need 0 to ${count - 1}`);
  }
  if (!guest.live)
    throw new UserError(
      'invalid-value',
      `cannot find ${kind} ${JSON.stringify(who)} of guest "${guest.name}": found it ${guest.state}; need a number, or the guest running`,
    );
  const { initPid: pid, initObject } = guest.live;
  const root = { kind: 'process', pid, initObject } as const;
  const found = await findUser(host, kind === 'user' ? who : `0:${who}`, root, count);
  return kind === 'user' ? found.uid : found.gid;
}

function noQuotas(host: Host, guest: Guest, kind?: QuotaKind): StateError {
  return new StateError(
    'user-quota-missing',
    `cannot tell quotas in guest "${guest.name}": found no quotas of ${kind === undefined ? 'users and groups' : `${kind}s`} in force where its own files are, below ${JSON.stringify(host.paths.lib)}; ` +
      'need ext4 or xfs mounted with usrquota,grpquota, and a guest that stays and has no disk.method=image',
  );
}
