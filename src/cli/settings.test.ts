import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { keysForNextStart, parseSetting, parseUnset } from './settings.ts';

describe('settings', () => {
  test('have YAML values', () => {
    const cases: readonly (readonly [string, readonly string[], unknown])[] = [
      ['limits.memory=1g', ['limits', 'memory'], '1g'],
      ['limits.pids=200', ['limits', 'pids'], 200],
      ['limits={pids: 5}', ['limits'], { pids: 5 }],
      ['command=[sh, -c, "a b"]', ['command'], ['sh', '-c', 'a b']],
      ["command=sh -c 'a b'", ['command'], "sh -c 'a b'"],
      ['readonlyRoot=true', ['readonlyRoot'], true],
      ['rlimits.nofile.soft=5', ['rlimits', 'nofile', 'soft'], 5],
      ['hostname="a=b"', ['hostname'], 'a=b'],
    ];
    for (const [text, path, value] of cases) assert.deepEqual(parseSetting(text), { path, value }, text);
  });

  test('of free maps are text, under keys with dots', () => {
    const cases: readonly (readonly [string, readonly string[], unknown])[] = [
      ['env.VERSION=1.10', ['env', 'VERSION'], '1.10'],
      ['env.EMPTY=', ['env', 'EMPTY'], ''],
      ['labels.org.example/team=[x', ['labels', 'org.example/team'], '[x'],
      ['sysctls.kernel.shmmax=5', ['sysctls', 'kernel.shmmax'], '5'],
      ['env={A: b}', ['env'], { A: 'b' }],
    ];
    for (const [text, path, value] of cases) assert.deepEqual(parseSetting(text), { path, value }, text);
    assert.deepEqual(parseUnset('sysctls.net.x.y'), { path: ['sysctls', 'net.x.y'], value: undefined });
  });

  test('that cannot be read are refused', () => {
    for (const text of [
      'a..b=1',
      '.a=1',
      'a.=1',
      '=1',
      'env.=1',
      'hostname=',
      'hostname=  ',
      'x=[1',
      'x=*y',
      'x=!foo 1',
    ]) {
      assert.throws(() => parseSetting(text), { name: 'UserError', code: 'usage' }, text);
    }
    assert.throws(() => parseUnset('limits.'), { code: 'usage' });
  });

  test('but for limits come with the next start', () => {
    const changes = [
      'limits.memory=1g',
      'limits.shm=1m',
      'env.A=b',
      'limits={}',
      'views.load=false',
      'views.vinfo=false',
    ].map(parseSetting);
    assert.deepEqual(keysForNextStart(changes, false, false), ['limits.shm', 'env.A', 'views.vinfo']);
    const disk = ['disk.space=1g', 'disk={space: 1g}'].map(parseSetting);
    assert.deepEqual(keysForNextStart(disk, false, false), ['disk.space', 'disk']);
    assert.deepEqual(keysForNextStart(disk, false, true), []);
  });
});
