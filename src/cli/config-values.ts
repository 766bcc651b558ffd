import { resolve } from 'node:path';
import { UserError } from '../base/errors.ts';
import { formatDuration, formatSize } from '../base/units.ts';
import type { GuestConfigValues, GuestMountValues } from '../guest/config-types.ts';
import { type EnvSetting, parseEnv } from './option-values.ts';
import type { ConfigOptions, VerbOptions } from './verb-types.ts';

/**
 * Turns the options of `run` and `create` into the values of a guest's configuration file.
 *
 * @param command what followed the options; empty when nothing did
 * @param env     already resolved with `resolveEnv`
 * @param cwd     directory of the client, from which relative paths of the host lead
 */
export function configValuesOf(
  options: ConfigOptions,
  command: readonly string[],
  env: Readonly<Record<string, string>>,
  cwd: string,
): GuestConfigValues {
  const words = command.length > 0 ? command : options.command;
  const caps = [...options.capAdd, ...options.capDrop];
  // As in Docker, ALL counts before single names wherever it stands: --cap-add CHOWN --cap-drop ALL leaves CHOWN.
  const bcaps = [...options.bcaps, ...caps.filter(isAll), ...caps.filter((cap) => !isAll(cap))];
  const mounts = [...options.volume, ...options.mount, ...options.tmpfs].map((one) =>
    resolveSource(one, cwd),
  );
  return defined({
    xid: options.xid,
    template: options.template === undefined ? undefined : resolveTemplate(options.template, cwd),
    trustDomain: options.trustDomain,
    command: words,
    env: unlessEmpty(env),
    user: options.user,
    cwd: options.workdir,
    hostname: options.hostname,
    domainname: options.domainname,
    init: options.init,
    stop: unlessEmpty(
      defined({
        signal: options.stopSignal,
        timeout: durationText(options.stopTimeout),
      }),
    ),
    boot: unlessEmpty(
      defined({
        marks: options.mark.length === 0 ? undefined : options.mark,
        depends: options.depends.length === 0 ? undefined : options.depends,
      }),
    ),
    health: healthValuesOf(options),
    restart: options.restart && defined(options.restart),
    limits: unlessEmpty(
      defined({
        memory: sizeText(options.memory),
        memorySwap: sizeText(options.memorySwap),
        pids: options.pidsLimit,
        cpus: options.cpus,
        cpuWeight: options.cpuWeight ?? options.cpuShares,
        shm: sizeText(options.shmSize),
      }),
    ),
    disk:
      options.disk === undefined
        ? undefined
        : { space: formatSize(options.disk), ...defined({ inodes: options.diskInodes }) },
    network: unlessEmpty(
      defined({
        mode: options.network,
        addresses: options.ip.length === 0 ? undefined : options.ip,
        interface: options.networkInterface,
        bridge: options.bridge,
        gateways: options.gateway.length === 0 ? undefined : options.gateway,
        shareWith: options.networkOf,
        quota: options.trafficQuota,
        dns: options.dns.length === 0 ? undefined : options.dns,
        search: options.dnsSearch.length === 0 ? undefined : options.dnsSearch,
        hosts: unlessEmpty(Object.fromEntries(options.addHost)),
      }),
    ),
    ccaps: options.ccaps.length === 0 ? undefined : options.ccaps,
    bcaps: bcaps.length === 0 ? undefined : bcaps,
    seccomp: options.securityOpt.findLast((one) => one.kind === 'seccomp')?.choice,
    noNewPrivileges: options.securityOpt.findLast((one) => one.kind === 'noNewPrivileges')?.isOn,
    rlimits: unlessEmpty(Object.fromEntries(options.ulimit.map(({ name, limit }) => [name, limit]))),
    readonlyRoot: options.readOnly ? true : undefined,
    mounts: mounts.length === 0 ? undefined : mounts,
    sysctls: unlessEmpty(Object.fromEntries(options.sysctl)),
    labels: unlessEmpty(Object.fromEntries(options.label)),
  });
}

/** Returns the options of `create` that those of `build` mean: Linux-VServer's names stand behind ours. */
export function createOptionsOf(options: VerbOptions['build']): ConfigOptions {
  const devices = options.interface.flatMap(({ device }) => device ?? []);
  return {
    ...options,
    ip: [...options.ip, ...options.interface.map(({ address }) => address)],
    xid: options.xid ?? options.context,
    networkInterface: options.networkInterface ?? options.netdev ?? devices[0],
    init: options.init ?? options.initstyle ?? options.flags,
  };
}

function healthValuesOf(options: ConfigOptions): GuestConfigValues['health'] {
  const values = defined({
    test: options.healthCmd === undefined ? undefined : ['sh', '-c', options.healthCmd],
    interval: durationText(options.healthInterval),
    timeout: durationText(options.healthTimeout),
    retries: options.healthRetries,
    startPeriod: durationText(options.healthStartPeriod),
    onFailure: options.healthOnFailure,
  });
  if (values.test === undefined && Object.keys(values).length > 0) {
    throw new UserError('usage', 'cannot use options of a health check: found no check; need --health-cmd');
  }
  return unlessEmpty(values);
}

function durationText(durationMs: number | undefined): string | undefined {
  return durationMs === undefined ? undefined : formatDuration(durationMs);
}

/**
 * Joins the variables of files and options; options win, and the last of equal names.
 *
 * @param files     contents of the env files, in the order they were named
 * @param clientEnv environment of the client, for names without a value; a name it lacks is left out, as in Docker
 */
export function resolveEnv(
  files: readonly string[],
  settings: readonly EnvSetting[],
  clientEnv: Readonly<Record<string, string | undefined>>,
): Readonly<Record<string, string>> {
  const all = [...files.flatMap(parseEnvFile), ...settings];
  const resolved = all.map(({ name, value }) => [name, value ?? clientEnv[name]] as const);
  return Object.fromEntries(
    resolved.filter((pair): pair is readonly [string, string] => pair[1] !== undefined),
  );
}

/**
 * Parses an env file: one `NAME=VALUE` or `NAME` on a line, taken as it stands without quotes; empty lines and lines
 * that begin with `#` do not count.
 *
 * @throws UserError usage with the line's number
 */
export function parseEnvFile(text: string): readonly EnvSetting[] {
  return text.split(/\r?\n/).flatMap((line, index) => {
    if (line.trim() === '' || line.startsWith('#')) return [];
    try {
      return [parseEnv(line)];
    } catch (error) {
      if (!(error instanceof UserError)) throw error;
      throw new UserError('usage', `cannot read line ${index + 1} of an env file: ${error.message}`, {
        cause: error,
      });
    }
  });
}

/** Template names are words, perhaps with a path behind a colon; what has a slash or begins with a dot is a path. */
function resolveTemplate(template: string, cwd: string): string {
  const [, prefix = '', path = template] = /^(directory:|tarball:)(.+)$/s.exec(template) ?? [];
  const isPath = prefix !== '' || template.includes('/') || template.startsWith('.');
  return isPath ? prefix + resolve(cwd, path) : template;
}

function resolveSource(mount: GuestMountValues, cwd: string): GuestMountValues {
  return mount.source === undefined ? mount : { ...mount, source: resolve(cwd, mount.source) };
}

function isAll(cap: string): boolean {
  return cap.slice(1) === 'ALL';
}

function sizeText(bytes: number | 'max' | undefined): string | undefined {
  return typeof bytes === 'number' ? formatSize(bytes) : bytes;
}

type Defined<Fields> = { [Name in keyof Fields]?: Exclude<Fields[Name], undefined> };

function defined<Fields extends object>(fields: Fields): Defined<Fields> {
  const kept: Record<string, unknown> = {};
  for (const [name, value] of Object.entries(fields)) if (value !== undefined) kept[name] = value;
  return kept as Defined<Fields>;
}

function unlessEmpty<Fields extends object>(fields: Fields): Fields | undefined {
  return Object.keys(fields).length === 0 ? undefined : fields;
}
