import { formatTable } from '../../base/text-table.ts';
import type { NetworkCounters } from '../../network/rules.ts';
import { collect } from '../for-each.ts';
import type { Io, Services, VerbResult } from '../io.ts';
import { formatJson } from '../json.ts';
import type { ParsedVerb } from '../verb-types.ts';

const COLUMNS = [
  { title: 'GUEST' },
  { title: 'KIND' },
  { title: 'PACKETS IN', align: 'right' },
  { title: 'BYTES IN', align: 'right' },
  { title: 'PACKETS OUT', align: 'right' },
  { title: 'BYTES OUT', align: 'right' },
] as const;

const KINDS = ['tcp4', 'udp4', 'other4', 'tcp6', 'udp6', 'other6'] as const;

interface GuestTraffic {
  readonly name: string;
  readonly xid: number;
  /** Since the guest's start; null without a network of its own. */
  readonly traffic: NetworkCounters | null;
}

/** `vserver traffic`: prints what running guests with addresses have received and sent. */
export async function traffic(
  parsed: ParsedVerb<'traffic'>,
  io: Io,
  services: Services,
): Promise<VerbResult> {
  const { values, exitCode } = await collect(
    parsed,
    io,
    services,
    async (guest): Promise<GuestTraffic> => ({
      name: guest.name,
      xid: guest.xid,
      traffic: (await services.manager.networks.traffic(guest)) ?? null,
    }),
  );
  await io.out(parsed.global.json ? formatJson(values) : formatTable(COLUMNS, values.flatMap(formatTraffic)));
  return exitCode;
}

function formatTraffic({ name, traffic }: GuestTraffic): readonly (readonly string[])[] {
  if (traffic === null) return [];
  return KINDS.map((kind) => {
    const { received, sent } = traffic[kind];
    return [name, kind, ...[received.packets, received.bytes, sent.packets, sent.bytes].map(String)];
  });
}
