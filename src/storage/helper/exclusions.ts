/**
 * Files that a guest keeps for itself when what it wrote becomes a part of its image: what is written again and again, and
 * what nobody else should have in memory too.
 */

/** Stands for the configuration files of packages. */
const PACKAGE_FILES = 'conffiles';

interface Rule {
  readonly isExcluded: boolean;
  readonly pattern: RegExp;
}

/**
 * Returns what tells whether a file is excluded, by patterns as the original's: of a shell, `*` also for slashes; the first
 * one that matches the path or a directory above it counts, and `+` before it means that the path is not.
 *
 * @param packageFiles configuration files of packages, absolute
 */
export function excluder(
  patterns: readonly string[],
  packageFiles: ReadonlySet<string>,
): (path: string) => boolean {
  const rules = patterns.filter((text) => text !== PACKAGE_FILES).map(parseRule);
  const ofPackages = patterns.includes(PACKAGE_FILES) ? packageFiles : new Set<string>();
  return (path) => {
    if (ofPackages.has(path)) return true;
    for (let end = path.indexOf('/', 1); ; end = path.indexOf('/', end + 1)) {
      const part = end === -1 ? path : path.slice(0, end);
      if (rules.find(({ pattern }) => pattern.test(part))?.isExcluded === true) return true;
      if (end === -1) return false;
    }
  };
}

function parseRule(text: string): Rule {
  const [, sign = '', glob = ''] = /^([-+~]?)(.*)$/s.exec(text) ?? [];
  const source = glob.replace(/[*?]|[^\w/]/g, (one) => (one === '*' ? '.*' : one === '?' ? '.' : `\\${one}`));
  return { isExcluded: sign !== '+', pattern: new RegExp(`^${source}$`, 's') };
}

/** Reads the configuration files of packages from dpkg's list of packages (dpkg(1), `/var/lib/dpkg/status`). */
export function packageFilesOf(status: string): ReadonlySet<string> {
  const files = new Set<string>();
  let isInList = false;
  for (const line of status.split('\n')) {
    if (!line.startsWith(' ')) isInList = line === 'Conffiles:';
    else if (isInList) {
      const path = /^ (\/\S.*) [\da-f]{32}(?: |$)/.exec(line)?.[1];
      if (path !== undefined) files.add(path);
    }
  }
  return files;
}
