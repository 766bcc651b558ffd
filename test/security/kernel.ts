/** Group C: what of the kernel a guest reaches. */

import { spawnSync } from 'node:child_process';
import { chmodSync, mkdtempSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { type Instance, openInstance } from '../lib/instance.ts';
import { PATIENCE } from '../lib/patience.ts';
import { buildProbe, parseFindings } from '../lib/probe.ts';
import { type Check, findingsOf, IS_SLOW, PROBE, probe, sample, withProbe } from './places.ts';

const REFUSALS: readonly unknown[] = ['EPERM', 'ENOSYS'];

/** C1: every system call that a root exploit of the last years began with is refused before the kernel looks at it. */
export const c1: Check = async (_v, places) =>
  await findingsOf(places, ['try'], (name, result) => {
    if (name.startsWith('clone3')) return result === 'ENOSYS'; // so that libc falls back to clone
    if (name === 'memory of init') return result === 'EACCES' || result === 'EPERM';
    return REFUSALS.includes(result);
  });

/** C1 by the numbers of the other ABIs. */
export const c1Compat: Check = async (_v, places) => {
  const judge = (name: string, result: string | number): boolean =>
    // A kernel without the ABI ends the process, or knows no such call.
    REFUSALS.includes(result) || name === 'getppid' || String(result).startsWith('signal');
  return [
    ...(await findingsOf(places, ['compat', 'i386'], judge)),
    ...(await findingsOf(places, ['compat', 'x32'], judge)),
  ];
};

const ALLOWED_FAMILIES = ['unix', 'inet', 'inet6', 'netlink route'];

/** C2: families whose code writes to the page cache of readable files, by every way to a socket. */
export const c2: Check = async (_v, places) => {
  const breaches: string[] = [];
  for (const abi of sample(['native', 'high-bits', 'i386', 'socketcall', 'socketpair', 'x32'])) {
    breaches.push(
      ...(await findingsOf(places, ['sockets', abi], (name, result) =>
        result === 'ok' ? ALLOWED_FAMILIES.includes(name) : true,
      )),
    );
  }
  for (const place of places) {
    const native = await probe(place, ['sockets', 'native']);
    for (const name of ALLOWED_FAMILIES)
      if (native[name] !== 'ok' && native[name] !== 'EAFNOSUPPORT')
        breaches.push(`${place.name}: no ${name} socket`);
  }
  return breaches;
};

/** C4: one range of ids, of the guest's own; no descriptor of a control group. */
export const c4: Check = async (_v, places) => {
  const breaches: string[] = [];
  for (const place of places) {
    for (const map of ['uid_map', 'gid_map']) {
      const { stdout } = await place.run(['cat', `/proc/self/${map}`]);
      const [inside, outside, count, ...rest] = stdout.trim().split(/\s+/).map(Number);
      const isOwn =
        inside === 0 && count === 65_536 && (outside ?? 0) >= 2 * 65_536 && (outside ?? 1) % 65_536 === 0;
      if (!isOwn || rest.length > 0) breaches.push(`${place.name}: ${map} ${stdout}`);
    }
    for (const [fd, target] of Object.entries(await probe(place, ['descriptors'])))
      if (String(target).includes('cgroup')) breaches.push(`${place.name}: descriptor ${fd} is ${target}`);
  }
  return breaches;
};

/** C5: helpers the kernel runs as root, and switches of the host. */
export const c5: Check = async (_v, places) => {
  const paths = [
    '/proc/sys/kernel/core_pattern',
    '/proc/sys/kernel/modprobe',
    '/proc/sys/kernel/hotplug',
    '/sys/kernel/uevent_helper',
    '/proc/sys/fs/binfmt_misc/register',
    '/proc/sys/fs/binfmt_misc/status',
    '/proc/sysrq-trigger',
    '/sys/kernel/security/apparmor/.load',
    '/sys/kernel/security/apparmor/.replace',
    '/sys/kernel/security/apparmor/.remove',
    '/sys/fs/cgroup/release_agent',
    '/sys/fs/cgroup/memory/release_agent',
  ];
  return await findingsOf(places, ['write', ...paths], (_path, result) => result !== 'ok');
};

/** C5c: what is shared read-only cannot be written, also by another path to it. */
export const c5c: Check = async (v) => {
  const breaches: string[] = [];
  const share = mkdtempSync(join(v.scratch, 'share-'));
  chmodSync(share, 0o777);
  writeFileSync(join(share, 'file'), 'kept\n');
  chmodSync(join(share, 'file'), 0o666);
  const script = `
    echo changed > /share/file; echo new > /share/new; mount -o remount,rw /share; mount -o remount,bind,rw /share
    mount --bind /share /mnt; echo changed > /mnt/file; echo changed > /proc/self/root/share/file
    exec 3< /share/file; echo changed > /proc/self/fd/3; ln /share/file /tmp/file && echo changed > /tmp/file
    echo changed > /usr/share/new; unshare -Urm mount -o remount,bind,rw /share; true`;
  const second = ['--mount', `type=bind,source=${share},target=/second,readonly,idmap`];
  const admin = ['--cap-add', 'SYS_ADMIN'];
  const unconfined = [...admin, '--security-opt', 'seccomp=unconfined'];
  for (const template of ['host', 'busybox']) {
    for (const more of [[], second, [...admin, ...second], [...unconfined, ...second]]) {
      const flags = ['--template', template, '--volume', `${share}:/share:ro`, ...more];
      await v.run([
        'run',
        ...flags,
        '--',
        'sh',
        '-c',
        `${script}; mount -o remount,bind,rw /second; echo changed > /second/file`,
      ]);
      const text = readFileSync(join(share, 'file'), 'utf8');
      if (text !== 'kept\n' || readdirSync(share).length !== 1)
        breaches.push(`${template}: wrote to the share`);
      writeFileSync(join(share, 'file'), 'kept\n');
    }
  }
  return breaches;
};

/** C6: the session keyring of whoever started the control plane stays out of guests that may use keys at all. */
export const c6: Check = async (v) => {
  const other = await openInstance({ checkout: dirname(dirname(v.client)) });
  try {
    const under = [buildProbe(), 'keyring'];
    await other.ok(['daemon', 'start'], { under });
    const flags = ['--template', 'busybox', '--security-opt', 'seccomp=unconfined', ...withProbe()];
    await other.ok(['run', '--detach', '--name', 'keys', ...flags, '--', 'sleep', '3600'], { under });
    const outputs = [
      ['run', await other.ok(['run', ...flags, '--', PROBE, 'find-key'], { under })],
      ['exec', await other.ok(['exec', 'keys', '--', PROBE, 'find-key'], { under })],
    ] as const;
    return outputs.flatMap(([verb, output]) => {
      const { canary } = parseFindings(output);
      return canary === 'ENOKEY' ? [] : [`${verb}: a key of the host: ${canary}`];
    });
  } finally {
    await other.close();
  }
};

/** C8: no device nodes can be made, and those that are there are only names. */
export const c8: Check = async (v, places) => {
  const breaches = [
    ...(await findingsOf(
      places,
      ['try', 'mknod block', 'mknod memory', 'mknod null'],
      (_key, result) => result === 'EPERM',
    )),
  ];
  const root = mkdtempSync(join(v.scratch, 'nodes-'));
  chmodSync(root, 0o755);
  const script = `cd ${root} && mkdir nodes tmp && mknod -m 666 nodes/null c 1 3 && mknod -m 666 nodes/memory c 1 1 &&
    mknod -m 666 nodes/disk b 8 0`;
  const { status, stderr } = spawnSync('sh', ['-c', script], { encoding: 'utf8' });
  if (status !== 0) return [...breaches, `cannot make device nodes: ${stderr}`];
  for (const [where, flags] of [
    ['template', ['--template', `directory:${root}`]],
    ['volume', ['--volume', `${root}/nodes:/nodes`]],
    ['idmapped volume', ['--mount', `type=bind,source=${root}/nodes,target=/nodes,idmap`]],
  ] as const) {
    const words = ['write', '/nodes/null', '/nodes/memory', '/nodes/disk'];
    const { stdout, stderr } = await v.run(['run', ...flags, ...withProbe(), '--', PROBE, ...words]);
    if (stdout === '') breaches.push(`${where}: ${stderr}`);
    // EACCES is nodev's answer.
    else
      for (const [path, result] of Object.entries(parseFindings(stdout)))
        if (result !== 'EACCES') breaches.push(`${where}: ${path}: ${result}`);
  }
  return [...breaches, ...(await deviceFilter(v))];
};

/** /dev has to work, so it is not nodev: what no guest may open is refused there by the device filter. */
async function deviceFilter(v: Instance): Promise<readonly string[]> {
  await v.ok(['run', '--detach', '--name', 'nodes', ...withProbe(), '--', 'sleep', '3600']);
  const [guest] = JSON.parse(await v.ok(['inspect', 'nodes', '--json'])) as { initPid: number }[];
  const breaches: string[] = [];
  const nodes = [
    ['memory', 'c 1 1', 'EPERM'],
    ['kmsg', 'c 1 11', 'EPERM'],
    ['disk', 'b 254 0', 'EPERM'],
    ['fuse', 'c 10 229', 'EPERM'],
    ['kvm', 'c 10 232', 'EPERM'],
    ['zero-too', 'c 1 5', 'ok'],
  ] as const;
  for (const [name, node, wanted] of nodes) {
    const path = `/proc/${guest?.initPid}/root/dev/${name}`;
    const made = spawnSync('mknod', ['-m', '666', path, ...node.split(' ')], { encoding: 'utf8' });
    if (made.status !== 0) breaches.push(`cannot make ${path}: ${made.stderr}`);
    const found = parseFindings(await v.ok(['exec', 'nodes', '--', PROBE, 'write', `/dev/${name}`]))[
      `/dev/${name}`
    ];
    if (found !== wanted) breaches.push(`/dev/${name}: ${found}`);
  }
  await v.ok(['delete', '--force', 'nodes']);
  return breaches;
}

/** C9: what a guest's or a caller's environment says is nothing to processes of the host. */
export const c9: Check = async (v) => {
  const other = await openInstance({ checkout: dirname(dirname(v.client)) });
  try {
    const mark = join(other.scratch, 'ran');
    const script = join(other.scratch, 'evil.cjs');
    writeFileSync(script, `require('node:fs').writeFileSync(${JSON.stringify(mark)}, '')`);
    const env = {
      NODE_OPTIONS: `--require=${script}`,
      LD_PRELOAD: '/nonexistent/evil.so',
      ENV: script,
      BASH_ENV: script,
    };
    await other.ok(['daemon', 'start'], { env });
    const flags = Object.entries(env).flatMap(([key, value]) => ['--env', `${key}=${value}`]);
    await other.ok(
      ['run', '--detach', '--name', 'env', '--template', 'busybox', ...flags, '--', 'sleep', '3600'],
      {
        env,
      },
    );
    const status = JSON.parse(await other.ok(['daemon', 'status', '--json'])) as Record<string, unknown>;
    const breaches = readdirSync(other.scratch).includes('ran')
      ? ["a caller's environment ran code in vserverd"]
      : [];
    for (const key of ['vserverdPid', 'syscalldPid']) {
      const environment = readFileSync(`/proc/${Number(status[key])}/environ`, 'utf8');
      if (/evil|(?:^|\0)LD_|NODE_OPTIONS/.test(environment))
        breaches.push(`${key}: ${environment.replaceAll('\0', ' ')}`);
    }
    return breaches;
  } finally {
    await other.close();
  }
};

/** Runs a hog and, while it does its worst, asks whether the control plane and a neighbour are well. */
async function besides(v: Instance, hog: () => Promise<unknown>): Promise<readonly string[]> {
  const breaches: string[] = [];
  let isRunning = true;
  const worst = hog().finally(() => {
    isRunning = false;
  });
  const limitMs = 5000 * PATIENCE;
  do {
    for (const args of [['list'], ['exec', 'neighbour', '--', 'true'], ['run', '--', 'true']]) {
      const began = performance.now();
      const { code, stderr } = await v.run(args, { timeoutMs: 3 * limitMs });
      const tookMs = performance.now() - began;
      if (code !== 0) breaches.push(`${args.join(' ')}: ${code} ${stderr}`);
      if (tookMs > limitMs) breaches.push(`${args.join(' ')}: ${Math.round(tookMs)} ms`);
    }
  } while (isRunning);
  await worst;
  return breaches;
}

/** Bounds of a hog: small, so that it meets them soon. */
const BOUNDS = ['--memory', '64m', '--pids-limit', '50'];

/** C7: processes. */
export const c7Forks: Check = async (v) => {
  const flags = [...BOUNDS, ...withProbe()];
  const { forks, end } = parseFindings(await v.ok(['run', ...flags, '--', PROBE, 'forks', '200']));
  if (Number(forks) >= 50 || end !== 'EAGAIN') return [`${forks} forks, ${end}`]; // a bomb would be one
  const seconds = IS_SLOW ? '4' : '1';
  return await besides(v, () => v.run(['run', ...flags, '--cpus', '0.5', '--', PROBE, 'bomb', seconds]));
};

/** C7: memory, also as files. */
export const c7Memory: Check = async (v) => {
  const breaches: string[] = [];
  const flags = [...BOUNDS, ...withProbe()];
  breaches.push(
    ...(await besides(v, async () => {
      const { code } = await v.run(['run', ...flags, '--', PROBE, 'memory', String(200 * 1024 ** 2)]);
      if (code !== 137) breaches.push(`200 MiB in a guest of 64: exit code ${code}`);
    })),
  );
  if (breaches.length > 0) return breaches;
  // A file in memory is bounded by its file system or charged to the guest: it ends early either way.
  for (const path of ['/dev/shm/file', '/file', '/tmp/file']) {
    const script = `dd if=/dev/zero of=${path} bs=1M count=200 2>&1; ls -l ${path}`;
    const { code, stdout } = await v.run(['run', ...flags, '--', 'sh', '-c', script]);
    const bytes = Number(/ (\d+) \S+ +\d+ \S+ \/\S+$/m.exec(stdout)?.[1] ?? 0);
    if (bytes > 64 * 1024 ** 2) breaches.push(`${path}: ${bytes} bytes, ${code}`);
  }
  const files = await v.run(['run', ...withProbe(), '--', PROBE, 'many', 'files', '40000']);
  const found = parseFindings(files.stdout);
  if (Number(found['files']) > 20_000) breaches.push(`${found['files']} files in /dev/shm`);
  return breaches;
};

/** C7: descriptors, terminals, watches: a guest that takes all it can leaves enough to others. */
export const c7Tables: Check = async (v) => {
  const breaches: string[] = [];
  const flags = ['--name', 'tables', ...withProbe()];
  const hold = `for i in 1 2 3; do ${PROBE} many ptys 500 2 & done; ${PROBE} many inotify 100000; wait`;
  const output = await v.ok(['run', ...flags, '--ulimit', 'nofile=4096', '--', 'sh', '-c', hold]);
  const ptys = output
    .split('\n')
    .flatMap((line) => (line.includes('ptys') ? [Number(parseFindings(line)['ptys'])] : []));
  const total = ptys.reduce((sum, count) => sum + count, 0);
  if (ptys.length !== 3 || total > 1024) breaches.push(`${total} terminals in one guest`);
  const { inotify, end } = parseFindings(output.split('\n').find((line) => line.includes('inotify')) ?? '');
  if (Number(inotify) > 5000 || end !== 'EMFILE') breaches.push(`${inotify} inotify instances, ${end}`);
  const descriptors = parseFindings(
    await v.ok(['run', ...withProbe(), '--', PROBE, 'many', 'descriptors', '10000000']),
  );
  if (descriptors['end'] !== 'EMFILE') breaches.push(`${descriptors['descriptors']} descriptors`);
  return breaches;
};

/**
 * C7: what the kernel counts for each user, as message queues, queued signals, timers and inotify instances: the host's root
 * and a neighbour have theirs beside a guest that takes all it can.
 */
export const c7Users: Check = async (v) => {
  await v.ok(['run', '--detach', '--name', 'queues', ...withProbe(), '--', 'sleep', '3600']);
  const take = async (guest: readonly string[], count: number): Promise<unknown> =>
    parseFindings(await v.ok([...guest, '--', PROBE, 'many', 'queues', String(count)]))['end'];
  const end = await take(['exec', 'queues'], 100_000);
  // In a namespace of its own, so that the host keeps no queue.
  const host = spawnSync('unshare', ['--ipc', buildProbe(), 'many', 'queues', '1'], { encoding: 'utf8' });
  const breaches = [
    ...(end === 'ok' ? ['no bound for message queues'] : []),
    ...(parseFindings(host.stdout)['end'] === 'ok' ? [] : [`the host has no message queue: ${host.stdout}`]),
    ...((await take(['run', ...withProbe()], 1)) === 'ok' ? [] : ['a neighbour has no message queue']),
  ];
  await v.ok(['delete', '--force', 'queues']);
  return breaches;
};

/** C7: a guest that writes to its log as fast as it can. */
export const c7Log: Check = async (v) => {
  const breaches: string[] = [];
  await v.ok(['create', 'flood', '--', 'sh', '-c', 'yes "$(head -c 4000 /dev/zero | tr "\\0" x)"']);
  await v.ok(['set', 'flood', 'log.maxBytes=64k']);
  await v.ok(['start', 'flood']);
  const deadline = performance.now() + (IS_SLOW ? 4000 : 1000);
  breaches.push(
    ...(await besides(v, async () => {
      while (performance.now() < deadline) await v.ok(['logs', '--tail', '1', 'flood']);
    })),
  );
  const directory = join(v.root, 'lib/guests/flood');
  const size = readdirSync(directory)
    .filter((name) => name.startsWith('log'))
    // One may be renamed just now.
    .reduce((sum, name) => sum + (statSync(join(directory, name), { throwIfNoEntry: false })?.size ?? 0), 0);
  if (size === 0 || size > 3 * 64 * 1024) breaches.push(`a log of ${size} bytes`);
  await v.ok(['delete', '--force', 'flood']);
  return breaches;
};

/** A guest's own part of the Proc-FS tells of no other, by list, by name and by number. */
export const otherContexts: Check = async (v, everywhere) => {
  const breaches: string[] = [];
  await v.ok(['run', '--detach', '--name', 'other', '--xid', '4711', '--', 'sleep', '3600']);
  const script = 'cd /proc/driver/virtual; ls; grep -h . status */info; cat 4711/info 4711/limit';
  for (const place of everywhere) {
    const { stdout } = await place.run(['sh', '-c', script]);
    if (!/^ID:\t\d+$/m.test(stdout)) breaches.push(`${place.name}: does not see itself`);
    if (stdout.includes('4711')) breaches.push(`${place.name}: sees another context`);
    if (!/^#CActive:\t1$/m.test(stdout)) breaches.push(`${place.name}: counts other contexts`);
  }
  await v.ok(['delete', '--force', 'other']);
  return breaches;
};
