import assert from 'node:assert/strict';
import { test } from 'node:test';
import { formatResult, type InnerResult, type InnerTest, parseResults } from './results.ts';

const EVENT = {
  file: '/checkout/test/a.test.ts',
  name: 'starts',
  nesting: 0,
  testNumber: 1,
  testId: 1,
  parentId: undefined,
  tags: [],
  details: { duration_ms: 1.6 },
};
const RESULT: InnerResult = {
  file: 'test/a.test.ts',
  name: 'starts',
  nesting: 0,
  outcome: 'pass',
  reason: '',
  durationMs: 2,
  error: null,
};

test('an event becomes a result, a mark its reason', () => {
  assert.deepEqual(formatResult('test:pass', EVENT, '/checkout'), RESULT);
  assert.deepEqual(formatResult('test:pass', { ...EVENT, skip: 'needs fuse' }, '/checkout'), {
    ...RESULT,
    outcome: 'skip',
    reason: 'needs fuse',
  });
  assert.deepEqual(formatResult('test:pass', { ...EVENT, todo: true }, '/checkout'), {
    ...RESULT,
    outcome: 'todo',
  });
});

test('a failure carries the error the test threw', () => {
  const thrown = new Error('no such cgroup');
  const details = { duration_ms: 1.6, error: new Error('wrapped', { cause: thrown }) };
  assert.deepEqual(formatResult('test:fail', { ...EVENT, details }, '/checkout'), {
    ...RESULT,
    outcome: 'fail',
    error: { message: 'no such cgroup', stack: thrown.stack },
  });
});

test('lines become trees: children come before their parent', () => {
  const lines = [
    { ...RESULT, name: 'inner', nesting: 2 },
    { ...RESULT, name: 'left', nesting: 1 },
    { ...RESULT, name: 'right', nesting: 1 },
    { ...RESULT, name: 'top' },
    { ...RESULT, name: 'alone' },
    { ...RESULT, name: 'orphan of a run cut short', nesting: 1 },
  ];
  const text = `${lines.map((line) => JSON.stringify(line)).join('\n')}\n{"file":"test/a.t`;
  const names = (tests: readonly InnerTest[]): unknown =>
    tests.map(({ name, children }) => [name, names(children)]);
  assert.deepEqual(names(parseResults(text).get('test/a.test.ts') ?? []), [
    [
      'top',
      [
        ['left', [['inner', []]]],
        ['right', []],
      ],
    ],
    ['alone', []],
  ]);
});

test('a line that is no result is an error', () => {
  assert.throws(() => parseResults('{"file":"a"}\n'), /cannot read a test result/);
});
