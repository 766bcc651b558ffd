/**
 * Shows on this machine what vserver does: `npm run demo`. Everything happens in a control plane of its own below a
 * temporary directory, and where unshare and ip are there in a network namespace of its own; in the end the demo looks
 * for what might be left of it, and fails if anything is.
 */
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readdirSync, readFileSync, realpathSync, rmSync } from 'node:fs';
import { constants, networkInterfaces, tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { text } from 'node:stream/consumers';
import { setTimeout } from 'node:timers/promises';
import { instanceCgroupName } from '../src/resources/cgroup-layout.ts';
import { parseMountInfo } from '../src/spec/mountinfo.ts';

const CLIENT = resolve(import.meta.dirname, '../bin/vserver');
const COMMAND_TIMEOUT_MS = 30_000;
/** The kernel takes mounts and processes down in its own time. */
const END_TIMEOUT_MS = 5_000;

const LOOK = `echo "host name: $(hostname)"
echo "user: $(id -un), uid $(id -u)"
for process in /proc/[0-9]*; do
  echo "process \${process#/proc/}:" $(tr '\\0' ' ' <$process/cmdline)
done
echo "up for $(cut -d ' ' -f 1 /proc/uptime) s"
echo $(grep MemTotal /proc/meminfo), $(grep -c ^processor /proc/cpuinfo) CPUs
echo "$(wc -l </proc/mounts) mounts, the first: $(head -n 1 /proc/mounts | cut -d ' ' -f 1-3)"
df -h / | tail -n 1
echo "network:" $(ls /sys/class/net)
`;

/** What a command must do for the demo to go on. */
interface Expectation {
  /** Standard input; default nothing. */
  readonly input?: string;
  /** The file that `input` is said to come from; without it a pipe is shown. */
  readonly from?: string;
  /** Exit code, default 0. */
  readonly code?: number;
  readonly output?: RegExp;
}

const STOPS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;

/** A control plane of the demo's own. */
class Demo {
  readonly directory: string = realpathSync(mkdtempSync(join(tmpdir(), 'vserver-demo-')));
  readonly root: string = join(this.directory, 'state');
  #stopped: NodeJS.Signals | undefined;

  constructor() {
    for (const signal of STOPS) {
      process.on(signal, () => {
        this.#stopped = signal;
      });
    }
  }

  /** Says what comes next. */
  tell(...lines: readonly string[]): void {
    console.log(`\n${lines.map((line) => `# ${line}\n`).join('')}`.trimEnd());
  }

  /** Shows a command and what it prints; throws when it does not do what is expected. */
  async show(args: readonly string[], expected: Expectation = {}): Promise<string> {
    if (this.#stopped !== undefined) throw new Error(`stopped by ${this.#stopped}`);
    const { input, from, code: expectedCode = 0, output: pattern } = expected;
    const pipe = input === undefined || from !== undefined ? '' : `printf %s ${quote(input)} | `;
    const file = from === undefined ? '' : ` <${from}`;
    console.log(`$ ${pipe}vserver ${args.map(quote).join(' ')}${file}`);
    const { code, output } = await this.run(args, input);
    if (output !== '') process.stdout.write(output.endsWith('\n') ? output : `${output}\n`);
    if (code !== 0) console.log(`(exit code ${code})`);
    if (code !== expectedCode) throw new Error(`found exit code ${code}; need ${expectedCode}`);
    if (pattern !== undefined && !pattern.test(output)) throw new Error(`found no ${pattern} in the output`);
    return output;
  }

  /** Runs the client without showing it. */
  async run(
    args: readonly string[],
    input = '',
  ): Promise<{ readonly code: number; readonly output: string }> {
    const child = spawn(CLIENT, args, {
      cwd: this.directory,
      env: { PATH: process.env['PATH'] ?? '', VSERVER_ROOT: this.root },
      stdio: ['pipe', 'pipe', 'pipe'],
      timeout: COMMAND_TIMEOUT_MS,
      detached: true, // Ctrl-C is for the demo, which cleans up with more commands
    });
    child.stdin.on('error', () => {}); // a command need not read
    child.stdin.end(input);
    const [output, errors, [code, signal]] = await Promise.all([
      text(child.stdout),
      text(child.stderr),
      once(child, 'exit') as Promise<[number | null, NodeJS.Signals | null]>, // the event's documented arguments
    ]);
    return { code: code ?? 128 + (signal === null ? 0 : constants.signals[signal]), output: output + errors };
  }

  /** Resolves when the control plane serves; a client that was there before its end is told to try again. */
  async untilServed(): Promise<void> {
    const deadline = performance.now() + COMMAND_TIMEOUT_MS;
    while ((await this.run(['daemon', 'status'])).code !== 0) {
      if (performance.now() > deadline) throw new Error('found no new vserverd');
      await setTimeout(20);
    }
  }

  /** Resolves when a guest has printed a line. */
  async untilLogged(name: string, line: string): Promise<void> {
    const deadline = performance.now() + COMMAND_TIMEOUT_MS;
    while (!(await this.run(['logs', name])).output.split('\n').includes(line)) {
      if (performance.now() > deadline) throw new Error(`found no "${line}" of guest "${name}"`);
      await setTimeout(20);
    }
  }

  /** The page at an address; who has just said to be ready may not listen as yet. */
  async fetch(url: string): Promise<string> {
    const deadline = performance.now() + COMMAND_TIMEOUT_MS;
    for (;;) {
      try {
        return await (await fetch(url)).text();
      } catch (error) {
        if (performance.now() > deadline) throw error;
        await setTimeout(20);
      }
    }
  }

  /** One number of `vserver … --json`. */
  async number(args: readonly string[], pattern: RegExp): Promise<number> {
    const { output } = await this.run([...args, '--json']);
    const found = Number(pattern.exec(output)?.[1]);
    if (!Number.isInteger(found)) throw new Error(`found no ${pattern} in vserver ${args.join(' ')} --json`);
    return found;
  }
}

async function main(): Promise<boolean> {
  const before = addresses();
  const demo = new Demo();
  const seen = new Set<number>();
  let hasFailed = false;
  try {
    await showAll(demo, seen);
  } catch (error) {
    hasFailed = true;
    console.error(`\ndemo failed: ${error instanceof Error ? error.message : String(error)}`);
    if (existsSync(demo.root)) await demo.run(['delete', '--all', '--force']);
  }
  // Already stopped, when all went well: then this would start it again.
  if (hasFailed && existsSync(demo.root)) await demo.run(['daemon', 'stop', '--guests']);
  const left = await leftovers(demo, seen, before);
  if (left.length === 0) rmSync(demo.directory, { recursive: true });
  for (const line of left) console.error(`left over: ${line}`);
  if (!hasFailed && left.length === 0) {
    console.log('\nno process, mount, cgroup, address or file is left: the host is as it was');
  }
  return !hasFailed && left.length === 0;
}

async function showAll(demo: Demo, seen: Set<number>): Promise<void> {
  demo.tell(`The first command starts the control plane; all its state is below ${demo.root}.`);
  await demo.show(['daemon', 'start'], { output: /vserverd: pid \d+/ });
  for (const name of ['vserverdPid', 'syscalldPid']) {
    seen.add(await demo.number(['daemon', 'status'], new RegExp(`"${name}": (\\d+)`)));
  }

  demo.tell(
    'Guests share the kernel and, read-only, the /usr of the host. There is nothing to download or to build.',
  );
  const names = ['web', 'db'];
  const service = 'echo "$(hostname) is up"; while :; do sleep 1; echo "$(hostname) works"; done';
  const limits = ['--memory', '64m', '--cpus', '0.5', '--pids-limit', '50'];
  await demo.show(['run', '--detach', '--name', 'web', ...limits, '--', 'sh', '-c', service]);
  await demo.show(['run', '--detach', '--name', 'db', '--init=none', '--', 'sleep', '1000']);
  const { output: findings } = await demo.run(['check']);
  if (/^busybox +yes/m.test(findings)) {
    names.push('tiny');
    demo.tell('Another template: one static program, the busybox of the host, is the whole userland.');
    await demo.show(['run', '--detach', '--name', 'tiny', '--template', 'busybox', '--', 'sleep', '1000']);
  } else
    console.log(
      '\n# (Template "busybox" is left out: no static busybox here, see apt-get install busybox-static.)',
    );
  for (const name of names) seen.add(await demo.number(['inspect', name], /"initPid": (\d+)/));

  demo.tell(
    'What a guest sees of itself: its name, its users, its processes, its uptime, its mounts, its disk.',
  );
  console.log(`$ cat look.sh\n${LOOK.trimEnd()}`);
  for (const name of names) {
    const expected = { input: LOOK, from: 'look.sh', output: /user: root/ };
    await demo.show(['exec', '--interactive', name, 'sh'], expected);
  }

  demo.tell('What one writes the other does not have, and root in a guest is nobody outside.');
  await demo.show(['exec', 'web', 'sh', '-c', 'echo mine >/root/note && ls -l /root']);
  await demo.show(['exec', 'db', 'ls', '/root/note'], { code: 2, output: /No such file/ });
  await demo.show(['exec', 'web', 'sh', '-c', 'touch /usr/bin/x'], { code: 1, output: /Read-only/ });
  await demo.show([
    'exec',
    'web',
    'sh',
    '-c',
    'grep -E "Uid|NoNewPrivs|^Seccomp:" /proc/self/status; cat /proc/self/uid_map',
  ]);

  demo.tell('A command in a guest is a command: pipes pass through, and so do exit codes.');
  await demo.show(['exec', '--interactive', 'db', 'tr', 'a-z', 'A-Z'], { input: 'hello', output: /HELLO/ });
  await demo.show(['exec', 'db', 'sh', '-c', 'exit 7'], { code: 7 });

  demo.tell(
    'A limit that bites: this guest may have 32 MiB and asks for more. The kernel ends it, and nothing else.',
  );
  await demo.show(['run', '--memory', '32m', '--', 'tail', '-n', '1', '/dev/zero'], { code: 137 });
  await demo.show(['status', 'web'], { output: /running/ });

  demo.tell('Another: a guest with 5 processes at most, which wants 9.');
  const forks = 'for i in 1 2 3 4 5 6 7 8; do sleep 60 & done; echo all nine';
  await demo.show(['run', '--pids-limit', '5', '--', 'sh', '-c', forks], { code: 2, output: /fork/ });

  demo.tell('Limits of a guest that runs change at once, and stay changed.');
  await demo.show(['set', 'web', 'limits.memory=128m', 'limits.pids=20']);
  const shown = /"effective": \{\s*"memoryBytes": 134217728,[^}]*"pids": 20/;
  if (!shown.test((await demo.run(['inspect', 'web', '--json'])).output))
    throw new Error('the limits did not change');
  await demo.show(['check', 'web']);

  demo.tell('A paused guest keeps its memory and gets no CPU.');
  await demo.show(['pause', 'web']);
  await demo.show(['list'], { output: /web .*paused/ });
  await demo.show(['resume', 'web']);

  demo.tell('Policy may die: a new vserverd takes the guests over, which notice nothing.');
  const vserverd = await demo.number(['daemon', 'status'], /"vserverdPid": (\d+)/);
  console.log(`$ kill -9 ${vserverd}   # vserverd`);
  process.kill(vserverd, 'SIGKILL');
  await demo.untilServed();
  await demo.show(['list'], { output: /db .*running/ });
  seen.add(await demo.number(['daemon', 'status'], /"vserverdPid": (\d+)/));

  demo.tell('All processes of all guests, with their pids here (PID) and in the guest (GPID).');
  await demo.show(['ps'], { output: /^web .* sh -c/m });

  demo.tell('What a guest printed.');
  await demo.show(['logs', '--tail', '3', 'web'], { output: /web (is up|works)/ });

  demo.tell('What this host can do.');
  await demo.show(['check']);

  if (names.includes('tiny')) await showAddresses(demo, seen);

  demo.tell('What all guests use, in the columns of vserver-stat.');
  await demo.show(['stat'], { output: / web$/m });

  if (names.includes('tiny')) {
    demo.tell('A guest like another one, files and all: what both have alike is there once.');
    await demo.show(['stop', '--timeout', '0', 'tiny']);
    await demo.show(['clone', 'tiny', 'twin']);
    await demo.show(['snapshot', 'twin', 'fresh']);
    await demo.show(['snapshots', 'twin'], { output: /^fresh /m });
  }

  demo.tell('What has happened to it all.');
  await demo.show(['events', '--guest', 'web'], { output: / web resumed/ });

  demo.tell('Stop, delete, and end the control plane.');
  await demo.show(['stop', '--timeout', '2', '--all']);
  await demo.show(['list', '--all']);
  await demo.show(['delete', '--all']);
  await demo.show(['daemon', 'stop']);
}

/** The network namespace the demo began itself anew in. */
const OWN_NETWORK = 'VSERVER_DEMO_NETWORK';

async function showAddresses(demo: Demo, seen: Set<number>): Promise<void> {
  if (process.env[OWN_NETWORK] === undefined) {
    console.log(
      '\n# (Addresses of guests are left out: no unshare or no ip here, see apt-get install iproute2.)',
    );
    return;
  }
  demo.tell(
    "Addresses of their own on the host's network, without a bridge or translation between. Both guests listen on port",
    '80 of every address; each is reached at its own. (The host is a network namespace of the demo here.)',
  );
  const serve = 'mkdir /www && hostname >/www/index.html && echo ready && exec httpd -f -h /www';
  for (const [name, address] of [
    ['one', '10.83.0.1'],
    ['two', '10.83.0.2'],
  ] as const) {
    const network = ['--ip', address, '--network-interface', 'lo'];
    const guest = ['--name', name, '--template', 'busybox', ...network];
    await demo.show(['run', '--detach', ...guest, '--', 'sh', '-c', serve]);
    seen.add(await demo.number(['inspect', name], /"initPid": (\d+)/));
    await demo.untilLogged(name, 'ready');
    console.log(`$ curl http://${address}/`);
    const page = await demo.fetch(`http://${address}/`);
    process.stdout.write(page);
    if (page !== `${name}\n`) throw new Error(`found the page of another one`);
  }
  await demo.show(['exec', 'one', 'wget', '-q', '-O', '-', 'http://10.83.0.2/'], {
    code: 1,
    output: /wget/,
  });
  await demo.show(['denied', 'one'], { output: /10\.83\.0\.2/ });
  await demo.show(['traffic', 'two']);
  await demo.show(['delete', '--force', 'one', 'two']);
}

/** What is left of a control plane that was stopped, after some patience. */
async function leftovers(demo: Demo, seen: ReadonlySet<number>, before: string): Promise<readonly string[]> {
  const deadline = performance.now() + END_TIMEOUT_MS;
  for (;;) {
    const mounts = parseMountInfo(readFileSync('/proc/self/mountinfo', 'utf8'));
    const found = [
      ...processes(demo.root, seen),
      ...mounts
        .filter(({ mountPoint }) => mountPoint.startsWith(demo.directory))
        .map((one) => `mount ${one.mountPoint}`),
      ...mounts
        .filter(({ fsType }) => fsType === 'cgroup' || fsType === 'cgroup2')
        .map(({ mountPoint }) => join(mountPoint, instanceCgroupName(demo.root)))
        .filter((path) => existsSync(path))
        .map((path) => `cgroup ${path}`),
      ...(addresses() === before ? [] : ['network addresses that were not there before']),
    ];
    if (found.length === 0 || performance.now() > deadline) return found;
    await setTimeout(20);
  }
}

function processes(root: string, seen: ReadonlySet<number>): readonly string[] {
  return readdirSync('/proc')
    .map(Number)
    .filter((pid) => pid > 0)
    .map((pid): readonly [number, string] => [pid, commandLine(pid)])
    .filter(([pid, line]) => line !== '' && (seen.has(pid) || line.includes(root)))
    .map(([pid, line]) => `process ${pid}: ${line}`);
}

function commandLine(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' ').trim();
  } catch {
    return ''; // it has ended
  }
}

function addresses(): string {
  return JSON.stringify(networkInterfaces());
}

function quote(word: string): string {
  return /^[\w./=:+-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;
}

/** Begins the demo anew in a network namespace of its own, where guests may have addresses; undefined where it cannot. */
function inOwnNetwork(): number | undefined {
  const script = 'ip link set lo up && exec "$0" "$@"';
  const words = ['--net', 'sh', '-c', script, process.execPath, ...process.argv.slice(1)];
  if (spawnSync('unshare', ['--net', 'ip', 'link', 'set', 'lo', 'up']).status !== 0) return undefined;
  const env = { ...process.env, [OWN_NETWORK]: '1' };
  for (const signal of STOPS) process.on(signal, () => {}); // the demo in there gets it too, and cleans up
  return spawnSync('unshare', words, { env, stdio: 'inherit' }).status ?? 1;
}

process.exitCode =
  (process.env[OWN_NETWORK] === undefined ? inOwnNetwork() : undefined) ?? ((await main()) ? 0 : 1);
