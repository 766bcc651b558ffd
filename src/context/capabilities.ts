/** Linux capabilities: names ⇄ bits, the set a guest keeps, and the ways operators write a set (`bcaps`). */
import { UserError } from '../base/errors.ts';
import { didYouMean } from '../base/suggest.ts';

/** A set of capabilities: bit n is capability number n. */
export type CapabilitySet = bigint;

/** Names without `CAP_`, by number (linux/capability.h); the last, 40, since Linux 5.9. */
const CAPABILITY_NAMES: readonly string[] = [
  'CHOWN',
  'DAC_OVERRIDE',
  'DAC_READ_SEARCH',
  'FOWNER',
  'FSETID',
  'KILL',
  'SETGID',
  'SETUID',
  'SETPCAP',
  'LINUX_IMMUTABLE',
  'NET_BIND_SERVICE',
  'NET_BROADCAST',
  'NET_ADMIN',
  'NET_RAW',
  'IPC_LOCK',
  'IPC_OWNER',
  'SYS_MODULE',
  'SYS_RAWIO',
  'SYS_CHROOT',
  'SYS_PTRACE',
  'SYS_PACCT',
  'SYS_ADMIN',
  'SYS_BOOT',
  'SYS_NICE',
  'SYS_RESOURCE',
  'SYS_TIME',
  'SYS_TTY_CONFIG',
  'MKNOD',
  'LEASE',
  'AUDIT_WRITE',
  'AUDIT_CONTROL',
  'SETFCAP',
  'MAC_OVERRIDE',
  'MAC_ADMIN',
  'SYSLOG',
  'WAKE_ALARM',
  'BLOCK_SUSPEND',
  'AUDIT_READ',
  'PERFMON',
  'BPF',
  'CHECKPOINT_RESTORE',
];

/**
 * Rights of Linux-VServer's that re-grant a part of a capability that is not in the bound: `raw_icmp` is raw sockets of
 * ICMP, with which ping works whatever the host's ping_group_range; `quota_ctl` is quotactl(2) for the guest's own users.
 */
export const CONTEXT_CAPABILITIES = ['raw_icmp', 'quota_ctl'] as const;
/** One of them. */
export type ContextCapability = (typeof CONTEXT_CAPABILITIES)[number];

/** Every capability this project knows. */
export const ALL_CAPABILITIES: CapabilitySet = (1n << BigInt(CAPABILITY_NAMES.length)) - 1n;

/**
 * What a guest keeps when its configuration says nothing: the secure set of Linux-VServer.
 *
 * They hold in the guest's user namespace only: CAP_DAC_OVERRIDE, for example, reaches files whose owner is mapped into
 * it, CAP_SYS_BOOT ends its pid namespace (user_namespaces(7), reboot(2)).
 */
export const DEFAULT_CAPABILITIES: CapabilitySet = setOf([
  'CHOWN',
  'DAC_OVERRIDE',
  'DAC_READ_SEARCH',
  'FOWNER',
  'FSETID',
  'KILL',
  'SETGID',
  'SETUID',
  'NET_BIND_SERVICE',
  'SYS_CHROOT',
  'SYS_PTRACE',
  'SYS_BOOT',
  'SYS_TTY_CONFIG',
  'LEASE',
  'AUDIT_WRITE',
  'SETFCAP',
]);

/** The same for a guest whose process 1 is an init of its own, which takes capabilities from its services. */
export const OWN_INIT_CAPABILITIES: CapabilitySet = DEFAULT_CAPABILITIES | setOf(['SETPCAP']);

function setOf(names: readonly string[]): CapabilitySet {
  return names.reduce((set, name) => set | bitOf(name), 0n);
}

/**
 * Reads a name, with or without `CAP_`, in any case.
 *
 * @returns a set of one
 * @throws UserError invalid-capability
 */
export function parseCapability(text: string): CapabilitySet {
  return bitOf(text);
}

function bitOf(text: string): CapabilitySet {
  const name = bareName(text);
  const number = CAPABILITY_NAMES.indexOf(name);
  if (number !== -1) return 1n << BigInt(number);
  throw new UserError(
    'invalid-capability',
    `cannot use ${JSON.stringify(text)} as a capability; need a name such as "NET_ADMIN"`,
    { hint: didYouMean(name, CAPABILITY_NAMES) },
  );
}

function bareName(text: string): string {
  // ASCII only: toUpperCase would make "ſ" an "S".
  return /^[A-Za-z_]+$/.test(text) ? text.toUpperCase().replace(/^CAP_/, '') : text;
}

/**
 * Reads a `bcaps` expression, words separated by spaces, commas or newlines.
 *
 * - plain names are the whole set: `CHOWN SETUID`; `ALL` and `NONE` are sets as well;
 * - `+NAME` adds to the default, `-NAME` and `~NAME` take from it, in order; `ALL` or `NONE` first is the base instead;
 * - nothing is the default.
 *
 * @param byDefault what the guest keeps without the expression
 * @throws UserError invalid-capability, also for plain names mixed with relative ones: which is meant is not clear
 */
export function parseCapabilityExpression(
  text: string,
  byDefault: CapabilitySet = DEFAULT_CAPABILITIES,
): CapabilitySet {
  const words = text.split(/[\s,]+/).filter((word) => word !== '');
  const isBased = isWhole(words[0] ?? '');
  const [first = ''] = words;
  const rest = isBased ? words.slice(1) : words;
  const base = isBased ? wholeSet(first) : byDefault;
  const plain = rest.filter((word) => !/^[-+~]/.test(word));
  if (plain.length === 0) return rest.reduce(applyRelative, base);
  if (plain.length < rest.length || isBased) {
    throw new UserError(
      'invalid-capability',
      `cannot read capabilities ${JSON.stringify(text)}: found plain names beside ${isBased ? first.toUpperCase() : 'relative ones'}; ` +
        'need all plain (the whole set), or each with "+" or "-" (relative to the default)',
    );
  }
  return setOf(plain);
}

function applyRelative(set: CapabilitySet, word: string): CapabilitySet {
  const name = word.slice(1);
  const change = isWhole(name) ? wholeSet(name) : bitOf(name);
  return word.startsWith('+') ? set | change : set & ~change;
}

function isWhole(word: string): boolean {
  return /^(all|none)$/i.test(word);
}

function wholeSet(word: string): CapabilitySet {
  return word.toLowerCase() === 'all' ? ALL_CAPABILITIES : 0n;
}

/**
 * Applies Docker's `--cap-add` and `--cap-drop` to a set.
 *
 * As in Docker: with `ALL` added, everything but what is dropped by name; with `ALL` dropped, only what is added;
 * otherwise the set without the dropped, with the added, so that adding wins.
 *
 * @param base what the guest has without the flags
 * @throws UserError invalid-capability
 */
export function applyCapabilityFlags(
  base: CapabilitySet,
  add: readonly string[],
  drop: readonly string[],
): CapabilitySet {
  const isAll = (name: string): boolean => bareName(name) === 'ALL';
  const added = setOf(add.filter((name) => !isAll(name)));
  const dropped = setOf(drop.filter((name) => !isAll(name)));
  if (add.some(isAll)) return ALL_CAPABILITIES & ~dropped;
  if (drop.some(isAll)) return added;
  return (base & ~dropped) | added;
}

/** Lists the names in a set, without `CAP_`, sorted by name. Bits this project does not know are left out. */
export function formatCapabilities(set: CapabilitySet): readonly string[] {
  return CAPABILITY_NAMES.filter((_name, number) => (set & (1n << BigInt(number))) !== 0n).toSorted();
}
