import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { parseIpPrefix } from '../base/ip.ts';
import { guestHosts, guestResolvConf } from './resolver.ts';

test("a guest asks the host's servers, but none on a loopback", () => {
  const directory = mkdtempSync(join(tmpdir(), 'resolver-'));
  const [own, behind] = [join(directory, 'own'), join(directory, 'behind')];
  try {
    assert.equal(guestResolvConf(own, behind), '');
    writeFileSync(own, '# mine\nnameserver 127.0.0.53\nsearch example.org\n');
    assert.equal(guestResolvConf(own, behind), '');
    writeFileSync(behind, 'nameserver 10.0.0.1\nsearch example.org\n');
    assert.equal(guestResolvConf(own, behind), 'nameserver 10.0.0.1\nsearch example.org\n');
    writeFileSync(
      own,
      'nameserver 127.0.0.53\nnameserver ::1\nnameserver 10.0.0.2\n\n; end\noptions edns0\n',
    );
    assert.equal(guestResolvConf(own, behind), 'nameserver 10.0.0.2\noptions edns0\n');
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
  assert.doesNotMatch(guestHosts('web', undefined, []), /web/);
});
