/** The command lines of the peers that do what a guest of the host template does. */
import { readdirSync, writeFileSync } from 'node:fs';
import { release } from 'node:os';
import { join } from 'node:path';
import { DEFAULT_CAPABILITIES, formatCapabilities } from '../src/context/capabilities.ts';
import { compileSeccomp } from '../src/context/seccomp.ts';
import { defaultSeccompProfile } from '../src/context/seccomp-default.ts';
import { resolveSeccompProfile } from '../src/spec/seccomp-profile.ts';
import { loadAbi } from '../src/sys/abi.ts';
import type { ControlPlane } from './control-plane.ts';
import type { TimedCommand } from './native-programs.ts';
import { makeBundle, NAMESPACES } from './oci-bundle.ts';
import { missingPeer, type Peer } from './peers.ts';
import type { Skip } from './scenario.ts';

/** Where the bundles' cgroups are, in every hierarchy the runtimes use. */
export const BENCH_CGROUP: string = `vserver-bench-${process.pid}`;

/** What there is to compare with on this machine. */
export interface Peers {
  readonly commands: readonly TimedCommand[];
  readonly skips: readonly Skip[];
}

/** A runtime of bundles, and how it is called. */
export interface Runtime {
  readonly name: string;
  readonly program: Peer;
  readonly flags: readonly string[];
  readonly hasLimits: boolean;
  readonly namespaces: readonly string[];
}

/** The runtimes there are to compare with. */
export const RUNTIMES: readonly Runtime[] = [
  { name: 'crun run', program: 'crun', flags: [], hasLimits: true, namespaces: NAMESPACES },
  {
    name: 'crun run, no cgroups',
    program: 'crun',
    flags: ['--cgroup-manager=disabled'],
    hasLimits: false,
    namespaces: NAMESPACES,
  },
  {
    name: 'runc run, no time ns',
    program: 'runc',
    flags: [],
    hasLimits: true,
    namespaces: NAMESPACES.filter((name) => name !== 'time'), // runc has it since 1.2
  },
];

/** Words of a runtime's command line up to its verb. */
export function runtimeArgv(control: ControlPlane, { program, flags }: Runtime): readonly string[] {
  return [program, '--root', join(control.directory, `${program}-state`), ...flags];
}

/** Makes a bundle for a runtime and returns where; the host template must have been used once. */
export function bundleFor(control: ControlPlane, runtime: Runtime, argv: readonly string[]): string {
  const directory = join(control.directory, `bundle-${RUNTIMES.indexOf(runtime)}-${argv.length}`);
  makeBundle({
    directory,
    template: templateRoot(control),
    namespaces: runtime.namespaces,
    cgroupsPath: runtime.hasLimits ? `/${BENCH_CGROUP}/${RUNTIMES.indexOf(runtime)}` : undefined,
    argv,
  });
  return directory;
}

/** Returns commands that start /bin/true as a guest starts it, one for each peer there is. */
export function startPeers(control: ControlPlane): Peers {
  const commands: TimedCommand[] = [];
  const skips: Skip[] = [];
  for (const runtime of RUNTIMES) {
    const reason = missingPeer(runtime.program);
    if (reason !== undefined) {
      skips.push({ kind: 'skip', what: runtime.name, reason });
      continue;
    }
    const bundle = bundleFor(control, runtime, ['/bin/true']);
    const argv = [...runtimeArgv(control, runtime), 'run', '--bundle', bundle, `start-${process.pid}`];
    commands.push({ name: runtime.name, argv });
  }
  const reason = missingPeer('bwrap');
  if (reason !== undefined) skips.push({ kind: 'skip', what: 'bwrap', reason });
  else commands.push({ name: 'bwrap', argv: bwrapArgv(templateRoot(control)) });
  return { commands, skips };
}

/**
 * Writes the filter of a guest's default profile to a file, for bwrap's descriptor 3.
 *
 * @returns its path
 */
export function seccompFile(control: ControlPlane): string {
  const abi = loadAbi();
  const [major = 0, minor = 0] = release().split('.').map(Number);
  const caps = new Set(formatCapabilities(DEFAULT_CAPABILITIES).map((name) => `CAP_${name}`));
  const resolved = resolveSeccompProfile(defaultSeccompProfile(), {
    caps,
    auditArch: abi.auditArch,
    kernel: { major, minor },
  });
  const path = join(control.directory, 'seccomp');
  writeFileSync(path, compileSeccomp(resolved, abi).program);
  return path;
}

// Read-only without an overlay, and without time namespace, cgroup limits and masked paths: bwrap has none of these.
function bwrapArgv(template: string): readonly string[] {
  return [
    ...['bwrap', '--unshare-user', '--unshare-all', '--uid', '0', '--gid', '0', '--hostname', 'bench'],
    ...[
      '--ro-bind',
      template,
      '/',
      '--ro-bind',
      '/usr',
      '/usr',
      '--proc',
      '/proc',
      '--ro-bind',
      '/sys',
      '/sys',
    ],
    ...['--dev', '/dev', '--mqueue', '/dev/mqueue', '--seccomp', '3', '/bin/true'],
  ];
}

function templateRoot(control: ControlPlane): string {
  const templates = join(control.root, 'lib/templates');
  const [name] = readdirSync(templates).filter((entry) => entry.startsWith('host-'));
  if (name === undefined) throw new Error(`no prepared host template in "${templates}"`);
  return join(templates, name, 'root');
}
