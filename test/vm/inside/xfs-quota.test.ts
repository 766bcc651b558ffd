/** Disk limits and quotas of users where the file system is xfs, whose quotas differ in what they say; in the machine only. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { type OpenInstance, type Outcome, openInstance } from '../../lib/instance.ts';
import { unmet } from '../../lib/requires.ts';

const isMachine = process.env['VSERVER_TEST_VM'] === '1';
const options = { skip: isMachine ? unmet('xfs', 'quota') : 'needs the machine of the vm tier' };
const MIB = 1024 * 1024;
const DISK_BYTES = 1024 * MIB;
/** One call of the client, in a machine that is emulated and may be one of several. */
const TIMEOUT_MS = 120_000;

describe('on xfs', options, () => {
  const home = isMachine ? mkdtempSync(join(tmpdir(), 'xfs-')) : '';
  const [disk, place] = [join(home, 'disk'), join(home, 'place')];
  const temporary = process.env['TMPDIR'];
  let v: OpenInstance;
  before(async () => {
    writeFileSync(disk, '');
    truncateSync(disk, DISK_BYTES);
    mkdirSync(place);
    command('mkfs.xfs', '-q', disk);
    command('mount', '-o', 'loop,uquota,gquota,pquota', disk, place);
    process.env['TMPDIR'] = place; // where an instance is made
    v = await openInstance();
  });
  after(async () => {
    await v.close();
    if (temporary === undefined) delete process.env['TMPDIR'];
    else process.env['TMPDIR'] = temporary;
    command('umount', place);
    rmSync(home, { recursive: true });
  });

  const ok = async (...args: readonly string[]): Promise<string> =>
    await v.ok(args, { timeoutMs: TIMEOUT_MS });
  const sh = async (name: string, script: string, user = '0'): Promise<Outcome> =>
    await v.run(['exec', '--user', user, name, 'sh', '-c', script], { timeoutMs: TIMEOUT_MS });
  const spaceIn = async (name: string): Promise<number> => {
    const [size = 0, total = 0] = (await ok('exec', name, 'stat', '-f', '-c', '%S %b', '/'))
      .split(' ')
      .map(Number);
    return size * total;
  };

  test('a disk limit is a project quota, shows in df, holds, and changes while the guest runs', async () => {
    const limit = ['--disk', '16m', '--disk-inodes', '100'];
    await ok('create', 'a', ...limit, '--template', 'busybox', '--', 'sleep', '1000');
    await ok('start', 'a');
    const files = readdirSync(join(v.root, 'lib/guests/a'));
    assert.ok(!files.some((name) => existsSync(join(v.root, 'lib/guests/a', name, 'disk'))), files.join(' '));
    assert.equal(await spaceIn('a'), 16 * MIB);
    const fill = 'dd if=/dev/zero of=/srv/big bs=64k 2>&1; stat -c %s /srv/big; rm /srv/big';
    const full = await sh('a', fill);
    assert.match(full.stdout, /No space left|quota exceeded/i);
    close(Number(full.stdout.trim().split('\n').at(-1)), 16 * MIB, 0.05);
    const many = 'i=0; while touch /srv/f$i 2>/dev/null; do i=$((i + 1)); done; ls /srv | wc -l; rm /srv/f*';
    close(Number((await sh('a', many)).stdout), 100, 0.1);
    await ok('set', 'a', 'disk.space=32m');
    assert.equal(await spaceIn('a'), 32 * MIB);
    const more = await sh('a', fill);
    close(Number(more.stdout.trim().split('\n').at(-1)), 32 * MIB, 0.05);
    const small = await v.run(['set', 'a', 'disk.space=8m'], { timeoutMs: TIMEOUT_MS });
    assert.equal(small.code, 0, small.stderr);
    await ok('set', 'a', '--unset', 'disk');
    assert.ok((await spaceIn('a')) > 512 * MIB);
  });

  test('users of a guest have quotas by its own tools', async () => {
    for (const name of ['b', 'c'])
      await ok('create', name, '--ccaps', 'quota_ctl', '--template', 'host', '--', 'sleep', '1000');
    await ok('start', 'b', 'c');
    const set = await sh('b', 'mkdir -m 777 /srv/d; setquota -u 1000 3000 4000 0 20 /; repquota -unv /');
    assert.match(set.stdout, /#1000 +-- +0 +3000 +4000 +0 +0 +20/);
    const write = 'dd if=/dev/zero of=/srv/d/f bs=64k count=128 2>&1; stat -c %s /srv/d/f; quota 2>&1';
    const full = await sh('b', write, '1000');
    assert.match(full.stdout, /quota exceeded/i);
    // The grace time begins when what is written has its place on the disk.
    assert.match(full.stdout, /\/dev\/hdv1 +\d+\* +3000 +4000 /);
    await sh('c', 'mkdir -m 777 /srv/d');
    assert.match((await sh('c', write, '1000')).stdout, new RegExp(`^${128 * 65_536}$`, 'm'));
    const nobody = await sh('c', 'quota -v -u 4242; repquota -unv /');
    assert.doesNotMatch(nobody.stdout, /3000/);
    assert.match(await ok('quota', 'b'), /user +1000 +\S+ +\S+ +\S+ /);
  });
});

function command(...words: readonly string[]): void {
  const [program = '', ...args] = words;
  const { status, stderr } = spawnSync(program, args, { encoding: 'utf8' });
  assert.equal(status, 0, `${words.join(' ')}\n${stderr}`);
}

function close(found: number, wanted: number, part: number): void {
  assert.ok(Math.abs(found - wanted) <= wanted * part, `found ${found}; need ${wanted} ± ${part * 100} %`);
}
