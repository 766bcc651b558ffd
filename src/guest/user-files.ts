/**
 * A guest's user database, read by descriptor: what lies below the guest's root is hostile.
 */
import { UserError } from '../base/errors.ts';
import { parseUser, type ResolvedUser, resolveUser } from '../context/user.ts';
import { sizeOf } from '../sys/abi.ts';
import { StepError } from '../sys/syscalld.ts';
import type { Host } from './host.ts';
import { type MergedView, planMergedView } from './plan-mounts.ts';
import { planOpenDirectory } from './plan-paths.ts';

/** As much as one message brings back; Debian's files have 1 to 2 KiB. */
const FILE_BYTES = 64 * 1024;

/** Where a guest's root is found: below a running process 1, or in its files, which are not mounted now. */
export type GuestRoot =
  | { readonly kind: 'process'; readonly pid: number; readonly initObject: number }
  | ({ readonly kind: 'files' } & MergedView);

const ROOT: ResolvedUser = { uid: 0, gid: 0, groups: [0], home: '/root', shell: undefined };

/**
 * Finds who a command runs as. Numbers need no file; names are looked up in the guest's passwd and group.
 *
 * @throws UserError invalid-user, user-not-found, invalid-user-database
 */
export async function findUser(
  host: Host,
  text: string,
  root: GuestRoot,
  idCount: number,
): Promise<ResolvedUser> {
  if (text === '' || text === '0' || text === 'root') return ROOT;
  const request = parseUser(text);
  const resolveIn = async (directory: string): Promise<ResolvedUser> => {
    const passwd = await readBelow(host, directory, 'etc/passwd');
    const group = await readBelow(host, directory, 'etc/group');
    return resolveUser(request, { passwd, group }, idCount);
  };
  if (root.kind === 'process') return await resolveIn(`/proc/${root.pid}/root`);
  // Once for both: a disk of the guest's own must not be mounted a second time.
  return await host.withOpened('look up a user of the guest', (p) => planMergedView(p, root), resolveIn);
}

/** Reads a regular file below a directory as if that were "/"; undefined if there is none. */
async function readBelow(host: Host, directory: string, path: string): Promise<Uint8Array | undefined> {
  const p = host.program();
  const buffer = p.data(FILE_BYTES);
  const how = p.struct('open_how', {
    // Non-blocking: a FIFO in its place must not hold us (CVE-2024-9676).
    flags: p.flags('O_RDONLY', 'O_NONBLOCK', 'O_CLOEXEC', 'O_NOCTTY'),
    resolve: p.flags('RESOLVE_IN_ROOT', 'RESOLVE_NO_MAGICLINKS', 'RESOLVE_NO_XDEV'),
  });
  const root = planOpenDirectory(p, p.flags('AT_FDCWD'), directory);
  const file = p.sys('openat2', [root, path, how, sizeOf(p.abi, 'open_how')], {
    about: `"${path}" of the guest`,
  });
  const stat = p.data(sizeOf(p.abi, 'stat'));
  p.sys('fstat', [file, stat]);
  const mode = p.loadField(stat, 'stat', 'st_mode');
  p.expect(mode, '&', p.flags('S_IFREG'), 'EBADF', `"${path}" is a regular file`, {
    mask: p.flags('S_IFMT'),
  });
  const length = p.sys('read', [file, buffer, FILE_BYTES]);
  p.returns(buffer);
  try {
    const outcome = await host.syscalld.run(`read "${path}" of the guest`, p);
    const count = outcome.result(length);
    if (count >= FILE_BYTES) {
      throw new UserError(
        'invalid-user-database',
        `cannot read "/${path}" of the guest: found more than ${FILE_BYTES} bytes; need a smaller file, or a number instead of a name`,
      );
    }
    return outcome.out.subarray(0, count);
  } catch (error) {
    if (error instanceof StepError && (error.errnoName === 'ENOENT' || error.errnoName === 'ENOTDIR'))
      return undefined;
    throw error;
  }
}
