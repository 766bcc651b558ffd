/**
 * IP addresses as bytes: read and written in the usual forms (RFC 4291, RFC 5952).
 */
import { UserError } from './errors.ts';

/** An address and the length of its network's prefix, as in `10.0.0.5/24`. */
export interface IpPrefix {
  readonly family: 4 | 6;
  /** 4 or 16 of them, in network order; the part behind the prefix is kept. */
  readonly bytes: Uint8Array;
  /** Bits of the network's part. */
  readonly length: number;
}

/**
 * Parses `ADDRESS` or `ADDRESS/LENGTH`; without a length the address is a network of its own.
 *
 * @throws UserError invalid-address
 */
export function parseIpPrefix(text: string): IpPrefix {
  const slash = text.indexOf('/');
  const bytes = parseIpAddress(slash < 0 ? text : text.slice(0, slash));
  const most = 8 * (bytes?.length ?? 0);
  const digits = slash < 0 ? String(most) : text.slice(slash + 1);
  const length = /^\d{1,3}$/.test(digits) ? Number(digits) : Number.NaN;
  if (bytes === undefined || !(length <= most)) {
    throw new UserError(
      'invalid-address',
      `cannot use ${JSON.stringify(text)} as an address; need for example 10.0.0.5/24 or 2001:db8::5/64`,
    );
  }
  return { family: bytes.length === 4 ? 4 : 6, bytes, length };
}

/** Returns the bytes of an address; undefined for any other text. */
export function parseIpAddress(text: string): Uint8Array | undefined {
  return text.includes(':') ? parseV6(text) : parseV4(text);
}

function parseV4(text: string): Uint8Array | undefined {
  const parts = text.split('.');
  // No leading zeros: some read them as octal.
  if (parts.length !== 4 || !parts.every((part) => /^(0|[1-9]\d{0,2})$/.test(part) && Number(part) < 256))
    return undefined;
  return Uint8Array.from(parts, Number);
}

function parseV6(text: string): Uint8Array | undefined {
  const halves = text.split('::');
  if (halves.length > 2) return undefined;
  const [head, tail] = halves.map(parseGroups);
  if (head === undefined || (halves.length === 2 && tail === undefined)) return undefined;
  const gap = 8 - head.length - (tail?.length ?? 0);
  if (halves.length === 1 ? gap !== 0 : gap < 1) return undefined;
  const groups = [...head, ...Array.from({ length: gap }, () => 0), ...(tail ?? [])];
  return Uint8Array.from(groups.flatMap((group) => [group >> 8, group & 0xff]));
}

/** The groups of one side of `::`; its last two may be written as an IPv4 address. */
function parseGroups(text: string): readonly number[] | undefined {
  if (text === '') return [];
  const groups: number[] = [];
  const parts = text.split(':');
  for (const [i, part] of parts.entries()) {
    const v4 = i === parts.length - 1 ? parseV4(part) : undefined;
    if (v4) groups.push(((v4[0] ?? 0) << 8) | (v4[1] ?? 0), ((v4[2] ?? 0) << 8) | (v4[3] ?? 0));
    else if (/^[0-9a-fA-F]{1,4}$/.test(part)) groups.push(Number.parseInt(part, 16));
    else return undefined;
  }
  return groups;
}

/** Returns an address as text, always the same for the same bytes. */
export function formatIpAddress(bytes: Uint8Array): string {
  if (bytes.length === 4) return bytes.join('.');
  const groups = Array.from({ length: 8 }, (_, i) =>
    (((bytes[2 * i] ?? 0) << 8) | (bytes[2 * i + 1] ?? 0)).toString(16),
  );
  // The first of the longest runs of zeros, of two or more (RFC 5952, 4.2).
  const runs = [
    ...groups
      .map((group) => (group === '0' ? '0' : '-'))
      .join('')
      .matchAll(/0{2,}/g),
  ];
  const longest = runs.reduce<RegExpExecArray | undefined>(
    (best, run) => (best === undefined || run[0].length > best[0].length ? run : best),
    undefined,
  );
  if (longest === undefined) return groups.join(':');
  const after = longest.index + longest[0].length;
  return `${groups.slice(0, longest.index).join(':')}::${groups.slice(after).join(':')}`;
}

/** Returns `ADDRESS/LENGTH`, always the same for the same address. */
export function formatIpPrefix({ bytes, length }: IpPrefix): string {
  return `${formatIpAddress(bytes)}/${length}`;
}

/** Returns the first address of a network: the bits behind the prefix, `length` bits long, are cleared. */
export function firstOf(bytes: Uint8Array, length: number): Uint8Array {
  return bytes.map((byte, i) => byte & ~hostBits(length, i));
}

/** Returns the last address of a network: the bits behind the prefix are set. */
export function lastOf(bytes: Uint8Array, length: number): Uint8Array {
  return bytes.map((byte, i) => byte | hostBits(length, i));
}

/** The bits of a byte that are behind a prefix. */
function hostBits(length: number, index: number): number {
  return 0xff >> Math.min(8, Math.max(0, length - 8 * index));
}

/** Whether two networks have an address in common. */
export function overlaps(one: IpPrefix, other: IpPrefix): boolean {
  const length = Math.min(one.length, other.length);
  const start = firstOf(other.bytes, length);
  return one.family === other.family && firstOf(one.bytes, length).every((byte, i) => byte === start[i]);
}

/** Whether a host can have the address as its own: it is neither unspecified nor loopback nor multicast. */
export function isUnicast({ family, bytes }: IpPrefix): boolean {
  const [first = 0] = bytes;
  if (family === 4) return first !== 0 && first !== 127 && first < 224;
  return (
    first !== 0xff && bytes.some((byte, i) => byte !== (i === 15 ? 1 : 0)) && bytes.some((byte) => byte !== 0)
  );
}
