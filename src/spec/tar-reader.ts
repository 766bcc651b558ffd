/**
 * Reads tar archives as they are written today: ustar and pax (POSIX.1-2001), GNU long names, base-256 numbers and the
 * three formats of sparse files GNU tar has had. Takes the bytes as they come and keeps none of a file's.
 */
import type { Xattr } from './image-tree.ts';

/** What a member is. */
export type TarType = 'file' | 'hardlink' | 'symlink' | 'character' | 'block' | 'directory' | 'fifo';

/** One member. Names and targets are as they stand in the archive, in latin1. */
export interface TarMember {
  readonly name: string;
  readonly type: TarType;
  readonly linkName: string;
  /** The permission bits with setuid, setgid and sticky. */
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  readonly mtimeSeconds: number;
  readonly mtimeNanoseconds: number;
  /** Bytes of the file, holes included; 0 for what is no file. */
  readonly size: number;
  readonly major: number;
  readonly minor: number;
  readonly xattrs: readonly Xattr[];
}

/** Takes what an archive holds, in its order: a member, then the bytes of its file and holes between, then its end. */
export interface TarSink {
  member(member: TarMember): void;
  data(bytes: Buffer): void;
  /** Zeros that are not in the archive. */
  hole(bytes: number): void;
  end(): void;
}

/** The bytes are no tar archive, or none that is whole. */
export class TarError extends Error {
  override readonly name = 'TarError';
}

const BLOCK = 512;
/** Names and attributes of one member: far above any real ones, and bounds what is kept. */
const MAX_META_BYTES = 1024 * 1024;
const MAX_SPARSE_PARTS = 100_000;
const TYPES: Readonly<Record<string, TarType>> = {
  '\0': 'file',
  '0': 'file',
  '7': 'file',
  S: 'file',
  '1': 'hardlink',
  '2': 'symlink',
  '3': 'character',
  '4': 'block',
  '5': 'directory',
  D: 'directory',
  '6': 'fifo',
};
const SCHILY = 'SCHILY.xattr.';
const LIBARCHIVE = 'LIBARCHIVE.xattr.';

type Records = ReadonlyMap<string, Buffer>;

/** Bytes of a file that are in the archive. */
interface Part {
  readonly at: number;
  readonly bytes: number;
}

/** What is read next. */
type State =
  | { readonly kind: 'header' }
  /** Bytes of `length` are collected, with what fills their last block, and then handed over. */
  | { readonly kind: 'meta'; readonly length: number; readonly take: (bytes: Buffer) => void }
  /** `left` bytes of a file, then `padding`. */
  | { readonly kind: 'data' }
  | { readonly kind: 'skip' }
  | { readonly kind: 'over' };

/** Reads one archive. */
export class TarReader {
  readonly #sink: TarSink;
  #state: State = { kind: 'header' };
  #pending: Buffer[] = [];
  #pendingBytes = 0;
  #zeroBlocks = 0;
  #global: Records = new Map();
  #local: Records = new Map();
  #longName: string | undefined;
  #longLink: string | undefined;
  /** Of the member that is being read: its parts, bytes of the present one left, where the next byte of the file goes. */
  #parts: Part[] = [];
  #left = 0;
  #padding = 0;
  #position = 0;
  #size = 0;

  constructor(sink: TarSink) {
    this.#sink = sink;
  }

  /** Takes the next bytes. @throws TarError, and what the sink throws */
  push(chunk: Buffer): void {
    let rest = chunk;
    while (rest.length > 0) {
      const { kind } = this.#state;
      if (kind === 'over') return;
      if (kind === 'data') rest = this.#data(rest);
      else if (kind === 'skip') rest = this.#skip(rest);
      else rest = this.#collect(rest);
    }
  }

  /**
   * The archive is over.
   *
   * @param isChecked its bytes are known to be all there: then it may lack the zeros behind the last member
   * @throws TarError when it is not whole
   */
  end(isChecked: boolean): void {
    const isAtMember = this.#state.kind === 'header' && this.#pendingBytes === 0 && this.#local.size === 0;
    if (this.#state.kind !== 'over' && !(isChecked && isAtMember))
      throw new TarError('an archive that is cut off');
  }

  #collect(chunk: Buffer): Buffer {
    const { length } = this.#state.kind === 'meta' ? this.#state : { length: BLOCK };
    const wanted = padded(length) - this.#pendingBytes;
    const piece = chunk.subarray(0, wanted);
    // Kept over this call only if it is not whole yet: the caller's buffer is the caller's.
    if (piece.length < wanted) {
      this.#pending.push(Buffer.from(piece));
      this.#pendingBytes += piece.length;
      return chunk.subarray(piece.length);
    }
    const whole = this.#pending.length === 0 ? piece : Buffer.concat([...this.#pending, piece]);
    this.#pending = [];
    this.#pendingBytes = 0;
    const state = this.#state;
    this.#state = { kind: 'header' };
    if (state.kind === 'meta') state.take(whole.subarray(0, length));
    else this.#header(whole);
    return chunk.subarray(piece.length);
  }

  #data(chunk: Buffer): Buffer {
    const part = this.#parts[0];
    if (part === undefined) {
      this.#endFile();
      return chunk;
    }
    if (part.at > this.#position) {
      this.#sink.hole(part.at - this.#position);
      this.#position = part.at;
    }
    const end = part.at + part.bytes;
    const piece = chunk.subarray(0, end - this.#position);
    if (piece.length > 0) this.#sink.data(piece);
    this.#position += piece.length;
    if (this.#position === end) {
      this.#parts.shift();
      if (this.#parts.length === 0) this.#endFile();
    }
    return chunk.subarray(piece.length);
  }

  #endFile(): void {
    if (this.#size > this.#position) this.#sink.hole(this.#size - this.#position);
    this.#sink.end();
    this.#left = this.#padding;
    this.#state = this.#left > 0 ? { kind: 'skip' } : { kind: 'header' };
  }

  #skip(chunk: Buffer): Buffer {
    const piece = Math.min(chunk.length, this.#left);
    this.#left -= piece;
    if (this.#left === 0) this.#state = { kind: 'header' };
    return chunk.subarray(piece);
  }

  #header(block: Buffer): void {
    if (isZero(block)) {
      // Two of them are the end; behind it tar fills up its record.
      this.#zeroBlocks++;
      if (this.#zeroBlocks === 2) this.#state = { kind: 'over' };
      return;
    }
    this.#zeroBlocks = 0;
    checkSum(block);
    const type = block.toString('latin1', 156, 157);
    const size = number(block, 124, 12);
    if (size < 0 || !Number.isSafeInteger(size)) throw new TarError(`a member of ${size} bytes`);
    if (type === 'x' || type === 'g' || type === 'L' || type === 'K') this.#meta(type, size);
    else if (type === 'V') this.#skipMember(size);
    else this.#member(block, type, size);
  }

  #meta(type: 'x' | 'g' | 'L' | 'K', size: number): void {
    if (size > MAX_META_BYTES) throw new TarError(`${size} bytes of names and attributes for one member`);
    const take = (bytes: Buffer): void => {
      if (type === 'L') this.#longName = text(bytes);
      else if (type === 'K') this.#longLink = text(bytes);
      else if (type === 'g') this.#global = new Map([...this.#global, ...paxRecords(bytes)]);
      else this.#local = new Map([...this.#local, ...paxRecords(bytes)]);
    };
    if (size === 0) take(Buffer.alloc(0));
    else this.#state = { kind: 'meta', length: size, take };
  }

  #skipMember(size: number): void {
    this.#left = padded(size);
    if (this.#left > 0) this.#state = { kind: 'skip' };
  }

  #member(block: Buffer, typeFlag: string, headerSize: number): void {
    const type = TYPES[typeFlag];
    if (type === undefined) throw new TarError(`a member of type ${JSON.stringify(typeFlag)}`);
    const records: Records = new Map([...this.#global, ...this.#local]);
    const record = (key: string): string | undefined => records.get(key)?.toString('latin1');
    const sizeText = record('size');
    const stored = sizeText === undefined ? headerSize : decimal(sizeText, 'size');
    const ownName = this.#longName ?? record('path') ?? nameOf(block);
    const name = record('GNU.sparse.name') ?? ownName;
    const linkName = this.#longLink ?? record('linkpath') ?? text(block.subarray(157, 257));
    this.#local = new Map();
    this.#longName = undefined;
    this.#longLink = undefined;
    const [mtimeSeconds, mtimeNanoseconds] = time(record('mtime') ?? String(number(block, 136, 12)));
    const id = (key: 'uid' | 'gid', at: number): number => {
      const value = record(key);
      return value === undefined ? number(block, at, 8) : decimal(value, key);
    };
    // Before POSIX a directory was a file whose name ends in a slash.
    const isOldDirectory = type === 'file' && typeFlag !== 'S' && ownName.endsWith('/');
    const member = {
      name,
      type: isOldDirectory ? 'directory' : type,
      linkName,
      mode: number(block, 100, 8) & 0o7777,
      uid: id('uid', 108),
      gid: id('gid', 116),
      mtimeSeconds,
      mtimeNanoseconds,
      major: number(block, 329, 8),
      minor: number(block, 337, 8),
      xattrs: xattrsOf(records),
    } as const;
    if (member.type !== 'file') {
      this.#sink.member({ ...member, size: 0 });
      this.#sink.end();
      // Links of old archives, and directories of incremental ones, may have bytes.
      this.#skipMember(type === 'hardlink' || type === 'directory' ? stored : 0);
      return;
    }
    this.#padding = padded(stored) - stored;
    this.#position = 0;
    const begin = (size: number, parts: readonly Part[], behind: number): void => {
      checkParts(parts, size);
      const total = parts.reduce((sum, { bytes }) => sum + bytes, 0);
      if (total !== stored - behind) throw new TarError('a sparse file whose parts are not what is stored');
      this.#size = size;
      this.#parts = parts.filter(({ bytes }) => bytes > 0);
      this.#sink.member({ ...member, size });
      if (this.#parts.length === 0) this.#endFile();
      else this.#state = { kind: 'data' };
    };
    const realSize = record('GNU.sparse.realsize') ?? record('GNU.sparse.size');
    if (typeFlag === 'S') this.#oldSparse(block, begin);
    else if (record('GNU.sparse.major') === '1') this.#sparseMap(decimal(realSize ?? '', 'size'), begin);
    else if (realSize !== undefined) begin(decimal(realSize, 'size'), paxParts(records), 0);
    else begin(stored, [{ at: 0, bytes: stored }], 0);
  }

  /** GNU's own format: four parts in the header, more in blocks behind it. */
  #oldSparse(block: Buffer, begin: (size: number, parts: readonly Part[], behind: number) => void): void {
    const parts: Part[] = [];
    const size = number(block, 483, 12);
    const take = (from: Buffer, at: number, count: number): void => {
      for (let i = 0; i < count && from[at + i * 24] !== 0; i++)
        parts.push({ at: number(from, at + i * 24, 12), bytes: number(from, at + i * 24 + 12, 12) });
    };
    const more = (): void => {
      const next = (bytes: Buffer): void => {
        take(bytes, 0, 21);
        if (parts.length > MAX_SPARSE_PARTS)
          throw new TarError(`more than ${MAX_SPARSE_PARTS} parts of a file`);
        if (bytes[504] === 0) begin(size, parts, 0);
        else more();
      };
      this.#state = { kind: 'meta', length: BLOCK, take: next };
    };
    take(block, 386, 4);
    if (block[482] === 0) begin(size, parts, 0);
    else more();
  }

  /** Format 1.0: what the member stores begins with numbers in decimal, a line each, in whole blocks. */
  #sparseMap(size: number, begin: (size: number, parts: readonly Part[], behind: number) => void): void {
    let map = '';
    const next = (bytes: Buffer): void => {
      map += bytes.toString('latin1');
      const numbers = map
        .split('\n')
        .slice(0, -1)
        .map((line) => decimal(line, 'part'));
      const count = numbers[0] ?? Number.POSITIVE_INFINITY;
      if (count > MAX_SPARSE_PARTS && numbers.length > 0)
        throw new TarError(`more than ${MAX_SPARSE_PARTS} parts of a file`);
      if (numbers.length < 1 + 2 * count) {
        if (map.length > MAX_META_BYTES * 4) throw new TarError('a sparse file without its map');
        this.#state = { kind: 'meta', length: BLOCK, take: next };
        return;
      }
      begin(size, pairs(numbers.slice(1, 1 + 2 * count)), map.length);
    };
    this.#state = { kind: 'meta', length: BLOCK, take: next };
  }
}

function padded(bytes: number): number {
  return Math.ceil(bytes / BLOCK) * BLOCK;
}

const ZEROS = Buffer.alloc(BLOCK);

function isZero(block: Buffer): boolean {
  return block[0] === 0 && block.equals(ZEROS);
}

/** The sum of the header's bytes, its own field taken as blanks; some have summed signed bytes. */
function checkSum(block: Buffer): void {
  let unsigned = 0;
  let signed = 0;
  for (let i = 0; i < BLOCK; i++) {
    const byte = i >= 148 && i < 156 ? 32 : (block[i] ?? 0);
    unsigned += byte;
    signed += byte > 127 ? byte - 256 : byte;
  }
  const told = number(block, 148, 8);
  if (told !== unsigned && told !== signed) throw new TarError('no header of a member where one has to be');
}

/** A number in octal digits, or with its first bit set in base 256. */
function number(block: Buffer, at: number, width: number): number {
  const first = block[at] ?? 0;
  if (first < 0x80) {
    const digits = block
      .toString('latin1', at, at + width)
      .replace(/\0.*$/s, '')
      .trim();
    if (!/^[0-7]*$/.test(digits)) throw new TarError(`the number ${JSON.stringify(digits)}`);
    return digits === '' ? 0 : Number.parseInt(digits, 8);
  }
  let value = BigInt(first & 0x7f);
  for (let i = 1; i < width; i++) value = (value << 8n) | BigInt(block[at + i] ?? 0);
  // Two's complement of width × 8 - 1 bits, the first being the mark.
  return Number(BigInt.asIntN(width * 8 - 1, value));
}

function decimal(digits: string, what: string): number {
  const value = /^\d{1,16}$/.test(digits) ? Number(digits) : Number.NaN;
  if (Number.isSafeInteger(value)) return value;
  throw new TarError(`${JSON.stringify(digits)} as ${what} of a member`);
}

/** Seconds with a fraction, which may be negative. */
function time(digits: string): readonly [seconds: number, nanoseconds: number] {
  const [, sign, whole = '', fraction = ''] = /^(-?)(\d{1,15})(?:\.(\d*))?$/.exec(digits) ?? [];
  if (whole === '') throw new TarError(`${JSON.stringify(digits)} as time of a member`);
  const nanoseconds = Number(fraction.padEnd(9, '0').slice(0, 9));
  if (sign === '') return [Number(whole), nanoseconds];
  return nanoseconds === 0 ? [0 - Number(whole), 0] : [-Number(whole) - 1, 1_000_000_000 - nanoseconds];
}

function text(bytes: Buffer): string {
  const end = bytes.indexOf(0);
  return bytes.toString('latin1', 0, end === -1 ? bytes.length : end);
}

function nameOf(block: Buffer): string {
  const name = text(block.subarray(0, 100));
  // GNU's own format has other fields where ustar has the beginning of a long name.
  const isUstar = block.toString('latin1', 257, 263) === 'ustar\0';
  const prefix = isUstar ? text(block.subarray(345, 500)) : '';
  return prefix === '' ? name : `${prefix}/${name}`;
}

/** Records of a pax header: `<length> <key>=<value>\n`. Keys that come again, as those of sparse files, are numbered. */
function paxRecords(bytes: Buffer): Records {
  const records = new Map<string, Buffer>();
  for (let at = 0; at < bytes.length; ) {
    const blank = bytes.indexOf(32, at);
    const length = blank === -1 ? 0 : decimal(bytes.toString('latin1', at, blank), 'length');
    const equals = bytes.indexOf(61, blank);
    const end = at + length;
    if (length < 5 || end > bytes.length || equals === -1 || equals >= end || bytes[end - 1] !== 10)
      throw new TarError('a broken pax header');
    const key = bytes.toString('latin1', blank + 1, equals);
    const value = Buffer.from(bytes.subarray(equals + 1, end - 1));
    const isPart = key === 'GNU.sparse.offset' || key === 'GNU.sparse.numbytes';
    if (isPart)
      records.set(SPARSE_PARTS, Buffer.concat([records.get(SPARSE_PARTS) ?? NOTHING, value, COMMA]));
    else records.set(key, value);
    at = end;
  }
  return records;
}

const SPARSE_PARTS = 'GNU.sparse.map';
const NOTHING = Buffer.alloc(0);
const COMMA = Buffer.from(',');

/** Formats 0.0 and 0.1: where the parts are is in the pax header. */
function paxParts(records: Records): readonly Part[] {
  const numbers = (records.get(SPARSE_PARTS)?.toString('latin1') ?? '')
    .split(',')
    .filter((word) => word !== '');
  return pairs(numbers.map((word) => decimal(word, 'part')));
}

function pairs(numbers: readonly number[]): readonly Part[] {
  if (numbers.length % 2 !== 0) throw new TarError('half a part of a sparse file');
  return Array.from({ length: numbers.length / 2 }, (_, i) => ({
    at: numbers[2 * i] ?? 0,
    bytes: numbers[2 * i + 1] ?? 0,
  }));
}

/** Parts go upwards and lie within the file. */
function checkParts(parts: readonly Part[], size: number): void {
  let end = 0;
  for (const { at, bytes } of parts) {
    if (at < end || bytes < 0 || at + bytes > size) throw new TarError('parts of a sparse file that overlap');
    end = at + bytes;
  }
}

function xattrsOf(records: Records): readonly Xattr[] {
  const found: Xattr[] = [];
  for (const [key, value] of records) {
    if (key.startsWith(SCHILY)) found.push([key.slice(SCHILY.length), value]);
    else if (key.startsWith(LIBARCHIVE) && !records.has(SCHILY + decoded(key)))
      found.push([decoded(key), Buffer.from(value.toString('latin1'), 'base64')]);
  }
  return found;
}

/** libarchive writes an attribute's name as in a URL, and its value in base 64. */
function decoded(key: string): string {
  return key
    .slice(LIBARCHIVE.length)
    .replace(/%([\da-fA-F]{2})/g, (_, hex: string) => String.fromCharCode(Number.parseInt(hex, 16)));
}
