/** The files of Linux-VServer's Proc-FS, of running guests. The formats are those of src/spec/virtual-files.test.ts. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdirSync, readdirSync, readFileSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { cpus as hostCpus } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { eventually, type OpenInstance, openInstance } from '../lib/instance.ts';
import { unmet } from '../lib/requires.ts';
import { readContexts } from '../lib/virtual-reader.ts';

interface Finding {
  readonly name: string;
  readonly ok: boolean;
  readonly detail: string;
}

describe('Proc-FS', { skip: unmet('root', 'cgroup2', 'overlay', 'userns', 'busybox') }, () => {
  let v: OpenInstance;
  before(async () => {
    v = await openInstance();
    await v.ok(['create', 'web', '--xid', '4242', '--template', 'busybox', '--', 'sleep', '1000']);
    await v.ok(['set', 'web', 'limits.pids=42', 'limits.openFiles=99', 'scheduler.fillRate=3']);
    await v.ok(['start', 'web']);
  });
  after(async () => {
    await v.close();
  });

  test('has the contexts that run, and their files', async () => {
    assert.equal(await v.ok(['procfs']), 'virtual/\nvirtnet/\n');
    assert.equal(await v.ok(['procfs', '/proc/virtual']), 'info\nstatus\n4242/\n');
    assert.equal(
      await v.ok(['procfs', 'virtual/4242']),
      'info\nstatus\nlimit\nsched\ncvirt\ncacct\nnsproxy\n',
    );
    assert.equal(await v.ok(['procfs', 'virtnet']), 'info\nstatus\n');
    assert.match(await v.ok(['procfs', 'virtual/info']), /^VCIVersion:\t0002:0301\n/);
    assert.match(await v.ok(['procfs', 'virtual/status']), /^#CTotal:\t1\n#CActive:\t1\n/);
    assert.equal(await v.ok(['procfs', 'virtnet/status']), '#CTotal:\t0\n#CActive:\t0\n');
  });

  test('says of a context what is so', async () => {
    const read = (file: string): Promise<string> => v.ok(['procfs', `virtual/4242/${file}`]);
    const [{ initPid }] = JSON.parse(await v.ok(['inspect', 'web'])) as [{ initPid: number }];
    assert.equal(await read('info'), `ID:\t4242\nInfo:\t0000000000000000\nInit:\t${initPid}\nOOM:\t0\n`);
    const limit = await read('limit');
    assert.match(limit, /^PROC:\t {7}2\t +0\/ +\d+\t {6}-1\/ {6}42\t {5}0$/m);
    assert.match(limit, /^FILES:\t +\d+\t +0\/ +\d+\t {6}-1\/ {6}99\t {5}0$/m);
    assert.match(
      await read('sched'),
      /^FillRate:\t {7}3,1\nInterval:\t {7}4,8\n(.*\n){3}cpu 0: \d+ \d+ \d+ 0 0 R- /,
    );
    assert.match(await read('cvirt'), /^BiasUptime:\t\d+\.\d\d\nnr_threads:\t2\n/);
    assert.match(await read('cacct'), /^Type\t.*\nUNSPEC:\t/);
    const flags = async (): Promise<bigint> =>
      BigInt(`0x${/^Flags:\t(.*)$/m.exec(await read('status'))?.[1]}`);
    const paused = 1n << 10n;
    assert.equal((await flags()) & paused, 0n);
    await v.ok(['pause', 'web']);
    assert.equal((await flags()) & paused, paused);
    assert.match(await read('sched'), / 0 0 H- /);
    await v.ok(['resume', 'web']);
  });

  test('has nothing else', async () => {
    for (const path of [
      'virtual/1',
      'virtual/4242/secret',
      'virtual/4242/info/x',
      'net',
      'virtnet/4242/info',
      '../etc',
    ]) {
      const { code, stderr } = await v.run(['procfs', path]);
      assert.equal(code, 2, path);
      assert.match(stderr, /no such file in the Proc-FS/);
    }
  });
});

describe('Proc-FS as files', { skip: unmet('root', 'overlay', 'fuse') }, () => {
  let v: OpenInstance;
  let directory: string;
  before(async () => {
    v = await openInstance();
    directory = join(v.root, 'run/proc');
    await v.ok(['run', '-d', '--name', 'one', '--xid', '4242', '-m', '64m', '--', 'sleep', '1000']);
    await v.ok(['run', '-d', '--name', 'two', '--xid', '4243', '--', 'sleep', '1000']);
  });
  after(async () => {
    await v.close();
  });

  const list = (...path: readonly string[]): readonly string[] =>
    readdirSync(join(directory, ...path)).toSorted();
  const read = (...path: readonly string[]): string => readFileSync(join(directory, ...path), 'latin1');
  const relayPid = (): number =>
    (JSON.parse(readFileSync(join(v.root, 'run/views.json'), 'utf8')) as { relay: { pid: number } }).relay
      .pid;

  test('is on the host what the verb prints, for root alone', async () => {
    assert.deepEqual(list(), ['virtnet', 'virtual']);
    assert.deepEqual(list('virtual'), ['4242', '4243', 'info', 'status']);
    const files = ['cacct', 'cvirt', 'info', 'limit', 'nsproxy', 'sched', 'status'];
    assert.deepEqual(list('virtual/4242'), files);
    for (const file of ['virtual/info', 'virtual/status', 'virtual/4242/info', 'virtual/4243/nsproxy'])
      assert.equal(read(file), await v.ok(['procfs', file]), file);
    assert.equal(statSync(join(directory, 'virtual/4242/limit')).mode & 0o777, 0o444);
    assert.throws(() => read('virtual/4244/info'), { code: 'ENOENT' });
    assert.equal(statSync(join(v.root, 'run')).mode & 0o077, 0, 'others do not come so far');
  });

  test('is understood by who knows the original', async () => {
    const contexts = readContexts(directory);
    assert.deepEqual(
      contexts.map(({ xid, name }) => [xid, name]),
      [
        [4242, 'one'],
        [4243, 'two'],
      ],
    );
    const [one] = contexts;
    assert.equal(one?.threads, 2);
    assert.equal(one.limits.get('RSS')?.hard, (64 * 1024 * 1024) / 4096);
    assert.equal(one.limits.get('PROC')?.current, 2);
    assert.ok(one.uptimeSeconds >= 0 && one.uptimeSeconds < 60, `up ${one.uptimeSeconds} s`);
    assert.deepEqual(one.sockets.get('INET'), [0, 0, 0, 0, 0, 0]);
    assert.ok((one.limits.get('RSS')?.current ?? 0) > 0);
    assert.equal(
      [...one.limits.keys()].join(' '),
      'PROC VM VML RSS ANON RMAP FILES OFD LOCKS SOCK MSGQ SHM SEMA SEMS DENT',
    );
    const mapped = one.limits.get('RMAP');
    assert.ok(mapped && mapped.current >= 0 && mapped.max >= mapped.current, JSON.stringify(mapped));
    // The same as `vserver stat`, whose columns are those of vserver-stat.
    const row = (await v.ok(['stat'])).split('\n').find((line) => line.startsWith('4242 '));
    assert.equal(row?.split(/ +/)[1], String(one.limits.get('PROC')?.current));
  });

  test('is understood by what watched the original', { skip: unmet('munin') }, () => {
    const plugins = join(v.scratch, 'plugins');
    mkdirSync(plugins);
    const printed = (name: string, env: Readonly<Record<string, string>> = {}): string => {
      const [plugin = ''] = /^vserver_(cpu_|loadavg|resources)/.exec(name) ?? ['vserver_cpu_'];
      const text = readFileSync(join('/usr/share/munin/plugins', plugin), 'utf8');
      writeFileSync(join(plugins, name), text.replaceAll('/proc/virtual', join(directory, 'virtual')));
      const { status, stdout, stderr } = spawnSync('bash', [join(plugins, name)], {
        encoding: 'utf8',
        env: { ...process.env, ...env },
      });
      assert.deepEqual([status, stderr], [0, ''], name);
      return stdout;
    };
    assert.match(printed('vserver_loadavg'), /^one\.value 0\.\d\d\ntwo\.value 0\.\d\d\n$/);
    const cpus = Array.from({ length: hostCpus().length }, (_, cpu) => cpu);
    const each = cpus
      .flatMap((cpu) => ['one', 'two'].map((name) => `${name}_${cpu}\\.value \\d+\\n`))
      .join('');
    for (const name of ['vserver_cpu_', 'vserver_hold_'])
      assert.match(printed(name), new RegExp(`^${each}$`));
    for (const resource of ['PROC', 'VM', 'RSS', 'ANON', 'FILES', 'OFD', 'SOCK', 'SHM']) {
      const lines = printed('vserver_resources', { resource });
      const [, one = '', two = ''] = /^one\.value (\d+)\ntwo\.value (\d+)\n$/.exec(lines) ?? [];
      const limits = readContexts(directory).map(({ limits: rows }) => rows.get(resource)?.current ?? -1);
      if (resource === 'PROC') assert.deepEqual([one, two], ['2', '2']);
      assert.equal(
        [one, two].every((value, i) => Number(value) > 0 === (limits[i] ?? 0) > 0),
        true,
        lines,
      );
    }
  });

  test('knows at once who has come and who has gone', async () => {
    await v.ok(['run', '-d', '--name', 'three', '--xid', '4244', '--', 'sleep', '1000']);
    assert.deepEqual(list('virtual'), ['4242', '4243', '4244', 'info', 'status']);
    assert.match(read('virtual/4244/info'), /^ID:\t4244\n/);
    await v.ok(['delete', '--force', 'three']);
    assert.deepEqual(list('virtual'), ['4242', '4243', 'info', 'status']);
    assert.throws(() => read('virtual/4244/info'), { code: 'ENOENT' });
  });

  test('shows a guest itself and no other', async () => {
    const out = await v
      .ok([
        'exec',
        'one',
        'sh',
        '-c',
        'cd /proc/driver; ls . virtual virtual/4242; grep -h . virtual/status virtual/4242/info; cat virtual/4243/info 2>&1',
      ])
      .catch((error: Error) => error.message);
    assert.match(out, /virtual:\n4242\ninfo\nstatus\n\nvirtual\/4242:\ncacct\n/);
    assert.match(out, /#CTotal:\t1\n[\s\S]*ID:\t4242\n[\s\S]*Init:\t1\n/);
    assert.match(out, /virtual\/4243\/info: No such file or directory/);
    await v.ok(['create', 'hidden', '--command', 'sleep 1000']);
    await v.ok(['set', 'hidden', 'views.vinfo=false']);
    await v.ok(['start', 'hidden']);
    assert.equal((await v.run(['exec', 'hidden', 'ls', '/proc/driver/virtual'])).code, 2);
    const { xid } = JSON.parse(await v.ok(['inspect', 'hidden']))[0] as { xid: number };
    const flags = BigInt(`0x${/^Flags:\t(.*)$/m.exec(read(`virtual/${xid}/status`))?.[1]}`);
    assert.equal((flags >> 26n) & 1n, 1n, 'hide_vinfo');
    await v.ok(['delete', '--force', 'hidden']);
  });

  test('comes back whoever dies', async () => {
    const { vserverdPid } = JSON.parse(await v.ok(['daemon', 'status', '--json'])) as { vserverdPid: number };
    process.kill(vserverdPid, 'SIGKILL');
    // Whoever reads waits for the next one.
    assert.match(read('virtual/4242/info'), /^ID:\t4242\n/);
    const pid = relayPid();
    process.kill(pid, 'SIGKILL');
    await eventually('another relay', () => (relayPid() === pid ? undefined : true));
    await eventually('the files of it', () => {
      try {
        return list('virtual').includes('4242') && read('virtual/4243/info').startsWith('ID:\t4243\n')
          ? true
          : undefined;
      } catch {
        return undefined; // ENOTCONN, then ENOENT
      }
    });
  });

  test('is gone when the control plane is stopped, and there when it is started', async () => {
    const isMounted = (): boolean => readFileSync('/proc/self/mountinfo', 'utf8').includes(` ${directory} `);
    assert.ok(isMounted());
    await v.ok(['daemon', 'stop', '--guests']);
    await eventually('its end', () =>
      isMounted() || readdirSync(join(v.root, 'run')).includes('proc') ? undefined : true,
    );
    assert.equal(await v.ok(['procfs', 'virtual']), 'info\nstatus\n');
    assert.deepEqual(list('virtual'), ['info', 'status']);
  });

  test('is found again where the state directory is a link', async () => {
    const [real, link] = [join(v.scratch, 'real'), join(v.scratch, 'link')];
    mkdirSync(real);
    symlinkSync(real, link);
    const mounts = (): number =>
      readFileSync('/proc/self/mountinfo', 'utf8').split(` ${join(real, 'run/proc')} `).length - 1;
    const other = (...args: readonly string[]): Promise<string> => v.ok(['--root', link, ...args]);
    const { vserverdPid } = JSON.parse(await other('daemon', 'status', '--json')) as { vserverdPid: number };
    process.kill(vserverdPid, 'SIGKILL');
    await eventually('the next one', async () => {
      const { code } = await v.run(['--root', link, 'procfs']);
      return code === 0 ? true : undefined;
    });
    assert.equal(mounts(), 1);
    await other('daemon', 'stop');
    await eventually('its end', () => (mounts() === 0 ? true : undefined));
  });

  test('keeps nobody when it cannot be there, and check says why', async () => {
    const root = join(v.scratch, 'blocked');
    mkdirSync(join(root, 'run'), { recursive: true, mode: 0o700 });
    writeFileSync(join(root, 'run/proc'), '');
    const other = (...args: readonly string[]): Promise<string> => v.ok(['--root', root, ...args]);
    assert.match(await other('run', '-m', '64m', '--', 'head', '-1', '/proc/meminfo'), / 65536 kB/);
    const findings = JSON.parse((await v.run(['--root', root, 'check', '--json'])).stdout) as Finding[];
    const { ok, detail } = findings.find(({ name }) => name === 'views') ?? { ok: true, detail: '' };
    assert.equal(ok, false);
    assert.match(detail, /no Proc-FS in .*run\/proc: cannot show the Proc-FS: move_mount/);
    await other('daemon', 'stop', '--guests');
  });
});
