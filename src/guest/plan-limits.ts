/**
 * Steps on the limits of a guest that are not cgroups': sysctls of its IPC namespace, and resource limits of processes
 * that run already.
 */
import { type ProcessLimit, toRlim } from '../context/rlimits.ts';
import type { Arg, Import, Program, Result } from '../sys/program.ts';
import type { Num } from '../sys/varying.ts';
import { planAmongProcesses } from './plan-signal.ts';

/**
 * Adds the steps by which the worker sets sysctls of a guest's IPC namespace; it stays in there.
 *
 * They are the guest root's to write since Linux 6.9, and nobody else's; before, the host's (ipc_permissions() in
 * ipc/ipc_sysctl.c).
 *
 * @param hostBase the guest's root on the host
 */
export function planIpcSysctls(
  p: Program,
  init: () => Import,
  hostBase: Num,
  sysctls: Readonly<Record<string, string>>,
): void {
  const entries = Object.entries(sysctls);
  if (entries.length === 0) return;
  planEnterIpc(p, init());
  const forbidden = -(p.abi.errnos['EACCES'] ?? 0);
  for (const [key, value] of entries) {
    const path = `/proc/sys/${key.replaceAll('.', '/')}`;
    const [asGuest, done] = [p.label(), p.label()];
    const own = planOpenToWrite(p, path, ['EACCES']);
    p.expect(own, '!=', forbidden, 'EACCES', `"${path}"`, { otherwise: asGuest });
    planWriteAll(p, own, value, path);
    p.expect(own, '==', forbidden, 'ENOENT', 'written by the host', { otherwise: done });
    p.place(asGuest);
    planAsUser(p, hostBase, () => planWriteAll(p, planOpenToWrite(p, path, []), value, path));
    p.place(done);
  }
}

/** Adds steps that a worker does as another user, and without effective capabilities. */
function planAsUser<T>(p: Program, hostUid: Num, plan: () => T): T {
  p.sys('setresuid', [-1, hostUid, -1], { about: "as the guest's root" });
  const planned = plan();
  p.sys('setresuid', [-1, 0, -1], { about: 'as root again' });
  // Lost with the change of user: the worker goes when syscalld does.
  p.sys('prctl', [p.flags('PR_SET_PDEATHSIG'), p.flags('SIGKILL'), 0, 0, 0]);
  return planned;
}

/**
 * Adds steps that a worker does as the guest's root on the host, but for files, and with its capabilities. That user owns
 * the guest's user namespace, and so has every capability in it (cap_capable(), security/commoncap.c).
 */
export function planAsRootOf<T>(p: Program, hostBase: Num, plan: () => T): T {
  p.sys('prctl', [p.flags('PR_SET_SECUREBITS'), p.flags('SECBIT_NO_SETUID_FIXUP'), 0, 0, 0], {
    about: 'capabilities stay',
  });
  const planned = planAsUser(p, hostBase, () => {
    p.sys('setfsuid', [0], { about: 'files as root' });
    return plan();
  });
  p.sys('prctl', [p.flags('PR_SET_SECUREBITS'), 0, 0, 0, 0]);
  return planned;
}

function planEnterIpc(p: Program, init: Import): void {
  p.sys('setns', [init, p.flags('CLONE_NEWIPC')], { about: 'IPC namespace of the guest' });
}

function planOpenToWrite(p: Program, path: string, ignore: readonly string[]): Result {
  const flags = p.flags('O_WRONLY', 'O_CLOEXEC');
  return p.sys('openat', [p.flags('AT_FDCWD'), path, flags, 0], { about: `"${path}"`, ignore });
}

function planWriteAll(p: Program, fd: Arg, text: string, path: string): void {
  const length = p.sys('write', [fd, text, text.length], { about: `"${text}" to "${path}"` });
  p.expect(length, '==', text.length, 'EIO', `write "${path}"`);
  p.sys('close', [fd]);
}

/** `SHM_INFO`, `MSG_INFO`, `SEM_INFO`: commands and where in their structures the counts are (linux/{shm,msg,sem}.h). */
const SHM_INFO = { command: 14, pages: 8, bytes: 48 } as const;
const MSG_INFO = { command: 12, contents: 24, bytes: 32 } as const;
const SEM_INFO = { command: 19, sets: 28, semaphores: 36, bytes: 40 } as const;

/** What is in use of an IPC namespace. */
export interface IpcUsage {
  readonly sharedPages: Result;
  readonly messageBytes: Result;
  readonly semaphoreSets: Result;
  readonly semaphores: Result;
}

/** Adds the steps that read what a guest's IPC namespace has in use. */
export function planIpcUsage(p: Program, init: Import): IpcUsage {
  planEnterIpc(p, init);
  const shm = p.data(SHM_INFO.bytes, '<shm_info>');
  const msg = p.data(MSG_INFO.bytes, '<msginfo>');
  const sem = p.data(SEM_INFO.bytes, '<seminfo>');
  p.sys('shmctl', [0, SHM_INFO.command, shm], { about: 'shared memory' });
  p.sys('msgctl', [0, MSG_INFO.command, msg], { about: 'message queues' });
  p.sys('semctl', [0, 0, SEM_INFO.command, sem], { about: 'semaphores' });
  return {
    sharedPages: p.load(shm.at(SHM_INFO.pages, 8), 8),
    messageBytes: p.load(msg.at(MSG_INFO.contents, 4)),
    semaphoreSets: p.load(sem.at(SEM_INFO.sets, 4)),
    semaphores: p.load(sem.at(SEM_INFO.semaphores, 4)),
  };
}

/**
 * Adds the steps that set resource limits of processes of a guest, named by their pids there: one that ends meanwhile
 * cannot be taken for another of the host.
 *
 * @param object of the child that does it
 * @param hostBase the guest's root on the host: with CAP_SYS_RESOURCE in the guest, which vserver may not have on the host
 */
export function planProcessLimits(
  p: Program,
  init: Import,
  object: number,
  hostBase: number,
  guestPids: readonly number[],
  limits: readonly ProcessLimit[],
): void {
  const planEach = (): void => {
    for (const { resource, soft, hard } of limits) {
      const limit = p.struct('rlimit', { rlim_cur: toRlim(soft), rlim_max: toRlim(hard) });
      for (const pid of guestPids)
        p.sys('prlimit64', [pid, resource, limit, 0], {
          about: `resource limit ${resource} of process ${pid}`,
          ignore: ['ESRCH'],
        });
    }
  };
  planAmongProcesses(p, init, object, 'setter of limits', () => planAsRootOf(p, hostBase, planEach));
}
