import { formatTable } from '../../base/text-table.ts';
import type { ConfigChange } from '../../guest/config-text.ts';
import { BUCKET_DEFAULTS, hasQuota, hasShare } from '../../resources/token-bucket.ts';
import { warn } from '../for-each.ts';
import { currentConfig, unenforcedLimits, viewLimits } from '../guest-view.ts';
import type { Io, Services, VerbResult } from '../io.ts';
import { formatJson } from '../json.ts';
import type { ParsedVerb, SchedulerOptions } from '../verb-types.ts';

const KEYS = [
  'hard',
  'idleTime',
  'fillRate',
  'interval',
  'tokensMin',
  'tokensMax',
  'prioBias',
  'fillRate2',
  'interval2',
  'cpus',
] as const satisfies readonly (keyof SchedulerOptions)[];

/** `vserver sched`: prints how a guest gets the CPUs, or changes it as vsched does. */
export async function sched(parsed: ParsedVerb<'sched'>, io: Io, services: Services): Promise<VerbResult> {
  const { manager } = services;
  const { options, operands, global } = parsed;
  const guest = manager.registry.find(options.xid ?? operands[0] ?? '');
  const changes = KEYS.filter((key) => options[key] !== undefined).map(
    (key): ConfigChange => ({ path: ['scheduler', key], value: options[key] }),
  );
  if (changes.length > 0) await manager.changes.set(guest, changes);
  const config = currentConfig(guest, services);
  const { cgroups } = manager.host;
  for (const key of unenforcedLimits(config, cgroups).filter((one) => one.startsWith('scheduler.')))
    await warn(io, `nothing on this host enforces ${key} of guest "${guest.name}"`);
  const { scheduler } = config;
  const { effective } = viewLimits(guest, config, cgroups);
  if (global.json) {
    await io.out(formatJson({ scheduler, effective }));
    return 0;
  }
  if (changes.length > 0) return 0;
  const isUsed = hasShare(scheduler) || hasQuota(scheduler);
  const asked: Readonly<Record<string, unknown>> = {
    ...(isUsed ? BUCKET_DEFAULTS : {}),
    ...scheduler,
  };
  const rows = [
    ...KEYS.map((key) => [key, String(asked[key] ?? '-')]),
    ...Object.entries(effective ?? {})
      .filter(([name]) => name.startsWith('cpu'))
      .map(([name, value]) => [`kernel: ${name}`, String(value ?? '-')]),
  ];
  await io.out(formatTable([{ title: 'SETTING' }, { title: 'VALUE' }], rows));
  return 0;
}
