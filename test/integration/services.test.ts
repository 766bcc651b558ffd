/**
 * Debian's own servers in three guests, each on the ports it has everywhere, and Debian's own clients: on the host, in
 * the guests, and under load while addresses come and go.
 */
import assert from 'node:assert/strict';
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, copyFileSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { after, before, describe, test } from 'node:test';
import { eventually, type OpenInstance, openInstance } from '../lib/instance.ts';
import { openNetwork, type TestNetwork } from '../lib/network.ts';
import { PATIENCE } from '../lib/patience.ts';
import { unmet } from '../lib/requires.ts';

/** Starts one set of servers in a guest; each knows its guest's name and answers with it. */
const SERVERS = `
set -e
name=$(hostname)
mkdir -p /srv/web /srv/database /run/sshd /root/.ssh /var/log
cat >> /etc/passwd <<END
sshd:x:103:65534::/run/sshd:/usr/sbin/nologin
database:x:101:101::/srv/database:/bin/sh
END

echo "nginx $name" > /srv/web/index.html
cat > /etc/nginx.conf <<END
worker_processes 1;
pid /run/nginx.pid;
error_log /var/log/nginx;
events {}
http {
  access_log off;
  client_body_temp_path /tmp/1; proxy_temp_path /tmp/2; fastcgi_temp_path /tmp/3; uwsgi_temp_path /tmp/4; scgi_temp_path /tmp/5;
  server { listen 80; listen [::]:80; root /srv/web; }
}
END
/usr/sbin/nginx -c /etc/nginx.conf

export LC_ALL=C.UTF-8
postgresql=$(ls -d /usr/lib/postgresql/*/bin | tail -n 1)
as_user="setpriv --reuid=101 --regid=101 --clear-groups"
chown 101:101 /srv/database
$as_user $postgresql/initdb --no-sync --auth=trust -U postgres -D /srv/database/data >/dev/null
cat >> /srv/database/data/postgresql.conf <<END
listen_addresses = '*'
unix_socket_directories = '/tmp'
fsync = off
shared_buffers = 16MB
END
echo 'host all all all trust' >> /srv/database/data/pg_hba.conf
$as_user $postgresql/pg_ctl -D /srv/database/data -l /srv/database/log -w start >/dev/null
$as_user psql -qh 127.0.0.1 -U postgres -c "create table who as select 'postgresql $name' as name"

$as_user redis-server --bind '*' '-::*' --protected-mode no --daemonize yes --dir /tmp --save '' >/dev/null
until redis-cli set who "redis $name" >/dev/null 2>&1; do sleep 0.05; done

ssh-keygen -q -t ed25519 -N '' -f /etc/ssh_host_key
cp /keys/key.pub /root/.ssh/authorized_keys
printf 'HostKey /etc/ssh_host_key\\nUsePAM no\\nPasswordAuthentication no\\n' > /etc/sshd_config
/usr/sbin/sshd -f /etc/sshd_config

cat > /srv/server.js <<END
require('node:http').createServer((_, answer) => answer.end('node $name')).listen(3000, () => console.log('ready'));
END
exec /usr/bin/node /srv/server.js
`;

/** One question to each server, as text for a shell: prints what it is and in which guest. $1 is the address. */
const CLIENTS: Readonly<Record<string, string>> = {
  nginx: 'case $1 in *:*) at="[$1]";; *) at=$1;; esac; curl -gsS -m 30 "http://$at/"',
  postgresql: 'PGCONNECT_TIMEOUT=30 psql -Ath "$1" -U postgres -c "select name from who"',
  redis: 'redis-cli -h "$1" get who',
  ssh: 'ssh -F none -i /tmp/key -o BatchMode=yes -o ConnectTimeout=30 -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR "root@$1" echo ssh \'$(hostname)\'',
  node: 'case $1 in *:*) at="[$1]";; *) at=$1;; esac; curl -gsS -m 30 "http://$at:3000/"',
};
const SERVICES = Object.keys(CLIENTS);
/** Three databases are made at once. */
const SERVERS_TIMEOUT_MS = 120_000 * PATIENCE;

const GUESTS = ['one', 'two', 'three'] as const;
type Guest = (typeof GUESTS)[number];
const address4 = (name: Guest): string => `10.9.0.${10 * (1 + GUESTS.indexOf(name))}`;
const address6 = (name: Guest): string => address4(name).replace('10.9.0.', 'fd09::');

const PROGRAMS = ['nginx', 'postgresql', 'redis', 'sshd', 'nodejs', 'curl', 'wrk'] as const;

describe('servers of Debian', { skip: unmet('root', 'overlay', 'network', ...PROGRAMS) }, () => {
  let host: TestNetwork;
  let v: OpenInstance;
  const running: ChildProcess[] = [];

  before(async () => {
    host = await openNetwork();
    v = await openInstance({ under: host.under });
    const keys = join(v.scratch, 'keys');
    mkdirSync(keys);
    chmodSync(v.scratch, 0o755);
    assert.equal(
      spawnSync('ssh-keygen', ['-q', '-t', 'ed25519', '-N', '', '-f', join(keys, 'key')]).status,
      0,
    );
    copyFileSync(join(keys, 'key'), join(v.scratch, 'key'));
    // The guests' root may read it; it opens nothing else.
    chmodSync(join(keys, 'key'), 0o644);
    await Promise.all(
      GUESTS.map(async (name) => {
        await v.ok([
          ...['run', '-d', '--name', name, '--network-interface', 'h0'],
          ...['--ip', `${address4(name)}/24`, '--ip', `${address6(name)}/64`, '-v', `${keys}:/keys:ro`],
          ...['--', 'sh', '-c', SERVERS],
        ]);
        await eventually(
          `servers of ${name}`,
          async () => /^ready$/m.test(await v.ok(['logs', name])) || undefined,
          SERVERS_TIMEOUT_MS,
        );
        await v.ok(['exec', name, 'install', '-m', '600', '/keys/key', '/tmp/key']);
      }),
    );
  });
  after(async () => {
    for (const child of running.splice(0)) child.kill('SIGKILL');
    try {
      await v.close();
    } finally {
      await host.close();
    }
  });

  /** What a client of the host is told. */
  const ask = (service: string, address: string): string =>
    host
      .run('sh', '-c', (CLIENTS[service] ?? '').replace('/tmp/key', join(v.scratch, 'key')), 'sh', address)
      .trim();
  /** What a client in a guest is told, or that it was not. */
  const askFrom = async (name: string, service: string, address: string): Promise<string> => {
    const { code, stdout } = await v.run(['exec', name, 'sh', '-c', CLIENTS[service] ?? '', 'sh', address]);
    return code === 0 ? stdout.trim() : 'refused';
  };
  const each = (name: string): readonly string[] => SERVICES.map((service) => `${service} ${name}`);
  const askAll = async (name: string, address: string): Promise<readonly string[]> =>
    await Promise.all(SERVICES.map((service) => askFrom(name, service, address)));
  const refused = SERVICES.map(() => 'refused');

  test('the host reaches each at the addresses of its guest, in both families', () => {
    for (const name of GUESTS)
      for (const address of [address4(name), address6(name)])
        assert.deepEqual(
          SERVICES.map((service) => ask(service, address)),
          each(name),
          address,
        );
  });

  test('a guest reaches its own at its addresses and at localhost', async () => {
    for (const address of ['localhost', '127.0.0.1', '::1', address4('two'), address6('two')])
      assert.deepEqual(await askAll('two', address), each('two'), address);
  });

  test('guests reach each other where policy allows, at once when it is changed, and nowhere else', async () => {
    const seen = async (): Promise<unknown> => [
      await askAll('one', address4('two')),
      await askAll('two', address6('one')),
      await askAll('one', address4('three')),
      await askAll('three', address6('one')),
    ];
    assert.deepEqual(await seen(), [refused, refused, refused, refused]);
    await v.ok(['set', 'one', 'network.policy.peers=[two]']);
    assert.deepEqual(await seen(), [each('two'), each('one'), refused, refused]);
    const denied = JSON.parse(await v.ok(['denied', 'one', '--json'])) as {
      address: string;
      port: number;
      reason: string;
    }[];
    const ports = denied.filter(({ address, reason }) => address === address4('three') && reason === 'guest');
    assert.deepEqual(
      ports.map(({ port }) => port).sort((a, b) => a - b),
      [22, 80, 3000, 5432, 6379],
    );
    await v.ok(['set', 'one', 'network.policy.peers=[three]']);
    assert.deepEqual(await seen(), [refused, refused, each('three'), each('one')]);
    await v.ok(['set', 'one', 'network.policy.peers=[]']);
    assert.deepEqual(await seen(), [refused, refused, refused, refused]);
  });

  test("the host's own nginx at the wildcard is its own, and no guest's", async () => {
    const conf = join(v.scratch, 'nginx.conf');
    const temporary = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map(
      (kind) => `${kind}_temp_path ${v.scratch}/${kind};`,
    );
    writeFileSync(
      conf,
      `daemon off; pid ${v.scratch}/nginx.pid; error_log stderr; worker_processes 1; events {}
http { access_log off; ${temporary.join(' ')} server { listen 80; listen [::]:80; return 200 "nginx host"; } }`,
    );
    const [program = '', ...rest] = [...host.under, '/usr/sbin/nginx', '-c', conf];
    const server = spawn(program, rest, { stdio: ['ignore', 'ignore', 'inherit'] });
    const ended = once(server, 'exit');
    try {
      await eventually(
        'the server',
        () =>
          spawnSync(program, [...host.under.slice(1), 'curl', '-sf', 'http://10.9.0.1/']).status === 0 ||
          undefined,
      );
      assert.equal(ask('nginx', '10.9.0.1'), 'nginx host');
      assert.equal(ask('nginx', 'fd09::1'), 'nginx host');
      for (const name of GUESTS) assert.equal(ask('nginx', address6(name)), `nginx ${name}`);
      assert.equal(await askFrom('one', 'nginx', '10.9.0.1'), 'nginx host');
      assert.equal(await askFrom('one', 'nginx', '127.0.0.1'), 'nginx one');
    } finally {
      server.kill('SIGTERM');
      await ended;
    }
  });

  test('addresses come and go under load, and no request of the others is lost', async () => {
    await v.ok(['set', 'one', 'network.policy.peers=[two]']);
    /** Lets a program put load on a guest; fails unless it ends well, and returns what it printed. */
    const load = async (child: ChildProcess): Promise<string> => {
      running.push(child);
      assert.ok(child.stdout && child.stderr);
      const [[code], out, err] = await Promise.all([
        once(child, 'close'),
        text(child.stdout),
        text(child.stderr),
      ]);
      assert.equal(code, 0, out + err);
      return out;
    };
    const onHost = (...words: readonly string[]): Promise<string> => {
      const [program = '', ...rest] = [...host.under, ...words];
      return load(spawn(program, rest, { stdio: ['ignore', 'pipe', 'pipe'] }));
    };
    const inGuest = (name: Guest, ...words: readonly string[]): Promise<string> =>
      load(v.spawn(['exec', name, ...words]));
    const [pgbench] = host
      .run('sh', '-c', 'ls /usr/lib/postgresql/*/bin/pgbench')
      .trim()
      .split('\n')
      .slice(-1);
    host.run(pgbench ?? '', '-h', address4('one'), '-U', 'postgres', '-iqn', 'postgres');

    let isOver = false;
    const loads = Promise.all([
      onHost('wrk', '--timeout', '30s', '-t1', '-c40', '-d8', `http://${address4('one')}/`),
      inGuest(
        'two',
        'wrk',
        '--timeout',
        '30s',
        '-t1',
        '-c20',
        '-d8',
        '-H',
        'Connection: close',
        `http://[${address6('one')}]/`,
      ),
      onHost(pgbench ?? '', '-h', address6('one'), '-U', 'postgres', '-SnC', '-c4', '-T8', 'postgres'),
      inGuest('two', 'redis-benchmark', '-h', address4('one'), '-n', '100000', '-t', 'get,set', '--csv'),
    ]).finally(() => {
      isOver = true;
    });
    loads.catch(() => {}); // told below
    let changes = 0;
    while (!isOver || changes < 3) {
      const more = [`10.9.0.${100 + (changes % 50)}`, `fd09::${100 + (changes % 50)}`] as const;
      await v.ok(['set', 'one', ...more.flatMap((one, i) => ['--ip-add', `${one}/${i === 0 ? 24 : 64}`])]);
      for (const one of more) assert.equal(ask('nginx', one), 'nginx one');
      for (const one of more) assert.equal(await askFrom('two', 'redis', one), 'redis one');
      await v.ok(['set', 'one', ...more.flatMap((one) => ['--ip-rm', one])]);
      for (const one of more)
        assert.throws(() =>
          host.run('curl', '-gsS', '-m', '0.3', one.includes(':') ? `http://[${one}]/` : `http://${one}/`),
        );
      changes++;
    }
    const [kept, closed, database, redis] = await loads;
    for (const said of [kept, closed]) {
      assert.match(said ?? '', /[1-9]\d* requests in /);
      assert.doesNotMatch(said ?? '', /Socket errors|Non-2xx/);
    }
    assert.match(database ?? '', /number of failed transactions: 0 /);
    assert.match(redis ?? '', /"GET","[1-9]/);
  });
});
