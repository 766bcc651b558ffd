/**
 * Objects on a file system with fs-verity: nobody writes to them, and what the disk made of one is not read. In the
 * machine only, whose kernel has fs-verity.
 */
import assert from 'node:assert/strict';
import { type SpawnSyncReturns, spawnSync } from 'node:child_process';
import {
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { join, resolve } from 'node:path';
import { test } from 'node:test';
import { eventually } from '../../lib/instance.ts';
import { unmet } from '../../lib/requires.ts';

const options = {
  skip: process.env['VSERVER_TEST_VM'] === '1' ? unmet('root') : 'needs the machine of the vm tier',
};
const CLIENT = resolve(import.meta.dirname, '../../../bin/vserver');
const DISK_MIB = 128;
const TIMEOUT_MS = 120_000;
/** Some pages of a file, all the same, that nothing else on the disk has. */
const LINE = 'the only bytes of their kind\n';
const BYTES = 200_000;

interface StoreView {
  readonly objects: number;
  readonly sealedObjects: number;
  readonly faults: readonly { readonly kind: string; readonly detail: string }[];
}

function attempt(command: string, ...args: readonly string[]): SpawnSyncReturns<string> {
  return spawnSync(command, args, { encoding: 'utf8', timeout: TIMEOUT_MS });
}

function run(command: string, ...args: readonly string[]): string {
  const { status, stdout, stderr } = attempt(command, ...args);
  assert.equal(status, 0, `${command} ${args.join(' ')}: ${stdout}${stderr}`);
  return stdout;
}

test('objects are sealed: what a disk changed of one is an error, not other bytes', options, async () => {
  const home = realpathSync(mkdtempSync('/tmp/vserver-verity-'));
  await using undo = new AsyncDisposableStack();
  undo.defer(() => rmSync(home, { recursive: true }));
  const [disk, mountPoint] = [join(home, 'disk'), join(home, 'mnt')];
  mkdirSync(mountPoint);
  const state = join(mountPoint, 'state');
  const vserver = (...args: readonly string[]): string => run(CLIENT, '--root', state, ...args);
  const check = (...args: readonly string[]): StoreView & { readonly code: number | null } => {
    const { status, stdout } = attempt(CLIENT, '--root', state, 'store', ...args, '--json');
    return { code: status, ...(JSON.parse(stdout) as StoreView) };
  };
  /** Mounts the disk for as long as `body` runs, with a control plane of its own. */
  async function withDisk(body: () => void): Promise<void> {
    await using mounted = new AsyncDisposableStack();
    const device = run('losetup', '--find', '--show', disk).trim();
    mounted.defer(() => void run('losetup', '--detach', device));
    run('mount', '-t', 'ext4', device, mountPoint);
    // The mounts of guests go a moment after them.
    mounted.defer(async () => {
      await eventually('unmounted', () => (attempt('umount', mountPoint).status === 0 ? true : undefined));
    });
    mounted.defer(() => void vserver('daemon', 'stop', '--guests'));
    body();
  }

  run('truncate', '-s', `${DISK_MIB}M`, disk);
  run('mke2fs', '-q', '-F', '-t', 'ext4', '-b', '4096', '-O', 'verity', disk);
  await withDisk(() => {
    vserver('create', 'a', '--template', 'busybox', '--', 'sleep', '1000');
    vserver('start', 'a');
    vserver('exec', 'a', 'sh', '-c', `yes '${LINE.trim()}' | head -c ${BYTES} > /srv/file`);
    vserver('stop', '-t', '0', 'a');
    vserver('unify', 'a');
    const { objects, sealedObjects, faults, code } = check('stat');
    assert.ok(objects > 1);
    assert.deepEqual([sealedObjects, faults, code], [objects, [], 0]);
    // Root itself cannot write to one.
    const directory = join(state, 'lib/store/default/layer/obj');
    const object = readdirSync(directory, { recursive: true, encoding: 'utf8' })
      .map((name) => join(directory, name))
      .find((path) => statSync(path).size === BYTES);
    assert.throws(() => openSync(object ?? '', 'r+'), { code: 'EPERM' });
    // A guest that writes to such a file has a copy of its own, as ever.
    vserver('start', 'a');
    vserver('exec', 'a', 'sh', '-c', 'cp /srv/file /srv/own; echo more >> /srv/own; echo x >> /etc/group');
    assert.deepEqual([check('check').faults, check('check', '--full').faults], [[], []]);
  });

  const bytes = readFileSync(disk);
  const page = 4096 - (4096 % LINE.length);
  const places: number[] = [];
  for (let at = bytes.indexOf(LINE); at >= 0; at = bytes.indexOf(LINE, at + page)) places.push(at);
  // All there is of them, the copy that was in the guest's own layer too, which nobody reads.
  assert.ok(places.length > 10, String(places.length));
  for (const at of places) bytes.write('T', at);
  writeFileSync(disk, bytes);

  await withDisk(() => {
    vserver('start', 'a');
    const { status, stdout, stderr } = attempt(CLIENT, '--root', state, 'exec', 'a', 'cat', '/srv/file');
    assert.match(stderr, /Input\/output error|I\/O error/);
    assert.notEqual(status, 0);
    assert.ok(!stdout.includes('The only'), 'other bytes were read');
    // The file system vouches for what is read; whether all can be is asked for.
    assert.deepEqual([check('check').faults, check('check').code], [[], 0]);
    const { faults, code } = check('check', '--full');
    assert.deepEqual(
      [faults.map(({ kind, detail }) => [kind, detail]), code],
      [[['object-damaged', 'cannot be read: EIO']], 1],
    );
    // What needs the file says what is wrong, and is not done.
    const archive = join(home, 'a.tar');
    const exported = attempt(CLIENT, '--root', state, 'export', 'a', '-o', archive);
    assert.match(exported.stderr, /vserver store check --full/);
    assert.deepEqual(readdirSync(home).includes('a.tar'), false);
    vserver('exec', 'a', '/bin/sh', '-c', 'true');
  });
});
