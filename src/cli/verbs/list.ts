import { setImmediate as pause } from 'node:timers/promises';
import { UserError } from '../../base/errors.ts';
import { formatTable } from '../../base/text-table.ts';
import type { Guest } from '../../guest/guest.ts';
import { formatFailure } from '../failure.ts';
import { type BrokenView, type GuestSummary, summarizeGuest, viewGuest } from '../guest-view.ts';
import type { Io, Services, VerbResult } from '../io.ts';
import { formatJson } from '../json.ts';
import { formatSpan } from '../uptime.ts';
import type { ParsedVerb } from '../verb-types.ts';

const COLUMNS = [
  { title: 'NAME' },
  { title: 'XID', align: 'right' },
  { title: 'STATE' },
  { title: 'HEALTH' },
  { title: 'PID', align: 'right' },
  { title: 'UPTIME', align: 'right' },
  { title: 'TEMPLATE' },
  { title: 'COMMAND' },
] as const;
const COMMAND_MAX_LENGTH = 50;
/** All that is known of one takes up to a millisecond: between these others have their turn, who reads a view above all. */
const GUESTS_AT_ONCE = 16;

/** `vserver list`: lists the guests that run, or all. */
export async function list(parsed: ParsedVerb<'list'>, io: Io, services: Services): Promise<VerbResult> {
  const { options, global } = parsed;
  const { registry } = services.manager;
  const view = global.json ? viewGuest : summarizeGuest;
  const guests: GuestSummary[] = [];
  const broken: BrokenView[] = [];
  const addBroken = async (name: string, error: Error): Promise<void> => {
    if (!options.all || options.label.length > 0) return;
    broken.push({ name, state: 'broken', error: error.message });
    await io.err(formatFailure(error));
  };
  registry.rescan();
  for (const [i, guest] of registry.list().entries()) {
    if (i % GUESTS_AT_ONCE === GUESTS_AT_ONCE - 1) await pause();
    if (guest.state === 'stopped' && !guest.pending && !options.all) continue;
    if (registry.named(guest.name) === guest) await viewOrTell(guest);
  }
  for (const { name, error } of registry.broken) await addBroken(name, error);
  const all = [...guests, ...broken].toSorted((a, b) => (a.name < b.name ? -1 : 1));
  if (global.json) await io.out(formatJson(all));
  else if (global.quiet) await io.out(all.map(({ name }) => `${name}\n`).join(''));
  else await io.out(formatList(all));
  return 0;

  async function viewOrTell(guest: Guest): Promise<void> {
    try {
      const shown = view(guest, services);
      if (options.label.every(([key, value]) => hasLabel(shown.labels, key, value))) guests.push(shown);
    } catch (error) {
      if (!(error instanceof UserError)) throw error;
      await addBroken(guest.name, error);
    }
  }
}

/** Says whether labels include one; an empty value stands for any. */
export function hasLabel(labels: Readonly<Record<string, string>>, key: string, value: string): boolean {
  return Object.hasOwn(labels, key) && (value === '' || labels[key] === value);
}

/** Formats guests as a table. */
export function formatList(guests: readonly (GuestSummary | BrokenView)[]): string {
  // Only where there is something to say: most guests have no check.
  const hasHealth = guests.some((one) => one.state !== 'broken' && one.health);
  return formatTable(
    COLUMNS.filter(({ title }) => title !== 'HEALTH' || hasHealth),
    guests.map((one) => {
      const health = hasHealth ? ['-'] : [];
      if (one.state === 'broken') return [one.name, '-', one.state, ...health, '-', '-', '-', '-'];
      const uptime = one.uptimeSeconds === null ? '-' : formatSpan(one.uptimeSeconds);
      const command = cut(one.command.join(' '));
      return [
        one.name,
        String(one.xid),
        one.state,
        ...health.map((none) => one.health?.now?.status ?? none),
        String(one.initPid ?? '-'),
        uptime,
        one.template,
        command,
      ];
    }),
  );
}

function cut(text: string): string {
  const characters = [...text];
  return characters.length <= COMMAND_MAX_LENGTH
    ? text
    : `${characters.slice(0, COMMAND_MAX_LENGTH - 1).join('')}…`;
}
