import { StateError } from '../../base/errors.ts';
import { checkHost, type HostFinding } from '../../guest/check.ts';
import type { Guest } from '../../guest/guest.ts';
import { Turns } from '../../guest/turns.ts';
import { eachGuest, MAX_PARALLEL, tellFailure, warn } from '../for-each.ts';
import type { Io, Services, VerbResult } from '../io.ts';
import { formatJson } from '../json.ts';
import type { ParsedVerb } from '../verb-types.ts';
import { areRequiredMet } from './check.ts';

/** What `daemon status` says. */
export interface DaemonStatus {
  readonly vserverdPid: number;
  readonly syscalldPid: number;
  readonly version: string;
  readonly startedAt: string;
  /** The directory all state is below; null: the system's directories. */
  readonly root: string | null;
  readonly guests: { readonly running: number; readonly total: number };
  readonly host: { readonly ok: boolean; readonly findings: readonly HostFinding[] };
}

/** `vserver daemon`: to be served by it, it runs; so `start` says what `status` does. */
export async function daemon(parsed: ParsedVerb<'daemon'>, io: Io, services: Services): Promise<VerbResult> {
  if (parsed.operands[0] === 'stop') return await stopDaemon(parsed, io, services);
  const status = await statusOf(services);
  await io.out(parsed.global.json ? formatJson(status) : formatDaemonStatus(status));
  return 0;
}

async function statusOf({ manager, controlPlane }: Services): Promise<DaemonStatus> {
  const findings = await checkHost(manager.host, manager.registry);
  const guests = manager.registry.list();
  const { vserverdPid, syscalldPid, version, startedAt } = controlPlane;
  return {
    vserverdPid,
    syscalldPid,
    version,
    startedAt,
    root: manager.host.paths.root ?? null,
    guests: { running: guests.filter(hasRun).length, total: guests.length },
    host: { ok: areRequiredMet(findings), findings },
  };
}

/** Formats the status of the daemon; of the host only what it cannot do. */
export function formatDaemonStatus(status: DaemonStatus): string {
  const missing = status.host.findings.filter((one) => !one.ok).map((one) => one.name);
  const host = !status.host.ok ? 'cannot run guests' : missing.length === 0 ? 'all fine' : 'fine';
  return [
    `vserver ${status.version} is running since ${status.startedAt}`,
    `vserverd: pid ${status.vserverdPid}`,
    `syscalld: pid ${status.syscalldPid}`,
    `State: ${status.root ?? '/etc/vserver, /var/lib/vserver, /run/vserver'}`,
    `Guests: ${status.guests.running} running, ${status.guests.total} in all`,
    `Host: ${host}${missing.length === 0 ? '' : `, without ${missing.join(', ')}; see \`vserver check\``}`,
    '',
  ].join('\n');
}

async function stopDaemon(parsed: ParsedVerb<'daemon'>, io: Io, services: Services): Promise<VerbResult> {
  const { manager, controlPlane } = services;
  const { guests: withGuests } = parsed.options;
  manager.holdDue();
  if (withGuests) {
    const stop = eachGuest(
      { ...parsed, operands: [], options: { all: true } },
      services,
      (guest) => manager.ends.stop(guest, { reason: 'shutdown' }),
      { isMeant: hasRun, parallel: MAX_PARALLEL, turns: Turns.toStop },
    );
    for await (const outcome of stop) {
      if ('error' in outcome) await tellFailure(outcome.error, io, 'daemon');
      else await warn(io, `guest "${outcome.name}" is stopped`);
    }
  }
  await manager.settled();
  const running = manager.registry.list().filter(hasRun);
  if (running.length > 0) {
    manager.startDue();
    throw new StateError(
      'guests-running',
      `cannot stop the control plane: found ${running.length} running guest${running.length === 1 ? '' : 's'}; need them stopped, or --guests to stop them too`,
      { details: { guests: running.map((guest) => guest.name) } },
    );
  }
  await controlPlane.shutdown();
  return 0;
}

function hasRun(guest: Guest): boolean {
  return guest.state !== 'stopped';
}
