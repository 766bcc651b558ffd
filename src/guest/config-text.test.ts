import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { parseGuestConfig } from './config.ts';
import { guestConfigJsonSchema } from './config-schema.ts';
import { createConfigText, editConfig } from './config-text.ts';
import type { GuestConfigValues } from './config-types.ts';

const editConfigText = (...edit: Parameters<typeof editConfig>): string => editConfig(...edit).text;

const VALUES: GuestConfigValues = { template: 'busybox', command: ['sh', '-c', 'echo "hi"'] };

describe('create', () => {
  test('writes every key with a comment, and reads the same back', () => {
    const { text } = createConfigText(VALUES, 'web.yaml');
    const { properties } = guestConfigJsonSchema();
    for (const key of Object.keys(Object(properties)))
      assert.match(text, new RegExp(`\n# .+\n(# )?${key}:`), key);
    assert.deepEqual(parseGuestConfig(text, 'web.yaml').command, VALUES.command);
  });

  test('every example is valid when its comment is taken away', () => {
    const { text } = createConfigText(VALUES, 'web.yaml');
    const live = text.split('\n').map((line) => {
      const bare = line.replace(/^# (?=( {2})*(# )?(- )?[\w.]+:( |$)|( {2})+- )/, '');
      return bare.replace(/^( {2})# (?=[a-zA-Z]+: \S+$)/, '$1');
    });
    const config = parseGuestConfig(live.join('\n').replaceAll(/^ *# .*$/gm, ''), 'web.yaml');
    assert.equal(config.xid, 42);
    assert.equal(config.limits.pids, 200);
    assert.equal(config.mounts.length, 2);
  });

  test('strings that YAML could misread survive', () => {
    const env = {
      A: 'true',
      B: '1.10',
      C: '',
      D: '# no',
      E: 'a: b',
      F: 'line\nline\n',
      G: '\'"',
      H: '~',
      I: '0x1',
      J: 'é\u0085',
    };
    const { text } = createConfigText({ ...VALUES, env, labels: { a: 'null' } }, 'x');
    const config = parseGuestConfig(text, 'x');
    assert.deepEqual([config.env, config.labels], [env, { a: 'null' }]);
  });

  test('refuses values that are not valid', () => {
    assert.throws(() => createConfigText({ ...VALUES, xid: 1 }, 'x'), { code: 'invalid-config' });
    assert.throws(() => createConfigText({}, 'x'), { code: 'invalid-config' });
  });
});

describe('edit', () => {
  const MINE = `# mine
template: busybox # keep
command: [sh] # keep too

limits: # all of them
  # about memory
  memory: 1g # much
  pids: 5

env:
  # about A
  A: b
# the end
`;

  test('keeps every comment when a value changes', () => {
    const edited = editConfigText(MINE, [{ path: ['limits', 'memory'], value: '2g' }], 'x');
    assert.equal(edited, MINE.replace('1g', '2g'));
  });

  test('adds keys to their mapping', () => {
    const edited = editConfigText(
      MINE,
      [
        { path: ['limits', 'cpus'], value: 2 },
        { path: ['env', 'C'], value: 'true' },
        { path: ['stop', 'timeout'], value: '3s' },
      ],
      'x',
    );
    const expected = MINE.replace('  pids: 5\n', '  pids: 5\n  cpus: 2\n').replace(
      '  A: b\n',
      '  A: b\n  C: "true"\n',
    );
    assert.equal(edited, `${expected}stop:\n  timeout: 3s\n`);
  });

  test('comments a key out that gets its default back', () => {
    const edited = editConfigText(
      MINE,
      [
        { path: ['limits', 'pids'], value: undefined },
        { path: ['env'], value: undefined },
      ],
      'x',
    );
    assert.ok(edited.includes('  memory: 1g # much\n  # pids: 5\n'));
    assert.ok(edited.includes('# env:\n#   # about A\n#   A: b\n# the end\n'));
    assert.deepEqual(parseGuestConfig(edited, 'x').env, {});
    assert.equal(editConfigText(MINE, [{ path: ['xid'], value: undefined }], 'x'), MINE);
    const emptied = ['memory', 'pids'].map((key) => ({ path: ['limits', key] as const, value: undefined }));
    const none = editConfigText(MINE, emptied, 'x');
    assert.equal(parseGuestConfig(none, 'x').limits.memoryBytes, 'max');
    assert.equal(
      parseGuestConfig(editConfigText(none, [{ path: ['limits', 'pids'], value: 7 }], 'x'), 'x').limits.pids,
      7,
    );
  });

  test('sets what stands commented out in its place', () => {
    const { text } = createConfigText(VALUES, 'x');
    const edited = editConfigText(
      text,
      [
        { path: ['xid'], value: 7 },
        { path: ['stop', 'timeout'], value: '3s' },
        { path: ['limits', 'pids'], value: 9 },
        { path: ['limits', 'memory'], value: '1m' },
        { path: ['labels', 'team'], value: 'web' },
      ],
      'x',
    );
    assert.equal(
      edited,
      createConfigText(
        {
          ...VALUES,
          xid: 7,
          stop: { timeout: '3s' },
          limits: { pids: 9, memory: '1m' },
          labels: { team: 'web' },
        },
        'x',
      ).text,
    );
  });

  test('replaces collections and values of another kind', () => {
    const edited = editConfigText(
      MINE,
      [
        { path: ['command'], value: ['a', 'b'] },
        { path: ['env'], value: { X: 'y' } },
        { path: ['bcaps'], value: ['-NET_RAW'] },
        { path: ['seccomp'], value: 'unconfined' },
        { path: ['seccomp', 'profile'], value: '/p' },
      ],
      'x',
    );
    const config = parseGuestConfig(edited, 'x');
    assert.deepEqual(
      [config.command, config.env, config.seccomp],
      [['a', 'b'], { X: 'y' }, { profile: '/p' }],
    );
    assert.ok(edited.startsWith('# mine\n') && edited.includes('# the end\n'));
  });

  test('works on flow mappings and text without a line feed at its end', () => {
    const flow = 'template: busybox\ncommand: a\nlimits: {pids: 5, memory: 1m} # x';
    const edited = editConfigText(
      flow,
      [
        { path: ['limits', 'pids'], value: undefined },
        { path: ['limits', 'cpus'], value: 1 },
        { path: ['limits', 'memory'], value: '2m' },
        { path: ['xid'], value: 5 },
      ],
      'x',
    );
    const config = parseGuestConfig(edited, 'x');
    assert.deepEqual([config.limits.pids, config.limits.memoryBytes, config.xid], [4096, 2_097_152, 5]);
    assert.ok(edited.includes('} # x\n'));
  });

  test('refuses what would not be valid, before and after', () => {
    assert.throws(() => editConfigText(MINE, [{ path: ['limits', 'pids'], value: 0 }], 'x'), {
      code: 'invalid-config',
    });
    assert.throws(() => editConfigText(MINE, [{ path: ['limist'], value: {} }], 'x'), {
      message: /did you mean "limits"/,
    });
    assert.throws(() => editConfigText(MINE, [{ path: ['command'], value: undefined }], 'x'), {
      code: 'invalid-config',
    });
    assert.throws(() => editConfigText('a: [', [], 'x'), { code: 'invalid-config' });
  });
});
