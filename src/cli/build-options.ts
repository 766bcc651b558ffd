/**
 * What `vserver build` takes: the options of `create`, the original's spellings of some of them, and behind `--` the
 * words of the method.
 */
import { resolve } from 'node:path';
import { UserError } from '../base/errors.ts';
import { parseXid, type Xid } from '../base/ids.ts';
import type { BuildSource } from '../guest/builds.ts';
import type { InitStyle } from '../guest/config-types.ts';
import { hostPlatform, type Platform, parsePlatform } from '../spec/oci-image.ts';
import { DEBIAN_VARIANTS, type DebianVariant } from '../storage/debian-archive.ts';
import { flag, joinedList, list, type OptionTable, value } from './option.ts';
import { oneOf, parseAddress, parseBoolean, parseText } from './option-values.ts';
import { parseOptions } from './parse-options.ts';

/** Options of `build` beside those of `create`. */
export interface BuildOnlyOptions {
  readonly method: BuildMethod | undefined;
  readonly force: boolean;
  readonly context: Xid | undefined;
  readonly netdev: string | undefined;
  readonly interface: readonly InterfaceSetting[];
  readonly initstyle: InitStyle | undefined;
  readonly flags: InitStyle | undefined;
}

/** One `--interface`: an address, and the interface of the host that gets it. */
export interface InterfaceSetting {
  readonly address: string;
  readonly device: string | undefined;
}

/** What the words of a method say. */
export interface MethodWords {
  readonly source: BuildSource;
  readonly labels: Readonly<Record<string, string>>;
}

interface Method {
  /** For help. */
  readonly usage: string;
  /** `ownInit`: the guest is to have an init of its own. */
  readonly parse: (words: readonly string[], cwd: string, ownInit: boolean) => MethodWords;
}

interface TemplateWords {
  readonly template: readonly string[];
  readonly distribution: string | undefined;
}

const TEMPLATE: OptionTable<TemplateWords> = {
  template: list('FILE', 'archive', parseText, { short: 't' }),
  distribution: value('NAME', 'what it holds, kept as a label', parseText, { short: 'd' }),
};

interface SourceWords {
  readonly source: string | undefined;
}

const SOURCE: OptionTable<SourceWords> = {
  source: value('SOURCE', 'what is copied', parseText, { short: 's' }),
};

/** Names of the methods. */
export const BUILD_METHODS = [
  'host',
  'busybox',
  'skeleton',
  'template',
  'directory',
  'rsync',
  'clone',
  'oci',
  'debootstrap',
  'mmdebstrap',
] as const;

/** How an image comes about. */
export type BuildMethod = (typeof BUILD_METHODS)[number];

interface RsyncWords extends SourceWords {
  readonly option: readonly string[];
}

const RSYNC: OptionTable<RsyncWords> = {
  ...SOURCE,
  option: list('OPTION', 'option of rsync', parseText, { short: 'o' }),
};

interface OciWords {
  readonly platform: Platform | undefined;
  readonly tlsVerify: boolean | undefined;
}

const OCI: OptionTable<OciWords> = {
  platform: value('OS/ARCHITECTURE[/VARIANT]', "which of an image's platforms", parsePlatform),
  tlsVerify: value('true|false', 'whether a registry has to prove who it is', parseBoolean),
};

interface DebianWords {
  readonly distribution: string | undefined;
  readonly mirror: string | undefined;
  readonly variant: DebianVariant | undefined;
  readonly include: readonly string[];
  readonly components: readonly string[];
  readonly keyring: string | undefined;
}

const DEBIAN: OptionTable<DebianWords> = {
  distribution: value('SUITE', 'for example bookworm or trixie', parseSuite, { short: 'd' }),
  mirror: value('URL', "the archive; default the host's, with the suite's updates", parseMirror, {
    short: 'm',
  }),
  variant: value('NAME', 'set of packages', oneOf(DEBIAN_VARIANTS), { choices: DEBIAN_VARIANTS }),
  include: joinedList('PACKAGES', 'further packages', parsePackages),
  components: joinedList('NAMES', 'parts of the archive', parsePackages),
  keyring: value('FILE', 'keys of the archive', parseText),
};
const KEYRING = '/usr/share/keyrings/debian-archive-keyring.gpg';
/** What an init of its own takes in Debian. */
const OWN_INIT = ['systemd-sysv', 'dbus'] as const;

const METHODS: Readonly<Record<BuildMethod, Method>> = {
  host: { usage: '', parse: (words) => fixed('host', words) },
  busybox: { usage: '', parse: (words) => fixed('busybox', words) },
  skeleton: { usage: '', parse: (words) => fixed('skeleton', words) },
  template: { usage: '-t FILE… [-d DISTRIBUTION]', parse: parseTemplate },
  directory: { usage: '-s DIRECTORY', parse: parseDirectory },
  rsync: { usage: '-s [USER@HOST:]DIRECTORY [-o OPTION]', parse: parseRsync },
  clone: { usage: '-s GUEST', parse: parseClone },
  debootstrap: { usage: '-d SUITE [-m MIRROR] [--include PACKAGES]', parse: parseDebian },
  mmdebstrap: { usage: 'as debootstrap', parse: parseDebian },
  oci: { usage: 'IMAGE [--platform linux/arm64]', parse: parseOci },
};

/** Says in one line how each method's words go. */
export function describeMethods(): string {
  return Object.entries(METHODS)
    .map(([name, { usage }]) => (usage === '' ? name : `${name} -- ${usage}`))
    .join('; ');
}

/**
 * Parses what stands behind the `--`.
 *
 * @param cwd directory of the client, from which relative paths of the host lead
 * @throws UserError usage
 */
export function parseMethodWords(
  method: BuildMethod,
  words: readonly string[],
  cwd: string,
  ownInit: boolean,
): MethodWords {
  return METHODS[method].parse(words, cwd, ownInit);
}

/** The options of `build` that `create` does not have. */
export const BUILD_ONLY: OptionTable<BuildOnlyOptions> = {
  method: value('METHOD', `how the image comes about: ${BUILD_METHODS.join(', ')}`, oneOf(BUILD_METHODS), {
    short: 'm',
    choices: BUILD_METHODS,
  }),
  force: flag('replace a stopped guest of that name'),
  context: value('XID', "Linux-VServer's name of --xid", parseXid),
  netdev: value('NAME', "Linux-VServer's name of --network-interface", parseText),
  interface: list(
    '[DEVICE:]ADDRESS[/LENGTH]',
    'address of the guest, and the interface of the host that gets it, as Linux-VServer has it',
    parseInterface,
  ),
  initstyle: value(
    'STYLE',
    "Linux-VServer's name for process 1: plain = an init of its own, fake = the built-in one",
    (text): InitStyle => (oneOf(['plain', 'fake'])(text) === 'plain' ? 'own' : 'fake'),
    { choices: ['plain', 'fake'] },
  ),
  flags: value(
    'LIST',
    'context flags of Linux-VServer that every guest has here, and fakeinit: the built-in process 1',
    parseFlags,
  ),
};

/** Flags of the original that say what is so here for every guest. */
const USUAL_FLAGS = [
  'lock',
  'nproc',
  'ulimit',
  'hideinfo',
  'hide_vinfo',
  'hide_mount',
  'hide_netif',
  'virt_mem',
  'virt_uptime',
  'virt_cpu',
  'virt_load',
  'sc_helper',
  'namespace',
] as const;

function parseFlags(text: string): InitStyle | undefined {
  if (text.split(',').includes('virt_time'))
    throw new UserError(
      'invalid-value',
      'cannot use flag "virt_time": found no kernel that gives a guest a wall clock of its own; need a guest without',
      {
        hint: "uptime is a guest's own always; another date for one program: faketime(1)",
      },
    );
  const words = text.split(',').map(oneOf(['fakeinit', ...USUAL_FLAGS]));
  return words.includes('fakeinit') ? 'fake' : undefined;
}

/** Parses the original's `[NAME=][DEVICE:]ADDRESS[/LENGTH]`; `nodev:` is no device. An IPv6 address may be in brackets. */
function parseInterface(text: string): InterfaceSetting {
  const [, device, address = ''] =
    /^(?:[\w.-]+=)?(?:([A-Za-z][\w.-]*):)?\[?([\da-fA-F.:]+\]?(?:\/[\d.]+)?)$/.exec(text) ?? [];
  const [host = '', mask] = address.replace(']', '').split('/');
  const length = mask?.includes('.') ? prefixLength(mask) : mask;
  return {
    address: parseAddress(length === undefined ? host : `${host}/${length}`),
    device: device === 'nodev' ? undefined : device,
  };
}

/** Returns how many bits of a mask such as 255.255.255.0 are set. @throws UserError usage */
function prefixLength(mask: string): string {
  const bits = mask
    .split('.')
    .map((part) => Number(part).toString(2).padStart(8, '0'))
    .join('');
  if (/^1*0*$/.test(bits) && bits.length === 32) return String(bits.replaceAll('0', '').length);
  throw new UserError(
    'usage',
    `cannot use ${JSON.stringify(mask)} as a mask; need one such as 255.255.255.0`,
  );
}

function fixed(name: string, words: readonly string[]): MethodWords {
  const { operands } = parseOptions({}, `build -m ${name}`, words);
  refuseMore(name, operands);
  return { source: { kind: 'template', name }, labels: {} };
}

function parseTemplate(words: readonly string[], cwd: string): MethodWords {
  const { options, operands } = parseOptions(TEMPLATE, 'build -m template', words);
  const [path, ...more] = [...options.template, ...operands].map((one) => resolve(cwd, one));
  if (path === undefined) throw needs('template');
  const { distribution } = options;
  return {
    source:
      more.length === 0
        ? { kind: 'template', name: `tarball:${path}` }
        : { kind: 'archives', paths: [path, ...more] },
    labels: distribution === undefined ? {} : { distribution },
  };
}

function parseClone(words: readonly string[]): MethodWords {
  const [name, more] = parseSource('clone', words);
  refuseMore('clone', more);
  return { source: { kind: 'clone', name }, labels: {} };
}

function parseDirectory(words: readonly string[], cwd: string): MethodWords {
  const [path, more] = parseSource('directory', words);
  refuseMore('directory', more);
  return { source: { kind: 'directory', path: resolve(cwd, path) }, labels: {} };
}

function parseRsync(words: readonly string[], cwd: string): MethodWords {
  const { options, operands } = parseOptions(RSYNC, 'build -m rsync', words);
  const [given, ...more] = options.source === undefined ? operands : [options.source, ...operands];
  if (given === undefined) throw needs('rsync');
  const isRemote = /^[^/]+:/.test(given);
  const source = isRemote ? given : resolve(cwd, given);
  return { source: { kind: 'rsync', source, options: [...options.option, ...more] }, labels: {} };
}

/** As in skopeo an image has its transport before it; a name alone is a registry's, a path an OCI layout's. */
function parseOci(words: readonly string[], cwd: string): MethodWords {
  const { options, operands } = parseOptions(OCI, 'build -m oci', words);
  const [image, ...more] = operands;
  if (image === undefined) throw needs('oci');
  refuseMore('oci', more);
  const [, transport, rest = ''] =
    /^(docker:\/\/|docker-archive:|oci-archive:|oci:)?(.*)$/s.exec(image) ?? [];
  const isPath = transport === undefined && /^(?:\/|\.\.?(?:\/|$))/.test(rest);
  const reference =
    transport === 'docker://' || (transport === undefined && !isPath)
      ? `docker://${rest}`
      : `${transport ?? 'oci:'}${resolve(cwd, rest)}`;
  const { platform = hostPlatform(process.arch), tlsVerify = true } = options;
  return { source: { kind: 'oci', reference, platform, tlsVerify }, labels: {} };
}

function parseDebian(words: readonly string[], cwd: string, ownInit: boolean): MethodWords {
  const { options, operands } = parseOptions(DEBIAN, 'build -m debootstrap', words);
  const [suite, ...more] =
    options.distribution === undefined ? operands : [options.distribution, ...operands];
  if (suite === undefined) throw needs('debootstrap');
  refuseMore('debootstrap', more);
  const { mirror, variant = 'minbase', include, components, keyring } = options;
  const source = {
    kind: 'debian',
    suite: parseSuite(suite),
    mirror,
    variant,
    include: [...new Set([...(ownInit ? OWN_INIT : []), ...include])],
    components: components.length === 0 ? ['main'] : components,
    keyring: keyring === undefined ? KEYRING : resolve(cwd, keyring),
  } as const;
  return { source, labels: { distribution: suite } };
}

function parseSuite(text: string): string {
  if (/^[a-z][a-z\d.+-]*$/.test(text)) return text;
  throw new UserError('usage', `cannot use ${JSON.stringify(text)} as a suite; need one such as bookworm`);
}

function parseMirror(text: string): string {
  if (/^https?:\/\/[^\s[\]]+$/.test(text)) return text;
  throw new UserError(
    'usage',
    `cannot use ${JSON.stringify(text)} as a mirror; need one such as http://deb.debian.org/debian`,
  );
}

/** Names separated by commas. No option of a program can be among them, and no pattern. */
function parsePackages(text: string): readonly string[] {
  const names = text.split(',');
  const wrong = names.find((name) => !/^[a-z\d][a-z\d.+:-]*$/.test(name));
  if (wrong === undefined) return names;
  throw new UserError(
    'usage',
    `cannot use ${JSON.stringify(wrong)} as a name; need names separated by commas`,
  );
}

/** Returns what is to be copied, with `-s` or without. */
function parseSource(method: BuildMethod, words: readonly string[]): readonly [string, readonly string[]] {
  const { options, operands } = parseOptions(SOURCE, `build -m ${method}`, words);
  const [source, ...more] = options.source === undefined ? operands : [options.source, ...operands];
  if (source === undefined) throw needs(method);
  return [source, more];
}

function refuseMore(method: string, operands: readonly string[]): void {
  if (operands[0] === undefined) return;
  throw new UserError(
    'usage',
    `cannot build with method "${method}"; need no ${JSON.stringify(operands[0])}`,
  );
}

function needs(method: BuildMethod): UserError {
  const { usage } = METHODS[method];
  return new UserError('usage', `cannot build with method "${method}"; need -- ${usage}`);
}
