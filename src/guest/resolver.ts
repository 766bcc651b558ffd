/**
 * How names are found in a guest that has a network: by the host's servers.
 */
import { formatIpAddress, type IpPrefix } from '../base/ip.ts';
import { readIfThere } from '../sys/files.ts';

/** Where the servers are that a resolver on the host's loopback asks (systemd-resolved(8)). */
const BEHIND_LOOPBACK = '/run/systemd/resolve/resolv.conf';
const LOOPBACK = /^\s*nameserver\s+(127\.|::1\s*$)/;

/** Returns the text of /etc/resolv.conf for guests: without servers on a loopback, which is the guest's own in there. */
export function guestResolvConf(path = '/etc/resolv.conf', behind: string = BEHIND_LOOPBACK): string {
  for (const source of [path, behind]) {
    const lines = (readIfThere(source) ?? '').split('\n').filter((line) => !/^\s*[#;]|^\s*$/.test(line));
    const usable = lines.filter((line) => !LOOPBACK.test(line));
    if (usable.some((line) => /^\s*nameserver\s/.test(line))) return `${usable.join('\n')}\n`;
  }
  return '';
}

/** Returns the text of /etc/hosts for a guest, by whose name its own addresses are found. */
export function guestHosts(
  hostname: string,
  domainname: string | undefined,
  addresses: readonly IpPrefix[],
): string {
  const names = domainname === undefined ? hostname : `${hostname}.${domainname} ${hostname}`;
  const own = addresses.map(({ bytes }) => `${formatIpAddress(bytes)} ${names}\n`);
  return `127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n${own.join('')}`;
}
