/** What several operators do with one guest at the same time: one after the other, and none of them finds it half-made. */
import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, test } from 'node:test';
import { cgroupsOf, eventually, type OpenInstance, openInstance } from '../lib/instance.ts';
import { unmet } from '../lib/requires.ts';

/** Makes reading a guest's files take long enough for somebody to come in between. */
const MANY_FILES = 'i=0; while [ $i -lt 500 ]; do echo $i > /root/f$i; i=$((i+1)); done';

describe('several operators at once', { skip: unmet('root', 'overlay') }, () => {
  let v: OpenInstance;
  beforeEach(async () => {
    v = await openInstance();
  });
  // Fails when a process, a cgroup or a mount is left.
  afterEach(() => v.close());

  const createFull = async (name: string): Promise<void> => {
    await v.ok(['create', '--name', name, '--', 'sleep', '1000']);
    await v.ok(['start', name]);
    await v.ok(['exec', name, 'sh', '-c', MANY_FILES]);
  };
  const isFrozen = async (name: string): Promise<boolean> => {
    const [guest] = JSON.parse(await v.ok(['inspect', name, '--json'])) as [{ readonly xid: number }];
    const files = cgroupsOf(v.root).map((path) => join(path, String(guest.xid), 'g/cgroup.freeze'));
    return files.some((path) => existsSync(path) && readFileSync(path, 'utf8') === '1\n');
  };

  test('a guest that is paused while its files are read stays paused', async () => {
    await createFull('a');
    const snapshot = v.ok(['snapshot', 'a']);
    await eventually('its files are read', async () => ((await isFrozen('a')) ? true : undefined));
    await v.ok(['pause', 'a']);
    await snapshot;
    assert.equal(await isFrozen('a'), true);
    const [exec, resume] = await Promise.all([v.run(['exec', 'a', 'true']), v.run(['resume', 'a'])]);
    assert.ok(exec.code === 0 || exec.stderr.includes('found it paused'), exec.stderr);
    assert.equal(resume.code, 0);
    assert.equal(await v.ok(['exec', 'a', 'echo', 'hi']), 'hi\n');
  });

  test('pausing and resuming one do not wait for each other in vain', async () => {
    await v.ok(['create', '--name', 'a', '--', 'sleep', '1000']);
    await v.ok(['start', 'a']);
    const verbs = Array.from({ length: 12 }, (_, i) => (i % 2 === 0 ? 'pause' : 'resume'));
    await Promise.all(verbs.map((verb) => v.ok([verb, 'a'])));
    await v.ok(['resume', 'a']);
    assert.equal(await v.ok(['exec', 'a', 'echo', 'hi']), 'hi\n');
  });

  test('a guest that is paused while it ends is stopped', async () => {
    await v.ok(['create', '--name', 'a', '--', 'sleep', '1000']);
    for (let i = 0; i < 5; i++) {
      await v.ok(['start', 'a']);
      await Promise.all(['pause', 'kill', 'pause', 'resume', 'pause'].map((verb) => v.run([verb, 'a'])));
      await v.ok(['stop', '-t', '0', 'a']);
      assert.match(await v.ok(['list', '-a']), /^a +\d+ +stopped /m);
    }
  });

  test('who wants something of a guest that is deleted hears that there is none', async () => {
    const answers: string[] = [];
    for (let i = 0; i < 5; i++) {
      await v.ok(['create', '--name', 'a', '--', 'sleep', '1000']);
      const words = [
        ['delete', '--force', 'a'],
        ['start', 'a'],
        ['set', 'a', 'limits.pids=100'],
        ['snapshot', 'a'],
        ['start', 'a'],
      ];
      const [deleted, ...others] = await Promise.all(words.map((one) => v.run(one)));
      assert.equal(deleted?.code, 0, deleted?.stderr);
      answers.push(...others.map(({ stderr }) => stderr));
    }
    for (const answer of answers)
      assert.doesNotMatch(answer, /no such file|no configuration file|ESRCH|EBADF/, answer);
  });

  test('a command that comes while its guest ends hears that it has ended', async () => {
    await v.ok(['create', '--name', 'a', '--', 'sleep', '1000']);
    for (let i = 0; i < 5; i++) {
      await v.ok(['start', 'a']);
      const clients = [['kill', 'a'], ...Array.from({ length: 8 }, () => ['exec', 'a', 'true'])];
      for (const { stderr } of await Promise.all(clients.map((one) => v.run(one))))
        assert.doesNotMatch(stderr, /step \d+/, stderr);
      await v.ok(['stop', '-t', '0', 'a']);
    }
  });
});
