import { UserError } from '../../base/errors.ts';
import { formatTable } from '../../base/text-table.ts';
import { formatSizeRounded } from '../../base/units.ts';
import type { Guest } from '../../guest/guest.ts';
import { type KeptQuota, listQuotas, type OwnQuota, setQuota } from '../../guest/user-quotas.ts';
import type { QuotaLimits } from '../../storage/user-quota.ts';
import { warn } from '../for-each.ts';
import type { Io, Services, VerbResult } from '../io.ts';
import { formatJson } from '../json.ts';
import type { ParsedVerb } from '../verb-types.ts';

const COLUMNS = [
  { title: 'KIND' },
  { title: 'ID', align: 'right' },
  { title: 'SPACE', align: 'right' },
  { title: 'SOFT', align: 'right' },
  { title: 'HARD', align: 'right' },
  { title: 'GRACE' },
  { title: 'INODES', align: 'right' },
  { title: 'SOFT', align: 'right' },
  { title: 'HARD', align: 'right' },
  { title: 'GRACE' },
] as const;

/** `vserver quota`: shows and sets quotas of users and groups of a guest. */
export async function quota(parsed: ParsedVerb<'quota'>, io: Io, { manager }: Services): Promise<VerbResult> {
  const { operands, options, global } = parsed;
  const { host, storage, registry } = manager;
  const guest = registry.find(operands[0] ?? '');
  const { space, spaceSoft, inodes, inodesSoft } = options;
  const limits: Partial<QuotaLimits> = {
    ...(space !== undefined && { spaceBytes: space }),
    ...(spaceSoft !== undefined && { spaceSoftBytes: spaceSoft }),
    ...(inodes !== undefined && { inodes }),
    ...(inodesSoft !== undefined && { inodesSoft }),
  };
  const isChange = Object.keys(limits).length > 0;
  const named = [
    ...options.user.map((who) => ({ kind: 'user', who }) as const),
    ...options.group.map((who) => ({ kind: 'group', who }) as const),
  ];
  if (isChange !== named.length > 0)
    throw new UserError(
      'invalid-value',
      `cannot set quotas of guest "${guest.name}": found ${isChange ? 'no user or group' : 'no limit'}; ` +
        'need --user or --group, and --space, --space-soft, --inodes or --inodes-soft',
    );
  for (const one of named) await setQuota(host, storage, guest, { ...one, limits });
  if (isChange && !global.json) return 0;
  const all = await listQuotas(host, storage, guest);
  await io.out(global.json ? formatJson(all) : formatTable(COLUMNS, all.map(formatRow)));
  return 0;
}

/** Tells of limits of a guest's users and groups that it was to have, and that nothing enforces here. */
export async function warnOfQuotas(io: Io, guest: Guest, unheld: readonly KeptQuota[]): Promise<void> {
  if (unheld.length === 0) return;
  await warn(
    io,
    `${unheld.length} quotas of users and groups of guest "${guest.name}" are left out: ` +
      'found no such quotas in force where its files are; see `vserver quota --help`',
  );
}

function formatRow(one: OwnQuota): readonly string[] {
  const size = (bytes: number): string => (bytes === 0 ? '-' : formatSizeRounded(bytes));
  const count = (inodes: number): string => (inodes === 0 ? '-' : String(inodes));
  return [
    one.kind,
    String(one.id),
    formatSizeRounded(one.usedBytes),
    size(one.spaceSoftBytes),
    size(one.spaceBytes),
    graceOf(one.spaceGraceUntilSeconds),
    String(one.usedInodes),
    count(one.inodesSoft),
    count(one.inodes),
    graceOf(one.inodesGraceUntilSeconds),
  ];
}

/** When a soft limit turns hard: the kernel begins to count when it is exceeded. */
function graceOf(untilSeconds: number): string {
  if (untilSeconds === 0) return '-';
  return untilSeconds * 1000 < Date.now() ? 'over' : new Date(untilSeconds * 1000).toISOString().slice(0, 16);
}
