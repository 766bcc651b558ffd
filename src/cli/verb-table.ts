import { EVENT_TYPE_NAMES } from '../api/events.ts';
import { parseGuestName, parseGuestRef, parseXid } from '../base/ids.ts';
import { parseCount, parseSize } from '../base/units.ts';
import { describeMethods } from './build-options.ts';
import { BUILD, CREATE, ENV, ENV_FILE, USER, WORKDIR } from './guest-options.ts';
import { limitKind, limitValue } from './limit-options.ts';
import { flag, joinedList, list, type OptionTable, optional, value } from './option.ts';
import {
  oneOf,
  parseAddress,
  parseAmount,
  parseBoolean,
  parseEventStart,
  parseEventTypes,
  parseGuestWord,
  parseInterval,
  parseKeyValue,
  parseLabel,
  parseMark,
  parsePid,
  parsePrioBias,
  parseSignalName,
  parseText,
  parseTimeout,
} from './option-values.ts';
import { PS_KEYS } from './ps-table.ts';
import { TOP_KEYS } from './top-table.ts';
import type { AllOptions, GlobalOptions, StopOptions, Verb, VerbOptions } from './verb-types.ts';

/** Operands of one kind, in the order of the command line. */
export interface OperandSpec {
  readonly name: string;
  readonly kind: 'guest' | 'text';
  readonly min: number;
  readonly isMany: boolean;
  /** Refuses a wrong operand; the text itself is what the parsed command carries. */
  readonly check: (text: string) => unknown;
  readonly choices?: readonly string[];
  /** Option that says the same: with it the operand is not there. */
  readonly option?: string;
  /** Option with which the operand need not be there. */
  readonly optionalWith?: string;
}

/** Everything parser, help, completion and reference know about a verb. */
export interface VerbSpec<Options> {
  readonly summary: string;
  readonly description: string;
  readonly operands: readonly OperandSpec[];
  /** Whether a guest's command may or must follow the operands. */
  readonly command: 'none' | 'optional' | 'required';
  readonly options: OptionTable<Options>;
  readonly examples: readonly (readonly [line: string, what: string])[];
  /** Exit codes beside those that all verbs have. */
  readonly exits: readonly (readonly [code: string, meaning: string])[];
}

/** The options that every verb takes. `--help` is the parser's own. */
export const GLOBAL_OPTIONS: OptionTable<GlobalOptions> = {
  root: value('DIR', 'keep all state below DIR instead of the system directories', parseText),
  json: flag('print JSON'),
  quiet: flag('print only what was asked for, names for example', 'q'),
};

/** Exit codes of every verb. */
export const COMMON_EXITS: readonly (readonly [code: string, meaning: string])[] = [
  ['0', 'done'],
  ['1', 'failed'],
  ['2', 'the command line or another input is wrong'],
  ['5', 'there is no such guest'],
  ['70', 'a bug of vserver'],
];

/** Exit codes of the verbs that hand through a command's own; they have 125 in the place of 1, 2, 5 and 70. */
const COMMAND_EXITS: readonly (readonly [code: string, meaning: string])[] = [
  ['125', 'vserver itself failed'],
  ['126', 'the command cannot be invoked'],
  ['127', 'the command is not found'],
  ['128+N', 'the command was ended by signal N'],
  ['other', "the command's own exit code"],
];

/** Other names of verbs, for hands used to other tools. */
export const VERB_ALIASES: ReadonlyMap<string, Verb> = new Map<string, Verb>([
  ['ls', 'list'],
  ['rm', 'delete'],
  ['unpause', 'resume'],
]);

const GUEST: OperandSpec = { name: 'GUEST', kind: 'guest', min: 1, isMany: false, check: parseGuestRef };
/** Of a guest that is to be. */
const NAME: OperandSpec = {
  name: 'NAME',
  kind: 'text',
  min: 1,
  isMany: false,
  check: parseGuestName,
  option: 'name',
};
const GUESTS: OperandSpec = { ...GUEST, isMany: true };
const ANY_GUESTS: OperandSpec = { ...GUESTS, min: 0 };

const SHELLS = ['bash', 'zsh', 'fish'] as const;
const DAEMON_ACTIONS = ['start', 'stop', 'status'] as const;
const STORE_ACTIONS = ['stat', 'check', 'gc'] as const;

const EXPLAIN = flag('print the syscall program of the operation and do not run it');
const INTERACTIVE = flag('keep standard input open', 'i');
const TTY = flag('give the command a terminal', 't');
const DETACH = flag('do not wait for the command', 'd');

const ALL: OptionTable<AllOptions> = { all: flag('work on all guests', 'a') };

const MARK = list('MARK', 'work on all guests with this mark', parseMark);

const STOP: OptionTable<StopOptions> = {
  ...ALL,
  mark: MARK,
  timeout: value(
    'DURATION',
    'time until what is left is killed; a bare number counts seconds',
    parseTimeout,
    {
      short: 't',
    },
  ),
};

/** Every verb, in the order of the help. */
export const VERBS: { readonly [V in Verb]: VerbSpec<VerbOptions[V]> } = {
  run: {
    summary: 'create a guest and start it',
    description:
      "Creates a guest from a template, starts it and, unless detached, waits for its command. Without --name the guest is deleted when it has stopped, as with --rm. What follows the options is the guest's command.",
    operands: [],
    command: 'optional',
    options: {
      ...CREATE,
      explain: EXPLAIN,
      detach: DETACH,
      rm: flag('delete the guest when it has stopped'),
      interactive: INTERACTIVE,
      tty: TTY,
    },
    examples: [
      ['vserver run -it -- sh', "a shell on the host's programs, gone afterwards"],
      ['vserver run -d --name web --template busybox -m 64m -- httpd -f', 'a service with a memory limit'],
      ['vserver run -d --ip 10.0.0.5/24 -- httpd -f', "a service on its own address in the host's network"],
      [
        'vserver run --network private --bridge br0 --ip 10.0.0.5/24 --gateway 10.0.0.1 -- sh',
        'a network stack of its own',
      ],
      ['vserver run --explain --template busybox -- true', 'what the kernel would be asked to do'],
    ],
    exits: COMMAND_EXITS,
  },
  create: {
    summary: 'create a guest without starting it',
    description:
      "Writes the guest's configuration file and prepares its root. What follows the name and the options is the guest's command.",
    operands: [NAME],
    command: 'optional',
    options: CREATE,
    examples: [
      ['vserver create web --template busybox -- httpd -f', 'a guest that runs one service'],
      ['vserver create box --template=tarball:/srv/debian.tar.zst --init=own', 'a guest with a real init'],
    ],
    exits: [],
  },
  build: {
    summary: 'make a root for a guest, and the guest',
    description: `Makes an image by a method and creates a guest from it; what follows -- are words of the method: ${describeMethods()}. Options are those of create. Without a command the guest has an init of its own.`,
    operands: [NAME],
    command: 'optional',
    options: BUILD,
    examples: [
      ['vserver build web -m template -- -t debian.tar.zst', 'from an archive'],
      ['vserver build web -m oci -- docker.io/library/nginx:1.27', 'from a registry'],
      ['vserver build web -m debootstrap -- -d trixie', 'Debian, with systemd'],
      [
        'vserver web build -m template --interface eth0:10.0.0.5/24 -- -t debian.tar -d bookworm',
        'in the words of Linux-VServer',
      ],
      ['vserver build web2 -m clone -- -s web', 'once more'],
    ],
    exits: [],
  },
  start: {
    summary: 'start guests',
    description: 'Starts guests that exist. A guest that runs already is left alone, with a warning.',
    operands: [GUESTS],
    command: 'none',
    options: { ...ALL, mark: MARK, explain: EXPLAIN },
    examples: [
      ['vserver start web db', 'two guests'],
      ['vserver web start', 'the same verb in the order of Linux-VServer'],
      ['vserver start --mark default', 'all of a group, each behind those it depends on'],
    ],
    exits: [],
  },
  stop: {
    summary: 'stop guests',
    description:
      "Sends the guest's stop signal to its process 1, waits, and kills what is left. A guest that is stopped already is left alone, with a warning.",
    operands: [GUESTS],
    command: 'none',
    options: STOP,
    examples: [
      ['vserver stop web', 'one guest'],
      ['vserver stop --all --timeout 30s', 'all guests, with more patience'],
    ],
    exits: [],
  },
  restart: {
    summary: 'stop guests and start them again',
    description: 'Stops each guest as stop does and starts it again with its configuration of now.',
    operands: [GUESTS],
    command: 'none',
    options: STOP,
    examples: [
      ['vserver restart web', 'one guest'],
      ['vserver restart -t 0 web db', 'two guests, killed at once'],
    ],
    exits: [],
  },
  exec: {
    summary: 'run a command in a running guest',
    description:
      'Runs a command in a running guest, with its limits and its view, and waits for it. Options of vserver stand before the command, all that follows is its own.',
    operands: [GUEST],
    command: 'required',
    options: {
      detach: DETACH,
      interactive: INTERACTIVE,
      tty: TTY,
      env: ENV,
      envFile: ENV_FILE,
      workdir: WORKDIR,
      user: USER,
      explain: EXPLAIN,
    },
    examples: [
      ['vserver exec web ls -l /srv', 'a command and its output'],
      ['vserver exec -it -u www-data web sh', 'a shell as another user'],
    ],
    exits: COMMAND_EXITS,
  },
  enter: {
    summary: 'open a login shell in a running guest',
    description: "Opens a login shell in a running guest on a terminal of the guest's own.",
    operands: [GUEST],
    command: 'none',
    options: { user: USER, explain: EXPLAIN },
    examples: [
      ['vserver enter web', 'as root'],
      ['vserver enter -u www-data web', 'as another user'],
    ],
    exits: COMMAND_EXITS,
  },
  kill: {
    summary: 'send a signal to guests',
    description:
      'Sends a signal, KILL unless told otherwise, to process 1 of each guest. KILL ends the whole guest. With --pid it is sent to these processes instead: of the guests that are named, by their pids in there; without guests by their pids on the host, whichever guests they are of.',
    operands: [{ ...GUESTS, optionalWith: 'pid' }],
    command: 'none',
    options: {
      ...ALL,
      signal: value('SIGNAL', 'signal to send, for example HUP', parseSignalName, { short: 's' }),
      pid: list(
        'PID',
        'signal this process in the place of process 1; its pid in the guest, or on the host',
        parsePid,
        {
          short: 'p',
        },
      ),
    },
    examples: [
      ['vserver kill web', 'end a guest at once'],
      ['vserver kill -s TERM -p 12 web', 'end one of its processes'],
      ['vserver kill -p 31744', 'end a process of whatever guest, by its pid on the host'],
      ['vserver kill -s HUP web db', 'make two services read their files again'],
    ],
    exits: [],
  },
  pause: {
    summary: 'freeze guests',
    description: 'Takes all processes of the guests off the CPUs until resume; they keep their memory.',
    operands: [GUESTS],
    command: 'none',
    options: ALL,
    examples: [
      ['vserver pause web', 'one guest'],
      ['vserver pause --all', 'all running guests'],
    ],
    exits: [],
  },
  resume: {
    summary: 'thaw paused guests',
    description: 'Lets paused guests go on.',
    operands: [GUESTS],
    command: 'none',
    options: ALL,
    examples: [
      ['vserver resume web', 'one guest'],
      ['vserver resume --all', 'all paused guests'],
    ],
    exits: [],
  },
  ps: {
    summary: 'list processes of guests',
    description:
      'Lists the processes of the named guests, or of all, with their pids in the guest and on the host.',
    operands: [ANY_GUESTS],
    command: 'none',
    options: {
      ...ALL,
      tree: flag('print trees, as pstree does'),
      sort: value('KEY', 'sort the processes of all these guests together', oneOf(PS_KEYS), {
        choices: PS_KEYS,
      }),
    },
    examples: [
      ['vserver ps', 'processes of all guests'],
      ['vserver ps --tree web', 'who started whom'],
      ['vserver ps --sort memory', 'the largest of all guests first'],
      ['vserver ps --json web', 'those of one guest, for programs'],
    ],
    exits: [],
  },
  list: {
    summary: 'list guests',
    description: 'Lists the running guests, or all. With --quiet only their names.',
    operands: [],
    command: 'none',
    options: {
      all: flag('list stopped guests as well', 'a'),
      label: list('KEY[=VALUE]', 'only guests with this label', parseLabel),
    },
    examples: [
      ['vserver list -a', 'every guest'],
      ['vserver list --quiet --label team=web', 'names of the running guests of one team'],
    ],
    exits: [],
  },
  status: {
    summary: 'say whether guests run',
    description: 'Says of each guest whether it runs, its xid, its number of processes and since when.',
    operands: [GUESTS],
    command: 'none',
    options: ALL,
    examples: [
      ['vserver status web', 'one guest'],
      ['vserver web status && echo up', 'as a test in a script'],
    ],
    exits: [['3', 'a guest is stopped']],
  },
  inspect: {
    summary: 'print all that is known of guests',
    description: 'Prints a JSON array with the configuration and state of each guest.',
    operands: [GUESTS],
    command: 'none',
    options: ALL,
    examples: [
      ['vserver inspect web', 'one guest'],
      ['vserver inspect --all', 'all guests'],
    ],
    exits: [],
  },
  limit: {
    summary: 'print and set the limits of a guest',
    description:
      "Prints the limits table of Linux-VServer: of each resource what is in use, the smallest and largest value seen, soft and hard limit, how often it was met, and what enforces it for whom. Sets limits with the options of vlimit, at once and in the guest's configuration file; memory is counted in pages there.",
    operands: [{ ...GUEST, option: 'xid' }],
    command: 'none',
    options: {
      xid: value('GUEST', 'the guest, by xid or name, as vlimit has it', parseGuestWord, { short: 'c' }),
      raw: flag('print the limits as vlimit --all does', 'a'),
      numbers: flag('with --raw: numbers in the place of names', 'n'),
      decimal: flag('with --raw: decimal in the place of hexadecimal', 'd'),
      min: limitKind('M', 'the next value is the minimum, which Linux-VServer never enforced: refused'),
      soft: limitKind('S', 'the next value is the soft limit: only RSS has one'),
      hard: limitKind('H', 'the next value is the hard limit, as without any of these'),
      nproc: limitValue('PROC'),
      as: limitValue('VM'),
      memlock: limitValue('VML'),
      rss: limitValue('RSS'),
      anon: limitValue('ANON'),
      nofile: limitValue('FILES'),
      openfd: limitValue('OFD'),
      locks: limitValue('LOCKS'),
      nsock: limitValue('SOCK'),
      msgqueue: limitValue('MSGQ'),
      shmem: limitValue('SHM'),
      semary: limitValue('SEMA'),
      nsems: limitValue('SEMS'),
      dentry: limitValue('DENT'),
      reset: flag('forget hits, smallest and largest values'),
      resetHits: flag('forget hits'),
      resetMinmax: flag('forget smallest and largest values'),
    },
    examples: [
      ['vserver limit web', 'the table'],
      ['vserver limit web --nproc 200 -S --rss 50K -H --rss 100K', 'as vlimit'],
      ['vserver limit -c 42 -a -d', 'what vlimit --all prints, decimal'],
    ],
    exits: [],
  },
  sched: {
    summary: 'print and set how a guest gets the CPUs',
    description:
      "Prints the settings of the token bucket and what the kernel was told for them; sets them with the options of vsched, at once and in the guest's configuration file. A setting that is not named is left as it is.",
    operands: [{ ...GUEST, option: 'xid' }],
    command: 'none',
    options: {
      xid: value('GUEST', 'the guest, by xid or name, as vsched has it', parseGuestWord, { short: 'c' }),
      hard: optional('BOOLEAN', 'whether it waits when its bucket is empty', parseBoolean, true),
      idleTime: optional('BOOLEAN', 'whether it gets what nobody else wants', parseBoolean, true),
      fillRate: value('TOKENS', 'tokens in every interval, 1 ms of each CPU for a token', parseAmount),
      interval: value('MS', 'milliseconds between fills', parseAmount),
      tokensMin: value('TOKENS', 'tokens that end a wait', parseAmount),
      tokensMax: value('TOKENS', 'size of the bucket', parseAmount),
      prioBias: value('NUMBER', 'priority, -20 first to 19 last', parsePrioBias),
      fillRate2: value('TOKENS', 'second fill, by idle time: nothing has such', parseAmount),
      interval2: value('MS', 'its interval', parseAmount),
      cpus: value('LIST', 'CPUs it may use, for example 0,2-3', parseText),
    },
    examples: [
      ['vserver sched web', 'the settings, and what the kernel was told'],
      [
        'vserver sched web --hard --fill-rate 30 --interval 100 --tokens-min 30 --tokens-max 60',
        '30 % of each CPU',
      ],
      ['vserver sched web --cpus 0-1 --prio-bias 5', 'two CPUs, and after others'],
    ],
    exits: [],
  },
  procfs: {
    summary: "print files of Linux-VServer's Proc-FS",
    description:
      'Prints a file of the Proc-FS of Linux-VServer as its kernel did, or the names in a directory: virtual/XID with info, status, limit, sched, cvirt, cacct and nsproxy of a running guest, virtnet/NID with info and status of its network, and info and status of all. The same are files below the run directory: /run/vserver/proc.',
    operands: [{ name: 'PATH', kind: 'text', min: 0, isMany: false, check: parseText }],
    command: 'none',
    options: {},
    examples: [
      ['vserver procfs virtual', 'the running contexts'],
      ['vserver procfs /proc/virtual/42/limit', 'the limits table of one'],
    ],
    exits: [],
  },
  stat: {
    summary: 'print what guests use',
    description:
      'Prints processes, memory and CPU time of the host and of all running guests, or of the named guests, in the columns of vserver-stat: context, processes, address space, resident memory (anonymous and mapped), user and system time, uptime. With --json all that is counted of each guest. With --since what was used in the time past, also by guests that are gone; samples of each pass for two hours, of five minutes for a day, of an hour for sixty days.',
    operands: [ANY_GUESTS],
    command: 'none',
    options: {
      since: value('DURATION', 'what was used in the time past, for example 1h or 7d', parseTimeout),
    },
    examples: [
      ['vserver stat', 'the host and all running guests'],
      ['vserver stat --json web', 'one guest, for programs'],
      ['vserver stat --since 1h --json', 'samples of the last hour'],
    ],
    exits: [],
  },
  top: {
    summary: 'watch what guests use',
    description:
      'Shows the host and all running guests with their share of CPU time, again and again, in place if the output is a terminal. Keys: c, m, v, p, t, u, x, n sort by CPU, memory, address space, processes, CPU time, uptime, context, name; r turns the order around, blank looks again at once, q ends.',
    operands: [],
    command: 'none',
    options: {
      once: flag('print one table and end'),
      sort: value('KEY', 'what to sort by: cpu unless given', oneOf(TOP_KEYS), { choices: TOP_KEYS }),
      interval: value('DURATION', 'time between two looks: 2s unless given', parseInterval),
    },
    examples: [
      ['vserver top', 'in a terminal; q ends'],
      ['vserver top --once --sort memory --json', 'for programs'],
    ],
    exits: [],
  },
  traffic: {
    summary: 'print what guests have received and sent',
    description:
      'Prints packets and bytes of running guests with addresses of their own since their start, by protocol and family; of those with a network stack of their own altogether.',
    operands: [GUESTS],
    command: 'none',
    options: ALL,
    examples: [
      ['vserver traffic web', 'one guest'],
      ['vserver traffic --all --json', 'all guests, for programs'],
    ],
    exits: [],
  },
  denied: {
    summary: 'list what guests were refused in the network',
    description:
      'Lists what the fence around the network of running guests has refused: connections the policy does not allow, addresses that are not theirs, and the like. The latest come first.',
    operands: [GUESTS],
    command: 'none',
    options: ALL,
    examples: [
      ['vserver denied web', 'one guest'],
      ['vserver denied --all --json', 'all guests, for programs'],
    ],
    exits: [],
  },
  set: {
    summary: 'change the configuration of a guest',
    description:
      "Changes values in the guest's configuration file and keeps its comments. Limits and addresses change at once in a running guest, the rest with its next start. Without KEY=VALUE and options it prints the file.",
    operands: [GUEST, { name: 'KEY=VALUE', kind: 'text', min: 0, isMany: true, check: parseKeyValue }],
    command: 'none',
    options: {
      unset: list('KEY', 'give a key its default back', parseText),
      ipAdd: list('ADDRESS[/LENGTH]', 'give the guest one more address', parseAddress),
      ipRm: list('ADDRESS', 'take an address from the guest', parseAddress),
    },
    examples: [
      ['vserver set web limits.memory=1g limits.cpus=2', 'more room, at once'],
      ['vserver set web --unset limits.memory', 'no limit any more'],
      ['vserver set web --ip-add 10.0.0.6/24 --ip-rm 10.0.0.5', 'another address'],
    ],
    exits: [],
  },
  logs: {
    summary: 'print the output of a guest',
    description: "Prints what the guest's command wrote to standard output and error.",
    operands: [GUEST],
    command: 'none',
    options: {
      follow: flag('go on printing as the guest writes', 'f'),
      tail: value(
        'LINES',
        'only this many lines from the end',
        (text) => parseCount(text, 'number of lines', 0),
        {
          short: 'n',
        },
      ),
      health: flag("what the guest's health checks wrote"),
      hooks: flag("what the guest's hooks wrote, in place of its command"),
      timestamps: flag('put the time before each line', 't'),
    },
    examples: [
      ['vserver logs --tail 20 web', 'the last 20 lines'],
      ['vserver logs -f -t web', 'follow, with times'],
    ],
    exits: [],
  },
  events: {
    summary: 'print what happens to guests',
    description:
      'Prints the events of guests in their order, one on a line: those that are kept, about the last ten thousands, or with --follow those to come. With --json each is an object on one line, whose number "seq" is the cursor to go on from with --since, also after a restart of the daemon or the host.',
    operands: [],
    command: 'none',
    options: {
      since: value(
        'CURSOR|TIME',
        'only what came after the event of that number, or since a time or span such as 10m',
        parseEventStart,
      ),
      follow: flag('go on printing as things happen; without --since only those', 'f'),
      guest: list('GUEST', 'only events of this guest, by name or xid', parseText),
      type: joinedList('TYPE', 'only events of these kinds, separated by commas', parseEventTypes, {
        choices: EVENT_TYPE_NAMES,
      }),
    },
    examples: [
      ['vserver events --since 10m', 'the last ten minutes'],
      ['vserver events -f --guest web --type started,stopped', 'when a guest comes and goes'],
      ['vserver events --json -f --since 1790000000042', 'all that came after an event that is known'],
    ],
    exits: [],
  },
  wait: {
    summary: 'wait until guests have stopped',
    description: 'Waits until each guest has stopped and prints the exit code of its command.',
    operands: [GUESTS],
    command: 'none',
    options: {},
    examples: [
      ['vserver wait job', 'one guest'],
      ['vserver wait job1 job2', 'two guests, an exit code on each line'],
    ],
    exits: [],
  },
  delete: {
    summary: 'delete guests',
    description:
      'Deletes the root, the logs and the configuration of stopped guests; with --force running ones are killed first.',
    operands: [GUESTS],
    command: 'none',
    options: { ...ALL, force: flag('kill the guest first if it runs', 'f') },
    examples: [
      ['vserver delete web', 'a stopped guest'],
      ['vserver delete --force web db', 'whatever their state'],
    ],
    exits: [],
  },
  check: {
    summary: 'say what this host can do, or check configurations',
    description:
      "Without operands probes the host's kernel for all that vserver needs. With guests checks their configuration files.",
    operands: [ANY_GUESTS],
    command: 'none',
    options: {},
    examples: [
      ['vserver check', 'the host'],
      ['vserver check web', "a guest's configuration"],
    ],
    exits: [],
  },
  clone: {
    summary: 'create a guest from another one',
    description:
      "Creates a guest with the files and the configuration of another one. A guest that runs is frozen while its files are read. Addresses are not taken over: they are the other's.",
    operands: [
      GUEST,
      { name: 'NAME', kind: 'text', min: 1, isMany: false, check: parseGuestName },
      { name: 'KEY=VALUE', kind: 'text', min: 0, isMany: true, check: parseKeyValue },
    ],
    command: 'none',
    options: { ip: list('ADDRESS[/LENGTH]', 'give the clone this address', parseAddress) },
    examples: [
      ['vserver clone web web2', 'the same once more'],
      [
        'vserver clone web web2 --ip 10.0.0.6/24 limits.memory=1g',
        'with an address of its own, and more memory',
      ],
    ],
    exits: [],
  },
  snapshot: {
    summary: 'keep the present state of a guest',
    description:
      "Keeps the guest's files and configuration as they are, under a name; without one it is the time. A guest that runs is frozen while its files are read.",
    operands: [GUEST, { name: 'SNAPSHOT', kind: 'text', min: 0, isMany: false, check: parseText }],
    command: 'none',
    options: {
      keep: value('COUNT', 'forget the oldest ones beyond so many', (text) =>
        parseCount(text, 'number of snapshots', 1),
      ),
    },
    examples: [
      ['vserver snapshot web before-upgrade', 'by name'],
      ['vserver snapshot web --keep 7', 'by time, and no more than seven'],
    ],
    exits: [],
  },
  snapshots: {
    summary: 'list the snapshots of a guest',
    description:
      'Lists the snapshots of a guest, the oldest first. The space of forgotten ones comes back with `vserver store gc`.',
    operands: [GUEST],
    command: 'none',
    options: { forget: list('SNAPSHOT', 'delete this snapshot first', parseText) },
    examples: [
      ['vserver snapshots web', 'all of a guest'],
      ['vserver snapshots web --forget before-upgrade', 'without that one from now on'],
    ],
    exits: [],
  },
  rollback: {
    summary: 'give a guest the state of a snapshot back',
    description:
      'Gives a stopped guest the files and the configuration of a snapshot, in one step. What it has now is lost, unless it is a snapshot too.',
    operands: [GUEST, { name: 'SNAPSHOT', kind: 'text', min: 1, isMany: false, check: parseText }],
    command: 'none',
    options: { keepConfig: flag('only the files') },
    examples: [
      ['vserver rollback web before-upgrade', 'files and configuration'],
      ['vserver rollback web --keep-config before-upgrade', 'files only'],
    ],
    exits: [],
  },
  diff: {
    summary: 'show what changed in the files of a guest',
    description:
      'Prints the names of files that were added (A), changed (C) or deleted (D): since the guest was made from its template, since a snapshot, or from one snapshot to another. What was in a deleted directory is not listed. With --json it is said what of a file changed. A guest that runs is frozen while its files are read.',
    operands: [GUEST, { name: 'SNAPSHOT', kind: 'text', min: 0, isMany: true, check: parseText }],
    command: 'none',
    options: {},
    examples: [
      ['vserver diff web', 'against its template'],
      ['vserver diff web before-upgrade', 'against a snapshot'],
      ['vserver diff web monday tuesday', 'of two snapshots'],
    ],
    exits: [],
  },
  du: {
    summary: 'show what guests take on disk',
    description:
      'Prints what each guest has on disk: its own files, and of the store the files that nobody else needs (ALONE), among them those of its snapshots, and those that others have too (SHARED). What a guest takes is its own and ALONE: that comes back when it is deleted, with `vserver store gc`.',
    operands: [ANY_GUESTS],
    command: 'none',
    options: {},
    examples: [
      ['vserver du', 'all guests'],
      ['vserver du web --json', 'one, for programs'],
    ],
    exits: [],
  },
  quota: {
    summary: 'show and set quotas of users in a guest',
    description:
      "Prints what users and groups of a guest have on disk, their limits, and when a soft limit that is exceeded turns hard; with limits, sets those of users and groups at once. They are those that setquota and repquota in the guest tell, which needs --ccaps quota_ctl; from here they are set in any guest whose own files are on ext4 or xfs with quotas in force. The guest's root is held to them too.",
    operands: [GUEST],
    command: 'none',
    options: {
      user: list('USER', 'set limits of this user: a number, or a name while the guest runs', parseText, {
        short: 'u',
      }),
      group: list('GROUP', 'likewise of this group', parseText, { short: 'g' }),
      space: value('SIZE', 'bytes of files; 0 = no limit', parseSize),
      spaceSoft: value('SIZE', 'bytes that may be exceeded for the grace time', parseSize),
      inodes: value('COUNT', 'files and directories; 0 = no limit', parseAmount),
      inodesSoft: value('COUNT', 'files that may be exceeded for the grace time', parseAmount),
    },
    examples: [
      ['vserver quota web', 'all users and groups'],
      ['vserver quota web --user joe --space 100m --space-soft 80m', 'limits of one'],
      ['vserver quota web -u 1000 -u 1001 --inodes 0 --json', 'no limit of files for two'],
    ],
    exits: [],
  },
  owner: {
    summary: 'tell whose a file on disk is',
    description:
      "Tells which guest a file on the host's disk belongs to, by its owner: xid, name, and user and group as the guest sees them. Links are not followed.",
    operands: [{ name: 'FILE', kind: 'text', min: 1, isMany: true, check: parseText }],
    command: 'none',
    options: {},
    examples: [
      ['vserver owner /srv/upload/report', 'whose it is'],
      ['vserver owner --json /srv/a /srv/b', 'for programs'],
    ],
    exits: [],
  },
  retag: {
    summary: 'move a guest to another xid',
    description:
      "Gives a stopped guest another xid, and with it other owners on the host's disk. What it wrote becomes a part of its image, as by `vserver unify`; the guest sees no difference. A guest that follows template host or a directory and has written something is left alone: clone it.",
    operands: [GUEST, { name: 'XID', kind: 'text', min: 1, isMany: false, check: parseXid }],
    command: 'none',
    options: {},
    examples: [
      ['vserver retag web 77', 'to xid 77'],
      ['vserver retag 1000 77', 'the guest that has xid 1000'],
    ],
    exits: [],
  },
  export: {
    summary: 'write a guest to an archive',
    description:
      "Writes the guest's files and configuration to a tar archive that other tools can read too, and `vserver import` makes a guest of, here or elsewhere. A guest that runs is frozen while its files are read, not while they are written. A file is there only when it is whole.",
    operands: [GUEST],
    command: 'none',
    options: {
      output: value('FILE', 'write to this file, - is standard output (the default)', parseText, {
        short: 'o',
      }),
      zstd: flag('compress by zstd; a FILE that ends in .zst is anyway', 'z'),
      snapshots: flag('with its snapshots'),
    },
    examples: [
      ['vserver export web -o web.tar.zst', 'to a file'],
      ['vserver export web -z', 'to standard output, which is a pipe: | ssh other vserver import -'],
    ],
    exits: [],
  },
  import: {
    summary: 'create a guest from an archive',
    description:
      'Creates a guest from an archive that `vserver export` wrote, under the name that it had or another one. Files that are not what was exported are refused. So is a configuration that reaches the host (mounts of its directories, hooks, network: host, another seccomp profile, further capabilities), unless it is trusted. Its xid stays as it was if that is free.',
    operands: [
      { name: 'FILE', kind: 'text', min: 1, isMany: false, check: parseText },
      { name: 'NAME', kind: 'text', min: 0, isMany: false, check: parseGuestName },
      { name: 'KEY=VALUE', kind: 'text', min: 0, isMany: true, check: parseKeyValue },
    ],
    command: 'none',
    options: {
      xid: value('XID', 'number of the context, 2 to 65535', parseXid),
      ip: list('ADDRESS[/LENGTH]', 'give it this address in the place of those it had', parseAddress),
      trustConfig: flag('take over what in its configuration reaches the host'),
      maxSize: value('SIZE', 'most that its files may be, default 64g', parseSize),
    },
    examples: [
      ['vserver import web.tar.zst', 'as it was'],
      ['vserver import web.tar web2 --ip 10.0.0.7/24', 'under another name, with an address of its own'],
    ],
    exits: [],
  },
  unify: {
    summary: 'let guests share what they wrote alike',
    description:
      'Makes what stopped guests wrote a part of their images, so that files which are the same are on disk and in memory once. Guests see no difference. A guest that runs is done before its next start.',
    operands: [GUESTS],
    command: 'none',
    options: { ...ALL, dryRun: flag('only say what it would save', 'n') },
    examples: [
      ['vserver unify web web2', 'two guests'],
      ['vserver unify --all --dry-run', 'what it would save'],
    ],
    exits: [],
  },
  store: {
    summary: 'look after what guests share on disk',
    description:
      'Says what the store of images and files holds; checks every byte of it, but for objects that the file system vouches for by fs-verity; or deletes images that no guest and no snapshot needs, and files of no image. Images of templates stay, unless their trust domain has no guest any more. There is a store for each trust domain.',
    operands: [
      {
        name: 'ACTION',
        kind: 'text',
        min: 0,
        isMany: false,
        check: oneOf(STORE_ACTIONS),
        choices: STORE_ACTIONS,
      },
    ],
    command: 'none',
    options: {
      dryRun: flag('only say what would be deleted (gc)'),
      full: flag('read also what the file system vouches for (check)'),
      trustDomain: value('NAME', 'the store of this trust domain alone', parseText),
    },
    examples: [
      ['vserver store stat', 'what there is, and how much is shared'],
      ['vserver store check', 'read everything and compare'],
      ['vserver store check --full', 'objects sealed by fs-verity too'],
      ['vserver store gc --dry-run', 'what nobody needs'],
    ],
    exits: [],
  },
  version: {
    summary: 'print the version',
    description: 'Prints the versions of the client and the daemon.',
    operands: [],
    command: 'none',
    options: {},
    examples: [
      ['vserver version', 'for people'],
      ['vserver version --json', 'for programs'],
    ],
    exits: [],
  },
  completion: {
    summary: 'print a completion script for a shell',
    description: 'Prints a script that completes verbs, options and the names of guests.',
    operands: [{ name: 'SHELL', kind: 'text', min: 1, isMany: false, check: oneOf(SHELLS), choices: SHELLS }],
    command: 'none',
    options: {},
    examples: [
      ['source <(vserver completion bash)', 'in the bash of now'],
      ['vserver completion fish > ~/.config/fish/completions/vserver.fish', 'for every fish'],
    ],
    exits: [],
  },
  daemon: {
    summary: 'start and stop the daemon',
    description:
      'Starts or stops the daemon, or says whether it runs and what it can do on this host. It does not stop while guests run, unless they are to be stopped too.',
    operands: [
      {
        name: 'ACTION',
        kind: 'text',
        min: 1,
        isMany: false,
        check: oneOf(DAEMON_ACTIONS),
        choices: DAEMON_ACTIONS,
      },
    ],
    command: 'none',
    options: { guests: flag('stop running guests first (stop)') },
    examples: [
      ['vserver daemon start', 'start it in the background'],
      ['vserver --root /tmp/try daemon status', 'whether one runs with another state directory'],
    ],
    exits: [['3', 'the daemon does not run (status)']],
  },
  help: {
    summary: 'explain a verb',
    description: 'Lists the verbs, or explains one.',
    operands: [{ name: 'VERB', kind: 'text', min: 0, isMany: false, check: parseText }],
    command: 'none',
    options: {},
    examples: [
      ['vserver help', 'all verbs'],
      ['vserver help run', 'the same as vserver run --help'],
    ],
    exits: [],
  },
};

/** The verbs' names in the order of the help. */
export const VERB_NAMES: readonly Verb[] = Object.keys(VERBS).filter((name): name is Verb =>
  Object.hasOwn(VERBS, name),
);

/** Finds a verb by its name or another name it has. */
export function findVerb(word: string): Verb | undefined {
  return VERB_NAMES.find((name) => name === word) ?? VERB_ALIASES.get(word);
}
