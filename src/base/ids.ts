import { UserError } from './errors.ts';

/** Number of a context, 2..65535; 0 is the host and 1 the spectator, as in the original. */
export type Xid = number & { readonly __brand: 'Xid' };

/** Name of a guest. Safe as a file name, a cgroup name and a host name's first part. */
export type GuestName = string & { readonly __brand: 'GuestName' };

/** Smallest xid a guest can have. */
export const XID_MIN = 2;
/** Largest xid a guest can have: host uids of a guest start at `65536 × xid`, and uids have 32 bits. */
export const XID_MAX = 65_535;

const GUEST_NAME = /^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,62}$/;

/** Says whether a number is a guest's xid. */
export function isXid(value: number): value is Xid {
  return Number.isInteger(value) && value >= XID_MIN && value <= XID_MAX;
}

/**
 * Parses an xid written in decimal without leading zeros.
 *
 * @throws UserError invalid-xid
 */
export function parseXid(text: string): Xid {
  const xid = /^[1-9]\d*$/.test(text) ? Number(text) : Number.NaN;
  return toXid(xid, text);
}

/**
 * Checks that a number is a guest's xid.
 *
 * @param shown what the error quotes
 * @throws UserError invalid-xid
 */
export function toXid(value: number, shown: string = String(value)): Xid {
  if (isXid(value)) return value;
  throw new UserError(
    'invalid-xid',
    `cannot use ${JSON.stringify(shown)} as an xid; need a number from ${XID_MIN} to ${XID_MAX}`,
  );
}

/** Says whether a text is a guest's name. */
export function isGuestName(text: string): text is GuestName {
  return GUEST_NAME.test(text) && !/^\d+$/.test(text);
}

/**
 * Checks that a text is a guest's name.
 *
 * Names of digits only are refused: every verb also takes an xid in place of a name, so `vserver stop 42` must have
 * one meaning.
 *
 * @throws UserError invalid-name
 */
export function parseGuestName(text: string): GuestName {
  if (isGuestName(text)) return text;
  const need = /^\d+$/.test(text)
    ? 'a name that is not a number, since a number means an xid'
    : '1 to 63 letters, digits, "_", "." and "-", the first a letter or digit';
  throw new UserError('invalid-name', `cannot use ${JSON.stringify(text)} as a guest name; need ${need}`);
}

/** What an operator types to mean a guest: its name, or the xid of its context. */
export type GuestRef =
  | { readonly kind: 'name'; readonly name: GuestName }
  | { readonly kind: 'xid'; readonly xid: Xid };

/**
 * Parses a guest's name or xid.
 *
 * @throws UserError invalid-name, invalid-xid
 */
export function parseGuestRef(text: string): GuestRef {
  return /^\d+$/.test(text)
    ? { kind: 'xid', xid: parseXid(text) }
    : { kind: 'name', name: parseGuestName(text) };
}
