/**
 * Quotas of the users and groups of guests, as the host sets and sees them: guests' ids are ids of the host, by which the
 * file system counts and bounds. Guests do the same by quota-calls.ts.
 *
 * @see quotactl_fd(2), since Linux 5.14; Q_GETNEXTQUOTA, since 4.6
 */
import { type Data, Program, type Result } from '../sys/program.ts';
import { StepError } from '../sys/syscalld.ts';
import { openDirectory, type StorageMachine } from './machine.ts';
import { planQuota, QUOTA_STATE } from './quota-calls.ts';

/** Whose quota. */
export type QuotaKind = 'user' | 'group';

/** Which kinds a file system holds to their limits. */
export interface QuotaState {
  readonly user: boolean;
  readonly group: boolean;
}

/** Bounds of one user or group; 0: none. */
export interface QuotaLimits {
  /** Bytes that may be exceeded for the grace time, and those that may not. */
  readonly spaceSoftBytes: number;
  readonly spaceBytes: number;
  readonly inodesSoft: number;
  readonly inodes: number;
}

/** What one user or group has. */
export interface QuotaUse extends QuotaLimits {
  readonly usedBytes: number;
  readonly usedInodes: number;
  /** When a soft limit that is exceeded becomes a hard one, of the epoch in seconds; 0: it is not exceeded. */
  readonly spaceGraceUntilSeconds: number;
  readonly inodesGraceUntilSeconds: number;
}

/** The same with the id. */
export interface QuotaOfId extends QuotaUse {
  /** Of the host. */
  readonly id: number;
}

/** Limits are told in units of this (QIF_DQBLKSIZE). */
const UNIT_BYTES = 1024;
const KINDS = { user: 0, group: 1 } as const;

/** Quotas on one file system. */
export class UserQuota {
  readonly #machine: StorageMachine;
  readonly #directory: string;

  /** @param directory on the file system */
  constructor(machine: StorageMachine, directory: string) {
    this.#machine = machine;
    this.#directory = directory;
  }

  /** Returns what is held to limits now. */
  async state(): Promise<QuotaState> {
    const p = new Program(this.#machine.abi);
    const state = p.data(QUOTA_STATE.bytes, '<state>');
    planQuota(p, openDirectory(p, this.#directory), QUOTA_STATE.command, KINDS.user, 0, state);
    const flags = p.load(state.at(0, 4));
    try {
      // Version and flags, in a byte and 16 bits behind another one.
      const word = (await this.#machine.run('look for quotas', p)).result(flags);
      const enforced = this.#machine.abi.littleEndian ? word >>> 16 : word & 0xffff;
      return {
        user: (enforced & QUOTA_STATE.userEnforced) !== 0,
        group: (enforced & QUOTA_STATE.groupEnforced) !== 0,
      };
    } catch (error) {
      if (!(error instanceof StepError)) throw error;
      return { user: false, group: false }; // ENOSYS, ESRCH: the file system has none
    }
  }

  /** Returns what an id has; zeros if the file system does not know it. */
  async get(kind: QuotaKind, id: number): Promise<QuotaUse> {
    const p = new Program(this.#machine.abi);
    const block = p.struct('dqblk', {});
    const directory = openDirectory(p, this.#directory);
    planQuota(p, directory, 'Q_GETQUOTA', KINDS[kind], id, block, ['ENOENT']); // XFS, of who has nothing
    const read = planFields(p, block);
    const outcome = await this.#machine.run('read a quota', p);
    return usedOf(read, (result) => outcome.result(result));
  }

  /** Returns all from an id on, below another one, that have files or limits. */
  async list(kind: QuotaKind, from: number, below: number): Promise<readonly QuotaOfId[]> {
    const found: QuotaOfId[] = [];
    for (let id = from; id < below; ) {
      const next = await this.#next(kind, id);
      if (next === undefined || next.id >= below) break;
      found.push(next);
      id = next.id + 1;
    }
    return found;
  }

  async #next(kind: QuotaKind, id: number): Promise<QuotaOfId | undefined> {
    const p = new Program(this.#machine.abi);
    const block = p.struct('nextdqblk', {});
    const directory = openDirectory(p, this.#directory);
    const asked = planQuota(p, directory, 'Q_GETNEXTQUOTA', KINDS[kind], id, block, ['ENOENT', 'ESRCH']);
    const read = planFields(p, block);
    const found = p.loadField(block, 'nextdqblk', 'dqb_id');
    const outcome = await this.#machine.run('list quotas', p);
    if (outcome.result(asked) !== 0) return undefined;
    return { id: outcome.result(found) >>> 0, ...usedOf(read, (result) => outcome.result(result)) };
  }

  /** Bounds an id. It holds when this returns, also for what is written already. */
  async set(kind: QuotaKind, id: number, limits: QuotaLimits): Promise<void> {
    const p = new Program(this.#machine.abi);
    const block = p.struct('dqblk', {
      dqb_bhardlimit: Math.ceil(limits.spaceBytes / UNIT_BYTES),
      dqb_bsoftlimit: Math.ceil(limits.spaceSoftBytes / UNIT_BYTES),
      dqb_ihardlimit: limits.inodes,
      dqb_isoftlimit: limits.inodesSoft,
      dqb_valid: p.flags('QIF_LIMITS'),
    });
    planQuota(p, openDirectory(p, this.#directory), 'Q_SETQUOTA', KINDS[kind], id, block);
    await this.#machine.run('set a quota', p);
  }
}

const FIELDS = [
  'dqb_bhardlimit',
  'dqb_bsoftlimit',
  'dqb_curspace',
  'dqb_ihardlimit',
  'dqb_isoftlimit',
  'dqb_curinodes',
  'dqb_btime',
  'dqb_itime',
] as const;
type Field = (typeof FIELDS)[number];
type Fields = Readonly<Record<Field, Result>>;

/** struct if_nextdqblk begins as struct if_dqblk does. */
function planFields(p: Program, block: Data): Fields {
  return Object.fromEntries(FIELDS.map((field) => [field, p.loadField(block, 'dqblk', field)])) as Fields; // one for each
}

function usedOf(read: Fields, resultOf: (result: Result) => number): QuotaUse {
  const value = (field: Field): number => resultOf(read[field]);
  return {
    spaceSoftBytes: value('dqb_bsoftlimit') * UNIT_BYTES,
    spaceBytes: value('dqb_bhardlimit') * UNIT_BYTES,
    inodesSoft: value('dqb_isoftlimit'),
    inodes: value('dqb_ihardlimit'),
    usedBytes: value('dqb_curspace'),
    usedInodes: value('dqb_curinodes'),
    spaceGraceUntilSeconds: value('dqb_btime'),
    inodesGraceUntilSeconds: value('dqb_itime'),
  };
}
