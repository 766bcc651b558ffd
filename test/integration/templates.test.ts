/** Templates for real: the host's skeleton, busybox, directories, and archives that try to leave their root (E1, E6). */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  chmodSync,
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  realpathSync,
  rmSync,
  statfsSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, type TestContext, test } from 'node:test';
import { gzipSync, zstdCompressSync } from 'node:zlib';
import { VserverError } from '../../src/base/errors.ts';
import { planMergedView } from '../../src/guest/plan-mounts.ts';
import { createGuestDirs, removeGuestDirs, spreadDirectories } from '../../src/storage/guest-dirs.ts';
import type { HelperProgress } from '../../src/storage/helper/tasks.ts';
import { ImageMounts } from '../../src/storage/image-mounts.ts';
import { ImageStore } from '../../src/storage/image-store.ts';
import {
  type PrepareOptions,
  type Template,
  type TemplateLayer,
  TemplateStore,
} from '../../src/storage/templates.ts';
import { Program } from '../../src/sys/program.ts';
import { type Machine, withMachine } from '../lib/machine.ts';
import { requires, unmet } from '../lib/requires.ts';
import { type Member, tar } from '../lib/tar-writer.ts';

/** Emulated: what is of programs alone, as formats of archives are, says nothing new there, and takes minutes. */
const isInVm = process.env['VSERVER_TEST_VM'] === '1';
/** ext4(5), linux/magic.h. */
const EXT4_SUPER_MAGIC = 0xef53;

interface Place {
  readonly dir: string;
  readonly libDir: string;
  readonly templates: string;
  /** A tree that nothing may touch. */
  readonly canary: string;
  readonly images: ImageStore;
  /** Objects to be dropped at the end. */
  readonly held: number[];
  readonly store: TemplateStore;
  readonly machine: Machine;
  newStore(): TemplateStore;
}

async function withStore(body: (place: Place) => Promise<void>): Promise<void> {
  const dir = realpathSync(mkdtempSync(join(tmpdir(), 'vserver-templates-')));
  const [libDir, runDir, canary] = ['lib', 'run', 'canary'].map((name) => join(dir, name)) as [
    string,
    string,
    string,
  ];
  for (const path of [libDir, runDir, canary, join(canary, 'sub')]) mkdirSync(path);
  writeFileSync(join(canary, 'file'), 'untouched');
  writeFileSync(join(canary, 'sub/other'), 'untouched as well');
  try {
    await withMachine(async (machine) => {
      const images = new ImageStore(join(libDir, 'store/default'), machine.syscalld);
      const newStore = (): TemplateStore => new TemplateStore({ libDir, runDir, machine: machine.syscalld });
      const before = listing(canary);
      const held: number[] = [];
      await body({
        dir,
        libDir,
        templates: join(libDir, 'templates'),
        canary,
        images,
        held,
        store: newStore(),
        machine,
        newStore,
      });
      for (const object of held) machine.syscalld.drop(object);
      assert.deepEqual(images.leftovers(), []);
      assert.deepEqual(listing(canary), before, 'something outside was touched');
    });
  } finally {
    rmSync(dir, { recursive: true, force: true }); // nothing is mounted there: mounts were in namespaces that ended
  }
}

/** The paths in a tree, links not followed. */
function walk(root: string, path = ''): readonly string[] {
  return readdirSync(join(root, path), { withFileTypes: true })
    .map((entry) => ({ entry, below: join(path, entry.name) }))
    .flatMap(({ entry, below }) => [below, ...(entry.isDirectory() ? walk(root, below) : [])]);
}

/** Everything that a change of a tree would change. */
function listing(root: string): readonly string[] {
  return ['.', ...walk(root)].sort().map((path) => {
    const stat = lstatSync(join(root, path), { bigint: true });
    const content = stat.isFile() ? readFileSync(join(root, path), 'utf8') : '';
    return `${path} ${stat.mode} ${stat.uid}:${stat.gid} ${stat.nlink} ${stat.mtimeNs} ${stat.ctimeNs} ${content}`;
  });
}

async function importing(
  place: Place,
  archive: Buffer | readonly Member[],
  options: PrepareOptions = {},
  name = 'archive.tar',
): Promise<string> {
  const path = join(place.dir, name);
  writeFileSync(path, Buffer.isBuffer(archive) ? archive : tar(archive as readonly Member[]));
  const template = await place.store.prepare(path, place.images, options);
  assert.equal(template.hostUsr, false);
  return await rootOf(place, template);
}

/** A path that leads to what a guest would find: in the descriptors of a worker that waits. */
async function rootOf({ machine, dir, libDir, held }: Place, { lower }: Template): Promise<string> {
  if (lower.kind === 'tree') return lower.path;
  // Attached, as kernels before 6.15 want their layers.
  const mounts = new ImageMounts(machine.syscalld, libDir, () => false);
  const layer = await mounts.layer(lower);
  const attachAt = join(dir, 'attach');
  mkdirSync(attachAt, { recursive: true });
  const p = new Program(machine.abi);
  const root = planMergedView(p, {
    lower: layer,
    upper: undefined,
    attachAt,
    detachedLayers: false,
    hostUsr: false,
  });
  const pid = p.sys('getpid', []);
  p.park = machine.syscalld.newObject();
  const outcome = await machine.syscalld.run('show an image', p);
  held.push(p.park);
  await mounts.forget(lower.path);
  return `/proc/${outcome.result(pid)}/fd/${outcome.result(root)}/.`;
}

async function refused(running: Promise<unknown>, code: string): Promise<string> {
  let message = '';
  await assert.rejects(running, (error) => {
    assert.ok(error instanceof VserverError, String(error));
    assert.equal(error.code, code, error.message);
    message = error.message;
    return true;
  });
  return message;
}

function pathOf(lower: TemplateLayer | undefined): string {
  return lower?.path ?? '';
}

function trees(place: Place): readonly string[] {
  return readdirSync(place.templates).filter((name) => name !== 'tarballs.json');
}

const ETC: Member = { name: 'etc/', type: 'directory' };

describe('template "host"', { skip: unmet('root') }, () => {
  test('is made once, and again found by another process', async () => {
    await withStore(async (place) => {
      const made = await Promise.all(
        [1, 2, 3].map(async () => await place.store.prepare('host', place.images)),
      );
      assert.equal(new Set(made.map(({ lower }) => pathOf(lower))).size, 1);
      assert.equal(made[0]?.hostUsr, true);
      const { ino } = lstatSync(pathOf(made[0]?.lower));
      assert.deepEqual(await place.newStore().prepare('host', place.images), made[0]);
      assert.equal(lstatSync(pathOf(made[0]?.lower)).ino, ino);
      assert.equal(trees(place).length, 1);
      assert.equal(lstatSync(place.templates).mode & 0o777, 0o700);
    });
  });

  test('holds nothing that a user of the host could not read', async () => {
    await withStore(async (place) => {
      const lowerDir = pathOf((await place.store.prepare('host', place.images)).lower);
      const secrets = secretHashes();
      for (const path of walk(lowerDir)) {
        const full = join(lowerDir, path);
        const stat = lstatSync(full);
        assert.equal(stat.uid, 0, path);
        assert.equal(stat.gid, /^etc\/g?shadow$/.test(path) ? 42 : 0, path);
        if (stat.isSymbolicLink())
          assert.doesNotMatch(readlinkSync(full), /^\/(?:root|home|etc\/ssl\/private)/);
        else assert.ok(stat.isFile() || stat.isDirectory(), path);
        if (!stat.isFile()) continue;
        assert.equal(stat.mode & 0o7002, 0, path);
        assert.equal(stat.nlink, 1, path);
        if (stat.size > 0)
          assert.equal(secrets.get(hashOf(full)), undefined, `${path} is a secret of the host`);
      }
      for (const path of ['root', 'home', 'var/log', 'var/tmp', 'usr', 'etc/profile.d']) {
        assert.deepEqual(readdirSync(join(lowerDir, path)), [], path);
      }
    });
  });

  test('runs programs of the shared /usr', async () => {
    await withStore(async (place) => {
      const lowerDir = pathOf((await place.store.prepare('host', place.images)).lower);
      const script =
        'mount --rbind /usr "$1/usr" && exec chroot "$1" /bin/sh -c ". /etc/profile; id -un; cat /etc/hostname"';
      const run = spawnSync('unshare', ['--mount', 'sh', '-c', script, 'sh', lowerDir], { encoding: 'utf8' });
      assert.deepEqual([run.stdout, run.stderr], ['root\nguest\n', '']);
    });
  });
});

function hashOf(path: string): string {
  return createHash('sha256').update(readFileSync(path)).digest('hex');
}

/** Files of the host that not everybody may read, by what they hold. */
function secretHashes(): ReadonlyMap<string, string> {
  const found = new Map<string, string>();
  const collect = (directory: string, isOpen: boolean): void => {
    for (const entry of readdirSync(directory, { withFileTypes: true })) {
      const path = join(directory, entry.name);
      const stat = lstatSync(path);
      if (stat.isDirectory()) collect(path, isOpen && (stat.mode & 1) !== 0);
      else if (stat.isFile() && stat.size > 0 && stat.size < 1e6 && !(isOpen && stat.mode & 4))
        found.set(hashOf(path), path);
    }
  };
  collect('/etc', true);
  return found;
}

describe('template "busybox"', { skip: unmet('root', 'busybox') }, () => {
  test('has a shell and its applets', async () => {
    await withStore(async (place) => {
      const template = await place.store.prepare('busybox', place.images);
      assert.equal(template.hostUsr, false);
      const root = await rootOf(place, template);
      const run = spawnSync(
        '/usr/sbin/chroot',
        [root, '/bin/sh', '-c', 'id -un; echo a b | awk "{print \\$2}"; pwd'],
        {
          encoding: 'utf8',
          env: { PATH: '/usr/bin:/bin' },
        },
      );
      assert.deepEqual([run.stdout, run.stderr], ['root\nb\n/\n', '']);
      assert.deepEqual(await place.newStore().prepare('busybox', place.images), template);
    });
  });
});

describe('template of a directory', { skip: unmet('root') }, () => {
  test('is the directory itself, apart from the instance and the host', async () => {
    await withStore(async (place) => {
      const { store, dir, canary, libDir, images } = place;
      symlinkSync(canary, join(dir, 'link'));
      assert.equal(pathOf((await store.prepare(`directory:${join(dir, 'link')}`, images)).lower), canary);
      for (const path of ['/', dir, libDir, join(libDir, 'guests'), join(canary, 'file')]) {
        if (path.endsWith('guests')) mkdirSync(path);
        await refused(store.prepare(`directory:${path}`, images), 'invalid-template');
      }
      await refused(store.prepare(join(dir, 'missing'), images), 'template-missing');
      await refused(store.prepare('debian', images), 'invalid-template');
    });
  });
});

describe('template of an archive', { skip: unmet('root') }, () => {
  const honest: readonly Member[] = [
    { name: './', type: 'directory', mode: 0o750 },
    { name: './etc/', type: 'directory' },
    { name: './etc/motd', content: 'hello\n', uid: 33, gid: 65535, mode: 0o600 },
    { name: './bin', type: 'symlink', linkName: 'usr/bin' },
    { name: './etc/again', type: 'hardlink', linkName: './etc/motd' },
    { name: './etc/abs', type: 'symlink', linkName: '/etc/motd' },
  ];

  const compressions: readonly (readonly [string, (bytes: Buffer) => Buffer])[] = [
    ['a.tar', (bytes) => bytes],
    ['a.tar.gz', (bytes) => gzipSync(bytes)],
    ['a.tar.zst', (bytes) => zstdCompressSync(bytes)],
    ['a.tar.xz', (bytes) => filter('xz', bytes)],
    ['a.tar.bz2', (bytes) => filter('bzip2', bytes)],
  ];
  for (const [name, compress] of isInVm ? compressions.slice(0, 1) : compressions) {
    test(`keeps owners, modes and links: ${name}`, async () => {
      await withStore(async (place) => {
        const progress: HelperProgress[] = [];
        const root = await importing(
          place,
          compress(tar(honest)),
          { onProgress: (p) => progress.push(p) },
          name,
        );
        const motd = lstatSync(join(root, 'etc/motd'));
        assert.deepEqual([motd.uid, motd.gid, motd.mode & 0o7777, motd.nlink], [33, 65535, 0o600, 2]);
        assert.equal(lstatSync(root).mode & 0o7777, 0o750);
        assert.equal(readlinkSync(join(root, 'etc/abs')), '/etc/motd');
        const last = progress.at(-1);
        assert.equal(last?.files, honest.length);
        assert.equal(last?.readBytes, last?.totalBytes);
      });
    });
  }

  test('is imported once by what it holds', async () => {
    await withStore(async (place) => {
      const path = join(place.dir, 'a.tar');
      writeFileSync(path, tar(honest));
      const both = await Promise.all([
        place.store.prepare(path, place.images),
        place.store.prepare(`tarball:${path}`, place.images),
      ]);
      assert.deepEqual(both[0], both[1]);
      const pinnedName = both[0]?.pinnedName ?? '';
      writeFileSync(join(place.dir, 'b.tar'), tar(honest));
      assert.equal(
        pathOf((await place.newStore().prepare(join(place.dir, 'b.tar'), place.images)).lower),
        pathOf(both[0]?.lower),
      );
      writeFileSync(path, tar([...honest, { name: 'etc/new' }]));
      assert.notEqual(pathOf((await place.store.prepare(path, place.images)).lower), pathOf(both[0]?.lower));
      assert.equal(place.images.list().length, 2);
      rmSync(path);
      await refused(place.store.prepare(path, place.images), 'template-missing');
      assert.equal(
        pathOf((await place.store.prepare(pinnedName, place.images)).lower),
        pathOf(both[0]?.lower),
      );
      await refused(
        place.store.prepare(
          pinnedName.replace(/.$/, (digit) => (digit === '0' ? '1' : '0')),
          place.images,
        ),
        'template-missing',
      );
    });
  });

  const allowed: readonly (readonly [
    string,
    (canary: string) => readonly Member[],
    (root: string, canary: string) => void,
  ])[] = [
    [
      'absolute names land below the root',
      (canary) => [ETC, { name: `${canary}/pwned`, content: 'x' }, { name: `/${canary}/file`, content: 'x' }],
      (root, canary) => assert.equal(readFileSync(join(root, canary, 'pwned'), 'utf8'), 'x'),
    ],
    [
      'links out of the root are only names',
      (canary) => [
        ETC,
        { name: 'out', type: 'symlink', linkName: canary },
        { name: 'up', type: 'symlink', linkName: '../../../../..' },
      ],
      (root, canary) => assert.equal(readlinkSync(join(root, 'out')), canary),
    ],
    [
      'device nodes and fifos are made, not opened',
      () => [
        ETC,
        { name: 'null', type: 'character', device: [1, 3], mode: 0o666 },
        { name: 'disk', type: 'block', device: [254, 0], mode: 0o666 },
        { name: 'fifo', type: 'fifo' },
        { name: 'fifo', content: 'a file in its place' },
        { name: 'null', content: 'a file in its place' },
      ],
      (root) => {
        assert.ok(lstatSync(join(root, 'disk')).isBlockDevice());
        assert.ok(lstatSync(join(root, 'fifo')).isFile());
        assert.ok(lstatSync(join(root, 'null')).isFile());
      },
    ],
    [
      'setuid programs are out of reach of the host',
      () => [ETC, { name: 'su', mode: 0o6755, content: '#!/bin/sh\n' }],
      (root) => {
        assert.equal(lstatSync(join(root, 'su')).mode & 0o7777, 0o6755);
        const run = spawnSync('setpriv', [
          '--reuid=65534',
          '--regid=65534',
          '--clear-groups',
          'cat',
          join(root, 'su'),
        ]);
        assert.notEqual(run.status, 0);
      },
    ],
    [
      'of members with one name the last counts',
      (canary) => [
        ETC,
        { name: 'x', content: '1' },
        { name: 'x', content: '2' },
        { name: 'y', content: '1' },
        { name: 'y', type: 'symlink', linkName: join(canary, 'file') },
      ],
      (root) => {
        assert.equal(readFileSync(join(root, 'x'), 'utf8'), '2');
        assert.ok(lstatSync(join(root, 'y')).isSymbolicLink());
      },
    ],
    [
      'a directory takes the place of a link to the host',
      (canary) => [
        ETC,
        { name: 'y', type: 'symlink', linkName: canary },
        { name: 'y/', type: 'directory', mode: 0o777 },
        { name: 'y/file', content: 'x' },
      ],
      (root) => {
        assert.ok(lstatSync(join(root, 'y')).isDirectory());
        assert.equal(readFileSync(join(root, 'y/file'), 'utf8'), 'x');
      },
    ],
    [
      'a link leads to what is below the root',
      () => [
        ETC,
        { name: 'usr/lib/', type: 'directory' },
        { name: 'lib', type: 'symlink', linkName: '/../usr/lib' },
        { name: 'lib/file', content: 'x' },
        { name: 'same', type: 'hardlink', linkName: 'lib/file' },
      ],
      (root) => {
        assert.equal(readFileSync(join(root, 'usr/lib/file'), 'utf8'), 'x');
        assert.equal(lstatSync(join(root, 'same')).nlink, 2);
      },
    ],
    [
      'E6: names that look like options are names',
      (canary) => [
        ETC,
        { name: `--checkpoint-action=exec=touch ${canary}/pwned` },
        { name: '-rf' },
        { name: 'a\nb' },
      ],
      (root) => assert.ok(existsSync(join(root, 'a\nb'))),
    ],
  ];
  for (const [name, members, check] of allowed) {
    test(`E1: ${name}`, async () => {
      await withStore(async (place) => {
        check(await importing(place, members(place.canary)), place.canary);
      });
    });
  }

  const hostile: readonly (readonly [string, string, (canary: string) => Buffer | readonly Member[]])[] = [
    ['".." in a name', 'invalid-archive', () => [ETC, { name: '../../../../../../../../tmp/pwned' }]],
    ['".." behind a directory', 'invalid-archive', () => [ETC, { name: 'etc/../../../../canary/pwned' }]],
    [
      'a file through a link to the host',
      'invalid-archive',
      (canary) => [
        ETC,
        { name: 'out', type: 'symlink', linkName: canary },
        { name: 'out/pwned' },
        { name: 'out/file', content: 'x' },
      ],
    ],
    [
      'a file through a link upwards',
      'invalid-archive',
      () => [
        ETC,
        { name: 'up', type: 'symlink', linkName: '../../../canary' },
        { name: 'up/file', content: 'x' },
      ],
    ],
    [
      'a hard link through a link to the host',
      'invalid-archive',
      (canary) => [
        ETC,
        { name: 'out', type: 'symlink', linkName: canary },
        { name: 'file', type: 'hardlink', linkName: 'out/file' },
        { name: 'file', content: 'x' },
      ],
    ],
    [
      'a hard link to the host',
      'invalid-archive',
      () => [ETC, { name: 'etc/mine', type: 'hardlink', linkName: '/etc/passwd' }],
    ],
    [
      'a hard link upwards',
      'invalid-archive',
      () => [ETC, { name: 'etc/mine', type: 'hardlink', linkName: '../../../../etc/passwd' }],
    ],
    [
      'a name longer than a file system takes',
      'invalid-archive',
      () => [ETC, { name: `etc/${'x'.repeat(100_000)}` }],
    ],
    ['an owner above 65535', 'foreign-owner', () => [ETC, { name: 'etc/x', uid: 65_536 }]],
    ['an owner that needs 32 bits', 'foreign-owner', () => [ETC, { name: 'etc/x', uid: 2 ** 32 - 2 }]],
    ['a group above 65535', 'foreign-owner', () => [ETC, { name: 'etc/x', gid: 100_000 }]],
    [
      'a cut gzip',
      'invalid-archive',
      () => gzipSync(tar([ETC, { name: 'x', content: Buffer.alloc(300_000, 'abc') }])).subarray(0, 300),
    ],
    [
      'a cut tar',
      'invalid-archive',
      () => tar([ETC, { name: 'x', content: Buffer.alloc(300_000, 1) }]).subarray(0, 100_000),
    ],
    ['no archive at all', 'invalid-archive', () => Buffer.from('hello, world\n'.repeat(1000))],
    [
      'a broken gzip',
      'invalid-archive',
      () => Buffer.concat([Buffer.from('1f8b0800', 'hex'), Buffer.alloc(5000, 7)]),
    ],
    ['no members', 'not-a-root', () => []],
    ['no root', 'not-a-root', () => [{ name: 'debian/etc/', type: 'directory' }]],
    [
      'too many members',
      'archive-too-big',
      () => [ETC, ...Array.from({ length: 200 }, (_, i) => ({ name: `etc/${i}` }))],
    ],
    [
      'too much in one member',
      'archive-too-big',
      () => gzipSync(tar([ETC, { name: 'x', content: Buffer.alloc(3_000_000) }])),
    ],
    [
      'too much in all',
      'archive-too-big',
      () => gzipSync(tar([ETC, ...[1, 2, 3].map((i) => ({ name: `${i}`, content: Buffer.alloc(500_000) }))])),
    ],
  ];
  // It is our own code that refuses, in a process for each.
  for (const [name, code, archive] of isInVm ? [] : hostile) {
    test(`E1: refuses ${name}, and leaves nothing behind`, async () => {
      await withStore(async (place) => {
        const passwd = hashOf('/etc/passwd');
        const limits = { maxBytes: 1_000_000, maxEntries: 100 };
        const message = await refused(importing(place, archive(place.canary), { limits }), code);
        assert.match(message, /^cannot import ".*": found .*; need /);
        assert.deepEqual(trees(place), []);
        assert.equal(hashOf('/etc/passwd'), passwd);
        assert.equal(existsSync('/tmp/pwned'), false);
      });
    });
  }

  test('E1: takes user attributes and capabilities, not those that speak to overlayfs', async () => {
    await withStore(async (place) => {
      const capability = Buffer.from('0100000200040000000000000000000000000000', 'hex').toString('latin1');
      const pax = {
        'SCHILY.xattr.trusted.overlay.opaque': 'y',
        'SCHILY.xattr.trusted.overlay.redirect': '/../../etc',
        'SCHILY.xattr.user.overlay.opaque': 'y',
        'SCHILY.xattr.user.kept': 'yes',
        'SCHILY.xattr.security.capability': capability,
      };
      const root = await importing(place, [ETC, { name: 'etc/ping', content: 'x', pax }]);
      const has = async (attribute: string): Promise<number> => {
        const program = new Program(place.machine.abi);
        const value = program.data(64);
        const got = program.sys('lgetxattr', [join(root, 'etc/ping'), attribute, value, 64], { ignore: [] });
        return (await place.machine.syscalld.run('read an attribute', program)).result(got);
      };
      const { ENODATA = 0, EOPNOTSUPP = 0 } = place.machine.abi.errnos;
      const missing = -ENODATA;
      // An overlay does not show its own names at all before Linux 6.7.
      const unseen = [missing, -EOPNOTSUPP];
      assert.equal(await has('user.kept'), 3);
      assert.equal(await has('security.capability'), 20);
      assert.ok(unseen.includes(await has('trusted.overlay.opaque')));
      assert.ok(unseen.includes(await has('trusted.overlay.redirect')));
      assert.equal(await has('user.overlay.opaque'), missing);
    });
  });
});

function filter(command: string, input: Buffer): Buffer {
  const { status, stdout } = spawnSync(command, ['-c'], { input });
  assert.equal(status, 0);
  return stdout;
}

test('half-made templates of an earlier life are deleted, and nothing they point at', async (t: TestContext) => {
  if (!requires(t, 'root')) return;
  await withStore(async (place) => {
    const leftover = join(place.templates, 'tarball-0123456789abcdef.new-0a1b2c');
    mkdirSync(join(leftover, 'root/deep/er'), { recursive: true });
    symlinkSync(place.canary, join(leftover, 'root/out'));
    symlinkSync('..', join(leftover, 'root/deep/er/up'));
    chmodSync(join(leftover, 'root/deep'), 0);
    mkdirSync(join(place.templates, 'tarball-0123456789abcdef/root'), { recursive: true });
    assert.deepEqual(await place.store.sweep(), ['tarball-0123456789abcdef.new-0a1b2c']);
    assert.deepEqual(trees(place), ['tarball-0123456789abcdef']);
    assert.deepEqual(await place.store.sweep(), []);
  });
});

test("guests' files are spread over the disk where the file system does that", async (t: TestContext) => {
  if (!requires(t, 'root')) return;
  await withStore(async (place) => {
    const { syscalld } = place.machine;
    const memory = mkdtempSync('/dev/shm/vserver-spread-');
    try {
      await spreadDirectories(syscalld, memory); // tmpfs does not
    } finally {
      rmSync(memory, { recursive: true });
    }
    if (statfsSync(place.libDir).type !== EXT4_SUPER_MAGIC) {
      t.skip(`needs ext4: found another file system at ${place.libDir}`);
      return;
    }
    const attributes = (): string =>
      spawnSync('lsattr', ['-d', place.libDir], { encoding: 'utf8' }).stdout.split(' ')[0] ?? '';
    spawnSync('chattr', ['+d', place.libDir]);
    assert.match(attributes(), /^[^T]*d[^T]*$/);
    for (let time = 0; time < 2; time++) {
      await spreadDirectories(syscalld, place.libDir);
      assert.match(attributes(), /d.*T|T.*d/, 'what else was said of the directory stays');
    }
  });
});

test("a guest's files are made for its root and deleted without leaving their directory", async (t: TestContext) => {
  if (!requires(t, 'root')) return;
  await withStore(async (place) => {
    const directory = join(place.libDir, 'guests/web');
    const dirs = { directory, upper: join(directory, 'upper'), work: join(directory, 'work') };
    await createGuestDirs(dirs, 65_536 * 7);
    const upper = lstatSync(dirs.upper);
    assert.deepEqual([upper.uid, upper.gid, upper.mode & 0o7777], [65_536 * 7, 65_536 * 7, 0o755]);
    assert.equal(lstatSync(directory).mode & 0o7777, 0o700);
    await refused(createGuestDirs(dirs, 65_536 * 7), 'guest-files-exist');

    symlinkSync(place.canary, join(dirs.upper, 'out'));
    mkdirSync(join(dirs.upper, 'a/b'), { recursive: true });
    const mountInfo = join(place.dir, 'mountinfo');
    writeFileSync(mountInfo, `36 35 98:0 / ${dirs.upper}/a rw - ext4 /dev/x rw\n`);
    await refused(removeGuestDirs(dirs, place.machine.syscalld, mountInfo), 'guest-files-mounted');
    assert.ok(existsSync(join(dirs.upper, 'a/b')));
    await removeGuestDirs(dirs, place.machine.syscalld);
    assert.equal(existsSync(directory), false);
    await removeGuestDirs(dirs, place.machine.syscalld);
  });
});
