/**
 * Members of tar archives in the pax format (POSIX.1-2008, pax), as GNU tar, bsdtar and Python read them: extended
 * attributes as `SCHILY.xattr.*`, sparse files in GNU's format 1.0, names as the bytes they are, as GNU tar has them.
 */
import type { InodeAttributes } from './image-tree.ts';

/** A member's header. Names and targets are bytes, written as latin1. */
export interface TarMember extends InodeAttributes {
  readonly path: string;
  readonly kind: 'directory' | 'file' | 'hardlink' | 'symlink' | 'character' | 'block' | 'fifo';
  /** Bytes of a file. */
  readonly size?: number;
  /** Pieces of a file that hold data, in order; the rest is zeros and not in the archive. */
  readonly pieces?: readonly TarPiece[] | undefined;
  /** Of a symlink; of a hardlink the path of an earlier member. */
  readonly target?: string;
  readonly major?: number;
  readonly minor?: number;
}

/** A piece of a sparse file. */
export interface TarPiece {
  readonly offset: number;
  readonly length: number;
}

const BLOCK_BYTES = 512;
const NAME_BYTES = 100;
/** What fits into eleven octal digits. */
const MAX_OCTAL = 0o77777777777;
const TYPES = {
  file: '0',
  hardlink: '1',
  symlink: '2',
  character: '3',
  block: '4',
  directory: '5',
  fifo: '6',
} as const;
const PLAIN = /^[\x20-\x7e]*$/;
const NS_DIGITS = 9;

/** What ends an archive. */
export const TAR_END: Uint8Array = new Uint8Array(2 * BLOCK_BYTES);

/** Zeros that follow `bytes` bytes of a member up to the next one. */
export function tarPadding(bytes: number): Uint8Array {
  return new Uint8Array((BLOCK_BYTES - (bytes % BLOCK_BYTES)) % BLOCK_BYTES);
}

/** Returns what precedes a member's bytes: its header, and of a sparse file the list of its pieces. */
export function tarHeader(member: TarMember): Buffer {
  const list = member.pieces && sparseList(member.pieces);
  const { path, target = '', mtimeSeconds, mtimeNanoseconds } = member;
  const shown = member.kind === 'directory' ? `${path}/` : path;
  const size = member.pieces
    ? (list?.length ?? 0) + member.pieces.reduce((sum, { length }) => sum + length, 0)
    : (member.size ?? 0);
  const records: (readonly [string, string | Uint8Array])[] = [];
  if (list) {
    records.push(['GNU.sparse.major', '1'], ['GNU.sparse.minor', '0']);
    records.push(['GNU.sparse.name', Buffer.from(shown, 'latin1')]);
    records.push(['GNU.sparse.realsize', String(member.size)]);
  }
  if (shown.length > NAME_BYTES || !PLAIN.test(shown)) records.push(['path', Buffer.from(shown, 'latin1')]);
  if (target.length > NAME_BYTES || !PLAIN.test(target))
    records.push(['linkpath', Buffer.from(target, 'latin1')]);
  if (size > MAX_OCTAL) records.push(['size', String(size)]);
  if (mtimeNanoseconds !== 0 || mtimeSeconds < 0 || mtimeSeconds > MAX_OCTAL)
    records.push(['mtime', decimalTime(mtimeSeconds, mtimeNanoseconds)]);
  for (const [name, value] of member.xattrs) records.push([`SCHILY.xattr.${name}`, value]);
  const own = block(member, shown, TYPES[member.kind], size);
  const parts = list ? [own, list] : [own];
  if (records.length === 0) return Buffer.concat(parts);
  const pax = Buffer.concat(records.map(([key, value]) => paxRecord(key, value)));
  const head = block({ ...member, mode: 0o644, target: '' }, 'PaxHeader', 'x', pax.length);
  return Buffer.concat([head, pax, tarPadding(pax.length), ...parts]);
}

/** How many pieces there are, and of each where it begins and how long it is: numbers in lines, filled up to a block. */
function sparseList(pieces: readonly TarPiece[]): Buffer {
  const numbers = [pieces.length, ...pieces.flatMap(({ offset, length }) => [offset, length])];
  const text = Buffer.from(numbers.map((one) => `${one}\n`).join(''));
  return Buffer.concat([text, tarPadding(text.length)]);
}

function decimalTime(seconds: number, nanoseconds: number): string {
  if (nanoseconds === 0) return String(seconds);
  // Nanoseconds count forward from the second before: -1 s and 250 ms is -0.75.
  const total = BigInt(seconds) * 1_000_000_000n + BigInt(nanoseconds);
  const digits = String(total < 0n ? -total : total).padStart(NS_DIGITS + 1, '0');
  return `${total < 0n ? '-' : ''}${digits.slice(0, -NS_DIGITS)}.${digits.slice(-NS_DIGITS)}`;
}

/** `<length> <key>=<value>\n`, where the length counts its own digits. */
function paxRecord(key: string, value: string | Uint8Array): Buffer {
  const rest = Buffer.concat([Buffer.from(` ${key}=`, 'latin1'), Buffer.from(value), Buffer.from('\n')]);
  let length = rest.length + 1;
  while (String(length).length + rest.length !== length) length = String(length).length + rest.length;
  return Buffer.concat([Buffer.from(String(length)), rest]);
}

/** `struct posix_header` (tar.h). What does not fit is in a pax record before it. */
function block(member: TarMember, path: string, type: string, size: number): Buffer {
  const bytes = Buffer.alloc(BLOCK_BYTES);
  const octal = (value: number, at: number, width: number): void => {
    const most = 8 ** (width - 1) - 1;
    bytes.write(
      `${Math.min(Math.max(value, 0), most)
        .toString(8)
        .padStart(width - 1, '0')}\0`,
      at,
      'latin1',
    );
  };
  bytes.write(path.slice(0, NAME_BYTES), 0, 'latin1');
  octal(member.mode, 100, 8);
  octal(member.uid, 108, 8);
  octal(member.gid, 116, 8);
  octal(size, 124, 12);
  octal(member.mtimeSeconds, 136, 12);
  bytes.write(type, 156, 'latin1');
  bytes.write((member.target ?? '').slice(0, NAME_BYTES), 157, 'latin1');
  bytes.write('ustar\x0000', 257, 'latin1');
  octal(member.major ?? 0, 329, 8);
  octal(member.minor ?? 0, 337, 8);
  bytes.fill(' ', 148, 156);
  const sum = bytes.reduce((total, byte) => total + byte, 0);
  bytes.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148, 'latin1');
  return bytes;
}
