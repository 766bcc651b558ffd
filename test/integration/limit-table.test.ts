/** The limits table of the original: each row run into by a guest, changed while it runs, and shown as it is. */
import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { eventually, type OpenInstance, openInstance } from '../lib/instance.ts';
import { buildProbe, type Findings, parseFindings } from '../lib/probe.ts';
import { unmet } from '../lib/requires.ts';

const PAGE = 4096;
const MIB = 1024 ** 2;

interface Row {
  readonly row: string;
  readonly current: number | null;
  readonly min: number | null;
  readonly max: number | null;
  readonly soft: number | null;
  readonly hard: number | null;
  readonly hits: number | null;
  readonly scope: string;
}

describe('limits table', { skip: unmet('root', 'cgroup2', 'overlay', 'userns', 'busybox') }, () => {
  let v: OpenInstance;
  before(async () => {
    v = await openInstance();
    // The first command compiles the sources: under emulation that takes its time.
    await v.ok(['list'], { timeoutMs: 120_000 });
  });
  after(async () => {
    await v.close();
  });

  const create = async (name: string, ...command: readonly string[]): Promise<void> => {
    await v.ok([
      'create',
      name,
      '--template',
      'busybox',
      '-v',
      `${buildProbe()}:/probe:ro`,
      '--',
      ...command,
    ]);
  };
  const take = async (name: string, ...rows: readonly string[]): Promise<Findings> =>
    parseFindings(await v.ok(['exec', name, '/probe', 'limits', ...rows]));
  const tableOf = async (name: string): Promise<Readonly<Record<string, Row>>> => {
    const rows = JSON.parse(await v.ok(['limit', name, '--json'])) as readonly Row[];
    return Object.fromEntries(rows.map((row) => [row.row, row]));
  };

  test('a guest that runs into a limit gets the errno of the resource, and no more than that', async () => {
    await create('tight', 'sleep', '100000');
    await v.ok([
      'set',
      'tight',
      'limits.pids=20',
      'limits.memory=32m',
      'limits.addressSpace=64m',
      'limits.lockedMemory=20k',
      'limits.anonymousMemory=16m',
      'limits.openFiles=30',
      'limits.fileDescriptors=25',
      'limits.messageQueues=3050',
      'limits.sharedMemory=28k',
      'limits.semaphoreSets=6',
      'limits.semaphores=22',
    ]);
    await v.ok(['start', 'tight']);
    const found = await take('tight', 'PROC', 'VM', 'VML', 'ANON', 'FILES', 'MSGQ', 'SHM', 'SEMA', 'SEMS');
    const { PROC, VM, VML, ANON, FILES, MSGQ, SHM, SEMA, SEMS, ...counts } = found;
    assert.deepEqual(
      { PROC, VM, VML, ANON, FILES, MSGQ, SHM, SEMA, SEMS },
      {
        PROC: 'EAGAIN',
        VM: 'ENOMEM',
        VML: 'ENOMEM',
        ANON: 'ENOMEM',
        FILES: 'EMFILE',
        MSGQ: 'ENOSPC',
        SHM: 'ENOSPC',
        SEMA: 'ENOSPC',
        SEMS: 'ENOSPC',
      },
    );
    const count = (row: string): number => Number(counts[`${row} taken`]);
    assert.ok(count('PROC') <= 17 && count('PROC') >= 14, JSON.stringify(counts));
    assert.ok(count('VM') <= 64 && count('VM') >= 40, JSON.stringify(counts));
    assert.equal(count('VML'), 5);
    assert.ok(count('ANON') <= 16 && count('ANON') >= 10, JSON.stringify(counts));
    assert.equal(count('FILES'), 25 - 3, 'the smaller of FILES and OFD, less the three there are');
    assert.deepEqual(
      [count('MSGQ'), count('SHM'), count('SEMA'), count('SEMS')],
      [3000, 7, 6, 5],
      'bytes, pages, sets, sets of four',
    );
  });

  test('hits and the largest value are seen where the kernel counts them, and forgotten when told to', async () => {
    const { PROC, SHM, DENT } = await tableOf('tight');
    assert.ok(PROC?.hits && PROC.hits > 0, JSON.stringify(PROC));
    assert.ok(PROC.max === null || PROC.max > 10, JSON.stringify(PROC));
    assert.equal(SHM?.hits, null, 'nobody counts these');
    assert.deepEqual([DENT?.current, DENT?.scope], [null, 'none']);
    await v.ok(['limit', 'tight', '--reset-hits']);
    assert.equal((await tableOf('tight'))['PROC']?.hits, 0);
    await v.ok(['limit', 'tight', '--reset']);
    const { PROC: after } = await tableOf('tight');
    assert.deepEqual([after?.current, after?.min, after?.max], [2, 2, 2]);
    await take('tight', 'PROC');
    const again = (await tableOf('tight'))['PROC'];
    assert.ok(again?.hits && again.hits > 0, 'counts on from the reset');
  });

  test('an event tells of limits that are met, at once, together, and also what nobody saw', async () => {
    const hits = async (): Promise<readonly { resource: string; hits: number; total: number }[]> =>
      (await v.ok(['events', '--json', '--type', 'limit.hit', '--guest', 'met']))
        .split('\n')
        .filter(Boolean)
        .map(
          (line) =>
            (JSON.parse(line) as { details: { resource: string; hits: number; total: number } }).details,
        );
    await create('met', 'sleep', '100000');
    await v.ok(['set', 'met', 'limits.pids=10']);
    await v.ok(['start', 'met']);
    assert.equal((await take('met', 'PROC'))['PROC'], 'EAGAIN');
    const [first] = await eventually('the first event', async () => {
      const found = await hits();
      return found.length > 0 ? found : undefined;
    });
    assert.deepEqual([first?.resource, first?.total], ['pids', first?.hits]);
    assert.equal((await tableOf('met'))['PROC']?.hits, first?.total, 'all of them in one event');
    const { vserverdPid } = JSON.parse(await v.ok(['daemon', 'status', '--json'])) as { vserverdPid: number };
    await take('met', 'PROC');
    process.kill(vserverdPid, 'SIGKILL');
    const second = await eventually('what had not been told', async () => {
      const { code, stdout } = await v.run(['events', '--json', '--type', 'limit.hit', '--guest', 'met']);
      return code === 0 && stdout.trim().split('\n').length === 2 ? (await hits())[1] : undefined;
    });
    assert.equal(second.total, (first?.total ?? 0) + second.hits);
    // It comes close behind, so that it waits; the end of the guest does not.
    await take('met', 'PROC');
    await v.ok(['delete', '--force', 'met']);
    const [, , third, ...rest] = await hits();
    assert.ok(third && third.hits > 0 && rest.length === 0, JSON.stringify([third, rest]));
  });

  test('memory above the limit ends the process that takes it', async () => {
    await v
      .ok([
        'set',
        'tight',
        '--unset',
        'limits.addressSpace',
        '--unset',
        'limits.anonymousMemory',
        'limits.memory=24m',
      ])
      .catch(async () => {
        // Without CAP_SYS_RESOURCE nobody's limits are raised while it runs.
        await v.ok(['stop', '-t', '0', 'tight']);
        await v.ok([
          'set',
          'tight',
          '--unset',
          'limits.addressSpace',
          '--unset',
          'limits.anonymousMemory',
          'limits.memory=24m',
        ]);
        await v.ok(['start', 'tight']);
      });
    const found = await take('tight', 'RSS');
    assert.equal(found['RSS'], 'signal 9');
    const { RSS } = await tableOf('tight');
    assert.equal(RSS?.hard, (24 * MIB) / PAGE);
    await v.ok(['delete', '--force', 'tight']);
  });

  test('limits change while the guest runs, by set as by limit, and both write the same', async () => {
    await create('live', 'sleep', '100000');
    await v.ok(['start', 'live']);
    await v.ok([
      'limit',
      '-c',
      'live',
      '--nofile',
      '40',
      '--shmem',
      '9',
      '-H',
      '--semary',
      '4',
      '--nproc',
      '30',
    ]);
    const first = await take('live', 'FILES', 'SHM', 'SEMA');
    assert.deepEqual([first['FILES taken'], first['SHM taken'], first['SEMA taken']], [37, 9, 4]);
    // Those that run have it too, not only what is started now.
    const [{ initPid }] = JSON.parse(await v.ok(['inspect', 'live'])) as [{ initPid: number }];
    assert.match(readFileSync(`/proc/${initPid}/limits`, 'utf8'), /^Max open files +40 +40 /m);
    await v.ok(['set', 'live', 'limits.sharedMemory=12k', 'limits.semaphoreSets=max', 'limits.openFiles=20']);
    const second = await take('live', 'FILES', 'SHM', 'SEMA');
    assert.deepEqual([second['FILES taken'], second['SHM taken']], [17, 3]);
    assert.ok(Number(second['SEMA taken']) > 1000, 'a limit that is gone');
    const { FILES, SHM, SEMA, PROC } = await tableOf('live');
    assert.deepEqual([FILES?.hard, SHM?.hard, SEMA?.hard, PROC?.hard], [20, 3, null, 30]);
    const file = await v.ok(['set', 'live']);
    assert.match(file, /^ {2}sharedMemory: 12k$/m);
    assert.match(file, /^ {2}openFiles: 20$/m);
    assert.match(file, /^ {2}pids: 30$/m);
    const [view] = JSON.parse(await v.ok(['inspect', 'live'])) as [
      { limits: { asked: { openFiles: number } }; limitTable: readonly Row[] },
    ];
    assert.equal(view.limits.asked.openFiles, 20);
    assert.equal(view.limitTable.find(({ row }) => row === 'FILES')?.hard, 20);
  });

  test('memory has a soft limit, which is what the guest has without swap', async () => {
    await v.ok(['limit', 'live', '-S', '--rss', '10K', '-H', '--rss', '20K']);
    const { RSS } = await tableOf('live');
    assert.deepEqual([RSS?.soft, RSS?.hard], [10 * 1024, 20 * 1024]);
    await v.ok(['limit', 'live', '--rss', '12K']);
    assert.deepEqual([(await tableOf('live'))['RSS']?.soft], [10 * 1024]);
    await v.ok(['limit', 'live', '--rss', '9K']);
    const { RSS: alone } = await tableOf('live');
    assert.deepEqual([alone?.soft, alone?.hard], [9 * 1024, 9 * 1024]);
    assert.match(await v.ok(['limit', 'live', '-a', '-d']), /^RSS {9}N\/A {17}9216 {16}9216\n/);
  });

  test('what nothing enforces is said when it is set, and by check', async () => {
    const { stderr } = await v.run([
      'set',
      'live',
      'limits.fileLocks=3',
      'limits.dentries=100',
      'limits.sockets=3',
    ]);
    assert.match(stderr, /nothing on this host enforces limits\.fileLocks/);
    assert.match(stderr, /nothing on this host enforces limits\.dentries/);
    assert.match(stderr, /nothing on this host enforces limits\.sockets/, 'without addresses of its own');
    const findings = JSON.parse((await v.run(['check', '--json'])).stdout) as readonly {
      readonly name: string;
      readonly ok: boolean;
    }[];
    const rows = findings.filter(({ name }) => name.startsWith('limit: '));
    assert.deepEqual(
      rows.filter(({ ok }) => !ok).map(({ name }) => name),
      ['limit: LOCKS', 'limit: DENT'],
    );
    assert.equal(findings.find(({ name }) => name === 'virt_time')?.ok, false, 'no kernel has it');
    await v.ok(['delete', '--force', 'live']);
  });

  test('counts what a guest holds', async () => {
    await create('holder', '/probe', 'hold');
    await v.ok(['start', 'holder']);
    await eventually('it holds', async () =>
      (await v.ok(['logs', 'holder'])).includes('ready') ? true : undefined,
    );
    const { VML, LOCKS, SOCK, MSGQ, SHM, SEMA, SEMS, OFD, VM, ANON } = await tableOf('holder');
    assert.ok(VML?.current === 1 || VML?.current === 2, JSON.stringify(VML));
    assert.deepEqual(
      [LOCKS, SOCK, MSGQ, SHM, SEMA, SEMS].map((row) => row?.current),
      [1, 1, 100, 3, 2, 7],
    );
    assert.ok(OFD?.current && OFD.current >= 5, JSON.stringify(OFD));
    assert.ok(VM?.current && ANON?.current && VM.current > ANON.current, JSON.stringify([VM, ANON]));
    assert.equal(SHM?.max, 3);
    await v.ok(['delete', '--force', 'holder']);
  });

  test('limits and a sysctl that says the same are refused together, with the line', async () => {
    await create('both', 'sleep', '1');
    const path = join(v.root, 'etc/guests/both.yaml');
    assert.ok(existsSync(path));
    const { code, stderr } = await v.run([
      'set',
      'both',
      'sysctls.kernel.shmall=5',
      'limits.sharedMemory=1m',
    ]);
    assert.equal(code, 2);
    assert.match(stderr, /both\.yaml:\d+:\d+: .*limits\.sharedMemory/);
    await v.ok(['delete', 'both']);
  });
});
