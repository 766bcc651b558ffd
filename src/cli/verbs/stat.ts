import { StateError } from '../../base/errors.ts';
import {
  accountGuests,
  type GuestAccount,
  type GuestStat,
  statAll,
  statGuests,
} from '../../guest/accounting.ts';
import { type Guest, isActive } from '../../guest/guest.ts';
import { formatStat } from '../../spec/vserver-stat.ts';
import { collect } from '../for-each.ts';
import { formatHistories, historiesOf } from '../history-table.ts';
import type { Io, Services, VerbResult } from '../io.ts';
import { formatJson } from '../json.ts';
import type { ParsedVerb } from '../verb-types.ts';

/** `vserver stat`: prints what guests use, in the columns of vserver-stat. */
export async function stat(parsed: ParsedVerb<'stat'>, io: Io, services: Services): Promise<VerbResult> {
  const { since } = parsed.options;
  if (since !== undefined) return await statSince(since, parsed, io, services);
  const { host, networks, registry, forks } = services.manager;
  const isForAll = parsed.operands.length === 0;
  const { values: guests, exitCode } = isForAll
    ? { values: registry.list().filter(isActive), exitCode: 0 }
    : await collect(parsed, io, services, async (guest): Promise<Guest> => running(guest));
  if (parsed.global.json) {
    const accounts = accountGuests(host, guests, await networks.allTraffic(), await forks.counts(guests));
    await io.out(formatJson(accounts.map(viewAccount)));
  } else {
    await io.out(formatStat(isForAll ? statAll(host, guests) : statGuests(host, guests)));
  }
  return exitCode;
}

async function statSince(
  sinceMs: number,
  { operands, global }: ParsedVerb<'stat'>,
  io: Io,
  { manager, history }: Services,
): Promise<number> {
  // Guests that are gone have a history too, by their names; a number stands for a guest that is there.
  const names = operands.map((word) => (/^\d+$/.test(word) ? manager.registry.find(word).name : word));
  const since = Math.floor((Date.now() - sinceMs) / 1000);
  const histories = historiesOf(await history.read(since, names.length === 0 ? undefined : names));
  await io.out(global.json ? formatJson(histories) : formatHistories(histories));
  return 0;
}

/** @throws StateError guest-stopped */
function running(guest: Guest): Guest {
  if (isActive(guest)) return guest;
  throw new StateError(
    'guest-stopped',
    `cannot say what guest "${guest.name}" uses: found it ${guest.state}; need it running`,
  );
}

/** What a guest uses, as JSON: times in microseconds, sizes in bytes; null is what nothing on this host counts. */
function viewAccount({ row, usage, processes, traffic, forks }: GuestAccount): object {
  return {
    ...viewRow(row),
    cpu: {
      userUs: usage.cpuUserUs ?? null,
      systemUs: usage.cpuSystemUs ?? null,
      periods: usage.cpuPeriods ?? null,
      throttledPeriods: usage.cpuThrottledPeriods ?? null,
      throttledUs: usage.cpuThrottledUs ?? null,
    },
    memory: {
      usedBytes: usage.memoryBytes ?? null,
      peakBytes: usage.memoryPeakBytes ?? null,
      residentBytes: row.residentBytes,
      virtualBytes: row.virtualBytes,
      anonBytes: usage.memoryAnonBytes ?? null,
      fileBytes: usage.memoryFileBytes ?? null,
      mappedBytes: usage.memoryMappedBytes ?? null,
      sharedBytes: usage.memorySharedBytes ?? null,
      kernelBytes: usage.memoryKernelBytes ?? null,
      swapBytes: usage.swapBytes ?? null,
      limitHits: usage.memoryLimitHits ?? null,
      oomKills: usage.oomKills ?? null,
    },
    io: {
      readBytes: usage.ioReadBytes ?? processes.ioReadBytes,
      writeBytes: usage.ioWriteBytes ?? processes.ioWriteBytes,
    },
    openFiles: processes.openFiles,
    forks: forks ?? null,
    network: traffic ?? null,
  };
}

function viewRow({ name, xid, uptimeMs, processes, tasks }: GuestStat): object {
  return { name, xid, uptimeMs, processes, tasks };
}
