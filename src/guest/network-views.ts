/** What a guest reads in /proc/net: its own sockets and traffic, where the sockets themselves are the host's. */
import { readFileSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { idRangeOf, toGuestId } from '../context/id-map.ts';
import { withLocalhost } from '../network/own-sockets.ts';
import type { BothWays, NetworkCounters, TrafficKind } from '../network/rules.ts';
import { NETWORK_TABLES, type NetworkTable } from '../views/files.ts';
import {
  establishedOf,
  formatCounterTable,
  formatNetDev,
  formatSocketTable,
  formatSockstat,
  formatSockstat6,
  parseSocketTable,
  type SocketSample,
  type SocketsByTable,
  type SocketTable,
} from '../views/sockets.ts';
import type { GuestConfig } from './config-types.ts';
import type { Guest } from './guest.ts';
import type { Host } from './host.ts';
import type { Networks } from './networks.ts';
import { INTERFACE } from './plan-network.ts';

/** A relay takes texts of less than 1 MiB: about six thousand sockets. */
const TEXT_MAX = 1_000_000;
const SOCKETS_MAX = 8192;
const PROTOCOL = { tcp: 6, udp: 17 } as const;
const NOBODY = 65_534;

/** Whether a guest with a configuration has these views on a host. */
export async function hasNetworkViews(host: Host, { network, views }: GuestConfig): Promise<boolean> {
  return network.mode === 'isolated' && views.includes('network') && (await host.coversLinks());
}

/** Whether a view is one of these. */
export function isNetworkTable(name: string): name is NetworkTable {
  return (NETWORK_TABLES as readonly string[]).includes(name);
}

/**
 * Returns the text of a view.
 *
 * @throws StateError no-sock-diag; StepError; SystemError when the guest has just ended
 */
export async function networkText(networks: Networks, guest: Guest, name: NetworkTable): Promise<string> {
  switch (name) {
    case 'sockstat':
      return formatSockstat(ownText(guest, name), await allSockets(networks, guest));
    case 'sockstat6':
      return formatSockstat6(await allSockets(networks, guest));
    case 'dev':
      return formatNetDev(ownText(guest, name), INTERFACE, sumOf(await countersOf(networks, guest)));
    case 'snmp': {
      const counters = await countersOf(networks, guest);
      const [ip, tcp, udp] = [
        sumOf(counters, ['tcp4', 'udp4', 'other4']),
        sumOf(counters, ['tcp4', 'tcp6']),
        sumOf(counters, ['udp4']),
      ];
      return formatCounterTable(ownText(guest, name), {
        Ip: {
          InReceives: ip.received.packets,
          InDelivers: ip.received.packets,
          OutRequests: ip.sent.packets,
          OutTransmits: ip.sent.packets,
        },
        Tcp: {
          CurrEstab: establishedOf(await allSockets(networks, guest)),
          InSegs: tcp.received.packets,
          OutSegs: tcp.sent.packets,
        },
        Udp: { InDatagrams: udp.received.packets, OutDatagrams: udp.sent.packets },
      });
    }
    case 'netstat': {
      const { received, sent } = sumOf(await countersOf(networks, guest), ['tcp4', 'udp4', 'other4']);
      return formatCounterTable(ownText(guest, name), {
        IpExt: { InOctets: received.bytes, OutOctets: sent.bytes },
      });
    }
    default:
      return upTo(TEXT_MAX, formatSocketTable(name, await socketsOf(networks, guest, name)));
  }
}

/** Of the guest's own network namespace. */
function ownText({ live }: Guest, name: string): string {
  return readFileSync(`/proc/${live?.initPid ?? 0}/net/${name}`, 'latin1');
}

async function socketsOf(
  networks: Networks,
  guest: Guest,
  table: SocketTable,
): Promise<readonly SocketSample[]> {
  const found =
    table.startsWith('tcp') || table.startsWith('udp')
      ? await networks.listSockets(
          guest,
          table.endsWith('6') ? 6 : 4,
          table.startsWith('tcp') ? PROTOCOL.tcp : PROTOCOL.udp,
          SOCKETS_MAX,
        )
      : await otherSockets(networks, guest, table);
  const range = idRangeOf(guest.xid);
  const idInGuest = (uid: number): number => toGuestId(range, uid) ?? (uid === 0 ? 0 : NOBODY);
  return found.map((socket) => ({ ...socket, uid: idInGuest(socket.uid) }));
}

/** Raw and echo sockets, which hosts have few of and sock_diag(7) does not tell of everywhere. */
async function otherSockets(
  networks: Networks,
  guest: Guest,
  table: SocketTable,
): Promise<readonly SocketSample[]> {
  const nid = guest.live?.network?.nid ?? 0;
  return parseSocketTable(await readFile(`/proc/net/${table}`, 'latin1'))
    .filter(({ uid }) => networks.isUserOf(guest, uid))
    .map((socket) => withLocalhost(socket, nid));
}

async function allSockets(networks: Networks, guest: Guest): Promise<SocketsByTable> {
  const tables = ['tcp', 'tcp6', 'udp', 'udp6', 'raw', 'raw6', 'icmp', 'icmp6'] as const;
  const all = await Promise.all(
    tables.map(async (table) => [table, await socketsOf(networks, guest, table)] as const),
  );
  return Object.fromEntries(all) as SocketsByTable; // one for each
}

async function countersOf(networks: Networks, guest: Guest): Promise<NetworkCounters | undefined> {
  const traffic = await networks.traffic(guest);
  return traffic === undefined || 'all' in traffic ? undefined : traffic;
}

const NOTHING: BothWays = { received: { packets: 0, bytes: 0 }, sent: { packets: 0, bytes: 0 } };

function sumOf(
  counters: NetworkCounters | undefined,
  kinds: readonly TrafficKind[] = ['tcp4', 'udp4', 'other4', 'tcp6', 'udp6', 'other6'],
): BothWays {
  if (!counters) return NOTHING;
  const sum = (way: keyof BothWays, what: 'packets' | 'bytes'): number =>
    kinds.reduce((total, kind) => total + counters[kind][way][what], 0);
  return {
    received: { packets: sum('received', 'packets'), bytes: sum('received', 'bytes') },
    sent: { packets: sum('sent', 'packets'), bytes: sum('sent', 'bytes') },
  };
}

/** As many lines as fit. */
function upTo(bytes: number, text: string): string {
  return text.length <= bytes ? text : text.slice(0, text.lastIndexOf('\n', bytes) + 1);
}
