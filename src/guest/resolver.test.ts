import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { parseIpPrefix } from '../base/ip.ts';
import { guestHosts, guestResolvConf, hostServers } from './resolver.ts';

test("a guest asks the host's servers, but none on a loopback", () => {
  const directory = mkdtempSync(join(tmpdir(), 'resolver-'));
  const sources = ['own', 'resolved', 'manager'].map((name) => join(directory, name));
  const [own = '', behind = '', further = ''] = sources;
  const isolated = { mode: 'isolated' } as const;
  try {
    assert.match(guestResolvConf(isolated, sources), /^# no server: .*network\.dns\n$/);
    writeFileSync(own, '# mine\nnameserver 127.0.0.53\nsearch example.org\n');
    assert.match(guestResolvConf(isolated, sources), /^# no server/);
    assert.deepEqual(hostServers(sources), []);
    assert.equal(
      guestResolvConf({ mode: 'host' }, sources),
      'nameserver 127.0.0.53\nsearch example.org\n',
      "whose loopback is the host's",
    );
    writeFileSync(further, 'nameserver 10.0.0.3\n');
    assert.equal(guestResolvConf({ mode: 'private' }, sources), 'nameserver 10.0.0.3\n');
    writeFileSync(behind, 'nameserver 10.0.0.1\nnameserver fe80::1%eth0\nsearch example.org\n');
    assert.equal(guestResolvConf(isolated, sources), 'nameserver 10.0.0.1\nsearch example.org\n');
    assert.deepEqual(hostServers(sources), ['10.0.0.1']);
    writeFileSync(
      own,
      'nameserver 127.0.0.53\nnameserver ::1\nnameserver 10.0.0.2\n\n; end\ndomain a.org\noptions edns0\n',
    );
    assert.equal(guestResolvConf(isolated, sources), 'nameserver 10.0.0.2\ndomain a.org\noptions edns0\n');
    const dns = ['192.0.2.53', '2001:db8::53'];
    assert.equal(
      guestResolvConf({ ...isolated, dns, search: ['b.org', 'c.org'] }, sources),
      'nameserver 192.0.2.53\nnameserver 2001:db8::53\nsearch b.org c.org\noptions edns0\n',
    );
    assert.equal(
      guestResolvConf({ mode: 'host', search: [] }, sources),
      'nameserver 127.0.0.53\nnameserver ::1\nnameserver 10.0.0.2\noptions edns0\n',
    );
  } finally {
    rmSync(directory, { recursive: true });
  }
});

test('a guest is found by its name', () => {
  const addresses = ['10.0.0.5/24', 'fd00::5/64'].map(parseIpPrefix);
  assert.match(
    guestHosts('web', undefined, addresses),
    /^127\.0\.0\.1 localhost\n(?:.*\n)*10\.0\.0\.5 web\nfd00::5 web\n$/,
  );
  assert.match(guestHosts('web', 'example.org', addresses), /\n10\.0\.0\.5 web\.example\.org web\n/);
  assert.match(guestHosts('web', 'example.org', []), /\n127\.0\.1\.1 web\.example\.org web\n/);
  assert.match(guestHosts('web', undefined, addresses, { db: '10.0.0.7' }), /web\n10\.0\.0\.7 db\n$/);
});
