/** The files of Linux-VServer's Proc-FS, of running guests. The formats are those of src/spec/virtual-files.test.ts. */
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { type OpenInstance, openInstance } from '../lib/instance.ts';
import { unmet } from '../lib/requires.ts';

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
    assert.equal(await v.ok(['procfs', 'virtual/4242']), 'info\nstatus\nlimit\nsched\ncvirt\ncacct\n');
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
