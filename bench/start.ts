/** A guest that starts, does nothing and is gone: the whole command, as a shell runs it. */
import { ControlPlane } from './control-plane.ts';
import { timeCommands } from './native-programs.ts';
import { removeCgroups } from './oci-bundle.ts';
import { BENCH_CGROUP, seccompFile, startPeers } from './peer-commands.ts';
import type { Result, Scenario, Target } from './scenario.ts';
import { compare, type Sample } from './statistics.ts';

const TARGETS: Readonly<Record<string, Target>> = {
  'crun run': { relation: 'at most', value: 0.4 },
  bwrap: { relation: 'at most', value: 0.8 },
};
const NANOSECONDS_IN_MS = 1e6;
const GAP_MS = 100;

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
  const file = seccompFile(control);
  try {
    const warmups = Math.ceil(rounds / 5); // V8 compiles the path
    yield* against('', timeCommands([subject, ...commands, bare], { rounds, warmups, file }));
    // A guest seldom starts right after another one. What the kernel does then it does not do again at once: the first
    // write to a cgroup.procs waits for an RCU grace period (kernel/rcu/sync.c), 7 to 15 ms where that is slow.
    const peers = commands.filter(({ name }) => TARGETS[name] !== undefined);
    const spaced = { rounds: Math.ceil(rounds / 5), warmups: 2, file, gapMs: GAP_MS };
    yield* against(`, ${GAP_MS} ms apart`, timeCommands([subject, ...peers], spaced));
  } finally {
    removeCgroups(BENCH_CGROUP);
  }
}

function* against(how: string, [subject, ...peers]: readonly Sample[]): Iterable<Result> {
  if (subject === undefined) return;
  for (const peer of peers) {
    const options = { unit: 'ms', perUnit: NANOSECONDS_IN_MS, target: TARGETS[peer.name] } as const;
    yield compare({ ...subject, name: `${subject.name}${how}` }, peer, options);
  }
}
