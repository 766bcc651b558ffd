/**
 * The broker of a guest, which answers some of its system calls, and how processes of the guest come to it:
 *
 *     worker ──▶ broker, in the guest's cgroup but beside its processes, in the host's network namespace
 *       │           ▲  │
 *       │ control   │  │ calls for raw sockets, with the listener to answer by
 *       ▼           │  └─────▶ raw maker, where the broker itself may not make them
 *     process of the guest, before it runs its command
 *          listener of a filter, over `control`
 *
 * Raw sockets need CAP_NET_RAW on the host, writing into processes of the guest its user namespace: nobody can have both.
 */
import { planInterfaceRequest, planMakeSocket, type SocketMaker } from '../network/socket-handler.ts';
import { planQuotaCall } from '../storage/quota-calls.ts';
import type { Abi } from '../sys/abi.ts';
import {
  type AskedCall,
  askedCall,
  planAnswer,
  planGoOn,
  planTakeCall,
  planUnlessCall,
} from '../sys/asked-call.ts';
import { type Arg, type Import, Program, type Result } from '../sys/program.ts';
import type { AnswersLayout } from '../views/answers.ts';
import { planOwnMeasure } from '../views/call-handler.ts';
import type { LiveBroker } from './guest.ts';
import { planCapset, planReceiveFds, planSendFds } from './plan-command.ts';
import { openLeaf, planJoin } from './plan-exec.ts';
import { planInside } from './plan-network.ts';
import { planSocketPair } from './plan-paths.ts';
import { planQuotaService, type QuotaSpec } from './plan-quota-service.ts';
import { importViews, planInViews, planOpenAnswers, type ViewsObjects } from './plan-views.ts';

/** Where a broker is born. */
export interface BrokerSpec {
  /** The guest's cgroup2 directory, or one below it; made if it is not there. */
  readonly cgroup: string;
  /** Files of v1 cgroups to join: where the guest's tasks are counted it is not. */
  readonly joins: readonly string[];
  /** Host user id it runs as, and its sockets belong to. */
  readonly uid: number;
  /** Objects of syscalld: the process, and the socket by which it is given listeners. */
  readonly objects: LiveBroker;
  /** Whether caller and broker wake each other on one CPU: see `planTurns`. */
  readonly takesTurns: boolean;
  /** Object: the guest's process 1; not needed by one that only makes sockets behind no fence. */
  readonly init: number | undefined;
  /** It makes the guest's sockets. */
  readonly sockets: { readonly fence: BrokerFence | undefined } | undefined;
  /** It tells the guest's own measure: not while it has a privilege on the host. */
  readonly measure: BrokerMeasure | undefined;
  /** It answers about quotas, likewise: for the guest's users, or that there are none. */
  readonly quota: QuotaSpec | 'none' | undefined;
}

/** Objects of syscalld that are the fence around the sockets of a broker. */
export interface BrokerFence {
  /** The map that knows its sockets, and a link of the fence, which lasts as long as anybody has it. */
  readonly sockets: number;
  readonly link: number;
  /** Of a guest that is given raw sockets: the map of contexts, and its number. */
  readonly raw: { readonly networks: number; readonly nid: number } | undefined;
}

/** What a broker answers about memory, load and CPUs with. */
export interface BrokerMeasure {
  readonly layout: AnswersLayout;
  /** Where the answers are. */
  readonly views: { readonly objects: ViewsObjects; readonly xid: number };
}

/** Its descriptors are numbered from here on: above those of workers. */
const FIRST_FD = 120;
/** Linux 6.11, linux/pidfd.h: _IO(0xff, 5). */
const PIDFD_GET_PID_NAMESPACE = 0xff05;
const CAP_DAC_OVERRIDE = 1n << 1n;
const CAP_NET_RAW = 1n << 13n;
const CAP_SYS_PTRACE = 1n << 19n;
const OOM_NEVER = '-1000';
/** SOCK_TYPE_MASK of linux/net.h. */
const SOCK_TYPE_MASK = 0xf;
/** sched(7), linux/sched.h */
const SCHED_BATCH = 3;

type BrokerFd =
  | 'control'
  | 'sockets'
  | 'dark'
  | 'link'
  | 'networks'
  | 'answers'
  | 'pidNamespace'
  | 'rawMaker'
  | 'quota';

/** Whether it makes raw sockets itself. */
function makesRaw({ sockets, objects }: BrokerSpec): boolean {
  return sockets?.fence?.raw !== undefined && objects.rawMaker === undefined;
}

/** Returns which descriptors a broker has, in the order of their numbers. */
function descriptorsOf(spec: BrokerSpec): readonly BrokerFd[] {
  const { sockets, measure, objects, quota } = spec;
  return [
    'control',
    ...(sockets?.fence ? (['sockets', 'dark', 'link'] as const) : []),
    ...(makesRaw(spec) ? (['networks'] as const) : []),
    ...(objects.rawMaker === undefined ? [] : (['rawMaker'] as const)),
    ...(measure ? (['answers', 'pidNamespace'] as const) : []),
    ...(typeof quota === 'object' ? (['quota'] as const) : []),
  ];
}

/** Adds the steps that start a broker. Returns the socket by which it is given listeners. */
export function planBroker(p: Program, spec: BrokerSpec): Result {
  const fence = spec.sockets?.fence;
  p.sys('mkdirat', [p.flags('AT_FDCWD'), spec.cgroup, 0o755], {
    about: `"${spec.cgroup}"`,
    ignore: ['EEXIST'],
  });
  const leaf = openLeaf(p, spec.cgroup);
  for (const path of spec.joins) planJoin(p, path);
  const { worker: ours, child: its } = planSocketPair(p, 'control of the broker');
  const init = spec.init === undefined ? undefined : p.import(spec.init);
  const imports = fence && {
    sockets: p.import(fence.sockets),
    link: p.import(fence.link),
    networks: fence.raw && p.import(fence.raw.networks),
  };
  const answers = spec.measure && planAnswersOf(p, spec.measure);
  const rawMaker = planRawMaker(p, spec, leaf);
  const quota =
    typeof spec.quota === 'object'
      ? planQuotaService(p, leaf, spec.uid, spec.objects.quota?.process ?? 0, spec.quota)
      : undefined;
  p.spawn('broker', { cgroup: leaf, object: spec.objects.process }, () => {
    const from: Partial<Record<BrokerFd, Arg | undefined>> = {
      control: its,
      ...imports,
      rawMaker,
      dark: fence && init && planDarkSocket(p, init),
      answers,
      quota,
      pidNamespace:
        init &&
        spec.measure &&
        p.sys('ioctl', [init, PIDFD_GET_PID_NAMESPACE, 0], { about: 'pid namespace', ignore: [] }),
    };
    const held = descriptorsOf(spec);
    planDescriptors(p, held, from);
    if (spec.takesTurns) planTurns(p);
    // To write into processes of the guest it has to be there, as its root: what it may there, it may to the guest alone.
    if (init && isInside(spec))
      p.sys('setns', [init, p.flags('CLONE_NEWUSER')], { about: "the guest's user namespace" });
    const user = isInside(spec) ? 0 : spec.uid;
    const capabilities = isInside(spec)
      ? CAP_SYS_PTRACE | CAP_DAC_OVERRIDE
      : makesRaw(spec)
        ? CAP_NET_RAW
        : 0n;
    planServe(p, held, { user, capabilities }, handlerOf(p.abi, spec));
  });
  p.sys('close', [its]);
  if (rawMaker) p.sys('close', [rawMaker]);
  if (quota) p.sys('close', [quota]);
  p.keep(ours, spec.objects.control);
  return ours;
}

/** Whether it writes into processes of the guest. */
function isInside({ measure, quota }: BrokerSpec): boolean {
  return measure !== undefined || quota !== undefined;
}

/**
 * Adds the start of the process that makes raw sockets for a broker that may not: it has CAP_NET_RAW on the host, and
 * ends with the broker.
 *
 * @returns the broker's way to it; undefined: there is none
 */
function planRawMaker(p: Program, { uid, sockets, objects }: BrokerSpec, leaf: Result): Result | undefined {
  const fence = sockets?.fence;
  if (objects.rawMaker === undefined || fence?.raw === undefined) return undefined;
  const control = planSocketPair(p, 'control of the raw maker');
  const calls = planSocketPair(p, 'calls for raw sockets');
  const from = {
    sockets: p.import(fence.sockets),
    link: p.import(fence.link),
    networks: p.import(fence.raw.networks),
  };
  const held = ['control', 'sockets', 'link', 'networks'] as const;
  const handler = new Program(p.abi);
  const number = (name: (typeof held)[number]): number => FIRST_FD + held.indexOf(name);
  planRawHandler(handler, {
    sockets: number('sockets'),
    raw: { uid, networks: number('networks'), nid: fence.raw.nid },
  });
  p.spawn('raw maker', { cgroup: leaf, object: objects.rawMaker }, () => {
    planDescriptors(p, held, { ...from, control: control.child });
    planServe(p, held, { user: uid, capabilities: CAP_NET_RAW }, handler.encode().bytes);
  });
  planSendFds(p, control.worker, p.data(8), [calls.child], 'calls to the raw maker');
  for (const fd of [control.worker, control.child, calls.child]) p.sys('close', [fd]);
  return calls.worker;
}

/** Adds the steps that give a call for a raw socket to who makes them. Other sockets fall through. */
function planHandOver(h: Program, call: AskedCall, rawMaker: number): void {
  const [other, failed] = [h.label(), h.label()];
  const about = 'a raw socket';
  h.expect(call.argument(1), '&', h.flags('SOCK_RAW'), 'EPERM', about, {
    mask: SOCK_TYPE_MASK,
    otherwise: other,
  });
  planSendFds(h, rawMaker, call.request, [call.listener], about, failed);
  h.jump(call.end);
  h.place(failed);
  planAnswer(h, call, { error: -(h.abi.errnos['EPERM'] ?? 1) });
  h.place(other);
}

/** Adds the steps of a raw maker; import 0 is where calls come from. */
function planRawHandler(h: Program, maker: SocketMaker): void {
  const request = h.struct('seccomp_notif', {});
  const [listener] = planReceiveFds(h, h.import(0), 1, 'a call', request);
  if (listener === undefined) return;
  const call = askedCall(h, listener, request);
  planMakeSocket(h, call, maker);
  h.place(call.end);
  h.sys('close', [listener]);
}

/** Adds the steps that put descriptors where a handler expects them. */
function planDescriptors(
  p: Program,
  held: readonly BrokerFd[],
  from: Readonly<Partial<Record<BrokerFd, Arg | undefined>>>,
): void {
  for (const [i, name] of held.entries()) {
    const fd = from[name] ?? -1;
    const about = `${name} as descriptor ${FIRST_FD + i}`;
    // A kernel that does not open the pid namespace is not asked about processes in there.
    p.sys('dup3', [fd, FIRST_FD + i, p.flags('O_CLOEXEC')], {
      about,
      ...(name === 'pidNamespace' ? { ignore: ['EBADF'] } : {}),
    });
  }
  planFilesLimit(p);
  planOomScore(p);
}

/**
 * Adds the steps that drop everything but the descriptors and capabilities that are kept, and serve. The group decides about
 * ping sockets (net/ipv4/ping.c); with the user go all capabilities but those that are kept.
 */
function planServe(
  p: Program,
  held: readonly BrokerFd[],
  { user, capabilities }: { readonly user: number; readonly capabilities: bigint },
  handler: Uint8Array,
): void {
  p.sys('close_range', [0, FIRST_FD - 1, 0]);
  p.sys('close_range', [FIRST_FD + held.length, 0xffffffff, 0]);
  p.sys('setgroups', [0, 0]);
  const keeps = capabilities !== 0n && user !== 0;
  if (keeps) p.sys('prctl', [p.flags('PR_SET_KEEPCAPS'), 1, 0, 0, 0]);
  p.sys('setresuid', [user, user, user]);
  if (capabilities !== 0n) planCapset(p, capabilities);
  p.sys('prctl', [p.flags('PR_SET_NO_NEW_PRIVS'), 1, 0, 0, 0]);
  p.sys('prctl', [p.flags('PR_SET_DUMPABLE'), 0, 0, 0, 0]);
  p.broker(FIRST_FD, handler);
}

function planAnswersOf(p: Program, { views }: BrokerMeasure): Arg {
  const open = (listed: Result): Result => planOpenAnswers(p, listed);
  return planInViews(p, importViews(p, views.objects), String(views.xid), open, true);
}

/** The same for all guests that have no raw sockets: encoded once. */
const HANDLERS = new Map<string, { readonly abi: Abi; readonly bytes: Uint8Array }>();

function handlerOf(abi: Abi, spec: BrokerSpec): Uint8Array {
  if (makesRaw(spec)) return encodeHandler(abi, spec);
  const kind = `${spec.sockets !== undefined} ${spec.quota === 'none'} ${descriptorsOf(spec).join(' ')}`;
  const known = HANDLERS.get(kind);
  if (known?.abi === abi) return known.bytes;
  const bytes = encodeHandler(abi, spec);
  HANDLERS.set(kind, { abi, bytes });
  return bytes;
}

function encodeHandler(abi: Abi, spec: BrokerSpec): Uint8Array {
  const handler = new Program(abi);
  planHandler(handler, spec);
  return handler.encode().bytes;
}

/** Adds the steps of a broker: what is asked most comes first. */
function planHandler(h: Program, spec: BrokerSpec): void {
  const { uid, sockets, measure, quota, objects } = spec;
  const held = descriptorsOf(spec);
  const number = (name: BrokerFd): number => FIRST_FD + held.indexOf(name);
  const call = planTakeCall(h);
  if (sockets) {
    const other = h.label();
    const raw = makesRaw(spec) ? sockets.fence?.raw : undefined;
    planUnlessCall(h, call, 'socket', other);
    if (objects.rawMaker !== undefined) planHandOver(h, call, number('rawMaker'));
    planMakeSocket(
      h,
      call,
      sockets.fence && {
        sockets: number('sockets'),
        raw: raw && { uid, networks: number('networks'), nid: raw.nid },
      },
    );
    h.place(other);
  }
  if (measure) {
    const { layout } = measure;
    planOwnMeasure(h, call, { file: number('answers'), pidNamespace: number('pidNamespace'), layout });
  }
  if (quota) planQuotaCall(h, call, quota === 'none' ? undefined : number('quota'));
  // About interfaces is all that is left.
  if (sockets?.fence) planInterfaceRequest(h, call, number('dark'));
  else planGoOn(h, call);
  h.place(call.end);
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

/**
 * A caller that has got its descriptor goes on: the broker, whose ioctl(2) ends at the same moment, runs when that one waits
 * next, most often for the broker. As an ordinary process it would take the CPU at once, once in three times, for nothing but
 * to wait again. Only where the kernel wakes it on the CPU of the caller, who waits from then on (SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP,
 * Linux 6.6): elsewhere it might have to wait for somebody's time slice to end.
 */
function planTurns(p: Program): void {
  const priority = p.data(4, '<priority 0>');
  p.sys('sched_setscheduler', [0, SCHED_BATCH, priority], { about: 'SCHED_BATCH', ignore: ['EPERM'] });
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
