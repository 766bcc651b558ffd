/** Writes the archive format of an initramfs, because neither Debian's base system nor Node brings a cpio. */

/** One member of an archive; its directory must come before it. */
export type CpioMember = {
  /** Path without a leading slash. */
  readonly path: string;
  /** Type and permission bits as in st_mode, for example 0o040755. */
  readonly mode: number;
  /** Content of a file, target of a symbolic link; nothing for a directory. */
  readonly data?: Uint8Array;
};

/** st_mode of a directory, an executable and a plain file, as the kernel's unpacker reads them. */
export const DIRECTORY = 0o040755;
export const EXECUTABLE = 0o100755;
export const PLAIN_FILE = 0o100644;

const TRAILER = 'TRAILER!!!';

/**
 * Formats an archive in the "newc" layout, everything owned by root. Each member is
 *
 * ```
 * offset  0  6 bytes  magic "070701"
 *         6  13 fields of 8 hexadecimal digits: ino mode uid gid nlink mtime filesize
 *                     devmajor devminor rdevmajor rdevminor namesize (with NUL) check
 *       110  name, NUL, zeros to a multiple of 4
 *            data, zeros to a multiple of 4
 * ```
 *
 * @see Documentation/driver-api/early-userspace/buffer-format.rst; since Linux 2.6
 */
export function formatCpio(members: readonly CpioMember[]): Uint8Array {
  const parts: Uint8Array[] = [];
  for (const [index, member] of members.entries()) parts.push(...formatMember(member, index + 1));
  parts.push(...formatMember({ path: TRAILER, mode: 0 }, 0));
  return Buffer.concat(parts);
}

function formatMember(member: CpioMember, ino: number): readonly Uint8Array[] {
  const data = member.data ?? new Uint8Array(0);
  const name = Buffer.from(`${member.path}\0`);
  const fields = [ino, member.mode, 0, 0, 1, 0, data.length, 0, 0, 0, 0, name.length, 0];
  const header = Buffer.from(`070701${fields.map((field) => field.toString(16).padStart(8, '0')).join('')}`);
  return [header, name, padding(header.length + name.length), data, padding(data.length)];
}

function padding(length: number): Uint8Array {
  return new Uint8Array(-length & 3);
}
