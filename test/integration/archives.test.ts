/** Guests as archives for real: what other tools read of them, what comes back, and what is refused. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { isDeepStrictEqual } from 'node:util';
import { gzipSync, zstdDecompressSync } from 'node:zlib';
import { showTree } from '../lib/guest-tree.ts';
import { eventually, type Instance, withInstance } from '../lib/instance.ts';
import { unmet } from '../lib/requires.ts';
import { type Member, tar } from '../lib/tar-writer.ts';

const NEEDS = ['root', 'cgroup2', 'overlay', 'userns', 'busybox'] as const;

const LONG = `${'long/'.repeat(30)}name`;
const CHANGE = `
cd / && mkdir -p srv/deep/er srv/${'long/'.repeat(30)} && head -c 300000 /dev/urandom > srv/random && cat bin/busybox > srv/copy
chmod 4755 srv/copy; chown 33:44 srv/random; ln srv/random srv/again; ln -s ../etc srv/link; ln srv/link srv/link2
echo x > srv/${LONG}; ln -s /srv/${LONG} srv/far; ln -s nowhere srv/broken
echo line >> etc/passwd; : > etc/group; chmod 600 etc/hostname; echo 127.0.0.1 own > etc/hosts
rm bin/ls; mkfifo srv/fifo; echo "name with spaces" > "srv/a b"; printf x > "srv/$(printf 'n\\351\\n')"; printf y > "srv/\u00e9"
touch srv/empty; chmod 700 /; mkdir -m 1777 opt
truncate -s 50m srv/sparse; echo middle | dd of=srv/sparse bs=1m seek=20 conv=notrunc 2>/dev/null
truncate -s 9m srv/hole
touch -d '1960-02-03 04:05:06' srv/empty; touch -d '2001-02-03 04:05:06' srv/random etc/passwd srv /; sync
`;

async function makeGuest(v: Instance, name: string): Promise<void> {
  await v.ok(['create', name, '--template', 'busybox', '--', 'sleep', '1000']);
  await v.ok(['start', name]);
  await v.ok(['exec', name, 'sh', '-c', CHANGE]);
}

/** Archives hold no sockets, and /etc/hosts has the guest's name, which a start writes. */
async function show(v: Instance, name: string): Promise<string> {
  return await showTree(v, name, ['/etc/hosts', '*/socket']);
}

/** Runs the client with bytes as input, and gives what it printed as bytes. */
function bytesOf(v: Instance, args: readonly string[], input?: Uint8Array): Buffer {
  const { status, stdout, stderr } = spawnSync(v.client, args, {
    env: { PATH: process.env['PATH'], VSERVER_ROOT: v.root },
    maxBuffer: 1 << 30,
    ...(input === undefined ? {} : { input }),
  });
  assert.equal(status, 0, stderr.toString());
  return stdout;
}

function leftovers(v: Instance): readonly string[] {
  const store = join(v.root, 'lib/store/default');
  return [
    ...readdirSync(store).filter((name) => name.startsWith('new-')),
    ...readdirSync(join(v.root, 'lib/guests')),
    ...readdirSync(v.scratch),
  ];
}

describe('export and import', { skip: unmet(...NEEDS) }, () => {
  test('gives the same tree in another instance, under another xid', async () => {
    await withInstance(async (v) => {
      await makeGuest(v, 'a');
      const before = await show(v, 'a');
      // Running, to a file; stopped, through a pipe: the same.
      const file = join(v.scratch, 'a.tar.zst');
      await v.ok(['export', 'a', '-o', 'a.tar.zst'], { cwd: v.scratch });
      await v.ok(['stop', '-t', '0', 'a']);
      const piped = bytesOf(v, ['export', 'a']);
      assert.ok(statSync(file).size < piped.length);
      assert.deepEqual(readdirSync(v.scratch), ['a.tar.zst']);
      await withInstance(async (other) => {
        await other.ok(['create', 'taken', '--xid', '1000', '--template', 'busybox', '--', 'true']);
        assert.equal(await other.ok(['import', file]), 'a\n');
        assert.equal(bytesOf(other, ['import', '-', 'b'], piped).toString(), 'b\n');
        for (const name of ['a', 'b']) {
          const [{ xid }] = JSON.parse(await other.ok(['inspect', name])) as [{ xid: number }];
          assert.notEqual(xid, 1000);
          await other.ok(['start', name]);
          assert.equal(await show(other, name), before);
        }
      });
    });
  });

  test('keeps attributes, capabilities and access lists, with the ids of the guest', async () => {
    await withInstance(async (v) => {
      await v.ok(['create', 'a', '--xid', '77', '--template', 'busybox', '--', 'sleep', '1000']);
      await v.ok(['start', 'a']);
      await v.ok(['exec', 'a', 'sh', '-c', 'echo x > /srv/file']);
      await v.ok(['stop', '-t', '0', 'a']);
      const path = join(v.root, 'lib/guests/a/upper/srv/file');
      // As the kernel keeps them for a guest of xid 77: a capability of its root, and an entry for its user 5.
      const capability = '010000030004000000000000000000000000000000004d00';
      const acl = '0200000001000600ffffffff0200040005004d0004000400ffffffff10000400ffffffff20000000ffffffff';
      const script =
        'import os, sys; p, c, a = sys.argv[1:]; os.setxattr(p, "user.note", b"mine"); ' +
        'os.setxattr(p, "system.posix_acl_access", bytes.fromhex(a)); os.setxattr(p, "security.capability", bytes.fromhex(c))';
      const set = spawnSync('python3', ['-c', script, path, capability, acl], { encoding: 'utf8' });
      assert.equal(set.stderr, '');
      await v.ok(['export', 'a', '-o', 'a.tar'], { cwd: v.scratch });
      const read =
        'import sys, tarfile; h = tarfile.open(sys.argv[1]).getmember("rootfs/srv/file").pax_headers; ' +
        'print(*(h["SCHILY.xattr." + n].encode("utf8", "surrogateescape").hex() for n in sys.argv[2:]))';
      const names = ['user.note', 'security.capability', 'system.posix_acl_access'];
      const shown = spawnSync('python3', ['-c', read, join(v.scratch, 'a.tar'), ...names], {
        encoding: 'utf8',
      });
      assert.equal(shown.stderr, '');
      assert.deepEqual(shown.stdout.trim().split(' '), [
        Buffer.from('mine').toString('hex'),
        '0100000200040000000000000000000000000000',
        '0200000001000600ffffffff020004000500000004000400ffffffff10000400ffffffff20000000ffffffff',
      ]);
      // The hash of the whole tree is compared.
      await v.ok(['import', 'a.tar', 'b'], { cwd: v.scratch });
    });
  });

  test('carries devices, pipes and links to them, which open nothing in a guest', async () => {
    await withInstance(async (v) => {
      const busybox = ['/bin/busybox', '/usr/bin/busybox'].find((path) => existsSync(path)) ?? '';
      const applets = 'sh sleep find sort xargs stat sed md5sum awk cat'.split(' ');
      const directories = ['bin/', 'etc/', 'proc/', 'sys/', 'dev/', 'run/', 'tmp/', 'srv/'];
      const members: readonly Member[] = [
        ...directories.map((name): Member => ({ name, type: 'directory', mode: 0o755 })),
        { name: 'bin/busybox', content: readFileSync(busybox), mode: 0o755 },
        ...applets.map((name): Member => ({ name: `bin/${name}`, type: 'symlink', linkName: 'busybox' })),
        { name: 'srv/null', type: 'character', device: [1, 3], mode: 0o640, uid: 5, gid: 6 },
        { name: 'srv/again', type: 'hardlink', linkName: 'srv/null' },
        { name: 'srv/large', type: 'character', device: [511, 70_000], mode: 0o600 },
        { name: 'srv/disk', type: 'block', device: [8, 17], mode: 0o660 },
        { name: 'srv/pipe', type: 'fifo', mode: 0o622 },
      ];
      const template = join(v.scratch, 'root.tar');
      writeFileSync(template, tar(members));
      await v.ok(['create', 'a', '--template', template, '--', '/bin/sleep', '1000']);
      await v.ok(['start', 'a']);
      await v.ok(['exec', 'a', 'sh', '-c', 'echo own > /srv/own']);
      const before = await show(v, 'a');
      assert.match(before, /character special file\|21a0\|5\|6\|.*\|\/srv\/null\|1\|3\n/);
      assert.match(before, /block special file\|61b0\|.*\|\/srv\/disk\|8\|11\n/);
      assert.match(before, /\/srv\/large\|1ff\|11170\n/);
      const archive = bytesOf(v, ['export', 'a']);
      await v.ok(['stop', '-t', '0', 'a']);
      await v.ok(['unify', 'a']);
      await v.ok(['clone', 'a', 'b']);
      bytesOf(v, ['import', '-', 'c'], archive);
      for (const name of ['a', 'b', 'c']) {
        await v.ok(['start', name]);
        assert.equal(await show(v, name), before, name);
        const opened = await v.run(['exec', name, 'sh', '-c', 'cat /srv/null /srv/again']);
        assert.match(opened.stderr, /(Permission denied[\s\S]*){2}/);
      }
    });
  });

  test('takes snapshots along, which have what is the same but once', async () => {
    await withInstance(async (v) => {
      await makeGuest(v, 'a');
      await v.ok(['snapshot', 'a', 'first']);
      const before = await show(v, 'a');
      await v.ok([
        'exec',
        'a',
        'sh',
        '-c',
        'rm -r /srv/deep; echo other > /etc/passwd; chmod 640 /etc/hostname',
      ]);
      const alone = bytesOf(v, ['export', 'a']);
      const both = bytesOf(v, ['export', 'a', '--snapshots']);
      assert.ok(both.length < alone.length + 1_500_000, `${both.length} of ${alone.length}`);
      const after = await show(v, 'a');
      bytesOf(v, ['import', '-', 'b'], both);
      await v.ok(['start', 'b']);
      assert.equal(await show(v, 'b'), after);
      await v.ok(['stop', '-t', '0', 'b']);
      await v.ok(['rollback', 'b', 'first']);
      await v.ok(['start', 'b']);
      assert.equal(await show(v, 'b'), before);
      assert.equal(JSON.parse(await v.ok(['store', 'check', '--json'])).faults.length, 0);
    });
  });

  test('refuses what is not what was exported, and leaves nothing of it', async () => {
    await withInstance(async (v) => {
      await v.ok(['create', 'a', '--template', 'busybox', '--', 'true']);
      const good = bytesOf(v, ['export', 'a']);
      const clean = leftovers(v);
      const changed = Buffer.from(good);
      const at = good.indexOf('root:');
      changed.write('toor:', at);
      const zstd = bytesOf(v, ['export', '--zstd', 'a']);
      const config = (text: string): Buffer =>
        tar([manifest(), { name: 'guest.yaml', content: text }, ROOTFS]);
      const cases: readonly (readonly [what: string, archive: Uint8Array, code: RegExp])[] = [
        ['a changed byte', changed, /not what was exported/],
        ['the first half', good.subarray(0, good.length >> 1), /cannot import .*found/],
        ['the first half, compressed', zstd.subarray(0, zstd.length >> 1), /cannot import .*found/],
        ['without its last files', cut(good), /not what was exported/],
        [
          'an archive of something else',
          tar([{ name: 'etc/passwd', content: 'x' }]),
          /cannot import .*found/,
        ],
        ['nothing', Buffer.alloc(0), /cannot import .*found/],
        [
          'a manifest that is a link',
          tar([link('vserver.json', '/etc/passwd'), ROOTFS]),
          /cannot import .*found/,
        ],
        [
          'a manifest of another kind',
          tar([{ name: 'vserver.json', content: '{"format":"x"}' }]),
          /cannot import .*found/,
        ],
        [
          'a configuration that is a link',
          tar([manifest(), link('guest.yaml', '/etc/passwd')]),
          /cannot import .*found/,
        ],
        ['a root that is a link', tar([manifest(), CONFIG, link('rootfs', '/etc')]), /cannot import .*found/],
        [
          'a root elsewhere',
          tar([manifest(), CONFIG, { ...ROOTFS, name: '../rootfs' }]),
          /cannot import .*found/,
        ],
        [
          'a snapshot elsewhere',
          tar([manifest({ snapshots: [{ name: '../x' }] }), CONFIG]),
          /cannot import .*found/,
        ],
        [
          'mounts of the host',
          config('command: [a]\nmounts: [{ source: /, target: /mnt }]\n'),
          /reaches the host by/,
        ],
        [
          'a quota of nobody',
          tar([manifest({ quotas: [{ kind: 'all', id: 1 }] }), CONFIG, ROOTFS]),
          /neither user nor group/,
        ],
        ['hooks', config('command: [a]\nhooks: { preStart: /bin/true }\n'), /reaches the host by/],
        ["the host's network", config('command: [a]\nnetwork: { mode: host }\n'), /reaches the host by/],
        ['capabilities', config('command: [a]\nbcaps: [+SYS_ADMIN]\n'), /reaches the host by/],
        ["another's trust domain", config('command: [a]\ntrustDomain: tenant-a\n'), /reaches the host by/],
        ['no filter', config('command: [a]\nseccomp: unconfined\n'), /reaches the host by/],
        [
          'owners of nobody',
          tar([manifest(), CONFIG, ROOTFS, { name: 'rootfs/x', uid: 70_000 }]),
          /ids below 65536/,
        ],
      ];
      for (const [what, archive, code] of cases) {
        const { code: exit, stderr } = await v.run(['import', '-', 'new'], { input: archive });
        assert.notEqual(exit, 0, what);
        assert.match(stderr, code, what);
        assert.deepEqual(leftovers(v), clean, what);
      }
      // Compressed otherwise, and trusted.
      await v.ok(['import', '-', 'b'], { input: gzipSync(good) });
      assert.equal(zstdDecompressSync(zstd).length, good.length);
      await v.ok(['set', 'a', 'mounts=[{ source: /srv, target: /mnt }]']);
      await v.ok(['export', 'a', '-o', 'a.tar'], { cwd: v.scratch });
      assert.equal((await v.run(['import', 'a.tar', 'c'], { cwd: v.scratch })).code, 1);
      await v.ok(['import', 'a.tar', 'c', 'mounts=[]'], { cwd: v.scratch });
      await v.ok(['import', 'a.tar', 'd', '--trust-config'], { cwd: v.scratch });
    });
  });

  test('says what is in the way of a guest', async () => {
    await withInstance(async (v) => {
      await v.ok(['create', 'a', '--ip', '10.77.1.1', '--template', 'busybox', '--', 'true']);
      await v.ok(['export', 'a', '-o', 'a.tar'], { cwd: v.scratch });
      for (const [args, text] of [
        [['import', 'a.tar'], /a guest of that name/],
        [['import', 'a.tar', 'b'], /taken by guest/],
        [['import', 'a.tar', 'b', '--ip', '10.77.1.2', '--xid', '1000'], /xid 1000: found it taken/],
        [['import', 'none.tar'], /ENOENT/],
        [['import', 'a.tar', 'b', '--max-size', '100k', '--ip', '10.77.1.2'], /more than 102400 bytes/],
        [['export', 'a', '-o', 'none/a.tar'], /no such directory/],
        [['export', 'a', '-o', '/dev/null'], /no file/],
        [['export', 'none', '-o', 'x'], /no such guest/],
      ] as const) {
        const { code, stderr } = await v.run(args, { cwd: v.scratch });
        assert.notEqual(code, 0);
        assert.match(stderr, text);
      }
      assert.deepEqual(readdirSync(v.scratch), ['a.tar']);
      await v.ok(['import', 'a.tar', 'b', '--ip', '10.77.1.2'], { cwd: v.scratch });
      await v.ok(['delete', 'a']);
      await v.ok(['import', 'a.tar'], { cwd: v.scratch });
      assert.equal(JSON.parse(await v.ok(['inspect', 'a']))[0].xid, 1000);
    });
  });

  test('leaves nothing when it is interrupted or killed', async () => {
    await withInstance(async (v) => {
      await v.ok(['create', 'a', '--template', 'busybox', '--', 'sleep', '1000']);
      await v.ok(['start', 'a']);
      await v.ok(['exec', 'a', 'sh', '-c', 'head -c 3000000 /dev/urandom > /srv/x']);
      const archive = bytesOf(v, ['export', 'a']);
      const clean = leftovers(v);
      const store = join(v.root, 'lib/store/default');
      for (const signal of ['SIGINT', 'SIGKILL', 'vserverd'] as const) {
        for (const args of [
          ['import', '-', 'new'],
          ['export', 'a'],
        ]) {
          const client = v.spawn(args);
          const closed = once(client, 'close');
          client.stdin?.write(archive.subarray(0, archive.length >> 1));
          // Import waits for the rest; export for somebody who reads.
          while (!readdirSync(store).some((name) => name.startsWith('new-'))) await sleep(10);
          if (args[0] === 'import')
            while (
              !readdirSync(store, { recursive: true }).some((name) => String(name).endsWith('archive.tar'))
            )
              await sleep(10);
          if (signal === 'vserverd')
            process.kill(JSON.parse(await v.ok(['daemon', 'status', '--json'])).vserverdPid, 'SIGKILL');
          else client.kill(signal);
          client.stdout?.resume();
          client.stdin?.destroy();
          await closed;
          await v.ok(['list']);
          await eventually(`nothing left of ${args[0]} ${signal}`, () =>
            isDeepStrictEqual(leftovers(v), clean) ? true : undefined,
          );
        }
      }
      await v.ok(['exec', 'a', 'true']);
    });
  });
});

const ROOTFS: Member = { name: 'rootfs', type: 'directory', mode: 0o755 };
const CONFIG: Member = { name: 'guest.yaml', content: 'command: [a]\n' };

function link(name: string, linkName: string): Member {
  return { name, type: 'symlink', linkName };
}

function manifest(changes: object = {}): Member {
  const trees = { rootfs: { sha256: '0'.repeat(64) } };
  const value = {
    format: 'vserver-guest',
    version: 1,
    name: 'x',
    exportedAt: '2026-01-01T00:00:00Z',
    snapshots: [],
    trees,
  };
  return { name: 'vserver.json', content: JSON.stringify({ ...value, ...changes }) };
}

/** An archive that ends as one does, some members too early. */
function cut(archive: Buffer): Buffer {
  const end = archive.lastIndexOf('rootfs/usr/sbin/');
  return Buffer.concat([archive.subarray(0, end - (end % 512)), Buffer.alloc(1024)]);
}
