/** A guest's configuration as a whole: its keys, the rules between them, and its JSON schema. */
import * as z from 'zod';
import { isXid, XID_MAX, XID_MIN, type Xid } from '../base/ids.ts';
import { parseSignal } from '../base/signals.ts';
import { parseCpus, parseDuration } from '../base/units.ts';
import { CONTEXT_CAPABILITIES, parseCapabilityExpression } from '../context/capabilities.ts';
import { RLIMITS } from '../context/rlimits.ts';
import type { ContextLimits } from '../resources/limit-rows.ts';
import { hasQuota } from '../resources/token-bucket.ts';
import { parseCpuList } from '../spec/cpu-list.ts';
import type { DiskLimit } from '../storage/disk-limit.ts';
import { parseTemplateSpec } from '../storage/template-spec.ts';
import { DEFAULT_DOMAIN, isTrustDomain } from '../storage/trust-domain.ts';
import { VIEW_GROUPS, type ViewGroup } from '../views/files.ts';
import {
  boolean,
  choice,
  command,
  countOrMax,
  dropAbsent,
  duration,
  hostname,
  integer,
  isAccepted,
  isMark,
  isPlainPath,
  NEED_MAP,
  NEED_MARK,
  NEED_PATH,
  parsed,
  path,
  size,
  sizeOrMax,
  target,
  text,
  textMap,
} from './config-kinds.ts';
import { network } from './config-network.ts';
import type { GuestConfig, GuestHooks, GuestMount, Rlimit } from './config-types.ts';
import { HOST_IDS, SHARED_IDS } from './config-types.ts';
import { parseDependency } from './dependencies.ts';

/** One thing wrong with a configuration's values. */
export interface ConfigIssue {
  /** Keys and list positions from the top; for an unknown key, of the mapping that has it. */
  readonly path: readonly (string | number)[];
  /** What the value has to be; absent for an unknown key. */
  readonly need?: string;
  readonly unknownKey?: { readonly key: string; readonly knownKeys: readonly string[] };
  /** The key at the path's end is wrong, not its value. */
  readonly isKey?: true;
  readonly isMissing: boolean;
}

/** The outcome of checking a configuration's values. */
export type CheckedConfig = { readonly config: GuestConfig } | { readonly issues: readonly ConfigIssue[] };

/** Most starts in a row a policy may allow. */
export const MAX_RETRIES = 1_000_000;
/** What may be done with a guest that has become unhealthy. */
export const HEALTH_ACTIONS = ['none', 'restart', 'kill', 'stop'] as const;
/** The policies by which a guest is started again. */
export const RESTART_POLICIES = ['no', 'on-failure', 'always', 'unless-stopped'] as const;

const MIN_MEMORY_BYTES = 64 * 1024;
const MIN_DISK_BYTES = 8 * 1024 ** 2;
const MAX_INODES = 2 ** 31;
const NEED_INODES = 'a whole number from 16';
const DEFAULT_TMPFS_BYTES = 64 * 1024 ** 2;
const MIN_LOG_BYTES = 4096;
/** `PID_MAX_LIMIT`, include/linux/threads.h. */
const MAX_PIDS = 4_194_304;
/** More than any sensible bucket: a day of one CPU. */
const MAX_TOKENS = 86_400_000;
const DEFAULT_OWN_INIT: readonly string[] = ['/sbin/init'];

const NEED_CHECK_DURATION = 'a duration from 1ms, for example 10s';
function checkDuration(initial: string): z.ZodPrefault<z.ZodType<number>> {
  return parsed(z.string({ error: NEED_CHECK_DURATION }), NEED_CHECK_DURATION, parseDuration)
    .refine((durationMs) => durationMs > 0, { error: NEED_CHECK_DURATION })
    .prefault(initial);
}

const NEED_BCAP = 'a capability, for example +NET_RAW to add it or -NET_RAW to remove it';
const NEED_BCAPS = 'each with "+" or "-" (changes of the default), or none with it (the whole set)';
const bcaps: z.ZodType<string[]> = z
  .array(
    z
      .string({ error: NEED_BCAP })
      .refine((word) => isAccepted(() => parseCapabilityExpression(word)), { error: NEED_BCAP }),
    { error: 'a list of capabilities such as [+NET_RAW]' },
  )
  .refine((words) => isAccepted(() => parseCapabilityExpression(words.join(' '))), { error: NEED_BCAPS });

const NEED_RLIMIT = 'a whole number, "unlimited", or soft and hard of such values with soft not above hard';
const rlimitValue = z.union([integer(NEED_RLIMIT, 0, Number.MAX_SAFE_INTEGER), z.literal('unlimited')], {
  error: NEED_RLIMIT,
});
const rlimit: z.ZodType<Rlimit> = z
  .union([rlimitValue, z.strictObject({ soft: rlimitValue, hard: rlimitValue })], { error: NEED_RLIMIT })
  .transform((value) => (typeof value === 'object' ? value : { soft: value, hard: value }))
  .refine(({ soft, hard }) => hard === 'unlimited' || (soft !== 'unlimited' && soft <= hard), {
    error: NEED_RLIMIT,
  });

const NEED_EXCLUSION =
  'a list of absolute paths with * and ?, with + before what is not excluded, and the word conffiles';
/**
 * What is written again and again, or is not for others to have in memory; the original's list (vunify-exclude) had all
 * of /var too.
 */
const DEFAULT_EXCLUSIONS = [
  'conffiles',
  '/etc/*',
  '/home',
  '/root/*',
  '/mnt',
  '/tmp',
  '/var/tmp',
  '/var/log',
  '/var/mail',
  '/var/spool',
  '/*/ls-R',
];
const unify = z.strictObject(
  {
    exclude: z
      .array(z.string().regex(/^(?:[-+~]?\/.*|conffiles)$/s, { error: NEED_EXCLUSION }), {
        error: NEED_EXCLUSION,
      })
      .default(DEFAULT_EXCLUSIONS)
      .meta({
        description:
          'files that stay its own: paths with * (also for slashes) and ?; the first that matches a path or a directory above counts, + before it means: not excluded; conffiles are the configuration files of Debian packages',
      }),
  },
  { error: NEED_MAP },
);

/** The last range is one short, so files of others have no place in it. */
const MAX_DISK_XID = XID_MAX - 1;
const NEED_IDMAP = `none, host, shared, true, false or an xid from ${XID_MIN} to ${MAX_DISK_XID}`;
const idmap = z
  .union([z.boolean(), z.enum(['none', 'host', 'shared']), integer(NEED_IDMAP, XID_MIN, MAX_DISK_XID)], {
    error: NEED_IDMAP,
  })
  .transform((value): number | undefined => {
    if (value === 'none' || value === false) return undefined;
    if (value === 'host' || value === true) return HOST_IDS;
    return value === 'shared' ? SHARED_IDS : value;
  });

const mount: z.ZodType<GuestMount> = z
  .strictObject(
    {
      type: choice(['bind', 'tmpfs']).default('bind'),
      source: path.optional().meta({ description: 'bind only: path on the host' }),
      target: target.meta({ description: 'path in the guest' }),
      readonly: boolean.default(false),
      size: size(4096).optional().meta({ description: 'tmpfs only, default 64m' }),
      idmap: idmap.optional().meta({
        description:
          "bind only: whose ids the files on disk have, which the guest sees as its own: none (the default) = nobody's, the guest sees them as they are; host or true = the host's, whose root the guest's root is there; shared = ids of nobody, for guests that share; or the xid of a guest",
      }),
      noexec: boolean.optional().meta({ description: 'bind only: nothing on it is executed' }),
    },
    { error: 'a mapping with target and, for a bind mount, source' },
  )
  .transform((value, context): GuestMount => {
    const { target, readonly } = value;
    const foreign = value.type === 'bind' ? (['size'] as const) : (['source', 'idmap', 'noexec'] as const);
    for (const key of foreign) {
      if (value[key] !== undefined) {
        context.addIssue({
          code: 'custom',
          path: [key],
          message: `no such key in a mount of type "${value.type}"`,
        });
      }
    }
    if (value.type === 'tmpfs')
      return { type: 'tmpfs', target, readonly, sizeBytes: value.size ?? DEFAULT_TMPFS_BYTES };
    if (value.source === undefined)
      context.addIssue({ code: 'custom', path: ['source'], message: NEED_PATH });
    const { source = '', noexec = false } = value;
    return { type: 'bind', source, target, readonly, noexec, diskXid: value.idmap };
  });

/**
 * Sysctls with a value per namespace (ipc or network); any other would change the host.
 *
 * @see ipc/ipc_sysctl.c, ipc/mq_sysctl.c
 */
const SYSCTL_KEY =
  /^(kernel\.(shmmax|shmall|shmmni|shm_rmid_forced|msgmax|msgmnb|msgmni|sem)|fs\.mqueue\.[a-z_]+|net(\.[a-zA-Z0-9_-]+)+)$/;

const NEED_TEMPLATE =
  '"host", "busybox", "skeleton", "directory:/PATH", "tarball:/PATH" or the absolute path of a directory or archive';
const NEED_USER = 'USER or USER:GROUP, names or numbers';
const NEED_SIGNAL = 'a signal such as TERM, RTMIN+3 or 15';
const NEED_DEPENDENCY = 'the name of a guest, or a name and ":healthy"';
const NEED_RETRIES = 'a whole number from 1';
const NEED_CPUS = 'a number of CPUs from 0.01, for example 1.5';

const NEED_PIDS = `a whole number from 1 to ${MAX_PIDS}, or "max"`;

const stop = z.strictObject(
  {
    signal: parsed(
      z.union([z.int({ error: NEED_SIGNAL }), z.string()], { error: NEED_SIGNAL }),
      NEED_SIGNAL,
      parseSignal,
    )
      .optional()
      .meta({
        description: 'signal to process 1; default TERM, or RTMIN+3 with init: own',
        example: ['TERM'],
      }),
    timeout: duration('10s').meta({
      description: 'time until every process left is killed',
      example: ['30s'],
    }),
  },
  { error: NEED_MAP },
);

const boot = z.strictObject(
  {
    marks: z
      .array(text(NEED_MARK, isMark), { error: 'a list of marks such as [default]' })
      .default([])
      .meta({
        description: 'groups for start --mark and stop --mark; guests marked default come up with the host',
        example: [['default']],
      }),
    depends: z
      .array(parsed(z.string({ error: NEED_DEPENDENCY }), NEED_DEPENDENCY, parseDependency), {
        error: 'a list of names of guests such as [db]',
      })
      .default([])
      .meta({
        description:
          'guests that are started before it and stopped after it when they are together; with ":healthy" it waits until their health check has passed',
        example: [['db:healthy', 'cache']],
      }),
  },
  { error: NEED_MAP },
);

const restart = z.strictObject(
  {
    policy: choice(RESTART_POLICIES)
      .default('no')
      .meta({
        description:
          'no, on-failure (exit code not 0), always, or unless-stopped: as always, but a guest that was stopped does not come up with the host',
        example: ['on-failure'],
      }),
    maxRetries: integer(NEED_RETRIES, 1, MAX_RETRIES)
      .optional()
      .meta({ description: 'on-failure only: starts in a row; default no limit', example: [5] }),
    delay: duration('100ms').meta({
      description: 'before it is started again; doubled each time until it has run for 10s',
      example: ['1s'],
    }),
    maxDelay: duration('1m').meta({ description: 'longest such delay', example: ['10m'] }),
    onReboot: boolean
      .default(true)
      .meta({ description: 'whether a guest that reboots itself starts again', example: [false] }),
  },
  { error: NEED_MAP },
);

const NEED_HOOK = 'a command whose first word is an absolute path';
const hook = (when: string) =>
  command
    .refine(([path = '']) => isPlainPath(path), { error: NEED_HOOK })
    .optional()
    .meta({ description: when, example: ['/etc/vserver/hooks/log.sh'] });

const hooks = z.strictObject(
  {
    initialize: hook('before anything of a start; a failure refuses it'),
    prepreStart: hook('likewise, after that'),
    preStart: hook("when process 1 waits (VSERVER_INIT_PID), before the guest's root is made; likewise"),
    postStart: hook('when the command runs'),
    preStop: hook('before the guest is asked to stop'),
    postStop: hook('when it has ended'),
    postpostStop: hook('when it is cleaned up, also after a start that failed behind a hook'),
    timeout: duration('30s').meta({ description: 'time until a hook is killed', example: ['2m'] }),
  },
  { error: NEED_MAP },
);

const health = z.strictObject(
  {
    test: command.optional().meta({
      description: 'command in the guest whose exit code 0 means healthy; default none, so no check',
      example: [['wget', '-q', '-O', '/dev/null', 'http://127.0.0.1/']],
    }),
    interval: checkDuration('30s').meta({ description: 'time between two checks', example: ['10s'] }),
    timeout: checkDuration('30s').meta({
      description: 'time until a check is killed and has failed',
      example: ['3s'],
    }),
    retries: integer(NEED_RETRIES, 1, MAX_RETRIES)
      .default(3)
      .meta({ description: 'failures in a row that make it unhealthy', example: [5] }),
    startPeriod: duration('0').meta({
      description: 'time after the start in which failures do not count until a check has passed',
      example: ['1m'],
    }),
    onFailure: choice(HEALTH_ACTIONS)
      .default('none')
      .meta({
        description:
          'what is done with an unhealthy guest: none, restart, kill (restart.policy decides what follows) or stop',
        example: ['restart'],
      }),
  },
  { error: NEED_MAP },
);

const disk = z.strictObject(
  {
    space: size(MIN_DISK_BYTES).meta({ description: 'bytes of its own files', example: ['2g'] }),
    inodes: integer(NEED_INODES, 16, MAX_INODES)
      .optional()
      .meta({
        description: 'files and directories of its own; default one for 8 KiB of the space',
        example: [100_000],
      }),
    reserved: integer('a whole number of percent from 0 to 50', 0, 50)
      .default(0)
      .meta({
        description: 'part of the space in percent that shows as used and is for nobody',
        example: [5],
      }),
    method: choice(['quota', 'image'])
      .optional()
      .meta({
        description:
          'what keeps the limit: quota (a project of the file system) or image (a file system in a file); default quota where the file system has it; a guest that has one keeps it',
        example: ['image'],
      }),
  },
  { error: NEED_MAP },
);

const limits = z.strictObject(
  {
    memory: sizeOrMax(MIN_MEMORY_BYTES)
      .prefault('max')
      .meta({ description: 'memory and page cache', example: ['512m'] }),
    memorySwap: sizeOrMax(MIN_MEMORY_BYTES)
      .optional()
      .meta({ description: 'memory and swap together; default the memory, so no swap', example: ['1g'] }),
    pids: z
      .union([integer(NEED_PIDS, 1, MAX_PIDS), z.literal('max')], {
        error: `a whole number from 1 to ${MAX_PIDS}, or "max"`,
      })
      .default(4096)
      .meta({ description: 'processes and threads', example: [200] }),
    cpus: parsed(z.union([z.number(), z.string()], { error: NEED_CPUS }), NEED_CPUS, parseCpus)
      .optional()
      .meta({ description: 'CPU time as a number of CPUs; default no limit', example: [1.5] }),
    cpuWeight: integer('a whole number from 1 to 10000', 1, 10_000)
      .default(100)
      .meta({ description: 'share of the CPUs when they are contended, 1..10000', example: [200] }),
    shm: size(4096)
      .prefault('64m')
      .meta({ description: 'size of /dev with /dev/shm', example: ['256m'] }),
    addressSpace: sizeOrMax(MIN_MEMORY_BYTES)
      .optional()
      .meta({ description: 'VM: address space of each process', example: ['4g'] }),
    lockedMemory: sizeOrMax(0)
      .optional()
      .meta({ description: 'VML: memory that each process may lock', example: ['64m'] }),
    anonymousMemory: sizeOrMax(MIN_MEMORY_BYTES)
      .optional()
      .meta({ description: 'ANON: private writable memory of each process', example: ['1g'] }),
    openFiles: countOrMax(1)
      .optional()
      .meta({ description: 'FILES: open files of each process', example: [1024] }),
    fileDescriptors: countOrMax(1)
      .optional()
      .meta({ description: 'OFD: file descriptors of each process', example: [1024] }),
    fileLocks: countOrMax(0)
      .optional()
      .meta({ description: 'LOCKS: file locks; counted, but nothing enforces it', example: [256] }),
    sockets: countOrMax(0)
      .optional()
      .meta({
        description:
          'SOCK: IPv4 and IPv6 sockets of a guest with addresses of its own, but for those it accepts; of another guest counted, but nothing enforces it',
        example: [500],
      }),
    messageQueues: sizeOrMax(0)
      .optional()
      .meta({ description: 'MSGQ: bytes in message queues', example: ['1m'] }),
    sharedMemory: sizeOrMax(0)
      .optional()
      .meta({ description: 'SHM: System V shared memory', example: ['256m'] }),
    semaphoreSets: countOrMax(0)
      .optional()
      .meta({ description: 'SEMA: sets of System V semaphores', example: [128] }),
    semaphores: countOrMax(0)
      .optional()
      .meta({ description: 'SEMS: System V semaphores in all sets', example: [4096] }),
    dentries: countOrMax(0)
      .optional()
      .meta({
        description: 'DENT: cached names of files; nothing counts or enforces it',
        example: [100_000],
      }),
  },
  { error: NEED_MAP },
);

const NEED_CPU_LIST = 'numbers of CPUs such as 0,2-3';
const tokens = (min: number): z.ZodType<number> =>
  integer(`a whole number from ${min} to ${MAX_TOKENS}`, min, MAX_TOKENS);

const scheduler = z.strictObject(
  {
    hard: boolean
      .default(false)
      .meta({ description: 'whether the guest waits when its bucket is empty', example: [true] }),
    idleTime: boolean
      .default(false)
      .meta({ description: 'whether it gets what nobody else wants as well', example: [true] }),
    fillRate: tokens(0)
      .optional()
      .meta({
        description: 'tokens, of 1 ms of each CPU, in every interval; 0 with idleTime: only idle time',
        example: [30],
      }),
    interval: tokens(1)
      .optional()
      .meta({ description: 'milliseconds between fills; default 4', example: [100] }),
    tokensMin: tokens(1)
      .optional()
      .meta({ description: 'tokens that end a wait; default 62', example: [30] }),
    tokensMax: tokens(1)
      .optional()
      .meta({ description: 'size of the bucket; default 500', example: [40] }),
    prioBias: integer('a whole number from -20 to 19', -20, 19)
      .optional()
      .meta({ description: 'priority, from -20 (first) to 19, each step a factor of 1.25', example: [5] }),
    fillRate2: tokens(0)
      .optional()
      .meta({ description: 'second fill, by idle time; nothing has such', example: [1] }),
    interval2: tokens(1)
      .optional()
      .meta({ description: 'its interval; nothing has such', example: [8] }),
    cpus: parsed(
      z.union([z.int({ error: NEED_CPU_LIST }), z.string()], { error: NEED_CPU_LIST }),
      NEED_CPU_LIST,
      (value) => {
        parseCpuList(value);
        return value;
      },
    )
      .optional()
      .meta({ description: 'CPUs the guest may use; default all', example: ['0,2-3'] }),
  },
  { error: NEED_MAP },
);

const NEED_TRUST_DOMAIN = 'a name of lower case letters, digits, "_", "." and "-", at most 63';

const log = z.strictObject(
  {
    maxBytes: size(MIN_LOG_BYTES)
      .prefault('10m')
      .meta({ description: 'size at which the log of the output is rotated', example: ['1m'] }),
  },
  { error: NEED_MAP },
);

const VIEWS: Readonly<Record<ViewGroup, string>> = {
  memory: 'meminfo, swaps, vmstat and slabinfo (virt_mem)',
  cpu: 'cpuinfo, stat and the list of CPUs online (virt_cpu)',
  load: 'loadavg (virt_load)',
  uptime:
    "uptime, and when process 1 started (virt_uptime); the first number of uptime is always the guest's",
  disk: 'diskstats',
  pressure: 'pressure, of CPU, memory and io',
  vinfo: "the guest's own part of the Proc-FS, below /proc/driver (off: hide_vinfo)",
  network: 'net/tcp, udp, raw, icmp, sockstat, dev, snmp and netstat, in mode isolated',
};

const views = z.strictObject(
  Object.fromEntries(
    VIEW_GROUPS.map((group) => [
      group,
      boolean.default(true).meta({ description: VIEWS[group], example: [false] }),
    ]),
  ) as Record<ViewGroup, z.ZodDefault<typeof boolean>>, // one for each
  { error: NEED_MAP },
);

const schema = z.strictObject(
  {
    xid: integer(`a whole number from ${XID_MIN} to ${XID_MAX}`, XID_MIN, XID_MAX)
      .transform((value): Xid => (isXid(value) ? value : z.NEVER))
      .optional()
      .meta({ description: 'number of the context, 2..65535; default a free one', example: [42] }),
    template: text(NEED_TEMPLATE, (value) => isAccepted(() => parseTemplateSpec(value)))
      .default('host')
      .meta({
        description:
          "what the guest's root starts from: host (its /usr, read-only), busybox, skeleton (a root without programs), directory:/PATH or tarball:/PATH",
        example: ['busybox'],
      }),
    trustDomain: text(NEED_TRUST_DOMAIN, isTrustDomain)
      .default(DEFAULT_DOMAIN)
      .meta({
        description:
          'files of its images are one on disk and in the page cache with those of guests of the same domain, and of no other; fixed once the guest is created',
        example: ['tenant-a'],
      }),
    command: command.optional().meta({
      description: 'what runs in the guest, a list of words or one text; /sbin/init with init: own',
      example: [['/bin/sh', '-c', 'exec my-server']],
    }),
    env: textMap('a variable name without "="', (key) => key !== '' && !/[=\0]/.test(key))
      .default({})
      .meta({ description: 'environment variables', example: [{ LANG: 'C.UTF-8' }] }),
    user: text(NEED_USER, (value) => /^[\w.-]+(:[\w.-]+)?$/.test(value))
      .default('root')
      .meta({
        description: 'USER or USER:GROUP of the command, names or numbers of the guest',
        example: ['www-data'],
      }),
    cwd: path.default('/').meta({ description: 'working directory of the command', example: ['/srv'] }),
    hostname: hostname
      .optional()
      .meta({ description: "host name; default the guest's name", example: ['web-1'] }),
    domainname: hostname.optional().meta({ description: 'NIS domain name', example: ['example.org'] }),
    init: choice(['fake', 'none', 'own'])
      .default('fake')
      .meta({
        description:
          'process 1: fake = a tiny built-in init, none = the command itself, own = the command is a real init such as systemd, with cgroups to divide, /run and /tmp in memory, and a console',
        example: ['own'],
      }),
    stop: stop.prefault({}).meta({ description: 'how the guest is stopped' }),
    boot: boot.prefault({}).meta({ description: 'when the guest is started and stopped with others' }),
    restart: restart.prefault({}).meta({ description: 'when the guest is started again by itself' }),
    health: health.prefault({}).meta({ description: 'a check whether the guest does what it is for' }),
    hooks: hooks.prefault({}).meta({
      description:
        'commands of the host, as root, at stages of the life of the guest; the stage and the name are their last words',
    }),
    limits: limits.prefault({}).meta({ description: 'upper bounds; sizes in bytes or such as 512m' }),
    scheduler: scheduler
      .prefault({})
      .meta({ description: "CPU time by the token bucket of Linux-VServer's scheduler" }),
    disk: disk.optional().meta({
      description:
        'what it may write: default no bound, for a guest that stays; changes count from its next start',
      example: [{ space: '2g' }],
    }),
    network: network.prefault({}).meta({ description: 'network of the guest' }),
    ccaps: z
      .array(choice(CONTEXT_CAPABILITIES), { error: 'a list of context capabilities such as [raw_icmp]' })
      .default([])
      .meta({
        description:
          'parts of capabilities that the guest has nevertheless: raw_icmp = raw sockets of ICMP for its root, so that ping works whatever net.ipv4.ping_group_range of the host says; quota_ctl = quotas for its users, which its root sets with setquota and others see with quota',
        example: [['raw_icmp']],
      }),
    bcaps: bcaps.default([]).meta({
      description:
        'upper bound of capabilities: +NAME and -NAME change the default, which has SETPCAP only with init: own; NAME without a sign is of the whole set',
      example: [['+NET_RAW', '-SYS_PTRACE']],
    }),
    seccomp: z
      .union([z.enum(['default', 'unconfined']), z.strictObject({ profile: path })], {
        error: '"default", "unconfined" or profile with an absolute path',
      })
      .default('default')
      .meta({
        description:
          "system call filter: default = the built-in one, unconfined = none, or a profile in Docker's JSON format",
        example: [{ profile: '/etc/vserver/seccomp.json' }],
      }),
    noNewPrivileges: boolean.optional().meta({
      description: 'whether setuid programs gain nothing; default true, but false with init: own',
      example: [true],
    }),
    rlimits: z
      .strictObject(Object.fromEntries(Object.keys(RLIMITS).map((name) => [name, rlimit.optional()])), {
        error: NEED_MAP,
      })
      .default({})
      .meta({
        description: 'limits of setrlimit(2) per process: a number, unlimited, or soft and hard',
        example: [{ nofile: { soft: 1024, hard: 4096 } }],
      }),
    readonlyRoot: boolean
      .default(false)
      .meta({ description: 'whether the root is mounted read-only', example: [true] }),
    mounts: z
      .array(mount, { error: 'a list of mounts' })
      .default([])
      .meta({
        description: 'further mounts: type bind (a path of the host) or tmpfs',
        example: [
          [
            { source: '/srv/www', target: '/var/www', readonly: true },
            { type: 'tmpfs', target: '/tmp', size: '64m' },
          ],
        ],
      }),
    sysctls: textMap(
      'a sysctl with a value per guest: kernel.shm*, kernel.msg*, kernel.sem, fs.mqueue.* or net.*',
      (key) => SYSCTL_KEY.test(key),
    )
      .default({})
      .meta({
        description:
          "the guest's own kernel parameters: kernel.shm*, kernel.msg*, kernel.sem, fs.mqueue.*, net.*",
        example: [{ 'kernel.shmmax': 67_108_864 }],
      }),
    views: views.prefault({}).meta({
      description:
        "which files of /proc and /sys tell the guest's own numbers and limits instead of the host's",
    }),
    log: log.prefault({}).meta({ description: 'log of standard output and error' }),
    unify: unify.prefault({}).meta({ description: 'what `vserver unify` does with what the guest wrote' }),
    labels: textMap('a label of letters, digits, "_", ".", "/" and "-"', (key) =>
      /^[a-zA-Z0-9][\w./-]{0,127}$/.test(key),
    )
      .default({})
      .meta({ description: 'free labels for tools', example: [{ team: 'web' }] }),
  },
  { error: NEED_MAP },
);

type Parsed = z.output<typeof schema>;

/** Checks a configuration's values and fills in the defaults. */
export function checkConfigValues(values: unknown): CheckedConfig {
  const present = dropEmptyKeys(values);
  const result = schema.safeParse(present);
  if (!result.success)
    return { issues: result.error.issues.flatMap((issue) => toConfigIssues(issue, present)) };
  const issues = crossIssues(result.data);
  return issues.length > 0 ? { issues } : { config: complete(result.data) };
}

/** A key with nothing behind it is null in YAML: what is left of a section whose keys are all commented out. */
function dropEmptyKeys(values: unknown): unknown {
  if (typeof values !== 'object' || values === null || Array.isArray(values)) return values;
  return Object.fromEntries(Object.entries(values).filter(([, value]) => value !== null));
}

function toConfigIssues(issue: z.core.$ZodIssue, values: unknown): ConfigIssue[] {
  const path = issue.path.filter((part) => typeof part !== 'symbol');
  if (issue.code === 'unrecognized_keys') {
    const knownKeys = knownKeysAt(path);
    return issue.keys.map((key) => ({ path, unknownKey: { key, knownKeys }, isMissing: false }));
  }
  if (issue.code === 'invalid_key') {
    return [{ path, need: issue.issues[0]?.message ?? issue.message, isKey: true, isMissing: false }];
  }
  return [{ path, need: issue.message, isMissing: valueAt(values, path) === undefined }];
}

function valueAt(values: unknown, path: readonly (string | number)[]): unknown {
  return path.reduce<unknown>(
    (value, key) => (typeof value === 'object' && value !== null ? Reflect.get(value, key) : undefined),
    values,
  );
}

function knownKeysAt(path: readonly (string | number)[]): readonly string[] {
  const node = path.reduce<unknown>(
    (at, key) => (typeof key === 'number' ? valueAt(at, ['items']) : valueAt(at, ['properties', key])),
    guestConfigJsonSchema(),
  );
  const properties = valueAt(node, ['properties']);
  return typeof properties === 'object' && properties !== null ? Object.keys(properties) : [];
}

/** Rules between keys, which hold for the values after defaults. */
function crossIssues(config: Parsed): ConfigIssue[] {
  const issues: ConfigIssue[] = [];
  const refuse = (path: readonly (string | number)[], need: string, isMissing = false): void => {
    issues.push({ path, need, isMissing });
  };
  if (config.command === undefined && config.init !== 'own') {
    refuse(['command'], `a command with init: ${config.init}`, true);
  }
  if (config.restart.maxRetries !== undefined && config.restart.policy !== 'on-failure')
    refuse(['restart', 'maxRetries'], 'restart.policy: on-failure, since it counts failures');
  const { limits } = config;
  const { memory, memorySwap } = limits;
  if (memorySwap !== undefined && memorySwap !== 'max' && (memory === 'max' || memorySwap < memory)) {
    refuse(['limits', 'memorySwap'], 'limits.memory that is not above it, since it counts memory and swap');
  }
  const { scheduler } = config;
  if (hasQuota(dropAbsent(scheduler)) && limits.cpus !== undefined)
    refuse(['limits', 'cpus'], 'no scheduler.hard, which sets a quota too');
  if (scheduler.hard && scheduler.fillRate === 0 && !scheduler.idleTime)
    refuse(
      ['scheduler', 'fillRate'],
      '1 or more, or idleTime: true, since a guest without tokens never runs',
    );
  if ((scheduler.tokensMin ?? 0) > (scheduler.tokensMax ?? Number.POSITIVE_INFINITY))
    refuse(['scheduler', 'tokensMin'], 'scheduler.tokensMax or less, since a bucket never holds more');
  for (const [limit, ...sysctls] of LIMITS_BY_SYSCTL) {
    if (config.limits[limit] === undefined || config.limits[limit] === 'max') continue;
    for (const key of sysctls.filter((one) => Object.hasOwn(config.sysctls, one)))
      refuse(['sysctls', key], `no limits.${limit}, which sets it too`);
  }
  const { mode } = config.network;
  if (config.ccaps.includes('raw_icmp') && mode !== 'isolated' && mode !== 'private')
    refuse(['ccaps'], `network.mode: isolated or private, since with ${mode} raw_icmp has no effect`);
  if (mode === 'host') {
    for (const key of Object.keys(config.sysctls).filter((name) => name.startsWith('net.'))) {
      refuse(['sysctls', key], 'network.mode: none, since with host it would change the host');
    }
  }
  const targets = config.mounts.map((one) => one.target);
  targets.forEach((one, index) => {
    if (targets.indexOf(one) < index) refuse(['mounts', index, 'target'], 'a target that no other mount has');
  });
  return issues;
}

/** Limits that are set by sysctls of the guest's IPC namespace. */
const LIMITS_BY_SYSCTL = [
  ['messageQueues', 'kernel.msgmni', 'kernel.msgmnb'],
  ['sharedMemory', 'kernel.shmall'],
  ['semaphoreSets', 'kernel.sem'],
  ['semaphores', 'kernel.sem'],
] as const;

function contextLimits({ limits }: Parsed): ContextLimits {
  const all: Readonly<Record<keyof ContextLimits, number | 'max' | undefined>> = {
    addressSpaceBytes: limits.addressSpace,
    lockedMemoryBytes: limits.lockedMemory,
    anonymousBytes: limits.anonymousMemory,
    openFiles: limits.openFiles,
    fileDescriptors: limits.fileDescriptors,
    fileLocks: limits.fileLocks,
    sockets: limits.sockets,
    messageQueueBytes: limits.messageQueues,
    sharedMemoryBytes: limits.sharedMemory,
    semaphoreSets: limits.semaphoreSets,
    semaphores: limits.semaphores,
    dentries: limits.dentries,
  };
  return Object.fromEntries(Object.entries(all).filter(([, value]) => typeof value === 'number'));
}

function completeDisk({ space, inodes, reserved, method }: z.output<typeof disk>): DiskLimit {
  return {
    spaceBytes: space,
    ...(inodes === undefined ? {} : { inodes }),
    reservedPercent: reserved,
    ...(method === undefined ? {} : { method }),
  };
}

function completeHealth({ test, ...rest }: Parsed['health']): Pick<GuestConfig, 'health'> {
  if (test === undefined) return {};
  const { interval, timeout, startPeriod, retries, onFailure } = rest;
  return {
    health: {
      test,
      intervalMs: interval,
      timeoutMs: timeout,
      startPeriodMs: startPeriod,
      retries,
      onFailure,
    },
  };
}

function completeHooks({ timeout, ...stages }: Parsed['hooks']): GuestHooks {
  return { ...dropAbsent(stages), timeoutMs: timeout };
}

function complete(config: Parsed): GuestConfig {
  const { xid, hostname, domainname, limits } = config;
  const isOwn = config.init === 'own';
  return {
    ...(xid === undefined ? {} : { xid }),
    template: config.template,
    trustDomain: config.trustDomain,
    command: config.command ?? DEFAULT_OWN_INIT,
    env: config.env,
    user: config.user,
    cwd: config.cwd,
    ...(hostname === undefined ? {} : { hostname }),
    ...(domainname === undefined ? {} : { domainname }),
    init: config.init,
    stop: {
      signal: config.stop.signal ?? parseSignal(isOwn ? 'RTMIN+3' : 'TERM'),
      timeoutMs: config.stop.timeout,
    },
    boot: config.boot,
    restart: {
      policy: config.restart.policy,
      ...(config.restart.maxRetries === undefined ? {} : { maxRetries: config.restart.maxRetries }),
      delayMs: config.restart.delay,
      maxDelayMs: config.restart.maxDelay,
      onReboot: config.restart.onReboot,
    },
    ...completeHealth(config.health),
    hooks: completeHooks(config.hooks),
    limits: {
      memoryBytes: limits.memory,
      memorySwapBytes: limits.memorySwap ?? limits.memory,
      pids: limits.pids,
      cpus: limits.cpus ?? 'max',
      cpuWeight: limits.cpuWeight,
      shmBytes: limits.shm,
      context: contextLimits(config),
    },
    scheduler: dropAbsent(config.scheduler),
    ...(config.disk === undefined ? {} : { disk: completeDisk(config.disk) }),
    network: config.network,
    ccaps: config.ccaps,
    bcaps: config.bcaps,
    seccomp: config.seccomp,
    noNewPrivileges: config.noNewPrivileges ?? !isOwn,
    rlimits: Object.fromEntries(Object.entries(config.rlimits).filter(([, value]) => value !== undefined)),
    readonlyRoot: config.readonlyRoot,
    mounts: config.mounts,
    sysctls: config.sysctls,
    views: VIEW_GROUPS.filter((group) => config.views[group]),
    unify: config.unify,
    log: config.log,
    labels: config.labels,
  };
}

/** Describes the configuration file as JSON Schema 2020-12: every key with description, default and example. */
export function guestConfigJsonSchema(): Readonly<Record<string, unknown>> {
  const described = z.toJSONSchema(schema, {
    io: 'input',
    // zod drops `examples` of a schema that transforms its input, since they may be of the output.
    override: ({ jsonSchema }) => {
      const { example, ...rest } = jsonSchema;
      if (example === undefined) return;
      delete jsonSchema['example'];
      Object.assign(jsonSchema, rest, { examples: example });
    },
  });
  return { title: 'vserver guest configuration', ...described };
}
