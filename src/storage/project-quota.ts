/**
 * Disk limits by project quota: files carry the number of a project, what is made in their directories gets the same
 * one, and the file system counts and bounds what each project has. Limits change at once, up and down; statfs(2) in
 * such a directory, also through an overlay whose upper layer it is, shows the limit as the file system's size.
 *
 *     project = 65536 × xid + number of the instance      no operator's own: those are small, by projid(5)
 *
 * Only a process of the initial user namespace can change a file's project or end its inheritance
 * (fileattr_set_prepare, fs/ioctl.c and fs/file_attr.c, Linux 4.5).
 *
 * @see quotactl_fd(2), since Linux 5.14; FS_IOC_FSSETXATTR (linux/fs.h), since 4.5; ext4(5) and xfs(5), `prjquota`
 */
import { mkdirSync, rmdirSync, statfsSync } from 'node:fs';
import { join } from 'node:path';
import { readIfThere } from '../sys/files.ts';
import { type Arg, Program, type Result } from '../sys/program.ts';
import { StepError } from '../sys/syscalld.ts';
import { type DiskLimit, type DiskUse, usableBytes } from './disk-limit.ts';
import { openDirectory, type StorageMachine } from './machine.ts';
import { planQuota } from './quota-calls.ts';

const KIB = 1024;
/** Upper layer, work directory, and the two that overlay makes in there. */
const OWN_INODES = 4;
/** What is limited for a try: no file system has this size by chance. */
const TRIED: DiskLimit = { spaceBytes: 12_345 * 4096, inodes: 6789, reservedPercent: 0 };
const PROJECTS = '/etc/projid';

/** Adds the step by which a directory, and all that will be made in it, is of a project. Needs it empty. */
export function planProject(p: Program, directory: Arg, project: number): void {
  const attributes = p.struct('fsxattr', {
    fsx_xflags: p.flags('FS_XFLAG_PROJINHERIT'),
    fsx_projid: project,
  });
  p.sys('ioctl', [directory, p.flags('FS_IOC_FSSETXATTR'), attributes], { about: `project ${project}` });
}

/** Adds the step that bounds a project of the file system of a directory; undefined: no bound. */
export function planProjectLimit(
  p: Program,
  directory: Arg,
  project: number,
  limit: DiskLimit | undefined,
): void {
  const most = limit === undefined ? 0 : usableBytes(limit);
  const quota = p.struct('dqblk', {
    dqb_bhardlimit: Math.floor(most / KIB),
    dqb_ihardlimit: limit?.inodes === undefined ? 0 : limit.inodes + OWN_INODES,
    dqb_valid: p.flags('QIF_LIMITS'),
  });
  planQuota(p, directory, 'Q_SETQUOTA', p.flags('PRJQUOTA').value, project, quota);
}

/** Whether what is there fits a limit. */
export function fitsLimit(use: DiskUse, limit: DiskLimit): boolean {
  return (
    use.spaceBytes <= usableBytes(limit) &&
    (limit.inodes === undefined || use.inodes <= limit.inodes + OWN_INODES)
  );
}

/** Adds steps that read what a project takes; zeros if the file system does not know it. */
function planDiskUse(
  p: Program,
  directory: Arg,
  project: number,
): { readonly bytes: Result; readonly inodes: Result } {
  const quota = p.struct('dqblk', {});
  planQuota(p, directory, 'Q_GETQUOTA', p.flags('PRJQUOTA').value, project, quota, ['ENOENT', 'ESRCH']);
  return {
    bytes: p.loadField(quota, 'dqblk', 'dqb_curspace'),
    inodes: p.loadField(quota, 'dqblk', 'dqb_curinodes'),
  };
}

/** Project quota on the file system of an instance's guests. */
export class ProjectQuota {
  readonly #machine: StorageMachine;
  readonly #directory: string;
  readonly #instance: number;
  #isThere: Promise<boolean> | undefined;

  /**
   * @param directory on the file system; something is tried there
   * @param instance tells instances apart that share it, 0 to 65535
   */
  constructor(machine: StorageMachine, directory: string, instance: number) {
    this.#machine = machine;
    this.#directory = directory;
    this.#instance = instance;
  }

  /** Whether the file system bounds projects, and shows that: found by doing it once. */
  async isThere(): Promise<boolean> {
    this.#isThere ??= this.#try();
    return await this.#isThere;
  }

  /** Returns the project of a context's files. */
  idOf(xid: number): number {
    return xid * 65_536 + this.#instance;
  }

  /** Whether nobody else has a project: no file is of it, and the host's list does not name it. */
  async isFree(project: number): Promise<boolean> {
    const named = (readIfThere(PROJECTS) ?? '').split('\n').map((line) => Number(line.split(':')[1]));
    return !named.includes(project) && (await this.use(project)).inodes === 0;
  }

  /** Returns what the files of a project take. */
  async use(project: number): Promise<DiskUse> {
    const p = new Program(this.#machine.abi);
    const { bytes, inodes } = planDiskUse(p, openDirectory(p, this.#directory), project);
    const outcome = await this.#machine.run('read a project quota', p);
    return { spaceBytes: outcome.result(bytes), inodes: outcome.result(inodes) };
  }

  /** Bounds a project; undefined: no bound. It holds when this returns, also for what is written already. */
  async limit(project: number, limit: DiskLimit | undefined): Promise<void> {
    const p = new Program(this.#machine.abi);
    planProjectLimit(p, openDirectory(p, this.#directory), project, limit);
    await this.#machine.run('set a project quota', p);
  }

  async #try(): Promise<boolean> {
    const place = join(this.#directory, '.try-project');
    const project = this.idOf(1); // no guest has that number
    mkdirSync(place, { recursive: true, mode: 0o700 });
    const p = new Program(this.#machine.abi);
    const directory = openDirectory(p, place);
    planProject(p, directory, project);
    planProjectLimit(p, directory, project, TRIED);
    try {
      await this.#machine.run('try a project quota', p);
      const { bsize, blocks } = statfsSync(place);
      await this.limit(project, undefined);
      return bsize * blocks === TRIED.spaceBytes;
    } catch (error) {
      if (error instanceof StepError) return false;
      throw error;
    } finally {
      rmdirSync(place);
    }
  }
}
