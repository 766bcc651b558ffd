/**
 * Who a process in a guest runs as: `--user` and an image's `USER`.
 *
 * The answer is exact or an error. Nothing falls back to root, neither the user nor the group (CVE-2024-40635,
 * CVE-2026-30892).
 */
import { UserError } from '../base/errors.ts';
import {
  type GroupEntry,
  isUserName,
  type PasswdEntry,
  parseGroup,
  parseId,
  parsePasswd,
} from './user-database.ts';

/** A user or group as asked for: a number or a name. */
export type IdRequest =
  | { readonly kind: 'number'; readonly id: number }
  | { readonly kind: 'name'; readonly name: string };

/** `USER` or `USER:GROUP`. */
export interface UserRequest {
  readonly user: IdRequest;
  readonly group: IdRequest | undefined;
}

/** What a process is started with. Ids are the guest's. */
export interface ResolvedUser {
  readonly uid: number;
  readonly gid: number;
  /**
   * For setgroups(2), sorted. The primary group is among them: a process that leaves it by setgid(2) would otherwise
   * pass permissions that deny the group (CVE-2022-36109).
   */
  readonly groups: readonly number[];
  /** Absolute; `/` when the user database names none. */
  readonly home: string;
  /** Absolute; undefined when the user database names none. */
  readonly shell: string | undefined;
}

/** A guest's files; undefined when it has none. */
export interface UserDatabase {
  readonly passwd: Uint8Array | undefined;
  readonly group: Uint8Array | undefined;
}

/**
 * Parses `USER[:GROUP]`, each a decimal number without sign and leading zeros, or a name.
 *
 * @throws UserError invalid-user
 */
export function parseUser(text: string): UserRequest {
  const [user = '', group, ...extra] = text.split(':');
  if (extra.length > 0) throw invalidUser(text, 'more than one ":"');
  return {
    user: parsePart(text, user, 'user'),
    group: group === undefined ? undefined : parsePart(text, group, 'group'),
  };
}

function parsePart(text: string, part: string, what: string): IdRequest {
  if (part === '') throw invalidUser(text, `no ${what}`);
  const id = parseId(part);
  if (id !== undefined) return { kind: 'number', id };
  if (isUserName(part)) return { kind: 'name', name: part };
  throw invalidUser(text, `${JSON.stringify(part)} as the ${what}`);
}

function invalidUser(text: string, found: string): UserError {
  return new UserError(
    'invalid-user',
    `cannot use ${JSON.stringify(text)} as a user: found ${found}; need USER or USER:GROUP, each a name or a number`,
  );
}

/**
 * Finds the ids, groups, home and shell of a user.
 *
 * - A number stays that number, also when a user has such a name.
 * - Without a group it is the one in passwd. A number that passwd does not have gets the group of the same number; in
 *   Docker it would get group 0, root's.
 * - The groups of the group file come along only when no group was asked for, as in Docker.
 *
 * @param idCount ids the guest has, from `idRangeOf`
 * @throws UserError user-not-found, invalid-user for an id the guest does not have, invalid-user-database
 */
export function resolveUser(request: UserRequest, database: UserDatabase, idCount: number): ResolvedUser {
  const passwd = parsePasswd(database.passwd ?? new Uint8Array());
  const entry = findUser(request.user, passwd);
  const uid = request.user.kind === 'number' ? request.user.id : entry?.uid;
  if (uid === undefined) throw notFound('user', request.user, 'passwd');
  checkId('uid', uid, idCount);

  const groupFile = parseGroup(database.group ?? new Uint8Array());
  const gid = request.group === undefined ? (entry?.gid ?? uid) : findGroup(request.group, groupFile);
  const memberOf =
    request.group === undefined && entry !== undefined
      ? groupFile.filter((group) => group.members.includes(entry.name)).map((group) => group.gid)
      : [];
  const groups = [...new Set([gid, ...memberOf])].sort((left, right) => left - right);
  for (const id of groups) checkId('gid', id, idCount);
  return {
    uid,
    gid,
    groups,
    home: entry?.home.startsWith('/') ? entry.home : '/',
    shell: entry?.shell.startsWith('/') ? entry.shell : undefined,
  };
}

function findUser(request: IdRequest, passwd: readonly PasswdEntry[]): PasswdEntry | undefined {
  return passwd.find((entry) =>
    request.kind === 'number' ? entry.uid === request.id : entry.name === request.name,
  );
}

function findGroup(request: IdRequest, groupFile: readonly GroupEntry[]): number {
  if (request.kind === 'number') return request.id;
  const found = groupFile.find((group) => group.name === request.name);
  if (found === undefined) throw notFound('group', request, 'group');
  return found.gid;
}

function notFound(what: string, request: IdRequest, file: string): UserError {
  const shown = request.kind === 'number' ? String(request.id) : JSON.stringify(request.name);
  return new UserError(
    'user-not-found',
    `cannot find ${what} ${shown}: found no such line in the guest's /etc/${file}; need a name it has, or a number`,
  );
}

function checkId(what: string, id: number, idCount: number): void {
  if (id < idCount) return;
  throw new UserError(
    'invalid-user',
    `cannot use ${what} ${id}: found it outside the guest's range; need 0 to ${idCount - 1}`,
  );
}
