/** Guests whose process 1 is a real init: what they find, and systemd of Debian as the judge of it. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { eventually, type OpenInstance, openInstance } from '../lib/instance.ts';
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

describe('systemd', { skip: unmet('root', 'overlay', 'mmdebstrap') }, () => {
  let v: OpenInstance;
  const system = (...args: readonly string[]): Promise<string> => v.ok(['exec', 'debian', ...args]);
  const started = async (): Promise<void> => {
    await eventually(
      'the end of its start',
      async () =>
        (await v.run(['exec', 'debian', 'systemctl', 'is-system-running'])).stdout === 'running\n' ||
        undefined,
      30_000,
    ).catch(async (error: unknown) => {
      const failed = await v.run(['exec', 'debian', 'systemctl', '--failed', '--plain', '--no-legend']);
      assert.fail(`${String(error)}\n${failed.stdout}${(await v.run(['logs', 'debian'])).stdout}`);
    });
  };
  before(async () => {
    v = await openInstance();
    const tree = join(v.scratch, 'debian.tar');
    const packages = '--include=systemd,systemd-sysv,dbus';
    const fast = [
      '--variant=essential',
      packages,
      '--aptopt=Acquire::Languages "none"',
      '--dpkgopt=force-unsafe-io',
    ];
    execFileSync('mmdebstrap', ['--quiet', ...fast, 'bookworm', tree, DEBIAN_MIRROR], { stdio: 'inherit' });
    await v.ok(['create', 'debian', `--template=tarball:${tree}`, '--init=own'], { timeoutMs: 60_000 });
    await v.ok(['start', 'debian']);
  });
  after(() => v.close());

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

  test('stops when it is told to, and starts again', async () => {
    for (let i = 0; i < 2; i++) {
      await v.ok(['stop', 'debian']);
      const [guest] = JSON.parse(await v.ok(['inspect', 'debian', '--json'])) as { exit: { code: number } }[];
      assert.equal(guest?.exit.code, 0, 'halted, not killed');
      assert.match(await v.ok(['logs', 'debian']), /Reached target .*shutdown\.target/);
      await v.ok(['start', 'debian']);
    }
    await started();
  });
});
