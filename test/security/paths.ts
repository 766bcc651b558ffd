/** Group B: the root file system is hostile. */
import { spawn, spawnSync } from 'node:child_process';
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { text } from 'node:stream/consumers';
import { type Instance, openInstance } from '../lib/instance.ts';
import { buildProbe, parseFindings } from '../lib/probe.ts';
import { type Check, findingsOf, IS_SLOW, PROBE, sample, withProbe } from './places.ts';

/** Paths a guest must not see, of the lists of Docker and podman; `*` is every CPU. */
const MASKED = [
  '/proc/acpi',
  '/proc/asound',
  '/proc/interrupts',
  '/proc/kcore',
  '/proc/keys',
  '/proc/latency_stats',
  '/proc/sched_debug',
  '/proc/scsi',
  '/proc/timer_list',
  '/sys/firmware',
  '/sys/kernel/security',
  '/sys/devices/virtual/powercap',
  '/sys/devices/system/cpu/cpu0/thermal_throttle',
  '/sys/devices/system/cpu/cpu1/thermal_throttle',
];

/** Paths a guest must not write, and of each what writing there would do for it. */
const READ_ONLY = [
  '/proc/sys/kernel/core_pattern',
  '/proc/sys/kernel/modprobe',
  '/proc/sys/kernel/hotplug',
  '/proc/sys/kernel/poweroff_cmd',
  '/proc/sys/kernel/ns_last_pid',
  '/proc/sys/kernel/usermodehelper/bset',
  '/proc/sys/fs/binfmt_misc/register',
  '/proc/sys/vm/drop_caches',
  '/proc/sysrq-trigger',
  '/proc/irq/default_smp_affinity',
  '/proc/fs/xfs/stat',
  '/sys/kernel/uevent_helper',
  '/sys/kernel/mm/transparent_hugepage/enabled',
  '/sys/power/state',
  '/sys/module/kernel/parameters/panic',
];

/** A tree of the host that nothing may touch, and what it is like now. */
interface Canary {
  readonly path: string;
  /** What changed since it was made, and in the mounts of this namespace. */
  changes(): readonly string[];
}

function makeCanary(v: Instance): Canary {
  const path = mkdtempSync(join(v.scratch, 'canary-'));
  mkdirSync(join(path, 'pts'));
  mkdirSync(join(path, 'deep/er'), { recursive: true });
  writeFileSync(join(path, 'passwd'), 'intruder:x:4242:4242::/:/bin/sh\n');
  writeFileSync(join(path, 'group'), 'intruders:x:4242:\n');
  writeFileSync(join(path, 'null'), 'not null\n');
  chmodSync(path, 0o777); // so that only the path to it protects it
  // Others may mount on this host meanwhile: only what names the instance counts.
  const mounts = (): string =>
    readFileSync('/proc/self/mountinfo', 'utf8')
      .split('\n')
      .filter((line) => line.includes(v.root))
      .join('\n');
  const [tree, mounted] = [snapshot(path), mounts()];
  return {
    path,
    changes: () => [
      ...(snapshot(path) === tree ? [] : [`canary changed:\n${tree}\nto\n${snapshot(path)}`]),
      ...(mounts() === mounted ? [] : ['a mount on the host']),
    ],
  };
}

/** Every file below a directory with its type, owner, mode, size and times. */
function snapshot(directory: string): string {
  return readdirSync(directory, { recursive: true, encoding: 'utf8' })
    .concat('.')
    .sort()
    .map((name) => {
      const { mode, uid, gid, size, mtimeMs, ctimeMs } = statSync(join(directory, name));
      return `${name} ${mode.toString(8)} ${uid}:${gid} ${size} ${mtimeMs} ${ctimeMs}`;
    })
    .join('\n');
}

/** A root file system with a static busybox and what `change` does to it; with nothing that a guest does not need. */
function makeRoot(v: Instance, change: (root: string) => void): string {
  const root = mkdtempSync(join(v.scratch, 'root-'));
  chmodSync(root, 0o755);
  for (const name of ['bin', 'etc', 'tmp']) mkdirSync(join(root, name));
  const busybox = (process.env['PATH'] ?? '')
    .split(':')
    .map((directory) => join(directory, 'busybox'))
    .find((path) => existsSync(path));
  if (busybox === undefined) throw new Error('cannot make a root: found no busybox');
  shell(`cp ${busybox} ${root}/bin/busybox`);
  for (const name of ['sh', 'true', 'cat', 'ls', 'id', 'ln', 'mkdir', 'mkfifo', 'rm', 'sleep', 'stat'])
    symlinkSync('busybox', join(root, 'bin', name));
  writeFileSync(join(root, 'etc/passwd'), 'root:x:0:0::/:/bin/sh\nalice:x:1000:1000::/:/bin/sh\n');
  writeFileSync(join(root, 'etc/group'), 'root:x:0:\nalice:x:1000:\n');
  change(root);
  return root;
}

function shell(script: string): void {
  const { status, stderr } = spawnSync('sh', ['-ec', script], { encoding: 'utf8' });
  if (status !== 0) throw new Error(`cannot prepare: ${script}\n${stderr}`);
}

function replace(path: string, put: (path: string) => void): void {
  rmSync(path, { recursive: true, force: true });
  put(path);
}

/** B1 to B5: what stands where the runtime mounts, opens and makes things. */
const HOSTILE_ROOTS: readonly {
  readonly name: string;
  /** A start is wrong: there is no place for the mount. */
  readonly mustFail: boolean;
  readonly change: (root: string, canary: string) => void;
}[] = [
  ...['proc', 'sys', 'dev'].flatMap((name) => [
    {
      name: `/${name} is a link to a directory of the host`,
      mustFail: true,
      change: (root: string, canary: string) => symlinkSync(canary, join(root, name)),
    },
    {
      name: `/${name} is a link out of the root`,
      mustFail: true,
      change: (root: string, canary: string) =>
        symlinkSync(`${'../'.repeat(20)}${canary.slice(1)}`, join(root, name)),
    },
    {
      name: `/${name} is a link within the root`,
      mustFail: true,
      change: (root: string) => symlinkSync('tmp', join(root, name)),
    },
    {
      name: `/${name} is a link to nowhere`,
      mustFail: true,
      change: (root: string) => symlinkSync('/nowhere', join(root, name)),
    },
    {
      name: `/${name} is a file`,
      mustFail: true,
      change: (root: string) => writeFileSync(join(root, name), ''),
    },
    { name: `/${name} is a FIFO`, mustFail: true, change: (root: string) => shell(`mkfifo ${root}/${name}`) },
  ]),
  ...['run', 'etc', 'tmp', 'usr', 'root'].map((name) => ({
    name: `/${name} is a link to a directory of the host`,
    mustFail: false,
    change: (root: string, canary: string) => replace(join(root, name), (path) => symlinkSync(canary, path)),
  })),
  {
    name: '/dev/null is a link to core_pattern',
    mustFail: false,
    change: (root) => {
      mkdirSync(join(root, 'dev'));
      symlinkSync('/proc/sys/kernel/core_pattern', join(root, 'dev/null'));
    },
  },
  {
    name: '/dev/pts, /dev/pts/ptmx, /dev/pts/0 and /dev/console are links to the host',
    mustFail: false,
    change: (root, canary) => {
      mkdirSync(join(root, 'dev/pts'), { recursive: true });
      for (const path of ['dev/pts/ptmx', 'dev/pts/0', 'dev/console', 'dev/ptmx', 'dev/shm'])
        symlinkSync(`${canary}/null`, join(root, path));
    },
  },
  {
    name: '/dev/pts is a link to the host',
    mustFail: false,
    change: (root, canary) => {
      mkdirSync(join(root, 'dev'));
      symlinkSync(`${canary}/pts`, join(root, 'dev/pts'));
    },
  },
  {
    name: '/proc and /sys hold files named as what is masked',
    mustFail: false,
    change: (root, canary) => {
      for (const path of ['proc/self', 'sys/kernel']) mkdirSync(join(root, path), { recursive: true });
      for (const path of ['proc/keys', 'proc/sys', 'sys/firmware']) symlinkSync(canary, join(root, path));
    },
  },
  {
    name: 'a deep tree',
    mustFail: false,
    change: (root) =>
      shell(
        `cd ${root}; i=0; while [ $i -lt ${IS_SLOW ? 50 : 2000} ]; do mkdir d; cd -P ./d; i=$((i+1)); done`,
      ),
  },
];

/** Starts guests from hostile roots: a refusal that says why, or a safe guest; nothing of the host changes. */
export const hostileRoots: Check = async (v) => {
  const breaches: string[] = [];
  for (const { name, mustFail, change } of sample(HOSTILE_ROOTS)) {
    const canary = makeCanary(v);
    const root = makeRoot(v, (path) => change(path, canary.path));
    const flags = ['--template', `directory:${root}`, ...withProbe()];
    const masked = await v.run(['run', ...flags, '--', PROBE, 'masked', ...MASKED]);
    if (masked.code === 0) {
      if (mustFail) breaches.push(`${name}: started`);
      for (const [path, found] of Object.entries(parseFindings(masked.stdout)))
        if (found === 'seen') breaches.push(`${name}: sees ${path}`);
      breaches.push(...(await badMounts(v, flags, name)));
    } else if (masked.code !== 125 || !masked.stderr.startsWith('vserver: cannot start guest')) {
      breaches.push(`${name}: ${masked.code} ${masked.stderr}`);
    }
    if (canary.changes().length > 0) breaches.push(`${name}: ${canary.changes().join('\n')}`);
    shell(`rm -rf --one-file-system ${root}`);
  }
  return breaches;
};

/** Whether all that must be mounted is, at its own place, and core_pattern is safe. */
async function badMounts(v: Instance, flags: readonly string[], name: string): Promise<readonly string[]> {
  const { stdout, stderr } = await v.run(['run', ...flags, '--', '/bin/cat', '/proc/self/mountinfo']);
  const points = stdout.split('\n').map((line) => line.split(' ')[4] ?? '');
  const missing = ['/', '/proc', '/proc/sys', '/sys', '/dev', '/dev/pts', '/dev/mqueue'].filter(
    (path) => !points.includes(path),
  );
  const written = await v.run(['run', ...flags, '--', PROBE, 'write', ...READ_ONLY]);
  const writable = Object.entries(parseFindings(written.stdout)).filter(([, result]) => result === 'ok');
  return [
    ...(missing.length > 0 ? [`${name}: nothing is mounted on ${missing.join(' ')} ${stderr}`] : []),
    ...writable.map(([path]) => `${name}: may write ${path}`),
  ];
}

/** B2, B6: a component on the way of a mount is a directory and a link by turns. */
export const swappedComponents: Check = async (v) => {
  const breaches: string[] = [];
  const volume = mkdtempSync(join(v.scratch, 'volume-'));
  // Links lead within what they are in: nothing of the host is mounted where a guest's mounts are put in place.
  for (const name of ['dir', 'elsewhere']) mkdirSync(join(volume, name, 'deep'), { recursive: true });
  symlinkSync('elsewhere', join(volume, 'link'));
  for (const path of ['', 'dir', 'dir/deep', 'elsewhere', 'elsewhere/deep'])
    chmodSync(join(volume, path), 0o777);
  const root = makeRoot(v, (path) => {
    for (const name of ['dev', 'proc', 'sys', 'elsewhere']) mkdirSync(join(path, name));
    symlinkSync('elsewhere', join(path, 'way-out'));
  });
  const shared = [
    '--volume',
    `${volume}:/shared`,
    '--tmpfs',
    '/shared/dir/deep/x',
    '--tmpfs',
    '/shared/dir/y',
  ];
  const renames = [0, 0];
  let [attempts, started] = [0, 0];
  const attempt = async (): Promise<void> => {
    const outcomes = await Promise.all([
      v.run(['run', ...shared, '--', 'cat', '/proc/self/mountinfo']),
      v.run(['run', '--template', `directory:${root}`, '--', 'cat', '/proc/self/mountinfo']),
    ]);
    attempts++;
    for (const [i, { code, stdout, stderr }] of outcomes.entries()) {
      const points = stdout.split('\n').map((line) => line.split(' ')[4] ?? '');
      if (code === 0) started++;
      else if (code !== 125) breaches.push(`start ${i}: ${code} ${stderr}`);
      if (code !== 0) continue;
      if (i === 1 && !points.includes('/sys')) breaches.push('/sys is not mounted');
      const strange = points.filter(
        (path) => /elsewhere|(^|\/)(x|y)$/.test(path) && !/^\/shared\/(dir|link)\//.test(path),
      );
      if (strange.length > 0) breaches.push(`mounted on ${strange.join(' ')}`);
    }
  };
  // Whoever swaps ends by the clock. So as often as it takes on this machine, but once is enough to get through.
  const isEnough = (): boolean =>
    attempts >= (IS_SLOW ? 10 : 60) && started > 0 && renames.every((count) => count >= 2000);
  for (let round = 0; round < 30 && breaches.length === 0 && !isEnough(); round++) {
    const swaps = [
      spawn(buildProbe(), ['swap', join(volume, 'dir'), join(volume, 'link'), '3']),
      spawn(buildProbe(), ['swap', join(root, 'sys'), join(root, 'way-out'), '3']),
    ];
    const counts = Promise.all(swaps.map(async (swap) => parseFindings(await text(swap.stdout))['renames']));
    while (swaps.some((swap) => swap.exitCode === null)) await attempt();
    for (const [i, count] of (await counts).entries()) renames[i]! += Number(count);
  }
  if (breaches.length === 0 && !isEnough())
    breaches.push(`only ${renames} renames during ${started} starts, so the test says nothing`);
  return breaches;
};

/** B4: a guest that may mount puts its own things where exec opens a terminal. */
export const terminalSwap: Check = async (v) => {
  const breaches: string[] = [];
  const flags = ['--cap-add', 'SYS_ADMIN', '--security-opt', 'seccomp=unconfined', ...withProbe()];
  await v.ok(['run', '--detach', '--name', 'terminals', ...flags, '--', 'sleep', '3600']);
  const under = [buildProbe(), 'pty'];
  const terminal = (): ReturnType<Instance['run']> =>
    v.run(['exec', '-it', 'terminals', '--', PROBE, 'terminal'], { under });
  const cover = 'umount /dev/pts/ptmx 2> /dev/null; mount -t tmpfs none /dev/pts; cd /dev/pts; ';
  for (const [name, make] of [
    ['a link', 'ln -s /dev/null ptmx'],
    ['a link to a terminal', 'ln -s /proc/self/fd/0 ptmx'],
    ['a file', 'touch ptmx'],
    ['a FIFO', 'mkfifo ptmx'],
    ['the null device', 'touch ptmx; mount --bind /dev/null ptmx'],
  ] as const) {
    await v.ok(['exec', 'terminals', '--', 'sh', '-c', cover + make]);
    const { code, stdout } = await terminal();
    // The command that tells whose terminal it has must not have run.
    if (code === 0 || /^terminal /m.test(stdout))
      breaches.push(`/dev/pts/ptmx is ${name}: ${code} ${stdout}`);
  }
  await v.ok(['delete', '--force', 'terminals']);
  return breaches;
};

/** B7, CVE-2024-9676: the user database is a link to the host's, or blocks. */
export const userDatabase: Check = async (v) => {
  const breaches: string[] = [];
  const canary = makeCanary(v);
  const host = (name: string): string => join(canary.path, name);
  const roots: readonly (readonly [string, string, (root: string) => void])[] = [
    [
      'passwd is a link to the host',
      'intruder',
      (root) => put(root, 'etc/passwd', (p) => symlinkSync(host('passwd'), p)),
    ],
    [
      'passwd is a link out of the root',
      'intruder',
      (root) =>
        put(root, 'etc/passwd', (p) => symlinkSync(`${'../'.repeat(20)}${host('passwd').slice(1)}`, p)),
    ],
    [
      '/etc is a link to the host',
      'intruder',
      (root) => put(root, 'etc', (p) => symlinkSync(canary.path, p)),
    ],
    [
      'group is a link to the host',
      '1:intruders',
      (root) => put(root, 'etc/group', (p) => symlinkSync(host('group'), p)),
    ],
    ['passwd is a FIFO', 'alice', (root) => put(root, 'etc/passwd', (p) => shell(`mkfifo ${p}`))],
    ['group is a FIFO', 'alice', (root) => put(root, 'etc/group', (p) => shell(`mkfifo ${p}`))],
    ['passwd is a directory', 'alice', (root) => put(root, 'etc/passwd', (p) => mkdirSync(p))],
    ['passwd is a device', 'alice', (root) => put(root, 'etc/passwd', (p) => shell(`mknod ${p} c 1 5`))],
    ['passwd never ends', 'alice', (root) => put(root, 'etc/passwd', (p) => shell(`truncate -s 1T ${p}`))],
    [
      'passwd is a link to /proc/self/environ',
      'alice',
      (root) => put(root, 'etc/passwd', (p) => symlinkSync('/proc/self/environ', p)),
    ],
  ];
  const judge = (
    what: string,
    outcome: { code: number; stdout: string; stderr: string } | undefined,
  ): void => {
    if (outcome === undefined) breaches.push(`${what}: hangs`);
    else if (outcome.code !== 125) breaches.push(`${what}: ${outcome.code} ${outcome.stdout}`);
  };
  for (const [name, user, change] of sample(roots)) {
    const root = makeRoot(v, change);
    const flags = ['--template', `directory:${root}`];
    const run = await v.run(['run', ...flags, '--user', user, '--', 'id']).catch(() => undefined);
    judge(`run, ${name}`, run);
    if (run === undefined) {
      // What hangs is in the way of the rest. Whoever waits for a writer has had one, so that the instance can end.
      shell(`for file in ${root}/etc/passwd ${root}/etc/group; do [ ! -p $file ] || : <>$file; done`);
      return breaches;
    }
    // The same for one that runs: what the layers have, its root has.
    await v.ok(['run', '--detach', '--name', 'links', ...flags, '--', 'sleep', '3600']);
    judge(`exec, ${name}`, await v.run(['exec', '--user', user, 'links', '--', 'id']).catch(() => undefined));
    await v.ok(['delete', '--force', 'links']);
  }
  return [...breaches, ...canary.changes()];
};

function put(root: string, name: string, make: (path: string) => void): void {
  replace(join(root, name), make);
}

/** B7: what a guest calls itself is not what a terminal of the operator does. */
export const namesOfProcesses: Check = async (v) => {
  const name = '\u001b]0;owned\u0007\u001b[2J';
  const seen = 'of the guest';
  await v.ok(['run', '--detach', '--name', 'names', '--', 'sh', '-c', 'sleep 3600; :', `${seen}${name}`]);
  const outputs = [await v.ok(['ps', 'names']), await v.ok(['inspect', 'names']), await v.ok(['list'])];
  await v.ok(['delete', '--force', 'names']);
  if (!outputs[0]?.includes(seen)) return ['the name is not shown, so the test says nothing'];
  // Control characters, but for the ends of lines and tabs.
  return outputs.filter((output) => /[^\P{Cc}\n\t]/u.test(output)).map((output) => JSON.stringify(output));
};

/** B8: nothing in /sys, control groups before all, may be written. */
export const b8: Check = async (_v, places) => await findingsOf(places, ['writable', '/sys'], () => false);

/** B9: what is masked is absent or covered, what is read-only cannot be opened for writing. */
export const b9: Check = async (_v, places) => [
  ...(await findingsOf(places, ['masked', ...MASKED], (_key, found) =>
    ['absent', 'null', 'empty'].includes(String(found)),
  )),
  ...(await findingsOf(places, ['write', ...READ_ONLY], (_key, result) => result !== 'ok')),
];

/** B10: mounts of a guest stay in it, and the host's mounts out of it, where the host's are shared as systemd has them. */
export const b10: Check = async (v) => {
  const other = await openInstance({ checkout: dirname(dirname(v.client)) });
  try {
    const volume = join(other.scratch, 'volume');
    mkdirSync(join(volume, 'inside'), { recursive: true });
    chmodSync(join(volume, 'inside'), 0o777);
    const under = ['unshare', '--mount', '--propagation', 'shared'];
    await other.ok(['daemon', 'start'], { under });
    const script = `
      mount -t tmpfs fromguest /usr/local && mount -t tmpfs fromguest /volume/inside && mount -t tmpfs fromguest /tmp
      grep -cE 'shared:|master:' /proc/self/mountinfo; exec sleep 3600`;
    const flags = ['--cap-add', 'SYS_ADMIN', '--volume', `${volume}:/volume`, '--name', 'mounts'];
    await other.ok(['run', '--detach', ...flags, '--', 'sh', '-c', script]);
    const { syscalldPid } = JSON.parse(await other.ok(['daemon', 'status', '--json'])) as {
      syscalldPid: number;
    };
    let log = '';
    for (let i = 0; i < 100 && !log.includes('\n'); i++) log = await other.ok(['logs', 'mounts']);
    const host = readFileSync(`/proc/${syscalldPid}/mountinfo`, 'utf8');
    return [
      ...(host.includes('fromguest') ? ['a mount of the guest is on the host'] : []),
      ...(log.trim() === '0' ? [] : [`mounts of the guest that are tied to others: ${log.trim()}`]),
    ];
  } finally {
    await other.close();
  }
};

/** B11: targets of configured mounts lead through what the guest made. */
export const b11: Check = async (v) => {
  const breaches: string[] = [];
  const canary = makeCanary(v);
  const volume = mkdtempSync(join(v.scratch, 'volume-'));
  symlinkSync(canary.path, join(volume, 'out'));
  const root = makeRoot(v, (path) => {
    symlinkSync(canary.path, join(path, 'data'));
    symlinkSync('/etc', join(path, 'inner'));
    symlinkSync('/proc/self/fd', join(path, 'fds'));
    shell(`mkfifo ${path}/fifo`);
  });
  for (const target of [
    '/data',
    '/data/deep/er',
    '/inner',
    '/inner/x',
    '/fds/5',
    '/fifo',
    '/fifo/x',
    '/volume/out',
    '/volume/out/x',
  ]) {
    for (const mount of [
      ['--tmpfs', target],
      ['--volume', `${volume}:${target}`],
      ['--volume', `${join(canary.path, 'passwd')}:${target}:ro`],
    ]) {
      const flags = ['--template', `directory:${root}`, '--volume', `${volume}:/volume`, ...mount];
      const { code, stdout, stderr } = await v.run(['run', ...flags, '--', 'cat', '/proc/self/mountinfo']);
      // A mount may cover a link or a FIFO itself: then it is where it was asked for.
      if (code === 0 && stdout.split('\n').some((line) => line.split(' ')[4] === target)) continue;
      if (code !== 125 || stderr === '') breaches.push(`${mount.join(' ')}: ${code} ${stderr}`);
    }
  }
  for (const target of ['/../x', '/a/../../x', 'x', '/./x', '/']) {
    const { code } = await v.run(['run', '--mount', `type=tmpfs,target=${target}`, '--', 'true']);
    if (code !== 125) breaches.push(`target ${target}: ${code}`);
  }
  return [...breaches, ...canary.changes()];
};

/** B12: what a guest writes, setuid programs before all, is out of reach of the host's users. */
export const b12: Check = async (v) => {
  const breaches: string[] = [];
  const home = dirname(v.root);
  chmodSync(home, 0o755);
  const nobody = ['setpriv', '--reuid', '65534', '--regid', '65534', '--clear-groups'];
  await v.ok(['create', 'setuid', '--template', 'busybox', ...withProbe(), '--', 'sleep', '3600']);
  await v.ok(['start', 'setuid']);
  await v.ok(['exec', 'setuid', '--', 'sh', '-c', 'cp /bin/busybox /id && chmod 6777 /id']);
  const program = join(v.root, 'lib/guests/setuid/upper/id');
  if (!existsSync(program)) breaches.push(`nothing at ${program}, so the test says nothing`);
  // By a shell: setpriv itself still has capabilities when it executes.
  const ran = spawnSync(nobody[0]!, [...nobody.slice(1), 'sh', '-c', 'exec "$0"', program], {
    encoding: 'utf8',
  });
  if (ran.status === 0) breaches.push(`a user of the host ran a guest's setuid program: ${ran.stdout}`);
  // Nothing of the state is open to others: neither to read nor, but for ways through, to enter.
  for (const name of ['etc', 'lib', 'run']) {
    const seen = spawnSync(nobody[0]!, [...nobody.slice(1), 'find', join(v.root, name), '-mindepth', '1'], {
      encoding: 'utf8',
    });
    if (seen.stdout !== '') breaches.push(`a user of the host sees ${seen.stdout.split('\n')[0]}`);
  }
  const client = spawnSync(nobody[0]!, [...nobody.slice(1), v.client, 'list'], {
    encoding: 'utf8',
    env: { PATH: process.env['PATH'], VSERVER_ROOT: v.root },
  });
  if (client.status === 0) breaches.push(`a user of the host reached the control plane: ${client.stdout}`);
  await v.ok(['delete', '--force', 'setuid']);
  return breaches;
};

/** B13: ways back to the host's root: a handle, a descriptor, a chroot, what is below, another process's directories. */
export const b13: Check = async (v, places) => {
  const canary = makeCanary(v);
  const breaches = [
    ...(await findingsOf(places, ['escape', canary.path], (key, result) =>
      key === 'host' ? result === 'ENOENT' : true,
    )),
    ...(await findingsOf(
      places,
      ['try', 'open_by_handle_at', 'pivot_root'],
      (_key, result) => result === 'EPERM',
    )),
  ];
  // Who may unmount its root finds a directory below it, read-only and empty.
  const admin = ['--cap-add', 'SYS_ADMIN', '--security-opt', 'seccomp=unconfined'];
  const runs = places.filter(({ verb }) => verb === 'run');
  const below: Readonly<Record<string, string>> = { write: 'EROFS', proc: 'ENOENT', host: 'ENOENT' };
  breaches.push(
    ...(await findingsOf(
      runs,
      ['uncover', canary.path],
      (key, result) => result === (below[key] ?? 'ok'),
      admin,
    )),
  );
  const script = `for p in /proc/[0-9]*; do for l in root cwd; do
    test -e "$p/$l${canary.path}" && echo "$p/$l"; test -e "$p/$l/../../../../../..${canary.path}" && echo "$p/$l"; done; done; true`;
  for (const place of places) {
    const { stdout } = await place.run(['sh', '-c', script]);
    if (stdout !== '') breaches.push(`${place.name}: the host by ${stdout.trim()}`);
    const { stdout: mounts } = await place.run(['cat', '/proc/self/mountinfo']);
    const roots = mounts.split('\n').filter((line) => line.split(' ')[4] === '/');
    if (roots.length !== 1) breaches.push(`${place.name}: ${roots.length} mounts on /`);
  }
  return breaches;
};

/** Deletion: links of the guest, deep trees, and a directory of the host that came to be mounted there. */
export const deletion: Check = async (v) => {
  const breaches: string[] = [];
  const canary = makeCanary(v);
  const other = await openInstance({ checkout: dirname(dirname(v.client)) });
  try {
    // A mount namespace of its own, so that what we mount there is gone with the control plane at the latest.
    await other.ok(['daemon', 'start'], { under: ['unshare', '--mount', '--propagation', 'private'] });
    const { syscalldPid } = JSON.parse(await other.ok(['daemon', 'status', '--json'])) as {
      syscalldPid: number;
    };
    const mount = (...args: readonly string[]): void =>
      shell(`nsenter --target ${syscalldPid} --mount -- ${args.join(' ')}`);
    const make = async (name: string, script: string): Promise<string> => {
      await other.ok(['create', name, '--template', 'busybox', '--', 'sleep', '3600']);
      await other.ok(['start', name]);
      await other.ok(['exec', name, '--', 'sh', '-c', script], { timeoutMs: 60_000 });
      await other.ok(['stop', '--timeout', '0', name]);
      return join(other.root, 'lib/guests', name);
    };
    const levels = IS_SLOW ? 200 : 1000;
    const links = await make(
      'links',
      `for i in 1 2 3; do ln -s ${canary.path} /to-$i; ln -s ${canary.path}/passwd /file-$i; done
       mkfifo /fifo; mkdir -p /closed/in; chmod 0 /closed; ln -s / /root/everything
       cd /root; i=0; while [ $i -lt ${levels} ]; do mkdir d; cd -P ./d; i=$((i+1)); done`,
    );
    await other.ok(['delete', 'links']);
    if (existsSync(links)) breaches.push('files are left');

    // A component of the way becomes a link, after the guest has ended and before its directory is deleted.
    const turned = await make('turned', 'mkdir /root/here');
    renameSync(join(turned, 'upper'), join(turned, 'aside'));
    symlinkSync(canary.path, join(turned, 'upper'));
    await other.run(['delete', 'turned']);
    breaches.push(...canary.changes());

    // Bind mounts of one file system have one st_dev.
    for (const [name, kind] of [
      ['bound', 'bind'],
      ['memory', 'tmpfs'],
    ] as const) {
      const directory = await make(name, 'mkdir -p /root/a/b; touch /root/kept');
      const point = join(directory, 'upper/root/a/b');
      if (kind === 'bind') mount('mount', '--bind', canary.path, point);
      else mount('mount', '-t', 'tmpfs', 'none', point);
      const refused = await other.run(['delete', name]);
      if (refused.code === 0) breaches.push(`deleted a guest with a ${kind} mount in its files`);
      if (!refused.stderr.includes('mount')) breaches.push(`does not say why: ${refused.stderr}`);
      if (!existsSync(join(directory, 'upper/root/kept')))
        breaches.push('deleted a part before it saw the mount');
      mount('umount', point);
      const again = await other.run(['delete', name]);
      if (again.code !== 0 || existsSync(directory))
        breaches.push(`cannot delete it afterwards: ${again.stderr}`);
    }
    return [...breaches, ...canary.changes()];
  } finally {
    await other.close();
  }
};

/** The guest's directory is a link: what it points to stays. */
export const deletionOfLink: Check = async (v) => {
  const canary = makeCanary(v);
  await v.ok(['create', 'linked', '--template', 'busybox', '--', 'true']);
  const directory = join(v.root, 'lib/guests/linked');
  renameSync(directory, join(v.scratch, 'linked'));
  symlinkSync(canary.path, directory);
  await v.run(['delete', 'linked']);
  if (existsSync(directory) && readlinkSync(directory) === canary.path) rmSync(directory);
  return canary.changes();
};
