/** What the fence's programs read of headers of IPv4 (RFC 791) and IPv6 (RFC 8200): offsets, lengths, values. */

/** Offsets in a header of IPv4, and its length without options. */
export const IP4 = { version: 0, fragment: 6, protocol: 9, source: 12, destination: 16, bytes: 20 } as const;
/** Version and length of one without options. */
export const IP4_PLAIN = 0x45;
/** Where a fragment belongs. */
export const FRAGMENT_OFFSET = 0x1fff;
/** Set in each fragment: where it belongs, or that more follow. */
export const IS_FRAGMENT = 0x3fff;
/** Offsets in a header of IPv6, and its length; `protocol` is the next header. */
export const IP6 = { protocol: 6, source: 8, destination: 24, bytes: 40 } as const;
/** Next header of IPv6: routing. */
export const ROUTING_HEADER = 43;
