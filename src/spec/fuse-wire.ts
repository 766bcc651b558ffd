/**
 * Messages of the FUSE protocol, 7.31 and later, as far as a file system of texts that nobody writes needs them.
 *
 *     request: u32 length, u32 opcode, u64 unique, u64 node, u32 uid, gid, pid, padding | body     host byte order
 *     answer:  u32 length, i32 -errno, u64 unique | body
 *
 * @see include/uapi/linux/fuse.h
 */
import { endianness } from 'node:os';

const LE = endianness() === 'LE';

/** `enum fuse_opcode`. */
export const FUSE = {
  lookup: 1,
  getattr: 3,
  readlink: 5,
  read: 15,
  statfs: 17,
  init: 26,
  readdir: 28,
  readdirplus: 44,
} as const;

/** The same on every architecture that Node runs on (asm-generic/errno.h). */
export const FUSE_ERRNO = { ENOENT: 2, ESRCH: 3, EIO: 5, EINVAL: 22, ENOSYS: 38, EPROTO: 71 } as const;

const REQUEST_BYTES = 40;
const ANSWER_BYTES = 16;
const ENTRY_BYTES = 128;
const ATTR_BYTES = 88;
const ATTR_OUT_BYTES = 16;
const DIRENT_BYTES = 24;
const INIT_BYTES = 64;
const STATFS_BYTES = 80;
const MAJOR = 7;
const MINOR_MIN = 31;
/** FUSE_AUTO_INVAL_DATA, which lists a directory anew whose time has changed; FUSE_DO_READDIRPLUS, …PARALLEL_DIROPS, …NO_OPENDIR_SUPPORT. */
const INIT_FLAGS = (1 << 12) | (1 << 13) | (1 << 18) | (1 << 24);
/** The least the kernel takes: nothing is written. */
const MAX_WRITE_BYTES = 4096;
/** Of names and attributes that never change: the kernel asks once. */
const VALID_SECONDS = 10 ** 9;
/** What sysfs says of its files too: their length is known only once they are read. */
const FILE_BYTES = 4096;
const S_IFDIR = 0o040000;
const S_IFREG = 0o100000;
const S_IFLNK = 0o120000;

/** What the kernel wants. */
export interface FuseRequest {
  readonly opcode: number;
  readonly unique: bigint;
  readonly node: number;
  readonly body: Buffer;
}

/** A file or directory as it is told; numbers below 2^53. */
export interface FuseNode {
  readonly node: number;
  readonly isDirectory: boolean;
  /** Its name may be gone the next time. */
  readonly mayGo?: boolean;
  /** When what it lists last changed, of a directory where that may happen. */
  readonly changedAtMs?: number;
  /** Of a link. */
  readonly target?: string;
}

/** Returns the request a message is; undefined: it is none. */
export function parseFuseRequest(bytes: Buffer): FuseRequest | undefined {
  if (bytes.length < REQUEST_BYTES) return undefined;
  return {
    opcode: readU32(bytes, 4),
    unique: readU64(bytes, 8),
    node: Number(readU64(bytes, 16)),
    body: bytes.subarray(REQUEST_BYTES),
  };
}

/** Returns the length of the message that begins here; undefined: too little is there to tell. */
export function fuseLength(bytes: Buffer): number | undefined {
  return bytes.length < 4 ? undefined : readU32(bytes, 0);
}

/** Returns the name a LOOKUP asks for. */
export function lookupName(body: Buffer): string {
  return body.toString('latin1', 0, Math.max(0, body.indexOf(0)));
}

/** Returns the first entry a READDIR wants, and how many bytes it takes: struct fuse_read_in. */
export function readdirRange(body: Buffer): { readonly offset: number; readonly size: number } {
  return body.length < 20
    ? { offset: 0, size: 0 }
    : { offset: Number(readU64(body, 8)), size: readU32(body, 16) };
}

/** Returns the answer to a request. */
export function fuseAnswer(unique: bigint, ...parts: readonly Uint8Array[]): Buffer {
  const body = Buffer.concat([Buffer.alloc(ANSWER_BYTES), ...parts]);
  writeU32(body, 0, body.length);
  writeU64(body, 8, unique);
  return body;
}

/** Returns the answer that a request fails. */
export function fuseError(unique: bigint, errno: number): Buffer {
  const answer = fuseAnswer(unique);
  writeU32(answer, 4, -errno >>> 0);
  return answer;
}

/** Returns the body that answers INIT; undefined: the kernel's protocol is too old. */
export function initBody(body: Buffer): Buffer | undefined {
  if (body.length < 16 || readU32(body, 0) !== MAJOR || readU32(body, 4) < MINOR_MIN) return undefined;
  const out = Buffer.alloc(INIT_BYTES);
  writeU32(out, 0, MAJOR);
  writeU32(out, 4, MINOR_MIN);
  writeU32(out, 12, INIT_FLAGS & readU32(body, 12));
  writeU32(out, 20, MAX_WRITE_BYTES);
  writeU32(out, 24, 1);
  return out;
}

/** Returns the body that answers LOOKUP. */
export function entryBody(node: FuseNode): Buffer {
  const out = Buffer.alloc(ENTRY_BYTES);
  writeEntry(out, 0, node);
  return out;
}

/** Returns the body that answers GETATTR. */
export function attrBody(node: FuseNode): Buffer {
  const out = Buffer.alloc(ATTR_OUT_BYTES + ATTR_BYTES);
  writeNumber(out, 0, node.changedAtMs === undefined ? VALID_SECONDS : 0);
  writeAttr(out, ATTR_OUT_BYTES, node);
  return out;
}

/** Returns the body that answers STATFS: of a file system without room. */
export function statfsBody(): Buffer {
  const out = Buffer.alloc(STATFS_BYTES);
  writeU32(out, 40, FILE_BYTES);
  writeU32(out, 44, 255);
  writeU32(out, 48, FILE_BYTES);
  return out;
}

/** Returns the body that answers READDIRPLUS or READDIR: as many entries as fit. */
export function readdirBody(
  entries: readonly (FuseNode & { readonly name: string })[],
  { offset, size }: { readonly offset: number; readonly size: number },
  isPlus: boolean,
): Buffer {
  const most = entries.reduce((sum, { name }) => sum + ENTRY_BYTES + DIRENT_BYTES + name.length + 7, 0);
  const out = Buffer.alloc(Math.min(size, most));
  let end = 0;
  for (const [index, entry] of entries.entries()) {
    if (index < offset) continue;
    const at = isPlus ? end + ENTRY_BYTES : end;
    const next = at + ((DIRENT_BYTES + entry.name.length + 7) & ~7);
    if (next > out.length) break;
    if (isPlus) writeEntry(out, end, entry);
    writeNumber(out, at, entry.node);
    writeNumber(out, at + 8, index + 1);
    writeU32(out, at + 16, entry.name.length);
    writeU32(out, at + 20, modeOf(entry) >> 12);
    out.write(entry.name, at + DIRENT_BYTES, 'latin1');
    end = next;
  }
  return out.subarray(0, end);
}

/** Returns the body of READDIRPLUS for a directory that lists the same, with numbers of nodes that are greater by `more`. */
export function moveNodes(body: Buffer, more: number): Buffer {
  const out = Buffer.from(body);
  for (let at = 0; at < out.length; ) {
    const entry = at + ENTRY_BYTES;
    const node = Number(readU64(out, at)) + more;
    for (const place of [at, entry - ATTR_BYTES, entry]) writeNumber(out, place, node);
    at = entry + ((DIRENT_BYTES + readU32(out, entry + 16) + 7) & ~7);
  }
  return out;
}

function modeOf({ isDirectory, target }: FuseNode): number {
  if (target !== undefined) return S_IFLNK | 0o777;
  return isDirectory ? S_IFDIR | 0o555 : S_IFREG | 0o444;
}

function writeEntry(out: Buffer, at: number, node: FuseNode): void {
  writeNumber(out, at, node.node);
  writeNumber(out, at + 16, node.mayGo ? 0 : VALID_SECONDS);
  writeNumber(out, at + 24, node.changedAtMs === undefined ? VALID_SECONDS : 0);
  writeAttr(out, at + ENTRY_BYTES - ATTR_BYTES, node);
}

function writeAttr(out: Buffer, at: number, entry: FuseNode): void {
  const { node, isDirectory, target, changedAtMs = 0 } = entry;
  writeNumber(out, at, node);
  if (!isDirectory) writeNumber(out, at + 8, target?.length ?? FILE_BYTES);
  writeNumber(out, at + 32, Math.floor(changedAtMs / 1000));
  writeU32(out, at + 52, (changedAtMs % 1000) * 1e6);
  writeU32(out, at + 60, modeOf(entry));
  writeU32(out, at + 64, isDirectory ? 2 : 1);
  writeU32(out, at + 80, FILE_BYTES);
}

function readU32(bytes: Buffer, at: number): number {
  return LE ? bytes.readUInt32LE(at) : bytes.readUInt32BE(at);
}

function readU64(bytes: Buffer, at: number): bigint {
  return LE ? bytes.readBigUInt64LE(at) : bytes.readBigUInt64BE(at);
}

function writeU32(bytes: Buffer, at: number, value: number): void {
  if (LE) bytes.writeUInt32LE(value >>> 0, at);
  else bytes.writeUInt32BE(value >>> 0, at);
}

/** A safe integer as u64. */
function writeNumber(bytes: Buffer, at: number, value: number): void {
  const high = Math.floor(value / 2 ** 32);
  writeU32(bytes, at, LE ? value : high);
  writeU32(bytes, at + 4, LE ? high : value);
}

function writeU64(bytes: Buffer, at: number, value: bigint): void {
  if (LE) bytes.writeBigUInt64LE(value, at);
  else bytes.writeBigUInt64BE(value, at);
}
