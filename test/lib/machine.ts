/**
 * A syscalld of the test's own, in a directory of its own, with the test in the place of vserverd. It runs
 * `build/syscalld`, or the program that `VSERVER_SYSCALLD` names.
 */
import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  realpathSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { type Abi, loadAbi } from '../../src/sys/abi.ts';
import { Program } from '../../src/sys/program.ts';
import { type HeldObject, Syscalld, type SyscalldEvents } from '../../src/sys/syscalld.ts';
import { PATIENCE } from './patience.ts';

const ROOT = resolve(import.meta.dirname, '../..');
const DEADLINE_MS = 10_000 * PATIENCE;

/** What syscalld said without being asked, in order. */
export interface MachineEvent {
  readonly event: keyof SyscalldEvents;
  readonly object: number;
  /** Wait status, signal, master, or the arguments of a new client. */
  readonly value: unknown;
}

/** A running syscalld. */
export interface Machine {
  readonly abi: Abi;
  /** Process id of syscalld. */
  readonly pid: number;
  /** Its state root; `run` below it is its run directory, where its workers begin. */
  readonly root: string;
  readonly directory: string;
  readonly events: MachineEvent[];
  /** The connection of now: another one after `restart`. */
  syscalld: Syscalld;
  /** Resolves with the first event, of the past or the future, that fits. */
  event(event: keyof SyscalldEvents, object?: number): Promise<MachineEvent>;
  /** Kills the process in vserverd's place, waits for its successor, and returns what that is told. */
  restart(whileDown?: () => Promise<void> | void): Promise<readonly HeldObject[]>;
  /** Processes whose parent is syscalld. */
  children(): readonly number[];
  /** Those of them that run programs or wait for one. */
  workers(): readonly number[];
}

/**
 * Runs `body` with a syscalld, ends that, and fails when something is left: a descriptor or a child in syscalld after
 * `body`, an exit code, a report of a sanitizer.
 */
export async function withMachine(body: (machine: Machine) => Promise<void>): Promise<void> {
  const root = realpathSync(mkdtempSync(join(tmpdir(), 'vserver-machine-')));
  const directory = join(root, 'run');
  mkdirSync(directory, { mode: 0o700 });
  const server = createServer().listen(join(directory, 'test.sock'));
  const control = join(directory, 'control');
  const words = [process.execPath, join(import.meta.dirname, 'control.ts'), join(directory, 'test.sock')];
  writeFileSync(control, `#!/bin/sh\nexec ${words.map((word) => `'${word}'`).join(' ')}\n`, { mode: 0o700 });
  const binary = process.env['VSERVER_SYSCALLD'] ?? join(ROOT, 'build/syscalld');
  const daemon = spawn(binary, [directory, '', control], {
    argv0: 'syscalld',
    stdio: ['ignore', 'ignore', 'inherit'],
  });
  const ended = once(daemon, 'exit');
  let failure: unknown;
  try {
    const machine = await start(daemon, server, root);
    await machine.syscalld.run('warm up', emptyProgram(machine.abi));
    const before = await settled(machine, isAtRest);
    await body(machine);
    const leak = await settled(machine, (now) => isEqual(now, before));
    assert.deepEqual(leak, before, 'syscalld holds what the test made');
    machine.syscalld.shutdown();
    server.emit('stop');
    assert.deepEqual(await ended, [0, null], 'syscalld ends when it is told to');
  } catch (error) {
    failure = error;
  } finally {
    if (daemon.exitCode === null && daemon.signalCode === null) {
      daemon.kill('SIGSTOP'); // it must not reap what we are about to kill by number
      for (const pid of childrenOf(daemon.pid!)) process.kill(pid, 'SIGKILL');
      daemon.kill('SIGKILL');
    }
    server.close();
    server.emit('stop');
    if (daemon.exitCode === null && daemon.signalCode === null) await ended;
    for (const pid of failure === undefined ? [] : processesIn(root)) process.kill(pid, 'SIGKILL');
    const log = readFileSync(join(directory, 'vserverd.log'), 'utf8'); // sanitizers write there
    if (/Sanitizer|runtime error/.test(log)) failure = new Error(log, { cause: failure });
    rmSync(root, { recursive: true, force: true });
  }
  if (failure !== undefined) throw failure;
}

/** A program of one step that does nothing. */
export function emptyProgram(abi: Abi): Program {
  const program = new Program(abi);
  program.sys('getpid', []);
  return program;
}

/** Resolves when `isReached`, fails after 20 s. */
export async function waitUntil(isReached: () => boolean): Promise<void> {
  const deadline = performance.now() + DEADLINE_MS;
  while (!isReached()) {
    assert.ok(performance.now() < deadline, `not reached in ${DEADLINE_MS} ms: ${isReached}`);
    await setTimeout(5);
  }
}

async function start(daemon: ChildProcess, server: Server, root: string): Promise<Machine> {
  const abi = loadAbi();
  const events: MachineEvent[] = [];
  const waiting = new Set<() => void>();
  const tell =
    (event: keyof SyscalldEvents) =>
    (object = 0, value?: unknown): void => {
      events.push({ event, object, value });
      for (const look of waiting) look();
    };
  const listener: SyscalldEvents = {
    exited: tell('exited'),
    ending: tell('ending'),
    clientOpened: tell('clientOpened'),
    clientSignalled: tell('clientSignalled'),
    clientClosed: tell('clientClosed'),
    clientDetached: tell('clientDetached'),
    lost: tell('lost'),
  };
  let socket: Socket;
  const connected = async (): Promise<Syscalld> => {
    [socket] = await once(server, 'connection', { signal: AbortSignal.timeout(DEADLINE_MS) });
    server.once('stop', () => socket.destroy());
    return new Syscalld(abi, socket);
  };
  const syscalld = await connected();
  const { pid } = await syscalld.ready(listener);
  assert.equal(pid, daemon.pid);
  const machine: Machine = {
    abi,
    pid,
    root,
    directory: join(root, 'run'),
    events,
    syscalld,
    event: async (event, object) =>
      await new Promise((done, fail) => {
        const look = (): void => {
          const found = events.find(
            (e) => e.event === event && (object === undefined || e.object === object),
          );
          if (found === undefined) return;
          clearTimeout(timer);
          waiting.delete(look);
          done(found);
        };
        const timer = globalThis.setTimeout(() => {
          waiting.delete(look);
          fail(new Error(`no "${event}" of ${object ?? 'any object'} in ${DEADLINE_MS} ms`));
        }, DEADLINE_MS);
        waiting.add(look);
        look();
      }),
    restart: async (whileDown) => {
      const next = connected();
      const control = childrenOf(pid).find((child) => exeOf(child) === process.execPath);
      socket.destroy();
      await waitUntil(() => control === undefined || !childrenOf(pid).includes(control)); // syscalld has seen its end
      await whileDown?.();
      machine.syscalld = await next;
      return (await machine.syscalld.ready(listener)).objects;
    },
    children: () => childrenOf(pid),
    workers: () => childrenOf(pid).filter((child) => textOf(child, 'comm') === 'worker\n'),
  };
  return machine;
}

/** What syscalld holds: descriptors and children, as text to compare. */
function holdings(machine: Machine): { readonly fds: number; readonly children: number } {
  return { fds: readdirSync(`/proc/${machine.pid}/fd`).length, children: machine.children().length };
}

function isEqual(a: ReturnType<typeof holdings>, b: ReturnType<typeof holdings>): boolean {
  return a.fds === b.fds && a.children === b.children;
}

/** Whether syscalld and its children wait for something, and a worker among them: nothing is about to be made or to end. */
function isAtRest(_: unknown, machine: Machine): boolean {
  return (
    machine.workers().length > 0 && [machine.pid, ...machine.children()].every((pid) => stateOf(pid) === 'S')
  );
}

/** The state of a process as a letter (proc_pid_stat(5)); undefined when it has ended. */
function stateOf(pid: number): string | undefined {
  const stat = textOf(pid, 'stat');
  return stat[stat.lastIndexOf(')') + 2];
}

/** A file of a process in /proc; empty when it has ended. */
function textOf(pid: number, file: string): string {
  try {
    return readFileSync(`/proc/${pid}/${file}`, 'latin1');
  } catch {
    return '';
  }
}

/** The holdings once `isReached` and nothing changed for 50 ms, or those when patience ends. */
async function settled(
  machine: Machine,
  isReached: (now: ReturnType<typeof holdings>, machine: Machine) => boolean,
): Promise<ReturnType<typeof holdings>> {
  const deadline = performance.now() + DEADLINE_MS;
  let last = holdings(machine);
  for (;;) {
    await setTimeout(50);
    const now = holdings(machine);
    if ((isEqual(now, last) && isReached(now, machine)) || performance.now() > deadline) return now;
    last = now;
  }
}

/** Processes whose directory is in a test's own: they are the test's, also when a syscalld that crashed left them. */
function processesIn(root: string): readonly number[] {
  return readdirSync('/proc')
    .map(Number)
    .filter((pid) => {
      try {
        return pid > 0 && readlinkSync(`/proc/${pid}/cwd`).startsWith(`${root}/`);
      } catch {
        return false; // it has ended
      }
    });
}

/** The program a process runs; undefined when it has ended. */
function exeOf(pid: number): string | undefined {
  try {
    return readlinkSync(`/proc/${pid}/exe`);
  } catch {
    return undefined;
  }
}

function childrenOf(pid: number): readonly number[] {
  const path = `/proc/${pid}/task/${pid}/children`;
  assert.ok(existsSync(path), 'needs a kernel with CONFIG_PROC_CHILDREN');
  return readFileSync(path, 'utf8')
    .split(' ')
    .filter((text) => text !== '')
    .map(Number);
}
