/** Quotas of users in guests, by Debian's quota tools there and from the host, where the file system has them; in the machine only. */
import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { after, before, describe, test } from 'node:test';
import { eventually, type OpenInstance, type Outcome, openInstance } from '../../lib/instance.ts';
import { buildProbe, type Findings, parseFindings } from '../../lib/probe.ts';
import { unmet } from '../../lib/requires.ts';

const isMachine = process.env['VSERVER_TEST_VM'] === '1';
const options = { skip: isMachine ? unmet('quota') : 'needs the machine of the vm tier' };
const KIB = 1024;
/** One call of the client, in a machine that is emulated and may be one of several. */
const TIMEOUT_MS = 120_000;
const USER = '1000';

interface Quota {
  readonly kind: string;
  readonly id: number;
  readonly spaceBytes: number;
  readonly spaceSoftBytes: number;
  readonly inodes: number;
  readonly usedBytes: number;
  readonly spaceGraceUntilSeconds: number;
}

/** A process that may nothing but what quotas take. */
function isService(pid: number): boolean {
  try {
    const status = readFileSync(`/proc/${pid}/status`, 'latin1');
    return /^Name:\tbroker$/m.test(status) && /^CapEff:\t0{10}200000$/m.test(status);
  } catch {
    return false; // it has just ended
  }
}

describe('quotas of users in guests', options, () => {
  let v: OpenInstance;
  before(async () => {
    v = await openInstance();
    const probe = ['--volume', `${buildProbe()}:/probe:ro`];
    for (const name of ['a', 'b'])
      await ok('create', name, '--ccaps', 'quota_ctl', ...probe, '--template', 'host', '--', 'sleep', '1000');
    await ok('create', 'c', ...probe, '--template', 'host', '--', 'sleep', '1000');
    await ok('start', 'a', 'b', 'c');
  });
  after(async () => await v.close());

  const ok = async (...args: readonly string[]): Promise<string> =>
    await v.ok(args, { timeoutMs: TIMEOUT_MS });
  const sh = async (name: string, script: string, user = '0'): Promise<Outcome> =>
    await v.run(['exec', '--user', user, name, 'sh', '-c', script], { timeoutMs: TIMEOUT_MS });
  const asRoot = async (name: string, script: string): Promise<string> => {
    const { code, stdout, stderr } = await sh(name, script);
    assert.equal(code, 0, `${script}\n${stdout}${stderr}`);
    return stdout;
  };
  const quotasOf = async (name: string): Promise<readonly Quota[]> =>
    JSON.parse(await ok('quota', name, '--json')) as readonly Quota[];
  const quotaOf = async (name: string, id: number, kind = 'user'): Promise<Quota | undefined> =>
    (await quotasOf(name)).find((one) => one.id === id && one.kind === kind);
  const probed = async (name: string, abi: string, user = '0'): Promise<Findings> =>
    parseFindings((await sh(name, `exec /probe quota ${abi}`, user)).stdout);

  test('setquota bounds a user, who sees it and its grace time, and the same user of another guest is not', async () => {
    await asRoot('a', `mkdir -m 777 /srv/d; setquota -u ${USER} 8000 10000 0 50 /`);
    await asRoot('b', 'mkdir -m 777 /srv/d');
    assert.match(
      await asRoot('a', 'repquota -unv /'),
      /\/dev\/hdv1[\s\S]*#1000 +-- +\d+ +8000 +10000 +\d+ +0 +50/,
    );
    const write = 'dd if=/dev/zero of=/srv/d/f bs=64k count=320 2>&1; stat -c %s /srv/d/f; quota 2>&1';
    const { stdout } = await sh('a', write, USER);
    assert.match(stdout, /quota exceeded/i);
    const bytes = Number(/^\d+$/m.exec(stdout)?.[0]);
    assert.ok(bytes > 9900 * KIB && bytes <= 10_000 * KIB, stdout);
    assert.match(stdout, /\/dev\/hdv1 +\d+\* +8000 +10000 +[67]days/);
    const other = await sh('b', write, USER);
    assert.match(other.stdout, new RegExp(`^${320 * 64 * KIB}$`, 'm'));
    assert.doesNotMatch(await asRoot('b', 'repquota -un /'), /8000|10000/);
    const files = 'i=0; while touch /srv/d/f$i; do i=$((i + 1)); done; ls /srv/d | wc -l; rm /srv/d/f*';
    assert.match((await sh('a', files, USER)).stdout, /^(49|50)$/m);
    assert.match((await sh('a', `${write}; rm /srv/d/f`, USER)).stdout, /\d+\* +8000/);
  });

  test('edquota, groups, and what is of the whole file system', async () => {
    await asRoot('a', `EDITOR='sed -i s/10000/12000/' edquota -u ${USER}; repquota -unv / | grep 12000`);
    await asRoot('a', 'setquota -g 2000 0 5000 0 0 /; repquota -gnv / | grep 5000');
    const inGroup = await sh(
      'a',
      'dd if=/dev/zero of=/srv/d/g bs=64k count=320; stat -c %s /srv/d/g; quota -g',
      '1000:2000',
    );
    assert.match(inGroup.stderr, /quota exceeded/i);
    assert.match(inGroup.stdout, /^5120000$[\s\S]* 5000\* +0 +5000 /m);
    await asRoot('a', 'rm /srv/d/g');
    assert.match(await asRoot('a', 'repquota -unv /'), /12000/);
  });

  test('tools are told what is on, what there is to check, and what is of the host', async () => {
    for (const [script, code, said] of [
      [
        'quotaon -p /',
        2,
        /^group quota on \/ \(\/dev\/hdv1\) is on\nuser quota on \/ \(\/dev\/hdv1\) is on$/m,
      ],
      ['quotaon -a', 2, /Device or resource busy/],
      ['quotaoff -a', 2, /Operation not permitted/],
      ['quotacheck -ugm /', 1, /Cannot find filesystem to check/],
      ['quotacheck -augm', 0, /^$/],
      ['setquota -t 60 60 /', 1, /Operation not permitted/],
      ["EDITOR='sed -i s/7days/3days/' edquota -t", 1, /Operation not permitted/],
      ['repquota -a', 0, /Report for user quotas on device \/dev\/hdv1/],
    ] as const) {
      const ended = await sh('a', script);
      assert.equal(ended.code, code, `${script}\n${ended.stdout}${ended.stderr}`);
      assert.match(`${ended.stdout}${ended.stderr}`, said, script);
    }
    // What is left to one user, who has more than the soft limit.
    await asRoot('a', 'setquota -u 1001 100 9000 0 0 /');
    await asRoot('a', 'mkdir -p -m 777 /srv/d');
    await sh('a', 'dd if=/dev/zero of=/srv/d/soft bs=64k count=32', '1001:1001');
    await asRoot('a', 'setquota -T -u 1001 7200 unset /');
    assert.match(await asRoot('a', 'quota -s -u 1001 || true'), /2048K\* +100K +9000K +0[12]:\d\d/);
    await asRoot('a', 'rm /srv/d/soft');
  });

  for (const abi of ['native', 'i386']) {
    test(`a guest can name nobody else, and change nothing of the host (${abi})`, async () => {
      const found = await probed('a', abi);
      for (const id of [0, 1000, 4242, 65_535]) assert.equal(found[`get ${id}`], 'ok', String(id));
      for (const id of [65_536, 0x7_0000, 0xffff_0000, 0xffff_ffff]) {
        assert.equal(found[`get ${id}`], 'EINVAL', String(id));
        assert.equal(found[`set ${id}`], 'EINVAL', String(id));
      }
      const { format, information, state, sync, on, off } = found;
      assert.deepEqual(
        [format, information, state, sync, on, off],
        ['ok', 'ok', 'ok', 'ok', 'EBUSY', 'EPERM'],
      );
      assert.equal(found['set 4242'], 'ok');
      assert.equal(found['set what is used'], 'EPERM');
      // 32-bit programs have nothing of theirs behind.
      assert.equal(found['limit, and what is behind'], '777 ffffffff');
      assert.equal(found['next 4096'], '4242');
      assert.equal(found['next 65536'], 'ENOENT');
      assert.equal(found['on "/dev/vda"'], 'ENODEV');
      assert.equal(found['to a bad pointer'], 'EFAULT');
      assert.deepEqual([found['fd of the root'], found['fd of /proc']], ['ok', 'ENODEV']);
      assert.equal((await quotaOf('a', 4242))?.spaceBytes, 777 * KIB);
      const ofUser = await probed('a', abi, USER);
      assert.deepEqual(
        [ofUser['get 1000'], ofUser['get 0'], ofUser['set 4242'], ofUser['next 4096']],
        ['ok', 'EPERM', 'EPERM', 'EPERM'],
      );
      assert.equal(
        (await quotasOf('b')).find(({ spaceBytes }) => spaceBytes === 777 * KIB),
        undefined,
      );
    });
  }

  test('the host sets and sees them too, also of a guest that does not', async () => {
    const own = await probed('c', 'native');
    assert.deepEqual([own['get 0'], own['set 4242']], ['EPERM', 'EPERM']);
    await ok(
      'quota',
      'c',
      '--user',
      '0',
      '--group',
      '5',
      '--space',
      '4m',
      '--space-soft',
      '1m',
      '--inodes',
      '99',
    );
    const { stdout } = await sh('c', 'dd if=/dev/zero of=/srv/f bs=64k count=320 2>&1');
    assert.match(stdout, /quota exceeded/i);
    const root = await quotaOf('c', 0);
    assert.ok(root && root.usedBytes > 3 * KIB * KIB && root.spaceGraceUntilSeconds > Date.now() / 1000);
    assert.deepEqual([root.spaceBytes, root.spaceSoftBytes, root.inodes], [4 * KIB * KIB, KIB * KIB, 99]);
    await ok('quota', 'c', '-u', 'root', '--space', '0', '--space-soft', '0');
    await asRoot('c', 'dd if=/dev/zero of=/srv/f bs=64k count=320');
    assert.equal((await quotaOf('c', 0))?.inodes, 99);
    assert.match(await ok('quota', 'c'), /user +0 +\S+ +- +- +- /);
    const wrong = await v.run(['quota', 'c', '--user', '65536', '--space', '1m'], { timeoutMs: TIMEOUT_MS });
    assert.equal(wrong.code, 2);
  });

  test('copies of a guest have its limits, snapshots bring them back, archives carry them', async () => {
    const limitsOf = async (name: string): Promise<string> =>
      (await quotasOf(name))
        .filter(({ inodes, spaceBytes }) => inodes + spaceBytes > 0)
        .map(({ kind, id, spaceBytes, spaceSoftBytes, inodes }) =>
          [kind, id, spaceBytes / KIB, spaceSoftBytes / KIB, inodes].join(' '),
        )
        .join(', ');
    const set = async (...args: readonly string[]): Promise<string> => await ok('quota', 'e', ...args);
    await ok('create', 'e', '--template', 'busybox', '--', 'true');
    await set('--user', '1000', '--space', '4m', '--space-soft', '1m', '--inodes', '99');
    await set('--group', '5', '--space', '8m');
    const before = 'user 1000 4096 1024 99, group 5 8192 0 0';
    assert.equal(await limitsOf('e'), before);
    await ok('snapshot', 'e', 'one');
    await ok('clone', 'e', 'f');
    assert.equal(await limitsOf('f'), before);
    await set('--user', '1000', '--space', '0', '--inodes', '0', '--space-soft', '0');
    await set('--user', '7', '--space', '1m');
    assert.equal(await limitsOf('e'), 'user 7 1024 0 0, group 5 8192 0 0');
    await ok('rollback', 'e', 'one', '--keep-config');
    assert.equal(await limitsOf('e'), 'user 7 1024 0 0, group 5 8192 0 0');
    const archive = `${v.scratch}/e.tar`;
    await ok('export', 'e', '--snapshots', '-o', archive);
    await ok('rollback', 'e', 'one');
    assert.equal(await limitsOf('e'), before);
    assert.equal(await limitsOf('f'), before);
    await ok('import', archive, 'g');
    assert.equal(await limitsOf('g'), 'user 7 1024 0 0, group 5 8192 0 0');
    await ok('rollback', 'g', 'one');
    assert.equal(await limitsOf('g'), before);
    await ok('retag', 'g', '4321');
    assert.equal(await limitsOf('g'), before);
    await ok('delete', 'g');
    await ok('create', 'g', '--xid', '4321', '--template', 'busybox', '--', 'true');
    assert.equal(await limitsOf('g'), '');
  });

  test('commands to come have another service when one is killed', async () => {
    const services = (): readonly number[] =>
      readdirSync('/proc')
        .map(Number)
        .filter((pid) => pid > 0 && isService(pid));
    const before = services();
    assert.equal(before.length, 2);
    for (const pid of before) process.kill(pid, 'SIGKILL');
    await eventually('the services of both guests', () =>
      services().some((pid) => before.includes(pid)) || services().length < 2 ? undefined : true,
    );
    assert.match(await asRoot('a', 'repquota -unv /'), /#4242 +-- +0 +0 +777/);
    assert.match(await asRoot('b', 'repquota -unv /'), /#1000/);
  });

  test('whoever gets the xid of a guest that is gone is not held to its limits', async () => {
    const [{ xid }] = JSON.parse(await ok('inspect', 'c')) as [{ xid: number }];
    await ok('delete', '--force', 'c');
    await ok('create', 'd', '--xid', String(xid), '--template', 'host', '--', 'sleep', '1000');
    assert.deepEqual(
      (await quotasOf('d')).filter(({ inodes, spaceBytes }) => inodes + spaceBytes > 0),
      [],
    );
  });
});
