/** Boots a stock kernel in qemu, without KVM, with the host's file tree as its root, and runs one command there. */
import { spawn, spawnSync } from 'node:child_process';
import { closeSync, existsSync, mkdirSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import type { StockKernel } from './fetch-kernel.ts';
import { buildInitrd } from './initrd.ts';
import { findProgram } from './programs.ts';
import { enterRootScript, runCommandScript } from './scripts.ts';

/** What to run on which kernel. */
export type BootRequest = {
  readonly kernel: StockKernel;
  /** Absolute path of the tree the command works in; it is seen at the same path, read-only. */
  readonly checkout: string;
  readonly command: readonly string[];
  readonly env: Readonly<Record<string, string>>;
  /** Directory for this machine's disks and results; emptied first, kept afterwards. */
  readonly workDir: string;
  /** The machine is killed after this long. */
  readonly timeoutMs: number;
};

/** What came of it. */
export type BootResult = {
  /** Exit status of the command; undefined when the machine ended before it did. */
  readonly exitCode: number | undefined;
  readonly timedOut: boolean;
  readonly seconds: number;
  /** Seen as /out inside: what the command left there, beside `output.log` with its stdout and stderr. */
  readonly outDir: string;
  /** What the kernel and the boot scripts wrote to the console. */
  readonly consolePath: string;
};

const SCRATCH_SIZE = '4G';

// One thread for both processors. With a thread each, qemu 7.2 let Linux 6.12 panic in 2 of 5 boots when cpu.max was
// set under load (log of one such panic: "Oops: int3" in __set_next_task_fair, where a static branch had just been
// patched); with one, in 0 of 5. The price is 3 s of 14 with both processors busy.
// "max" without five-level page tables: a fifth level makes every miss of the emulated TLB dearer.
const MACHINE: readonly string[] = [
  ...['-M', 'pc', '-accel', 'tcg,thread=single,tb-size=256', '-cpu', 'max,-la57', '-smp', '2', '-m', '3072'],
  ...['-nodefaults', '-nic', 'none', '-display', 'none', '-monitor', 'none', '-no-reboot'],
];

/**
 * Boots, runs the command, powers off. There is no network device. qemu dies with this process.
 *
 * @throws Error when qemu cannot be started; a machine that crashed is a result
 */
export async function boot(request: BootRequest): Promise<BootResult> {
  const { kernel, workDir } = request;
  rmSync(workDir, { recursive: true, force: true });
  const outDir = join(workDir, 'out');
  mkdirSync(outDir, { recursive: true });
  const initrdPath = join(workDir, 'initrd');
  const scratchPath = join(workDir, 'scratch.img');
  const consolePath = join(workDir, 'console.log');
  const qemuLogPath = join(workDir, 'qemu.log');

  const files = [
    { path: 'init', data: Buffer.from(enterRootScript()) },
    { path: 'run-command', data: Buffer.from(runCommandScript(request)) },
  ];
  writeFileSync(initrdPath, buildInitrd(kernel, findProgram('busybox'), files));
  makeScratchDisk(scratchPath);

  const args = [
    ...MACHINE,
    ...['-kernel', kernel.imagePath, '-initrd', initrdPath],
    // Linux looks at boot whether the timer ticks, for so many of its own loops, and panics if not: a machine that others
    // keep from the processor then does not boot.
    ...['-append', 'console=ttyS0 panic=-1 quiet no_timer_check'],
    ...['-serial', `file:${consolePath}`],
    ...share('root', '/', ',readonly=on'),
    ...share('out', outDir, ''),
    ...disk('scratch', scratchPath),
  ];
  const started = performance.now();
  const timedOut = await runMachine(args, qemuLogPath, request.timeoutMs);
  const seconds = (performance.now() - started) / 1000;
  rmSync(scratchPath);

  const exitPath = join(outDir, 'exit');
  const exitCode = existsSync(exitPath) ? Number(readFileSync(exitPath, 'utf8')) : undefined;
  return { exitCode, timedOut, seconds, outDir, consolePath };
}

/** Runs qemu to its end and says whether it had to be killed. */
async function runMachine(args: readonly string[], logPath: string, timeoutMs: number): Promise<boolean> {
  const log = openSync(logPath, 'w');
  const expiry = new AbortController();
  try {
    // setpriv: a test runner that is killed must not leave a machine that takes both cores.
    const qemu = spawn(
      findProgram('setpriv'),
      ['--pdeathsig', 'KILL', findProgram('qemu-system-x86_64'), ...args],
      { stdio: ['ignore', log, log] },
    );
    const ended = new Promise<number | null>((resolve, reject) => {
      qemu.once('error', reject);
      qemu.once('exit', resolve);
    });
    const expired = delay(timeoutMs, 'expired' as const, { signal: expiry.signal });
    const first = await Promise.race([ended, expired]);
    if (first === 'expired') {
      qemu.kill('SIGKILL');
      await ended;
      return true;
    }
    expiry.abort();
    await expired.catch(() => undefined);
    if (first !== 0) {
      throw new Error(
        `cannot run qemu: found exit status ${first} and ${readFileSync(logPath, 'utf8').trim()}`,
      );
    }
    return false;
  } finally {
    closeSync(log);
  }
}

/** A directory of the host as a 9P share; `multidevs` because the root has other file systems mounted below it. */
function share(tag: string, path: string, options: string): readonly string[] {
  return [
    ...['-fsdev', `local,id=${tag},path=${path},security_model=none,multidevs=remap${options}`],
    ...['-device', `virtio-9p-pci,fsdev=${tag},mount_tag=${tag}`],
  ];
}

/** A raw disk whose content is worth nothing after the run, so nothing is ever synced. */
function disk(id: string, path: string): readonly string[] {
  return [
    ...['-drive', `file=${path},if=none,id=${id},format=raw,cache=unsafe`],
    ...['-device', `virtio-blk-pci,drive=${id},serial=${id}`],
  ];
}

/**
 * Makes the disk behind /tmp: ext4 with every quota type, as a server's file system has. A tmpfs would hide what is
 * tested: it has no idmapped mounts before Linux 6.3, no user.* attributes before 6.6, and no project quota.
 */
function makeScratchDisk(path: string): void {
  const features = ['-O', 'quota,project', '-E', 'quotatype=usrquota:grpquota:prjquota,lazy_itable_init=1'];
  const made = spawnSync(findProgram('mke2fs'), ['-q', '-t', 'ext4', ...features, path, SCRATCH_SIZE], {
    encoding: 'utf8',
  });
  if (made.status !== 0) {
    throw new Error(`cannot make "${path}": found mke2fs saying ${JSON.stringify(made.stderr.trim())}`);
  }
}
