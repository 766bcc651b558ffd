import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { HistorySample } from '../resources/history.ts';
import { formatHistories, historiesOf } from './history-table.ts';

function sample(guest: string, at: number, values: Partial<HistorySample>): HistorySample {
  return {
    guest,
    at,
    uptimeSeconds: at,
    cpuUserUs: 0,
    cpuSystemUs: 0,
    residentBytes: 1024 ** 2,
    tasks: 1,
    receivedBytes: null,
    sentBytes: null,
    forks: null,
    ...values,
  };
}

test('what was used between samples, a start in between included', () => {
  const histories = historiesOf([
    sample('a', 100, {
      cpuUserUs: 5e6,
      receivedBytes: 1000,
      sentBytes: 5,
      residentBytes: 7 * 1024 ** 2,
      forks: 10,
    }),
    sample('a', 160, { cpuUserUs: 8e6, receivedBytes: 1500, sentBytes: 5, tasks: 4, forks: 12 }),
    // Another run: what it has counted is its own.
    sample('a', 220, {
      cpuUserUs: 9e6,
      cpuSystemUs: 3e6,
      receivedBytes: 20,
      sentBytes: 30,
      uptimeSeconds: 10,
      forks: 1,
    }),
    sample('b', 220, { cpuUserUs: 1e9 }),
  ]);
  assert.deepEqual(
    histories.map(({ samples, ...rest }) => ({ ...rest, samples: samples.length })),
    [
      {
        name: 'a',
        from: 100,
        to: 220,
        cpuUserUs: 12e6,
        cpuSystemUs: 3e6,
        maxResidentBytes: 7 * 1024 ** 2,
        maxTasks: 4,
        receivedBytes: 520,
        sentBytes: 30,
        forks: 3,
        samples: 3,
      },
      {
        name: 'b',
        from: 220,
        to: 220,
        cpuUserUs: 0,
        cpuSystemUs: 0,
        maxResidentBytes: 1024 ** 2,
        maxTasks: 1,
        receivedBytes: null,
        sentBytes: null,
        forks: null,
        samples: 1,
      },
    ],
  );
  assert.equal(
    formatHistories(histories),
    [
      'NAME  SEEN  %CPU  USER  SYSTEM  MAX RSS  MAX TASKS  FORKS  RECEIVED  SENT',
      'a       2m  12.5  0:12    0:03     7MiB          4      3      520B   30B',
      'b       0s   0.0  0:00    0:00     1MiB          1      -         -     -',
      '',
    ].join('\n'),
  );
});
