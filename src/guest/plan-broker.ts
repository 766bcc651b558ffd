/**
 * The socket broker of a guest, and how processes of the guest come to it:
 *
 *     worker ──▶ broker, in the guest's cgroup but in a leaf of its own, in the host's network namespace
 *       │           ▲
 *       │ control   │ listener of a filter, over `control`
 *       ▼           │
 *     process of the guest, before it runs its command
 */
import { type BrokerDescriptors, planSocketHandler } from '../network/socket-handler.ts';
import type { Abi } from '../sys/abi.ts';
import { type Arg, type Import, Program, type Result } from '../sys/program.ts';
import { planCapset } from './plan-command.ts';
import { openLeaf, planJoin } from './plan-exec.ts';
import { planInside } from './plan-network.ts';

/** Where a broker is born. */
export interface BrokerSpec {
  /** Of its own below the guest's cgroup2 directory; made if it is not there. */
  readonly cgroup: string;
  /** Files of v1 cgroups that the worker joins before: where the guest's tasks are counted it is not. */
  readonly joins: readonly string[];
  /** Host user id it runs as, and its sockets belong to. */
  readonly uid: number;
  /** Objects of syscalld: the process, and the socket by which it is given listeners. */
  readonly objects: { readonly process: number; readonly control: number };
  /**
   * Objects: the fence's map that knows its sockets, a link of the fence that lasts as long as anybody has it, and the
   * guest's process 1.
   */
  readonly fence:
    | {
        readonly sockets: number;
        readonly link: number;
        readonly init: number;
        /** Of a guest that is given raw sockets: the object of the fence's map of contexts, and its number. */
        readonly raw?: { readonly networks: number; readonly nid: number };
      }
    | undefined;
}

const CONTROL_FD = 100;
const SOCKETS_FD = 101;
const DARK_FD = 102;
const LINK_FD = 103;
const NETWORKS_FD = 104;
const CAP_NET_RAW = 1n << 13n;
const OOM_NEVER = '-1000';

/** Adds the steps that start a broker. Returns the socket by which it is given listeners. */
export function planBroker(p: Program, spec: BrokerSpec): Result {
  p.sys('mkdirat', [p.flags('AT_FDCWD'), spec.cgroup, 0o755], {
    about: `"${spec.cgroup}"`,
    ignore: ['EEXIST'],
  });
  const leaf = openLeaf(p, spec.cgroup);
  for (const path of spec.joins) planJoin(p, path);
  const pair = p.data(8);
  p.sys('socketpair', [p.flags('AF_UNIX'), p.flags('SOCK_SEQPACKET', 'SOCK_CLOEXEC'), 0, pair], {
    about: 'control of the broker',
  });
  const fence = spec.fence && {
    sockets: p.import(spec.fence.sockets),
    link: p.import(spec.fence.link),
    init: p.import(spec.fence.init),
    networks: spec.fence.raw && p.import(spec.fence.raw.networks),
  };
  const [ours, its] = [p.load(pair), p.load(pair.at(4, 4))];
  p.spawn('broker', { cgroup: leaf, object: spec.objects.process }, () => {
    const held: readonly (readonly [Arg, number])[] = fence
      ? [
          [its, CONTROL_FD],
          [fence.sockets, SOCKETS_FD],
          [planDarkSocket(p, fence.init), DARK_FD],
          [fence.link, LINK_FD],
          ...(fence.networks ? [[fence.networks, NETWORKS_FD] as const] : []),
        ]
      : [[its, CONTROL_FD]];
    for (const [fd, number] of held)
      p.sys('dup3', [fd, number, p.flags('O_CLOEXEC')], { about: `as descriptor ${number}` });
    planFilesLimit(p);
    planOomScore(p);
    p.sys('close_range', [0, CONTROL_FD - 1, 0]);
    p.sys('close_range', [CONTROL_FD + held.length, 0xffffffff, 0]);
    p.sys('setgroups', [0, 0]);
    // Its group decides about ping sockets (net/ipv4/ping.c); with the user go all capabilities but those that are kept.
    if (fence?.networks) p.sys('prctl', [p.flags('PR_SET_KEEPCAPS'), 1, 0, 0, 0]);
    p.sys('setresuid', [spec.uid, spec.uid, spec.uid]);
    if (fence?.networks) planCapset(p, CAP_NET_RAW);
    p.sys('prctl', [p.flags('PR_SET_NO_NEW_PRIVS'), 1, 0, 0, 0]);
    p.sys('prctl', [p.flags('PR_SET_DUMPABLE'), 0, 0, 0, 0]);
    p.broker(CONTROL_FD, handlerOf(p.abi, spec));
  });
  p.sys('close', [its]);
  p.keep(ours, spec.objects.control);
  return ours;
}

/** The same for all guests that have no raw sockets: encoded once. */
const HANDLERS = new Map<boolean, { readonly abi: Abi; readonly bytes: Uint8Array }>();

function handlerOf(abi: Abi, { fence, uid }: BrokerSpec): Uint8Array {
  const descriptors = { sockets: SOCKETS_FD, dark: DARK_FD };
  if (fence?.raw) {
    const raw = { uid, networks: NETWORKS_FD, nid: fence.raw.nid };
    return encodeHandler(abi, { ...descriptors, raw });
  }
  const isFenced = fence !== undefined;
  const known = HANDLERS.get(isFenced);
  if (known?.abi === abi) return known.bytes;
  const bytes = encodeHandler(abi, isFenced ? { ...descriptors, raw: undefined } : undefined);
  HANDLERS.set(isFenced, { abi, bytes });
  return bytes;
}

function encodeHandler(abi: Abi, has: BrokerDescriptors | undefined): Uint8Array {
  const handler = new Program(abi);
  planSocketHandler(handler, has);
  return handler.encode().bytes;
}

/** Makes a socket of the guest's own network namespace. */
function planDarkSocket(p: Program, init: Import): Result {
  return planInside(p, init, () =>
    p.sys('socket', [p.flags('AF_INET'), p.flags('SOCK_DGRAM', 'SOCK_CLOEXEC'), 0]),
  );
}

/** A descriptor for each command that runs in the guest. */
function planFilesLimit(p: Program): void {
  const limit = p.struct('rlimit', {});
  const files = p.flags('RLIMIT_NOFILE');
  p.sys('prlimit64', [0, files, 0, limit], { about: 'limit of open files' });
  p.storeField(limit, 'rlimit', 'rlim_cur', p.loadField(limit, 'rlimit', 'rlim_max'));
  p.sys('prlimit64', [0, files, limit, 0], { about: 'limit of open files' });
}

/** It is charged to the guest, but is not what has to go when the guest uses too much. */
function planOomScore(p: Program): void {
  const fd = p.sys(
    'openat',
    [p.flags('AT_FDCWD'), '/proc/self/oom_score_adj', p.flags('O_WRONLY', 'O_CLOEXEC'), 0],
    { about: 'oom_score_adj' },
  );
  // Needs CAP_SYS_RESOURCE, which not every host's root has.
  p.sys('write', [fd, OOM_NEVER, OOM_NEVER.length], { about: 'oom_score_adj', ignore: ['EACCES'] });
}
