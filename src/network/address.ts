/**
 * Internet addresses as 16 bytes in network order, the way the fence holds those of both families: an IPv4 address is
 * written ::ffff:a.b.c.d (RFC 4291, 2.5.5.2), its prefix length is 96 more.
 */
import { UserError } from '../base/errors.ts';
import { firstOf, formatIpAddress, lastOf, parseIpAddress } from '../base/ip.ts';

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
  const bytes = parseIpAddress(text);
  if (bytes === undefined) {
    throw new UserError(
      'invalid-address',
      `cannot use ${JSON.stringify(text)} as an address; need IPv4 as in "192.0.2.1" or IPv6 as in "2001:db8::1"`,
    );
  }
  return bytes.length === ADDRESS_BYTES ? bytes : Uint8Array.of(...MAPPED, ...bytes);
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
  return { address: firstOf(address, prefix), prefix };
}

/** Returns the last address of a network: its broadcast address if it is one of IPv4. */
export function lastAddress({ address, prefix }: Network): Uint8Array {
  return lastOf(address, prefix);
}

/** Says whether one network lies in another, or is the same. */
export function contains(outer: Network, inner: Network): boolean {
  if (outer.prefix > inner.prefix) return false;
  const start = firstOf(inner.address, outer.prefix);
  return outer.address.every((byte, i) => byte === start[i]);
}

/** Writes an address; IPv6 as RFC 5952 has it. */
export function formatAddress(address: Uint8Array): string {
  return formatIpAddress(isIpv4(address) ? address.subarray(MAPPED.length) : address);
}
