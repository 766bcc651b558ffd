/**
 * The fresh /etc of the built-in templates: what a C library, a shell and a package manager look up, and nothing that
 * comes from the host.
 */
import { directory, file, link, type TreeEntry } from './tree-entries.ts';

interface Account {
  readonly name: string;
  readonly uid: number;
  readonly gid: number;
  readonly home: string;
}

/** Debian's static accounts (base-passwd), which packages take for granted. */
const ACCOUNTS: readonly Account[] = [
  { name: 'daemon', uid: 1, gid: 1, home: '/usr/sbin' },
  { name: 'bin', uid: 2, gid: 2, home: '/bin' },
  { name: 'sys', uid: 3, gid: 3, home: '/dev' },
  { name: 'sync', uid: 4, gid: 65534, home: '/bin' },
  { name: 'games', uid: 5, gid: 60, home: '/usr/games' },
  { name: 'man', uid: 6, gid: 12, home: '/var/cache/man' },
  { name: 'lp', uid: 7, gid: 7, home: '/var/spool/lpd' },
  { name: 'mail', uid: 8, gid: 8, home: '/var/mail' },
  { name: 'news', uid: 9, gid: 9, home: '/var/spool/news' },
  { name: 'uucp', uid: 10, gid: 10, home: '/var/spool/uucp' },
  { name: 'proxy', uid: 13, gid: 13, home: '/bin' },
  { name: 'www-data', uid: 33, gid: 33, home: '/var/www' },
  { name: 'backup', uid: 34, gid: 34, home: '/var/backups' },
  { name: 'list', uid: 38, gid: 38, home: '/var/list' },
  { name: 'irc', uid: 39, gid: 39, home: '/run/ircd' },
  { name: '_apt', uid: 42, gid: 65534, home: '/nonexistent' },
  { name: 'nobody', uid: 65534, gid: 65534, home: '/nonexistent' },
];

/** Debian's static groups (base-passwd). */
const GROUPS: Readonly<Record<string, number>> = {
  root: 0,
  daemon: 1,
  bin: 2,
  sys: 3,
  adm: 4,
  tty: 5,
  disk: 6,
  lp: 7,
  mail: 8,
  news: 9,
  uucp: 10,
  man: 12,
  proxy: 13,
  kmem: 15,
  dialout: 20,
  fax: 21,
  voice: 22,
  cdrom: 24,
  floppy: 25,
  tape: 26,
  sudo: 27,
  audio: 29,
  dip: 30,
  'www-data': 33,
  backup: 34,
  operator: 37,
  list: 38,
  irc: 39,
  src: 40,
  shadow: 42,
  utmp: 43,
  video: 44,
  sasl: 45,
  plugdev: 46,
  staff: 50,
  games: 60,
  users: 100,
  nogroup: 65534,
};

const SHADOW_GID = 42;
/** Days since 1970 of the "last changed" field; a fixed day, so that equal inputs give equal trees. */
const PASSWORD_CHANGED_DAYS = 20_000;

const PROFILE = `PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH
if [ -n "\${BASH-}" ] && [ -f /etc/bash.bashrc ]; then
  . /etc/bash.bashrc
elif [ -n "\${PS1-}" ]; then
  if [ "$(id -u)" -eq 0 ]; then PS1="$(hostname)# "; else PS1="$(hostname)$ "; fi
fi
if [ -d /etc/profile.d ]; then
  for i in /etc/profile.d/*.sh; do
    if [ -r "$i" ]; then . "$i"; fi
  done
  unset i
fi
`;

const BASHRC = `[ -z "\${PS1-}" ] && return
shopt -s checkwinsize
PS1='\\u@\\h:\\w\\$ '
`;

/** First line of files that every start writes anew, as long as they begin with it, or have nothing in them. */
export const FILLED_AT_START = '# filled when the guest starts\n';

/**
 * Returns the directories and files of a fresh /etc; every account is locked.
 *
 * @param rootShell path of root's shell, inside the guest
 */
export function minimalEtc(rootShell: string): readonly TreeEntry[] {
  const accounts = [{ name: 'root', uid: 0, gid: 0, home: '/root' }, ...ACCOUNTS];
  const passwd = accounts.map(({ name, uid, gid, home }) => {
    const shell = name === 'root' ? rootShell : '/usr/sbin/nologin';
    return `${name}:x:${uid}:${gid}:${name}:${home}:${shell}\n`;
  });
  const secret = { kind: 'file', mode: 0o640, gid: SHADOW_GID } as const;
  return [
    directory('etc'),
    file('etc/passwd', passwd.join('')),
    file(
      'etc/group',
      Object.entries(GROUPS)
        .map(([name, gid]) => `${name}:x:${gid}:\n`)
        .join(''),
    ),
    {
      ...secret,
      path: 'etc/shadow',
      content: accounts.map(({ name }) => `${name}:*:${PASSWORD_CHANGED_DAYS}:0:99999:7:::\n`).join(''),
    },
    {
      ...secret,
      path: 'etc/gshadow',
      content: Object.keys(GROUPS)
        .map((name) => `${name}:*::\n`)
        .join(''),
    },
    file('etc/hostname', 'guest\n'),
    // Empty as long as no start has filled it: an overlay copies what is opened for writing, by a pipe that the process,
    // the guest's command, keeps until it ends (copy_file_range and splice in fs/overlayfs/copy_up.c, fs/splice.c).
    file('etc/hosts', ''),
    file('etc/host.conf', 'multi on\n'),
    file('etc/nsswitch.conf', nsswitch()),
    file('etc/resolv.conf', ''),
    file('etc/machine-id', '', 0o444),
    file('etc/fstab', ''),
    file('etc/environment', ''),
    file('etc/profile', PROFILE),
    directory('etc/profile.d'),
    directory('etc/opt'),
    link('etc/mtab', '../proc/self/mounts'),
    link('etc/os-release', '../usr/lib/os-release'),
    ...(rootShell.endsWith('/bash') ? [file('etc/bash.bashrc', BASHRC)] : []),
  ];
}

function nsswitch(): string {
  const files = [
    'passwd',
    'group',
    'shadow',
    'gshadow',
    'services',
    'protocols',
    'rpc',
    'ethers',
    'networks',
  ];
  return [...files.map((name) => `${name}: files\n`), 'hosts: files dns\n'].join('');
}

/** Returns the directories outside /usr and /etc that programs expect, all empty. */
export function emptyDirectories(): readonly TreeEntry[] {
  return [
    ...['proc', 'sys', 'dev', 'run', 'home', 'mnt', 'media', 'opt', 'srv', 'var'].map((path) =>
      directory(path),
    ),
    directory('root', 0o700),
    directory('tmp', 0o1777),
    directory('run/lock', 0o1777),
    ...['backups', 'cache', 'lib', 'log', 'mail', 'opt', 'spool'].map((name) => directory(`var/${name}`)),
    directory('var/lib/misc'),
    directory('var/tmp', 0o1777),
    link('var/run', '/run'),
    link('var/lock', '/run/lock'),
  ];
}
