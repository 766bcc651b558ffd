/**
 * Which function is which verb.
 */
import type { Io, Services, VerbResult } from './io.ts';
import type { ParsedCommand, ParsedVerb, Verb } from './verb-types.ts';
import { build } from './verbs/build.ts';
import { check } from './verbs/check.ts';
import { clone } from './verbs/clone.ts';
import { completion } from './verbs/completion.ts';
import { create } from './verbs/create.ts';
import { daemon } from './verbs/daemon.ts';
import { deleteGuests } from './verbs/delete.ts';
import { denied } from './verbs/denied.ts';
import { diff } from './verbs/diff.ts';
import { du } from './verbs/du.ts';
import { enter } from './verbs/enter.ts';
import { events } from './verbs/events.ts';
import { exec } from './verbs/exec.ts';
import { exportGuest } from './verbs/export.ts';
import { help } from './verbs/help.ts';
import { importGuest } from './verbs/import.ts';
import { inspect } from './verbs/inspect.ts';
import { kill } from './verbs/kill.ts';
import { limit } from './verbs/limit.ts';
import { list } from './verbs/list.ts';
import { logs } from './verbs/logs.ts';
import { owner } from './verbs/owner.ts';
import { pause } from './verbs/pause.ts';
import { procfs } from './verbs/procfs.ts';
import { ps } from './verbs/ps.ts';
import { quota } from './verbs/quota.ts';
import { restart } from './verbs/restart.ts';
import { resume } from './verbs/resume.ts';
import { retag } from './verbs/retag.ts';
import { rollback } from './verbs/rollback.ts';
import { run } from './verbs/run.ts';
import { sched } from './verbs/sched.ts';
import { set } from './verbs/set.ts';
import { snapshot } from './verbs/snapshot.ts';
import { snapshots } from './verbs/snapshots.ts';
import { start } from './verbs/start.ts';
import { stat } from './verbs/stat.ts';
import { status } from './verbs/status.ts';
import { stop } from './verbs/stop.ts';
import { store } from './verbs/store.ts';
import { top } from './verbs/top.ts';
import { traffic } from './verbs/traffic.ts';
import { unify } from './verbs/unify.ts';
import { version } from './verbs/version.ts';
import { wait } from './verbs/wait.ts';

type VerbFunctions = {
  readonly [V in Verb]: (parsed: ParsedVerb<V>, io: Io, services: Services) => Promise<VerbResult>;
};

const FUNCTIONS: VerbFunctions = {
  run,
  create,
  build,
  start,
  stop,
  restart,
  exec,
  enter,
  kill,
  pause,
  resume,
  ps,
  list,
  status,
  inspect,
  limit,
  sched,
  procfs,
  stat,
  top,
  traffic,
  denied,
  set,
  logs,
  events,
  wait,
  delete: deleteGuests,
  check,
  clone,
  snapshot,
  snapshots,
  rollback,
  diff,
  du,
  quota,
  owner,
  retag,
  export: exportGuest,
  import: importGuest,
  unify,
  store,
  version,
  completion,
  daemon,
  help,
};

/** Runs a parsed command line. */
export async function runVerb(parsed: ParsedCommand, io: Io, services: Services): Promise<VerbResult> {
  const verb = FUNCTIONS[parsed.verb] as (p: ParsedCommand, i: Io, s: Services) => Promise<VerbResult>; // the table's type pairs them
  return await verb(parsed, io, services);
}
