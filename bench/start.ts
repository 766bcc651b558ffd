/** A guest that starts, does nothing and is gone: the whole command, as a shell runs it. */
import { ControlPlane } from './control-plane.ts';
import { timeCommands } from './native-programs.ts';
import { removeCgroups } from './oci-bundle.ts';
import { BENCH_CGROUP, seccompFile, startPeers } from './peer-commands.ts';
import type { Result, Scenario, Target } from './scenario.ts';
import { compare } from './statistics.ts';

const TARGETS: Readonly<Record<string, Target>> = {
  'crun run': { relation: 'at most', value: 0.4 },
  bwrap: { relation: 'at most', value: 0.8 },
};
const NANOSECONDS_IN_MS = 1e6;

/** `vserver run` of /bin/true against the peers' way to do the same. */
export const start: Scenario = {
  name: 'start',
  about:
    'run /bin/true in a new guest of the host template, daemon warm; peers: same namespaces, mounts, filter',
  run: measure,
};

function* measure(): Iterable<Result> {
  using control = new ControlPlane();
  control.vserver('run', '--network', 'none', '--', '/bin/true');
  const { commands, skips } = startPeers(control);
  yield* skips;
  const subject = { name: 'vserver run', argv: control.argv('run', '--network', 'none', '--', '/bin/true') };
  const bare = { name: 'fork and exec', argv: ['/bin/true'] };
  const rounds = Number(process.env['ROUNDS'] ?? 150);
  try {
    const [first, ...others] = timeCommands([subject, ...commands, bare], {
      rounds,
      warmups: Math.ceil(rounds / 5), // V8 compiles the path
      file: seccompFile(control),
    });
    if (first === undefined) return;
    for (const peer of others) {
      yield compare(first, peer, { unit: 'ms', perUnit: NANOSECONDS_IN_MS, target: TARGETS[peer.name] });
    }
  } finally {
    removeCgroups(BENCH_CGROUP);
  }
}
