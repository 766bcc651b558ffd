/**
 * The two programs of a start, which run at the same time in a context that waits (plan-context.ts):
 *
 *     worker (host)                                        process 1 (guest)
 *     sets the limits
 *     makes the mounts that need the host's privilege
 *     (idmapped layers, overlay, binds) ── descriptors ──▶ attaches them, changes its root, drops, executes
 */
import { BugError } from '../base/errors.ts';
import type { Program, Result } from '../sys/program.ts';
import { bytesIn } from '../sys/varying.ts';
import { NETWORK_FILES, QUOTA_FILES } from '../views/files.ts';
import { planLogPipes } from './log-pipes.ts';
import { openBelow, planMountAt, planMove } from './plan-below.ts';
import { planBroker } from './plan-broker.ts';
import { type CommandEnds, planCapset, planCommand, planReceiveFds, planSendFds } from './plan-command.ts';
import { planJoin } from './plan-exec.ts';
import { planIpcSysctls } from './plan-limits.ts';
import { planLink } from './plan-link.ts';
import { hostMountCount, planHostMounts } from './plan-mounts.ts';
import { planDisplay, planNetworkFiles } from './plan-network.ts';
import { planDelegate, planOwnInit } from './plan-own-init.ts';
import { planSocketPair, planWriteFile } from './plan-paths.ts';
import { planQuotaDevice, type QuotaSpec } from './plan-quota-service.ts';
import { INIT_FD, type MountSpec, type StartSpec, type Stdio, WORKER_FD } from './plan-types.ts';
import { importViews, type PlacedView, planInViews, planViewMounts, planViewsInProc } from './plan-views.ts';

/** Capabilities the built-in init keeps: CAP_KILL, to pass signals on to a command that runs as another user. */
const INIT_CAPABILITIES = 1n << 5n;

/** What the worker's part of a start tells. */
export interface HostSide {
  /** Inode numbers of the pipes to the log. */
  readonly logPipes: readonly Result[];
  /** Index of the host's end of the guest's own interface, if it has one. */
  readonly link: Result | undefined;
}

/** Adds the worker's part of a start: the limits, and what needs the host's privilege. */
export function planHostSide(p: Program, spec: StartSpec): HostSide {
  // It keeps what it holds until nobody waits: the last descriptor of a detached mount costs an RCU grace period.
  p.park = spec.objects.worker;
  // Before anything of the guest runs.
  for (const { path, text } of spec.cgroupWrites) planWriteFile(p, p.flags('AT_FDCWD'), path, text);
  planIpcSysctls(p, () => p.import(spec.objects.init), spec.owner.hostBase, spec.ipcSysctls);
  if (spec.delegated !== undefined) planDelegate(p, spec.delegated, spec.owner);
  const pipes = [...planLogPipes(p, spec.command.stdio).values()];
  const mounts = planHostMounts(p, spec, WORKER_FD.userns);
  const link = spec.link && planLink(p, spec.link);
  const broker = spec.broker ? [planBroker(p, spec.broker)] : [];
  const quota = quotaOf(spec);
  if (quota && mounts[0]) planQuotaDevice(p, WORKER_FD.dev, mounts[0], spec.owner);
  const views = planLateViews(p, spec);
  const fds = [...mounts, ...views, ...pipes.map(({ end }) => end), ...broker];
  planSendFds(p, WORKER_FD.gate, p.data(8), fds, 'hand over to process 1');
  const master = spec.command.terminal?.master;
  if (master?.kind === 'log') {
    const [console, hold] = planReceiveFds(p, WORKER_FD.gate, 2, 'wait for process 1');
    if (console) p.keep(console, master.object);
    if (hold) p.keep(hold, master.hold);
  }
  if (spec.objects.ending !== undefined) p.keepWorker(WORKER_FD.gate, spec.objects.ending);
  if (leavesNothing(spec)) {
    if (spec.broker) for (const path of spec.cgroupExits) planJoin(p, path);
    p.sys('umask', [0o077], { about: "syscalld's" });
  }
  return { logPipes: pipes.map(({ inode }) => inode), link };
}

/**
 * Whether the worker is after a start as it was before the context was made, but for descriptors: others may have it then.
 * Else it is in a mount namespace of its own, or in an IPC namespace of the guest's.
 */
export function leavesNothing({ root, ipcSysctls }: StartSpec): boolean {
  return root.detachedLayers && Object.keys(ipcSysctls).length === 0;
}

/** Adds process 1's part of a start. */
export function planGuestSide(p: Program, spec: StartSpec): void {
  // Before the command's process is made: it is born into the new time namespace.
  planTime(p, spec);
  if (spec.init !== 'fake') {
    const ends = planRoot(p, spec);
    planCommand(p, spec.command, () => ends);
    return;
  }
  const gate = planSocketPair(p, 'gate of the command');
  // It has process 1's root and directory, so it needs no right to change them.
  const command = p.spawn('command', { flags: p.flags('CLONE_FS') }, () => {
    planCommand(p, spec.command, () =>
      endsOf(spec, planReceiveFds(p, gate.child, endCount(spec), 'wait for process 1')),
    );
  });
  const { pipes, broker } = planRoot(p, spec);
  p.sys('unshare', [p.flags('CLONE_FS')], { about: "root and directory, which are the command's" });
  const fds = [...pipes.values(), ...(broker === undefined ? [] : [broker])];
  planSendFds(p, gate.worker, p.data(8), fds, 'let the command go');
  planCapset(p, INIT_CAPABILITIES);
  p.fakeinit(command, INIT_FD.gate, spec.objects.init);
}

/** Makes mounts of the views that not every guest has. */
function planLateViews(p: Program, spec: StartSpec): readonly Result[] {
  const { network } = spec;
  const quota = quotaOf(spec);
  const objects = network?.views?.objects ?? quota?.views;
  const xid = network?.views?.xid ?? quota?.xid;
  if (objects === undefined || xid === undefined) return [];
  const mount = (listed: Result): readonly Result[] => planViewMounts(p, listed, lateViews(spec));
  return planInViews(p, importViews(p, objects), String(xid), mount, true);
}

/** Views of /proc/net, and of the table of mounts that quota tools read. */
function lateViews(spec: StartSpec): readonly PlacedView[] {
  return [...(spec.network?.views ? NETWORK_FILES : []), ...(quotaOf(spec)?.views ? QUOTA_FILES : [])];
}

function quotaOf({ broker }: StartSpec): QuotaSpec | undefined {
  return typeof broker?.quota === 'object' ? broker.quota : undefined;
}

function pipeEnds(spec: StartSpec): readonly Stdio[] {
  return spec.command.stdio.filter((end) => end.kind === 'pipe');
}

/** How many descriptors the command gets beside its client's: pipes to the log, then the way to the broker. */
function endCount(spec: StartSpec): number {
  return pipeEnds(spec).length + (spec.broker ? 1 : 0);
}

function endsOf(spec: StartSpec, fds: readonly Result[]): CommandEnds {
  const ends = pipeEnds(spec);
  return {
    pipes: new Map(ends.map((end, i) => [end, fds[i] as Result])),
    broker: fds[ends.length],
  };
}

/** Adds the steps that take the mounts from the worker and make the guest's root of them; returns what the command gets. */
function planRoot(p: Program, spec: StartSpec): CommandEnds {
  if (spec.network) planDisplay(p, spec.network);
  const views = lateViews(spec);
  const count = hostMountCount(spec) + views.length;
  const fds = planReceiveFds(p, INIT_FD.gate, count + endCount(spec), 'wait for the host side');
  const [root, ...rest] = fds.slice(0, count);
  const viewMounts = rest.splice(rest.length - views.length);
  if (!root) throw new BugError('no-root', 'cannot plan a start: found no root among the mounts');
  const usr = spec.root.hostUsr ? rest.shift() : undefined;
  planMove(p, root, INIT_FD.scaffold, 'root');
  planMountAt(p, root, 'proc', INIT_FD.proc);
  planViewsInProc(p, INIT_FD.proc, viewMounts, views);
  if (!spec.hostNetwork) planMountAt(p, root, 'sys', INIT_FD.sys);
  planMountAt(p, root, 'dev', INIT_FD.dev);
  if (usr) planMountAt(p, root, 'usr', usr);
  p.sys('fchdir', [root]);
  // Below it is nothing but the empty scaffold, as below the host's own root is an empty one (ADR 23).
  p.sys('chroot', ['.']);
  spec.root.mounts.forEach((mount, i) => {
    const fd = rest[i];
    if (fd) planConfiguredTarget(p, root, mount, fd);
  });
  if (spec.init === 'own') planOwnInit(p, spec.hostNetwork);
  planNetworkFiles(p, root, spec.networkFiles, spec.init);
  p.sys('sethostname', [spec.hostname, bytesIn(spec.hostname)]);
  const { domainname } = spec;
  if (domainname !== undefined) p.sys('setdomainname', [domainname, Buffer.byteLength(domainname)]);
  return endsOf(spec, fds.slice(count));
}

/** Uptime starts at 0: the boot clock of the guest's time namespace is set back (time_namespaces(7), Linux 5.6). */
function planTime(p: Program, spec: StartSpec): void {
  const { bootOffset } = spec;
  p.sys('write', [INIT_FD.timeOffsets, bootOffset, bytesIn(bootOffset)], { about: 'time offset' });
  p.sys('setns', [INIT_FD.timeNamespace, p.flags('CLONE_NEWTIME')], { about: 'time namespace' });
}

/** Makes the way to a configured mount's target, component by component, and attaches it. */
function planConfiguredTarget(p: Program, root: Result, mount: MountSpec, fd: Result): void {
  const parts = mount.target.split('/').filter((part) => part !== '');
  let at = root;
  for (const part of parts.slice(0, -1)) {
    p.sys('mkdirat', [at, part, 0o755], {
      about: `"${part}" of "${mount.target}"`,
      ignore: ['EEXIST', 'EROFS'],
    });
    at = openBelow(p, at, part, true);
  }
  const name = parts.at(-1) ?? '';
  if (mount.type === 'tmpfs' || mount.isDirectory) {
    planMountAt(p, at, name, fd);
    return;
  }
  const create = p.flags('O_WRONLY', 'O_CREAT', 'O_EXCL', 'O_NOFOLLOW', 'O_CLOEXEC');
  p.sys('openat', [at, name, create, 0o644], { about: `"${mount.target}"`, ignore: ['EEXIST', 'EROFS'] });
  planMove(p, fd, openBelow(p, at, name, false), mount.target);
}
