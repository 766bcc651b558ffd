import assert from 'node:assert/strict';
import { test } from 'node:test';
import { parseImageConfig } from '../spec/oci-image.ts';
import { valuesOfImage } from './image-values.ts';

const IMAGE = parseImageConfig(
  JSON.stringify({
    config: {
      Entrypoint: ['/entry'],
      Cmd: ['a'],
      Env: ['PATH=/bin', 'EMPTY=', '=x', 'none'],
      WorkingDir: '/srv',
      User: '33:33',
      StopSignal: 'SIGQUIT',
      Labels: { a: 'image', b: 'image' },
      Healthcheck: { Test: ['CMD', '/check'], Interval: 5e9, Timeout: 0, StartPeriod: 1.5e9, Retries: 3 },
    },
  }),
);

test('what the image says is the configuration', () => {
  assert.deepEqual(valuesOfImage(IMAGE, {}), {
    command: ['/entry', 'a'],
    cwd: '/srv',
    user: '33:33',
    env: { PATH: '/bin', EMPTY: '' },
    labels: { a: 'image', b: 'image' },
    stop: { signal: 'SIGQUIT' },
    health: { test: ['/check'], interval: '5s', startPeriod: '1s500ms', retries: 3 },
  });
});

test('what the operator says stands over it; variables and labels add up', () => {
  const own = {
    command: ['/mine'],
    user: 'root',
    env: { PATH: '/x' },
    labels: { b: 'mine' },
    stop: { timeout: '1s' },
    health: { test: ['t'] },
  };
  assert.deepEqual(valuesOfImage(IMAGE, own), {
    command: ['/mine'],
    cwd: '/srv',
    user: 'root',
    env: { PATH: '/x', EMPTY: '' },
    labels: { a: 'image', b: 'mine' },
    stop: { signal: 'SIGQUIT', timeout: '1s' },
    health: { test: ['t'] },
  });
  assert.equal(valuesOfImage(IMAGE, { init: 'own' }).command, undefined);
});

test('an image that says nothing changes nothing', () => {
  assert.deepEqual(valuesOfImage(parseImageConfig('{}'), {}), {});
  const none = parseImageConfig('{"config":{"Healthcheck":{"Test":["NONE"]}}}');
  assert.deepEqual(valuesOfImage(none, {}), {});
});
