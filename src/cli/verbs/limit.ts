import { formatTable } from '../../base/text-table.ts';
import type { ConfigChange } from '../../guest/config-text.ts';
import type { GuestConfig } from '../../guest/config-types.ts';
import type { Guest } from '../../guest/guest.ts';
import type { LimitRow } from '../../guest/guest-limits.ts';
import { LIMIT_ROW_SPECS, type LimitScope } from '../../resources/limit-rows.ts';
import { warn } from '../for-each.ts';
import { currentConfig, unenforcedLimits } from '../guest-view.ts';
import type { Io, Services, VerbResult } from '../io.ts';
import { formatJson } from '../json.ts';
import { type LimitSetting, limitSettings } from '../limit-options.ts';
import type { ParsedVerb } from '../verb-types.ts';

const COLUMNS = [
  { title: 'LIMIT' },
  { title: 'CURRENT', align: 'right' },
  { title: 'MIN', align: 'right' },
  { title: 'MAX', align: 'right' },
  { title: 'SOFT', align: 'right' },
  { title: 'HARD', align: 'right' },
  { title: 'HITS', align: 'right' },
  { title: 'UNIT' },
  { title: 'FOR' },
  { title: 'BY' },
] as const;

const SCOPES: Readonly<Record<LimitScope, string>> = {
  guest: 'the guest',
  user: 'each user',
  process: 'each process',
  none: 'nobody',
};

/** `vserver limit`: prints the limits table of a guest, sets limits as vlimit does, or begins to count anew. */
export async function limit(parsed: ParsedVerb<'limit'>, io: Io, services: Services): Promise<VerbResult> {
  const { manager } = services;
  const { options, operands, global } = parsed;
  const guest = manager.registry.find(options.xid ?? operands[0] ?? '');
  const settings = limitSettings(options);
  if (settings.length > 0) await setLimits(guest, settings, io, services);
  const [hits, minMax] = [options.reset || options.resetHits, options.reset || options.resetMinmax];
  if (hits || minMax) await manager.changes.resetLimits(guest, { hits, minMax });
  const isQuiet = (settings.length > 0 || hits || minMax) && !global.json && !options.raw;
  if (isQuiet) return 0;
  const rows = await manager.changes.limitRows(guest);
  if (global.json) await io.out(formatJson(rows.map(viewRow)));
  else await io.out(options.raw ? formatRaw(rows, options) : formatRows(rows));
  return 0;
}

async function setLimits(
  guest: Guest,
  settings: readonly LimitSetting[],
  io: Io,
  services: Services,
): Promise<void> {
  const { manager } = services;
  const { pageBytes } = manager.host.abi;
  let config = currentConfig(guest, services);
  const changes: ConfigChange[] = [];
  for (const setting of settings) {
    const change = changesOf(setting, config, pageBytes);
    changes.push(...change);
    // Of two settings of memory the second goes on from the first.
    for (const { path, value } of change)
      if (path[1] === 'memory') config = withMemory(config, value as number | 'max'); // as made below
  }
  await manager.changes.set(guest, changes);
  const unenforced = unenforcedLimits(currentConfig(guest, services), manager.host.cgroups);
  for (const key of unenforced.filter((one) => changes.some(({ path }) => path.join('.') === one)))
    await warn(io, `nothing on this host enforces ${key} of guest "${guest.name}"; see \`vserver check\``);
}

function withMemory(config: GuestConfig, memoryBytes: number | 'max'): GuestConfig {
  return { ...config, limits: { ...config.limits, memoryBytes } };
}

/** Changes of the configuration that set a row's limits. */
function changesOf(
  { row, soft, hard }: LimitSetting,
  { limits }: GuestConfig,
  pageBytes: number,
): readonly ConfigChange[] {
  const { unit, key } = LIMIT_ROW_SPECS[row];
  const value = (limit: number | 'max'): number | 'max' =>
    limit !== 'max' && unit === 'pages' ? limit * pageBytes : limit;
  const change = (name: string, limit: number | 'max'): ConfigChange => ({
    path: ['limits', name],
    value: limit,
  });
  if (row !== 'RSS') return hard === undefined ? [] : [change(key, value(hard))];
  // Soft is what the guest takes for its memory, hard that and swap: a hard limit alone leaves no swap.
  if (soft === undefined) {
    const bytes = value(hard ?? 'max');
    const keepsSoft = limits.memoryBytes !== limits.memorySwapBytes && isBelow(limits.memoryBytes, bytes);
    return [...(keepsSoft ? [] : [change('memory', bytes)]), change('memorySwap', bytes)];
  }
  return [change('memory', value(soft)), ...(hard === undefined ? [] : [change('memorySwap', value(hard))])];
}

function isBelow(a: number | 'max', b: number | 'max'): boolean {
  return a !== 'max' && (b === 'max' || a < b);
}

/** Formats the table. */
function formatRows(rows: readonly LimitRow[]): string {
  const text = (value: number | 'max' | null): string => (value === null ? '-' : String(value));
  return formatTable(
    COLUMNS,
    rows.map((row) => [
      row.row,
      ...[row.current, row.min, row.max, row.soft, row.hard, row.hits].map(text),
      row.unit === 'count' ? '' : row.unit,
      SCOPES[row.scope],
      row.mechanism,
    ]),
  );
}

/** What `vlimit --all` prints: name, minimum, soft and hard limit at columns 0, 12, 32 and 52. */
function formatRaw(
  rows: readonly LimitRow[],
  { numbers, decimal }: { readonly numbers: boolean; readonly decimal: boolean },
): string {
  const text = (value: number | 'max'): string =>
    value === 'max' ? 'inf' : decimal ? String(value) : `0x${value.toString(16)}`;
  return rows
    .toSorted((a, b) => a.number - b.number)
    .map(({ number, option, row, soft, hard }) => {
      const name = numbers ? String(number) : option.toUpperCase();
      const shownSoft = row === 'RSS' ? text(soft) : 'N/A';
      return `${name.padEnd(12)}${'N/A'.padEnd(20)}${shownSoft.padEnd(20)}${text(hard)}\n`;
    })
    .join('');
}

/** A row as JSON; null is no limit, or what nothing counts. */
export function viewRow({
  row,
  option,
  key,
  limit: _,
  soft,
  hard,
  errno,
  number: __,
  ...rest
}: LimitRow): object {
  return {
    row,
    option,
    key: `limits.${key}`,
    ...rest,
    soft: soft === 'max' ? null : soft,
    hard: hard === 'max' ? null : hard,
    errno: errno === '' ? null : errno,
  };
}
