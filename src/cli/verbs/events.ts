import type { EventGap, GuestEvent } from '../../api/events.ts';
import type { Io, Services, VerbResult } from '../io.ts';
import { formatJsonLine } from '../json.ts';
import type { ParsedVerb } from '../verb-types.ts';

/** `vserver events`: prints what happened to guests, and with `--follow` what happens. */
export async function events(
  parsed: ParsedVerb<'events'>,
  io: Io,
  { manager }: Services,
): Promise<VerbResult> {
  const { follow, since, guest: guests, type: types } = parsed.options;
  const { events: journal } = manager.host;
  // Who only follows begins with the next one.
  const start = since ?? { cursor: follow ? journal.last : 0, time: '' };
  const isWanted = (event: GuestEvent | EventGap): boolean =>
    event.type === 'gap' ||
    (event.time >= start.time &&
      (types.length === 0 || types.includes(event.type)) &&
      (guests.length === 0 || guests.includes(event.guest) || guests.includes(String(event.xid))));
  const format = parsed.global.json ? formatJsonLine : formatEvent;
  for await (const some of journal.read(start.cursor, follow ? io.signal : undefined)) {
    if (io.signal.aborted) return 0;
    const text = some.filter(isWanted).map(format).join('');
    if (text !== '') await io.out(text);
  }
  return 0;
}

/** Formats an event for people: time, guest, kind, details. */
function formatEvent({ time, guest, type, details }: GuestEvent | EventGap): string {
  const fields = Object.entries(details).map(([name, value]) => `${name}=${formatValue(value)}`);
  return `${[time, guest ?? '-', type, ...fields].join(' ')}\n`;
}

function formatValue(value: unknown): string {
  if (typeof value === 'string' && /^[\w./:+-]+$/.test(value)) return value;
  return formatJsonLine(value).trimEnd();
}
