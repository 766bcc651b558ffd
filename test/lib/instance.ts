/**
 * A whole control plane of the test's own, used as an operator uses it: by `bin/vserver`, with all state below a private
 * directory. What it leaves behind fails the test.
 */
import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import {
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  realpathSync,
  rmdirSync,
  rmSync,
} from 'node:fs';
import { constants, tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { text } from 'node:stream/consumers';
import { setTimeout } from 'node:timers/promises';
import { instanceCgroupName } from '../../src/resources/cgroup-layout.ts';
import { parseMountInfo } from '../../src/spec/mountinfo.ts';
import { PATIENCE } from './patience.ts';

const CHECKOUT = resolve(import.meta.dirname, '../..');
const DEFAULT_TIMEOUT_MS = 30_000 * PATIENCE;
/** How long what was told to end may take. */
const END_TIMEOUT_MS = 10_000 * PATIENCE;

/** How one call of the client ended. */
export interface Outcome {
  /** As a shell would have it: 128 + N for signal N. */
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** What a call of the client may be given. */
export interface RunOptions {
  /** Standard input; without it that is /dev/null. */
  readonly input?: string | Uint8Array;
  /** Added to a small environment: PATH, HOME, VSERVER_ROOT. */
  readonly env?: Readonly<Record<string, string>>;
  readonly cwd?: string;
  /** The client is killed then and the call fails; default 30 s. */
  readonly timeoutMs?: number;
  /** Runs the client under another program, for example `['setpriv', '--reuid=65534']`. */
  readonly under?: readonly string[];
}

/** A running control plane. */
export interface Instance {
  /** VSERVER_ROOT: `etc`, `lib` and `run` are below. */
  readonly root: string;
  /** Path of the client. */
  readonly client: string;
  /** A directory for the test's own files, removed with the instance. */
  readonly scratch: string;
  /** Runs the client with these arguments, whatever its exit code. */
  run(args: readonly string[], options?: RunOptions): Promise<Outcome>;
  /** Runs the client, fails unless its exit code is 0, and returns what it printed. */
  ok(args: readonly string[], options?: RunOptions): Promise<string>;
  /** Starts the client and lets it run: killed at the end of the instance at the latest. Its three streams are pipes. */
  spawn(args: readonly string[], options?: Omit<RunOptions, 'input' | 'timeoutMs'>): ChildProcess;
}

/** What an instance may be made otherwise than of this checkout. */
export interface InstanceOptions {
  /** Directory with `bin/vserver`, `build`, `src`, `tools/node` and `node_modules`; default this checkout. */
  readonly checkout?: string;
  /** Program under which every call of the client runs, for example `['nsenter', '--net=/run/netns/x']`. */
  readonly under?: readonly string[];
}

/**
 * Runs `body` with an instance; then deletes its guests, stops the control plane and removes the directory. Fails when
 * a process, a cgroup or a mount of the instance is left after that, or any call took too long.
 */
export async function withInstance(
  body: (v: Instance) => Promise<void>,
  options: InstanceOptions = {},
): Promise<void> {
  const v = await openInstance(options);
  let failure: { readonly error: unknown } | undefined;
  try {
    await body(v);
  } catch (error) {
    failure = { error };
  }
  try {
    await v.close();
  } catch (error) {
    // The body's failure is the more useful one, and often the cause.
    failure = failure
      ? { error: new AggregateError([failure.error, error], String(failure.error)) }
      : { error };
  }
  if (failure) throw failure.error;
}

/** An instance that its opener closes, for the `before` and `after` of a suite. */
export interface OpenInstance extends Instance {
  /** Ends and removes everything; fails as `withInstance` does. */
  close(): Promise<void>;
}

/** Opens an instance; `withInstance` is the safer form. The control plane starts with the first call. */
export async function openInstance({
  checkout = CHECKOUT,
  under: always = [],
}: InstanceOptions = {}): Promise<OpenInstance> {
  const home = realpathSync(mkdtempSync(join(tmpdir(), 'vserver-test-')));
  const root = join(home, 'state');
  const scratch = mkdtempSync(join(home, 'scratch-'));
  const clients = new Set<ChildProcess>();

  const start = (
    args: readonly string[],
    { env, cwd, under }: RunOptions,
    stdin: 'ignore' | 'pipe',
  ): ChildProcess => {
    const [program = '', ...rest] = [...always, ...(under ?? []), join(checkout, 'bin/vserver'), ...args];
    const client = spawn(program, rest, {
      cwd: cwd ?? scratch,
      env: { PATH: process.env['PATH'] ?? '', HOME: '/root', VSERVER_ROOT: root, ...env },
      stdio: [stdin, 'pipe', 'pipe'],
    });
    clients.add(client);
    client.once('close', () => clients.delete(client));
    client.on('error', () => {}); // told by the missing exit code
    client.stdin?.on('error', () => {}); // the command need not read what it is given
    return client;
  };

  const run = async (args: readonly string[], options: RunOptions = {}): Promise<Outcome> => {
    const timeoutMs = options.timeoutMs ?? DEFAULT_TIMEOUT_MS;
    const client = start(args, options, options.input === undefined ? 'ignore' : 'pipe');
    client.stdin?.end(options.input);
    let isLate = false;
    const timer = globalThis.setTimeout(() => {
      isLate = true;
      client.kill('SIGKILL');
      // Whoever else holds the pipes' other ends does not hold us.
      client.stdout?.destroy();
      client.stderr?.destroy();
    }, timeoutMs);
    const ended = new Promise<number>((done) => {
      client.once('error', () => done(127));
      client.once('exit', (code, signal) => done(code ?? 128 + (signal ? constants.signals[signal] : 0)));
    });
    const read = async (stream: ChildProcess['stdout']): Promise<string> => {
      try {
        return stream ? await text(stream) : '';
      } catch {
        return ''; // destroyed above
      }
    };
    const [code, stdout, stderr] = await Promise.all([ended, read(client.stdout), read(client.stderr)]);
    clearTimeout(timer);
    if (isLate)
      throw new Error(`no end after ${timeoutMs} ms: vserver ${args.join(' ')}\n${stdout}${stderr}`);
    return { code, stdout, stderr };
  };

  const ok = async (args: readonly string[], options?: RunOptions): Promise<string> => {
    const { code, stdout, stderr } = await run(args, options);
    assert.equal(code, 0, `vserver ${args.join(' ')}\n${stdout}${stderr}`);
    return stdout;
  };

  const close = async (): Promise<void> => {
    for (const client of clients) client.kill('SIGKILL');
    const problems: string[] = [];
    const attempt = async (args: readonly string[]): Promise<void> => {
      const outcome = await run(args).catch((error: unknown) => ({
        code: -1,
        stdout: '',
        stderr: String(error),
      }));
      if (outcome.code !== 0) problems.push(`vserver ${args.join(' ')}: ${outcome.code}\n${outcome.stderr}`);
    };
    if (existsSync(root)) {
      const names = await run(['list', '--all', '--quiet']).catch(() => undefined);
      if (names?.stdout.trim() !== '') await attempt(['delete', '--all', '--force']);
      await attempt(['daemon', 'stop', '--guests']);
    }
    // Patience with what ends is lost on what was not even told to.
    problems.push(...(await leftovers(root, problems.length === 0 ? END_TIMEOUT_MS : 0)));
    if (mountsBelow(home).length === 0) rmSync(home, { recursive: true, force: true, maxRetries: 3 });
    assert.deepEqual(problems, [], 'the instance leaves nothing');
  };

  return {
    root,
    client: join(checkout, 'bin/vserver'),
    scratch,
    run,
    ok,
    spawn: (args, options = {}) => start(args, options, 'pipe'),
    close,
  };
}

/** Resolves with the first value that is not undefined; fails after `timeoutMs`. */
export async function eventually<T>(
  what: string,
  look: () => Promise<T | undefined> | T | undefined,
  timeoutMs: number = END_TIMEOUT_MS,
): Promise<T> {
  const deadline = performance.now() + timeoutMs;
  for (;;) {
    const found = await look();
    if (found !== undefined) return found;
    assert.ok(performance.now() < deadline, `not within ${timeoutMs} ms: ${what}`);
    await setTimeout(10);
  }
}

/** What is left of an instance that was stopped, after some patience, as text; and makes an end of it. */
async function leftovers(root: string, patienceMs: number): Promise<readonly string[]> {
  const deadline = performance.now() + patienceMs;
  let found: readonly string[] = [];
  do {
    found = [
      ...processesNaming(root).map((pid) => `process ${pid}: ${commandLine(pid)}`),
      ...cgroupsOf(root).map((path) => `cgroup ${path}`),
      ...mountsBelow(root).map((path) => `mount ${path}`),
    ];
    if (found.length === 0) return [];
    await setTimeout(20);
  } while (performance.now() < deadline);
  // They name our directory or sit in our cgroup, whose names are unique: nobody else's.
  for (const pid of processesNaming(root)) process.kill(pid, 'SIGKILL');
  for (let i = 0; i < 100 && cgroupsOf(root).length > 0; i++) {
    for (const cgroup of cgroupsOf(root)) clearCgroup(cgroup);
    await setTimeout(20);
  }
  return found;
}

/** Processes whose arguments name a directory, or that work below it. */
function processesNaming(root: string): readonly number[] {
  return readdirSync('/proc')
    .map(Number)
    .filter((pid) => pid > 0 && pid !== process.pid)
    .filter((pid) => {
      const words = commandLine(pid).split(' ');
      if (words.some((word) => word === root || word.startsWith(`${root}/`))) return true;
      try {
        return readlinkSync(`/proc/${pid}/cwd`).startsWith(`${root}/`);
      } catch {
        return false; // it has ended
      }
    });
}

function commandLine(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' ').trim();
  } catch {
    return ''; // it has ended
  }
}

/** Directories of an instance's cgroups, one in each hierarchy. */
export function cgroupsOf(root: string): readonly string[] {
  return parseMountInfo(readFileSync('/proc/self/mountinfo', 'utf8'))
    .filter(({ fsType }) => fsType === 'cgroup' || fsType === 'cgroup2')
    .map(({ mountPoint }) => join(mountPoint, instanceCgroupName(root)))
    .filter((path) => existsSync(path));
}

function clearCgroup(path: string): void {
  for (const entry of readdirSync(path, { withFileTypes: true })) {
    if (entry.isDirectory()) clearCgroup(join(path, entry.name));
  }
  try {
    for (const pid of readFileSync(join(path, 'cgroup.procs'), 'utf8').split('\n').filter(Boolean)) {
      process.kill(Number(pid), 'SIGKILL');
    }
    rmdirSync(path);
  } catch {
    // it is going, or somebody is still on the way out: it was reported
  }
}

function mountsBelow(directory: string): readonly string[] {
  return parseMountInfo(readFileSync('/proc/self/mountinfo', 'utf8'))
    .filter(({ mountPoint, root }) =>
      [mountPoint, root].some((path) => path === directory || path.startsWith(`${directory}/`)),
    )
    .map(({ mountPoint }) => mountPoint);
}
