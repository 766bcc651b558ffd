/** The options by which the command line configures a guest. */
import { parseGuestName, parseXid } from '../base/ids.ts';
import { parseCount, parseSize } from '../base/units.ts';
import { CONTEXT_CAPABILITIES } from '../context/capabilities.ts';
import { HEALTH_ACTIONS, MAX_RETRIES, RESTART_POLICIES } from '../guest/config-schema.ts';
import { BUILD_ONLY } from './build-options.ts';
import { flag, joinedList, list, type Option, type OptionTable, optional, value } from './option.ts';
import {
  oneOf,
  parseAddress,
  parseBcaps,
  parseCapAdd,
  parseCapDrop,
  parseCommand,
  parseCpuCount,
  parseCpuShares,
  parseCpuWeight,
  parseDepends,
  parseEnv,
  parseHost,
  parseKeyValue,
  parseLabel,
  parseMark,
  parseMount,
  parsePidsLimit,
  parseRestart,
  parseSecurityOption,
  parseSignalName,
  parseSizeLimit,
  parseText,
  parseTimeout,
  parseTmpfs,
  parseTrafficQuota,
  parseUlimitSetting,
  parseVolume,
} from './option-values.ts';
import type { ConfigOptions, CreateOptions, VerbOptions } from './verb-types.ts';

const INIT_STYLES = ['fake', 'none', 'own'] as const;
const NETWORK_MODES = ['isolated', 'private', 'none', 'host'] as const;

/** `--user`, of a guest or of one command. */
export const USER: Option<string | undefined> = value(
  'USER',
  'USER or USER:GROUP in the guest, names or numbers',
  parseText,
  { short: 'u' },
);
/** `--workdir`, likewise. */
export const WORKDIR: Option<string | undefined> = value('DIR', 'working directory in the guest', parseText, {
  short: 'w',
});
/** `--env`, likewise. */
export const ENV: Option<ConfigOptions['env']> = list(
  'NAME[=VALUE]',
  "set a variable; without a value take the caller's",
  parseEnv,
  {
    short: 'e',
  },
);
/** `--env-file`, likewise. */
export const ENV_FILE: Option<readonly string[]> = list(
  'FILE',
  'read variables from a file, one NAME=VALUE on a line',
  parseText,
);

const CONFIG: OptionTable<ConfigOptions> = {
  template: value(
    'NAME',
    "what the guest's root starts from: host (the default), busybox, skeleton (no programs), or a directory or archive as directory:PATH or tarball:PATH",
    parseText,
  ),
  trustDomain: value(
    'NAME',
    'files of its images are shared with guests of this domain only (default: default)',
    parseText,
  ),
  xid: value('XID', 'number of the context, 2 to 65535', parseXid),
  command: value(
    'TEXT',
    'command and arguments as one text, split as the shell does but not expanded',
    parseCommand,
  ),
  env: ENV,
  envFile: ENV_FILE,
  user: USER,
  workdir: WORKDIR,
  hostname: value('NAME', "host name, default the guest's name", parseText),
  domainname: value('NAME', 'NIS domain name', parseText),
  init: optional(
    'STYLE',
    'process 1: fake = a tiny built-in init (the default), none = the command itself, own = the command is an init',
    oneOf(INIT_STYLES),
    'fake',
    { choices: INIT_STYLES },
  ),
  memory: value('SIZE', 'memory limit, for example 512m', parseSizeLimit, { short: 'm' }),
  memorySwap: value('SIZE', 'limit of memory and swap together', parseSizeLimit),
  cpus: value('NUMBER', 'CPU time limit as a number of CPUs, for example 1.5', parseCpuCount),
  cpuShares: value('SHARES', "share of contended CPUs in Docker's unit, 2 to 262144", parseCpuShares),
  cpuWeight: value('WEIGHT', 'share of contended CPUs, 1 to 10000', parseCpuWeight),
  pidsLimit: value('COUNT', 'limit of processes and threads', parsePidsLimit),
  shmSize: value('SIZE', 'size of /dev with /dev/shm', parseSize),
  disk: value('SIZE', 'how much the guest may write, for example 2g', parseSize),
  diskInodes: value('COUNT', 'how many files it may make (with --disk)', (text) =>
    parseCount(text, 'number of files', 16),
  ),
  network: value(
    'MODE',
    "isolated = its --ip addresses on the host's network (the default with --ip), private = a network stack of its own behind a veth, none = loopback only, host = the host's network unfenced",
    oneOf(NETWORK_MODES),
    { choices: NETWORK_MODES },
  ),
  ip: list('ADDRESS[/LENGTH]', 'address of the guest, IPv4 or IPv6, for example 10.0.0.5/24', parseAddress),
  networkInterface: value(
    'NAME',
    'interface of the host that gets the addresses while the guest runs',
    parseText,
  ),
  bridge: value(
    'NAME',
    "with --network private: bridge of the host that the guest's interface is put into",
    parseText,
  ),
  gateway: list('ADDRESS', "with --network private: the guest's way to everywhere else", parseText),
  trafficQuota: value(
    'SIZE/PERIOD',
    'most that is sent and received in a day or a month, for example 100g/month; the rest is dropped',
    parseTrafficQuota,
  ),
  dns: list('ADDRESS', "server that is asked for names; default the host's", parseText),
  dnsSearch: list('DOMAIN', 'domain in which short names are looked for', parseText),
  addHost: list('NAME:ADDRESS', 'further line of /etc/hosts', parseHost),
  networkOf: value('GUEST', 'share the addresses and the loopback of another guest', parseGuestName),
  capAdd: list('NAME', 'add a capability to the upper bound', parseCapAdd),
  capDrop: list('NAME', 'remove a capability from the upper bound', parseCapDrop),
  bcaps: joinedList(
    'LIST',
    'change the upper bound of capabilities, for example +NET_RAW,-MKNOD',
    parseBcaps,
  ),
  ccaps: list(
    'NAME',
    "give the guest's root a part of a capability: raw_icmp = ping, quota_ctl = quotas of its users",
    oneOf(CONTEXT_CAPABILITIES),
    {
      choices: CONTEXT_CAPABILITIES,
    },
  ),
  securityOpt: list(
    'OPTION',
    'seccomp=default|unconfined|/PATH or no-new-privileges[=false]',
    parseSecurityOption,
  ),
  ulimit: list('NAME=SOFT[:HARD]', 'resource limit of setrlimit(2)', parseUlimitSetting),
  readOnly: flag("mount the guest's root read-only"),
  tmpfs: list('TARGET[:OPTIONS]', 'mount a tmpfs, for example /tmp:size=64m', parseTmpfs),
  volume: list(
    'SOURCE:TARGET[:OPTIONS]',
    'mount a path of the host; ro, noexec, idmap=host, idmap=shared or idmap=XID',
    parseVolume,
    { short: 'v' },
  ),
  mount: list('FIELDS', 'mount with named fields, for example type=bind,source=/a,target=/b', parseMount),
  sysctl: list('KEY=VALUE', "set one of the guest's own kernel parameters", parseKeyValue),
  stopSignal: value('SIGNAL', 'signal that asks the guest to stop', parseSignalName),
  stopTimeout: value(
    'DURATION',
    'time until what is left is killed; a bare number counts seconds',
    parseTimeout,
  ),
  restart: value(
    'POLICY',
    'when the guest is started again by itself: no, on-failure[:COUNT], always or unless-stopped',
    parseRestart,
    { choices: RESTART_POLICIES },
  ),
  mark: list(
    'MARK',
    'group of the guest, for start --mark; guests marked default come up with the host',
    parseMark,
  ),
  depends: list(
    'GUEST[:healthy]',
    'guest that is started before this one when they are started together; this one may wait for its health',
    parseDepends,
  ),
  healthCmd: value(
    'COMMAND',
    "check of the guest's health, run by its shell: exit code 0 is healthy",
    parseText,
  ),
  healthInterval: value('DURATION', 'time between two checks, default 30s', parseTimeout),
  healthTimeout: value('DURATION', 'time until a check has failed, default 30s', parseTimeout),
  healthRetries: value('COUNT', 'failures in a row that make the guest unhealthy, default 3', (text) =>
    parseCount(text, 'count of retries', 1, MAX_RETRIES),
  ),
  healthStartPeriod: value(
    'DURATION',
    'time after the start in which failures do not count, default 0',
    parseTimeout,
  ),
  healthOnFailure: value(
    'ACTION',
    'what is done with an unhealthy guest: none (the default), restart, kill or stop',
    oneOf(HEALTH_ACTIONS),
    { choices: HEALTH_ACTIONS },
  ),
  label: list('KEY[=VALUE]', 'set a label', parseLabel),
};

/** What `create` and `run` take. */
export const CREATE: OptionTable<CreateOptions> = {
  name: value('NAME', 'name of the guest', parseGuestName),
  ...CONFIG,
};

const { short: _, ...MEMORY } = CONFIG.memory;
/** What `build` takes: `-m` is the method there. */
export const BUILD: OptionTable<VerbOptions['build']> = { ...CREATE, memory: MEMORY, ...BUILD_ONLY };
