/** Guests whose process 1 is a real init: what they find, and systemd of Debian as the judge of it. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { eventually, type OpenInstance, openInstance } from '../lib/instance.ts';
import { openNetwork, type TestNetwork } from '../lib/network.ts';
import { PATIENCE } from '../lib/patience.ts';
import { DEBIAN_MIRROR, unmet } from '../lib/requires.ts';

const MIB = 1024 ** 2;

describe('an init of its own', { skip: unmet('root', 'overlay') }, () => {
  let v: OpenInstance;
  const inside = (script: string): Promise<string> => v.ok(['exec', 'box', 'sh', '-c', script]);
  before(async () => {
    v = await openInstance();
    const script = 'echo on the console >/dev/console; echo "my output"; exec sleep 1000';
    await v.ok(['create', 'box', '--init=own', '--memory=400m', '--', 'sh', '-c', script]);
    await v.ok(['start', 'box']);
  });
  after(() => v.close());

  test('has a cgroup tree to divide, and no more of it than is its own', async () => {
    assert.equal(
      await inside('stat -f -c %T /sys/fs/cgroup; cat /proc/1/cgroup | grep ^0'),
      'cgroup2fs\n0::/\n',
    );
    const moved = 'cd /sys/fs/cgroup; mkdir -p a/b; echo $$ >a/b/cgroup.procs; grep ^0 /proc/self/cgroup';
    assert.equal(await inside(moved), '0::/a/b\n');
    for (const attempt of [
      'echo max >/sys/fs/cgroup/cgroup.max.descendants',
      'echo 1 >/sys/fs/cgroup/cgroup.freeze',
      'echo 1 >/sys/fs/cgroup/cgroup.kill',
      'chown 0 /sys/fs/cgroup/cgroup.events',
      'umount /sys/fs/cgroup',
      'mkdir /sys/x',
    ]) {
      assert.match(await inside(`${attempt} 2>&1 || echo refused`), /refused/, attempt);
    }
    const made = await inside('cd /sys/fs/cgroup; mkdir $(seq -f n%g 1100) 2>/dev/null; ls -d n* | wc -l');
    assert.equal(made, '1022\n');
    assert.equal(await inside('cd /sys/fs/cgroup; rmdir n*; rmdir a/b a; ls -d */ 2>/dev/null || true'), '');
  });

  test('has a console, whose text is in its log however often it is opened and closed', async () => {
    assert.equal(
      await inside('echo later >/dev/console; test -t 0 </dev/console && echo a terminal'),
      'a terminal\n',
    );
    await eventually('the log', async () => {
      const text = await v.ok(['logs', 'box']);
      return text === 'on the console\nmy output\nlater\n' ? true : undefined;
    });
  });

  test('has file systems in memory, with bounds, where systemd wants them', async () => {
    const sizes = await inside(
      "for d in /run /run/lock /tmp /dev/shm; do mountpoint -q $d && stat -f -c '%T %b %S' $d; stat -c %a $d; done",
    );
    const found = sizes.trim().split('\n');
    assert.deepEqual(
      found.filter((_, i) => i % 2 === 1),
      ['755', '1777', '1777', '1777'],
    );
    for (const line of found.filter((_, i) => i % 2 === 0)) {
      const [type, blocks, size] = line.split(' ');
      assert.equal(type, 'tmpfs');
      assert.ok(Number(blocks) * Number(size) <= 200 * MIB, line);
    }
  });

  test('takes a mount of the configuration rather than the usual one', async () => {
    const mount = 'type=tmpfs,target=/run,tmpfs-size=1m';
    const out = await v.ok(['run', '--init=own', '--mount', mount, '--', 'stat', '-f', '-c', '%b', '/run']);
    assert.equal(out, '256\n');
  });

  test('leaves no cgroup to its next run', async () => {
    await inside('mkdir /sys/fs/cgroup/left');
    await v.ok(['stop', '-t', '0', 'box']);
    await v.ok(['start', 'box']);
    assert.equal(await inside('ls -d /sys/fs/cgroup/*/ 2>/dev/null || echo none'), 'none\n');
  });
});

/** How long Debian may take to come up, or to be unpacked. */
const START_TIMEOUT_MS = 60_000 * PATIENCE;
/** Echoes what it gets to who connects; systemd has the socket. */
const ECHO_SOCKET = '[Socket]\nListenStream=7777\nAccept=yes\n';
const ECHO_SERVICE = '[Service]\nExecStart=/bin/cat\nStandardInput=socket\n';
/** What hardened units have; each filter of theirs comes on top of the one that has sockets made. */
const HARDENED = `[Service]
SystemCallFilter=@system-service
SystemCallArchitectures=native
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
NoNewPrivileges=yes
ProtectSystem=yes
`;

describe('systemd', { skip: unmet('root', 'overlay', 'mmdebstrap', 'network', 'sshd') }, () => {
  let host: TestNetwork;
  let v: OpenInstance;
  const system = (...args: readonly string[]): Promise<string> => v.ok(['exec', 'debian', ...args]);
  const started = async (name = 'debian'): Promise<void> => {
    await eventually(
      'the end of its start',
      async () =>
        (await v.run(['exec', name, 'systemctl', 'is-system-running'])).stdout === 'running\n' || undefined,
      START_TIMEOUT_MS,
    ).catch(async (error: unknown) => {
      const failed = await v.run(['exec', name, 'systemctl', '--failed', '--plain', '--no-legend']);
      assert.fail(`${String(error)}\n${failed.stdout}${(await v.run(['logs', name])).stdout}`);
    });
  };
  const create = (name: string, ...options: readonly string[]): Promise<string> =>
    v.ok(['create', name, `--template=tarball:${join(v.scratch, 'debian.tar')}`, '--init=own', ...options], {
      timeoutMs: START_TIMEOUT_MS,
    });
  before(async () => {
    host = await openNetwork();
    v = await openInstance({ under: host.under });
    const tree = join(v.scratch, 'debian.tar');
    const packages = '--include=systemd,systemd-sysv,dbus,openssh-server,nginx-light';
    const fast = [
      '--variant=essential',
      packages,
      '--aptopt=Acquire::Languages "none"',
      '--dpkgopt=force-unsafe-io',
    ];
    execFileSync('mmdebstrap', ['--quiet', ...fast, 'bookworm', tree, DEBIAN_MIRROR], { stdio: 'inherit' });
    await create('debian');
    await v.ok(['start', 'debian']);
  });
  after(async () => {
    await v.close();
    await host.close();
  });

  test('runs, with no unit failed', async () => {
    await started();
    assert.equal(await system('systemctl', '--failed', '--plain', '--no-legend'), '');
    assert.equal(await system('systemd-detect-virt', '--container'), 'container-other\n');
    assert.match(await v.ok(['logs', 'debian']), /Reached target .*multi-user\.target/);
  });

  test('runs services in cgroups of their own', async () => {
    const out = await system(
      'systemd-run',
      '--quiet',
      '--wait',
      '--pipe',
      'sh',
      '-c',
      'grep ^0 /proc/self/cgroup; id -u',
    );
    assert.match(out, /^0::\/system\.slice\/run-u\d+\.service\n0\n$/);
    assert.match(await system('journalctl', '-b', '--no-pager', '-u', 'dbus'), /Started dbus\.service/);
  });

  for (const [mode, v4, v6, more] of [
    ['isolated', '10.9.0.5', 'fd09::5', ['--network-interface', 'h0']],
    ['private', '10.7.0.5', 'fd07::5', ['--gateway', '10.7.0.1', '--gateway', 'fe80::1']],
  ] as const) {
    test(`mode ${mode}: its services are at the guest's addresses`, async () => {
      await create(mode, '--network', mode, '--ip', `${v4}/24`, '--ip', `${v6}/64`, ...more);
      await v.ok(['start', mode]);
      const inside = (script: string, input = ''): Promise<string> =>
        v.ok(['exec', '-i', mode, 'sh', '-ec', script], { input });
      await started(mode);
      for (const at of [v4, `[${v6}]`])
        assert.match(host.run('curl', '-gsS', '-m', '30', `http://${at}/`), /Welcome to nginx!/, at);

      const key = join(v.scratch, `key-${mode}`);
      execFileSync('ssh-keygen', ['-q', '-t', 'ed25519', '-N', '', '-f', key]);
      await inside(
        'mkdir -p /root/.ssh; cat > /root/.ssh/authorized_keys',
        readFileSync(`${key}.pub`, 'utf8'),
      );
      const quiet = [
        'StrictHostKeyChecking=no',
        'UserKnownHostsFile=/dev/null',
        'LogLevel=ERROR',
        'BatchMode=yes',
      ];
      const ssh = (...words: readonly string[]): string =>
        host.run('ssh', '-F', 'none', '-i', key, ...quiet.flatMap((one) => ['-o', one]), ...words);
      assert.equal(
        ssh(`root@${v4}`, 'hostname; cat /proc/self/loginuid >/dev/null && echo ok'),
        `${mode}\nok\n`,
      );
      assert.equal(ssh(`root@${v6}`, 'systemctl', 'is-active', 'nginx'), 'active\n');

      await inside('cat > /etc/systemd/system/echo.socket', ECHO_SOCKET);
      await inside('cat > /etc/systemd/system/echo@.service', ECHO_SERVICE);
      await inside(
        'mkdir -p /etc/systemd/system/nginx.service.d; cat > /etc/systemd/system/nginx.service.d/x.conf',
        HARDENED,
      );
      await inside('systemctl daemon-reload; systemctl start echo.socket; systemctl restart nginx');
      const echo = `import socket; s = socket.create_connection(('${v4}', 7777), 30); s.sendall(b'hello'); print(s.recv(9))`;
      assert.equal(host.run('/usr/bin/python3', '-c', echo), "b'hello'\n");
      assert.match(host.run('curl', '-sS', '-m', '30', `http://${v4}/`), /Welcome to nginx!/);
      assert.equal(await inside('systemctl --failed --plain --no-legend'), '');
      await v.ok(['stop', mode]);
    });
  }

  test('stops when it is told to, and starts again', async () => {
    for (let i = 0; i < 2; i++) {
      await v.ok(['stop', '-t', '60', 'debian'], { timeoutMs: START_TIMEOUT_MS });
      const [guest] = JSON.parse(await v.ok(['inspect', 'debian', '--json'])) as { exit: { code: number } }[];
      assert.equal(guest?.exit.code, 0, 'halted, not killed');
      assert.match(await v.ok(['logs', 'debian']), /Reached target .*shutdown\.target/);
      await v.ok(['start', 'debian']);
      await started();
    }
  });
});
