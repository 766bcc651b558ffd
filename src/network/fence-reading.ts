/** Reads what the fence has counted. */
import { endianness } from 'node:os';
import type { BatchLayout } from '../sys/bpf/map.ts';
import { ADDRESS_BYTES, formatAddress } from './address.ts';
import { REASONS } from './fence-code.ts';
import { COUNTER, DENIAL, DENIED, SPENT, USAGE } from './fence-maps.ts';
import type { Denial, NetworkCounters, SocketUsage, Spent, Traffic } from './rules.ts';

const LE = endianness() === 'LE';
const NS_PER_MS = 1_000_000n;

/** Sums the counters of all CPUs. */
export function parseCounters(bytes: Uint8Array, cpus: number): NetworkCounters {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const sum = (at: number): number => {
    let total = 0n;
    for (let cpu = 0; cpu < cpus; cpu++) total += view.getBigUint64(cpu * COUNTER.bytes + at, LE);
    return Number(total);
  };
  const traffic = (at: number): Traffic => ({
    packets: sum(at + COUNTER.packets),
    bytes: sum(at + COUNTER.contents),
  });
  const both = (kind: number): { readonly received: Traffic; readonly sent: Traffic } => ({
    received: traffic(kind * COUNTER.kindBytes),
    sent: traffic(kind * COUNTER.kindBytes + COUNTER.sent),
  });
  return { tcp4: both(0), udp4: both(1), other4: both(2), tcp6: both(3), udp6: both(4), other6: both(5) };
}

/** Says how many elements are in one batch. */
function batchCount(bytes: Uint8Array, layout: BatchLayout): number {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.length).getUint32(layout.count, LE);
}

/** Reads one batch of the counters of contexts. */
export function parseAllCounters(
  bytes: Uint8Array,
  layout: BatchLayout,
  cpus: number,
): readonly (readonly [nid: number, counters: NetworkCounters])[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const valueBytes = COUNTER.bytes * cpus;
  return Array.from({ length: batchCount(bytes, layout) }, (_, i) => {
    const at = layout.values + i * valueBytes;
    return [
      view.getUint32(layout.keys + 4 * i, LE),
      parseCounters(bytes.subarray(at, at + valueBytes), cpus),
    ] as const;
  });
}

/** Reads one batch of what contexts have spent of their quotas. */
export function parseSpent(
  bytes: Uint8Array,
  layout: BatchLayout,
): readonly (readonly [nid: number, spent: Spent])[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  return Array.from({ length: batchCount(bytes, layout) }, (_, i) => {
    const value = layout.values + i * SPENT.bytes;
    const of = (at: number): number => Number(view.getBigUint64(value + at, LE));
    return [
      view.getUint32(layout.keys + 4 * i, LE),
      { bytes: of(SPENT.used), period: of(SPENT.period) },
    ] as const;
  });
}

/** Reads one batch of the sockets of contexts. */
export function parseSockets(
  bytes: Uint8Array,
  layout: BatchLayout,
): readonly (readonly [nid: number, usage: SocketUsage])[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  return Array.from({ length: batchCount(bytes, layout) }, (_, i) => {
    const value = layout.values + i * USAGE.bytes;
    const of = (at: number): number => Number(view.getBigUint64(value + at, LE));
    const usage = { current: of(USAGE.sockets), peak: of(USAGE.peak), refused: of(USAGE.refused) };
    return [view.getUint32(layout.keys + 4 * i, LE), usage] as const;
  });
}

/** Reads one batch of denials. */
export function parseDenials(bytes: Uint8Array, layout: BatchLayout): readonly Denial[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  return Array.from({ length: batchCount(bytes, layout) }, (_, i): Denial => {
    const key = layout.keys + i * DENIAL.bytes;
    const value = layout.values + i * DENIED.bytes;
    const address = bytes.subarray(key + DENIAL.address, key + DENIAL.address + ADDRESS_BYTES);
    return {
      nid: view.getUint32(key + DENIAL.nid, LE),
      reason: REASONS[view.getUint8(key + DENIAL.reason)] ?? 'policy',
      direction: view.getUint8(key + DENIAL.direction) === 1 ? 'in' : 'out',
      protocol: view.getUint8(key + DENIAL.protocol),
      address: address.every((byte) => byte === 0) ? '' : formatAddress(address),
      port: view.getUint16(key + DENIAL.port, LE),
      count: Number(view.getBigUint64(value + DENIED.count, LE)),
      lastMs: Number(view.getBigUint64(value + DENIED.last, LE) / NS_PER_MS),
    };
  });
}
