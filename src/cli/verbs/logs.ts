import { UserError } from '../../base/errors.ts';
import { isActive } from '../../guest/guest.ts';
import { GuestLog } from '../../guest/log-reader.ts';
import { guestPaths } from '../../guest/paths.ts';
import { formatLogTime, type LogRecord } from '../../spec/log-records.ts';
import type { Io, Services, VerbResult } from '../io.ts';
import { formatJsonLine } from '../json.ts';
import { concat, LineCounter, LineFormatter } from '../log-lines.ts';
import type { ParsedVerb } from '../verb-types.ts';

/** `vserver logs`: prints what a guest's command wrote, each stream to its own. */
export async function logs(parsed: ParsedVerb<'logs'>, io: Io, { manager }: Services): Promise<VerbResult> {
  const { follow, health, hooks, tail, timestamps } = parsed.options;
  if (health && hooks) {
    throw new UserError('usage', 'cannot print logs: found --hooks and --health; need at most one of them');
  }
  const guest = manager.registry.find(parsed.operands[0] ?? '');
  // Taken now: it is this run that is followed, not the next one.
  const ended = isActive(guest) ? guest.ended?.promise : undefined;
  const paths = guestPaths(manager.host.paths, guest.name);
  await using log = await GuestLog.open(health ? paths.healthLog : hooks ? paths.hooksLog : paths.log);
  let skip = 0;
  if (tail !== undefined) {
    const lines = new LineCounter();
    for await (const records of log.stored()) for (const record of records) lines.push(record);
    skip = Math.max(0, lines.count - tail);
  }
  const formatter = new LineFormatter({ skip, withTimes: timestamps && !parsed.global.json });
  const print = parsed.global.json ? jsonPrinter(io, formatter) : rawPrinter(io, formatter);
  for await (const records of log.stored()) {
    if (io.signal.aborted) return 0;
    await print(records);
  }
  if (!follow) return 0;
  for await (const records of log.follow(ended ?? Promise.resolve(), io.signal)) await print(records);
  return 0;
}

type Printer = (records: readonly LogRecord[]) => Promise<void>;

/** Prints bytes as they are; pieces of one stream that follow each other go out together. */
function rawPrinter(io: Io, formatter: LineFormatter): Printer {
  return async (records) => {
    let parts: Uint8Array[] = [];
    for (const [index, record] of records.entries()) {
      parts.push(formatter.format(record));
      if (records[index + 1]?.stream === record.stream) continue;
      const bytes = concat(parts);
      parts = [];
      if (bytes.length === 0) continue;
      if (record.stream === 1) await io.out(bytes);
      else await io.err(bytes);
    }
  };
}

/** Prints an object on a line for each record. A record may begin and end within a line. */
function jsonPrinter(io: Io, formatter: LineFormatter): Printer {
  // A character may begin in one record and end in the next of its stream.
  const decoders = { 1: new TextDecoder(), 2: new TextDecoder() };
  return async (records) => {
    const lines = records.flatMap((record) => {
      const text = decoders[record.stream].decode(formatter.format(record), { stream: true });
      const stream = record.stream === 1 ? 'stdout' : 'stderr';
      return text === '' ? [] : [formatJsonLine({ time: formatLogTime(record.timeNs), stream, text })];
    });
    if (lines.length > 0) await io.out(lines.join(''));
  };
}
