/** Guests built by every method, of real archives, trees, images and registries; and what a build that fails leaves. */
import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { createServer, request } from 'node:http';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { isDeepStrictEqual } from 'node:util';
import { gzipSync, zstdCompressSync } from 'node:zlib';
import { eventually, type Instance, withInstance } from '../lib/instance.ts';
import { unmet } from '../lib/requires.ts';
import { type Member, tar } from '../lib/tar-writer.ts';
import { openTerminal } from '../lib/terminal.ts';

const NEEDS = ['root', 'cgroup2', 'overlay', 'userns', 'busybox'] as const;

/** A root that can run things. */
function busyboxRoot(): readonly Member[] {
  const path = ['/bin/busybox', '/usr/bin/busybox'].find((one) => existsSync(one)) ?? '';
  return [
    ...['bin/', 'etc/', 'proc/', 'sys/', 'dev/', 'run/', 'tmp/', 'srv/'].map((name) => ({
      name,
      type: 'directory' as const,
      mode: 0o755,
    })),
    { name: 'bin/busybox', content: readFileSync(path), mode: 0o755 },
    { name: 'bin/sh', type: 'symlink', linkName: 'busybox' },
    { name: 'etc/passwd', content: 'root:x:0:0:root:/:/bin/sh\nweb:x:33:33:web:/srv:/bin/sh\n' },
    { name: 'etc/group', content: 'root:x:0:\nweb:x:33:\n' },
    { name: 'srv/old', content: 'old' },
    { name: 'srv/keep', content: 'keep', uid: 33, gid: 33 },
  ];
}

/** What is left in the store of what was begun. */
function halfMade(v: Instance): readonly string[] {
  const store = join(v.root, 'lib/store/default');
  return existsSync(store) ? readdirSync(store).filter((name) => name.startsWith('new-')) : [];
}

/** Runs a build until `isBegun` says so, and makes an end of it; returns what the client said. */
async function breakOff(
  v: Instance,
  words: readonly string[],
  killed: 'SIGINT' | 'SIGKILL' | 'vserverd',
  isBegun: () => boolean,
): Promise<void> {
  const { vserverdPid } = JSON.parse(await v.ok(['daemon', 'status', '--json'])) as { vserverdPid: number };
  const client = v.spawn(['build', 'a', ...words]);
  const ended = new Promise((done) => client.once('exit', done));
  const what = `${killed} ${words.join(' ')}`;
  await eventually(`in the making: ${what}`, () => (isBegun() ? true : undefined));
  if (killed === 'vserverd') process.kill(vserverdPid, 'SIGKILL');
  else client.kill(killed);
  await ended;
}

const WAYS_TO_END = ['SIGINT', 'SIGKILL', 'vserverd'] as const;

/** What is in the store's cache that is no finished part of anything. */
function fetchedOf(v: Instance): readonly string[] {
  const cache = join(v.root, 'lib/store/default/cache');
  return existsSync(cache)
    ? readdirSync(cache, { recursive: true, encoding: 'utf8' }).filter((name) =>
        /tmp|log-|oci-put/.test(name),
      )
    : [];
}

/** A way to another host on which nothing comes, and whether it is taken. */
function silentWay(v: Instance): { readonly path: string; readonly isTaken: () => boolean } {
  const path = join(v.scratch, 'way');
  const seconds = 400_000 + process.pid;
  writeFileSync(path, `#!/bin/sh\nexec sleep ${seconds}\n`, { mode: 0o755 });
  return { path, isTaken: () => spawnSync('pgrep', ['-fx', `sleep ${seconds}`]).status === 0 };
}

async function inside(v: Instance, name: string, script: string): Promise<string> {
  await v.ok(['start', name]);
  const text = await v.ok(['exec', name, '/bin/sh', '-c', script]);
  await v.ok(['stop', '-t', '0', name]);
  return text;
}

interface Layer {
  readonly members: readonly Member[];
  readonly compression?: 'gzip' | 'zstd';
}

interface ImageOptions {
  readonly config?: object;
  readonly platforms?: readonly string[];
  /** Spoils the descriptor of a layer or what the configuration says of it. */
  readonly spoil?: 'digest' | 'diffId' | 'missing';
}

/** Writes an OCI layout. */
function writeLayout(directory: string, layers: readonly Layer[], options: ImageOptions = {}): void {
  mkdirSync(join(directory, 'blobs/sha256'), { recursive: true });
  writeFileSync(join(directory, 'oci-layout'), '{"imageLayoutVersion":"1.0.0"}');
  const blob = (mediaType: string, bytes: Buffer): { mediaType: string; digest: string; size: number } => {
    const digest = createHash('sha256').update(bytes).digest('hex');
    writeFileSync(join(directory, 'blobs/sha256', digest), bytes);
    return { mediaType, digest: `sha256:${digest}`, size: bytes.length };
  };
  const json = (mediaType: string, value: object): ReturnType<typeof blob> =>
    blob(mediaType, Buffer.from(JSON.stringify(value)));
  const made = layers.map(({ members, compression }) => {
    const plain = tar(members);
    const suffix = compression === undefined ? '' : `+${compression}`;
    const bytes = { gzip: gzipSync, zstd: zstdCompressSync, none: (same: Buffer) => same }[
      compression ?? 'none'
    ](plain);
    const descriptor = blob(`application/vnd.oci.image.layer.v1.tar${suffix}`, bytes);
    const path = join(directory, 'blobs', descriptor.digest.replace(':', '/'));
    if (options.spoil === 'digest') writeFileSync(path, Buffer.concat([bytes, Buffer.alloc(1024)]));
    if (options.spoil === 'missing') rmSync(path);
    const diffId =
      options.spoil === 'diffId' ? '0'.repeat(64) : createHash('sha256').update(plain).digest('hex');
    return { descriptor, diffId: `sha256:${diffId}` };
  });
  const manifests = (options.platforms ?? ['amd64']).map((architecture) => {
    const config = json('application/vnd.oci.image.config.v1+json', {
      os: 'linux',
      architecture,
      config: { Env: [`ARCH=${architecture}`], Cmd: ['/bin/busybox', 'sleep', '1000'], ...options.config },
      rootfs: { type: 'layers', diff_ids: made.map(({ diffId }) => diffId) },
    });
    const manifest = json('application/vnd.oci.image.manifest.v1+json', {
      schemaVersion: 2,
      config,
      layers: made.map(({ descriptor }) => descriptor),
    });
    return { ...manifest, platform: { os: 'linux', architecture } };
  });
  const [first] = manifests;
  const top =
    manifests.length === 1
      ? first
      : json('application/vnd.oci.image.index.v1+json', { schemaVersion: 2, manifests });
  const annotations = { 'org.opencontainers.image.ref.name': 'it' };
  writeFileSync(
    join(directory, 'index.json'),
    JSON.stringify({ schemaVersion: 2, manifests: [{ ...top, annotations }] }),
  );
}

/** Digests of the layers in a layout of one image. */
function layersOf(layout: string): readonly string[] {
  const read = (path: string): unknown => JSON.parse(readFileSync(path, 'utf8'));
  const { manifests } = read(join(layout, 'index.json')) as { manifests: readonly { digest: string }[] };
  const path = join(layout, 'blobs', manifests[0]?.digest.replace(':', '/') ?? '');
  return (read(path) as { layers: readonly { digest: string }[] }).layers.map(({ digest }) => digest);
}

/** A registry on the loopback interface, with the image of a layout. */
async function startRegistry(
  directory: string,
  layout: string,
): Promise<{ readonly port: number; readonly image: string; close(): void }> {
  const port = 20_000 + (process.pid % 10_000);
  const config = join(directory, 'registry.yml');
  const root = join(directory, 'registry');
  writeFileSync(
    config,
    `version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: ${root}\nhttp:\n  addr: 127.0.0.1:${port}\n`,
  );
  const server = spawn('docker-registry', ['serve', config], { stdio: 'ignore' });
  const image = `127.0.0.1:${port}/it:1`;
  const words = [
    '--insecure-policy',
    'copy',
    '--dest-tls-verify=false',
    `oci:${layout}:it`,
    `docker://${image}`,
  ];
  await eventually('the registry listens', () =>
    spawnSync('skopeo', words).status === 0 ? true : undefined,
  );
  return { port, image, close: () => server.kill() };
}

/** A way to a registry on which one blob stops half-way until it is lifted. */
interface Gate extends AsyncDisposable {
  readonly port: number;
  /** Times that the blob was asked for and held; other layers that passed; requests that are under way. */
  readonly held: number;
  readonly passed: number;
  readonly open: number;
  lift(): void;
}

async function openGate(port: number, digest: string): Promise<Gate> {
  let [held, passed, open, isLifted] = [0, 0, 0, false];
  const server = createServer((asked, answer) => {
    open++;
    answer.once('close', () => open--);
    const { method, url: path = '', headers } = asked;
    const isHeld = method === 'GET' && path.endsWith(digest) && !isLifted;
    const onward = request({ port, host: '127.0.0.1', method, path, headers }, (told) => {
      answer.writeHead(told.statusCode ?? 500, told.headers);
      const isLayer = Number(told.headers['content-length']) > 100_000;
      if (method === 'GET' && isLayer && !isHeld) passed++;
      if (!isHeld) told.pipe(answer);
      else
        told.once('data', (piece: Buffer) => {
          answer.write(piece.subarray(0, piece.length >> 1));
          told.destroy();
          held++;
        });
    });
    onward.on('error', () => answer.destroy());
    asked.pipe(onward);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  return {
    port: typeof address === 'object' && address ? address.port : 0,
    get held() {
      return held;
    },
    get passed() {
      return passed;
    },
    get open() {
      return open;
    },
    lift: () => {
      isLifted = true;
    },
    [Symbol.asyncDispose]: async () => {
      server.closeAllConnections();
      server.close();
      await once(server, 'close');
    },
  };
}

const UPPER: Layer = {
  compression: 'zstd',
  members: [
    { name: 'srv/.wh.old' },
    { name: 'srv/again', type: 'hardlink', linkName: 'srv/keep' },
    { name: 'opt/new', content: 'new', pax: { 'SCHILY.xattr.user.note': 'kept' } },
  ],
};
const LAYERS: readonly Layer[] = [{ members: busyboxRoot(), compression: 'gzip' }, UPPER];
const ARCHITECTURE = process.arch === 'arm64' ? 'arm64' : 'amd64';

describe('build', { skip: unmet(...NEEDS) }, () => {
  test('of archives, trees, and other guests, in the words of both', async () => {
    await withInstance(async (v) => {
      const archive = join(v.scratch, 'root.tar.gz');
      writeFileSync(archive, gzipSync(tar(busyboxRoot())));
      const command = ['--command', '/bin/busybox sleep 1000'];
      assert.equal(
        await v.ok(['build', 'a', '-m', 'template', ...command, '--', '-t', 'root.tar.gz'], {
          cwd: v.scratch,
        }),
        'a\n',
      );
      assert.equal(await inside(v, 'a', 'cat /srv/old'), 'old');
      const original = [
        'b',
        'build',
        '-m',
        'template',
        '--context',
        '4321',
        '--hostname',
        'b.example.com',
        '--initstyle',
        'fake',
        ...command,
      ];
      await v.ok([
        ...original,
        '--interface',
        'eth0=lo:10.98.7.6/24',
        '--flags',
        'fakeinit,virt_mem',
        '--',
        '-t',
        archive,
        '-d',
        'tiny',
      ]);
      const b = JSON.parse(await v.ok(['inspect', 'b'])) as readonly {
        xid: number;
        hostname: string;
        init: string;
        labels: object;
      }[];
      const { xid, hostname, init, labels } = b[0] ?? {};
      assert.deepEqual(
        { xid, hostname, init, labels },
        { xid: 4321, hostname: 'b.example.com', init: 'fake', labels: { distribution: 'tiny' } },
      );
      assert.match(readFileSync(join(v.root, 'etc/guests/b.yaml'), 'utf8'), /10\.98\.7\.6\/24/);

      // A tree as it is, without what is mounted in it or lies behind its links.
      const tree = join(v.scratch, 'tree');
      mkdirSync(tree);
      assert.equal(spawnSync('tar', ['-C', tree, '-xzf', archive]).status, 0);
      symlinkSync('/etc/shadow', join(tree, 'srv/out'));
      await v.ok(['build', 'c', '-m', 'directory', ...command, '--', '-s', tree]);
      writeFileSync(join(tree, 'srv/old'), 'changed since');
      assert.equal(
        await inside(
          v,
          'c',
          'cat /srv/old; /bin/busybox stat -c %u:%g /srv/keep; /bin/busybox readlink /srv/out',
        ),
        'old33:33\n/etc/shadow\n',
      );

      await v.ok(['build', 'd', '-m', 'clone', '--hostname', 'dee', '--', '-s', 'a']);
      assert.equal(await inside(v, 'd', 'cat /srv/old; /bin/busybox hostname'), 'olddee\n');

      // Archives over each other, of two compressions.
      const upper = join(v.scratch, 'upper.tar.zst');
      writeFileSync(
        upper,
        zstdCompressSync(tar([{ name: 'srv/old', content: 'upper' }, { name: 'srv/.wh.keep' }])),
      );
      await v.ok(['build', 'g', '-m', 'template', ...command, '--', '-t', archive, '-t', upper]);
      assert.equal(await inside(v, 'g', 'cat /srv/old; ls -A /srv'), 'upper.wh.keep\nkeep\nold\n');

      await v.ok(['build', 'e', '-m', 'skeleton']);
      assert.match(readFileSync(join(v.root, 'etc/guests/e.yaml'), 'utf8'), /^template: skeleton$/m);
      await v.ok(['build', 'f', '-m', 'host', '--command', 'sleep 1000']);
      assert.deepEqual(halfMade(v), []);
    });
  });

  test('--force replaces a stopped guest when the new image is there, and not before', async () => {
    await withInstance(async (v) => {
      const [archive, broken] = [join(v.scratch, 'root.tar'), join(v.scratch, 'broken.tar')];
      writeFileSync(archive, tar(busyboxRoot()));
      writeFileSync(broken, tar(busyboxRoot()).subarray(0, 100_000));
      const build = (...words: readonly string[]): readonly string[] => [
        'build',
        'a',
        '-m',
        'template',
        '--command',
        '/bin/busybox sleep 1000',
        ...words,
      ];
      await v.ok(build('--', '-t', archive));
      await v.ok(['start', 'a']);
      await v.ok(['exec', 'a', '/bin/busybox', 'touch', '/srv/mine']);
      assert.match(
        (await v.run(build('--', '-t', archive))).stderr,
        /found one of that name; need another name, or --force/,
      );
      assert.match(
        (await v.run(build('--force', '--', '-t', archive))).stderr,
        /found one of that name running/,
      );
      await v.ok(['stop', '-t', '0', 'a']);
      const failed = await v.run(build('--force', '--', '-t', broken));
      assert.deepEqual(
        [failed.code, /need a whole tar archive/.test(failed.stderr)],
        [2, true],
        failed.stderr,
      );
      assert.equal(await inside(v, 'a', 'ls /srv | /bin/busybox grep -c mine'), '1\n');
      await v.ok(build('--force', '--', '-t', archive));
      assert.equal(await inside(v, 'a', 'ls /srv | /bin/busybox grep -c mine || true'), '0\n');
      assert.deepEqual(halfMade(v), []);
    });
  });

  test('of an OCI layout: layers, whiteouts, links and attributes; what the image says of running it', async () => {
    await withInstance(async (v) => {
      const layout = join(v.scratch, 'layout');
      const config = {
        Entrypoint: ['/bin/busybox'],
        Cmd: ['sleep', '1000'],
        Env: ['PATH=/bin', 'COLOUR=blue'],
        WorkingDir: '/srv',
        User: 'web',
        StopSignal: 'SIGKILL',
        Labels: { team: 'web', note: 'image' },
        Healthcheck: { Test: ['CMD-SHELL', 'true'], Interval: 1_000_000_000, Retries: 2 },
      };
      writeLayout(layout, LAYERS, { config, platforms: ['s390x', ARCHITECTURE] });
      await v.ok([
        'build',
        'a',
        '-m',
        'oci',
        '-e',
        'COLOUR=red',
        '--label',
        'note=mine',
        '--',
        `${layout}:it`,
      ]);
      await v.ok(['start', 'a']);
      const run = async (script: string): Promise<string> =>
        await v.ok(['exec', 'a', '/bin/busybox', 'sh', '-c', script]);
      assert.equal(
        await run('echo $COLOUR; pwd; /bin/busybox id -u; ls /srv'),
        'red\n/srv\n33\nagain\nkeep\n',
      );
      assert.equal(
        await run(
          '/bin/busybox stat -c "%h %u %i" /srv/keep /srv/again | /bin/busybox uniq | /bin/busybox cut -d " " -f 1,2',
        ),
        '2 33\n',
      );
      const [guest] = JSON.parse(await v.ok(['inspect', 'a'])) as readonly {
        command: readonly string[];
        labels: object;
        stop: object;
        health: { test?: readonly string[] };
      }[];
      assert.deepEqual(guest?.command, ['/bin/busybox', 'sleep', '1000']);
      assert.deepEqual(guest?.labels, { team: 'web', note: 'mine' });
      assert.match(readFileSync(join(v.root, 'etc/guests/a.yaml'), 'utf8'), /retries: 2/);

      // Once more from what is there, and for another platform.
      await v.ok(['build', 'b', '-m', 'oci', '--', layout]);
      await v.ok(['build', 'c', '-m', 'oci', '--', `oci:${layout}:it`, '--platform', 'linux/s390x']);
      assert.match(readFileSync(join(v.root, 'etc/guests/c.yaml'), 'utf8'), /ARCH|COLOUR: blue/);
      const other = await v.run(['build', 'd', '-m', 'oci', '--', layout, '--platform', 'linux/riscv64']);
      assert.match(other.stderr, /found it for linux\/s390x, linux\/(?:amd64|arm64); need linux\/riscv64/);
      const unnamed = await v.run(['build', 'd', '-m', 'oci', '--', `${layout}:other`]);
      assert.match(unnamed.stderr, /found it; need one named "other"/);
      assert.deepEqual(halfMade(v), []);
    });
  });

  test('an image that is not what its digests say is refused, and nothing is left of it', async () => {
    await withInstance(async (v) => {
      const hostile: readonly (readonly [RegExp, readonly Layer[], ImageOptions])[] = [
        [/found sha256:[\da-f]{64} in it; need sha256/, LAYERS, { spoil: 'digest' }],
        [/found sha256:[\da-f]{64} in it; need sha256:0{64}/, LAYERS, { spoil: 'diffId' }],
        [/found no ".*"; need an OCI layout that is whole/, LAYERS, { spoil: 'missing' }],
        [/found "\.\." in/, [...LAYERS, { members: [{ name: '../../etc/pwned', content: 'x' }] }], {}],
        [/found owner 70000:0/, [{ members: [...busyboxRoot(), { name: 'etc/x', uid: 70_000 }] }], {}],
        [
          /is no file before it/,
          [...LAYERS, { members: [{ name: 'x', type: 'hardlink', linkName: '/etc/shadow' }] }],
          {},
        ],
      ];
      for (const [i, [message, layers, options]] of hostile.entries()) {
        const layout = join(v.scratch, `layout-${i}`);
        writeLayout(layout, layers, { platforms: [ARCHITECTURE], ...options });
        const { code, stderr } = await v.run(['build', 'a', '-m', 'oci', '--', layout]);
        assert.notEqual(code, 0);
        assert.match(stderr, message);
      }
      assert.deepEqual(halfMade(v), []);
      assert.equal(await v.ok(['list', '--all', '--quiet']), '');
      const store = JSON.parse(await v.ok(['store', 'check', '--json'])) as {
        images: number;
        objects: number;
      };
      assert.deepEqual([store.images, store.objects], [0, 0]);
    });
  });

  test('whatever the method and whoever is killed, a build that does not end leaves nothing', async () => {
    await withInstance(async (v) => {
      // Zeros that are in no archive, and take long to be hashed.
      const hole = { 'GNU.sparse.size': String(50 * 1024 ** 3), 'GNU.sparse.map': '0,0' };
      const endless: readonly Member[] = [...busyboxRoot(), { name: 'srv/hole', pax: hole }];
      const place = (name: string): string => join(v.scratch, name);
      writeFileSync(place('endless.tar'), tar(endless));
      writeFileSync(place('root.tar'), tar(busyboxRoot()));
      writeLayout(place('layout'), [{ members: endless }], { platforms: [ARCHITECTURE] });
      mkdirSync(place('tree/etc'), { recursive: true });
      assert.equal(spawnSync('truncate', ['-s', '50G', place('tree/etc/hole')]).status, 0);
      await v.ok(['create', 'source', '--template', 'busybox', '--', 'sleep', '1000']);
      await v.ok(['start', 'source']);
      await v.ok(['exec', 'source', 'truncate', '-s', String(50 * 1024 ** 3), '/srv/hole']);
      await v.ok(['stop', '-t', '0', 'source']);
      const store = async (): Promise<unknown> => JSON.parse(await v.ok(['store', 'stat', '--json']));
      const guests = (): readonly string[] => readdirSync(join(v.root, 'lib/guests')).sort();
      const before = [await store(), guests()];
      const command = ['--command', '/bin/busybox true', '--'];
      const template = ['-m', 'template', ...command, '-t'];
      for (const words of [
        [...template, place('endless.tar')],
        ['-m', 'directory', ...command, '-s', place('tree')],
        ['-m', 'oci', ...command, `oci:${place('layout')}:it`],
        ['-m', 'clone', '--', '-s', 'source'],
      ]) {
        for (const killed of WAYS_TO_END) {
          const what = `${killed} ${words.join(' ')}`;
          await breakOff(v, words, killed, () => halfMade(v).length > 0);
          await eventually(`nothing half-made: ${what}`, async () => {
            const { code, stdout } = await v.run(['list', '--all', '--quiet']);
            if (code !== 0 || stdout !== 'source\n' || halfMade(v).length > 0) return undefined;
            return isDeepStrictEqual([await store(), guests()], before) ? true : undefined;
          });
        }
      }
      await v.ok(['build', 'a', ...template, place('root.tar')]);
      await v.ok(['store', 'check']);
    });
  });

  test('shows how far it is on a terminal, where Ctrl-C leaves nothing of it, whatever the method', async () => {
    await withInstance(async (v) => {
      const [tree, archive] = [join(v.scratch, 'tree'), join(v.scratch, 'big.tar')];
      const way = silentWay(v);
      mkdirSync(join(tree, 'etc'), { recursive: true });
      // Holes, which take long to be hashed.
      assert.equal(spawnSync('truncate', ['-s', '50G', join(tree, 'etc/hole')]).status, 0);
      const hole = { 'GNU.sparse.size': String(50 * 1024 ** 3), 'GNU.sparse.map': '0,0' };
      writeFileSync(archive, tar([...busyboxRoot(), { name: 'srv/hole', pax: hole }]));
      const methods = [
        [`-m template --command x -- -t ${archive}`, /\[#+-*\] \d+ %.* files/],
        [`-m directory --command x -- ${tree}`, /read files/],
        [`-m rsync --command x -- -s host:/tree -o --rsh=${way.path}`, /copy host:\/tree/],
      ] as const;
      for (const [words, line] of methods) {
        const terminal = await openTerminal(v, `trap : INT; "$V" build a ${words}; echo "end $?"`);
        try {
          await terminal.see(line);
          terminal.type('\u0003');
          await terminal.see(/found it cancelled/);
          await terminal.see(/end [1-9]/);
        } finally {
          await terminal.close();
        }
        await eventually('nothing half-made', () => (halfMade(v).length === 0 ? true : undefined));
        assert.equal(await v.ok(['list', '--all', '--quiet']), '', words);
        assert.ok(!way.isTaken(), words);
      }
      assert.equal(JSON.parse(await v.ok(['store', 'stat', '--json'])).images, 0);
    });
  });
});

describe('build with rsync', { skip: unmet(...NEEDS, 'rsync') }, () => {
  test('copies what has changed, and what there is no more goes', async () => {
    await withInstance(async (v) => {
      const tree = join(v.scratch, 'tree');
      mkdirSync(tree);
      const archive = join(v.scratch, 'root.tar');
      writeFileSync(archive, tar(busyboxRoot()));
      assert.equal(spawnSync('tar', ['-C', tree, '-xf', archive]).status, 0);
      const command = ['--command', '/bin/busybox sleep 1000'];
      await v.ok(['build', 'a', '-m', 'rsync', ...command, '--', '-s', tree, '-o', '--exclude=/tmp']);
      rmSync(join(tree, 'srv/old'));
      writeFileSync(join(tree, 'srv/new'), 'new');
      await v.ok(['build', 'b', '-m', 'rsync', ...command, '--', '-s', tree, '-o', '--exclude=/tmp']);
      assert.equal(await inside(v, 'a', 'ls /srv; cat /srv/old'), 'keep\nold\nold');
      assert.equal(await inside(v, 'b', 'ls /srv; /bin/busybox stat -c %u /srv/keep'), 'keep\nnew\n33\n');
      const failed = await v.run([
        'build',
        'c',
        '-m',
        'rsync',
        ...command,
        '--',
        '-s',
        join(v.scratch, 'nowhere'),
      ]);
      assert.match(failed.stderr, /found exit code 23 of \/usr\/bin\/rsync/);
      const before = JSON.parse(await v.ok(['store', 'stat', '--json'])) as { cacheBytes: number };
      await v.ok(['store', 'gc']);
      const after = JSON.parse(await v.ok(['store', 'stat', '--json'])) as { cacheBytes: number };
      assert.ok(
        before.cacheBytes > 500_000 && after.cacheBytes === 0,
        `${before.cacheBytes} ${after.cacheBytes}`,
      );
      assert.equal(await inside(v, 'b', 'cat /srv/new'), 'new');
    });
  });
});

describe('build from other hosts', { skip: unmet(...NEEDS, 'rsync') }, () => {
  test('does not go on when who asked for it, or vserverd, is gone', async () => {
    await withInstance(async (v) => {
      const way = silentWay(v);
      const words = ['-m', 'rsync', '--command', 'x', '--', '-s', 'host:/tree', '-o', `--rsh=${way.path}`];
      for (const killed of WAYS_TO_END) {
        await breakOff(v, words, killed, way.isTaken);
        await eventually(`nobody waits: ${killed}`, async () => {
          const { code, stdout } = await v.run(['list', '--all', '--quiet']);
          const left = [...halfMade(v), ...fetchedOf(v)];
          return code === 0 && stdout === '' && !way.isTaken() && left.length === 0 ? true : undefined;
        });
      }
    });
  });
});

describe('build from a registry and from archives of images', {
  skip: unmet(...NEEDS, 'skopeo', 'registry'),
}, () => {
  test('fetches what is not there yet', async () => {
    await withInstance(async (v) => {
      const layout = join(v.scratch, 'layout');
      // Docker's own format knows no zstd.
      writeLayout(layout, [...LAYERS.slice(0, 1), { ...UPPER, compression: 'gzip' }], {
        platforms: [ARCHITECTURE],
      });
      const skopeo = (...args: readonly string[]): void => {
        const { status, stderr } = spawnSync('skopeo', ['--insecure-policy', ...args], { encoding: 'utf8' });
        assert.equal(status, 0, stderr);
      };
      const [docker, oci] = [join(v.scratch, 'docker.tar'), join(v.scratch, 'oci.tar')];
      skopeo('copy', `oci:${layout}:it`, `docker-archive:${docker}:it:1`);
      skopeo('copy', `oci:${layout}:it`, `oci-archive:${oci}:it`);
      await v.ok(['build', 'a', '-m', 'oci', '--', `docker-archive:${docker}`]);
      await v.ok(['build', 'b', '-m', 'oci', '--', `oci-archive:${oci}:it`]);
      for (const name of ['a', 'b']) assert.equal(await inside(v, name, 'ls /srv'), 'again\nkeep\n');

      const registry = await startRegistry(v.scratch, layout);
      try {
        const { image, port } = registry;
        const words = ['-m', 'oci', '--', '--tls-verify=false', image];
        await v.ok(['build', 'c', ...words], { timeoutMs: 60_000 });
        assert.equal(await inside(v, 'c', 'ls /srv'), 'again\nkeep\n');
        // What was fetched is not fetched again.
        const blobs = join(v.root, 'lib/store/default/cache/oci/blobs/sha256');
        // Manifests are written anew.
        const layers = (): readonly bigint[] =>
          readdirSync(blobs)
            .map((name) => statSync(join(blobs, name), { bigint: true }))
            .filter(({ size }) => size > 100_000n)
            .map(({ ino }) => ino)
            .toSorted();
        const before = layers();
        assert.ok(before.length > 0);
        await v.ok(['build', 'd', ...words], { timeoutMs: 60_000 });
        assert.deepEqual(layers(), before);
        const missing = await v.run([
          'build',
          'e',
          '-m',
          'oci',
          '--',
          '--tls-verify=false',
          `127.0.0.1:${port}/other:1`,
        ]);
        assert.match(missing.stderr, /cannot fetch image .*: found exit code 1 of \/usr\/bin\/skopeo/);
      } finally {
        registry.close();
      }
      assert.deepEqual(halfMade(v), []);
    });
  });

  test('goes on where it was interrupted, whoever was killed, and leaves nothing half-fetched', async () => {
    await withInstance(async (v) => {
      const layout = join(v.scratch, 'layout');
      // Two large layers, of which the second does not come to its end.
      const bytes = Array.from({ length: 300_000 }, (_, i) => `${(i * 7919) % 1_000_003}`).join(' ');
      const large: Layer = { members: [{ name: 'srv/large', content: bytes }], compression: 'gzip' };
      writeLayout(layout, [{ members: busyboxRoot(), compression: 'gzip' }, large], {
        platforms: [ARCHITECTURE],
      });
      const [first = '', second = ''] = layersOf(layout);
      const fetched = join(v.root, 'lib/store/default/cache/oci/blobs', first.replace(':', '/'));
      const registry = await startRegistry(v.scratch, layout);
      await using gate = await openGate(registry.port, second);
      try {
        const words = ['-m', 'oci', '--', '--tls-verify=false', `127.0.0.1:${gate.port}/it:1`];
        for (const killed of WAYS_TO_END) {
          const held = gate.held;
          await breakOff(v, words, killed, () => gate.held > held && existsSync(fetched));
          await eventually(`skopeo is gone: ${killed}`, async () => {
            const { code, stdout } = await v.run(['list', '--all', '--quiet']);
            const left = [...halfMade(v), ...fetchedOf(v)];
            return code === 0 && stdout === '' && gate.open === 0 && left.length === 0 ? true : undefined;
          });
        }
        const before = gate.passed;
        gate.lift();
        await v.ok(['build', 'a', ...words], { timeoutMs: 60_000 });
        assert.equal(await inside(v, 'a', '/bin/busybox wc -c </srv/large'), `${bytes.length}\n`);
        // The first layer was there after the first time.
        assert.deepEqual([before, gate.passed], [1, 2]);
      } finally {
        registry.close();
      }
    });
  });
});

describe('build of Debian', { skip: unmet(...NEEDS, 'mmdebstrap') }, () => {
  test('installs bookworm without any of it running on the host, and goes on where it was interrupted', async () => {
    await withInstance(async (v) => {
      const words = [
        'build',
        'deb',
        '-m',
        'debootstrap',
        '--command',
        'sleep infinity',
        '--',
        '-d',
        'bookworm',
      ];
      const wrong = await v.run([...words, '-m', 'http://127.0.0.1:1/debian']);
      assert.match(wrong.stderr, /cannot fetch lists of packages of bookworm: found exit code 100/);

      // Interrupted while packages are installed: the guest in which that was goes too.
      const client = v.spawn(words);
      const ended = new Promise((done) => client.once('exit', done));
      const running = async (): Promise<readonly { readonly labels: Readonly<Record<string, string>> }[]> =>
        JSON.parse(await v.ok(['list', '--json'])) as [];
      const installing = async (): Promise<boolean> =>
        (await running()).some(({ labels }) => labels['vserver.build'] === 'bookworm');
      await eventually(
        'packages are installed',
        async () => ((await installing()) ? true : undefined),
        PATIENCE_MS,
      );
      client.kill('SIGINT');
      await ended;
      await eventually('nothing half-made', async () =>
        (await running()).length === 0 && halfMade(v).length === 0 ? true : undefined,
      );

      // Nor does it outlive a vserverd that was killed.
      const other = v.spawn(words);
      const otherEnded = new Promise((done) => other.once('exit', done));
      await eventually(
        'packages are installed',
        async () => ((await installing()) ? true : undefined),
        PATIENCE_MS,
      );
      const { vserverdPid } = JSON.parse(await v.ok(['daemon', 'status', '--json'])) as {
        vserverdPid: number;
      };
      process.kill(vserverdPid, 'SIGKILL');
      await otherEnded;
      await eventually('nothing half-made', async () => {
        const { code, stdout } = await v.run(['list', '--json']);
        return code === 0 && (JSON.parse(stdout) as []).length === 0 && halfMade(v).length === 0
          ? true
          : undefined;
      });
      assert.equal(await v.ok(['list', '--all', '--quiet']), '');

      assert.equal(await v.ok(words, { timeoutMs: PATIENCE_MS }), 'deb\n');
      assert.equal(
        await inside(
          v,
          'deb',
          'dpkg --audit; . /etc/os-release; echo $VERSION_CODENAME; ls /var/cache/apt/archives /dev/null',
        ),
        'bookworm\n/dev/null\n\n/var/cache/apt/archives:\nlock\npartial\n',
      );
      const [guest] = JSON.parse(await v.ok(['inspect', 'deb'])) as readonly { readonly labels: object }[];
      assert.deepEqual(guest?.labels, { distribution: 'bookworm' });
    });
  });

  // The smallest that is whole: what another release has otherwise is in how its packages unpack and set themselves up.
  test('installs trixie', async () => {
    await withInstance(async (v) => {
      await v.ok(
        [
          'build',
          'deb',
          '-m',
          'debootstrap',
          '--command',
          'sleep infinity',
          '--',
          '-d',
          'trixie',
          '--variant',
          'apt',
        ],
        {
          timeoutMs: PATIENCE_MS,
        },
      );
      assert.equal(
        await inside(v, 'deb', 'dpkg --audit; . /etc/os-release; echo $VERSION_CODENAME; readlink /bin'),
        'trixie\nusr/bin\n',
      );
    });
  });
});

/** A machine with other work may take minutes to install a hundred packages. */
const PATIENCE_MS = 400_000;
