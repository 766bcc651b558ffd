/** Group A: the runtime's binary, descriptors and processes. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { cgroupsOf, eventually } from '../lib/instance.ts';
import { PATIENCE } from '../lib/patience.ts';
import { buildProbe, type Findings, parseFindings } from '../lib/probe.ts';
import { type Check, IS_SLOW, PROBE, probe, sample, withProbe } from './places.ts';

/** CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID NET_BIND_SERVICE SYS_CHROOT SYS_PTRACE SYS_BOOT
 * SYS_TTY_CONFIG LEASE AUDIT_WRITE SETFCAP, by number. */
const ALLOWED_CAPABILITIES = [0, 1, 2, 3, 4, 5, 6, 7, 10, 18, 19, 22, 26, 28, 29, 31].reduce(
  (set, number) => set | (1n << BigInt(number)),
  0n,
);

/** Runs the runtime's own program in the guest, as the exploit did, and looks whether it can be written. */
export const a1: Check = async (v, places) => {
  const breaches: string[] = [];
  for (const { template, verb } of places) {
    if (verb !== 'exec') continue;
    const name = `self-${template}`;
    const flags = ['--init=none', '--template', template, '--name', name, ...withProbe()];
    const self = ['/proc/self/exe', 'list'];
    const clients = [v.spawn(['run', ...flags, '--', ...self])];
    const look = async (isThere: (pids: readonly string[]) => boolean): Promise<void> => {
      const found = await eventually('the runtime runs in the guest', async () => {
        const { code, stdout } = await v.run(['exec', name, '--', PROBE, 'executables']);
        const findings = code === 0 ? parseFindings(stdout) : {};
        return isThere(Object.keys(findings)) ? findings : undefined;
      });
      for (const [pid, result] of Object.entries(found)) {
        // ENOENT: it has ended.
        if (['EACCES', 'sealed', 'ENOENT'].includes(String(result))) continue;
        breaches.push(`${name}: /proc/${pid}/exe: ${result}`);
      }
    };
    await look((pids) => pids.includes('1'));
    clients.push(v.spawn(['exec', name, '--', ...self]));
    await look((pids) => pids.some((pid) => pid !== '1'));
    for (const client of clients) client.kill('SIGKILL');
    await v.run(['delete', '--force', name]);
  }
  return breaches;
};

/** A working directory or a descriptor that leads to the host. */
export const a2: Check = async (_v, places) => {
  const breaches: string[] = [];
  for (const place of places) {
    const descriptors = Object.keys(await probe(place, ['descriptors']));
    if (descriptors.join() !== '0,1,2') breaches.push(`${place.name}: descriptors ${descriptors.join()}`);
  }
  const numbers = Array.from({ length: IS_SLOW ? 8 : 61 }, (_, i) => i + 3).concat([100, 101, 102, 103]);
  for (const place of places) {
    if (place.verb === 'exec') {
      // The same by a link of the guest's own.
      const links = numbers.map((n) => `ln -s /proc/self/fd/${n} /tmp/to-${n}`).join('; ');
      await place.run(['sh', '-c', links]);
    }
    const paths = numbers.flatMap((n) => [
      `/proc/self/fd/${n}`,
      ...(place.verb === 'exec' ? [`/tmp/to-${n}`] : []),
    ]);
    const tried = await Promise.all(
      paths.map(async (path) => [path, await place.run(['pwd'], ['--workdir', path])] as const),
    );
    for (const [path, { code, stdout }] of tried) {
      if (code !== 125) breaches.push(`${place.name}: working directory ${path}: ${code} ${stdout.trim()}`);
    }
  }
  return breaches;
};

/** A process of the guest looks at those that come in by exec, before they are its own. */
export const a3: Check = async (v, places) => {
  const breaches: string[] = [];
  for (const { name, verb, template } of places) {
    if (verb !== 'exec') continue;
    const spied = async (seconds: number): Promise<Findings> => {
      const spy = v.spawn(['exec', template, '--', PROBE, 'spy', String(seconds)]);
      const output = text(spy.stdout!);
      const ended = once(spy, 'exit');
      while (spy.exitCode === null && spy.signalCode === null) await v.run(['exec', template, '--', 'true']);
      await ended;
      return parseFindings(await output);
    };
    let found = await spied(IS_SLOW ? 6 : 2);
    for (let seconds = 10; found['seen'] === 0 && seconds < 60; seconds *= 2) found = await spied(seconds);
    const { seen, memory, traced, leak } = found;
    if (seen === 0) breaches.push(`${name}: saw no process, so the test says nothing`);
    if (memory !== 0 || traced !== 0 || leak !== '')
      breaches.push(`${name}: opened memory of ${memory}, traced ${traced}, found "${leak}"`);
  }
  return breaches;
};

/** Capabilities: none inheritable or ambient, none but the allowed ones, none at all for a user. */
export const a4: Check = async (v, places) => {
  const breaches: string[] = [];
  const flags = [...withProbe(), '--security-opt', 'no-new-privileges=false'];
  await v.ok(['run', '--detach', '--name', 'gaining', ...flags, '--', 'sleep', '3600']);
  const gaining = async (argv: readonly string[], more: readonly string[] = []): Promise<string> =>
    await v.ok(['exec', ...more, 'gaining', '--', ...argv]);
  await gaining(['cp', PROBE, '/tmp/gain']);
  const set = parseFindings(await gaining([PROBE, 'capability', '/tmp/gain']));
  if (set['set'] !== 'ok') breaches.push(`cannot set file capabilities: ${set['set']}`);
  const rows: [string, boolean, Record<string, string | number>][] = [
    [
      'file capabilities',
      false,
      parseFindings(await gaining(['/tmp/gain', 'status'], ['--user', '1000:1000'])),
    ],
  ];
  for (const place of places) {
    rows.push([place.name, true, await probe(place, ['status'])]);
    rows.push([`${place.name} as a user`, false, await probe(place, ['status'], ['--user', '1000:1000'])]);
  }
  for (const [name, isRoot, status] of rows) {
    const bits = (key: string): bigint => BigInt(`0x${status[key]}`);
    if (bits('CapInh') !== 0n || bits('CapAmb') !== 0n)
      breaches.push(`${name}: inheritable ${status['CapInh']}`);
    if ((bits('CapBnd') & ~ALLOWED_CAPABILITIES) !== 0n) breaches.push(`${name}: bound ${status['CapBnd']}`);
    const held = bits('CapPrm') | bits('CapEff');
    if ((held & ~(isRoot ? ALLOWED_CAPABILITIES : 0n)) !== 0n)
      breaches.push(`${name}: holds ${held.toString(16)}`);
    if (name !== 'file capabilities' && status['NoNewPrivs'] !== '1')
      breaches.push(`${name}: may gain privileges`);
    if (status['Seccomp'] !== '2') breaches.push(`${name}: no filter`);
  }
  await v.ok(['delete', '--force', 'gaining']);
  return breaches;
};

/** `--user` → uid and gid, or undefined where only a refusal is right. */
const USERS: readonly (readonly [string, string | undefined])[] = [
  ['0', '0:0'],
  ['root', '0:0'],
  ['1:2', '1:2'],
  ['7', '7:7'],
  ['daemon', '1:1'],
  ['nobody:daemon', '65534:1'],
  ['65535', '65535:65535'],
  [':5', undefined],
  ['1:', undefined],
  [':', undefined],
  ['1:2:3', undefined],
  ['+5', undefined],
  ['-1', undefined],
  ['-0', undefined],
  ['00', undefined],
  ['0x10', undefined],
  ['1e3', undefined],
  [' 1', undefined],
  ['1 ', undefined],
  ['1\n', undefined],
  ['\u0661', undefined],
  ['\uff11', undefined],
  ['no-such-user', undefined],
  ['1:no-such-group', undefined],
  ['65536', undefined],
  ['1:65536', undefined],
  ['2147483648', undefined],
  ['4294967295', undefined],
  ['4294967296', undefined],
  ['18446744073709551616', undefined],
  // Of the guest's own passwd, see below.
  ['overflow', undefined],
  ['negative', undefined],
  ['short', undefined],
  ['text', undefined],
];
const BAD_PASSWD =
  'overflow:x:4294967296:0::/:\nnegative:x:-1:0::/:\nshort:x\ntext:x:zero:zero::/:\nroot2:x:0:0::/:\n';

/** Users as asked for, or an error: never root by mistake. */
export const a5: Check = async (_v, places) => {
  const breaches: string[] = [];
  for (const place of places) {
    if (place.verb === 'exec') await place.run(['sh', '-c', `printf '${BAD_PASSWD}' >> /etc/passwd`]);
    const outcomes = await Promise.all(
      sample(USERS).map(async ([user, wanted]) => {
        const script = 'echo "$(id -u):$(id -g)"';
        return { user, wanted, ...(await place.run(['sh', '-c', script], ['--user', user])) };
      }),
    );
    for (const { user, wanted, code, stdout } of outcomes) {
      const found = code === 0 ? stdout.trim() : undefined;
      const isRefused = found === undefined && code === 125;
      if (wanted === undefined ? !isRefused : found !== wanted)
        breaches.push(`${place.name}: user ${JSON.stringify(user)}: ${code} ${stdout.trim()}`);
    }
  }
  return breaches;
};

/** A guest types into the caller's terminal. */
export const a7: Check = async (_v, places) => {
  const breaches: string[] = [];
  const under = [buildProbe(), 'pty'];
  for (const place of places) {
    for (const flags of [['--interactive', '--tty'], ['--tty'], []]) {
      const { stdout } = await place.run([PROBE, 'terminal'], flags, { under });
      // What is typed into a terminal shows among the answers, in the midst of an object.
      const [, terminal] = /"terminal":"(\w+)"/.exec(stdout) ?? [];
      if (terminal !== 'own' && terminal !== 'none')
        breaches.push(`${place.name} ${flags.join(' ')}: has the caller's terminal: ${stdout}`);
      if (!stdout.includes('"tiocsti":"EPERM","tioclinux":"EPERM"'))
        breaches.push(`${place.name} ${flags.join(' ')}: TIOCSTI: ${stdout}`);
    }
  }
  return [...breaches, ...(await noTerminal(places))];
};

const noTerminal = async (places: Parameters<Check>[1]): Promise<readonly string[]> => {
  const breaches: string[] = [];
  for (const place of places) {
    const found = await probe(place, ['try', 'tiocsti', 'tiocsti high bits', 'tioclinux']);
    for (const [name, result] of Object.entries(found))
      if (result !== 'EPERM') breaches.push(`${place.name}: ${name}: ${result}`);
  }
  return breaches;
};

/** Groups of the caller or of the control plane, or of another user, stay with a process. */
export const a8: Check = async (_v, places) => {
  const breaches: string[] = [];
  const under = ['setpriv', '--groups', '4,24,27'];
  for (const place of places) {
    for (const [user, wanted] of [
      ['0', '0'],
      ['1000:1000', '1000'],
      ['1:2', '2'],
      ['daemon', '1'],
    ] as const) {
      const { stdout, stderr } = await place.run([PROBE, 'status'], ['--user', user], { under });
      const { Groups } = stdout === '' ? { Groups: stderr } : parseFindings(stdout);
      if (Groups !== wanted) breaches.push(`${place.name}: groups of ${user}: ${Groups}`);
    }
  }
  return breaches;
};

/**
 * A pid is given to another process between a guest's end and a signal to it. In a pid namespace of its own, where pids
 * can be chosen; vserverd is stopped meanwhile, so that it has not heard of the end.
 */
export const a9: Check = async (v) => {
  const script = `
    set -e
    vserver() { "${v.client}" "$@"; }
    pid_of() { sed -n "s/.*\\"$1\\": *\\([0-9]*\\).*/\\1/p" | head -n 1; }
    vserver run -d --name prey --template busybox -- sleep 1000 > /dev/null
    init=$(vserver inspect prey | pid_of initPid)
    control=$(vserver daemon status --json | pid_of vserverdPid)
    test -n "$init" && test -n "$control"
    kill -STOP $control
    kill -KILL $init
    while test -e /proc/$init; do sleep 0.01; done
    victim=
    for i in 1 2 3 4 5 6 7 8 9 10; do
      echo $((init - 1)) > /proc/sys/kernel/ns_last_pid
      sleep 1000 &
      victim=$!
      if test $victim = $init; then break; fi
      kill $victim
    done
    test $victim = $init
    for verb in kill stop pause "delete --force"; do vserver $verb prey > /dev/null 2>&1 & done
    sleep 0.2
    kill -CONT $control
    sleep 1
    if kill -0 $victim 2> /dev/null; then echo alive; else echo dead; fi
    kill $victim 2> /dev/null || true
    vserver delete --force prey > /dev/null 2>&1 || true
    vserver daemon stop --guests > /dev/null
    # It answers before it is gone, and what is left in here goes with us.
    while test -e /proc/$control; do sleep 0.02; done
  `;
  const [root, stdout, stderr] = await inOwnPids(v, script);
  const left = cgroupsOf(root);
  if (left.length > 0) return [`cgroups left: ${left.join(' ')}`];
  return stdout.trim() === 'alive'
    ? []
    : [`a process with a guest's old pid: ${stdout.trim()} ${stderr.trim()}`];
};

/** Runs a shell script on an instance of its own in a pid namespace of its own. */
async function inOwnPids(
  v: Parameters<Check>[0],
  script: string,
): Promise<readonly [root: string, stdout: string, stderr: string]> {
  const root = join(v.scratch, 'other');
  const shell = spawn('unshare', ['--pid', '--fork', '--kill-child', '--mount-proc', 'sh', '-c', script], {
    env: { PATH: process.env['PATH'] ?? '', VSERVER_ROOT: root },
    stdio: ['ignore', 'pipe', 'pipe'],
    timeout: 60_000 * PATIENCE,
    killSignal: 'SIGKILL',
  });
  const [stdout, stderr] = await Promise.all([text(shell.stdout), text(shell.stderr)]);
  return [root, stdout, stderr];
}

/**
 * A caller of the broker is killed while its call is answered, and another process of the guest gets its pid: nothing is
 * written there. The relay is stopped meanwhile, so that the broker waits for the answer. And what the broker may.
 */
export const a10: Check = async (v) => {
  const script = `
    set -e
    vserver() { "${v.client}" "$@"; }
    # What is left in here goes with us, but not its cgroups.
    end() {
      control=$(vserver daemon status --json | sed -n 's/.*"vserverdPid": *\\([0-9]*\\).*/\\1/p')
      kill -CONT $relay
      vserver delete --force prey > /dev/null 2>&1 || true
      vserver daemon stop --guests > /dev/null
      while test -e /proc/$control; do sleep 0.02; done
    }
    trap end EXIT
    named() { for p in /proc/[0-9]*; do if test "$(cat $p/comm 2> /dev/null)" = $1; then echo \${p#/proc/}; fi; done; }
    waits() { case "$(cat /proc/$broker/syscall)" in "${PREAD} "*) true;; *) false;; esac; }
    vserver run -d --name prey --template busybox --memory 64m ${withProbe().join(' ')} -- ${PROBE} recycled > /dev/null
    asks= broker= relay=
    while test -z "$asks" || test -z "$broker"; do asks=$(named asks); broker=$(named broker); sleep 0.02; done
    relay=$(named relay)
    sed -n 's/^CapEff:[^0-9a-f]*/broker has /p' /proc/$broker/status
    shm=/proc/$(vserver inspect prey | sed -n 's/.*"initPid": *\\([0-9]*\\).*/\\1/p')/root/dev/shm
    kill -STOP $relay
    : > $shm/ask
    until waits; do sleep 0.02; done
    kill -KILL $asks
    while test -e /proc/$asks; do sleep 0.02; done
    taken=
    for i in 1 2 3 4 5 6 7 8 9 10; do
      echo $((asks - 1)) > /proc/sys/kernel/ns_last_pid
      : > $shm/go
      # Nothing else is forked before it is there.
      while test -e $shm/go; do :; done
      taken=
      while test -z "$taken"; do taken=$(named takes); done
      if test "$taken" = "$asks"; then break; fi
    done
    test "$taken" = "$asks"
    kill -CONT $relay
    while waits; do sleep 0.02; done
    sleep 0.2
    : > $shm/look
    while test -e /proc/$taken; do sleep 0.02; done
    vserver logs prey
  `;
  const [root, stdout, stderr] = await inOwnPids(v, script);
  const left = cgroupsOf(root);
  if (left.length > 0) return [`cgroups left: ${left.join(' ')} ${stdout} ${stderr}`];
  const [capabilities, ...found] = stdout.trim().split('\n');
  return [
    ...(capabilities === 'broker has 0000000000080002' ? [] : [`${capabilities} ${stderr}`]),
    ...(found.join() === '{"written":0}' ? [] : [`memory of another process: ${found.join()} ${stderr}`]),
  ];
};

/** Number of pread64(2). */
const PREAD = process.arch === 'x64' ? 17 : 67;
