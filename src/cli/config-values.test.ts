import assert from 'node:assert/strict';
import { test } from 'node:test';
import { parseGuestConfig } from '../guest/config.ts';
import { createConfigText } from '../guest/config-text.ts';
import type { GuestConfigValues } from '../guest/config-types.ts';
import { configValuesOf, parseEnvFile, resolveEnv } from './config-values.ts';
import { parseCommandLine } from './parse.ts';

function valuesOf(line: string): GuestConfigValues {
  const parsed = parseCommandLine(`create web ${line}`.split(' '));
  assert.ok(parsed.verb === 'create');
  return configValuesOf(
    parsed.options,
    parsed.command,
    resolveEnv([], parsed.options.env, { HOME: '/root' }),
    '/home/me',
  );
}

test('options that are not given are not written', () => {
  assert.deepEqual(valuesOf('--template busybox -- sh'), { template: 'busybox', command: ['sh'] });
});

test('options reach the parsed configuration through the file', () => {
  const values = valuesOf(
    '--template busybox -e HOME -e X=1 -m 64m --cpus 0.5 --cpu-shares 2 --init=none --network host -v /a:/b ' +
      '--tmpfs /t --ulimit core=0 --stop-timeout 90 --security-opt no-new-privileges=false --label a=b -- sh',
  );
  const config = parseGuestConfig(createConfigText(values, 'web.yaml').text, 'web.yaml');
  assert.deepEqual(config.env, { HOME: '/root', X: '1' });
  assert.equal(config.limits.memoryBytes, 67_108_864);
  assert.deepEqual(config.limits.cpus, { quotaUs: 50_000, periodUs: 100_000 });
  assert.equal(config.limits.cpuWeight, 1);
  assert.equal(config.stop.timeoutMs, 90_000);
  assert.equal(config.noNewPrivileges, false);
  assert.deepEqual(config.rlimits, { core: { soft: 0, hard: 0 } });
  assert.deepEqual(
    config.mounts.map((mount) => mount.target),
    ['/b', '/t'],
  );
});

test('dropping ALL leaves what is added, in either order', () => {
  for (const caps of ['--cap-drop ALL --cap-add CHOWN', '--cap-add CHOWN --cap-drop ALL']) {
    assert.deepEqual(valuesOf(`--template t ${caps} -- sh`).bcaps, ['-ALL', '+CHOWN']);
  }
});

test('paths of the host lead from the directory of the caller', () => {
  const templates = ['host', './root', '../base.tar.gz', 'tarball:debian.tar.zst', 'directory:/srv/', '/srv'];
  assert.deepEqual(
    templates.map((template) => valuesOf(`--template ${template} -- sh`).template),
    [
      'host',
      '/home/me/root',
      '/home/base.tar.gz',
      'tarball:/home/me/debian.tar.zst',
      'directory:/srv',
      '/srv',
    ],
  );
  const mounts = valuesOf('-v ./www:/a -v ..:/b --mount source=data,target=/c -v /x/:/d -- sh').mounts ?? [];
  assert.deepEqual(
    mounts.map((mount) => mount.source),
    ['/home/me/www', '/home', '/x', '/home/me/data'],
  );
});

test('env files and options join, the last of equal names wins', () => {
  const env = resolveEnv(['# no\n\nA=1\r\nB="q" \n', 'A=2\nHOME\nNONE'], [{ name: 'B', value: 'b' }], {
    HOME: '/h',
  });
  assert.deepEqual(env, { A: '2', B: 'b', HOME: '/h' });
  assert.deepEqual(parseEnvFile('A=x # y'), [{ name: 'A', value: 'x # y' }]);
  assert.throws(() => parseEnvFile('A=1\n=2'), { code: 'usage', message: /line 2/ });
});
