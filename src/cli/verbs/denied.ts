import { formatTable } from '../../base/text-table.ts';
import type { Guest } from '../../guest/guest.ts';
import type { Denial } from '../../network/rules.ts';
import { bootTimeSeconds } from '../../sys/process.ts';
import { collect } from '../for-each.ts';
import type { Io, Services, VerbResult } from '../io.ts';
import { formatJson } from '../json.ts';
import { formatSpan } from '../uptime.ts';
import type { ParsedVerb } from '../verb-types.ts';

const COLUMNS = [
  { title: 'GUEST' },
  { title: 'TIMES', align: 'right' },
  { title: 'LAST', align: 'right' },
  { title: 'WAY' },
  { title: 'PROTOCOL' },
  { title: 'ADDRESS' },
  { title: 'PORT', align: 'right' },
  { title: 'REASON' },
] as const;

/** Of IANA; others are shown by number. */
const PROTOCOLS: ReadonlyMap<number, string> = new Map([
  [0, '-'],
  [1, 'icmp'],
  [6, 'tcp'],
  [17, 'udp'],
  [58, 'icmpv6'],
]);

/** `vserver denied`: lists what running guests were refused by the fence around their network. */
export async function denied(parsed: ParsedVerb<'denied'>, io: Io, services: Services): Promise<VerbResult> {
  const { values, exitCode } = await collect(parsed, io, services, async (guest) => ({
    guest,
    denials: await services.manager.networks.denials(guest),
  }));
  const nowMs = bootTimeSeconds() * 1000;
  await io.out(
    parsed.global.json
      ? formatJson(
          values.flatMap(({ guest, denials }) => denials.map((one) => viewDenial(guest, one, nowMs))),
        )
      : formatTable(
          COLUMNS,
          values.flatMap(({ guest, denials }) => denials.map((one) => formatDenial(guest, one, nowMs))),
        ),
  );
  return exitCode;
}

function viewDenial(guest: Guest, { nid: _, lastMs, ...denial }: Denial, nowMs: number): object {
  return { guest: guest.name, xid: guest.xid, ...denial, secondsAgo: (nowMs - lastMs) / 1000 };
}

function formatDenial(guest: Guest, denial: Denial, nowMs: number): readonly string[] {
  const { count, lastMs, direction, protocol, address, port, reason } = denial;
  const ago = Math.max(0, Math.round((nowMs - lastMs) / 1000));
  return [
    guest.name,
    String(count),
    formatSpan(ago),
    direction,
    PROTOCOLS.get(protocol) ?? String(protocol),
    address === '' ? '-' : address,
    port === 0 ? '-' : String(port),
    reason,
  ];
}
