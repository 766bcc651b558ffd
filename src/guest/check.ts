/**
 * What this host can do for guests, each thing found out by doing it once.
 */
import { mkdirSync, mkdtempSync, readFileSync, rmSync, statfsSync } from 'node:fs';
import { release } from 'node:os';
import { join } from 'node:path';
import { StateError, SysError, UserError } from '../base/errors.ts';
import { toXid, XID_MAX, XID_MIN } from '../base/ids.ts';
import { formatSizeRounded } from '../base/units.ts';
import { DEFAULT_CAPABILITIES } from '../context/capabilities.ts';
import { idRangeOf } from '../context/id-map.ts';
import { LIMIT_ROW_SPECS, type LimitRowSpec } from '../resources/limit-rows.ts';
import { parseProcStatus } from '../spec/proc-status.ts';
import { findBusybox } from '../storage/busybox.ts';
import { sizeOf } from '../sys/abi.ts';
import { readIfThere } from '../sys/files.ts';
import type { Flags, Program, Result } from '../sys/program.ts';
import { type Guest, isActive } from './guest.ts';
import type { Finding, Host } from './host.ts';
import { countOpenFiles, FILES_PER_GUEST, mostOpenFiles } from './open-files.ts';
import { planCgroups, planUserNamespace } from './plan-context.ts';
import { planOverlay } from './plan-mounts.ts';
import { planTryLink } from './plan-network.ts';
import { planTryCoverLink } from './plan-views.ts';
import { PROC_FS_NAME } from './proc-fs.ts';
import type { Registry } from './registry.ts';
import { hostServers } from './resolver.ts';

/** One thing the host can or cannot do. */
export interface HostFinding extends Finding {
  /** No guest runs without it; of the others something else can be done without. */
  readonly isRequired: boolean;
}

/** Below this much free space guests will soon fail to write. */
const LOW_DISK_BYTES = 256 * 1024 ** 2;
/** Overlay takes idmapped layers (Documentation/filesystems/overlayfs.rst); the newest of the things that are needed. */
const OLDEST_KERNEL = [5, 19] as const;
const EMPTY_TIMEOUT_MS = 2000;

interface Probe {
  readonly name: string;
  readonly isRequired: boolean;
  /** What helps when it fails. */
  readonly help: string;
  /** Adds the steps that do it; returns what is said of a success. */
  readonly plan: (p: Program) => string;
}

/** Tries everything guests are made of. Changes nothing that lasts. */
export async function checkHost(host: Host, registry: Registry): Promise<readonly HostFinding[]> {
  const findings: HostFinding[] = [checkRoot(), checkKernel(host), ...checkCgroupKind(host)];
  findings.push(await checkCgroup(host, registry));
  // Below the guests' directories: it is their file system that has to be able to do all this.
  const scratch = mkdtempSync(join(host.paths.lib, '.check-'));
  try {
    for (const probe of probesOf(host, scratch)) findings.push(await tryProbe(host, probe));
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
  findings.push(await checkInterface(host), checkViews(host), checkForks(host), WALL_CLOCK, checkServers());
  return [...findings, ...checkRest(host, registry)];
}

async function checkInterface(host: Host): Promise<HostFinding> {
  const found = { name: 'interface for show', isRequired: false };
  try {
    return { ...found, ok: true, detail: `${await host.linkKind()}, for guests with addresses` };
  } catch (error) {
    if (!(error instanceof StateError)) throw error;
    return { ...found, ok: false, detail: `none, for guests with addresses; modprobe dummy` };
  }
}

function checkViews({ views, viewsMissing = 'not made yet', procFsMissing, paths }: Host): HostFinding {
  const found = { name: 'views', isRequired: false };
  if (views === undefined) return { ...found, ok: false, detail: `${viewsMissing}; modprobe fuse` };
  const files = 'fuse, for /proc/meminfo and its like';
  const procFs = join(paths.run, PROC_FS_NAME);
  return procFsMissing === undefined
    ? { ...found, ok: true, detail: `${files}; the Proc-FS is ${procFs}` }
    : { ...found, ok: false, detail: `${files}; no Proc-FS in ${procFs}: ${procFsMissing}` };
}

function checkForks({ forksMissing: missing }: Host): HostFinding {
  const help = 'need Linux 5.15 with BPF, and CAP_PERFMON';
  const detail = missing === undefined ? 'counted by eBPF' : `not counted: ${missing}; ${help}`;
  return { name: 'forks', isRequired: false, ok: missing === undefined, detail };
}

/** The flag virt_time of the original. Time namespaces have offsets of the monotonic clocks alone (time_namespaces(7)). */
const WALL_CLOCK: HostFinding = {
  name: 'virt_time',
  ok: false,
  detail: 'no kernel gives a guest a wall clock of its own; its uptime is its own',
  isRequired: false,
};

/** The host's own servers may all be on its loopback, where a guest has its own. */
function checkServers(): HostFinding {
  const servers = hostServers();
  const ok = servers.length > 0;
  const help = 'none that guests can reach; set network.dns of those that look names up';
  return { name: 'name servers', ok, detail: ok ? servers.join(', ') : help, isRequired: false };
}

async function tryProbe(host: Host, { name, isRequired, help, plan }: Probe): Promise<HostFinding> {
  try {
    const program = host.program();
    const detail = plan(program);
    await tryProgram(host, name, program);
    return { name, ok: true, detail, isRequired };
  } catch (error) {
    return { name, ok: false, detail: `${reasonOf(error)}; ${help}`, isRequired };
  }
}

async function tryProgram(host: Host, name: string, program: Program): Promise<void> {
  try {
    await host.syscalld.run(`try ${name}`, program);
  } finally {
    for (const object of program.objects) host.syscalld.drop(object);
  }
}

/** Why something failed, in few words: the call and its errno. */
function reasonOf(error: unknown): string {
  if (error instanceof SysError) return `${error.step ?? error.syscall}: ${error.errnoName}`;
  return error instanceof Error ? error.message : String(error);
}

function checkRoot(): HostFinding {
  const uid = process.geteuid?.() ?? -1;
  return {
    name: 'root',
    ok: uid === 0,
    detail: `uid ${uid}${uid === 0 ? '' : '; run as root'}`,
    isRequired: true,
  };
}

function checkKernel({ kernel }: Host): HostFinding {
  const [major, minor] = OLDEST_KERNEL;
  const ok = kernel.major > major || (kernel.major === major && kernel.minor >= minor);
  const help = ok ? '' : `; need Linux ${major}.${minor} or newer, unless the rest is fine`;
  return { name: 'kernel', ok, detail: `Linux ${release()}${help}`, isRequired: false };
}

// ---- cgroups ----------------------------------------------------------------------------------------------------

function checkCgroupKind(host: Host): readonly HostFinding[] {
  const { controllers, reasons } = host.cgroups.capabilities();
  const why = reasons.length === 0 ? '' : `: ${reasons.join(', ')}`;
  const kind = host.cgroups.kind === 'v2' ? 'all on cgroup2' : 'controllers on cgroup v1 beside cgroup2';
  return [
    { name: 'cgroups', ok: true, detail: kind, isRequired: true },
    ...Object.entries(controllers).map(([name, version]) => ({
      name: `limit: ${name}`,
      ok: version !== 'none',
      detail:
        version === 'none'
          ? `not enforced${why}; enable the controller, for memory with cgroup_enable=memory on the kernel's command line`
          : `enforced by cgroup ${version}`,
      isRequired: false,
    })),
    ...Object.values(LIMIT_ROW_SPECS)
      .filter(({ limit }) => limit !== undefined)
      .map(checkLimitRow),
  ];
}

const SCOPES = { guest: 'the guest', user: 'each user', process: 'each process' } as const;

/** The rest of the original's table: by kernels as they are, not by this one. */
function checkLimitRow({ row, key, scope, mechanism }: LimitRowSpec): HostFinding {
  return {
    name: `limit: ${row}`,
    ok: scope !== 'none',
    detail:
      scope === 'none'
        ? `limits.${key} is enforced by no kernel`
        : `limits.${key}, for ${SCOPES[scope]}, by ${mechanism}`,
    isRequired: false,
  };
}

/** A context's groups are made, a process is born in them, killed with them, and all is removed. */
async function checkCgroup(host: Host, registry: Registry): Promise<HostFinding> {
  const finding = { name: 'cgroup of a guest', isRequired: true };
  const xid = registry.reserveXid();
  try {
    const plan = host.cgroups.plan(xid, {});
    const p = host.program();
    planCgroups(p, plan);
    const leaf = p.sys(
      'openat',
      [p.flags('AT_FDCWD'), plan.leaf, p.flags('O_PATH', 'O_DIRECTORY', 'O_CLOEXEC'), 0],
      { about: `"${plan.leaf}"` },
    );
    planChild(p, host, 'process in a new cgroup', { cgroup: leaf }, () => {});
    await tryProgram(host, 'a cgroup', p);
    host.cgroups.kill(xid);
    const isEmpty = await host.cgroups.waitEmpty(xid, EMPTY_TIMEOUT_MS);
    return {
      ...finding,
      ok: isEmpty,
      detail: isEmpty ? 'made, entered at birth, killed, removed' : 'a killed process does not end',
    };
  } catch (error) {
    return {
      ...finding,
      ok: false,
      detail: `${reasonOf(error)}; need Linux 5.14 with cgroup2 mounted writable`,
    };
  } finally {
    try {
      host.cgroups.remove(xid);
    } finally {
      registry.release(xid);
    }
  }
}

// ---- system calls -----------------------------------------------------------------------------------------------

function probesOf(host: Host, scratch: string): readonly Probe[] {
  return [
    {
      name: 'user namespaces',
      isRequired: true,
      help: 'sysctl -w user.max_user_namespaces=65536',
      plan: (p) => {
        planChild(p, host, 'user namespace', { flags: p.flags('CLONE_NEWUSER') }, () => {});
        return `at most ${readLimit('user/max_user_namespaces')} of one guest`;
      },
    },
    {
      name: 'namespaces',
      isRequired: true,
      help: 'need a kernel with pid, mount, uts, ipc, network and cgroup namespaces',
      plan: (p) => {
        const kinds = ['PID', 'NS', 'UTS', 'IPC', 'NET', 'CGROUP'];
        const flags = p.flags('CLONE_NEWUSER', ...kinds.map((kind) => `CLONE_NEW${kind}`));
        planChild(p, host, 'new namespaces', { flags }, () => {});
        return 'pid, mount, uts, ipc, network, cgroup';
      },
    },
    {
      name: 'mounts on links',
      isRequired: false,
      help: 'guests with addresses have no views of /proc/net: need a kernel that mounts on links',
      plan: (p) => {
        planTryCoverLink(p);
        return 'for views of /proc/net';
      },
    },
    {
      name: 'time namespace',
      isRequired: true,
      help: 'need Linux 5.6 with CONFIG_TIME_NS',
      plan: (p) => {
        planChild(p, host, 'time namespace', {}, () => {
          p.sys('unshare', [p.flags('CLONE_NEWTIME')]);
        });
        return 'uptime in a guest starts at 0';
      },
    },
    {
      name: 'guest root',
      isRequired: true,
      help: `need Linux 5.19, and a file system for ${host.paths.lib} that overlay takes and that can be idmapped, for example ext4`,
      plan: (p) => {
        const upper = {
          kind: 'directory',
          upper: join(scratch, 'upper'),
          work: join(scratch, 'work'),
        } as const;
        const root = {
          lower: { kind: 'tree', path: join(scratch, 'lower') } as const,
          upper,
          attachAt: host.attachPoint,
          detachedLayers: host.detachedLayers,
          readonly: false,
          hostUsr: false,
        };
        for (const directory of [root.lower.path, upper.upper, upper.work]) mkdirSync(directory);
        planOverlay(
          p,
          root,
          idRangeOf(SOME_XID),
          planUserNamespace(p, host.syscalld.newObject(), idRangeOf(SOME_XID)),
        );
        return `overlay on an idmapped layer in ${host.paths.lib}`;
      },
    },
    {
      name: 'system call filter',
      isRequired: true,
      help: 'need a kernel with CONFIG_SECCOMP_FILTER',
      plan: (p) => planFilter(p, host),
    },
    {
      name: 'openat2',
      isRequired: true,
      help: 'need Linux 5.6, and no filter around vserver that refuses it',
      plan: (p) => {
        const how = p.struct('open_how', {
          flags: p.flags('O_PATH', 'O_CLOEXEC'),
          resolve: p.flags('RESOLVE_BENEATH', 'RESOLVE_NO_SYMLINKS'),
        });
        p.sys('openat2', [p.flags('AT_FDCWD'), '.', how, sizeOf(p.abi, 'open_how')]);
        return "paths in a guest's root are resolved below it";
      },
    },
    {
      name: 'veth',
      isRequired: false,
      help: 'modprobe veth',
      plan: (p) => {
        planTryLink(p, 'veth');
        return 'for guests with network: private';
      },
    },
    {
      name: 'pidfd',
      isRequired: true,
      help: 'need Linux 5.4',
      plan: (p) => {
        p.sys('pidfd_open', [p.sys('getpid', []), 0]);
        return 'processes are held, not guessed by number';
      },
    },
  ];
}

/** Compiles the default filter and installs it in a child. */
function planFilter(p: Program, host: Host): string {
  const filter = host.seccompFilter('default', DEFAULT_CAPABILITIES) ?? new Uint8Array();
  const count = filter.length / 8;
  const program = p.struct('sock_fprog', { len: count, filter: p.data(filter, `<filter of ${count}>`) });
  planChild(p, host, 'process with a filter', {}, () => {
    p.sys('prctl', [p.flags('PR_SET_NO_NEW_PRIVS'), 1, 0, 0, 0]);
    p.sys('seccomp', [p.flags('SECCOMP_SET_MODE_FILTER'), 0, program]);
  });
  return `default profile, ${count} instructions`;
}

interface ChildOptions {
  readonly flags?: Flags;
  readonly cgroup?: Result;
}

/** A child that does something and says so; the program fails when it does not. */
function planChild(p: Program, host: Host, title: string, options: ChildOptions, body: () => void): void {
  const { reader, writer } = planPipe(p);
  p.spawn(title, { ...options, object: host.syscalld.newObject() }, () => {
    body();
    p.sys('write', [writer, 'k', 1]);
  });
  p.sys('close', [writer]);
  const got = p.sys('read', [reader, p.data(8), 1], { about: title });
  p.expect(got, '==', 1, 'ECHILD', title);
}

/** No process and no file of it is seen by anyone, so it does not matter if a guest has it. */
const SOME_XID = toXid(XID_MIN);

function planPipe(p: Program): { readonly reader: Result; readonly writer: Result } {
  const pipe = p.data(8, 'pipe');
  p.sys('pipe2', [pipe, p.flags('O_CLOEXEC')]);
  return { reader: p.load(pipe), writer: p.load(pipe.at(4, 4)) };
}

function readLimit(name: string): string {
  return readFileSync(`/proc/sys/${name}`, 'latin1').trim();
}

// ---- what is there ----------------------------------------------------------------------------------------------

function checkRest(host: Host, registry: Registry): readonly HostFinding[] {
  const optional = { isRequired: false };
  const free = XID_MAX - XID_MIN + 1 - registry.list().length;
  const { bavail, bsize } = statfsSync(host.paths.lib);
  const bytes = bavail * bsize;
  const hasSpace = bytes >= LOW_DISK_BYTES;
  return [
    {
      name: 'detached layers',
      ok: host.detachedLayers,
      detail: host.detachedLayers
        ? 'overlay takes them'
        : 'layers are attached first; faster with Linux 6.15',
      ...optional,
    },
    { name: 'busybox', ...checkBusybox(), ...optional },
    { name: 'guests taken over', ...checkTakenOver(registry), ...optional },
    { name: 'open files', ...checkOpenFiles(), ...optional },
    { name: 'free xids', ok: free > 0, detail: `${free} of ${XID_MAX - XID_MIN + 1}`, isRequired: true },
    {
      name: 'disk space',
      ok: hasSpace,
      detail: `${formatSizeRounded(bytes)} free in ${host.paths.lib}${hasSpace ? '' : '; make room'}`,
      ...optional,
    },
  ];
}

const FEW_GUESTS = 16;

function checkOpenFiles(): { readonly ok: boolean; readonly detail: string } {
  const [used, most] = [countOpenFiles(), mostOpenFiles()];
  const more = Math.max(0, Math.floor((most - used) / FILES_PER_GUEST));
  const ok = more >= FEW_GUESTS;
  const help = ok ? '' : '; start the control plane with a higher hard limit (ulimit -Hn)';
  return { ok, detail: `${used} of ${most}, enough for ${more} more guests${help}` };
}

/**
 * Guests that a former syscalld started: the kernel tells the end of a process to its parent alone (wait(2)), so theirs is
 * seen but not how it came. All else goes on as with others.
 */
function checkTakenOver(registry: Registry): { readonly ok: boolean; readonly detail: string } {
  const isOther = ({ live }: Guest): boolean => {
    const status = live && readIfThere(`/proc/${live.initPid}/status`);
    return status !== undefined && parseProcStatus(status).ppid !== process.ppid;
  };
  const names = registry
    .list()
    .filter((guest) => isActive(guest) && isOther(guest))
    .map(({ name }) => name);
  if (names.length === 0) return { ok: true, detail: 'none from a syscalld that died' };
  const help =
    'how they end will not be known, and their forks were counted anew, until they are started again';
  return { ok: false, detail: `${names.join(', ')}, from a syscalld that died: ${help}` };
}

function checkBusybox(): { readonly ok: boolean; readonly detail: string } {
  try {
    return { ok: true, detail: `${findBusybox()}, for template "busybox"` };
  } catch (error) {
    if (!(error instanceof UserError)) throw error;
    return { ok: false, detail: 'no static one, for template "busybox"; apt-get install busybox-static' };
  }
}
