/** /proc/net/tcp, udp, raw and icmp of a guest, for both families, and what sums them up. */
import { endianness } from 'node:os';
import type { TrafficSample } from './sample.ts';

const LE = endianness() === 'LE';
const STATE = { established: 1, timeWait: 6, listen: 10 } as const;
/** USER_HZ. */
const MS_PER_TICK = 10;
const PADDED = { tcp: 149, other: 127 } as const;
const HEAD = 'st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode';

/** One end of a socket; 4 or 16 bytes in network order. */
interface EndSample {
  readonly address: Uint8Array;
  readonly port: number;
}

/** A socket as a guest knows it. */
export interface SocketSample {
  readonly state: number;
  readonly timer: number;
  readonly expiresMs: number;
  readonly retransmits: number;
  readonly local: EndSample;
  readonly peer: EndSample;
  readonly received: number;
  readonly sent: number;
  readonly uid: number;
  readonly inode: number;
}

/** Files with a socket in each line. */
export type SocketTable = 'tcp' | 'tcp6' | 'udp' | 'udp6' | 'raw' | 'raw6' | 'icmp' | 'icmp6';

/** Returns a table as the kernel writes it (net/ipv4/tcp_ipv4.c, net/ipv4/udp.c, net/ipv6/…). */
export function formatSocketTable(table: SocketTable, sockets: readonly SocketSample[]): string {
  const isTcp = table.startsWith('tcp');
  const is6 = table.endsWith('6');
  const address = is6
    ? 'local_address                         remote_address                       '
    : 'local_address rem_address  ';
  const head = `${table === 'udp' ? ' ' : ''}  sl  ${address} ${HEAD}${isTcp ? '' : ' ref pointer drops'}`;
  const line = (text: string): string => `${is6 ? text : text.padEnd(isTcp ? PADDED.tcp : PADDED.other)}\n`;
  return line(head) + sockets.map((socket, i) => line(formatSocket(socket, i, isTcp))).join('');
}

function formatSocket(socket: SocketSample, index: number, isTcp: boolean): string {
  const { state, timer, expiresMs, retransmits, received, uid, inode } = socket;
  // How many connections may wait is told elsewhere.
  const sent = isTcp && state === STATE.listen ? 0 : socket.sent;
  const ticks = timer === 0 ? 0 : Math.ceil(expiresMs / MS_PER_TICK);
  const rest = isTcp ? tcpRest(state) : ' 0';
  return (
    `${String(index).padStart(isTcp ? 4 : 5)}: ${hexEnd(socket.local)} ${hexEnd(socket.peer)} ${hex(state, 2)} ` +
    `${hex(sent, 8)}:${hex(received, 8)} ${hex(timer, 2)}:${hex(ticks, 8)} ${hex(retransmits, 8)} ` +
    `${String(uid).padStart(5)} ${'0'.padStart(8)} ${inode} ${state === STATE.timeWait ? 3 : isTcp ? 1 : 2} ${'0'.repeat(16)}${rest}`
  );
}

/** Times and windows of a socket that has just begun: they are not told of those of others. */
function tcpRest(state: number): string {
  if (state === STATE.timeWait) return '';
  return state === STATE.listen ? ' 100 0 0 10 0' : ' 20 4 0 10 -1';
}

function hexEnd({ address, port }: EndSample): string {
  const view = new DataView(address.buffer, address.byteOffset, address.length);
  let text = '';
  for (let at = 0; at < address.length; at += 4) text += hex(view.getUint32(at, LE), 8);
  return `${text}:${hex(port, 4)}`;
}

function hex(value: number, digits: number): string {
  return value.toString(16).toUpperCase().padStart(digits, '0');
}

/** Reads a table of raw or echo sockets, of which the kernel tells nowhere else. */
export function parseSocketTable(text: string): readonly SocketSample[] {
  const row =
    /^ *\d+: ([\dA-F]+):([\dA-F]{4}) ([\dA-F]+):([\dA-F]{4}) ([\dA-F]{2}) ([\dA-F]+):([\dA-F]+) \S+ \S+ +(\d+) +\d+ +(\d+)/gm;
  return [...text.matchAll(row)].map(
    ([
      ,
      local = '',
      port = '',
      peer = '',
      peerPort = '',
      state = '',
      sent = '',
      received = '',
      uid,
      inode,
    ]) => ({
      state: Number.parseInt(state, 16),
      timer: 0,
      expiresMs: 0,
      retransmits: 0,
      local: { address: parseHex(local), port: Number.parseInt(port, 16) },
      peer: { address: parseHex(peer), port: Number.parseInt(peerPort, 16) },
      received: Number.parseInt(received, 16),
      sent: Number.parseInt(sent, 16),
      uid: Number(uid),
      inode: Number(inode),
    }),
  );
}

function parseHex(text: string): Uint8Array {
  const bytes = new Uint8Array(text.length / 2);
  const view = new DataView(bytes.buffer);
  for (let at = 0; at < bytes.length; at += 4)
    view.setUint32(at, Number.parseInt(text.slice(2 * at, 2 * at + 8), 16), LE);
  return bytes;
}

/** Sockets of a guest by what they are. */
export type SocketsByTable = Readonly<Record<SocketTable, readonly SocketSample[]>>;

/**
 * Returns /proc/net/sockstat of a guest.
 *
 * @param text of its own network namespace, which has the sockets of other families
 */
export function formatSockstat(text: string, sockets: SocketsByTable): string {
  const tcp = [...sockets.tcp, ...sockets.tcp6];
  const open = tcp.filter(({ state }) => state !== STATE.timeWait);
  const used = Number(/^sockets: used (\d+)/m.exec(text)?.[1] ?? 0);
  const others = [
    ...sockets.udp,
    ...sockets.udp6,
    ...sockets.raw,
    ...sockets.raw6,
    ...sockets.icmp,
    ...sockets.icmp6,
  ];
  const orphans = open.filter(({ inode }) => inode === 0).length;
  const inUse = sockets.tcp.filter(({ state }) => state !== STATE.timeWait).length;
  return (
    `sockets: used ${used + open.length + others.length}\n` +
    `TCP: inuse ${inUse} orphan ${orphans} tw ${tcp.length - open.length} alloc ${open.length} mem 0\n` +
    `UDP: inuse ${sockets.udp.length} mem 0\nUDPLITE: inuse 0\nRAW: inuse ${sockets.raw.length}\nFRAG: inuse 0 memory 0\n`
  );
}

/** Returns /proc/net/sockstat6 of a guest. */
export function formatSockstat6({ tcp6, udp6, raw6 }: SocketsByTable): string {
  const inUse = tcp6.filter(({ state }) => state !== STATE.timeWait).length;
  return (
    `TCP6: inuse ${inUse}\nUDP6: inuse ${udp6.length}\nUDPLITE6: inuse 0\n` +
    `RAW6: inuse ${raw6.length}\nFRAG6: inuse 0 memory 0\n`
  );
}

/** Returns /proc/net/dev of a guest: `text` is that of its own network namespace, where its interface is for show. */
export function formatNetDev(text: string, name: string, { received, sent }: TrafficSample): string {
  const counts = [
    received.bytes,
    received.packets,
    0,
    0,
    0,
    0,
    0,
    0,
    sent.bytes,
    sent.packets,
    0,
    0,
    0,
    0,
    0,
    0,
  ];
  const widths = [7, 7, 4, 4, 4, 5, 10, 9, 8, 7, 4, 4, 4, 5, 7, 10];
  const row = counts.map((count, i) => String(count).padStart(widths[i] ?? 0)).join(' ');
  return text.replace(new RegExp(`^( *${name}:).*$`, 'm'), (_, head: string) => `${head} ${row}`);
}

/**
 * Returns /proc/net/snmp or netstat with other values in some of its columns.
 *
 * @param values by the words that lines begin with, then by column
 */
export function formatCounterTable(
  text: string,
  values: Readonly<Record<string, Readonly<Record<string, number>>>>,
): string {
  return text.replace(/^(\w+): (\D.*)\n\1: (.*)$/gm, (_, name: string, head: string, row: string) => {
    const cells = row.split(' ');
    for (const [i, column] of head.split(' ').entries()) {
      const value = values[name]?.[column];
      if (value !== undefined) cells[i] = String(value);
    }
    return `${name}: ${head}\n${name}: ${cells.join(' ')}`;
  });
}

/** How many TCP connections stand (RFC 4022, tcpCurrEstab). */
export function establishedOf({ tcp, tcp6 }: SocketsByTable): number {
  return [...tcp, ...tcp6].filter(({ state }) => state === STATE.established).length;
}
