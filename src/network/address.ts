/**
 * Internet addresses as 16 bytes in network order, the way the fence holds those of both families: an IPv4 address is
 * written ::ffff:a.b.c.d (RFC 4291, 2.5.5.2), its prefix length is 96 more.
 */
import { UserError } from '../base/errors.ts';

/** Bytes of an address. */
export const ADDRESS_BYTES = 16;
/** Bits in front of an IPv4 address. */
export const MAPPED_BITS = 96;
const MAPPED = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff] as const;

/** A network: an address whose bits behind the prefix are zero. */
export interface Network {
  readonly address: Uint8Array;
  /** Of the 16 bytes. */
  readonly prefix: number;
}

/** Says whether 16 bytes are an IPv4 address. */
export function isIpv4(address: Uint8Array): boolean {
  return MAPPED.every((byte, i) => address[i] === byte);
}

/**
 * Parses an address of either family.
 *
 * @throws UserError invalid-address
 */
export function parseAddress(text: string): Uint8Array {
  const bytes = text.includes(':') ? parseIpv6(text) : parseIpv4(text);
  if (bytes === undefined) {
    throw new UserError(
      'invalid-address',
      `cannot use ${JSON.stringify(text)} as an address; need IPv4 as in "192.0.2.1" or IPv6 as in "2001:db8::1"`,
    );
  }
  return bytes;
}

/**
 * Parses `ADDRESS/PREFIX`, or an address alone; bits behind the prefix are cleared.
 *
 * @throws UserError invalid-network
 */
export function parseNetwork(text: string): Network {
  const [address = '', length, ...rest] = text.split('/');
  const bytes = parseAddress(address);
  const bits = isIpv4(bytes) ? 32 : 128;
  const prefix = length === undefined ? bits : /^\d{1,3}$/.test(length) ? Number(length) : bits + 1;
  if (prefix > bits || rest.length > 0) {
    throw new UserError(
      'invalid-network',
      `cannot use ${JSON.stringify(text)} as a network; need "ADDRESS/PREFIX" with a prefix of at most ${bits}`,
    );
  }
  return networkOf(bytes, prefix + 128 - bits);
}

/** Returns the network of an address; `prefix` counts in the 16 bytes. */
export function networkOf(address: Uint8Array, prefix: number): Network {
  const cleared = address.map((byte, i) => byte & maskByte(prefix, i));
  return { address: cleared, prefix };
}

/** Returns the last address of a network: its broadcast address if it is one of IPv4. */
export function lastAddress({ address, prefix }: Network): Uint8Array {
  return address.map((byte, i) => byte | (~maskByte(prefix, i) & 0xff));
}

/** Says whether one network lies in another, or is the same. */
export function contains(outer: Network, inner: Network): boolean {
  return (
    outer.prefix <= inner.prefix &&
    outer.address.every((byte, i) => byte === ((inner.address[i] ?? 0) & maskByte(outer.prefix, i)))
  );
}

/** Writes an address; IPv6 as RFC 5952 has it. */
export function formatAddress(address: Uint8Array): string {
  if (isIpv4(address)) return [...address.subarray(12)].join('.');
  const words = Array.from({ length: 8 }, (_, i) => ((address[2 * i] ?? 0) << 8) | (address[2 * i + 1] ?? 0));
  let best = { at: -1, length: 1 };
  for (let at = 0; at < 8; at++) {
    let length = 0;
    while (at + length < 8 && words[at + length] === 0) length++;
    if (length > best.length) best = { at, length };
  }
  const hex = words.map((word) => word.toString(16));
  if (best.at < 0) return hex.join(':');
  return `${hex.slice(0, best.at).join(':')}::${hex.slice(best.at + best.length).join(':')}`;
}

function maskByte(prefix: number, index: number): number {
  const bits = Math.min(8, Math.max(0, prefix - 8 * index));
  return (0xff << (8 - bits)) & 0xff;
}

function parseIpv4(text: string): Uint8Array | undefined {
  const parts = text.split('.');
  const bytes = parts.map((part) => (/^(0|[1-9]\d{0,2})$/.test(part) ? Number(part) : 256));
  if (bytes.length !== 4 || bytes.some((byte) => byte > 255)) return undefined;
  return Uint8Array.of(...MAPPED, ...bytes);
}

function parseIpv6(text: string): Uint8Array | undefined {
  const halves = text.split('::');
  if (halves.length > 2) return undefined;
  const left = parseWords(halves[0] ?? '');
  const right = parseWords(halves[1] ?? '');
  if (left === undefined || right === undefined) return undefined;
  const missing = 8 - left.length - right.length;
  if (halves.length === 1 ? missing !== 0 : missing < 1) return undefined;
  const words = [...left, ...new Array<number>(missing).fill(0), ...right];
  return Uint8Array.from(words.flatMap((word) => [word >> 8, word & 0xff]));
}

/** 16-bit words of `a:b:c`, whose last may be an IPv4 address. */
function parseWords(text: string): readonly number[] | undefined {
  if (text === '') return [];
  const words: number[] = [];
  const parts = text.split(':');
  for (const [i, part] of parts.entries()) {
    if (i === parts.length - 1 && part.includes('.')) {
      const [a = 0, b = 0, c = 0, d = 0] = parseIpv4(part)?.subarray(12) ?? [];
      if (parseIpv4(part) === undefined) return undefined;
      words.push((a << 8) | b, (c << 8) | d);
    } else if (/^[0-9a-fA-F]{1,4}$/.test(part)) {
      words.push(Number.parseInt(part, 16));
    } else {
      return undefined;
    }
  }
  return words;
}
