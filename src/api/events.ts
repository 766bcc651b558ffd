/**
 * What is told of guests: the kinds of events with their details. One event is one line of JSON in the journal and on
 * the output of `vserver events --json`; `docs/reference/events.md` is made from the table below.
 */

/**
 * Why a run ended: its command ended by itself, the guest called reboot(2), an operator or the end of the control plane
 * or its health check ended it, or nobody of us saw how it ended.
 */
export type StopCause = 'exited' | 'rebooted' | 'halted' | 'stopped' | 'unhealthy' | 'unknown';

/** What a health check says; `starting` until it has passed, or failed too often. */
export type HealthStatus = 'starting' | 'healthy' | 'unhealthy';

/** A resource whose limit the kernel counts hits of, by its key of the configuration's `limits`. */
export type LimitedResource = 'pids' | 'memory' | 'sockets';

/** The details of each kind. Fields may be added, none is renamed or given a second meaning. */
export interface EventDetails {
  readonly created: { readonly template: string };
  readonly started: { readonly initPid: number; readonly ephemeral: boolean };
  readonly 'start.failed': { readonly code: string; readonly message: string };
  readonly stopped: { readonly exitCode: number | null; readonly cause: StopCause };
  readonly 'restart.scheduled': { readonly delayMs: number; readonly restarts: number };
  readonly 'restart.exhausted': { readonly restarts: number };
  readonly 'hook.ended': {
    readonly stage: string;
    readonly exitCode: number | null;
    readonly timedOut: boolean;
    readonly durationMs: number;
  };
  readonly 'health.changed': {
    readonly status: HealthStatus;
    readonly failingStreak: number;
    readonly exitCode: number | null;
    readonly problem: string | null;
  };
  readonly oom: { readonly kills: number; readonly total: number };
  readonly 'limit.hit': {
    readonly resource: LimitedResource;
    readonly hits: number;
    readonly total: number;
  };
  readonly paused: object;
  readonly resumed: object;
  readonly changed: { readonly keys: readonly string[] };
  readonly deleted: object;
  readonly 'network.denied': { readonly count: number; readonly reasons: Readonly<Record<string, number>> };
  readonly 'quota.reached': QuotaDetails;
  readonly 'quota.renewed': QuotaDetails;
}

/** A quota of traffic. */
export interface QuotaDetails {
  readonly limitBytes: number;
  readonly per: 'day' | 'month';
  readonly above: 'deny' | 'slow' | 'tell';
  readonly until: string;
}

/** The name of a kind of event. */
export type EventType = keyof EventDetails;

/** One event of a guest. */
export type GuestEvent = { readonly [Type in EventType]: EventOf<Type> }[EventType];

/** One event of a given kind. */
export interface EventOf<Type extends EventType> {
  /** Cursor: rises from event to event, also over restarts and reboots; not every number is used. */
  readonly seq: number;
  /** RFC 3339 with milliseconds, UTC. */
  readonly time: string;
  readonly type: Type;
  readonly guest: string;
  readonly xid: number;
  readonly details: EventDetails[Type];
}

/** In the place of events that the journal no longer has: those before `seq`. */
export interface EventGap {
  readonly seq: number;
  readonly time: string;
  readonly type: 'gap';
  readonly guest: null;
  readonly xid: null;
  readonly details: object;
}

/** What one kind means, for help and reference. */
export interface EventTypeInfo<Details> {
  readonly meaning: string;
  readonly details: { readonly [Field in keyof Details]-?: string };
}

const QUOTA_DETAILS = {
  limitBytes: 'the quota, in bytes',
  per: '`day` or `month`',
  above: 'what happens to what is above: `deny`, `slow` or `tell`',
  until: 'when the next period begins, RFC 3339',
};

/** Every kind of event. */
export const EVENT_TYPES: { readonly [Type in EventType]: EventTypeInfo<EventDetails[Type]> } = {
  created: {
    meaning: 'a guest that stays has been made by `create` or `run`',
    details: { template: 'what its root starts from' },
  },
  started: {
    meaning: 'the command of the guest runs',
    details: {
      initPid: 'process 1, by its pid on the host',
      ephemeral: 'whether it is deleted when it stops',
    },
  },
  'start.failed': {
    meaning: 'a start of the guest was tried and left nothing',
    details: { code: 'code of the error', message: 'the error, one line' },
  },
  stopped: {
    meaning: 'the guest has ended and what it used is cleaned up; an ephemeral one is deleted with it',
    details: {
      exitCode: "the command's exit code, 128+N for signal N; null when nobody saw it",
      cause:
        '`exited` by itself, `rebooted` or `halted` by reboot(2) from inside, `stopped` by an operator, `unhealthy`: by its health check, `unknown`: it ended while nobody could see how',
    },
  },
  'restart.scheduled': {
    meaning: 'the guest will be started again: by its policy, since it rebooted, or since the host did',
    details: {
      delayMs: 'until then, in milliseconds',
      restarts: 'how often in a row, without having run for ten seconds',
    },
  },
  'restart.exhausted': {
    meaning: 'the guest is not started again, since it has been as often as its policy allows',
    details: { restarts: 'how often' },
  },
  'hook.ended': {
    meaning: "a command of the operator's at a stage of the guest's life has ended",
    details: {
      stage: 'which stage, in the words of Linux-VServer, such as `pre-start`',
      exitCode: 'its exit code, 128+N for signal N; null when it could not be run',
      timedOut: 'whether it was killed since it took too long',
      durationMs: 'how long it took, in milliseconds',
    },
  },
  'health.changed': {
    meaning: "what the guest's health check says is another than before",
    details: {
      status: '`healthy` or `unhealthy`',
      failingStreak: 'checks that failed in a row',
      exitCode: 'of the last check; null when it has none',
      problem: 'why it has none; null otherwise',
    },
  },
  oom: {
    meaning: 'the kernel has killed processes of the guest for want of memory',
    details: { kills: 'how many since the event before', total: 'how many in this run' },
  },
  'limit.hit': {
    meaning:
      'the guest has met a limit: told within a second of the first time, of memory on cgroup v1 and of sockets within a minute, then after ten seconds, twenty and so on up to an hour, as long as it goes on',
    details: {
      resource: '`pids`, `memory`, which the kernel may have made room in, or `sockets`',
      hits: 'how often since the event before',
      total: 'how often in this run',
    },
  },
  paused: { meaning: 'the guest is off the CPUs', details: {} },
  resumed: { meaning: 'the guest runs on', details: {} },
  changed: {
    meaning: "the guest's configuration has been changed by `set`",
    details: { keys: 'the changed keys, as `set` names them' },
  },
  deleted: { meaning: 'a guest that stayed has been deleted with its files', details: {} },
  'network.denied': {
    meaning: "the guest's network refused it something; told at most every ten seconds",
    details: {
      count: 'how often since the event before',
      reasons: 'how often by reason, in the words of `denied`',
    },
  },
  'quota.reached': { meaning: 'the guest has used up its quota of traffic', details: QUOTA_DETAILS },
  'quota.renewed': {
    meaning: 'the next day or month has begun for a guest that had used up its quota of traffic',
    details: QUOTA_DETAILS,
  },
};

/** The names of all kinds. */
export const EVENT_TYPE_NAMES: readonly EventType[] = Object.keys(EVENT_TYPES).filter(
  (name): name is EventType => Object.hasOwn(EVENT_TYPES, name),
);
