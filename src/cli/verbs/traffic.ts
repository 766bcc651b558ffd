import { formatTable } from '../../base/text-table.ts';
import type { GuestTraffic } from '../../guest/networks.ts';
import type { QuotaView } from '../../guest/quotas.ts';
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

const QUOTA_COLUMNS = [
  { title: 'GUEST' },
  { title: 'BYTES', align: 'right' },
  { title: 'QUOTA', align: 'right' },
  { title: 'PER' },
  { title: 'COUNTS' },
  { title: 'ABOVE' },
  { title: 'UNTIL' },
] as const;

interface TrafficView {
  readonly name: string;
  readonly xid: number;
  /** Since the guest's start; null without a network of its own. */
  readonly traffic: GuestTraffic | null;
  /** Null without one. */
  readonly quota: QuotaView | null;
}

/** `vserver traffic`: prints what running guests with a network have received and sent. */
export async function traffic(
  parsed: ParsedVerb<'traffic'>,
  io: Io,
  services: Services,
): Promise<VerbResult> {
  const { values, exitCode } = await collect(
    parsed,
    io,
    services,
    async (guest): Promise<TrafficView> => ({
      name: guest.name,
      xid: guest.xid,
      traffic: (await services.manager.networks.traffic(guest)) ?? null,
      quota: (await services.manager.networks.quota(guest)) ?? null,
    }),
  );
  await io.out(parsed.global.json ? formatJson(values) : formatTables(values));
  return exitCode;
}

function formatTables(values: readonly TrafficView[]): string {
  const quotas = values.flatMap(formatQuota);
  const traffic = formatTable(COLUMNS, values.flatMap(formatTraffic));
  return quotas.length === 0 ? traffic : `${traffic}\n${formatTable(QUOTA_COLUMNS, quotas)}`;
}

function formatQuota({ name, quota }: TrafficView): readonly (readonly string[])[] {
  if (quota === null) return [];
  const { usedBytes, limitBytes, per, direction, above, until } = quota;
  return [[name, String(usedBytes), String(limitBytes), per, direction, above, until]];
}

function formatTraffic({ name, traffic }: TrafficView): readonly (readonly string[])[] {
  if (traffic === null) return [];
  return Object.entries(traffic).map(([kind, { received, sent }]) => [
    name,
    kind,
    ...[received.packets, received.bytes, sent.packets, sent.bytes].map(String),
  ]);
}
