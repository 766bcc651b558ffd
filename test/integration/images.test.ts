/** The unified store for real: images that the kernel and EROFS's own tools read, deaths at any moment, guests on them. */
import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  chmodSync,
  chownSync,
  existsSync,
  linkSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  symlinkSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { planMergedView, planNamespace } from '../../src/guest/plan-mounts.ts';
import { planAttach } from '../../src/guest/plan-paths.ts';
import { readErofs } from '../../src/spec/erofs-reader.ts';
import { objectPath } from '../../src/spec/image-tree.ts';
import { type ImageLayer, planErofs, planImageMount } from '../../src/storage/image-mounts.ts';
import { type Captured, ImageStore } from '../../src/storage/image-store.ts';
import { planLoop } from '../../src/storage/loop-device.ts';
import { openDirectory } from '../../src/storage/machine.ts';
import { Program, type Result } from '../../src/sys/program.ts';
import { eventually, type Instance, withInstance } from '../lib/instance.ts';
import { type Machine, withMachine } from '../lib/machine.ts';
import { PATIENCE } from '../lib/patience.ts';
import { unmet } from '../lib/requires.ts';

const DEADLINE_MS = 10_000 * PATIENCE;

interface Place {
  readonly machine: Machine;
  readonly dir: string;
  /** What is to become an image. */
  readonly tree: string;
  readonly store: ImageStore;
}

async function withStore(body: (place: Place) => Promise<void>): Promise<void> {
  const dir = realpathSync(mkdtempSync(join(tmpdir(), 'vserver-images-')));
  const tree = join(dir, 'tree');
  mkdirSync(tree);
  try {
    await withMachine(async (machine) => {
      await body({ machine, dir, tree, store: new ImageStore(join(dir, 'store'), machine.syscalld, dir) });
    });
  } finally {
    rmSync(dir, { recursive: true, force: true }); // nothing is mounted there: mounts were in namespaces that ended
  }
}

async function capture({ store, tree }: Place, signal?: AbortSignal): Promise<Captured> {
  return await store.withWorkDir(
    async (workDir) =>
      await store.capture(
        { what: 'take a tree', openTree: (p) => ({ tree: openDirectory(p, tree) }) },
        workDir,
        {
          signal,
        },
      ),
  );
}

/** Everything that `find` knows of a tree, and what its files hold. */
function listing(root: string): readonly string[] {
  const format = '%P|%y|%m|%U|%G|%T@|%l|%n|%s\n';
  const { stdout } = spawnSync('find', ['.', '-printf', format], { cwd: root, encoding: 'latin1' });
  return stdout
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => {
      const [path = '', type = ''] = line.split('|');
      if (type === 'd') return line.split('|').slice(0, 6).join('|'); // sizes and links of directories are the file system's own
      return type === 'f' ? `${line} ${hashOf(join(root, path))}` : line;
    })
    .sort();
}

function hashOf(path: string): string {
  return createHash('sha256')
    .update(readFileSync(Buffer.from(path, 'latin1')))
    .digest('hex');
}

/** A tree with all there is. */
function makeHardCases(tree: string): void {
  const at = (path: string): string => join(tree, path);
  for (const path of ['etc', 'bin', 'many', 'deep']) mkdirSync(at(path));
  writeFileSync(at('etc/motd'), 'hello\n', { mode: 0o640 });
  chownSync(at('etc/motd'), 33, 65_535);
  linkSync(at('etc/motd'), at('motd'));
  writeFileSync(at('etc/empty'), '');
  writeFileSync(at('bin/su'), 'program');
  chmodSync(at('bin/su'), 0o6755);
  writeFileSync(at('large'), Buffer.alloc(3 * 1024 * 1024, 'large'));
  writeFileSync(at('sparse'), 'x');
  truncateSync(at('sparse'), 5 * 1024 * 1024 * 1024);
  rmSync(at('sparse')); // reading 5 GiB of zeros takes long; its size alone is unit-tested
  symlinkSync('etc/motd', at('link'));
  symlinkSync(`/${'long/'.repeat(800)}`, at('long-link'));
  for (let i = 0; i < 3000; i++) writeFileSync(at(`many/${'name'.repeat(i % 40)}-${i}`), i % 3 ? `${i}` : '');
  mkdirSync(at(`deep/${'d/'.repeat(100)}`), { recursive: true });
  const script =
    'mkfifo fifo && mknod null c 1 3 && mknod disk b 254 1048575 && chmod 1777 many && printf %b "caf\\0351" | xargs -0 touch';
  assert.equal(spawnSync('sh', ['-c', script], { cwd: tree }).status, 0);
  assert.equal(
    spawnSync('python3', ['-c', 'import socket; socket.socket(socket.AF_UNIX).bind("socket")'], { cwd: tree })
      .status,
    0,
  );
  utimesSync(at('etc/motd'), 1, 1.5);
  utimesSync(at('etc'), -86_400, -86_400);
}

const READER = 1000;

/** Lets one more user read a file (acl(5); `struct posix_acl_xattr_header`, linux/posix_acl_xattr.h). */
function setAcl(path: string, uid: number): void {
  const script =
    'import os, struct, sys; rows = [(1, 6, -1), (2, 4, int(sys.argv[2])), (4, 0, -1), (16, 4, -1), (32, 0, -1)]; ' +
    'os.setxattr(sys.argv[1], "system.posix_acl_access", struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *r) for r in rows))';
  const { stderr } = spawnSync('python3', ['-c', script, path, String(uid)], { encoding: 'utf8' });
  assert.equal(stderr, '');
}

/** Runs `body` with the path of what `open` opens in a worker. */
async function withOpened(
  machine: Machine,
  open: (p: Program) => Result,
  body: (path: string) => Promise<void> | void,
): Promise<void> {
  const p = new Program(machine.abi);
  const root = open(p);
  const pid = p.sys('getpid', []);
  p.park = machine.syscalld.newObject();
  const outcome = await machine.syscalld.run('show a tree', p);
  try {
    await body(`/proc/${outcome.result(pid)}/fd/${outcome.result(root)}/.`);
  } finally {
    machine.syscalld.drop(p.park);
  }
}

function layerOf({ image }: Captured, isDataOnly: boolean): ImageLayer {
  return { kind: 'image', path: image.path, mount: undefined, objects: image.layer, isDataOnly };
}

describe('an image of a tree', { skip: unmet('root', 'overlay') }, () => {
  for (const [name, isDataOnly] of [
    ['with the objects in a layer of data only', true],
    ['with the objects in a layer that the image hides, as before Linux 6.5', false],
  ] as const) {
    test(`shows the same tree: ${name}`, { skip: isDataOnly && unmet('data-only') }, async () => {
      await withStore(async (place) => {
        makeHardCases(place.tree);
        const before = listing(place.tree);
        const captured = await capture(place);
        assert.deepEqual(listing(place.tree), before, 'the tree was changed');
        // Attached, as kernels before 6.15 want their layers.
        const attachAt = join(place.dir, 'attach');
        mkdirSync(attachAt);
        const view = {
          lower: layerOf(captured, isDataOnly),
          upper: undefined,
          attachAt,
          detachedLayers: false,
          hostUsr: false,
        };
        await withOpened(
          place.machine,
          (p) => planMergedView(p, view),
          (root) => {
            assert.deepEqual(listing(root), before);
          },
        );
      });
    });
  }

  test('is sound for the tools of EROFS', { skip: unmet('erofs-utils') }, async () => {
    await withStore(async (place) => {
      makeHardCases(place.tree);
      const { image } = await capture(place);
      const fsck = spawnSync('fsck.erofs', [image.path], { encoding: 'utf8' });
      assert.equal(fsck.status, 0, `${fsck.stdout}${fsck.stderr}`);
      const dump = spawnSync('dump.erofs', [image.path], { encoding: 'utf8' }).stdout;
      assert.match(dump, /sb_csum mtime chunked_file/);
    });
  });

  test('is mounted from a loop device, which goes with it', async () => {
    await withStore(async (place) => {
      writeFileSync(join(place.tree, 'file'), 'content');
      const { image } = await capture(place);
      await withOpened(
        place.machine,
        (p) => {
          const file = p.sys('openat', [p.flags('AT_FDCWD'), image.path, p.flags('O_RDONLY'), 0]);
          const device = planLoop(p, file, { isReadOnly: true });
          p.sys('dup3', [device, 150, 0]);
          const fs = planErofs(p, '/proc/self/fd/150', ['ro']);
          p.sys('fsconfig', [fs, p.flags('FSCONFIG_CMD_CREATE'), 0, 0, 0]);
          const mount = p.sys('fsmount', [fs, 0, 0]);
          for (const fd of [device, 150]) p.sys('close', [fd]);
          return mount;
        },
        (root) => {
          assert.equal(loopsOf(image.path).length, 1);
          assert.equal(lstatSync(join(root, 'file')).size, 7);
        },
      );
      const deadlineMs = performance.now() + DEADLINE_MS;
      while (loopsOf(image.path).length > 0 && performance.now() < deadlineMs) await sleep(20);
      assert.deepEqual(loopsOf(image.path), []);
    });
  });

  test('is read ahead when it is mounted', async () => {
    await withStore(async (place) => {
      for (let i = 0; i < 1000; i++) writeFileSync(join(place.tree, `${i}`), '');
      const { image } = await capture(place);
      const forget =
        'import os, sys; f = os.open(sys.argv[1], os.O_RDONLY); os.fsync(f); os.posix_fadvise(f, 0, 0, os.POSIX_FADV_DONTNEED)';
      assert.equal(spawnSync('python3', ['-c', forget, image.path]).status, 0);
      await withOpened(
        place.machine,
        (p) => planImageMount(p, image.path),
        async () => {
          await eventually('all of the image in memory', () =>
            cachedBytes(image.path) === lstatSync(image.path).size ? true : undefined,
          );
        },
      );
    });
  });

  test('is mounted without access control lists if none of its files has one', async () => {
    await withStore(async (place) => {
      const attachAt = join(place.dir, 'attach');
      mkdirSync(attachAt);
      const optionsOf = async ({ image }: Captured): Promise<string> => {
        let options = '';
        await withOpened(
          place.machine,
          (p) => {
            const mount = planImageMount(p, image.path);
            planNamespace(p);
            planAttach(p, mount, attachAt, 'image');
            return mount;
          },
          (root) => {
            const mounts = readFileSync(join('/proc', root.split('/')[2] ?? '', 'mountinfo'), 'utf8');
            options = / - erofs \S+ (\S+)$/m.exec(mounts)?.[1] ?? '';
          },
        );
        return options;
      };
      const secret = join(place.tree, 'secret');
      writeFileSync(secret, 'told', { mode: 0o600 });
      assert.match(await optionsOf(await capture(place)), /\bnoacl\b/);
      setAcl(secret, READER);
      const captured = await capture(place);
      assert.doesNotMatch(await optionsOf(captured), /\bnoacl\b/);
      const lower = layerOf(captured, false);
      const view = { lower, upper: undefined, attachAt, detachedLayers: false, hostUsr: false };
      const read = (cwd: string, uid: number): string =>
        spawnSync('cat', ['secret'], { cwd, uid, gid: uid, encoding: 'utf8' }).stdout;
      await withOpened(
        place.machine,
        (p) => planMergedView(p, view),
        (root) => {
          assert.deepEqual([read(root, READER), read(root, READER + 1)], ['told', '']);
        },
      );
    });
  });

  test('is the same image for the same tree, and adds only what is new', async () => {
    await withStore(async (place) => {
      makeHardCases(place.tree);
      const first = await capture(place);
      const second = await capture(place);
      assert.deepEqual(second.image, first.image);
      assert.equal(second.newObjects, 0);
      writeFileSync(join(place.tree, 'etc/new'), 'new');
      const third = await capture(place);
      assert.notEqual(third.image.name, first.image.name);
      assert.equal(third.newObjects, 1);
    });
  });

  test('refuses foreign owners and what is too deep, and leaves nothing', async () => {
    await withStore(async (place) => {
      writeFileSync(join(place.tree, 'file'), 'x');
      chownSync(join(place.tree, 'file'), 70_000, 0);
      await assert.rejects(capture(place), { code: 'foreign-owner' });
      chownSync(join(place.tree, 'file'), 0, 0);
      // As long as a path can be for who makes it from the root.
      mkdirSync(join(place.tree, 'd/'.repeat(2000)), { recursive: true });
      const deepest = await capture(place);
      assert.deepEqual(await capture(place), { ...deepest, newObjects: 0, newBytes: 0 });
      rmSync(deepest.image.path);
      execFileSync('sh', [
        '-c',
        `cd ${place.tree}${'/d'.repeat(1900)} && cd -P ${'d/'.repeat(100)} && mkdir -p ${'d/'.repeat(100)}`,
      ]);
      await assert.rejects(capture(place), { code: 'tree-too-deep', message: /found "d\/d\/.*…/u });
      assert.deepEqual(place.store.list(), []);
      assert.deepEqual(place.store.leftovers(), []);
    });
  });
});

/** How much of a file is in memory. */
function cachedBytes(path: string): number {
  const { stdout } = spawnSync('fincore', ['--bytes', '--noheadings', '--output', 'RES', path], {
    encoding: 'utf8',
  });
  return Number(stdout);
}

function loopsOf(path: string): readonly string[] {
  const backingFile = (device: string): string => {
    try {
      return readFileSync(`/sys/block/${device}/loop/backing_file`, 'utf8');
    } catch {
      return ''; // it has none, or is gone: others have theirs too
    }
  };
  return readdirSync('/sys/block').filter(
    (name) => name.startsWith('loop') && backingFile(name).startsWith(path),
  );
}

describe('a store', { skip: unmet('root', 'overlay') }, () => {
  test('is whole whenever its helper is killed or cancelled', async () => {
    await withStore(async (place) => {
      makeHardCases(place.tree);
      const whole = await new ImageStore(join(place.dir, 'other'), place.machine.syscalld).withWorkDir(
        async () => await capture(place),
      );
      assert.equal(whole.newObjects > 0, true);
      rmSync(place.store.directory, { recursive: true });
      for (let afterMs = 0; afterMs < 400; afterMs += 40) {
        const abort = new AbortController();
        const running = capture(place, abort.signal);
        const settled = running.then(
          () => 'done',
          (error: unknown) => (error as { code?: unknown }).code,
        );
        await sleep(afterMs);
        abort.abort();
        const outcome = await settled;
        assert.ok(outcome === 'done' || outcome === 'cancelled', String(outcome));
        assert.deepEqual(place.store.leftovers(), []);
        const { faults } = await place.store.examine('check');
        assert.deepEqual(faults, []);
      }
      assert.deepEqual((await capture(place)).image.name, whole.image.name);
    });
  });

  test('tells what is damaged or gone, and what nobody needs', async () => {
    await withStore(async (place) => {
      for (const name of ['a', 'b', 'c']) writeFileSync(join(place.tree, name), `content of ${name}`);
      const { image } = await capture(place);
      rmSync(join(place.tree, 'c'));
      const second = (await capture(place)).image;
      const objectOf = (name: string): string =>
        join(image.layer, 'obj', objectPath(createHash('sha256').update(`content of ${name}`).digest('hex')));
      assert.equal(lstatSync(objectOf('a')).mode & 0o7777, 0o400);
      const isNeeded = (name: string): boolean => name === second.name;
      const dry = await place.store.collect(async () => isNeeded, true);
      assert.deepEqual(dry.images, [image.name]);
      assert.equal(dry.result.unusedObjects, 1, 'a dry run counts what only the images that go need');
      assert.ok(existsSync(objectOf('c')));
      const { images, result } = await place.store.collect(async () => isNeeded, false);
      assert.deepEqual(images, [image.name]);
      assert.equal(result.unusedObjects, 1);
      assert.ok(!existsSync(objectOf('c')));
      assert.deepEqual(place.store.list(), [second.name]);
      chmodSync(objectOf('a'), 0o600);
      writeFileSync(objectOf('a'), 'CONTENT OF a');
      rmSync(objectOf('b'));
      const { faults } = await place.store.examine('check');
      assert.deepEqual(faults.map(({ kind }) => kind).sort(), ['object-damaged', 'object-missing']);
      // What is damaged is put right by whoever brings the file again.
      writeFileSync(objectOf('a'), 'cut');
      await capture(place);
      assert.deepEqual((await place.store.examine('check')).faults, []);
      const bytes = readFileSync(second.path);
      chmodSync(second.path, 0o600);
      writeFileSync(second.path, bytes.fill(0xff, 4096, 4200));
      const damaged = await place.store.collect(async () => () => true, false);
      assert.equal(damaged.result.faults[0]?.kind, 'image-damaged');
      assert.ok(existsSync(objectOf('a')), 'what a damaged image needs is not known');
    });
  });
});

describe('a store with files of others', { skip: unmet('root') }, () => {
  test('is looked through all the same, tells of them and leaves them alone', async () => {
    await withStore(async (place) => {
      writeFileSync(join(place.tree, 'a'), 'content of a');
      const { image } = await capture(place);
      const objects = join(image.layer, 'obj');
      const [own = ''] = readdirSync(objects);
      writeFileSync(join(objects, 'note'), '');
      mkdirSync(join(objects, own, 'directory'));
      symlinkSync('nowhere', join(objects, own, '0'.repeat(62)));
      spawnSync('mkfifo', [join(objects, own, 'f'.repeat(62))]);
      mkdirSync(join(place.store.directory, 'images', 'directory.erofs'));
      const count = 5;
      for (const kind of ['stat', 'check'] as const) {
        const { objects: known, faults } = await place.store.examine(kind);
        assert.equal(known, 1);
        assert.deepEqual(
          faults.map((fault) => fault.kind),
          Array(count).fill('foreign-file'),
        );
      }
      assert.deepEqual(place.store.list(), [image.name]);
      const { images, result } = await place.store.collect(async () => () => false, false);
      assert.deepEqual([images, result.unusedObjects, result.faults.length], [[image.name], 1, count]);
      assert.equal(readdirSync(objects).length, 2);
      assert.equal(readdirSync(join(objects, own)).length, 3);
    });
  });
});

describe('guests on images', { skip: unmet('root', 'cgroup2', 'overlay', 'userns', 'busybox') }, () => {
  test('break links: what one writes is in no other guest and not in the store', async () => {
    await withInstance(async (v) => {
      for (const name of ['a', 'b'])
        await v.ok(['create', name, '--template', 'busybox', '--', 'sleep', '1000']);
      await v.ok(['start', 'a', 'b']);
      const change =
        'echo changed >> /etc/passwd; : > /etc/group; chmod 600 /etc/shadow; chown 7:7 /etc/hostname; ' +
        'ln /etc/profile /etc/profile2; echo more >> /etc/profile2; mv /etc/profile /etc/moved; rm /bin/ls';
      const show = 'find /etc /bin -xdev | sort | xargs stat -c "%n %a %u %g %h %s" 2>&1; cat /etc/passwd';
      const before = await v.ok(['exec', 'b', 'sh', '-c', show]);
      await v.ok(['exec', 'a', 'sh', '-c', change]);
      assert.equal(await v.ok(['exec', 'b', 'sh', '-c', show]), before);
      assert.match(
        await v.ok(['exec', 'a', 'sh', '-c', 'tail -n1 /etc/passwd; tail -n1 /etc/moved']),
        /^changed\nmore\n$/,
      );
      const checked = JSON.parse(await v.ok(['store', 'check', '--json'])) as {
        faults: unknown;
        objects: number;
      };
      assert.deepEqual(checked.faults, []);
      assert.ok(checked.objects > 0);
      // Nothing of the host shows.
      const mounts = await v.ok(['exec', 'a', 'cat', '/proc/self/mountinfo']);
      assert.ok(!mounts.includes(v.root) && !mounts.includes('/obj'), mounts);
      assert.match(await v.ok(['exec', 'a', 'sh', '-c', 'test -e /obj; echo $?']), /^1$/m);
    });
  });

  test('have one copy in memory of a file that none has changed', async () => {
    await withInstance(async (v) => {
      const image = await oneObject(v);
      // The bytes are cached as those of the object, which all images and guests have in common.
      const cachedBytes = (): number =>
        Number(spawnSync('fincore', ['-n', '-b', '-o', 'RES', image], { encoding: 'utf8' }).stdout);
      assert.equal(spawnSync('dd', [`if=${image}`, 'iflag=nocache', 'count=0', 'status=none']).status, 0);
      assert.equal(cachedBytes(), 0);
      // The host may take memory back at any time, so one moment has to do.
      await eventually('all of it in memory', async () => {
        await v.ok(['run', '--rm', '--template', 'busybox', '--', 'cat', '/bin/busybox']);
        return cachedBytes() >= lstatSync(image).size ? true : undefined;
      });
    });
  });
});

/** The object that is busybox itself. */
async function oneObject(v: Instance): Promise<string> {
  await v.ok(['run', '--rm', '--template', 'busybox', '--', 'true']);
  const [name = ''] = readdirSync(join(v.root, 'lib/store/default/images'));
  const { inodes } = readErofs(readFileSync(join(v.root, 'lib/store/default/images', name)));
  const largest = [...inodes.values()]
    .flatMap((node) =>
      node.kind === 'file' && 'object' in node.content
        ? [{ size: node.size, object: node.content.object }]
        : [],
    )
    .sort((a, b) => b.size - a.size)[0];
  return join(v.root, 'lib/store/default/layer/obj', objectPath(largest?.object ?? ''));
}
