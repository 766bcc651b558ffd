/** The files of a guest as it sees them, to be compared with what they were. */
import type { Instance } from './instance.ts';

/** Finds what is of the root's file system, but for some paths. */
const findBut = (paths: readonly string[]): string =>
  `find / -xdev ${paths.map((path) => `! -path '${path}'`).join(' ')}`;

/**
 * Returns everything `stat` tells of every file, and what it holds, but for some paths; sizes and links of directories are
 * the file system's own.
 */
export async function showTree(v: Instance, name: string, but: readonly string[] = []): Promise<string> {
  const script = `
${findBut(['/dev*', '/proc*', '/sys*', ...but])} -print0 | sort -z | xargs -0 stat -c '%F|%f|%u|%g|%Y|%y|%h|%s|%N|%t|%T' |
  sed -E 's/^(directory\\|[^|]*\\|[^|]*\\|[^|]*\\|[^|]*\\|[^|]*)\\|[^|]*\\|[^|]*/\\1/'
${findBut(['/proc*', ...but])} -type f -print0 | sort -z | xargs -0 md5sum
find / -xdev -type f -links +1 -exec stat -c '%i %n' {} + | sort | awk '{ names[$1] = names[$1] " " $2 } END { for (i in names) print names[i] }' | sort
`;
  return await v.ok(['exec', name, 'sh', '-c', script]);
}
