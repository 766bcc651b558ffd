/** The broker of sockets by itself: what processes that ask it get, and how long it lives. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync, readlinkSync, rmdirSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { before, describe, test } from 'node:test';
import { compileBrokerFilter } from '../../src/context/broker-filter.ts';
import { planBroker } from '../../src/guest/plan-broker.ts';
import { planBrokerFilter } from '../../src/guest/plan-command.ts';
import { parseMountInfo } from '../../src/spec/mountinfo.ts';
import { type Arg, Program, type Result } from '../../src/sys/program.ts';
import { Fixed } from '../../src/sys/varying.ts';
import { type Machine, waitUntil, withMachine } from '../lib/machine.ts';
import { makeNative } from '../lib/native.ts';
import { buildProbe, type Findings, parseFindings } from '../lib/probe.ts';
import { unmet } from '../lib/requires.ts';

const START_BYTES = 64 * 1024;
const ROOT = resolve(import.meta.dirname, '../..');
/** Free on any host: users of ours begin at 131072. */
const BROKER_UID = 99_999;
const BUILDS = [
  { name: 'plain build', target: 'all', binary: 'syscalld', skip: unmet('root') },
  { name: 'sanitizer build', target: 'sanitize', binary: 'syscalld-asan', skip: unmet('root', 'sanitizer') },
] as const;

interface Broker {
  readonly machine: Machine;
  readonly pid: number;
  readonly objects: { readonly process: number; readonly control: number };
  readonly cgroup: string;
  /** Runs a shell script in a network namespace of its own, whose sockets the broker makes. */
  run(script: string): Promise<Command>;
}

interface Command {
  readonly object: number;
  readonly pid: number;
  /** Resolved with what it printed when it has ended. */
  ended(): Promise<string>;
}

async function withBroker(
  body: (broker: Broker) => Promise<void>,
  { hasQuota = false, user }: { readonly hasQuota?: boolean; readonly user?: number } = {},
): Promise<void> {
  await withMachine(async (machine) => {
    const parent = join(cgroup2(), `vserver-broker-${process.pid}`);
    mkdirSync(parent);
    const cgroup = join(parent, 'b');
    const { syscalld, abi } = machine;
    const quota = hasQuota ? { process: syscalld.newObject(), user: true, group: true } : undefined;
    const objects = {
      process: syscalld.newObject(),
      control: syscalld.newObject(),
      ...(quota && { quota }),
    };
    const p = new Program(abi);
    // A start's program is as large: what is left of it in the broker would be its own.
    p.data(START_BYTES);
    const sockets = { fence: undefined };
    planBroker(p, {
      cgroup,
      joins: [],
      uid: BROKER_UID,
      takesTurns: true,
      objects,
      init: undefined,
      sockets,
      measure: undefined,
      quota: hasQuota ? { directory: '/', xid: 7, views: undefined } : undefined,
    });
    const spawn = p.explain().match(/^ *(\d+) clone3.*# broker$/m);
    const outcome = await syscalld.run('start the broker', p);
    const pid = outcome.result({ number: Number(spawn?.[1]) } as Result);
    try {
      await body({
        machine,
        pid,
        objects,
        cgroup,
        run: (script) => runBrokered(machine, objects.control, script, { hasQuota, user }),
      });
    } finally {
      machine.syscalld.drop(objects.control);
      if (existsSync(`/proc/${pid}`)) process.kill(pid, 'SIGKILL');
      await waitUntil(() => !existsSync(`/proc/${pid}`));
      machine.syscalld.drop(objects.process);
      if (quota) {
        await machine.event('exited', quota.process);
        machine.syscalld.drop(quota.process);
      }
      for (const path of [cgroup, parent]) rmdirSync(path);
    }
  });
}

let outputs = 0;

async function runBrokered(
  machine: Machine,
  control: number,
  script: string,
  { hasQuota, user = 0 }: { readonly hasQuota: boolean; readonly user: number | undefined },
): Promise<Command> {
  const { syscalld, abi } = machine;
  const object = syscalld.newObject();
  const name = `output-${outputs++}`;
  const p = new Program(abi);
  const child = p.spawn('command', { object }, () => {
    p.sys('unshare', [p.flags('CLONE_NEWNET')]);
    planBrokerFilter(
      p,
      {
        brokerFilter: new Fixed(
          compileBrokerFilter(abi, {
            sockets: { raw: undefined },
            sysinfo: false,
            affinity: false,
            quota: hasQuota,
          }),
        ),
      },
      p.import(control),
    );
    const flags = p.flags('O_WRONLY', 'O_CREAT', 'O_CLOEXEC');
    const output: Arg = p.sys('openat', [p.flags('AT_FDCWD'), name, flags, 0o600]);
    for (const fd of [1, 2]) p.sys('dup3', [output, fd, 0]);
    p.sys('close_range', [3, 0xffffffff, p.flags('CLOSE_RANGE_CLOEXEC')]);
    p.sys('setresgid', [user, user, user]);
    p.sys('setresuid', [user, user, user]);
    const env = p.vector(['PATH=/usr/sbin:/usr/bin:/sbin:/bin']);
    p.sys('execve', ['/bin/sh', p.vector(['sh', '-c', script]), env], { about: '/bin/sh' });
  });
  const outcome = await syscalld.run('run a command', p);
  return {
    object,
    pid: outcome.result(child),
    ended: async () => {
      await machine.event('exited', object);
      machine.syscalld.drop(object);
      return readFileSync(join(machine.directory, name), 'utf8');
    },
  };
}

/** CAP_SYS_ADMIN alone, and nothing of the host's root beside. */
const CAPABILITIES_OF_SERVICE =
  /Uid:\t99999\t99999\t99999\t99999\nGid:\t99999\t99999\t99999\t99999\n.*Groups:\t *\n.*CapPrm:\t0{10}200000\nCapEff:\t0{10}200000\n.*NoNewPrivs:\t1\n/s;
/** Files, epoll, and the socket to the broker: the one that brought that is closed. */
const SERVICE_FDS = 3;
const IDS = [0, 1000, 4242, 65_535];
const FOREIGN_IDS = [65_536, 0x7_0000, 0xffff_0000, 0xffff_ffff];
/** What the root of a guest may ask about quotas. */
const ANSWERS_OF_ROOT: Findings = {
  ...Object.fromEntries(
    [...IDS, ...FOREIGN_IDS].flatMap((id) => {
      const answer = IDS.includes(id) ? 'asked' : 'EINVAL';
      return [
        [`get ${id}`, answer],
        [`get group ${id}`, answer],
        ...(id === 0 || id === 1000 ? [] : [[`set ${id}`, answer]]),
      ];
    }),
  ),
  'set what is used': 'EPERM',
  'get it again': 'asked',
  'next 4096': 'asked',
  'next 65536': 'ENOENT',
  'next of nobody': 'ENOENT',
  ...Object.fromEntries(
    ['/dev/vda', '/dev/hdv', '/dev/hdv11', '', '/', '/dev/null'].map((name) => [`on "${name}"`, 'ENODEV']),
  ),
  'on nothing': 'ENODEV',
  'on a bad pointer': 'EFAULT',
  'to a bad pointer': 'asked',
  'from a bad pointer': 'EFAULT',
  project: 'asked',
  'another type': 'asked',
  format: 'asked',
  information: 'asked',
  state: 'asked',
  'set information': 'EPERM',
  on: 'EBUSY',
  off: 'EPERM',
  sync: 'asked',
  'sync of all': 'asked',
  unknown: 'EINVAL',
  'of XFS': 'EINVAL',
  'fd of the root': 'asked',
  'fd of /proc': 'ENODEV',
  'bad fd': 'EBADF',
  'worse fd': 'EBADF',
};

const probed = async (broker: Broker, words: string): Promise<Findings> =>
  parseFindings(await (await broker.run(`exec ${buildProbe()} ${words}`)).ended());

/** What the same program finds when nobody stands between it and the kernel. */
const native = (...words: readonly string[]): Findings =>
  parseFindings(spawnSync(buildProbe(), words, { encoding: 'utf8' }).stdout);

/** sched(7), linux/sched.h */
const SCHED_BATCH = 3;

const schedulingPolicy = (pid: number): number => {
  const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
  return Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[POLICY]);
};
/** proc_pid_stat(5): field 41, of which 2 come before. */
const POLICY = 38;

const cgroup2 = (): string => {
  const mounts = parseMountInfo(readFileSync('/proc/self/mountinfo', 'utf8'));
  return mounts.find(({ fsType }) => fsType === 'cgroup2')?.mountPoint ?? assert.fail('no cgroup2');
};

for (const { name, target, binary, skip } of BUILDS) {
  describe(`broker, ${name}`, { skip }, () => {
    before(() => {
      makeNative(target);
      process.env['VSERVER_SYSCALLD'] = join(ROOT, 'build', binary);
    });

    for (const abi of ['native', 'high-bits', 'i386'] as const) {
      test(`makes the sockets of the IP families in the host's network, and no others (${abi})`, async () => {
        await withBroker(async (broker) => {
          const [found, host] = [await probed(broker, `inet ${abi}`), native('inet', abi)];
          const dark = found['unix'];
          assert.notEqual(dark, host['unix']);
          const { raw, packet, netlink, unix, mptcp, udplite, ...made } = found;
          assert.deepEqual([raw, packet, netlink, unix], [dark, dark, dark, dark]);
          // Refused as by a kernel without them, so that programs fall back.
          assert.deepEqual([mptcp, udplite], ['EPROTONOSUPPORT', 'EPROTONOSUPPORT']);
          for (const [kind, value] of Object.entries(made)) assert.equal(value, host[kind], kind);
        });
      });
    }

    test('is not passed by socketcall, whose arguments nobody can judge', async () => {
      await withBroker(async (broker) => {
        const found = await probed(broker, 'inet socketcall');
        assert.deepEqual(new Set(Object.values(found)), new Set(['ENOSYS']));
      });
    });

    test('gives descriptors as socket(2) does: flags, lowest number, limit, undisturbed by signals', async () => {
      await withBroker(async (broker) => {
        const [{ ns, ...found }, { ns: nativeNs, ...host }] = [
          await probed(broker, 'inet-call'),
          native('inet-call'),
        ];
        assert.deepEqual(found, host);
        assert.ok(Number(ns) > 0 && Number(nativeNs) > 0);
      });
    });

    for (const abi of ['native', 'i386']) {
      // The kernel's answer differs with the file system: here it is what may be asked that counts.
      const judge = async (user: number): Promise<Findings> => {
        let found: Findings = {};
        const run = async (broker: Broker): Promise<void> => {
          found = await probed(broker, `quota ${abi}`);
        };
        await withBroker(run, { hasQuota: true, user });
        const kernel = new Set(['ok', 'ENOSYS', 'ESRCH']);
        return Object.fromEntries(
          Object.entries(found).map(([name, value]) => [name, kernel.has(String(value)) ? 'asked' : value]),
        );
      };

      test(`answers about quotas what its own ids are about (${abi})`, async () => {
        const { 'limit, and what is behind': _, ...found } = await judge(0);
        assert.deepEqual(found, ANSWERS_OF_ROOT);
      });

      test(`tells a user of its own quota alone (${abi})`, async () => {
        const found = await judge(1000);
        for (const [name, value] of Object.entries(ANSWERS_OF_ROOT)) {
          const isOwn = name === 'get 1000' || name === 'get group 1000';
          const isAsking = /^(get|set|next|on$)/.test(name) && !isOwn;
          if (isAsking) assert.equal(found[name], 'EPERM', name);
          else assert.equal(found[name], value, name);
        }
      });
    }

    test('says that nobody tells of quotas when the service is gone, and makes sockets on', async () => {
      const run = async (broker: Broker): Promise<void> => {
        const all = readFileSync(join(broker.cgroup, 'cgroup.procs'), 'utf8').trim().split('\n').map(Number);
        const [service] = all.filter((pid) => pid !== broker.pid);
        assert.ok(service !== undefined && all.length === 2);
        await waitUntil(() => CAPABILITIES_OF_SERVICE.test(readFileSync(`/proc/${service}/status`, 'utf8')));
        await waitUntil(() => readdirSync(`/proc/${service}/fd`).length === SERVICE_FDS);
        process.kill(service, 'SIGKILL');
        await waitUntil(() => !existsSync(`/proc/${service}`));
        const found = await probed(broker, 'quota');
        for (const name of ['get 0', 'set 4242', 'next 4096', 'sync']) assert.equal(found[name], 'EIO', name);
        assert.equal((await probed(broker, 'inet'))['tcp'], native('inet')['tcp']);
      };
      await withBroker(run, { hasQuota: true });
    });

    test('has next to nothing: no privilege, no way in, little memory', async () => {
      await withBroker(async (broker) => {
        const first = await broker.run('exec sleep 1000');
        const files = (): string =>
          readdirSync(`/proc/${broker.pid}/fd`)
            .map((fd) => readlinkSync(`/proc/${broker.pid}/fd/${fd}`).replace(/:\[\d+\]$/, ''))
            .sort()
            .join();
        // When it has the listener of the command it has become what it is.
        await waitUntil(() => files() === 'anon_inode:[eventpoll],anon_inode:seccomp notify,socket');
        const status = readFileSync(`/proc/${broker.pid}/status`, 'utf8');
        const of = (key: string): string | undefined =>
          new RegExp(`^${key}:\\s*(.*)$`, 'm').exec(status)?.[1];
        assert.equal(of('Name'), 'broker');
        assert.equal(of('Uid'), `${BROKER_UID}\t`.repeat(4).trim());
        for (const set of ['CapPrm', 'CapEff', 'CapInh', 'CapAmb']) assert.equal(of(set), '0000000000000000');
        assert.equal(of('NoNewPrivs'), '1');
        assert.match(readFileSync(`/proc/${broker.pid}/cgroup`, 'utf8'), /^0::.*\/vserver-broker-\d+\/b$/m);
        assert.equal(readlinkSync(`/proc/${broker.pid}/ns/net`), readlinkSync('/proc/self/ns/net'));
        if (target === 'all') {
          const rollup = readFileSync(`/proc/${broker.pid}/smaps_rollup`, 'utf8');
          const ownKib = Number(/^Private_Dirty: +(\d+) kB/m.exec(rollup)?.[1]);
          assert.ok(ownKib <= 40, `${ownKib} KiB`);
        }
        // And the command has nothing of it.
        await waitUntil(() => readlinkSync(`/proc/${first.pid}/exe`).endsWith('/sleep'));
        // The dynamic linker has its libraries open for a moment.
        await waitUntil(() => readdirSync(`/proc/${first.pid}/fd`).sort().join() === '0,1,2');
        process.kill(first.pid, 'SIGKILL');
        await first.ended();
      });
    });

    test('does not take the CPU from callers that have got their socket', async () => {
      await withBroker(({ pid }) => waitUntil(() => schedulingPolicy(pid) === SCHED_BATCH));
    });

    test('serves many commands, each for itself, as long as more may come', async () => {
      await withBroker(async (broker) => {
        const host = native('inet')['tcp'];
        const long = await broker.run(`sleep 0.5; exec ${buildProbe()} inet`);
        const commands = await Promise.all(
          Array.from({ length: 20 }, () => broker.run(`exec ${buildProbe()} inet`)),
        );
        for (const one of commands) assert.equal(parseFindings(await one.ended())['tcp'], host);
        assert.equal(parseFindings(await long.ended())['tcp'], host);
        assert.equal((await probed(broker, 'inet'))['tcp'], host);
        broker.machine.syscalld.drop(broker.objects.control);
        const { value } = await broker.machine.event('exited', broker.objects.process);
        assert.equal(value, 0);
      });
    });

    test('whose end is not noticed lets nobody run without it', async () => {
      await withBroker(async (broker) => {
        process.kill(broker.pid, 'SIGKILL');
        await broker.machine.event('exited', broker.objects.process);
        await assert.rejects(broker.run('true'), /listener to the broker: EPIPE/);
      });
    });

    test('outlives who started it, and ends when nobody can come any more', async () => {
      await withBroker(async (broker) => {
        const host = native('inet')['tcp'];
        const long = await broker.run(`while [ ! -e ../go ]; do sleep 0.05; done; exec ${buildProbe()} inet`);
        await broker.machine.restart();
        broker.machine.syscalld.drop(broker.objects.control);
        mkdirSync(join(broker.machine.root, 'go'));
        assert.equal(parseFindings(await long.ended())['tcp'], host);
        await broker.machine.event('exited', broker.objects.process);
      });
    });

    test('is not stopped by callers that are killed while they call', async () => {
      await withBroker(async (broker) => {
        const stays = await broker.run('exec sleep 1000');
        for (let i = 0; i < 30; i++) {
          const one = await broker.run(`exec ${buildProbe()} inet-call`);
          await new Promise((done) => setTimeout(done, i));
          process.kill(one.pid, 'SIGKILL');
          await one.ended();
        }
        const found = await probed(broker, 'inet');
        assert.equal(found['tcp'], native('inet')['tcp']);
        process.kill(stays.pid, 'SIGKILL');
        await stays.ended();
      });
    });
  });
}
