/**
 * Reads a guest's passwd and group files (passwd(5), group(5)) from their bytes.
 *
 * The guest wrote them: they may be of any size and form. A line that is not exactly well-formed counts as absent; no
 * number is guessed from it (`atoi` would make root of `x:x::`).
 */
import { UserError } from '../base/errors.ts';

/** A line of passwd. */
export interface PasswdEntry {
  readonly name: string;
  readonly uid: number;
  readonly gid: number;
  readonly home: string;
  readonly shell: string;
}

/** A line of group. */
export interface GroupEntry {
  readonly name: string;
  readonly gid: number;
  readonly members: readonly string[];
}

const MAX_FILE_BYTES = 1_048_576;
const MAX_LINE_BYTES = 4096;
/** Largest id a 32-bit number names; (uid_t)-1 is "no id". */
const MAX_ID = 0xffff_fffe;
const NEWLINE = 0x0a;
const UTF8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

/**
 * Parses a passwd file; the first line of a name counts, as in glibc.
 *
 * @throws UserError invalid-user-database for more than 1 MiB or a line of more than 4 KiB
 */
export function parsePasswd(bytes: Uint8Array): readonly PasswdEntry[] {
  return parseLines(
    bytes,
    'passwd',
    ([name = '', , uid = '', gid = '', , home = '', shell = ''], fieldCount) => {
      const uidNumber = parseId(uid);
      const gidNumber = parseId(gid);
      if (fieldCount !== 7 || !isUserName(name) || uidNumber === undefined || gidNumber === undefined)
        return undefined;
      return { name, uid: uidNumber, gid: gidNumber, home, shell };
    },
  );
}

/**
 * Parses a group file.
 *
 * @throws UserError invalid-user-database, limits as for passwd
 */
export function parseGroup(bytes: Uint8Array): readonly GroupEntry[] {
  return parseLines(bytes, 'group', ([name = '', , gid = '', members = ''], fieldCount) => {
    const gidNumber = parseId(gid);
    if (fieldCount !== 4 || !isUserName(name) || gidNumber === undefined) return undefined;
    return { name, gid: gidNumber, members: members.split(',').filter(isUserName) };
  });
}

/**
 * Says whether a text can name a user or group: letters, digits, `_`, `.` and `-`, first a letter or `_`; a `$` may end
 * it (Samba's machine accounts). Nothing that some parser takes for a number, such as `0x0` or `1e3`.
 */
export function isUserName(text: string): boolean {
  return /^[A-Za-z_][A-Za-z0-9_.-]{0,255}\$?$/.test(text);
}

/** Reads an id: decimal digits without leading zeros, below (uid_t)-1; undefined for everything else. */
export function parseId(text: string): number | undefined {
  if (!/^(0|[1-9][0-9]{0,9})$/.test(text)) return undefined;
  const id = Number(text);
  return id <= MAX_ID ? id : undefined;
}

function parseLines<T>(
  bytes: Uint8Array,
  file: string,
  parseFields: (fields: readonly string[], fieldCount: number) => T | undefined,
): readonly T[] {
  if (bytes.length > MAX_FILE_BYTES) {
    throw tooLong(file, `${bytes.length} bytes`, `at most ${MAX_FILE_BYTES}`);
  }
  const entries: T[] = [];
  for (let start = 0; start < bytes.length; ) {
    const newline = bytes.indexOf(NEWLINE, start);
    const end = newline === -1 ? bytes.length : newline;
    if (end - start > MAX_LINE_BYTES) {
      throw tooLong(file, `a line of ${end - start} bytes`, `at most ${MAX_LINE_BYTES}`);
    }
    const fields = decodeLine(bytes.subarray(start, end))?.split(':') ?? [];
    const entry = parseFields(fields, fields.length);
    if (entry !== undefined) entries.push(entry);
    start = end + 1;
  }
  return entries;
}

function decodeLine(line: Uint8Array): string | undefined {
  if (line.includes(0)) return undefined;
  try {
    return UTF8.decode(line);
  } catch {
    // Not UTF-8: a home decoded otherwise would be another path.
    return undefined;
  }
}

function tooLong(file: string, found: string, need: string): UserError {
  return new UserError(
    'invalid-user-database',
    `cannot read ${file} of the guest: found ${found}; need ${need}`,
  );
}
