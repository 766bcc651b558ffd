import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { chmodSync, copyFileSync, existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';

const REAL_PATH = '/usr/bin:/bin';

// What a bare but complete machine answers. Every program the script calls is named here; the rest is missing.
const PROGRAMS: Readonly<Record<string, string>> = {
  uname: 'if [ "$1" = -m ]; then echo x86_64; else echo Linux; fi',
  id: 'echo 0',
  node: 'echo 20.20.2',
  npm: 'mkdir -p node_modules/.bin && cp bin/node node_modules/.bin/node && echo npm "$@" >>log',
  gcc: 'exit 0',
  make: 'echo make "$@" >>log',
};

class Machine {
  readonly root: string;

  constructor(t: TestContext, programs: Readonly<Record<string, string | undefined>> = {}) {
    this.root = mkdtempSync(join(tmpdir(), 'setup-'));
    t.after(() => rmSync(this.root, { recursive: true }));
    mkdirSync(join(this.root, 'tools'));
    mkdirSync(join(this.root, 'bin'));
    copyFileSync(join(import.meta.dirname, 'setup.sh'), join(this.root, 'tools/setup.sh'));
    writeFileSync(join(this.root, 'package-lock.json'), '{}\n');
    const stubs = { ...PROGRAMS, ...programs };
    for (const [name, body] of Object.entries(stubs)) {
      if (body !== undefined) this.#script(name, `export PATH=${REAL_PATH}\n${body}`);
    }
    for (const name of ['cat', 'cksum', 'dirname', 'mktemp', 'rm']) {
      this.#script(name, `PATH=${REAL_PATH} exec ${name} "$@"`);
    }
  }

  #script(name: string, body: string): void {
    const path = join(this.root, 'bin', name);
    writeFileSync(path, `#!/bin/sh\n${body}\n`);
    chmodSync(path, 0o755);
  }

  /** What the script printed and did, one line each, and its exit code. */
  setup(...args: readonly string[]): readonly [status: number | null, output: string] {
    const { status, stderr, stdout } = spawnSync('/bin/sh', [join(this.root, 'tools/setup.sh'), ...args], {
      env: { PATH: join(this.root, 'bin') },
      encoding: 'utf8',
    });
    const log = join(this.root, 'log');
    const did = existsSync(log) ? spawnSync('/bin/cat', [log], { encoding: 'utf8' }).stdout : '';
    rmSync(log, { force: true });
    return [status, stdout + stderr + did];
  }
}

test('each missing thing is one line, before any effect', (t) => {
  const cases: readonly [programs: Readonly<Record<string, string | undefined>>, line: string][] = [
    [{ uname: 'echo Darwin' }, 'cannot run: found Darwin; need: Linux'],
    [{ id: 'echo 1000' }, 'cannot run: found uid 1000; need: root (sudo)'],
    [
      { uname: 'if [ "$1" = -m ]; then echo riscv64; else echo Linux; fi' },
      'cannot install: found machine riscv64; need: x86_64 or aarch64 (the pinned Node exists for these)',
    ],
    [
      { node: undefined },
      'cannot install: found no node; need: apt-get install nodejs npm (Node 20 or newer)',
    ],
    [{ node: 'echo 18.20.4' }, 'cannot install: found Node 18.20.4; need: Node 20 or newer'],
    [{ npm: undefined }, 'cannot install: found no npm; need: apt-get install npm'],
    [{ gcc: undefined }, 'cannot build: found no gcc; need: apt-get install gcc make'],
    [{ make: undefined }, 'cannot build: found no make; need: apt-get install gcc make'],
    [{ gcc: 'exit 1' }, 'cannot build: found no static C library; need: apt-get install libc6-dev'],
  ];
  for (const [programs, line] of cases) {
    assert.deepEqual(new Machine(t, programs).setup('root', 'native'), [1, `${line}\n`]);
  }
});

test('packages are installed once for each lock file', (t) => {
  const machine = new Machine(t);
  assert.deepEqual(machine.setup(), [0, 'npm ci --ignore-scripts --loglevel=error\n']);
  assert.deepEqual(machine.setup(), [0, '']);
  writeFileSync(join(machine.root, 'package-lock.json'), '{"lockfileVersion":3}\n');
  assert.deepEqual(machine.setup(), [0, 'npm ci --ignore-scripts --loglevel=error\n']);
});

test('only what the command needs is asked for', (t) => {
  const machine = new Machine(t, { id: 'echo 1000', gcc: undefined });
  assert.equal(machine.setup()[0], 0);
  assert.deepEqual(machine.setup('natve'), [
    1,
    'cannot set up: found argument "natve"; need: root or native\n',
  ]);
});

test('the native part is brought up to date each time', (t) => {
  const machine = new Machine(t);
  const installing = 'npm ci --ignore-scripts --loglevel=error\n';
  assert.deepEqual(machine.setup('root', 'native'), [
    0,
    `${installing}make -C native -s\nmake -s -f tools/compile.mk\n`,
  ]);
  assert.deepEqual(machine.setup('root', 'native'), [0, 'make -C native -s\nmake -s -f tools/compile.mk\n']);
});
