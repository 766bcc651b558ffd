/** A command in a guest that runs: the whole command, as a shell runs it. */
import { ControlPlane } from './control-plane.ts';
import { run, type TimedCommand, timeCommands, WITHOUT_HYBRID } from './native-programs.ts';
import { removeCgroups } from './oci-bundle.ts';
import { BENCH_CGROUP, bundleFor, RUNTIMES, runtimeArgv } from './peer-commands.ts';
import { missingPeer } from './peers.ts';
import type { Result, Scenario, Target } from './scenario.ts';
import { compare } from './statistics.ts';

const TARGETS: Readonly<Record<string, Target>> = { 'crun exec': { relation: 'at most', value: 0.4 } };
const NANOSECONDS_IN_MS = 1e6;
const SLEEP = ['sleep', '86400'] as const;

/** `vserver exec` of /bin/true against `crun exec`, `runc exec` and `nsenter --all`. */
export const exec: Scenario = {
  name: 'exec',
  about: 'run /bin/true in a guest that runs; peers: a container of the same namespaces, mounts, filter',
  run: measure,
};

function* measure(): Iterable<Result> {
  using control = new ControlPlane();
  using undo = new DisposableStack();
  undo.defer(() => removeCgroups(BENCH_CGROUP));
  control.vserver('run', '--detach', '--name', 'g', '--network', 'none', '--', ...SLEEP);
  const commands: TimedCommand[] = [];
  for (const runtime of RUNTIMES) {
    if (runtime.name === 'crun run, no cgroups') continue; // the cgroup of the process is the container's in any case
    const name = `${runtime.program} exec`;
    const reason = missingPeer(runtime.program);
    if (reason !== undefined) {
      yield { kind: 'skip', what: name, reason };
      continue;
    }
    const id = `exec-${process.pid}`;
    const argv = runtimeArgv(control, runtime);
    const bundle = bundleFor(control, runtime, SLEEP);
    // The timer's namespace is another private one; only the state directory joins the two.
    const inPrivateMounts = (...words: readonly string[]): string =>
      run('unshare', [
        '--mount',
        'sh',
        '-c',
        `${WITHOUT_HYBRID}; exec "$@" >/dev/null </dev/null 2>&1`,
        'sh',
        ...words,
      ]);
    inPrivateMounts(...argv, 'run', '--detach', '--bundle', bundle, id);
    undo.defer(() => inPrivateMounts(...argv, 'delete', '--force', id));
    commands.push({ name, argv: [...argv, 'exec', id, '/bin/true'] });
  }
  const reason = missingPeer('nsenter');
  if (reason !== undefined) yield { kind: 'skip', what: 'nsenter', reason };
  else {
    const target = ['--all', '--target', String(control.initPid('g'))];
    commands.push({ name: 'nsenter --all', argv: ['nsenter', ...target, '/bin/true'] });
  }
  const subject = { name: 'vserver exec', argv: control.argv('exec', 'g', '/bin/true') };
  const rounds = Number(process.env['ROUNDS'] ?? 150);
  const [first, ...others] = timeCommands([subject, ...commands], { rounds, warmups: Math.ceil(rounds / 5) });
  if (first === undefined) return;
  for (const peer of others) {
    yield compare(first, peer, { unit: 'ms', perUnit: NANOSECONDS_IN_MS, target: TARGETS[peer.name] });
  }
}
