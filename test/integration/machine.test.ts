/** syscalld and its machine against this host's kernel, as built for use and with sanitizers. */
import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import {
  chmodSync,
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { constants, endianness } from 'node:os';
import { join, resolve } from 'node:path';
import { before, describe, test } from 'node:test';
import { MACHINE_LIMITS, Program, type Result } from '../../src/sys/program.ts';
import { StepError } from '../../src/sys/syscalld.ts';
import { EXIT_AGAIN } from '../../src/sys/wire.ts';
import { emptyProgram, type Machine, waitUntil, withMachine } from '../lib/machine.ts';
import { makeNative } from '../lib/native.ts';
import { unmet } from '../lib/requires.ts';

const ROOT = resolve(import.meta.dirname, '../..');
const AT_FDCWD = -100;
const { SIGTERM, SIGKILL } = constants.signals;

/** A program made by `build`. */
function programOf(machine: Machine, build: (p: Program) => void): Program {
  const program = new Program(machine.abi);
  build(program);
  return program;
}

const run = (machine: Machine, build: (p: Program) => void, worker = 0) =>
  machine.syscalld.run('test', programOf(machine, build), worker);

const failsWith = (call: string, errno: string, index?: number) => (error: unknown) => {
  assert.ok(error instanceof StepError, String(error));
  assert.deepEqual([error.call, error.errnoName], [call, errno]);
  if (index !== undefined) assert.equal(error.stepIndex, index);
  return true;
};

/** A pair of connected descriptors, both to be used as a gate. */
function gate(p: Program): readonly [Result, Result] {
  const pair = p.data(8);
  p.sys('socketpair', [p.flags('AF_UNIX'), p.flags('SOCK_SEQPACKET', 'SOCK_CLOEXEC'), 0, pair]);
  return [p.load(pair), p.load(pair.at(4))];
}

function shell(p: Program, script: string): void {
  const env = p.vector(['PATH=/usr/sbin:/usr/bin:/sbin:/bin']);
  p.sys('execve', ['/bin/sh', p.vector(['sh', '-c', script]), env], { about: '/bin/sh' });
}

const sleepForever = (p: Program): Result => p.sys('ppoll', [0, 0, 0, 0, 8]);

const open = (p: Program, path: string, ...flags: readonly string[]): Result =>
  p.sys('openat', [AT_FDCWD, path, p.flags('O_CLOEXEC', ...flags), 0o600], { about: path });

/** The names in what getdents64(2) wrote: u64 inode, i64 offset, u16 length, u8 type, name. */
function direntNames(bytes: Buffer): string[] {
  const names: string[] = [];
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const littleEndian = endianness() === 'LE';
  for (let at = 0, length = 0; at < bytes.length; at += length) {
    length = view.getUint16(at + 16, littleEndian);
    if (length === 0) break;
    names.push(bytes.toString('latin1', at + 19, bytes.indexOf(0, at + 19)));
  }
  return names;
}

const BUILDS = [
  { name: 'plain build', target: 'all', binary: 'syscalld', skip: unmet('root') },
  { name: 'sanitizer build', target: 'sanitize', binary: 'syscalld-asan', skip: unmet('root', 'sanitizer') },
] as const;

for (const { name, target, binary, skip } of BUILDS) {
  describe(name, { skip }, () => {
    before(() => {
      makeNative(target);
      process.env['VSERVER_SYSCALLD'] = join(ROOT, 'build', binary);
    });
    steps();
    processes();
    runs();
    logs();
    clients();
    trees();
    if (target === 'all') size();
  });
}

function steps(): void {
  describe('steps', () => {
    test('pass results, and read and write the data area', async () => {
      await withMachine(async (machine) => {
        const p = new Program(machine.abi);
        const pair = p.data(8);
        p.sys('pipe2', [pair, p.flags('O_CLOEXEC')]);
        const [from, to] = [p.load(pair), p.load(pair.at(4))];
        const number = p.data(8);
        p.store(number, 0xfedc_ba98_7654_3210n, 8);
        const whole = p.load(number, 8);
        const digits = p.data(24);
        const count = p.itoa(digits, whole);
        p.sys('write', [to, digits, count]);
        const read = p.data(32);
        const got = p.sys('read', [from, read, 32]);
        p.expect(got, '==', 20, 'EPROTO', 'twenty digits');
        p.expect(got, '!=', 0, 'EPROTO', 'no end');
        p.expect(got, '&', 4, 'EPROTO', 'a bit', { mask: 6 });
        p.expectBytes(read, Buffer.from('18364758544493064720'), 'EBADMSG', 'the digits');
        const negative = p.data(4);
        p.store(negative, -5);
        const loaded = p.load(negative);
        p.returns(read.at(0, 20));
        const outcome = await machine.syscalld.run('test', p);
        assert.equal(outcome.out.toString(), '18364758544493064720');
        assert.deepEqual([count, got, loaded].map(outcome.result), [20, 20, -5]);
      });
    });

    test('report the comparison that does not hold', async () => {
      await withMachine(async (machine) => {
        for (const [comparison, wanted, mask] of [
          ['==', 1, 0],
          ['!=', 0, 0],
          ['&', 1, 1],
        ] as const) {
          const running = run(machine, (p) =>
            p.expect(p.sys('geteuid', []), comparison, wanted, 'ESTALE', 'uid', { mask }),
          );
          await assert.rejects(running, failsWith('expect', 'ESTALE', 1));
        }
        const bytes = run(machine, (p) =>
          p.expectBytes(p.data(Buffer.from('abc')), Buffer.from('abd'), 'EPROTO', 'abc'),
        );
        await assert.rejects(bytes, /cannot test: expect_bytes abc: EPROTO \(step 1 of 1\)/);
      });
    });

    test('go on, jump or fail as their rules say', async () => {
      await withMachine(async (machine) => {
        const missing = (p: Program, options: object) => p.sys('openat', [AT_FDCWD, '/missing', 0], options);
        await run(machine, (p) => void missing(p, { ignore: ['EPERM', 'ENOENT'] }));
        await run(machine, (p) => void missing(p, { ignore: [] }));
        await assert.rejects(
          run(machine, (p) => void missing(p, { ignore: ['EPERM'] })),
          failsWith('openat', 'ENOENT', 0),
        );
        const unlessJumped = (on: readonly string[]) => (p: Program) => {
          const end = p.label();
          missing(p, { otherwise: { on, to: end } });
          p.sys('chdir', ['/missing either']);
          p.place(end);
          p.sys('getpid', []);
        };
        await run(machine, unlessJumped(['ENOENT']));
        await run(machine, unlessJumped([]));
        await assert.rejects(run(machine, unlessJumped(['EPERM'])), failsWith('openat', 'ENOENT', 0));
        await run(machine, (p) => {
          const end = p.label();
          p.jump(end);
          missing(p, {});
          p.place(end);
        });
      });
    });

    test('keep descriptors that later programs import', async () => {
      await withMachine(async (machine) => {
        const object = machine.syscalld.newObject();
        await run(machine, (p) => {
          const file = open(p, 'kept', 'O_RDWR', 'O_CREAT');
          p.sys('write', [file, 'text', 4]);
          p.keep(file, object);
        });
        const outcome = await run(machine, (p) => {
          const place = p.data(4);
          p.sys('pread64', [p.import(object), place, 4, 0]);
          p.returns(place);
        });
        assert.equal(outcome.out.toString(), 'text');
        machine.syscalld.drop(object);
        await assert.rejects(
          run(machine, (p) => void p.sys('fsync', [p.import(object)])),
          /EBADF/,
        );
      });
    });

    test('keep nothing of a program that fails after it', async () => {
      await withMachine(async (machine) => {
        const [file, child] = [machine.syscalld.newObject(), machine.syscalld.newObject()];
        const running = run(machine, (p) => {
          p.spawn('child', { object: child }, () => {
            const [wait] = gate(p);
            const limit = p.data(16);
            p.put(limit.at(8, 8), 100_000_000, 8);
            p.sys('ppoll', [0, 0, limit, 0, 8]);
            p.sys('close', [wait]);
            p.sys('execve', ['/missing', p.vector([]), p.vector([])], { about: '/missing' });
          });
          p.keep(open(p, '.', 'O_PATH'), file);
        });
        await assert.rejects(running, failsWith('execve', 'ENOENT'));
        await assert.rejects(
          run(machine, (p) => void p.sys('fchdir', [p.import(file)])),
          /EBADF/,
        );
      });
    });

    test('start with nothing open but three null descriptors, the socket and the imports', async () => {
      await withMachine(async (machine) => {
        const outcome = await run(machine, (p) => {
          const place = p.data(1024);
          const directory = open(p, '/proc/self/fd', 'O_RDONLY', 'O_DIRECTORY');
          p.sys('getdents64', [directory, place, 1024]);
          p.returns(place);
        });
        const [, , ...names] = direntNames(outcome.out).sort();
        assert.deepEqual(names, ['0', '1', '2', '3', '4']); // 4: the directory itself
      });
    });
  });
}

function processes(): void {
  describe('processes', () => {
    test('wait at a gate, and tell how they ended', async () => {
      await withMachine(async (machine) => {
        const exits = machine.syscalld.newObject();
        await run(machine, (p) => {
          const [mine, its] = gate(p);
          p.spawn('waits', { object: exits }, () => {
            const byte = p.data(1);
            p.sys('read', [its, byte, 1]);
            p.expectBytes(byte, Buffer.from('g'), 'EPROTO', 'the gate');
            shell(p, 'exit 7');
          });
          p.sys('write', [mine, 'g', 1]);
        });
        assert.deepEqual(await machine.event('exited', exits), {
          event: 'exited',
          object: exits,
          value: 7 << 8,
        });
        machine.syscalld.drop(exits);
      });
    });

    test('are signalled', async () => {
      await withMachine(async (machine) => {
        const object = machine.syscalld.newObject();
        await run(machine, (p) => void p.spawn('sleeps', { object }, () => shell(p, 'exec sleep 1000')));
        machine.syscalld.signal(object, SIGTERM);
        assert.equal((await machine.event('exited', object)).value, SIGTERM);
        machine.syscalld.signal(object, SIGTERM);
        machine.syscalld.drop(object);
      });
    });

    test('that are dropped are still reaped, without a word', async () => {
      await withMachine(async (machine) => {
        const object = machine.syscalld.newObject();
        const outcome = await run(
          machine,
          (p) => void p.spawn('child', { object }, () => shell(p, 'exec sleep 1000')),
        );
        const pid = outcome.result({ number: 0 } as Result);
        machine.syscalld.drop(object);
        await machine.syscalld.run('wait for the drop', emptyProgram(machine.abi));
        process.kill(pid, 'SIGKILL');
        await waitUntil(() => !existsSync(`/proc/${pid}`));
        await machine.syscalld.run('test', emptyProgram(machine.abi));
        assert.deepEqual(machine.events, []);
      });
    });

    test('report the step they fail at, and leave nothing', async () => {
      await withMachine(async (machine) => {
        const object = machine.syscalld.newObject();
        const running = run(machine, (p) => {
          p.spawn('other', { object: machine.syscalld.newObject() }, () => shell(p, 'exec sleep 1000'));
          p.spawn('child', { object }, () => {
            p.sys('getpid', []);
            p.sys('execve', ['/missing', p.vector([]), p.vector([])], { about: '/missing' });
          });
        });
        await assert.rejects(running, /cannot test: execve \/missing: ENOENT \(step \d+ of \d+\)/);
        await assert.rejects(
          run(machine, (p) => void p.sys('fsync', [p.import(object)])),
          /EBADF/,
        );
      });
    });

    test('have children of their own', async () => {
      await withMachine(async (machine) => {
        const object = machine.syscalld.newObject();
        await run(machine, (p) => {
          p.spawn('child', { object }, () => {
            const status = p.data(4);
            const pid = p.spawn('grandchild', {}, () => p.exit(3));
            p.sys('wait4', [pid, status, 0, 0]);
            p.expect(p.load(status), '==', 3 << 8, 'EPROTO', 'its status');
            p.exit(4);
          });
        });
        assert.equal((await machine.event('exited', object)).value, 4 << 8);
        machine.syscalld.drop(object);
      });
    });

    test('are four at most', async () => {
      await withMachine(async (machine) => {
        const running = run(machine, (p) => {
          for (let i = 0; i <= MACHINE_LIMITS.spawns; i++) {
            p.spawn(`child ${i}`, { object: machine.syscalld.newObject() }, () =>
              shell(p, 'exec sleep 1000'),
            );
          }
        });
        await assert.rejects(running, failsWith('clone3', 'E2BIG', 4));
      });
    });

    test('begin with default signals', async () => {
      await withMachine(async (machine) => {
        const object = machine.syscalld.newObject();
        // syscalld itself ignores this one.
        await run(machine, (p) => {
          p.spawn('child', { object }, () => shell(p, 'kill -HUP $$; exit 0'));
        });
        assert.equal((await machine.event('exited', object)).value, constants.signals.SIGHUP);
        machine.syscalld.drop(object);
      });
    });

    describe('below a fake init', () => {
      const start = async (machine: Machine, script: string) => {
        const object = machine.syscalld.newObject();
        const keeper = machine.syscalld.newObject();
        let init: Result | undefined;
        const outcome = await run(machine, (p) => {
          const pair = p.data(8);
          p.sys('socketpair', [p.flags('AF_UNIX'), p.flags('SOCK_SEQPACKET', 'SOCK_CLOEXEC'), 0, pair]);
          const [ours, theirs] = [p.load(pair), p.load(pair.at(4, 4))];
          init = p.spawn('init', { object, flags: p.flags('CLONE_NEWPID') }, () => {
            const command = p.spawn('command', {}, () => {
              shell(p, script);
            });
            p.fakeinit(command, theirs, object);
          });
          p.keepWorker(ours, keeper);
          p.sys('close', [theirs]);
        });
        return { object, pid: outcome.result(init as Result) };
      };

      test('pass exit codes on', async () => {
        await withMachine(async (machine) => {
          for (const [script, code] of [
            ['exit 7', 7],
            ['true', 0],
            ['kill -KILL $$', 128 + SIGKILL],
          ] as const) {
            const { object } = await start(machine, script);
            assert.equal((await machine.event('exited', object)).value, code << 8, script);
            machine.syscalld.drop(object);
          }
        });
      });

      test('tell their end before that of their namespace', async () => {
        await withMachine(async (machine) => {
          // Its own end may be noticed first, but not again and again.
          const order = async (): Promise<readonly string[]> => {
            const { object } = await start(machine, 'true');
            await machine.event('exited', object);
            machine.syscalld.drop(object);
            return machine.events.filter((one) => one.object === object).map(({ event }) => event);
          };
          let seen = await order();
          for (let i = 0; i < 20 && seen.length < 2; i++) seen = await order();
          assert.deepEqual(seen, ['ending', 'exited']);
        });
      });

      test('get its signals', async () => {
        await withMachine(async (machine) => {
          const { object, pid } = await start(
            machine,
            'trap "exit 9" TERM; echo ready >ready; while :; do sleep 0.02; done',
          );
          await waitUntil(() => existsSync(join(machine.directory, 'ready')));
          assert.equal(readFileSync(`/proc/${pid}/comm`, 'utf8'), 'init\n');
          assert.deepEqual(readdirSync(`/proc/${pid}/fd`), ['0'], 'the socket it tells the end on');
          machine.syscalld.signal(object, SIGTERM);
          assert.equal((await machine.event('exited', object)).value, 9 << 8);
          machine.syscalld.drop(object);
        });
      });

      test('are reaped when orphaned', async () => {
        await withMachine(async (machine) => {
          const script =
            'for i in 1 2 3 4 5; do (sh -c "sleep 0.0$i" &); done; sleep 0.2; echo done >done; exec sleep 1000';
          const { object, pid } = await start(machine, script);
          await waitUntil(() => existsSync(join(machine.directory, 'done')));
          const children = () =>
            readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim().split(' ').length;
          await waitUntil(() => children() === 1);
          machine.syscalld.signal(object, SIGKILL);
          assert.equal((await machine.event('exited', object)).value, SIGKILL);
          machine.syscalld.drop(object);
        });
      });
    });
  });
}

/** More than syscalld keeps waiting (SPARES_MAX of native/daemon.h). */
const WORKERS_MAX = 6;
const F_GETFD = 1;
const EBADF = 9;

/** Gives a worker that has something open to whoever comes. */
async function freeWorker(
  machine: Machine,
  plan: (p: Program) => void = () => undefined,
): Promise<{ readonly pid: number; readonly fd: number }> {
  const p = new Program(machine.abi);
  p.park = machine.syscalld.newObject();
  const pid = p.sys('getpid', []);
  const fd = p.sys('openat', [AT_FDCWD, '/proc', 0, 0]);
  plan(p);
  const outcome = await machine.syscalld.run('test', p);
  machine.syscalld.free(p.park);
  return { pid: outcome.result(pid), fd: outcome.result(fd) };
}

/** The shadow that AddressSanitizer keeps is larger. */
const MAPPING_MAX_BYTES = 16 * 1024 * 1024;

/** What is in the memory that a process may write to. */
function writableMemory(pid: number): Buffer {
  const fd = openSync(`/proc/${pid}/mem`, 'r');
  try {
    const maps = readFileSync(`/proc/${pid}/maps`, 'utf8').matchAll(/^([0-9a-f]+)-([0-9a-f]+) rw/gm);
    const pieces: Buffer[] = [];
    for (const [, from, to] of maps) {
      const size = Number(`0x${to}`) - Number(`0x${from}`);
      if (size > MAPPING_MAX_BYTES) continue;
      const piece = Buffer.alloc(size);
      readSync(fd, piece, 0, size, BigInt(`0x${from}`));
      pieces.push(piece);
    }
    return Buffer.concat(pieces);
  } finally {
    closeSync(fd);
  }
}

/** Runs a program in that very worker: those that wait are taken in turns. */
async function runIn(
  machine: Machine,
  pid: number,
  plan: (p: Program) => Result,
): Promise<{ readonly worker: number; readonly value: number }> {
  for (let i = 0; i < WORKERS_MAX; i++) {
    const first = new Program(machine.abi);
    first.park = machine.syscalld.newObject();
    const its = first.sys('getpid', []);
    if ((await machine.syscalld.run('find', first)).result(its) === pid) {
      const p = new Program(machine.abi);
      p.park = first.park;
      const value = plan(p);
      return { worker: p.park, value: (await machine.syscalld.run('test', p, p.park)).result(value) };
    }
    machine.syscalld.drop(first.park);
  }
  throw new Error(`no program came to worker ${pid}`);
}

function runs(): void {
  describe('runs', () => {
    test('share a worker that is parked', async () => {
      await withMachine(async (machine) => {
        const worker = machine.syscalld.newObject();
        const pids: number[] = [];
        for (const [name, park] of [
          ['first', worker],
          ['second', worker],
          ['third', 0],
        ] as const) {
          const p = new Program(machine.abi);
          p.park = park;
          const pid = p.sys('getpid', []);
          if (name === 'first') p.sys('chdir', ['/proc']);
          else p.sys('faccessat', [AT_FDCWD, 'self/stat', 0]);
          pids.push((await machine.syscalld.run(name, p, name === 'first' ? 0 : worker)).result(pid));
        }
        assert.equal(new Set(pids).size, 1);
        await assert.rejects(machine.syscalld.run('test', emptyProgram(machine.abi), worker), /ESRCH/);
      });
    });

    test('one at a time in a parked worker', async () => {
      await withMachine(async (machine) => {
        const worker = machine.syscalld.newObject();
        const parked = emptyProgram(machine.abi);
        parked.park = worker;
        await machine.syscalld.run('test', parked);
        const long = assert.rejects(
          run(machine, (p) => void sleepForever(p), worker),
          /EIO/,
        );
        await assert.rejects(
          run(machine, (p) => void p.sys('getpid', []), worker),
          /EBUSY/,
        );
        machine.syscalld.drop(worker);
        await long;
      });
    });

    test('take a worker that another one is done with, and find nothing open', async () => {
      await withMachine(async (machine) => {
        const { pid, fd } = await freeWorker(machine);
        const found = await runIn(machine, pid, (p) =>
          p.sys('fcntl', [fd, F_GETFD, 0], { ignore: ['EBADF'] }),
        );
        assert.equal(found.value, -EBADF);
        machine.syscalld.drop(found.worker);
      });
    });

    test('leave nothing of theirs in the memory of a worker that others get', async () => {
      await withMachine(async (machine) => {
        const mark = randomBytes(16);
        const { pid } = await freeWorker(machine, (p) => p.data(mark));
        await waitUntil(() => !writableMemory(pid).includes(mark));
      });
    });

    test('do without a worker that was killed while it waited', async () => {
      await withMachine(async (machine) => {
        const { pid } = await freeWorker(machine);
        process.kill(pid, 'SIGKILL');
        await waitUntil(() => !existsSync(`/proc/${pid}`));
        for (let i = 0; i < WORKERS_MAX; i++) await machine.syscalld.run('test', emptyProgram(machine.abi));
      });
    });

    test('hear nothing of a child that was spawned for another one', async () => {
      await withMachine(async (machine) => {
        const [child, mine] = [machine.syscalld.newObject(), machine.syscalld.newObject()];
        const { pid } = await freeWorker(machine, (p) => {
          const [a, b] = gate(p);
          p.spawn('child', { object: child }, () => {
            p.sys('read', [b, p.data(1), 1]);
            p.sys('execve', ['/late', p.vector([]), p.vector([])], { about: '/late' });
          });
          p.keep(a, mine);
        });
        const { worker } = await runIn(machine, pid, (p) => p.sys('write', [p.import(mine), 'g', 1]));
        await machine.event('exited', child);
        await machine.syscalld.run('go on', emptyProgram(machine.abi), worker);
        assert.equal(machine.syscalld.childFailure('test', worker), undefined);
        for (const object of [worker, child, mine]) machine.syscalld.drop(object);
      });
    });

    test('name the step of an earlier program whose child fails late', async () => {
      await withMachine(async (machine) => {
        const [worker, child, mine] = [1, 2, 3].map(() => machine.syscalld.newObject()) as [
          number,
          number,
          number,
        ];
        const first = programOf(machine, (p) => {
          const [a, b] = gate(p);
          p.spawn('child', { object: child }, () => {
            p.sys('read', [b, p.data(1), 1]);
            p.sys('execve', ['/late', p.vector([]), p.vector([])], { about: '/late' });
          });
          p.keep(a, mine);
        });
        first.park = worker;
        await machine.syscalld.run('begin', first);
        const second = programOf(machine, (p) => void p.sys('write', [p.import(mine), 'g', 1]));
        second.park = worker;
        await machine.syscalld.run('go on', second, worker);
        await machine.event('exited', child);
        assert.match(
          String(machine.syscalld.childFailure('test', worker)?.message),
          /^cannot test: execve \/late: ENOENT \(step \d+ of \d+\)$/,
        );
        machine.syscalld.drop(worker);
        for (const object of [child, mine]) machine.syscalld.drop(object);
      });
    });

    test('fail for a child that fails before they are done, and leave no worker', async () => {
      await withMachine(async (machine) => {
        const [worker, child] = [machine.syscalld.newObject(), machine.syscalld.newObject()];
        const program = programOf(machine, (p) => {
          const [a, b] = gate(p);
          p.spawn('child', { object: child }, () => {
            p.sys('execve', ['/early', p.vector([]), p.vector([])], { about: '/early' });
          });
          p.sys('close', [b]);
          p.sys('read', [a, p.data(1), 1]); // until it has ended
        });
        program.park = worker;
        await assert.rejects(machine.syscalld.run('begin', program), /cannot begin: execve \/early: ENOENT/);
        machine.syscalld.drop(worker);
      });
    });

    test('200 at once', async () => {
      await withMachine(async (machine) => {
        const running = Array.from({ length: 200 }, async (_, i) => {
          const p = new Program(machine.abi);
          const place = p.data(8);
          p.store(place, i, 8);
          const value = p.load(place, 8);
          return (await machine.syscalld.run('test', p)).result(value);
        });
        assert.deepEqual(
          await Promise.all(running),
          Array.from({ length: 200 }, (_, i) => i),
        );
      });
    });

    test('that syscalld has no room for are refused with what it takes, and later ones are not', async () => {
      await withMachine(async (machine) => {
        const limitFiles = (soft: string): void => {
          const { status, stderr } = spawnSync('prlimit', ['--pid', `${machine.pid}`, `--nofile=${soft}:`]);
          assert.equal(status, 0, `${stderr}`);
        };
        const before = /^Max open files +(\d+)/m.exec(readFileSync(`/proc/${machine.pid}/limits`, 'latin1'));
        limitFiles('3'); // what is open stays
        const ends = await Promise.allSettled(
          [1, 2, 3].map(() => machine.syscalld.run('test', emptyProgram(machine.abi))),
        );
        limitFiles(before?.[1] ?? '');
        // One worker may have been ready.
        const failures = ends.flatMap((end) => (end.status === 'rejected' ? [String(end.reason)] : []));
        assert.ok(failures.length >= 2);
        for (const text of failures)
          assert.match(text, /cannot test: found no room for another worker; need .* limit of open files/);
        await machine.syscalld.run('test', emptyProgram(machine.abi));
      });
    });

    test('of malformed programs are refused, and syscalld lives on', async () => {
      await withMachine(async (machine) => {
        class Broken extends Program {
          damage: (bytes: Buffer) => Buffer = (bytes) => bytes;
          override encode() {
            const encoded = super.encode();
            return { ...encoded, bytes: this.damage(encoded.bytes) };
          }
        }
        const u32 = (at: number, value: number) => (bytes: Buffer) => {
          new DataView(bytes.buffer, bytes.byteOffset).setUint32(at, value, machine.abi.littleEndian);
          return bytes;
        };
        const damages: readonly [string, (bytes: Buffer) => Buffer][] = [
          ['magic', u32(0, 1)],
          ['steps', u32(4, 100)],
          ['relocations', u32(8, 0xffff_ffff)],
          ['data', u32(12, 1)],
          ['imports', u32(16, 3)],
          ['slice', u32(20, 0x10_0000)],
          ['operation', u32(32, 99)],
          ['short', (bytes) => bytes.subarray(0, 40)],
          ['empty', (bytes) => bytes.subarray(0, 0)],
          ['long', () => Buffer.alloc(MACHINE_LIMITS.bytes + 1)],
        ];
        for (const [name, damage] of damages) {
          const p = new Broken(machine.abi);
          p.sys('chdir', ['/']);
          p.damage = damage;
          await assert.rejects(machine.syscalld.run(name, p), /EBADMSG/, name);
        }
        await machine.syscalld.run('test', emptyProgram(machine.abi));
      });
    });

    test('fail when their worker is killed', async () => {
      await withMachine(async (machine) => {
        const [pid = 0] = machine.workers();
        const running = run(machine, (p) => void sleepForever(p));
        await waitUntil(() => machine.workers().length === 2);
        process.kill(pid, 'SIGKILL');
        await assert.rejects(running, /EIO/);
        await waitUntil(() => !existsSync(`/proc/${pid}`));
      });
    });

    test('go on when the process that forks their workers is killed', async () => {
      await withMachine(async (machine) => {
        const isNursery = (pid: number): boolean => readFileSync(`/proc/${pid}/comm`, 'utf8') === 'nursery\n';
        const nursery = machine.children().find(isNursery);
        assert.ok(nursery);
        process.kill(nursery, 'SIGKILL');
        await waitUntil(
          () =>
            !existsSync(`/proc/${nursery}/exe`) ||
            readFileSync(`/proc/${nursery}/stat`, 'latin1').includes(') Z '),
        );
        // One has the worker that is there already.
        const runs = [1, 2, 3].map(() => machine.syscalld.run('test', emptyProgram(machine.abi)));
        await Promise.all(runs);
      });
    });

    test("and what they leave outlive the process in vserverd's place", async () => {
      await withMachine(async (machine) => {
        const [ends, lives, file, doomed] = [1, 2, 3, 4].map(() => machine.syscalld.newObject()) as [
          number,
          number,
          number,
          number,
        ];
        let pid = 0;
        await run(machine, (p) => {
          p.spawn('ends', { object: ends }, () =>
            shell(p, 'while ! [ -e end ]; do sleep 0.01; done; exit 5'),
          );
          p.spawn('lives', { object: lives }, () => shell(p, 'exec sleep 1000'));
          p.keep(open(p, 'end.tmp', 'O_RDWR', 'O_CREAT'), file);
        }).then((outcome) => {
          pid = outcome.result({ number: 0 } as Result);
        });
        const [busy = 0] = machine.workers();
        const lost = run(machine, (p) => {
          p.spawn('doomed', { object: doomed }, () => shell(p, 'exec sleep 1000'));
          sleepForever(p);
        });
        lost.catch(() => {});
        await waitUntil(() => machine.children().length >= 7);
        const objects = await machine.restart(async () => {
          await assert.rejects(lost, /syscalld gone/);
          writeFileSync(join(machine.directory, 'end'), '');
          await waitUntil(() => !existsSync(`/proc/${pid}`));
        });
        assert.deepEqual(
          objects
            .toSorted((a, b) => a.id - b.id)
            .map(({ id, kind, waitStatus }) => ({ id, kind, waitStatus })),
          [
            { id: ends, kind: 2, waitStatus: 5 << 8 },
            { id: lives, kind: 2, waitStatus: undefined },
            { id: file, kind: 1, waitStatus: undefined },
          ],
        );
        assert.equal(machine.syscalld.newObject(), file + 1);
        await waitUntil(() => !existsSync(`/proc/${busy}`));
        machine.syscalld.signal(lives, SIGKILL);
        await machine.event('exited', lives);
        for (const object of [ends, lives, file]) machine.syscalld.drop(object);
      });
    });
  });
}

function logs(): void {
  interface Log {
    readonly object: number;
    readonly process: number;
    readonly path: string;
  }
  const start = async (machine: Machine, script: string, maxBytes: number): Promise<Log> => {
    const [object, process, out, err] = [1, 2, 3, 4].map(() => machine.syscalld.newObject()) as [
      number,
      number,
      number,
      number,
    ];
    await run(machine, (p) => {
      const ends = ['out', 'err'].map(() => {
        const pair = p.data(8);
        p.sys('pipe2', [pair, p.flags('O_CLOEXEC')]);
        return [p.load(pair), p.load(pair.at(4))] as const;
      });
      p.spawn('writer', { object: process }, () => {
        for (const [i, [, to]] of ends.entries()) p.sys('dup3', [to, i + 1, 0]);
        shell(p, script);
      });
      for (const [i, [from]] of ends.entries()) p.keep(from, i === 0 ? out : err);
    });
    const path = join(machine.directory, `log-${object}`);
    machine.syscalld.log(object, path, maxBytes, out, err);
    return { object, process, path };
  };
  const records = (machine: Machine, path: string) => {
    const bytes = readFileSync(path);
    const view = new DataView(bytes.buffer, bytes.byteOffset);
    const found: { readonly timeMs: number; readonly stream: number; readonly text: string }[] = [];
    for (let at = 0; at < bytes.length; ) {
      const length = view.getUint32(at + 8, machine.abi.littleEndian);
      found.push({
        timeMs: Number(view.getBigUint64(at, machine.abi.littleEndian) / 1_000_000n),
        stream: view.getUint32(at + 12, machine.abi.littleEndian),
        text: bytes.toString('latin1', at + 16, at + 16 + length),
      });
      at += 16 + length;
    }
    return found;
  };

  describe('logs', () => {
    test('hold what came out of both pipes, and when', async () => {
      await withMachine(async (machine) => {
        const log = await start(machine, 'echo one; sleep 0.05; echo two >&2', 1 << 20);
        await machine.event('exited', log.process);
        await waitUntil(() => statSync(log.path).size === 2 * 16 + 8);
        const found = records(machine, log.path);
        assert.deepEqual(
          found.map(({ stream, text }) => [stream, text]),
          [
            [1, 'one\n'],
            [2, 'two\n'],
          ],
        );
        for (const { timeMs } of found) assert.ok(Math.abs(Date.now() - timeMs) < 20_000);
        for (const object of [log.object, log.process]) machine.syscalld.drop(object);
      });
    });

    test('stay below their size', async () => {
      await withMachine(async (machine) => {
        const maxBytes = 1 << 20;
        const log = await start(machine, 'head -c 5000000 /dev/zero; printf end', maxBytes);
        await machine.event('exited', log.process);
        await waitUntil(() => records(machine, log.path).at(-1)?.text.endsWith('end') === true);
        const size = statSync(log.path).size + statSync(`${log.path}.1`).size;
        assert.ok(size <= maxBytes && size > maxBytes / 4, String(size));
        for (const object of [log.object, log.process]) machine.syscalld.drop(object);
      });
    });

    test('that are flooded delay nobody else', async () => {
      await withMachine(async (machine) => {
        const flooded = await Promise.all([0, 1, 2].map(() => start(machine, 'yes >&2 & exec yes', 1 << 20)));
        const bytesRead = () =>
          Number(/rchar: (\d+)/.exec(readFileSync(`/proc/${machine.pid}/io`, 'utf8'))?.[1]);
        const [began, startMs] = [bytesRead(), performance.now()];
        const times: number[] = [];
        for (let i = 0; i < 100; i++) {
          const begin = performance.now();
          await machine.syscalld.run('test', emptyProgram(machine.abi));
          times.push(performance.now() - begin);
        }
        // A turn that began before the first look, and one that ends after the last, are in it as well.
        const turns = (20 * (performance.now() - startMs)) / 1000 + 2;
        const perTurn = (bytesRead() - began) / turns;
        const median = times.toSorted((a, b) => a - b)[50]!;
        assert.ok(median < 300, `${median} ms`);
        assert.ok(perTurn < 3 * 2 * 600 * 1024, `${perTurn} bytes in a turn`);
        for (const { object, process } of flooded) {
          machine.syscalld.drop(object);
          machine.syscalld.signal(process, SIGKILL);
          await machine.event('exited', process);
          machine.syscalld.drop(process);
        }
      });
    });
  });
}

function clients(): void {
  const client = (machine: Machine, ...args: readonly string[]) => {
    const child = spawn(process.env['VSERVER_SYSCALLD']!, args, {
      argv0: 'vserver',
      env: { VSERVER_ROOT: machine.root, __proto__1: 'x', A: 'b=c' },
      cwd: '/usr',
    });
    const output = { out: '', err: '' };
    child.stdout.on('data', (text) => (output.out += text));
    child.stderr.on('data', (text) => (output.err += text));
    return { child, output, ended: once(child, 'close') };
  };

  describe('clients', () => {
    test('say who they are, and end as they are told', async () => {
      await withMachine(async (machine) => {
        const { child, output, ended } = client(machine, 'list', '', 'ü', '--json');
        const { object, value } = await machine.event('clientOpened');
        assert.deepEqual(value, {
          pid: child.pid,
          tty: [false, false, false],
          rows: 0,
          columns: 0,
          cwd: '/usr',
          argv: ['list', '', 'ü', '--json'],
          env: Object.assign(Object.create(null), { VSERVER_ROOT: machine.root, __proto__1: 'x', A: 'b=c' }),
        });
        const long = 'x'.repeat(300_000);
        await machine.syscalld.clientOut(object, 1, Buffer.from(long));
        await machine.syscalld.clientOut(object, 2, Buffer.from('warning'));
        machine.syscalld.clientExit(object, 42);
        assert.deepEqual(await ended, [42, null]);
        assert.deepEqual(output, { out: long, err: 'warning' });
        await machine.event('clientClosed', object);
        await machine.syscalld.clientOut(object, 1, Buffer.from('too late')); // resolves
      });
    });

    test('hand their descriptors to programs, and share the fate of a process', async () => {
      await withMachine(async (machine) => {
        const { child, output, ended } = client(machine, 'exec');
        const { object } = await machine.event('clientOpened');
        const bound = machine.syscalld.newObject();
        await run(machine, (p) => {
          p.spawn('command', { object: bound }, () => {
            p.sys('dup3', [p.import(object, 0), 0, 0]);
            p.sys('dup3', [p.import(object, 1), 1, 0]);
            shell(
              p,
              'trap "echo stopped; exit 3" TERM; read line; echo "got $line"; while :; do sleep 0.01; done',
            );
          });
        });
        machine.syscalld.bind(object, bound);
        child.stdin.write('text\n');
        await waitUntil(() => output.out === 'got text\n');
        child.kill('SIGTERM');
        assert.deepEqual(await ended, [3, null]);
        assert.equal(output.out, 'got text\nstopped\n');
        await machine.event('clientClosed', object);
        machine.syscalld.drop(bound);
      });
    });

    test('tell signals, and when they are gone', async () => {
      await withMachine(async (machine) => {
        const { child, ended } = client(machine, 'wait');
        const { object } = await machine.event('clientOpened');
        child.kill('SIGUSR1');
        assert.equal((await machine.event('clientSignalled', object)).value, constants.signals.SIGUSR1);
        child.kill('SIGKILL');
        await machine.event('clientClosed', object);
        await ended;
      });
    });

    test('that were told to end do not begin anew with the next vserverd', async () => {
      await withMachine(async (machine) => {
        const { child, ended } = client(machine, 'run');
        const { object } = await machine.event('clientOpened');
        child.kill('SIGTERM');
        await machine.event('clientSignalled', object);
        machine.syscalld.clientExit(object, EXIT_AGAIN);
        assert.deepEqual(await ended, [143, null]);
      });
    });

    test('are told that vserverd ended', async () => {
      await withMachine(async (machine) => {
        const { output, ended } = client(machine, 'list');
        await machine.event('clientOpened');
        await machine.restart();
        assert.deepEqual(await ended, [125, null]);
        assert.match(
          output.err,
          /^vserver: cannot finish the command: found the control plane restarting; try again\n$/,
        );
      });
    });

    test('wait while vserverd is down, and cost nothing meanwhile', async () => {
      await withMachine(async (machine) => {
        let waiting: ReturnType<typeof client> | undefined;
        const ticks = () =>
          readFileSync(`/proc/${machine.pid}/stat`, 'utf8')
            .split(' ')
            .slice(13, 15)
            .reduce((a, b) => a + Number(b), 0);
        const before = ticks();
        for (let i = 0; i < 3; i++) await machine.restart(); // each later than the one before
        await machine.restart(() => {
          waiting = client(machine, 'list');
        });
        assert.ok(ticks() - before < 20, `${ticks() - before} ticks`);
        const { object } = await machine.event('clientOpened');
        machine.syscalld.clientExit(object, 0);
        assert.deepEqual(await waiting?.ended, [0, null]);
      });
    });

    test('of another user are refused', async () => {
      await withMachine(async (machine) => {
        const connect = (p: Program): Result => {
          const address = p.data(110, 'syscalld.sock');
          p.put(address, machine.abi.constants['AF_UNIX']!, 2);
          const path = p.data(Buffer.from(`\0\0${join(machine.directory, 'syscalld.sock')}\0`));
          p.put(path, machine.abi.constants['AF_UNIX']!, 2);
          p.sys('setresgid', [65534, 65534, 65534]);
          p.sys('setresuid', [65534, 65534, 65534]);
          const socket = p.sys('socket', [p.flags('AF_UNIX'), p.flags('SOCK_SEQPACKET', 'SOCK_CLOEXEC'), 0]);
          p.sys('connect', [socket, path, path.length], { about: 'syscalld.sock' });
          return p.sys('read', [socket, address, 110]);
        };
        await assert.rejects(
          run(machine, (p) => void connect(p)),
          failsWith('connect', 'EACCES'),
        );
        chmodSync(machine.root, 0o711);
        chmodSync(machine.directory, 0o711);
        chmodSync(join(machine.directory, 'syscalld.sock'), 0o666);
        const p = new Program(machine.abi);
        const read = connect(p);
        assert.equal((await machine.syscalld.run('test', p)).result(read), 0); // end of file: closed
        assert.deepEqual(machine.events, []);
      });
    });
  });
}

function trees(): void {
  const remove = (machine: Machine, path: string): Promise<unknown> =>
    run(machine, (p) => void p.removeTree(open(p, path, 'O_PATH', 'O_DIRECTORY'), path));

  describe('trees', () => {
    test('are removed whatever is in them', async () => {
      await withMachine(async (machine) => {
        const [tree, canary] = [join(machine.directory, 'tree'), join(machine.directory, 'canary')];
        for (const directory of [
          tree,
          canary,
          join(tree, 'a/b/c'),
          join(tree, 'x'.repeat(255), 'y'.repeat(255)),
          join(tree, 'many'),
        ]) {
          mkdirSync(directory, { recursive: true });
        }
        writeFileSync(join(canary, 'file'), 'canary');
        symlinkSync(canary, join(tree, 'link'));
        symlinkSync('/', join(tree, 'a/b/root'));
        symlinkSync('..', join(tree, 'a/b/up'));
        writeFileSync(join(tree, 'a/b/c/.hidden'), '');
        writeFileSync(join(tree, 'a/\n\u0001'), '', { mode: 0 });
        chmodSync(join(tree, 'a/b'), 0);
        for (let i = 0; i < 10_000; i++) writeFileSync(join(tree, 'many', String(i)), '');
        for (let i = 0; i < 300; i++) mkdirSync(join(tree, 'many', `d${i}`, 'e'), { recursive: true });
        await run(machine, (p) => {
          const directory = open(p, 'tree/a', 'O_PATH');
          for (const [name, type] of [
            ['fifo', 0o010000],
            ['socket', 0o140000],
            ['null', 0o020000],
            ['block', 0o060000],
          ] as const) {
            p.sys('mknodat', [directory, name, type | 0o600, type === 0o020000 ? 0x103 : 0], { about: name });
          }
        });
        await remove(machine, 'tree');
        assert.deepEqual(readdirSync(tree), []);
        assert.equal(readFileSync(join(canary, 'file'), 'utf8'), 'canary');
      });
    });

    test('are removed however deep', async () => {
      await withMachine(async (machine) => {
        mkdirSync(join(machine.directory, 'deep'));
        const script =
          'cd deep; i=0; while [ $i -lt 100 ]; do echo; i=$((i+1)); done; ' +
          'd=$(i=0; while [ $i -lt 100 ]; do printf d/; i=$((i+1)); done); i=0; ' +
          'while [ $i -lt 50 ]; do mkdir -p $d && cd -P $d || exit 1; : >f; mkdir .vserver-removed-$i; i=$((i+1)); done';
        const made = spawnSync(
          '/bin/sh',
          ['-c', script.replace(/i=0; while \[ \$i -lt 100 \]; do echo; i=\$\(\(i\+1\)\); done; /, '')],
          { cwd: machine.directory, encoding: 'utf8' },
        );
        assert.equal(made.status, 0, made.stderr);
        await remove(machine, 'deep');
        assert.deepEqual(readdirSync(join(machine.directory, 'deep')), []);
      });
    });

    test('are not removed through a mount', async () => {
      await withMachine(async (machine) => {
        const [tree, canary] = [join(machine.directory, 'tree'), join(machine.directory, 'canary')];
        for (const directory of [join(tree, 'a/mount/below'), canary])
          mkdirSync(directory, { recursive: true });
        writeFileSync(join(canary, 'file'), 'canary');
        writeFileSync(join(tree, 'file'), '');
        const mounted = (target: string, source: string) =>
          run(machine, (p) => {
            p.sys('unshare', [p.flags('CLONE_NEWNS')]);
            p.sys('mount', [0, '/', 0, p.flags('MS_REC', 'MS_PRIVATE'), 0]);
            p.sys('mount', [source, target, 0, p.flags('MS_BIND'), 0], { about: target });
            p.removeTree(open(p, 'tree', 'O_RDONLY', 'O_DIRECTORY'), 'tree');
          });
        await assert.rejects(mounted('tree/a/mount', 'canary'), failsWith('remove_tree', 'EXDEV'));
        writeFileSync(join(tree, 'a/file'), '');
        await assert.rejects(mounted('tree/a/file', 'canary/file'), failsWith('remove_tree', 'EXDEV'));
        assert.equal(readFileSync(join(canary, 'file'), 'utf8'), 'canary');
        assert.deepEqual(readdirSync(join(tree, 'a/mount')), ['below']); // what the mount covered
        await remove(machine, 'tree');
        assert.deepEqual(readdirSync(tree), []);
      });
    });

    test('that hold an immutable file say so', async () => {
      await withMachine(async (machine) => {
        mkdirSync(join(machine.directory, 'tree'));
        const file = join(machine.directory, 'tree/file');
        writeFileSync(file, '');
        if (spawnSync('chattr', ['+i', file]).status !== 0) return; // a file system without the flag
        try {
          await assert.rejects(remove(machine, 'tree'), failsWith('remove_tree', 'EPERM'));
        } finally {
          spawnSync('chattr', ['-i', file]);
        }
        await remove(machine, 'tree');
        await assert.rejects(
          run(machine, (p) => void p.removeTree(open(p, 'control', 'O_PATH'))),
          failsWith('remove_tree', 'ENOTDIR'),
        );
      });
    });
  });
}

function size(): void {
  test('syscalld has no more than 1 MiB of its own, with 3,000 objects', async () => {
    await withMachine(async (machine) => {
      const objects = Array.from({ length: 3000 }, () => machine.syscalld.newObject());
      for (let at = 0; at < objects.length; at += MACHINE_LIMITS.keeps) {
        await run(machine, (p) => {
          const file = open(p, '/', 'O_PATH');
          for (const object of objects.slice(at, at + MACHINE_LIMITS.keeps)) p.keep(file, object);
        });
      }
      const ownKib = (): number =>
        [
          ...readFileSync(`/proc/${machine.pid}/smaps_rollup`, 'utf8').matchAll(
            /^Private_(?:Clean|Dirty): +(\d+) kB/gm,
          ),
        ].reduce((sum, [, kib]) => sum + Number(kib), 0);
      // In a lull: then it shares its program with a worker that waits.
      await waitUntil(() => ownKib() <= 1024);
      assert.ok(ownKib() > 0);
      for (const object of objects) machine.syscalld.drop(object);
    });
  });
}
