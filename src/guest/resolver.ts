/**
 * How names are found in a guest that has a network: by the servers its configuration names, else by the host's.
 */
import { formatIpAddress, type IpPrefix } from '../base/ip.ts';
import { readIfThere } from '../sys/files.ts';
import type { GuestNetwork } from './config-types.ts';

/**
 * Where the host says which servers it asks: its own file, and where those are that a resolver on its loopback asks, of
 * systemd-resolved(8), NetworkManager(8), and dnsmasq with resolvconf(8).
 */
const SOURCES: readonly string[] = [
  '/etc/resolv.conf',
  '/run/systemd/resolve/resolv.conf',
  '/run/NetworkManager/no-stub-resolv.conf',
  '/run/dnsmasq/resolv.conf',
];

const SERVER = /^\s*nameserver\s+(\S+)/;
const SEARCH = /^\s*(search|domain)\s/;
/** On a loopback, or of an interface of the host's: not to be reached from a guest. */
const OUT_OF_REACH = /^(127\.|::1$)|%/;
/** What the file says when there is no server: what a C library does then, asking 127.0.0.1, is no help. */
const NONE = '# no server: those of the host are on its loopback only; need network.dns\n';

/** Returns the servers of the host's that a guest with addresses can ask. */
export function hostServers(sources: readonly string[] = SOURCES): readonly string[] {
  return usableLines(sources).flatMap((line) => SERVER.exec(line)?.[1] ?? []);
}

/** Returns the text of /etc/resolv.conf for a guest. With the host's network it has the host's loopback too. */
export function guestResolvConf(
  { mode, dns, search }: Pick<GuestNetwork, 'mode' | 'dns' | 'search'>,
  sources: readonly string[] = SOURCES,
): string {
  const theirs = mode === 'host' || dns !== undefined ? linesOf(sources[0]) : usableLines(sources);
  const kept = theirs.filter(
    (line) => !(dns !== undefined && SERVER.test(line)) && !(search !== undefined && SEARCH.test(line)),
  );
  const lines = [
    ...(dns ?? []).map((server) => `nameserver ${server}`),
    ...(search !== undefined && search.length > 0 ? [`search ${search.join(' ')}`] : []),
    ...kept,
  ];
  const text = lines.map((line) => `${line}\n`).join('');
  return lines.some((line) => SERVER.test(line)) ? text : `${NONE}${text}`;
}

/** The lines of the first source that names a server a guest can reach, without those it cannot. */
function usableLines(sources: readonly string[]): readonly string[] {
  for (const source of sources) {
    const usable = linesOf(source).filter((line) => !OUT_OF_REACH.test(SERVER.exec(line)?.[1] ?? ''));
    if (usable.some((line) => SERVER.test(line))) return usable;
  }
  return [];
}

function linesOf(source: string | undefined): readonly string[] {
  const text = (source === undefined ? undefined : readIfThere(source)) ?? '';
  return text.split('\n').filter((line) => !/^\s*[#;]|^\s*$/.test(line));
}

/** Of a guest's name, where it has no address of its own, as Debian has it (hosts(5)); 127.0.0.1 is localhost's. */
const OWN_LOOPBACK = '127.0.1.1';

/** Returns the text of /etc/hosts for a guest, by whose name its own addresses are found. */
export function guestHosts(
  hostname: string,
  domainname: string | undefined,
  addresses: readonly IpPrefix[],
  others: Readonly<Record<string, string>> = {},
): string {
  const names = domainname === undefined ? hostname : `${hostname}.${domainname} ${hostname}`;
  const found = addresses.map(({ bytes }) => formatIpAddress(bytes));
  const own = (found.length === 0 ? [OWN_LOOPBACK] : found).map((address) => `${address} ${names}\n`);
  const given = Object.entries(others).map(([name, address]) => `${address} ${name}\n`);
  return `127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n${own.join('')}${given.join('')}`;
}
