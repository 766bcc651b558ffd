/**
 * The disk as a power cut leaves it, at many moments of what is done with guests' files: everything that was said to be
 * done is there, and nothing is half there. In the machine only, where the kernel can log what is written to a disk.
 *
 * ROUNDS sets at how many moments, 5 unless told.
 */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, realpathSync, rmSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { test } from 'node:test';
import { eventually } from '../../lib/instance.ts';
import { unmet } from '../../lib/requires.ts';
import { readWriteLog, replayWrites } from '../../lib/write-log.ts';

const options = {
  skip:
    process.env['VSERVER_TEST_VM'] === '1' ? unmet('root', 'dmsetup') : 'needs the machine of the vm tier',
};
const CLIENT = resolve(import.meta.dirname, '../../../bin/vserver');
const ROUNDS = Number(process.env['ROUNDS'] ?? 5);
const DISK_MIB = 256;
const LOG_MIB = 2048;
const SECTOR_BYTES = 512;
const TIMEOUT_MS = 120_000;

function run(command: string, ...args: readonly string[]): string {
  const { status, stdout, stderr, error } = spawnSync(command, args, {
    encoding: 'utf8',
    timeout: TIMEOUT_MS,
  });
  assert.equal(status, 0, `${command} ${args.join(' ')}: ${error?.message ?? ''}\n${stdout}${stderr}`);
  return stdout;
}

test('a power cut loses nothing that was done, and leaves nothing half done', options, async (t) => {
  const home = realpathSync(mkdtempSync('/tmp/vserver-power-'));
  await using undo = new AsyncDisposableStack();
  undo.defer(() => rmSync(home, { recursive: true }));
  const place = (name: string): string => join(home, name);
  const mountPoint = place('mnt');
  mkdirSync(mountPoint);
  const vserver = (...args: readonly string[]): string =>
    run(CLIENT, '--root', join(mountPoint, 'state'), ...args);
  /** The mounts of guests go a moment after them. */
  const unmount = async (): Promise<void> =>
    await eventually('unmounted', () =>
      spawnSync('umount', [mountPoint]).status === 0 ? true : undefined,
    ).then(() => {});
  const attach = (stack: AsyncDisposableStack, file: string): string => {
    const device = run('losetup', '--find', '--show', file).trim();
    stack.defer(() => void run('losetup', '--detach', device));
    return device;
  };

  run('truncate', '-s', `${DISK_MIB}M`, place('disk'));
  run('truncate', '-s', `${LOG_MIB}M`, place('log'));
  // Where objects are sealed: one more step at which it can be.
  run('mke2fs', '-q', '-F', '-t', 'ext4', '-b', '4096', '-O', 'verity', place('disk'));
  run('cp', '--sparse=always', place('disk'), place('replay'));
  {
    await using logging = new AsyncDisposableStack();
    for (const module of ['dm-mod', 'dm-log-writes']) run('/run/vm/busybox', 'modprobe', module);
    const [disk, log] = [attach(logging, place('disk')), attach(logging, place('log'))];
    const sectors = (DISK_MIB * 1024 * 1024) / SECTOR_BYTES;
    run(
      'env',
      'DM_DISABLE_UDEV=1',
      'dmsetup',
      'create',
      'power',
      '--table',
      `0 ${sectors} log-writes ${disk} ${log}`,
    );
    logging.defer(() => void run('env', 'DM_DISABLE_UDEV=1', 'dmsetup', 'remove', '--retry', 'power'));
    run('mount', '-t', 'ext4', '/dev/mapper/power', mountPoint);
    logging.defer(unmount);
    logging.defer(() => void vserver('daemon', 'stop', '--guests'));
    workOn(vserver, (mark) => void run('dmsetup', 'message', 'power', '0', 'mark', mark));
    const { objects, sealedObjects } = JSON.parse(vserver('store', 'stat', '--json')) as {
      objects: number;
      sealedObjects: number;
    };
    assert.equal(sealedObjects, objects);
  }

  const entries = readWriteLog(place('log'));
  const isBegun = entries.findIndex(({ mark }) => mark === 'begin');
  const moments = entries.flatMap(({ isBarrier }, index) =>
    isBarrier && index > isBegun ? [index + 1] : [],
  );
  assert.ok(moments.length > ROUNDS, `${moments.length} moments in ${entries.length} entries`);
  t.diagnostic(`${moments.length} moments, ${ROUNDS} of them looked at`);
  let done = 0;
  for (let round = 1; round <= ROUNDS; round++) {
    const moment = moments[Math.floor((moments.length * round) / ROUNDS) - 1] ?? entries.length;
    replayWrites(place('log'), entries.slice(done, moment), place('replay'));
    done = moment;
    const said = new Set(entries.slice(0, moment).flatMap(({ mark }) => mark ?? []));
    await using looking = new AsyncDisposableStack();
    run('cp', '--sparse=always', place('replay'), place('cut'));
    run('mount', '-t', 'ext4', attach(looking, place('cut')), mountPoint);
    looking.defer(unmount);
    looking.defer(() => void vserver('daemon', 'stop', '--guests'));
    lookAt(vserver, said);
  }
});

type Vserver = (...args: readonly string[]) => string;

/** Does what is to stand a power cut, and says what is done. */
function workOn(vserver: Vserver, say: (mark: string) => void): void {
  const write = (name: string, text: string): void => {
    vserver('start', name);
    vserver('exec', name, 'sh', '-c', `echo ${text} >/srv/file; cp /bin/busybox /srv/${text}; sync`);
    vserver('stop', '-t', '0', name);
  };
  vserver('version');
  say('begin');
  vserver('create', 'a', '--template', 'busybox', '--', 'sleep', '1000');
  say('created');
  write('a', 'first');
  say('first');
  vserver('snapshot', 'a', 'one');
  say('snapshot');
  write('a', 'second');
  say('second');
  vserver('clone', 'a', 'b');
  say('clone');
  write('b', 'third');
  vserver('unify', 'b');
  say('unified');
  vserver('rollback', 'a', 'one');
  say('rollback');
}

/** What must be so, given what was said to be done. */
function lookAt(vserver: Vserver, said: ReadonlySet<string>): void {
  const context = [...said].join(' ');
  // All that is there can be read, and is what it was, sealed or not.
  vserver('store', 'check', '--full');
  const names = vserver('list', '--all', '--quiet').trim().split('\n').filter(Boolean);
  if (said.has('created')) assert.ok(names.includes('a'), context);
  if (said.has('clone')) assert.ok(names.includes('b'), context);
  if (said.has('snapshot')) assert.match(vserver('snapshots', 'a'), /\bone\b/, context);
  for (const name of names) {
    vserver('start', name);
    const text = vserver('exec', name, 'sh', '-c', 'cmp /bin/busybox /bin/sh; cat /srv/file; true').trim();
    assert.ok(wordsOf(name, said).includes(text), `${name}: ${JSON.stringify(text)} after ${context}`);
    if (text !== '') vserver('exec', name, 'cmp', '/bin/busybox', `/srv/${text}`);
  }
}

/** What a guest's file may say. */
function wordsOf(name: string, said: ReadonlySet<string>): readonly string[] {
  if (name === 'b') return said.has('unified') ? ['third'] : ['second', 'third'];
  if (said.has('rollback')) return ['first'];
  // The next step may have been done too, without a word yet.
  if (said.has('unified')) return ['second', 'first'];
  if (said.has('second')) return ['second'];
  return said.has('first') ? ['first', 'second'] : ['', 'first'];
}
