/**
 * What the `host` template takes from the host's /etc: a written list, each with its reason. Only files that every user
 * of the host may read are copied, so that a guest learns nothing by them; links are copied only if they point into
 * /usr, which the guest sees anyway.
 */
import {
  closeSync,
  constants,
  fstatSync,
  lstatSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
} from 'node:fs';
import { dirname, join, posix } from 'node:path';
import { directory, file, link, type TreeEntry } from './tree-entries.ts';

interface Files {
  /** Below /etc. */
  readonly directory: string;
  readonly names: readonly string[] | RegExp;
  readonly maxBytes: number;
  readonly why: string;
}

const KIB = 1024;

const FILES: readonly Files[] = [
  {
    directory: '',
    names: ['ld.so.cache'],
    maxBytes: 4096 * KIB,
    why: 'where the libraries of the shared /usr are',
  },
  {
    directory: '',
    names: ['ld.so.conf'],
    maxBytes: 64 * KIB,
    why: 'ldconfig in the guest gives the same result',
  },
  { directory: 'ld.so.conf.d', names: /^[\w.+-]+\.conf$/, maxBytes: 64 * KIB, why: 'as ld.so.conf' },
  {
    directory: '',
    names: ['services', 'protocols', 'rpc', 'ethertypes', 'mime.types'],
    maxBytes: 1024 * KIB,
    why: 'public name tables that libraries read',
  },
  {
    directory: '',
    names: ['shells', 'inputrc', 'locale.alias', 'timezone', 'debian_version'],
    maxBytes: 64 * KIB,
    why: 'what programs of the shared /usr expect beside them',
  },
  { directory: 'ssl', names: ['openssl.cnf'], maxBytes: 64 * KIB, why: 'TLS libraries fail without it' },
  {
    directory: 'ssl/certs',
    names: ['ca-certificates.crt'],
    maxBytes: 4096 * KIB,
    why: 'public roots of trust for TLS',
  },
  {
    directory: 'ssl/certs/java',
    names: ['cacerts'],
    maxBytes: 4096 * KIB,
    why: 'the same roots for Java; no keys',
  },
];

/** Java's run time is split between /usr/lib/jvm and links into /etc/java-N-openjdk, without which it does not start. */
const JAVA = /^java-\d+-openjdk$/;
const JAVA_FILES: readonly (readonly [string, readonly string[] | RegExp])[] = [
  ['', /^(?:jvm-\w+\.cfg|(?:logging|net|accessibility|sound|swing)\.properties)$/],
  [
    'security',
    ['java.security', 'java.policy', 'default.policy', 'blocked.certs', 'public_suffix_list.dat', 'nss.cfg'],
  ],
  ['management', ['management.properties']],
];

interface Links {
  /** Below /etc. */
  readonly directory: string;
  readonly why: string;
  readonly wants: (name: string, target: string) => boolean;
}

const LINKS: readonly Links[] = [
  {
    directory: 'alternatives',
    why: 'links in /usr/bin lead through it',
    wants: (_name, target) => isInUsr(target) && !target.includes('/man/'),
  },
  {
    directory: 'ssl/certs',
    why: 'public certificates by name, and by hash for libraries that look there',
    wants: (name, target) =>
      isInUsr(target) || (/^[\da-f]{8}\.\d+$/.test(name) && /^[^/]+\.(?:pem|crt)$/.test(target)),
  },
];

function isInUsr(target: string): boolean {
  return target.startsWith('/usr/') && posix.normalize(target) === target;
}

/** Returns the directories of the host's /etc that the list names and that every user may enter, as paths below it. */
function openDirectories(etc: string): ReadonlySet<string> {
  const named = new Set([...fileRules(etc), ...LINKS].map((rule) => rule.directory));
  return new Set([...named].filter((path) => isOpen(etc, path)));
}

function isOpen(etc: string, path: string): boolean {
  const parts = path === '' ? [] : path.split('/');
  return parts.every((_part, i) => {
    const stat = lstatSync(join(etc, ...parts.slice(0, i + 1)), { throwIfNoEntry: false });
    return stat?.isDirectory() === true && (stat.mode & 0o005) === 0o005;
  });
}

function fileRules(etc: string): readonly Files[] {
  const homes = readdirSync(etc).filter((name) => JAVA.test(name));
  const java = homes.flatMap((home) =>
    JAVA_FILES.map(([below, names]) => ({
      directory: posix.join(home, below),
      names,
      maxBytes: 1024 * KIB,
      why: 'read by the Java of the shared /usr when it starts',
    })),
  );
  return [...FILES, ...java];
}

/**
 * Reads the host's part of the template's /etc. What is missing, too big, not regular or not readable by everybody is
 * left out.
 *
 * @param etc the host's /etc
 */
export function readHostFiles(etc: string): readonly TreeEntry[] {
  const open = openDirectories(etc);
  const entries: TreeEntry[] = directoriesOf(open).map((path) => directory(posix.join('etc', path)));
  for (const rule of fileRules(etc)) {
    if (!open.has(rule.directory)) continue;
    for (const name of namesOf(etc, rule)) {
      const path = posix.join(rule.directory, name);
      const content = readPublicFile(join(etc, path), rule.maxBytes);
      if (content !== undefined) entries.push(file(posix.join('etc', path), content));
    }
  }
  for (const rule of LINKS) {
    if (open.has(rule.directory)) entries.push(...linksOf(etc, rule));
  }
  return entries;
}

function directoriesOf(open: ReadonlySet<string>): readonly string[] {
  const all = new Set<string>();
  for (let path of open) {
    for (; path !== '' && path !== '.'; path = dirname(path)) all.add(path);
  }
  return [...all].sort(); // a parent is a prefix of its children, so it comes first
}

function namesOf(etc: string, rule: Files): readonly string[] {
  if (!(rule.names instanceof RegExp)) return rule.names;
  const pattern = rule.names;
  return readdirSync(join(etc, rule.directory))
    .filter((name) => pattern.test(name))
    .sort();
}

function linksOf(etc: string, rule: Links): readonly TreeEntry[] {
  const found = readdirSync(join(etc, rule.directory), { withFileTypes: true });
  return found
    .filter((entry) => entry.isSymbolicLink())
    .map((entry) => [entry.name, readlinkSync(join(etc, rule.directory, entry.name))] as const)
    .filter(([name, target]) => rule.wants(name, target))
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([name, target]) => link(posix.join('etc', rule.directory, name), target));
}

/** Returns the content of a regular file that everybody may read; undefined for anything else. */
function readPublicFile(path: string, maxBytes: number): Buffer | undefined {
  let fd: number;
  try {
    fd = openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  } catch (error) {
    if (
      error instanceof Error &&
      'code' in error &&
      ['ENOENT', 'ELOOP', 'EACCES', 'ENXIO'].includes(String(error.code))
    ) {
      return undefined;
    }
    throw error;
  }
  try {
    const stat = fstatSync(fd);
    const isPublic = stat.isFile() && (stat.mode & 0o004) !== 0 && stat.size <= maxBytes;
    return isPublic ? readFileSync(fd) : undefined;
  } finally {
    closeSync(fd);
  }
}

/**
 * Returns a text that changes when what `readHostFiles` reads may have changed: size, mode, inode and change time of
 * every file and directory that is looked at. Costs one lstat for each.
 *
 * @param etc the host's /etc
 */
export function hostFilesVersion(etc: string): string {
  const paths = new Set(['']);
  for (const rule of fileRules(etc)) {
    paths.add(rule.directory);
    // Files that a pattern finds are replaced by rename, which changes their directory.
    if (!(rule.names instanceof RegExp))
      for (const name of rule.names) paths.add(posix.join(rule.directory, name));
  }
  for (const rule of LINKS) paths.add(rule.directory);
  paths.add('localtime');
  paths.delete(''); // changes with every password and lock file
  return [...paths].map((path) => `${path} ${versionOf(join(etc, path))}`).join('\n');
}

/** Returns size, mode, inode and change time of a file as a text, `-` if there is none. */
export function versionOf(path: string): string {
  const stat = lstatSync(path, { bigint: true, throwIfNoEntry: false });
  return stat === undefined ? '-' : `${stat.size} ${stat.mode} ${stat.ino} ${stat.ctimeNs}`;
}
